//! Peers that do not read cost a bounded amount of memory, and delay no other connection.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::server::unchanged;
use crate::support::server::{Case, Client, accounted, closed_for, emptied, in_all_cases, no_time};
use crate::support::*;
use millpond_server::{CloseReason, Deadline, Server, ServerBuilder, SlowReader};
use tokio::time::{Instant, sleep};
use tokio_util::codec::LinesCodec;

in_all_cases!(single: memory_is_bounded_and_nothing_lost, slow_readers_are_closed);
in_all_cases!(single: all_peers_together_have_a_limit);
in_all_cases!(paused: the_write_deadline, a_peer_that_takes_a_little_is_not_late);
in_all_cases!(paused: no_write_deadline);

/// What a line is answered with.
const ANSWER: usize = 64 * 1024;
/// Five answers fill a connection.
const REQUESTS: usize = 24;

fn answer(number: &str) -> String {
    let mut answer = format!("{number}:");
    answer.extend(std::iter::repeat_n('x', ANSWER - answer.len()));
    answer
}

/// More than the kernel takes for one connection.
const HUGE: usize = 8 * 1024 * 1024;

/// Answers each line with more than a peer that does not read has room for.
fn huge(builder: ServerBuilder) -> Server {
    let service = |_: String| async { Ok::<_, Infallible>(Some("x".repeat(HUGE))) };
    builder.codec(LinesCodec::new()).serve(server::service_fn(service)).unwrap()
}

fn verbose(builder: ServerBuilder) -> Server {
    let service = |line: String| async move { Ok::<_, Infallible>(Some(answer(&line))) };
    builder.codec(LinesCodec::new()).serve(server::service_fn(service)).unwrap()
}

/// Sends all requests of a connection and reads nothing.
async fn deaf(case: Case, server: &Server) -> Client {
    deaf_after(case, server, 0).await
}

/// The same, but the client asks some questions before and reads their answers.
async fn deaf_after(case: Case, server: &Server, asked: usize) -> Client {
    let mut client = case.connect_narrow(server).await;
    for n in 0..asked {
        client.send(format!("{n}\n")).await;
        assert_eq!(no_time(client.line()).await, answer(&n.to_string()));
    }
    let requests: String = (0..REQUESTS).map(|n| format!("{n}\n")).collect();
    client.send(requests).await;
    stuck(server).await;
    client
}

/// Waits until nothing more goes out. A TLS session takes some of what waits, so that alone tells
/// nothing.
async fn stuck(server: &Server) {
    eventually(|| server.status().bytes_out > 0).await;
    unchanged(|| (server.status().bytes_out, server.status().parked)).await;
    eventually(|| server.status().parked == server.status().open).await;
}

async fn memory_is_bounded_and_nothing_lost(case: Case) {
    const DEAF: usize = 5;
    let server = verbose(case.narrow_builder().send_buffer(ANSWER));
    let mut clients = Vec::new();
    for _ in 0..DEAF {
        clients.push(deaf(case, &server).await);
    }
    // Others are served, and what waits for the deaf ones does not grow.
    let mut other = case.connect(&server).await;
    for n in 0..20 {
        other.send(format!("{n}\n")).await;
        assert_eq!(other.line().await, answer(&n.to_string()));
        let status = accounted(&server);
        assert!(status.send_buffered <= DEAF * 2 * (ANSWER + 1), "{case:?}: {status:?}");
        let served = status.frames as usize - n - 1;
        assert!(served < DEAF * REQUESTS, "{case:?}: all was answered, into what?");
    }
    for mut client in clients {
        for n in 0..REQUESTS {
            assert_eq!(client.line().await, answer(&n.to_string()), "{case:?}");
        }
    }
    drop(other);
    emptied(&server).await;
}

async fn slow_readers_are_closed(case: Case) {
    let server = huge(case.narrow_builder().send_buffer(1024).slow_reader(SlowReader::Close));
    let mut clients = Vec::new();
    for count in 1..4 {
        let mut client = case.connect_narrow(&server).await;
        client.send("more\n").await;
        closed_for(&server, CloseReason::SlowReader, count).await;
        clients.push(client);
    }
    let status = emptied(&server).await;
    assert_eq!(status.closed, 3, "{case:?}: {status:?}");
    // What is waited for is another thing than what is large.
    let server = verbose(case.narrow_builder().slow_reader(SlowReader::Close));
    let mut client = case.connect(&server).await;
    for n in 0..20 {
        client.send(format!("{n}\n")).await;
        assert_eq!(client.line().await, answer(&n.to_string()), "{case:?}");
    }
}

async fn all_peers_together_have_a_limit(case: Case) {
    let server = huge(case.narrow_builder().send_buffer_total(2 * HUGE));
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = case.connect_narrow(&server).await;
        client.send("more\n").await;
        clients.push(client);
    }
    eventually(|| server.status().closed_for(CloseReason::SlowReader) > 0).await;
    stuck(&server).await;
    let status = accounted(&server);
    assert!(status.send_buffered <= 2 * HUGE, "{case:?}: {status:?}");
    assert!(status.open > 0, "{case:?}: {status:?}");
    drop(clients);
    emptied(&server).await;
}

const LIMIT: Duration = Duration::from_secs(8);
/// Ticks of a second, and one that has begun.
const LAG: Duration = Duration::from_secs(2);

fn with_write_timeout(case: Case, limit: impl Into<Option<Duration>>) -> ServerBuilder {
    case.narrow_builder()
        .first_byte_timeout(None)
        .handshake_timeout(None)
        .frame_timeout(None)
        .idle_timeout(None)
        .write_timeout(limit)
}

async fn the_write_deadline(case: Case) {
    meets_the_write_deadline(case, 0).await;
}

/// The client asks some questions before it reads no more.
pub async fn meets_the_write_deadline(case: Case, asked: usize) {
    let server = verbose(with_write_timeout(case, LIMIT));
    let client = deaf_after(case, &server, asked).await;
    settle().await;
    let begin = Instant::now();
    let (mut start, mut sent) = (begin, server.status().bytes_out);
    while server.status().open > 0 {
        sleep(Duration::from_millis(100)).await;
        // Asked once more before the close, the kernel may have a little room left.
        if server.status().bytes_out > sent {
            (start, sent) = (Instant::now(), server.status().bytes_out);
        }
        assert!(begin.elapsed() < 3 * LIMIT, "{case:?}: {:?}", server.status());
    }
    let waited = start.elapsed() + Duration::from_millis(100);
    // What the kernel takes of a TLS session's own bytes shows in no count. The deadline then begins
    // anew, with a lag of its own.
    let unseen = if case.tls { LIMIT + LAG } else { Duration::ZERO };
    assert!(waited >= LIMIT && waited <= LIMIT + LAG + unseen, "{case:?}: {waited:?}");
    let status = emptied(&server).await;
    assert_eq!(
        status.closed_for(CloseReason::Deadline(Deadline::Write)),
        1,
        "{case:?}: {status:?}"
    );
    drop(client);
}

/// Far less than what has the kernel tell the server of room, so only the server's own look at the
/// deadline finds out.
async fn a_peer_that_takes_a_little_is_not_late(case: Case) {
    let server = verbose(with_write_timeout(case, LIMIT));
    let mut client = deaf(case, &server).await;
    let mut taken = 0;
    for _ in 0..8 {
        let now = Instant::now();
        while now.elapsed() < LIMIT {
            sleep(Duration::from_secs(1)).await;
            taken += no_time(client.read_exact(2_000)).await.len();
        }
        assert_eq!(server.status().open, 1, "{case:?}: {:?}", server.status());
    }
    let all = REQUESTS * (ANSWER + 1);
    assert_eq!(no_time(client.read_exact(all - taken)).await.len(), all - taken);
    drop(client);
    emptied(&server).await;
}

async fn no_write_deadline(case: Case) {
    let server = verbose(with_write_timeout(case, None));
    let mut client = deaf(case, &server).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(server.status().open, 1, "{case:?}");
    for n in 0..REQUESTS {
        assert_eq!(no_time(client.line()).await, answer(&n.to_string()), "{case:?}");
    }
}
