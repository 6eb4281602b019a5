//! The deadlines: met, within the lag that is documented, and none where none is set.

use std::time::Duration;

use crate::support::server::{Case, Client, echo, emptied, in_all_cases, parked};
use crate::support::*;
use millpond_server::{CloseReason, Deadline, Server};
use tokio::time::{Instant, sleep};

in_all_cases!(paused: first_byte, no_first_byte, idle, no_idle, frame, no_frame);
in_all_cases!(paused: a_frame_counts_from_its_first_byte, a_large_frame_counts_from_its_first_byte);
in_all_cases!(paused: frames_at_work_are_not_late, bytes_that_have_just_come_are_not_lost);
in_all_cases!(paused: the_header_of_a_frame_counts);

const LIMIT: Duration = Duration::from_secs(8);
/// Up to an eighth of the shortest deadline, and at most a second; and the tick that runs.
const LAG: Duration = Duration::from_secs(2);

/// Waits until the server closes a connection, and tells when that was.
async fn ends(client: &mut Client) -> Instant {
    let gone = within(20 * LIMIT, client.gone()).await;
    assert_eq!(gone.expect("it is closed some time"), b"");
    Instant::now()
}

/// It was closed for this reason after `LIMIT`, and not much later.
#[track_caller]
fn on_time(case: Case, server: &Server, deadline: Deadline, waited: Duration) {
    assert!(waited >= LIMIT && waited <= LIMIT + LAG, "{case:?}: {waited:?}");
    let status = server.status();
    assert_eq!(
        (status.closed_for(CloseReason::Deadline(deadline)), status.closed),
        (1, 1),
        "{case:?}: {status:?}"
    );
    assert_eq!((status.closed, status.open), (1, 0), "{case:?}: {status:?}");
}

async fn first_byte(case: Case) {
    let server = echo(case.no_deadlines().first_byte_timeout(LIMIT));
    let start = Instant::now();
    let mut client = case.connect(&server).await;
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::FirstByte, waited);
}

async fn no_first_byte(case: Case) {
    let server = echo(case.no_deadlines().frame_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    sleep(100 * LIMIT).await;
    client.ask("late").await;
    drop(client);
    emptied(&server).await;

    // Without a deadline of its own the first byte has that of any other frame.
    let server = echo(case.no_deadlines().idle_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    let start = Instant::now();
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::Idle, waited);
}

async fn idle(case: Case) {
    let server = echo(case.no_deadlines().idle_timeout(LIMIT).first_byte_timeout(LIMIT / 2));
    let mut client = case.connect(&server).await;
    for n in 0..5 {
        client.ask(&format!("{n}")).await;
        sleep(LIMIT - Duration::from_secs(1)).await;
    }
    client.ask("the last").await;
    let start = Instant::now();
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::Idle, waited);
}

async fn no_idle(case: Case) {
    let server = echo(case.no_deadlines().first_byte_timeout(LIMIT).frame_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    client.ask("early").await;
    sleep(100 * LIMIT).await;
    client.ask("late").await;
}

async fn frame(case: Case) {
    let server = echo(case.no_deadlines().frame_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    client.ask("whole").await;
    let start = Instant::now();
    client.send("half").await;
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::Frame, waited);
}

async fn no_frame(case: Case) {
    let server = echo(case.no_deadlines().first_byte_timeout(LIMIT).idle_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    client.send("ha").await;
    sleep(100 * LIMIT).await;
    client.send("lf").await;
    sleep(100 * LIMIT).await;
    client.send("\n").await;
    assert_eq!(client.line().await, "half", "{case:?}");
}

/// Sends a byte each second, until the connection is closed.
async fn trickles(client: &mut Client, byte: &[u8]) -> Instant {
    for _ in 0..100 {
        if client.try_send(byte).await.is_err() || !client.is_silent().await {
            return Instant::now();
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("still open {:?}", client.tcp());
}

async fn a_frame_counts_from_its_first_byte(case: Case) {
    let server = echo(case.no_deadlines().frame_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    let start = Instant::now();
    // The client looks once a second.
    let waited = trickles(&mut client, b"x").await - start - Duration::from_secs(1);
    assert!(waited <= LIMIT + LAG, "{case:?}: {waited:?}");
    on_time(case, &server, Deadline::Frame, waited.max(LIMIT));
}

/// A frame of which each turn of the connection reads a part.
async fn a_large_frame_counts_from_its_first_byte(case: Case) {
    let server = echo(case.no_deadlines().frame_timeout(LIMIT).read_budget_bytes(16));
    let mut client = case.connect(&server).await;
    let start = Instant::now();
    let waited = trickles(&mut client, &[b'x'; 40]).await - start - Duration::from_secs(1);
    assert!(waited <= LIMIT + LAG, "{case:?}: {waited:?}");
    on_time(case, &server, Deadline::Frame, waited.max(LIMIT));
}

/// The codec takes the header, so that no bytes wait: it is part of a frame all the same.
async fn the_header_of_a_frame_counts(case: Case) {
    let codec = tokio_util::codec::LengthDelimitedCodec::new();
    let none = |_| async { Ok::<_, std::convert::Infallible>(None::<bytes::Bytes>) };
    let server = case
        .no_deadlines()
        .frame_timeout(LIMIT)
        .codec(codec)
        .serve(server::service_fn(none))
        .unwrap();
    let mut client = case.connect(&server).await;
    client.send(b"\0\0\0\x04four").await;
    eventually(|| server.status().frames == 1).await;
    let start = Instant::now();
    client.send(b"\0\0\0\x04").await;
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::Frame, waited);
}

/// Each frame is slow, and in time; the next one has begun when it is answered.
async fn frames_at_work_are_not_late(case: Case) {
    let server = echo(case.no_deadlines().frame_timeout(LIMIT).idle_timeout(LIMIT));
    let mut client = case.connect(&server).await;
    client.send("th").await;
    for n in 0..20 {
        sleep(LIMIT - Duration::from_secs(2)).await;
        client.send(format!("e {n}\nth")).await;
        assert_eq!(client.line().await, format!("the {n}"), "{case:?}");
    }
    let start = Instant::now();
    let waited = ends(&mut client).await - start;
    on_time(case, &server, Deadline::Frame, waited);
}

/// A frame arrives each time that the deadline passes. The server must read the socket before it
/// acts on the deadline.
async fn bytes_that_have_just_come_are_not_lost(case: Case) {
    let server = echo(case.no_deadlines().idle_timeout(LIMIT));
    for early in 0..40u32 {
        let mut client = case.connect(&server).await;
        client.ask("one").await;
        parked(&server, 1).await;
        // On the first moment of the tick that finds it idle, or shortly before.
        sleep(LIMIT + Duration::from_millis(1000 - 25 * u64::from(early))).await;
        let sent = client.try_send("two\n").await;
        if sent.is_ok() && server.status().open == 1 {
            assert_eq!(client.line().await, "two", "{case:?}, {early}");
        }
        drop(client);
        emptied(&server).await;
    }
    let status = server.status();
    let ends = status.closed_for(CloseReason::Peer)
        + status.closed_for(CloseReason::Deadline(Deadline::Idle));
    assert_eq!(ends, status.closed, "{case:?}: {status:?}");
}
