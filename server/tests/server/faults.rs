//! Peers and services that do wrong cost their own connection, and nothing else.

use std::convert::Infallible;
use std::io;

use crate::support::server::{Case, Client, accounted, closed_for, echo, emptied, in_all_cases};
use crate::support::*;
use bytes::{Bytes, BytesMut};
use millpond_server::{CloseReason, Server, ServerBuilder};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec, LinesCodec};

in_all_cases!(single: a_frame_that_is_too_large, a_frame_that_is_too_large_for_its_codec);
in_all_cases!(single: a_frame_that_its_codec_takes_in_parts);
in_all_cases!(single: frames_that_no_codec_reads, an_answer_that_no_codec_writes);
in_all_cases!(single: a_service_that_panics_or_fails, a_service_that_is_never_ready);
in_all_cases!(single: answers_before_a_fault_are_given, codecs_that_panic, a_service_that_waits);

/// Has one connection after another do wrong, while one that does no wrong is served.
async fn wrongs(case: Case, server: &Server, wrong: &[&[u8]], reason: CloseReason) {
    let mut good = case.connect(server).await;
    for (count, bytes) in wrong.iter().enumerate() {
        let mut bad = case.connect(server).await;
        bad.ask("well so far").await;
        let _ = bad.try_send(bytes).await;
        bad.gone().await;
        drop(bad);
        closed_for(server, reason, count as u64 + 1).await;
        good.ask("still there").await;
        assert_eq!(accounted(server).open, 1, "{case:?}");
    }
    drop(good);
    let status = emptied(server).await;
    let expected = (wrong.len() as u64, wrong.len() as u64 + 1);
    assert_eq!((status.closed_for(reason), status.closed), expected, "{case:?}: {status:?}");
}

async fn a_frame_that_is_too_large(case: Case) {
    let server = echo(case.builder().max_frame_size(65)); // with its end
    let mut client = case.connect(&server).await;
    client.send([b'x'; 64]).await;
    eventually(|| server.status().bytes_in == 64).await;
    client.send("\n").await;
    assert_eq!(client.line().await.len(), 64, "{case:?}");
    drop(client);
    emptied(&server).await;

    let server = echo(case.builder().max_frame_size(64));
    let (large, vast) = ([b'x'; 65], [b'x'; 100_000]);
    // Also one that comes whole, in one read.
    let whole = [&large[..], b"\n"].concat();
    wrongs(case, &server, &[&large, &vast, &whole], CloseReason::FrameTooLarge).await;
}

async fn a_frame_that_is_too_large_for_its_codec(case: Case) {
    let service = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    let codec = LinesCodec::new_with_max_length(64);
    let server = case.builder().codec(codec).serve(server::service_fn(service)).unwrap();
    let (large, whole) = ([b'x'; 65], [&[b'x'; 65][..], b"\n"].concat());
    wrongs(case, &server, &[&large, &whole], CloseReason::Codec).await;
}

/// Takes each byte at once, also of a line that is not whole.
#[derive(Clone, Default)]
struct Greedy(BytesMut);

impl Decoder for Greedy {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<String>> {
        while !input.is_empty() {
            let byte = input.split_to(1);
            if byte[0] == b'\n' {
                let line = self.0.split();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            self.0.extend_from_slice(&byte);
        }
        Ok(None)
    }
}

impl Encoder<String> for Greedy {
    type Error = io::Error;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> io::Result<()> {
        output.extend_from_slice(format!("{line}\n").as_bytes());
        Ok(())
    }
}

/// What the codec holds counts, turn after turn.
async fn a_frame_that_its_codec_takes_in_parts(case: Case) {
    let service = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    let builder = case.builder().max_frame_size(65).codec(Greedy::default());
    let server = builder.serve(server::service_fn(service)).unwrap();
    let mut client = case.connect(&server).await;
    for line in 0..3u64 {
        for part in 1..=2 {
            client.send([b'x'; 32]).await;
            eventually(|| server.status().bytes_in == 65 * line + 32 * part).await;
        }
        client.send("\n").await;
        assert_eq!(client.line().await.len(), 64, "{case:?}");
    }
    for part in 1..=2 {
        client.send([b'x'; 33]).await;
        eventually(|| server.status().bytes_in == 65 * 3 + 33 * part).await;
    }
    client.gone().await;
    closed_for(&server, CloseReason::FrameTooLarge, 1).await;
    emptied(&server).await;
}

async fn frames_that_no_codec_reads(case: Case) {
    let server = case.echo();
    wrongs(case, &server, &[b"\xff\xfe\n", b"\xc3\x28\nmore\n"], CloseReason::Codec).await;
}

async fn an_answer_that_no_codec_writes(case: Case) {
    let double = |frame: BytesMut| async move {
        Ok::<_, Infallible>(Some(Bytes::from([&frame[..], &frame].concat())))
    };
    let codec = LengthDelimitedCodec::builder().max_frame_length(8).new_codec();
    let server = case.builder().codec(codec).serve(server::service_fn(double)).unwrap();
    let mut client = case.connect(&server).await;
    client.send(b"\0\0\0\x04four").await;
    assert_eq!(client.read_exact(12).await, b"\0\0\0\x08fourfour");
    client.send(b"\0\0\0\x05fives").await;
    assert_eq!(client.gone().await, b"", "{case:?}: half an answer");
    drop(client);
    closed_for(&server, CloseReason::Codec, 1).await;
    emptied(&server).await;
}

/// Panics, fails or answers, as the line says.
fn moody(builder: ServerBuilder) -> Server {
    let service = |line: String| {
        if line == "panic in call" {
            silent_panic("in call");
        }
        async move {
            match &*line {
                "panic" => silent_panic("in the future"),
                "panic late" => {
                    tokio::task::yield_now().await;
                    silent_panic("after a wait");
                }
                "fail" => Err(io::Error::other("it fails")),
                _ => Ok(Some(line)),
            }
        }
    };
    builder.codec(LinesCodec::new()).serve(server::service_fn(service)).unwrap()
}

async fn a_service_that_panics_or_fails(case: Case) {
    let pool = millpond::Pool::builder().size(4).build().unwrap();
    for builder in [case.builder(), case.builder().pool(&pool)] {
        let server = moody(builder);
        let panics: [&[u8]; 3] = [b"panic\n", b"panic in call\nmore\n", b"panic late\n"];
        wrongs(case, &server, &panics, CloseReason::Panicked).await;
        let status = server.status();
        assert_eq!(status.closed_for(CloseReason::Panicked), 3, "{case:?}");
        let server = moody(case.builder().pool(&pool));
        wrongs(case, &server, &[b"fail\n", b"fail\nmore\n"], CloseReason::Service).await;
    }
    whole(&pool).await;
}

#[derive(Clone)]
struct NeverReady;

impl tower::Service<String> for NeverReady {
    type Response = Option<String>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Option<String>>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::Error::other("never ready")))
    }

    fn call(&mut self, _: String) -> Self::Future {
        unreachable!("it was not ready")
    }
}

async fn a_service_that_is_never_ready(case: Case) {
    let server = case.builder().codec(LinesCodec::new()).serve(NeverReady).unwrap();
    let mut client = case.connect(&server).await;
    client.send("line\n").await;
    assert_eq!(client.gone().await, b"");
    drop(client);
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(CloseReason::Service), 1, "{case:?}: {status:?}");
}

/// However the bytes arrive: what was served before is not lost with what was not.
async fn answers_before_a_fault_are_given(case: Case) {
    for (fault, reason) in [
        (&b"\xff\xff\n"[..], CloseReason::Codec),
        (b"fail\n", CloseReason::Service),
        (&[b'x'; 2000], CloseReason::FrameTooLarge),
    ] {
        let server = moody(case.builder().max_frame_size(1000));
        let mut client = case.connect(&server).await;
        client.send([b"one\ntwo\nthree\n", fault].concat()).await;
        assert_eq!(client.gone().await, b"one\ntwo\nthree\n", "{case:?}: {reason:?}");
        drop(client);
        closed_for(&server, reason, 1).await;
        emptied(&server).await;
    }
}

/// Lines, but for those with a panic in them.
#[derive(Clone)]
struct Explosive(LinesCodec);

impl Decoder for Explosive {
    type Item = String;
    type Error = tokio_util::codec::LinesCodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<String>, Self::Error> {
        let line = self.0.decode(input)?;
        if line.as_deref() == Some("decode") {
            silent_panic("while decoding");
        }
        Ok(line)
    }
}

impl Encoder<String> for Explosive {
    type Error = tokio_util::codec::LinesCodecError;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> Result<(), Self::Error> {
        if line == "encode" {
            silent_panic("while encoding");
        }
        self.0.encode(line, output)
    }
}

async fn codecs_that_panic(case: Case) {
    let service = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    let codec = Explosive(LinesCodec::new());
    let server = case.builder().codec(codec).serve(server::service_fn(service)).unwrap();
    wrongs(case, &server, &[b"decode\n", b"encode\n"], CloseReason::Panicked).await;
}

async fn a_service_that_waits(case: Case) {
    let (gate, gauge) = (Gate::new(), Gauge::default());
    let service = {
        let (gate, gauge) = (gate.clone(), gauge.clone());
        server::service_fn(move |line: String| {
            let (gate, gauge) = (gate.clone(), gauge.clone());
            async move {
                if line.starts_with("wait") {
                    let _inside = gauge.enter();
                    gate.wait().await;
                }
                Ok::<_, Infallible>(Some(line))
            }
        })
    };
    let server = case.builder().codec(LinesCodec::new()).serve(service).unwrap();
    let mut waiting: Vec<Client> = Vec::new();
    for n in 0..20 {
        let mut client = case.connect(&server).await;
        client.send(format!("before {n}\nwait {n}\nafter {n}\n")).await;
        waiting.push(client);
    }
    eventually(|| gauge.now() == 20).await;
    let mut good = case.connect(&server).await;
    for n in 0..20 {
        good.ask(&format!("{n}")).await;
    }
    gate.open();
    for (n, client) in waiting.iter_mut().enumerate() {
        for when in ["before", "wait", "after"] {
            assert_eq!(client.line().await, format!("{when} {n}"), "{case:?}");
        }
    }
    assert_eq!(gauge.peak(), 20);
}
