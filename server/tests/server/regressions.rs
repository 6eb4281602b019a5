//! What once went wrong, and is not to again.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support;
use crate::support::server::{Case, closed_for, emptied, in_all_cases, in_both_modes};
use crate::support::silent_panic;
use bytes::BytesMut;
use millpond::Pool;
use millpond_server::{BoxError, CloseReason, Connection, Handler, Server, StartError};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::codec::{Decoder, Encoder, LinesCodec};

in_all_cases!(single: frames_inside_of_a_codec, answers_before_a_panic, closed_in_on_open);
in_all_cases!(double: floods_do_not_shut_out_others, room_is_heard_of_while_the_pool_is_full);
in_all_cases!(paused: one_that_only_listens_stays);
in_both_modes!(single: a_flood_outlives_no_deadline, a_flood_of_frames_expires_nothing);

/// Gives a line for each `x` of a message that ends by a newline.
#[derive(Clone, Default)]
struct Batches(usize);

impl Decoder for Batches {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<String>> {
        if self.0 == 0 {
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
            self.0 = input.split_to(end + 1).len() - 1;
        }
        self.0 -= 1;
        Ok(Some("x".into()))
    }
}

impl Encoder<String> for Batches {
    type Error = io::Error;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> io::Result<()> {
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\n");
        Ok(())
    }
}

/// More of them than a turn has frames: nothing is left in the input, and yet there is more.
async fn frames_inside_of_a_codec(case: Case) {
    let echo = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    let builder = case.builder().read_budget_frames(10).codec(Batches::default());
    let server = builder.serve(support::server::service_fn(echo)).unwrap();
    let mut client = case.connect(&server).await;
    client.send([&[b'x'; 1000][..], b"\n"].concat()).await;
    for _ in 0..1000 {
        assert_eq!(client.line().await, "x", "{case:?}");
    }
}

async fn answers_before_a_panic(case: Case) {
    let service = |line: String| async move {
        if line == "panic" {
            silent_panic("here");
        }
        Ok::<_, Infallible>(Some(line))
    };
    let server = case
        .builder()
        .codec(LinesCodec::new())
        .serve(support::server::service_fn(service))
        .unwrap();
    let mut client = case.connect(&server).await;
    client.send("a\nb\npanic\nc\n").await;
    assert_eq!((client.line().await, client.line().await), ("a".into(), "b".into()), "{case:?}");
    closed_for(&server, CloseReason::Panicked, 1).await;
    emptied(&server).await;
}

#[derive(Default)]
struct Shy {
    frames: Arc<AtomicUsize>,
}

impl Handler for Shy {
    type In = String;
    type Out = String;
    type State = ();

    async fn on_open(&self, peer: &Connection<String>) -> Result<(), BoxError> {
        peer.send("bye".into()).await?;
        // The client's bytes are at hand by then.
        sleep(Duration::from_millis(20)).await;
        peer.close();
        assert!(peer.try_send("too late".into()).is_err());
        Ok(())
    }

    async fn on_frame(&self, _peer: &Connection<String>, _frame: String) -> Result<(), BoxError> {
        self.frames.fetch_add(1, SeqCst);
        Ok(())
    }
}

async fn closed_in_on_open(case: Case) {
    let handler = Arc::new(Shy::default());
    let server = case.builder().codec(LinesCodec::new()).handle(handler.clone()).unwrap();
    let mut client = case.connect(&server).await;
    client.send("one\ntwo\n").await;
    assert_eq!(client.rest_text().await, "bye\n", "{case:?}");
    closed_for(&server, CloseReason::ClosedByServer, 1).await;
    assert_eq!(handler.frames.load(SeqCst), 0, "{case:?}");
}

/// More connections that always have more to say than there are slots: first come, first served.
async fn floods_do_not_shut_out_others(case: Case) {
    let pool = Pool::new(1);
    let answer = |line: String| async move {
        Ok::<_, Infallible>((line == "question").then(|| "answer".to_owned()))
    };
    let builder = case.builder().pool(&pool).read_budget_frames(8).codec(LinesCodec::new());
    let server = builder.serve(support::server::service_fn(answer)).unwrap();
    let mut floods = JoinSet::new();
    for _ in 0..32 {
        let mut client = case.connect(&server).await;
        floods.spawn(async move {
            let lines = "x\n".repeat(4096);
            loop {
                client.send(&lines).await;
            }
        });
    }
    let mut client = case.connect(&server).await;
    for _ in 0..20 {
        client.send("question\n").await;
        assert_eq!(client.line().await, "answer", "{case:?}");
    }
    floods.shutdown().await;
}

struct Talker;

impl Handler for Talker {
    type In = String;
    type Out = String;
    type State = ();

    async fn on_frame(&self, peer: &Connection<String>, _frame: String) -> Result<(), BoxError> {
        for _ in 0..200 {
            peer.send("x".repeat(50_000)).await?;
        }
        Ok(())
    }
}

/// A turn holds the only slot and waits for its peer to take what it sends, while another
/// connection waits for that slot.
async fn room_is_heard_of_while_the_pool_is_full(case: Case) {
    let pool = Pool::new(1);
    let builder = case.builder().pool(&pool).send_buffer(10_000).write_timeout(None);
    let server = builder.codec(LinesCodec::new()).handle(Talker).unwrap();
    let mut client = case.connect(&server).await;
    client.send("go\n").await;
    support::eventually(|| pool.status().running == 1).await;
    let _other = tokio::spawn({
        let address = server.local_addrs()[0];
        async move { tokio::net::TcpStream::connect(address).await.unwrap() }
    });
    for _ in 0..200 {
        assert_eq!(client.line().await.len(), 50_000, "{case:?}");
    }
}

struct Ticker;

impl Handler for Ticker {
    type In = String;
    type Out = String;
    type State = ();

    async fn on_open(&self, peer: &Connection<String>) -> Result<(), BoxError> {
        let peer = peer.clone();
        tokio::spawn(async move {
            while peer.send("tick".into()).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(())
    }

    async fn on_frame(&self, _peer: &Connection<String>, _frame: String) -> Result<(), BoxError> {
        Ok(())
    }
}

async fn one_that_only_listens_stays(case: Case) {
    let builder = case.builder().first_byte_timeout(Duration::from_secs(5));
    let server = builder.idle_timeout(Duration::from_secs(5)).codec(LinesCodec::new());
    let server = server.handle(Ticker).unwrap();
    let mut client = case.connect(&server).await;
    for _ in 0..100 {
        assert_eq!(client.line().await, "tick", "{case:?}");
    }
}

/// It always has another turn, and so is never at rest when the clock looks.
async fn a_flood_outlives_no_deadline(case: Case) {
    let second = Duration::from_secs(1);
    let builder =
        case.builder().frame_timeout(second).max_frame_size(usize::MAX).read_budget_bytes(1024);
    let server = support::server::echo(builder);
    let address = server.local_addrs()[0];
    // One line without an end, faster than it is read.
    let flood = std::thread::spawn(move || {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        while client.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    });
    let deadline = CloseReason::Deadline(millpond_server::Deadline::Frame);
    closed_for(&server, deadline, 1).await;
    flood.join().unwrap();
}

/// Each line takes many turns, and has the deadline for itself.
async fn a_flood_of_frames_expires_nothing(case: Case) {
    let timeout = Duration::from_millis(400);
    let builder = case.builder().frame_timeout(timeout).read_budget_bytes(1024);
    let server = support::server::echo(builder);
    let address = server.local_addrs()[0];
    let flood = std::thread::spawn(move || {
        let line = [&[b'x'; 8 * 1024][..], b"\n"].concat();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let mut answers = client.try_clone().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        let (mut sent, begun) = (0, std::time::Instant::now());
        while begun.elapsed() < 3 * timeout {
            client.write_all(&line).unwrap();
            sent += line.len() as u64;
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        (sent, reader.join().unwrap().unwrap())
    });
    closed_for(&server, CloseReason::Peer, 1).await;
    let (sent, answered) = flood.join().unwrap();
    assert_eq!(answered, sent, "{case:?}");
}

#[test]
fn a_file_is_not_taken_for_a_socket() {
    support::single(async {
        let path = std::env::temp_dir().join(format!("millpond-file-{}", std::process::id()));
        std::fs::write(&path, "precious").unwrap();
        let echo = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
        let listen = format!("unix:{}", path.display());
        let server = Server::builder().listen(listen).codec(LinesCodec::new());
        let started = server.serve(support::server::service_fn(echo));
        let kept = std::fs::read_to_string(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(started, Err(StartError::Listen { .. })), "{started:?}");
        assert_eq!(kept.unwrap(), "precious");
    });
}
