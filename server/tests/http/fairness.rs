//! Short turns: whatever a peer sends at once, the other tasks of a runtime with one thread have their turn.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, serve};
use crate::support::server::{Case, in_all_cases, in_both_modes};
use crate::support::*;
use axum::body::Body;
use axum::http::{Request, Response};
use millpond_server::http::RequestBody;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

in_all_cases!(single: a_flood_runs_in_short_polls);
in_both_modes!(single: many_handlers_may_wait);

/// A task that wakes itself is polled once between two polls of each other task. So the requests that are
/// served between two of its polls are those of one poll of the server's tasks.
async fn a_flood_runs_in_short_polls(case: Case) {
    const FLOOD: usize = 1_500;
    /// What one poll of hyper serves, for a turn and for a turn that it was begun behind.
    const MOST: usize = 2 * 16;
    let served = Arc::new(AtomicUsize::new(0));
    let counts = served.clone();
    let service = tower::service_fn(move |_: Request<RequestBody>| {
        counts.fetch_add(1, SeqCst);
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let server = case.http().serve(service).unwrap();
    let mut flood = case.client(&server).await;
    assert_eq!(flood.exchange(HELLO).await, "200 ");
    at_rest(&server, 1, 0).await;
    let done = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn({
        let (served, done) = (served.clone(), done.clone());
        let (mut before, mut most) = (1, 0);
        poll_fn(move |cx| {
            let now = served.load(SeqCst);
            most = most.max(now - before);
            before = now;
            if done.load(SeqCst) {
                return Poll::Ready(most);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    });
    flood.send(get("/flood").repeat(FLOOD)).await;
    for _ in 0..FLOOD {
        assert_eq!(flood.reply().await.text(), "200 ");
    }
    done.store(true, SeqCst);
    let most = soon(watch).await.unwrap();
    assert_eq!(served.load(SeqCst), FLOOD + 1);
    assert!(most <= MOST, "{case:?}: {most} requests within one poll");
    drop(flood);
    nothing_left(&server).await;
}

/// Nothing but the limit of connections bounds how many handlers wait, if the user gives no pool.
async fn many_handlers_may_wait(case: Case) {
    const WAITING: usize = 1_100;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let app = App::default();
    let builder = case.http().max_connections(2 * WAITING).max_connections_per_ip(None);
    let server = serve(builder, &app);
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut client = case.client(&server).await;
        client.send(get("/held/a")).await;
        waiting.push(client);
    }
    eventually(|| app.inside().now() == WAITING).await;
    let mut other = case.client(&server).await;
    assert_eq!(soon(other.exchange(HELLO)).await, "200 hello");
    app.gate("a").open();
    for client in &mut waiting {
        assert_eq!(client.reply().await.text(), "200 let go");
    }
    drop((other, waiting));
    nothing_left(&server).await;
}
