//! Frames are answered in order, however their bytes arrive, and however many there are.

use std::convert::Infallible;

use crate::support;
use crate::support::server::{Case, accounted, emptied, in_all_cases, parked};
use crate::support::*;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::codec::{LengthDelimitedCodec, LinesCodec};

in_all_cases!(single: lines_in_random_splits, lengths_in_random_splits, many_answers_and_none);
in_all_cases!(single: a_partial_frame_is_kept, half_close, the_last_line_has_no_end);
in_all_cases!(double: many_connections_at_once);

/// Sends `bytes` in random pieces, in some of which the server finds no more than half a frame.
async fn in_pieces(client: &mut support::server::Client, bytes: &[u8], dice: &mut Dice) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if dice.below(4) == 0 { 2000 } else { 12 };
        let (piece, after) = rest.split_at((1 + dice.below(most) as usize).min(rest.len()));
        client.send(piece).await;
        if dice.below(3) == 0 {
            settle().await;
        }
        rest = after;
    }
}

async fn lines_in_random_splits(case: Case) {
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let server = case.echo();
        let mut client = case.connect(&server).await;
        for round in 0..10 {
            let lines: Vec<String> = (0..1 + dice.below(30))
                .map(|n| format!("{round}.{n}:{}", "x".repeat(dice.below(200) as usize)))
                .collect();
            in_pieces(&mut client, (lines.join("\n") + "\n").as_bytes(), &mut dice).await;
            for line in &lines {
                assert_eq!(&client.line().await, line, "{case:?}, seed {seed}");
            }
        }
        parked(&server, 1).await;
        drop(client);
        emptied(&server).await;
    }
}

async fn lengths_in_random_splits(case: Case) {
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let echo = |frame: BytesMut| async move { Ok::<_, Infallible>(Some(frame.freeze())) };
        let server = case
            .builder()
            .codec(LengthDelimitedCodec::new())
            .serve(server::service_fn(echo))
            .unwrap();
        let mut client = case.connect(&server).await;
        let (mut bytes, mut frames) = (BytesMut::new(), 0);
        for _ in 0..200 {
            let most = if dice.below(8) == 0 { 5000 } else { 20 };
            let length = dice.below(most) as u32;
            bytes.put_u32(length);
            (0..length).for_each(|_| bytes.put_u8(dice.below(256) as u8));
            frames += 1;
        }
        in_pieces(&mut client, &bytes, &mut dice).await;
        assert_eq!(client.read_exact(bytes.len()).await, bytes, "{case:?}, seed {seed}");
        parked(&server, 1).await;
        let status = accounted(&server);
        assert_eq!(status.frames, frames, "{case:?}, seed {seed}");
        assert_eq!(status.bytes_in, bytes.len() as u64, "{case:?}, seed {seed}");
        assert_eq!(status.bytes_out, bytes.len() as u64, "{case:?}, seed {seed}");
    }
}

/// As many answers as the line says.
async fn count_down(line: String) -> Result<Vec<String>, Infallible> {
    let count: usize = line.parse().unwrap();
    Ok((0..count).rev().map(|n| format!("{line}-{n}")).collect())
}

async fn many_answers_and_none(case: Case) {
    let server =
        case.builder().codec(LinesCodec::new()).serve(server::service_fn(count_down)).unwrap();
    let mut client = case.connect(&server).await;
    client.send("0\n3\n0\n0\n2000\n1\n0\n").await;
    for count in [3, 2000, 1] {
        for n in (0..count).rev() {
            assert_eq!(client.line().await, format!("{count}-{n}"), "{case:?}");
        }
    }
    parked(&server, 1).await;
    assert!(client.is_silent().await, "{case:?}: an answer without a handler");

    let none = |_: String| async { Ok::<_, Infallible>(None::<String>) };
    let server = case.builder().codec(LinesCodec::new()).serve(server::service_fn(none)).unwrap();
    let mut client = case.connect(&server).await;
    client.send("one\ntwo\n").await;
    eventually(|| server.status().frames == 2).await;
    parked(&server, 1).await;
    assert!(client.is_silent().await, "{case:?}: an answer without a handler");
}

async fn a_partial_frame_is_kept(case: Case) {
    let server = case.echo();
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = case.connect(&server).await;
        client.send(format!("whole {n}\nthe first half of {n}")).await;
        assert_eq!(client.line().await, format!("whole {n}"));
        clients.push(client);
    }
    parked(&server, 20).await;
    let read: usize = (0..20).map(|n| format!("whole {n}\nthe first half of {n}").len()).sum();
    let status = accounted(&server);
    assert_eq!((status.frames, status.bytes_in), (20, read as u64), "{case:?}");
    // Others come and go meanwhile, and the buffers with them.
    for n in 0..50 {
        let mut other = case.connect(&server).await;
        other.ask(&format!("{n} in between")).await;
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(b", and").await;
        eventually(|| server.status().bytes_in >= read as u64 + 5 * (n as u64 + 1)).await;
        assert!(client.is_silent().await, "{case:?}: half a frame was answered");
    }
    parked(&server, 20).await;
    for (n, client) in clients.iter_mut().enumerate().rev() {
        client.send(b" the other\nnext\n").await;
        assert_eq!(client.line().await, format!("the first half of {n}, and the other"));
        assert_eq!(client.line().await, "next");
    }
    drop(clients);
    emptied(&server).await;
}

async fn half_close(case: Case) {
    let server = case.echo();
    let mut client = case.connect(&server).await;
    let lines: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let sent = lines.clone();
    // All of it before anything is read, and the end at once.
    client.send(sent).await;
    client.finish().await;
    assert_eq!(client.rest_text().await, lines, "{case:?}");
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(millpond_server::CloseReason::Peer), 1, "{status:?}");
    // Nothing was sent, nothing is answered.
    let mut client = case.connect(&server).await;
    client.finish().await;
    assert_eq!(client.rest().await, b"", "{case:?}");
    emptied(&server).await;
}

async fn the_last_line_has_no_end(case: Case) {
    let server = case.echo();
    for parks in [false, true] {
        let mut client = case.connect(&server).await;
        client.send("one\ntwo").await;
        if parks {
            assert_eq!(client.line().await, "one");
            parked(&server, 1).await;
        }
        client.finish().await;
        let rest = if parks { "two\n" } else { "one\ntwo\n" };
        assert_eq!(client.rest_text().await, rest, "{case:?}");
        emptied(&server).await;
    }
    // A codec that knows no such thing takes it as an error, and answers what was whole.
    let echo = |frame: BytesMut| async move { Ok::<Option<Bytes>, Infallible>(Some(frame.into())) };
    let server =
        case.builder().codec(LengthDelimitedCodec::new()).serve(server::service_fn(echo)).unwrap();
    let mut client = case.connect(&server).await;
    client.send(b"\0\0\0\x01x\0\0\0\x05half").await;
    assert_eq!(client.read_exact(5).await, b"\0\0\0\x01x");
    client.finish().await;
    client.gone().await;
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(millpond_server::CloseReason::Codec), 1, "{status:?}");
}

async fn many_connections_at_once(case: Case) {
    let server = std::sync::Arc::new(case.echo());
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut client = case.connect(&server).await;
                let mut dice = Dice::new(n);
                for round in 0..20 {
                    let lines: Vec<_> =
                        (0..1 + dice.below(20)).map(|line| format!("{n}/{round}/{line}")).collect();
                    client.send(lines.join("\n") + "\n").await;
                    for line in lines {
                        assert_eq!(client.line().await, line, "{case:?}");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let status = emptied(&server).await;
    assert_eq!((status.accepted, status.closed), (50, 50), "{status:?}");
}
