//! Handlers: they are told of every beginning and every end, and may send in between.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::chat::{Chat, fill_up, thousand};
use crate::support::server::{BoxError, Case, Client, accounted, closed_for, emptied};
use crate::support::server::{in_all_cases, parked};
use crate::support::*;
use millpond::Pool;
use millpond_server::{Address, CloseReason, Connection, Deadline, Handler, SendError, Server};
use millpond_server::{SlowReader, TrySendError};
use tokio_util::codec::LinesCodec;

in_all_cases!(single: greets_and_keeps_state, more_than_there_is_room_for, close_flushes_first);
in_all_cases!(single: every_end_is_told_once, the_end_of_the_server_is_told_once);
in_all_cases!(single: an_opening_that_fails, after_the_end, users_code_that_panics_elsewhere);
in_all_cases!(paused: deadlines_are_told_once);
in_all_cases!(double: shutdown_waits_for_what_is_told);

async fn greets_and_keeps_state(case: Case) {
    let chat = Chat::greeting("hello");
    let server = chat.serve(case.builder());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = case.connect(&server).await;
        // Without a word of the client.
        assert_eq!(client.line().await, "hello", "{case:?}");
        clients.push(client);
    }
    parked(&server, 20).await;
    for (n, client) in clients.iter_mut().enumerate() {
        for frame in 0..n {
            client.ask(&format!("{frame}")).await;
        }
    }
    for (n, peer) in chat.peers().iter().enumerate() {
        assert_eq!(peer.state().frames.load(SeqCst), n, "{case:?}");
        let address = clients[n].tcp().local_addr().unwrap();
        assert_eq!(peer.address(), Address::Tcp(address), "{case:?}");
    }
    drop(clients);
    emptied(&server).await;
    eventually(|| chat.ends().len() == 20).await;
}

/// Its own turn has to write what it sends.
async fn more_than_there_is_room_for(case: Case) {
    for greeting in [true, false] {
        let chat = if greeting { Chat::greeting("many 2000") } else { Chat::new() };
        let pool = Pool::builder().size(1).build().unwrap();
        let server = chat.serve(case.builder().send_buffer(2000).pool(&pool));
        let mut client = case.connect(&server).await;
        if !greeting {
            client.send("many 2000\n").await;
        }
        for n in 0..2000 {
            assert_eq!(client.line().await, thousand(n), "{case:?}");
        }
        client.ask("and then").await;
        drop(client);
        emptied(&server).await;
        whole(&pool).await;
    }
}

async fn close_flushes_first(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.narrow_builder().send_buffer(10 << 20));
    // From within.
    let mut client = case.connect(&server).await;
    client.send("one\nmany 3000\nclose\nis not served\n").await;
    assert_eq!(client.line().await, "one");
    for n in 0..3000 {
        assert_eq!(client.line().await, thousand(n), "{case:?}");
    }
    assert_eq!(client.rest().await, b"bye\n", "{case:?}");
    drop(client);
    closed_for(&server, CloseReason::ClosedByServer, 1).await;
    // From elsewhere, to a peer that is slow.
    let mut client = case.connect_narrow(&server).await;
    let peer = chat.came(2).await.pop().unwrap();
    for n in 0..8000 {
        peer.try_send(thousand(n)).unwrap();
    }
    peer.close();
    settle().await;
    for n in 0..8000 {
        assert_eq!(client.line().await, thousand(n), "{case:?}");
    }
    assert_eq!(client.rest().await, b"", "{case:?}");
    drop(client);
    closed_for(&server, CloseReason::ClosedByServer, 2).await;
    emptied(&server).await;
}

/// Waits for one more end, which must be this one.
async fn told(case: Case, chat: &Chat, before: usize, reason: CloseReason) {
    eventually(|| chat.ends().len() > before).await;
    settle().await;
    let ends = chat.ends();
    assert_eq!(ends.len(), before + 1, "{case:?}: {ends:?}");
    let numbers: std::collections::HashSet<_> = ends.iter().map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), ends.len(), "{case:?}: {ends:?}");
    assert_eq!(ends[before].1, reason, "{case:?}: {ends:?}");
}

async fn every_end_is_told_once(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.builder().max_frame_size(1000));
    let mut before = 0;
    for (said, reason) in [
        (&b"close\n"[..], CloseReason::ClosedByServer),
        (b"panic\n", CloseReason::Panicked),
        (b"fail\n", CloseReason::Service),
        (b"\xff\n", CloseReason::Codec),
        (&[b'x'; 2000], CloseReason::FrameTooLarge),
    ] {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        client.send(said).await;
        client.gone().await;
        drop(client);
        told(case, &chat, before, reason).await;
        before += 1;
    }
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    client.finish().await;
    client.rest().await;
    told(case, &chat, before, CloseReason::Peer).await;

    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    client.reset();
    told(case, &chat, before + 1, CloseReason::Io).await;
    emptied(&server).await;

    let server = chat.serve(case.narrow_builder().send_buffer(1000).slow_reader(SlowReader::Close));
    let mut client = case.connect_narrow(&server).await;
    client.ask("hello").await;
    let peer = chat.peers().pop().unwrap();
    while peer.try_send(thousand(0)).is_ok() {
        settle().await;
    }
    told(case, &chat, before + 2, CloseReason::SlowReader).await;

    let pool = Pool::builder().size(1).build().unwrap();
    let server = chat.serve(case.builder().pool(&pool));
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    pool.close();
    client.send("closed?\n").await;
    assert_eq!(client.gone().await, b"");
    told(case, &chat, before + 3, CloseReason::PoolClosed).await;
}

async fn deadlines_are_told_once(case: Case) {
    let chat = Chat::new();
    let second = Duration::from_secs(1);
    let server = chat.serve(
        case.narrow_builder()
            .first_byte_timeout(second)
            .idle_timeout(2 * second)
            .frame_timeout(3 * second)
            .write_timeout(4 * second),
    );
    let mut client = case.connect(&server).await;
    client.gone().await;
    told(case, &chat, 0, CloseReason::Deadline(Deadline::FirstByte)).await;

    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    client.gone().await;
    told(case, &chat, 1, CloseReason::Deadline(Deadline::Idle)).await;

    let mut client = case.connect(&server).await;
    client.send("hello\nhal").await;
    client.gone().await;
    told(case, &chat, 2, CloseReason::Deadline(Deadline::Frame)).await;

    let mut client = case.connect_narrow(&server).await;
    client.ask("hello").await;
    let peer = chat.peers().pop().unwrap();
    fill_up(&peer).await;
    // The kernel may find a little more room when it is asked the first time.
    tokio::time::sleep(12 * second).await;
    told(case, &chat, 3, CloseReason::Deadline(Deadline::Write)).await;
}

async fn the_end_of_the_server_is_told_once(case: Case) {
    for drops in [false, true] {
        let chat = Chat::new();
        let server = chat.serve(case.builder());
        let mut clients: Vec<Client> = Vec::new();
        for said in ["idle\n", "part\nof it", "wait\n"] {
            let mut client = case.connect(&server).await;
            client.send(said).await;
            if said != "wait\n" {
                client.line().await;
            }
            clients.push(client);
        }
        eventually(|| chat.at_work().now() == 1).await;
        if drops {
            drop(server);
        } else {
            let report = server.shutdown(Duration::from_millis(50)).await;
            assert_eq!((report.closed, report.aborted, report.still_open), (1, 2, 0), "{case:?}");
            emptied(&server).await;
        }
        eventually(|| chat.ends().len() == 3).await;
        settle().await;
        let mut ends = chat.ends();
        ends.sort_by_key(|(number, _)| *number);
        let idle = if drops { CloseReason::Aborted } else { CloseReason::Shutdown };
        let expected = [(0, idle), (1, CloseReason::Aborted), (2, CloseReason::Aborted)];
        assert_eq!(ends, expected, "{case:?}, dropped: {drops}");
        assert_eq!(chat.at_work().now(), 0, "{case:?}: cut off, and still there");
        for client in &mut clients {
            client.gone().await;
        }
    }
}

async fn an_opening_that_fails(case: Case) {
    for (greeting, reason) in [
        ("panic", CloseReason::Panicked),
        ("fail", CloseReason::Service),
        ("close", CloseReason::ClosedByServer),
    ] {
        let chat = Chat::greeting(greeting);
        let server = chat.serve(case.builder());
        let mut client = case.connect(&server).await;
        let said = client.gone().await;
        assert_eq!(said, if greeting == "close" { &b"bye\n"[..] } else { b"" }, "{case:?}");
        drop(client);
        told(case, &chat, 0, reason).await;
        emptied(&server).await;
    }
    // One that waits has not served anything when it goes on.
    let chat = Chat::greeting("wait");
    let server = chat.serve(case.builder());
    let mut client = case.connect(&server).await;
    client.send("one\ntwo\n").await;
    chat.came(1).await;
    assert!(client.is_silent().await, "{case:?}: a frame before `on_open` has ended");
    chat.gate().open();
    assert_eq!(client.line().await, "one");
    assert_eq!(client.line().await, "two");
}

async fn after_the_end(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.builder());
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    let peer = chat.came(1).await.pop().unwrap();
    assert!(!peer.is_closed());
    drop(client);
    eventually(|| peer.is_closed()).await;
    match peer.try_send("late".to_owned()) {
        Err(TrySendError::Closed(line)) => assert_eq!(line, "late"),
        other => panic!("{case:?}: {other:?}"),
    }
    match soon(peer.send("late".to_owned())).await {
        Err(SendError::Closed(line)) => assert_eq!(line, "late"),
        other => panic!("{case:?}: {other:?}"),
    }
    peer.close();
    settle().await;
    // The record belongs to another connection now, which must stay open.
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    peer.close();
    let _ = peer.try_send("late".to_owned());
    client.ask("and again").await;
    assert_eq!(chat.ends(), [(0, CloseReason::Peer)], "{case:?}");
}

/// Panics in `Default` for every other connection, and whenever it is told of an end.
struct Clumsy;

#[derive(Debug)]
struct Slippery;

thread_local! {
    static SLIPS: Cell<usize> = const { Cell::new(0) };
}

impl Default for Slippery {
    fn default() -> Self {
        if SLIPS.replace(SLIPS.get() + 1) % 2 == 1 {
            silent_panic("in the state's default");
        }
        Self
    }
}

impl Handler for Clumsy {
    type In = String;
    type Out = String;
    type State = Slippery;

    async fn on_frame(
        &self,
        peer: &Connection<String, Slippery>,
        line: String,
    ) -> Result<(), BoxError> {
        Ok(peer.send(line).await?)
    }

    fn on_close(&self, _: &Connection<String, Slippery>, _: CloseReason) {
        silent_panic("while it is told of the end");
    }
}

async fn users_code_that_panics_elsewhere(case: Case) {
    let server = case.builder().codec(LinesCodec::new()).handle(Clumsy).unwrap();
    let mut served = 0;
    for _ in 0..10 {
        let Ok(mut client) = case.try_connect(&server).await else { continue };
        let _ = client.try_send("hello\n").await;
        served += usize::from(client.read_some(6).await.is_ok_and(|count| count == 6));
    }
    assert_eq!(served, 5, "{case:?}");
    let status = emptied(&server).await;
    assert_eq!(status.accepted, 10, "{case:?}: {status:?}");
    assert_eq!(status.closed_for(CloseReason::Panicked), 5, "{case:?}: {status:?}");
}

/// Tells of the end after a while.
struct Slow(Arc<std::sync::atomic::AtomicUsize>);

impl Handler for Slow {
    type In = String;
    type Out = String;
    type State = ();

    async fn on_frame(&self, peer: &Connection<String>, line: String) -> Result<(), BoxError> {
        Ok(peer.send(line).await?)
    }

    fn on_close(&self, _: &Connection<String>, _: CloseReason) {
        std::thread::sleep(Duration::from_millis(50));
        self.0.fetch_add(1, SeqCst);
    }
}

async fn shutdown_waits_for_what_is_told(case: Case) {
    let told = Arc::default();
    let handler = Slow(Arc::clone(&told));
    let server: Server = case.builder().codec(LinesCodec::new()).handle(handler).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    let report = server.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.closed, report.still_open), (4, 0), "{case:?}: {report:?}");
    assert_eq!(told.load(SeqCst), 4, "{case:?}: ends that no handler was told of");
    accounted(&server);
}
