//! HTTP on a pool: which connections hold a slot, which wait for one, and what happens without a slot.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Case, Client, in_all_cases, no_time, unchanged};
use crate::support::*;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use millpond::Pool;
use millpond_server::http::RequestBody;
use millpond_server::{CloseReason, Deadline};
use tokio::time::sleep;

in_all_cases!(single: one_slot_serves_one_at_a_time, who_waits_for_its_peer_holds_none);
in_all_cases!(single: who_waits_for_its_handler_holds_one, closed, panics);
in_all_cases!(single: a_flood_leaves_others_their_turn, a_handler_that_never_rests);
in_all_cases!(single: an_upload_takes_many_turns);
in_all_cases!(paused: readers_in_other_tasks_hold_no_slot);

fn pool(size: usize) -> Pool {
    Pool::builder().size(size).build().unwrap()
}

async fn one_slot_serves_one_at_a_time(case: Case) {
    let (pool, app) = (pool(1), App::default());
    let server = serve(case.http().pool(&pool), &app);
    let (mut first, mut second) = (case.client(&server).await, case.client(&server).await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    }
    at_rest(&server, 2, 0).await;
    first.send(get("/held/a")).await;
    eventually(|| app.inside().now() == 1).await;
    let before = server.status();
    second.send(HELLO).await;
    assert!(second.is_silent().await);
    let status = server.status();
    // The bytes wait in the kernel, not in memory.
    assert_eq!((status.bytes_in, status.frames), (before.bytes_in, before.frames));
    app.gate("a").open();
    assert_eq!(first.reply().await.text(), "200 let go");
    assert_eq!(second.reply().await.text(), "200 hello");
    drop((first, second));
    nothing_left(&server).await;
    whole(&pool).await;
}

async fn who_waits_for_its_peer_holds_none(case: Case) {
    let (pool, app) = (pool(1), App::default());
    let server = serve(case.narrow_http().pool(&pool), &app);
    let mut slow = Vec::new();
    let uploads = [post("/digest", 100) + "part", post("/echo", 100) + "part"];
    let half = get("/hello")[..20].to_owned();
    let large = format!("GET /hello HTTP/1.1\r\nx: {}", "y".repeat(5000));
    let all = [String::new(), half, large, get("/hello"), get("/big")];
    for sent in all.into_iter().chain(uploads) {
        let mut client = case.narrow(&server).await;
        client.send(&sent).await;
        slow.push(client);
        // All of them wait at once, and none delays this one.
        let mut client = case.client(&server).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello", "behind {sent:.40}");
    }
    eventually(|| pool.status().running == 0).await;
    eventually(|| (server.status().open, server.status().parked) == (7, 7)).await;
    drop(slow);
    nothing_left(&server).await;
    whole(&pool).await;
}

async fn who_waits_for_its_handler_holds_one(case: Case) {
    let (pool, app) = (pool(2), App::default());
    let server = serve(case.http().pool(&pool), &app);
    // A response that has begun holds no slot while it waits for its next part.
    let mut stream = case.client(&server).await;
    stream.send(get("/late/c/b")).await;
    eventually(|| app.seen().len() == 1).await;
    settle().await;
    assert_eq!((pool.status().running, server.status().parked), (1, 0));
    app.gate("c").open();
    eventually(|| server.status().bytes_out > 0).await;
    eventually(|| pool.status().running == 0).await;
    let mut clients = Vec::new();
    for request in [get("/held/a"), post("/held/a", 100)] {
        let mut client = case.client(&server).await;
        client.send(request).await;
        clients.push(client);
    }
    eventually(|| pool.status().running == 2).await;
    settle().await;
    assert_eq!((pool.status().running, server.status().parked), (2, 1));
    // The peer may close meanwhile.
    drop(clients.remove(0));
    eventually(|| pool.status().running == 1).await;
    app.gate("b").open();
    assert_eq!(stream.reply().await.body.len(), 27);
    app.gate("a").open();
    drop((clients, stream));
    nothing_left(&server).await;
    whole(&pool).await;
}

/// An app with a task of its own for each body. Behind each frame the task works until the gate lets it go on.
fn read_elsewhere(gate: &Gate) -> Router {
    async fn read(mut body: Body, gate: Gate) -> String {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.into_data().map_or(0, |data| data.len());
            gate.wait().await;
        }
        format!("{bytes} bytes")
    }
    let gate = gate.clone();
    let app = move |request: Request<Body>| {
        let (body, gate) = (request.into_body(), gate.clone());
        async move { tokio::spawn(read(body, gate)).await.unwrap() }
    };
    Router::new().route("/hello", axum::routing::get(|| async { "hello" })).fallback(app)
}

/// The deadline of a body that another task reads: each byte restarts it, and so does the work of the task.
async fn readers_in_other_tasks_hold_no_slot(case: Case) {
    const LIMIT: Duration = Duration::from_secs(8);
    const SECOND: Duration = Duration::from_secs(1);
    let (pool, gate) = (pool(1), Gate::new());
    let builder = case.timeless().pool(&pool).body_timeout(LIMIT);
    let server = builder.serve(read_elsewhere(&gate)).unwrap();
    let waits = async |client: &mut Client| {
        unchanged(|| (server.status().turns, pool.status().running)).await;
        assert!(client.is_silent().await, "{case:?}");
        assert_eq!(pool.status().running, 0, "{case:?}");
    };
    let (mut other, mut stalled) = (case.client(&server).await, Vec::new());
    for _ in 0..3 {
        let mut client = case.client(&server).await;
        client.send(post("/", 3)).await;
        waits(&mut client).await;
        assert_eq!(other.exchange(HELLO).await, "200 hello");
        stalled.push(client);
    }
    sleep(LIMIT - SECOND).await;
    for client in &mut stalled {
        assert!(client.is_silent().await, "{case:?}");
    }
    sleep(4 * SECOND).await;
    for client in &mut stalled {
        assert!(no_time(client.gone()).await.starts_with(b"HTTP/1.1 408"), "{case:?}");
    }
    let status = server.status();
    assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::Body)), 3, "{status:?}");

    let mut client = case.client(&server).await;
    client.send(post("/", 3)).await;
    for work in [LIMIT - SECOND, 10 * LIMIT, SECOND] {
        waits(&mut client).await;
        sleep(LIMIT - SECOND).await;
        client.send("x").await;
        unchanged(|| server.status().turns).await;
        sleep(work).await;
        gate.pass(1);
    }
    assert_eq!(client.reply().await.text(), "200 3 bytes");
    drop((client, other, stalled));
    nothing_left(&server).await;
    eventually(|| pool.status().is_idle()).await;
    quiet(&pool);
}

/// All of the flood stands in the kernel before the server looks. Its turn ends when the budget is
/// spent.
async fn a_flood_leaves_others_their_turn(case: Case) {
    const FLOOD: usize = 1_500;
    let order = Arc::new(Mutex::new(Vec::new()));
    let paths = order.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        paths.lock().unwrap().push(request.uri().path().to_owned());
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let server = case.http().pool(&pool(1)).read_budget_bytes(1000).serve(service).unwrap();
    let (mut flood, mut other) = (case.client(&server).await, case.client(&server).await);
    for client in [&mut flood, &mut other] {
        assert_eq!(client.exchange(HELLO).await, "200 ");
    }
    at_rest(&server, 2, 0).await;
    order.lock().unwrap().clear();
    flood.send(get("/flood").repeat(FLOOD)).await;
    other.send(get("/other")).await;
    assert_eq!(other.reply().await.text(), "200 ");
    for _ in 0..FLOOD {
        assert_eq!(flood.reply().await.text(), "200 ");
    }
    let order = order.lock().unwrap();
    let before = order.iter().position(|path| path == "/other").unwrap();
    assert_eq!(order.len(), FLOOD + 1);
    assert!(before < FLOOD / 2, "{case:?}: {before} of a flood came first");
}

/// All of the body stands in the kernel before the server looks. The budget holds for the whole turn, not
/// for each of hyper's polls.
async fn an_upload_takes_many_turns(case: Case) {
    const BODY: usize = 256 << 10;
    /// The most bytes of one read.
    const READ: usize = 16 << 10;
    let server = serve(case.http().read_budget_bytes(1000), &App::default());
    let mut client = case.client(&server).await;
    assert_eq!(client.exchange(HELLO).await, "200 hello");
    at_rest(&server, 1, 0).await;
    let before = server.status().turns;
    let reply = client.exchange(post("/digest", BODY) + &"x".repeat(BODY)).await;
    assert!(reply.starts_with(&format!("200 {BODY} bytes")), "{reply}");
    let turns = server.status().turns - before;
    // The turn of the head may read a part of the body, too.
    assert!(turns + 1 >= (BODY / READ) as u64, "{case:?}: {turns} turns");
}

/// A handler that is ready again after each poll does not keep the thread.
async fn a_handler_that_never_rests(case: Case) {
    let stop = Gate::new();
    let gate = stop.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let gate = gate.clone();
        async move {
            let mut stopped = pin!(gate.wait());
            if request.uri().path() == "/restless" {
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    stopped.as_mut().poll(cx)
                })
                .await;
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let server = case.http().serve(service).unwrap();
    let (mut restless, mut other) = (case.client(&server).await, case.client(&server).await);
    restless.send(get("/restless")).await;
    for _ in 0..3 {
        settle().await;
        assert_eq!(other.exchange(HELLO).await, "200 ");
    }
    stop.open();
    assert_eq!(restless.reply().await.text(), "200 ");
    drop((restless, other));
    nothing_left(&server).await;
}

async fn closed(case: Case) {
    let (pool, app) = (pool(2), App::default());
    let server = serve(case.http().pool(&pool), &app);
    let mut idle = case.client(&server).await;
    assert_eq!(idle.exchange(HELLO).await, "200 hello");
    let mut upload = case.client(&server).await;
    upload.send(post("/digest", 100) + "part").await;
    let mut silent = case.client(&server).await;
    eventually(|| server.status().frames == 2).await;
    eventually(|| (server.status().open, server.status().parked) == (3, 3)).await;
    let mut held = case.client(&server).await;
    held.send(get("/held/a")).await;
    eventually(|| app.inside().now() == 1).await;
    pool.close();
    for (n, (client, sent)) in
        [(&mut idle, HELLO), (&mut upload, "more"), (&mut silent, HELLO)].into_iter().enumerate()
    {
        client.send(sent).await;
        assert_eq!(client.gone().await, b"");
        let closed = || server.status().closed_for(CloseReason::PoolClosed);
        eventually(|| closed() == n as u64 + 1).await;
    }
    // Requests that have begun go on.
    app.gate("a").open();
    assert_eq!(held.reply().await.text(), "200 let go");
    drop(held);
    nothing_left(&server).await;
    soon(pool.wait_idle()).await;
    quiet(&pool);
}

async fn panics(case: Case) {
    let (pool, app) = (pool(1), App::default());
    let server = serve(case.http().pool(&pool), &app);
    let mut other = case.client(&server).await;
    assert_eq!(other.exchange(HELLO).await, "200 hello");
    for round in 1..=3 {
        let mut client = case.client(&server).await;
        if round > 1 {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
        }
        client.send(get("/panic")).await;
        assert_eq!(client.gone().await, b"");
        eventually(|| server.status().closed_for(CloseReason::Panicked) == round).await;
        assert_eq!(other.exchange(HELLO).await, "200 hello");
    }
    drop(other);
    assert_eq!(nothing_left(&server).await.closed, 4);
    soon(pool.wait_idle()).await;
    assert_eq!(law(&pool).panicked, 3);
}
