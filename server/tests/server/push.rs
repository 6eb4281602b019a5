//! What handlers send of their own accord, and what becomes of it when the peer does not read.

use std::time::Duration;

use crate::support::chat::{Chat, fill_up, thousand};
use crate::support::server::{
    Case, Client, closed_for, emptied, in_all_cases, in_both_modes, no_time, parked, unchanged,
};
use crate::support::*;
use millpond_server::{CloseReason, Deadline, Server, ServerBuilder, SlowReader, TrySendError};
use tokio::time::{Instant, sleep};

in_all_cases!(double: to_parked_connections_from_elsewhere);
in_all_cases!(single: nobody_reads, slow_readers_are_closed, all_peers_together_have_a_limit);
in_all_cases!(single: to_one_whose_handler_waits, just_before_the_handler_waits);
in_all_cases!(single: what_waits_in_a_turn_counts);
in_all_cases!(paused: a_close_outlives_the_write_deadline, a_handler_that_sends_to_nobody);
in_both_modes!(paused: what_was_taken_before_a_call_counts);

async fn to_parked_connections_from_elsewhere(case: Case) {
    const CONNECTIONS: usize = 50;
    const ROUNDS: usize = 100;
    let chat = Chat::greeting("hello");
    let server = chat.serve(case.narrow_builder());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = case.connect(&server).await;
        assert_eq!(client.line().await, "hello");
        clients.push(client);
    }
    parked(&server, CONNECTIONS).await;
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let peers = chat.peers();
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    for peer in &peers {
                        peer.send(format!("{sender} {round}")).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                // Each sender's frames in order, whatever order the senders have.
                let mut next = [0; 4];
                for _ in 0..4 * ROUNDS {
                    let line = client.line().await;
                    let (sender, round) = line.split_once(' ').unwrap();
                    let next = &mut next[sender.parse::<usize>().unwrap()];
                    assert_eq!(round.parse(), Ok(*next), "{case:?}");
                    *next += 1;
                }
                client.ask("and a question").await;
            })
        })
        .collect();
    for task in senders.into_iter().chain(readers) {
        task.await.unwrap();
    }
    emptied(&server).await;
}

async fn nobody_reads(case: Case) {
    const ROOM: usize = 100_000;
    let chat = Chat::greeting("hello");
    let server = chat.serve(case.narrow_builder().send_buffer(ROOM));
    let mut client = case.connect_narrow(&server).await;
    assert_eq!(client.line().await, "hello");
    let peer = chat.came(1).await.pop().unwrap();
    let sent = fill_up(&peer).await;
    let outgoing = server.status().send_buffered;
    assert!((ROOM..ROOM + 1000).contains(&outgoing), "{case:?}: {outgoing}");
    // Others have theirs.
    let mut other = case.connect(&server).await;
    assert_eq!(other.line().await, "hello");
    other.ask("is there room?").await;
    // A waiting sender goes on once the peer reads.
    let mut waits = Box::pin(peer.send(thousand(sent)));
    assert!(poll(&mut waits).is_pending(), "{case:?}");
    for n in 0..sent {
        assert_eq!(client.line().await, thousand(n), "{case:?}");
    }
    soon(waits).await.unwrap();
    assert_eq!(client.line().await, thousand(sent), "{case:?}");
    client.ask("all there").await;
    drop((client, other));
    emptied(&server).await;
}

async fn slow_readers_are_closed(case: Case) {
    let chat = Chat::greeting("hello");
    let settings = case.narrow_builder().send_buffer(100_000).slow_reader(SlowReader::Close);
    let server = chat.serve(settings);
    let mut client = case.connect_narrow(&server).await;
    assert_eq!(client.line().await, "hello");
    let peer = chat.came(1).await.pop().unwrap();
    let refused = loop {
        match peer.try_send(thousand(0)) {
            Ok(()) => settle().await,
            Err(refused) => break refused,
        }
        assert!(server.status().send_buffered < 102_000, "{case:?}");
    };
    assert!(matches!(&refused, TrySendError::Closed(_)), "{case:?}: {refused:?}");
    assert_eq!(refused.into_frame(), Some(thousand(0)), "{case:?}");
    closed_for(&server, CloseReason::SlowReader, 1).await;
    emptied(&server).await;
    assert_eq!(chat.ends(), [(0, CloseReason::SlowReader)], "{case:?}");
}

async fn all_peers_together_have_a_limit(case: Case) {
    const ALL: usize = 300_000;
    let chat = Chat::new();
    let server = chat.serve(case.builder().send_buffer_total(ALL));
    let mut clients = Vec::new();
    for n in 0..3 {
        let client = case.connect_narrow(&server).await;
        let peer = chat.came(n + 1).await.pop().unwrap();
        let sent = fill_up(&peer).await;
        clients.push((client, peer, sent));
        assert!(server.status().send_buffered <= ALL + 1000, "{case:?}: {:?}", server.status());
    }
    // There is room for the last one when others read.
    let (_client, peer, sent) = clients.pop().unwrap();
    let mut waits = Box::pin(peer.send(thousand(sent)));
    assert!(poll(&mut waits).is_pending(), "{case:?}");
    for (mut client, _, sent) in clients {
        for n in 0..sent {
            assert_eq!(client.line().await, thousand(n), "{case:?}");
        }
    }
    soon(waits).await.unwrap();
}

/// The turn has taken the bytes over, and waits for its handler.
async fn what_waits_in_a_turn_counts(case: Case) {
    const ROOM: usize = 100_000;
    let chat = Chat::new();
    let settings = case.narrow_builder().send_buffer(ROOM).send_buffer_total(3 * ROOM / 2);
    let server = chat.serve(settings);
    let mut client = case.connect_narrow(&server).await;
    client.send("wait\n").await;
    eventually(|| chat.at_work().now() == 1).await;
    let peer = chat.peers().pop().unwrap();
    let sent = fill_up(&peer).await;
    let waiting = server.status().send_buffered;
    assert!((ROOM..ROOM + 1000).contains(&waiting), "{case:?}: {waiting}");
    // Another connection gets what is left of the total.
    let mut other = case.connect_narrow(&server).await;
    let peer = chat.came(2).await.pop().unwrap();
    let more = fill_up(&peer).await;
    let total = server.status().send_buffered;
    assert!((3 * ROOM / 2..3 * ROOM / 2 + 1000).contains(&total), "{case:?}: {total}");
    // Nothing that was accepted is lost at the end of the turn.
    chat.gate().open();
    for (client, sent) in [(&mut client, sent), (&mut other, more)] {
        for n in 0..sent {
            assert_eq!(client.line().await, thousand(n), "{case:?}");
        }
    }
    drop((client, other));
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(CloseReason::SlowReader), 0, "{case:?}: {status:?}");
}

async fn to_one_whose_handler_waits(case: Case) {
    let chat = Chat::greeting("hello");
    let server = chat.serve(case.narrow_builder());
    let mut client = case.connect(&server).await;
    assert_eq!(client.line().await, "hello");
    client.send("one\nwait\ntwo\n").await;
    assert_eq!(client.line().await, "one");
    eventually(|| chat.at_work().now() == 1).await;
    settle().await;
    let peer = chat.peers().pop().unwrap();
    for n in 0..10 {
        peer.send(format!("meanwhile {n}")).await.unwrap();
        assert_eq!(soon(client.line()).await, format!("meanwhile {n}"), "{case:?}");
    }
    chat.gate().open();
    assert_eq!(client.line().await, "two", "{case:?}");
}

/// The frame is sent while the handler is polled: the turn has to write the frame before it waits.
async fn just_before_the_handler_waits(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.narrow_builder());
    let mut client = case.connect(&server).await;
    for n in 0..10 {
        client.send(&format!("thread meanwhile {n}\n")).await;
        assert_eq!(soon(client.line()).await, format!("meanwhile {n}"), "{case:?}");
        chat.gate().pass(1);
        client.ask("and on").await;
    }
}

const LIMIT: Duration = Duration::from_secs(8);

fn with_write_timeout(case: Case, chat: &Chat) -> Server {
    chat.serve(write_timeout(case))
}

fn write_timeout(case: Case) -> ServerBuilder {
    case.narrow_builder()
        .first_byte_timeout(None)
        .idle_timeout(None)
        .frame_timeout(None)
        .write_timeout(LIMIT)
        .send_buffer(4_000_000)
}

/// That the peer has taken some, so that the deadline does not hold, is no reason to forget that
/// it is to be closed, or that the server shuts down.
async fn a_close_outlives_the_write_deadline(case: Case) {
    for shuts_down in [false, true] {
        let chat = Chat::greeting("hello");
        let server = std::sync::Arc::new(with_write_timeout(case, &chat));
        let mut client = case.connect_narrow(&server).await;
        assert_eq!(client.line().await, "hello");
        let peer = chat.came(1).await.pop().unwrap();
        let sent = fill_up(&peer).await;
        let report = shuts_down.then(|| {
            let server = server.clone();
            tokio::spawn(async move { server.shutdown(100 * LIMIT).await })
        });
        if !shuts_down {
            peer.close();
        }
        let all = 1000 * sent;
        let mut taken = 0;
        // So little that only the look at the deadline finds the room.
        for _ in 0..3 {
            let start = Instant::now();
            while start.elapsed() < LIMIT {
                taken += no_time(client.read_exact(20_000)).await.len();
                sleep(Duration::from_secs(1)).await;
            }
        }
        assert_eq!(server.status().open, 1, "{case:?}: {:?}", server.status());
        assert_eq!(no_time(client.rest()).await.len(), all - taken, "{case:?}");
        let status = emptied(&server).await;
        let reason = if shuts_down { CloseReason::Shutdown } else { CloseReason::ClosedByServer };
        assert_eq!(status.closed_for(reason), 1, "{case:?}: {status:?}");
        if let Some(report) = report {
            assert_eq!(report.await.unwrap().closed, 1, "{case:?}");
        }
    }
}

/// It waits for room, in a turn and with a slot: the peer's deadline must run all the same.
async fn a_handler_that_sends_to_nobody(case: Case) {
    let chat = Chat::new();
    let server = with_write_timeout(case, &chat);
    let mut client = case.connect_narrow(&server).await;
    client.send("many 6000\n").await;
    eventually(|| chat.at_work().now() == 1).await;
    unchanged(|| server.status().send_buffered).await;
    let start = Instant::now();
    while server.status().open > 0 {
        sleep(Duration::from_millis(100)).await;
        assert!(start.elapsed() < 3 * LIMIT, "{case:?}: {:?}", server.status());
    }
    let waited = start.elapsed();
    // Asked once more, the kernel may take a little, of which it had not told.
    assert!(
        waited >= LIMIT && waited <= 2 * LIMIT + Duration::from_secs(2),
        "{case:?}: {waited:?}"
    );
    let status = emptied(&server).await;
    assert_eq!(
        status.closed_for(CloseReason::Deadline(Deadline::Write)),
        1,
        "{case:?}: {status:?}"
    );
    assert_eq!(chat.at_work().now(), 0, "{case:?}");

    // One that reads slowly is not cut off.
    let mut client = case.connect_narrow(&server).await;
    client.send("many 10000\n").await;
    for _ in 0..30 {
        no_time(client.read_exact(100_000)).await;
        sleep(LIMIT / 4).await;
    }
    no_time(client.read_exact(10_000_000 - 30 * 100_000)).await;
    client.ask("and then").await;
}

/// The look at the write deadline finds room for all, and the turn goes on to a handler that waits. What the
/// peer has taken before keeps the connection open.
async fn what_was_taken_before_a_call_counts(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(write_timeout(case).read_budget_frames(2));
    let mut client = case.connect_narrow(&server).await;
    let mut sent = 0;
    // Until the kernel does not take all. A turn ends behind two frames, and the third one is saved.
    loop {
        client.send("1\nmany 20\nwait\n").await;
        sent += 20_002;
        unchanged(|| (server.status().bytes_out, chat.at_work().now())).await;
        if chat.at_work().now() == 0 {
            break;
        }
        chat.gate().pass(1);
        parked(&server, 1).await;
    }
    let start = Instant::now();
    // So little that only the look at the deadline finds the room.
    let (waits, taken) = (server.status().send_buffered, 30_000);
    no_time(client.read_exact(taken)).await;
    while chat.at_work().now() == 0 {
        sleep(Duration::from_millis(100)).await;
        let is_open = server.status().open == 1;
        assert!(is_open && start.elapsed() < 2 * LIMIT, "{case:?}: {waits}");
    }
    assert!(start.elapsed() >= LIMIT, "{case:?}: {waits}, {:?}", start.elapsed());
    chat.gate().open();
    settle().await;
    let rest = sent - taken;
    assert_eq!(no_time(client.read_exact(rest)).await.len(), rest);
    client.ask("still there").await;
}
