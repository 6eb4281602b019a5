//! A graceful stop loses no request, and half-closed clients are answered.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::reply::{Parsed, Reading, parse};
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Case, Client, in_all_cases, in_both_modes, no_time};
use crate::support::*;
use millpond_server::CloseReason;
use millpond_server::http::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

in_all_cases!(paused: a_request_on_its_way_is_answered, the_grace_ends);
in_all_cases!(paused: an_old_answer_has_its_own_grace);
in_all_cases!(double: a_loop_of_requests_loses_none);
in_both_modes!(single: the_queue_of_the_kernel_is_served);
in_both_modes!(single: half_closed_ones_are_answered, half_closed_ones_are_cancelled);
in_both_modes!(single: half_closed_at_once);

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(4);

fn stop(server: &Arc<Server>) -> tokio::task::JoinHandle<millpond_server::ShutdownReport> {
    let server = server.clone();
    tokio::spawn(async move { server.shutdown(600 * SECOND).await })
}

async fn a_request_on_its_way_is_answered(case: Case) {
    let server = Arc::new(serve(case.timeless().shutdown_grace(GRACE), &App::default()));
    let mut clients = Vec::new();
    for used in 0..6 {
        let mut client = case.client(&server).await;
        for _ in 0..used % 3 {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
        }
        if used > 2 {
            // The body is dropped unread.
            let early = post("/early", 4) + "body";
            assert_eq!(client.exchange(early).await, "200 before the body");
        }
        clients.push(client);
    }
    at_rest(&server, 6, 0).await;
    let start = Instant::now();
    let ending = stop(&server);
    sleep(GRACE / 2).await;
    for (n, mut client) in clients.into_iter().enumerate() {
        no_time(Box::pin(client.send(HELLO))).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "{n}");
        assert_eq!(no_time(client.gone()).await, b"");
    }
    let report = no_time(ending).await.unwrap();
    assert_eq!((report.closed, report.aborted, report.still_open), (6, 0, 0), "{report:?}");
    assert_eq!(start.elapsed(), GRACE / 2);
    nothing_left(&server).await;
}

async fn the_grace_ends(case: Case) {
    let server = Arc::new(serve(case.timeless().shutdown_grace(GRACE), &App::default()));
    let mut silent = case.client(&server).await;
    let mut used = case.client(&server).await;
    assert_eq!(used.exchange(HELLO).await, "200 hello");
    let mut early = case.client(&server).await;
    assert_eq!(early.exchange(post("/early", 4) + "body").await, "200 before the body");
    at_rest(&server, 3, 0).await;
    let start = Instant::now();
    let report = server.shutdown(600 * SECOND).await;
    assert_eq!((report.closed, report.others, report.aborted), (3, 0, 0), "{report:?}");
    assert!(start.elapsed() >= GRACE && start.elapsed() < 2 * GRACE, "{:?}", start.elapsed());
    for client in [&mut silent, &mut used, &mut early] {
        assert_eq!(no_time(client.rest()).await, b"");
    }
    assert_eq!(nothing_left(&server).await.closed_for(CloseReason::Shutdown), 3);

    // The deadline of a shutdown bounds the grace, and idle connections count as closed.
    let server = Arc::new(serve(case.timeless().shutdown_grace(600 * SECOND), &App::default()));
    let _idle = case.client(&server).await;
    at_rest(&server, 1, 0).await;
    let report = server.shutdown(SECOND).await;
    assert_eq!((report.closed, report.aborted, report.still_open), (1, 0, 0), "{report:?}");
}

/// The head of an event stream cannot say that the connection closes.
async fn an_old_answer_has_its_own_grace(case: Case) {
    let app = App::default();
    let server = Arc::new(serve(case.timeless().shutdown_grace(GRACE), &app));
    let mut client = case.client(&server).await;
    client.send(get("/sse/a")).await;
    eventually(|| app.notes() == 1 && server.status().parked == 1).await;
    let ending = stop(&server);
    sleep(10 * GRACE).await;
    app.gate("a").open();
    assert_eq!(client.reply().await.status, 200);
    sleep(GRACE / 2).await;
    no_time(Box::pin(client.send(HELLO))).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(no_time(client.gone()).await, b"");
    let report = no_time(ending).await.unwrap();
    assert_eq!((report.closed, report.aborted, report.still_open), (1, 0, 0), "{report:?}");
}

/// Sends requests until an answer says that the connection closes. Returns whether a request was lost.
async fn ask_on(mut client: Client, answered: &AtomicUsize) -> bool {
    loop {
        if client.try_send(HELLO).await.is_err() {
            return true;
        }
        let mut bytes = Vec::new();
        let closes = loop {
            match parse(&bytes, Reading::default()) {
                Parsed::Whole(reply, _) => break reply.header("connection") == Some("close"),
                Parsed::Broken(error) => panic!("{error}"),
                Parsed::Partial => {}
            }
            let mut more = [0; 512];
            match client.read_into(&mut more).await {
                Ok(count @ 1..) => bytes.extend_from_slice(&more[..count]),
                _ => return true,
            }
        };
        answered.fetch_add(1, SeqCst);
        if closes {
            return false;
        }
    }
}

async fn a_loop_of_requests_loses_none(case: Case) {
    for _ in 0..3 {
        let server = Arc::new(serve(case.http(), &App::default()));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for _ in 0..30 {
            let (client, answered) = (case.client(&server).await, answered.clone());
            clients.push(tokio::spawn(async move { ask_on(client, &answered).await }));
        }
        eventually(|| answered.load(SeqCst) > 300).await;
        let report = soon(server.shutdown(60 * SECOND)).await;
        assert_eq!((report.aborted, report.still_open), (0, 0), "{report:?}");
        for client in clients {
            assert!(!soon(client).await.unwrap(), "{case:?}: a request was lost");
        }
    }
}

async fn the_queue_of_the_kernel_is_served(case: Case) {
    let server = serve(case.http(), &App::default());
    // The accept loop does not run before the shutdown begins.
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = std::net::TcpStream::connect(server.local_addrs()[0]).unwrap();
        std::io::Write::write_all(&mut client, HELLO.as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(tokio::net::TcpStream::from_std(client).unwrap());
    }
    let report = soon(server.shutdown(60 * SECOND)).await;
    assert_eq!((report.closed, report.still_open), (5, 0), "{report:?}");
    for client in &mut clients {
        let mut answer = String::new();
        soon(client.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
}

async fn half_closed(case: Case, half_close: bool) -> (String, App) {
    let app = App::default();
    let server = serve(case.timeless().half_close(half_close), &app);
    let mut client = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    client.write_all(get("/held/a").as_bytes()).await.unwrap();
    if half_close {
        client.shutdown().await.unwrap();
        eventually(|| app.notes() == 1).await;
    } else {
        eventually(|| app.notes() == 1).await;
        client.shutdown().await.unwrap();
        eventually(|| app.inside().now() == 0).await;
    }
    settle().await;
    app.gate("a").open();
    let mut answer = String::new();
    let _ = soon(client.read_to_string(&mut answer)).await;
    drop(client);
    nothing_left(&server).await;
    (answer, app)
}

async fn half_closed_ones_are_answered(case: Case) {
    let (answer, _) = half_closed(case, true).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("let go"), "{answer}");
}

async fn half_closed_ones_are_cancelled(case: Case) {
    let (answer, app) = half_closed(case, false).await;
    assert_eq!(answer, "");
    assert_eq!(app.inside().now(), 0);
}

/// What `printf ... | nc -N` does.
async fn half_closed_at_once(case: Case) {
    let server = serve(case.timeless().half_close(true), &App::default());
    let mut client = std::net::TcpStream::connect(server.local_addrs()[0]).unwrap();
    std::io::Write::write_all(&mut client, HELLO.as_bytes()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut client = tokio::net::TcpStream::from_std(client).unwrap();
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
}
