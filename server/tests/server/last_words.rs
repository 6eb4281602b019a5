//! What a server says last arrives, also where the peer goes on sending.

use std::time::Duration;

use crate::support::chat::{Chat, thousand};
use crate::support::server::{Case, Client, closed_for, emptied, in_all_cases, in_both_modes};
use crate::support::within;
use millpond_server::{CloseReason, Server};
use tokio::time::{Instant, sleep};

in_all_cases!(single: they_arrive, also_when_it_is_closed_from_elsewhere);
in_all_cases!(paused: a_peer_that_stays_is_left, a_peer_that_goes_on_is_left);
in_both_modes!(paused: a_peer_that_has_gone_is_not_waited_for);

/// Far more than is on its way at once, and no more than the kernel takes.
const ANSWERS: usize = 1000;

/// Reads slowly what was said, and sends more all the time.
async fn hears_all(case: Case, client: &mut Client, last: &str) {
    for n in 0..ANSWERS {
        if n % 10 == 0 {
            let _ = client.try_send("no peer reads this\n").await;
        }
        let line = client.try_line().await;
        let line = line.unwrap_or_else(|error| panic!("{case:?}: {error} after {n} answers"));
        assert_eq!(line.trim_end(), thousand(n), "{case:?}");
    }
    assert_eq!(client.rest_text().await, last, "{case:?}");
}

async fn they_arrive(case: Case) {
    for (fault, last, reason) in [
        (&b"close\n"[..], "bye\n", CloseReason::ClosedByServer),
        (b"fail\n", "", CloseReason::Service),
        (b"\xff\n", "", CloseReason::Codec),
        (&[b'x'; 20_000], "", CloseReason::FrameTooLarge),
    ] {
        let chat = Chat::new();
        let server = chat.serve(case.builder().max_frame_size(1000).send_buffer(4 << 20));
        let mut client = case.connect_narrow(&server).await;
        let many = format!("many {ANSWERS}\n");
        let junk = b"nor this\n".repeat(100);
        client.send([many.as_bytes(), fault, &junk].concat()).await;
        hears_all(case, &mut client, last).await;
        drop(client);
        closed_for(&server, reason, 1).await;
        emptied(&server).await;
        assert_eq!(chat.ends(), [(0, reason)], "{case:?}");
    }
}

async fn also_when_it_is_closed_from_elsewhere(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.builder().send_buffer(4 << 20));
    let mut client = case.connect_narrow(&server).await;
    let peer = chat.came(1).await.pop().unwrap();
    for n in 0..ANSWERS {
        peer.try_send(thousand(n)).unwrap();
    }
    client.send(b"not served any more\n".repeat(100)).await;
    peer.close();
    hears_all(case, &mut client, "").await;
    drop(client);
    closed_for(&server, CloseReason::ClosedByServer, 1).await;
    emptied(&server).await;
}

const LINGERS: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3600);
/// Ticks of up to a second, and the one that runs.
const LAG: Duration = Duration::from_secs(2);

/// A connection that the server closes for a frame that the codec cannot read.
async fn told(case: Case) -> (Chat, Server, Client) {
    let chat = Chat::new();
    let server = chat.serve(case.builder());
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    client.send(b"\xff\n").await;
    let said = within(LINGERS / 2, client.rest()).await;
    assert_eq!(said.expect("the end is told at once"), b"", "{case:?}");
    (chat, server, client)
}

async fn a_peer_that_stays_is_left(case: Case) {
    let start = Instant::now();
    let (chat, server, client) = told(case).await;
    while server.status().open > 0 {
        sleep(Duration::from_millis(50)).await;
        assert!(start.elapsed() <= LINGERS + LAG, "{case:?}: {:?}", server.status());
    }
    assert!(start.elapsed() >= LINGERS, "{case:?}: {:?}", start.elapsed());
    assert_eq!(chat.ends(), [(0, CloseReason::Codec)], "{case:?}");
    drop(client);
    emptied(&server).await;
}

async fn a_peer_that_goes_on_is_left(case: Case) {
    let start = Instant::now();
    let (chat, server, mut client) = told(case).await;
    let frames = server.status().frames;
    while server.status().open > 0 {
        let _ = client.try_send("on and on\n").await;
        sleep(Duration::from_millis(50)).await;
        assert!(start.elapsed() <= LINGERS + LAG, "{case:?}: {:?}", server.status());
    }
    assert!(start.elapsed() >= LINGERS, "{case:?}: {:?}", start.elapsed());
    assert_eq!(server.status().frames, frames, "{case:?}: it was served");
    assert_eq!(chat.ends(), [(0, CloseReason::Codec)], "{case:?}");
}

/// Its end stands behind more bytes than a turn reads. All have come, so the kernel reports nothing more.
async fn a_peer_that_has_gone_is_not_waited_for(case: Case) {
    let server = Chat::new().serve(case.builder().read_budget_bytes(1).linger_timeout(LONG));
    let mut client = case.connect(&server).await;
    client.ask("hello").await;
    client.send([b"\xff\n", &[b'x'; 50_000][..]].concat()).await;
    client.finish().await;
    closed_for(&server, CloseReason::Codec, 1).await;
    emptied(&server).await;
}
