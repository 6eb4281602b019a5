//! Servers end: gently, so that nothing that was sent is lost, or at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::support::server::{Case, Client, echo, emptied, in_all_cases, no_time, parked};
use crate::support::*;
use millpond::Pool;
use millpond_server::{CloseReason, Server, ServerBuilder};
use tokio::time::{Instant, sleep};
use tokio_util::codec::{LengthDelimitedCodec, LinesCodec};
use tokio_util::sync::CancellationToken;

in_all_cases!(single: what_was_sent_before_is_answered, idle_ones_are_closed_at_once);
in_all_cases!(single: dropped_it_closes_all, a_handler_that_waits_for_ever, a_pool_that_stays_full);
in_all_cases!(paused: parts_of_frames_have_time, a_header_has_time, waits_for_its_token);
in_all_cases!(paused: answers_that_wait_have_time);
in_all_cases!(double: under_load);

const SECOND: Duration = Duration::from_secs(1);

/// Answers by itself, but for a line that says to wait.
fn patient(builder: ServerBuilder, gate: &Gate, gauge: &Gauge) -> Server {
    let (gate, gauge) = (gate.clone(), gauge.clone());
    let service = server::service_fn(move |line: String| {
        let (gate, gauge) = (gate.clone(), gauge.clone());
        async move {
            if line == "wait" {
                let _inside = gauge.enter();
                gate.wait().await;
            }
            Ok::<_, Infallible>(Some(line))
        }
    });
    builder.codec(LinesCodec::new()).serve(service).unwrap()
}

async fn what_was_sent_before_is_answered(case: Case) {
    for round in 0..20 {
        let server = case.echo();
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..10 {
            let mut client = case.connect(&server).await;
            client.ask("hello").await;
            clients.push(client);
        }
        let lines: String = (0..round).map(|n| format!("line {n}\n")).collect();
        for client in &mut clients {
            // No event has told the server of these bytes yet.
            client.send(&lines).await;
        }
        let report = server.shutdown(5 * SECOND).await;
        assert_eq!(
            (report.closed, report.aborted, report.still_open),
            (10, 0, 0),
            "{case:?}: {report:?}"
        );
        for client in &mut clients {
            assert_eq!(client.rest_text().await, lines, "{case:?}");
        }
        assert_eq!(server.status().frames, 10 * (round + 1), "{case:?}");
    }
}

async fn idle_ones_are_closed_at_once(case: Case) {
    let server = case.echo();
    let mut clients = Vec::new();
    for n in 0..50 {
        let mut client = case.connect(&server).await;
        if n % 2 == 0 {
            client.ask("hello").await;
        }
        clients.push(client);
    }
    let address = server.local_addrs()[0];
    let report = soon(server.shutdown(Duration::from_secs(600))).await;
    assert_eq!((report.closed, report.others, report.aborted, report.still_open), (50, 0, 0, 0));
    for mut client in clients {
        assert_eq!(client.rest().await, b"", "{case:?}");
    }
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(CloseReason::Shutdown), 50, "{case:?}: {status:?}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{case:?}: it listens");
    // Once more is once too often, and does no harm.
    let report = server.shutdown(SECOND).await;
    assert_eq!((report.closed, report.aborted, report.still_open), (0, 0, 0), "{case:?}");
}

async fn parts_of_frames_have_time(case: Case) {
    let server = Arc::new(echo(case.builder().frame_timeout(None)));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = case.connect(&server).await;
        client.send("whole\npart").await;
        assert_eq!(client.line().await, "whole");
        clients.push(client);
    }
    parked(&server, 3).await;
    let start = Instant::now();
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(20 * SECOND).await }
    });
    sleep(10 * SECOND).await;
    clients[0].send(" and the rest\nanother").await;
    assert_eq!(clients[0].line().await, "part and the rest");
    clients[1].send(" and the rest\n").await;
    assert_eq!(clients[1].rest_text().await, "part and the rest\n", "{case:?}");
    assert_eq!(start.elapsed().as_secs(), 10, "{case:?}");

    let report = shutdown.await.unwrap();
    assert_eq!(
        (report.closed, report.aborted, report.still_open),
        (1, 2, 0),
        "{case:?}: {report:?}"
    );
    assert_eq!(start.elapsed().as_secs(), 20, "{case:?}");
    for mut client in clients {
        client.gone().await;
    }
}

async fn a_header_has_time(case: Case) {
    let echo = |frame: bytes::BytesMut| async { Ok::<_, Infallible>(Some(frame.freeze())) };
    let codec = LengthDelimitedCodec::new();
    let server = case.builder().frame_timeout(None).codec(codec);
    let server = Arc::new(server.serve(server::service_fn(echo)).unwrap());
    let mut client = case.connect(&server).await;
    client.send(b"\0\0\0\x04").await;
    eventually(|| server.status().bytes_in == 4).await;
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(20 * SECOND).await }
    });
    sleep(10 * SECOND).await;
    client.send(b"four").await;
    assert_eq!(client.rest().await, b"\0\0\0\x04four", "{case:?}");
    assert_eq!(shutdown.await.unwrap().closed, 1, "{case:?}");
}

async fn answers_that_wait_have_time(case: Case) {
    const LARGE: usize = 8 * 1024 * 1024;
    let large = |_: String| async { Ok::<_, Infallible>(Some("x".repeat(LARGE))) };
    let server =
        case.narrow_builder().codec(LinesCodec::new()).serve(server::service_fn(large)).unwrap();
    let server = Arc::new(server);
    let mut client = case.connect_narrow(&server).await;
    client.send("more\nmore\n").await;
    eventually(|| server.status().send_buffered > 0).await;
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(20 * SECOND).await }
    });
    sleep(10 * SECOND).await;
    assert_eq!(no_time(client.rest()).await.len(), 2 * (LARGE + 1), "{case:?}");
    let report = shutdown.await.unwrap();
    assert_eq!(
        (report.closed, report.aborted, report.still_open),
        (1, 0, 0),
        "{case:?}: {report:?}"
    );
}

async fn a_handler_that_waits_for_ever(case: Case) {
    let pool = Pool::builder().size(10).build().unwrap();
    for builder in [case.builder(), case.builder().pool(&pool)] {
        let (gate, gauge) = (Gate::new(), Gauge::default());
        let server = patient(builder, &gate, &gauge);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = case.connect(&server).await;
            client.send("before\nwait\nafter\n").await;
            clients.push(client);
        }
        eventually(|| gauge.now() == 5).await;
        let report = soon(server.shutdown(Duration::from_millis(50))).await;
        assert_eq!(
            (report.closed, report.aborted, report.still_open),
            (0, 5, 0),
            "{case:?}: {report:?}"
        );
        assert_eq!(gauge.now(), 0, "{case:?}: cut off, and still there");
        emptied(&server).await;
        for mut client in clients {
            let said = client.gone().await;
            assert!(said.is_empty() || said == b"before\n", "{case:?}: {said:?}");
        }
    }
    whole(&pool).await;
}

/// Connections that wait for a slot are cut off like others.
async fn a_pool_that_stays_full(case: Case) {
    for drops in [false, true] {
        let pool = Pool::builder().size(1).build().unwrap();
        let held = fill(&pool);
        let server = echo(case.builder().pool(&pool));
        let mut clients = Vec::new();
        for _ in 0..5 {
            let tcp = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap();
            if !case.tls {
                let mut client = case.secure(tcp).await.unwrap();
                client.send("hello\n").await;
                clients.push(client);
            }
        }
        eventually(|| server.status().open == clients.len().max(5)).await;
        settle().await;
        if drops {
            drop(server);
        } else {
            let report = soon(server.shutdown(Duration::from_millis(50))).await;
            assert_eq!(report.still_open, 0, "{case:?}: {report:?}");
            assert_eq!(report.closed + report.aborted, 5 - clients_gone(&server), "{case:?}");
            emptied(&server).await;
        }
        for client in &mut clients {
            assert_eq!(soon(client.gone()).await, b"", "{case:?}, dropped: {drops}");
        }
        release(held).await;
        whole(&pool).await;
    }
}

/// Ended by their clients.
fn clients_gone(server: &Server) -> u64 {
    let status = server.status();
    status.closed_for(CloseReason::Tls) + status.closed_for(CloseReason::Peer)
}

async fn dropped_it_closes_all(case: Case) {
    let (gate, gauge) = (Gate::new(), Gauge::default());
    let server = patient(case.builder(), &gate, &gauge);
    let mut clients = Vec::new();
    for said in ["hello\n", "wait\n", "part"] {
        let mut client = case.connect(&server).await;
        client.send(said).await;
        clients.push(client);
    }
    eventually(|| gauge.now() == 1 && server.status().frames >= 1).await;
    let address = server.local_addrs()[0];
    drop(server);
    for client in &mut clients {
        soon(client.gone()).await;
    }
    eventually(|| gauge.now() == 0).await;
    eventually(|| std::net::TcpStream::connect(address).is_err()).await;
}

async fn waits_for_its_token(case: Case) {
    let token = CancellationToken::new();
    let builder = case.builder().shutdown_token(token.clone()).drain_timeout(20 * SECOND);
    let server = Arc::new(echo(builder.frame_timeout(None)));
    let mut idle = case.connect(&server).await;
    idle.ask("hello").await;
    let mut partial = case.connect(&server).await;
    partial.send("part").await;
    eventually(|| server.status().bytes_in == 10).await;
    let waits = tokio::spawn({
        let server = server.clone();
        async move { server.wait().await }
    });
    sleep(10 * SECOND).await;
    idle.ask("still there").await;
    assert!(!waits.is_finished());
    let start = Instant::now();
    token.cancel();
    assert_eq!(idle.rest().await, b"", "{case:?}");
    assert_eq!(start.elapsed().as_secs(), 0, "{case:?}");
    let report = waits.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 20, "{case:?}");
    assert_eq!(
        (report.closed, report.aborted, report.still_open),
        (1, 1, 0),
        "{case:?}: {report:?}"
    );
    partial.gone().await;
}

/// Each client has the answers to all it has sent before, whole and in order, up to the end.
async fn under_load(case: Case) {
    let server = Arc::new(case.echo());
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut client = case.connect(&server).await;
                for n in 0.. {
                    if client.try_send(format!("{n}\n")).await.is_err() {
                        return n;
                    }
                    let answer = match client.try_line().await {
                        Ok(answer) => answer,
                        Err(_) => return n,
                    };
                    // Nothing at all, or a whole line.
                    if answer.is_empty() {
                        return n;
                    }
                    assert_eq!(answer, format!("{n}\n"), "{case:?}");
                }
                unreachable!()
            })
        })
        .collect();
    eventually(|| server.status().frames > 2000).await;
    let report = server.shutdown(10 * SECOND).await;
    assert_eq!((report.aborted, report.still_open), (0, 0), "{case:?}: {report:?}");
    assert_eq!(report.closed + report.others, 20, "{case:?}: {report:?}");
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap() as u64;
    }
    let status = emptied(&server).await;
    assert_eq!(status.frames, answered, "{case:?}: a frame was served and not answered");
}
