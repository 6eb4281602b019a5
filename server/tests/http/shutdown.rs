//! The shutdown of HTTP servers: requests under way are answered, idle connections close, none is left.

use std::sync::Arc;
use std::time::Duration;

use crate::support::http::app::{App, digest_of};
use crate::support::http::reply::{Parsed, Reading, parse};
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Case, Client, in_all_cases, no_time};
use crate::support::*;
use axum::Router;
use millpond_server::http::Server;
use millpond_server::{CloseReason, ShutdownReport};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

in_all_cases!(paused: idle_ones_are_closed_at_once, what_is_under_way_finishes);
in_all_cases!(paused: what_has_come_is_answered);
in_all_cases!(paused: upgraded_ones_are_cut_off, what_does_not_end_is_cut_off);
in_all_cases!(single: dropped_it_closes_all);
in_all_cases!(double: begun_replies_are_whole);

const SECOND: Duration = Duration::from_secs(1);
const RAW: &str = "GET /raw HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";

fn shutdown(server: &Arc<Server>, deadline: Duration) -> JoinHandle<ShutdownReport> {
    let server = server.clone();
    tokio::spawn(async move { server.shutdown(deadline).await })
}

#[track_caller]
fn is(report: ShutdownReport, closed: u64, others: u64, aborted: u64) {
    let all = (report.closed, report.others, report.aborted, report.still_open);
    assert_eq!(all, (closed, others, aborted, 0), "{report:?}");
}

async fn upgraded(case: Case, server: &Server) -> Client {
    let mut client = case.client(server).await;
    assert_eq!(client.exchange(HELLO).await, "200 hello");
    client.send(RAW).await;
    assert_eq!(client.reply().await.status, 101);
    client.send("echo").await;
    assert_eq!(no_time(client.read_exact(4)).await, b"echo");
    client
}

async fn idle_ones_are_closed_at_once(case: Case) {
    let server = serve(case.http().shutdown_grace(None), &App::default());
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = case.client(&server).await;
        for _ in 0..n / 2 {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
        }
        if n % 2 == 1 {
            // The body is dropped unread.
            let early = post("/early", 4) + "body";
            assert_eq!(client.exchange(early).await, "200 before the body");
        }
        clients.push(client);
    }
    // The kernel has accepted them. The server accepts them before it stops.
    eventually(|| server.status().open == 6).await;
    let start = Instant::now();
    is(no_time(server.shutdown(600 * SECOND)).await, 6, 0, 0);
    assert_eq!(start.elapsed(), Duration::ZERO);
    for mut client in clients {
        assert_eq!(client.rest_text().await, "");
    }
    assert_eq!(nothing_left(&server).await.closed_for(CloseReason::Shutdown), 6);
}

/// The request is in the socket of a busy connection when the shutdown begins.
async fn what_has_come_is_answered(case: Case) {
    let server = serve(case.http().shutdown_grace(None), &App::default());
    let mut client = case.client(&server).await;
    for _ in 0..8 {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    }
    at_rest(&server, 1, 0).await;
    client.send(HELLO).await;
    let (report, reply) = tokio::join!(server.shutdown(600 * SECOND), client.reply());
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    is(report, 1, 0, 0);
}

async fn what_is_under_way_finishes(case: Case) {
    const LARGE: usize = 16 << 20;
    let app = App::default();
    let large = || async { vec![b'x'; LARGE] };
    let router = Router::new().route("/large", axum::routing::get(large));
    let router = router.fallback_service(app.router());
    let server = Arc::new(case.narrow_timeless().shutdown_grace(None).serve(router).unwrap());
    // The client sends the second part of each after the shutdown has begun.
    let rows = [
        (HELLO[..20].to_owned(), HELLO[20..].to_owned()),
        (get("/held/a"), String::new()),
        (post("/held/a", 4) + "bo", "dy".to_owned()),
        (post("/digest", 8) + "body", "body".to_owned()),
        (post("/echo", 8) + "body", "body".to_owned()),
        (get("/sse/a"), String::new()),
    ];
    let mut clients = Vec::new();
    for (first, _) in &rows {
        let mut client = case.client(&server).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        client.send(first).await;
        clients.push(client);
    }
    let mut download = case.narrow(&server).await;
    download.send(get("/large")).await;
    eventually(|| app.notes() == 5).await;
    eventually(|| server.status().parked == 5).await;
    settle().await;
    let ending = shutdown(&server, 100 * SECOND);
    sleep(10 * SECOND).await;
    assert_eq!(server.status().open, 7);
    app.gate("a").open();
    let start = Instant::now();
    let right = [
        "200 hello".to_owned(),
        "200 let go".to_owned(),
        "200 let go".to_owned(),
        format!("200 {}", digest_of(b"bodybody")),
        "200 bodybody".to_owned(),
        "200 data: 0\n\ndata: 1\n\ndata: 2\n\n".to_owned(),
    ];
    for ((client, (_, second)), right) in clients.iter_mut().zip(rows).zip(right) {
        client.send(second).await;
        let reply = client.reply().await;
        assert_eq!(reply.text(), right);
        // A response head that is written after the shutdown began says `close`.
        let tells = ["200 hello", "200 let go"].contains(&&*right);
        assert!(!tells || reply.header("connection") == Some("close"), "{right}");
        assert_eq!(no_time(client.gone()).await, b"");
    }
    let rest = no_time(download.gone()).await;
    assert!(rest.len() > LARGE && rest.ends_with(b"xxxx"), "{}", rest.len());
    assert_eq!(start.elapsed(), Duration::ZERO);
    // An unread body may end a connection for that reason.
    let report = ending.await.unwrap();
    let all = (report.closed + report.others, report.aborted, report.still_open);
    assert_eq!(all, (7, 0, 0), "{report:?}");
    nothing_left(&server).await;
}

async fn upgraded_ones_are_cut_off(case: Case) {
    let server = Arc::new(serve(case.timeless().shutdown_grace(None), &App::default()));
    let (mut first, mut second) = (upgraded(case, &server).await, upgraded(case, &server).await);
    let ending = shutdown(&server, 10 * SECOND);
    sleep(5 * SECOND).await;
    for client in [&mut first, &mut second] {
        client.send("echo").await;
        assert_eq!(no_time(client.read_exact(4)).await, b"echo");
    }
    first.finish().await;
    assert_eq!(no_time(first.gone()).await, b"");
    let start = Instant::now();
    assert_eq!(second.gone().await, b"");
    assert_eq!(start.elapsed().as_secs(), 5);
    is(ending.await.unwrap(), 1, 0, 1);
    nothing_left(&server).await;
}

async fn what_does_not_end_is_cut_off(case: Case) {
    let app = App::default();
    let server = serve(case.timeless().shutdown_grace(None), &app);
    let mut clients = Vec::new();
    for sent in [&HELLO[..20], &get("/held/a"), &post("/digest", 8), &get("/sse/b"), HELLO] {
        let mut client = case.client(&server).await;
        client.send(sent).await;
        clients.push(client);
    }
    eventually(|| app.notes() == 3).await;
    eventually(|| server.status().parked == 4).await;
    is(server.shutdown(10 * SECOND).await, 1, 0, 4);
    assert_eq!(app.inside().now(), 0);
    for mut client in clients {
        client.gone().await;
    }
    nothing_left(&server).await;
}

async fn dropped_it_closes_all(case: Case) {
    let app = App::default();
    let server = serve(case.http().shutdown_grace(None), &app);
    let mut clients = vec![upgraded(case, &server).await, case.client(&server).await];
    for sent in [&HELLO[..20], &get("/held/a"), &post("/digest", 8), &get("/sse/b"), HELLO] {
        let mut client = case.client(&server).await;
        client.send(sent).await;
        clients.push(client);
    }
    eventually(|| app.notes() == 4 && app.inside().now() == 1).await;
    drop(server);
    for mut client in clients {
        client.gone().await;
    }
    eventually(|| app.inside().now() == 0).await;
}

/// A request that arrives during the shutdown is answered whole, or not at all.
async fn begun_replies_are_whole(case: Case) {
    for round in 0..60 {
        let app = App::default();
        let server = serve(case.http().shutdown_grace(None), &app);
        let mut clients = Vec::new();
        for n in 0..4 {
            let mut client = case.client(&server).await;
            assert_eq!(client.exchange(HELLO).await, "200 hello");
            clients.push((n, client));
        }
        let clients = clients.into_iter().map(|(n, mut client)| {
            tokio::spawn(async move {
                let pipelined: String = (0..8).map(|_| post("/nonce/1", 4) + "body").collect();
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
                // The server may have closed the connection already.
                let _ = client.try_send(&pipelined).await;
                let read = client.gone().await;
                let (mut rest, mut replies) = (&read[..], 0);
                while !rest.is_empty() {
                    match parse(rest, Reading::default()) {
                        Parsed::Whole(reply, count) => {
                            assert_eq!(reply.status, 200);
                            rest = &rest[count..];
                            replies += 1;
                        }
                        _ => panic!("half a reply: {}", String::from_utf8_lossy(rest)),
                    }
                }
                replies
            })
        });
        let clients: Vec<_> = clients.collect();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let report = soon(server.shutdown(600 * SECOND)).await;
        assert_eq!((report.closed + report.others, report.aborted, report.still_open), (4, 0, 0));
        let mut replies = 0;
        for client in clients {
            replies += client.await.unwrap();
        }
        assert_eq!(replies, app.notes(), "round {round}");
        nothing_left(&server).await;
    }
}
