//! The reuse of hyper's state: one connection's state serves the next, and nothing else passes on.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::support;
use crate::support::http::server::{HELLO, at_rest, get, post};
use crate::support::server::{Case, in_all_cases};
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use millpond_server::http::{RequestBody, Server};
use tower::Service;

// States that stay unused for some ticks are dropped. The clock stands still, so none is.
in_all_cases!(paused: one_serves_all, old_requests_leave_no_trace, large_ones_are_not_kept);
in_all_cases!(paused: beginnings_are_not_passed_on);
in_all_cases!(paused: the_service_ends_with_its_server);
in_all_cases!(paused: unread_bodies_hold_it, old_wakers_disturb_nobody);
in_all_cases!(paused: a_body_is_dropped_elsewhere);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Handle = fn(Request<RequestBody>, Arc<Mutex<Vec<Waker>>>) -> Answer;

/// A service that counts its clones: one for each request, and one for each hyper state.
struct Counted {
    clones: Arc<AtomicUsize>,
    wakers: Arc<Mutex<Vec<Waker>>>,
    handle: Handle,
}

impl Counted {
    fn new(handle: Handle) -> Self {
        Self { clones: Arc::default(), wakers: Arc::default(), handle }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        let (clones, wakers) = (self.clones.clone(), self.wakers.clone());
        Self { clones, wakers, handle: self.handle }
    }
}

impl Service<Request<RequestBody>> for Counted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Answer {
        (self.handle)(request, self.wakers.clone())
    }
}

/// Answers with the path, a header and the length of the body.
fn tell(request: Request<RequestBody>, _: Arc<Mutex<Vec<Waker>>>) -> Answer {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let secret = head.headers.get("secret").map_or("", |value| value.to_str().unwrap());
        let told = format!("{} {secret} {}", head.uri, body.len());
        Ok(Response::new(Body::from(told)))
    })
}

/// Answers with a body of the length in the path.
fn answer(request: Request<RequestBody>, _: Arc<Mutex<Vec<Waker>>>) -> Answer {
    let length = request.uri().path()[1..].parse().unwrap_or(2);
    Box::pin(async move { Ok(Response::new(Body::from(vec![b'x'; length]))) })
}

struct Rig {
    case: Case,
    server: Server,
    clones: Arc<AtomicUsize>,
    built: usize,
}

impl Rig {
    fn new(case: Case, handle: Handle) -> (Self, Arc<Mutex<Vec<Waker>>>) {
        let service = Counted::new(handle);
        let (clones, wakers) = (service.clones.clone(), service.wakers.clone());
        // A warm connection has a state of another type.
        let server = case.http().warm_connections(0).serve(service).unwrap();
        let built = clones.load(Ordering::Relaxed);
        (Self { case, server, clones, built }, wakers)
    }

    async fn client(&self) -> support::server::Client {
        self.case.client(&self.server).await
    }

    /// Returns how many hyper states were built since the last call, given the number of requests.
    async fn built(&mut self, requests: usize) -> usize {
        let open = self.server.status().open;
        at_rest(&self.server, open, 0).await;
        let clones = self.clones.load(Ordering::Relaxed);
        let built = clones - self.built - requests;
        self.built = clones;
        built
    }
}

async fn one_serves_all(case: Case) {
    let (mut rig, _) = Rig::new(case, answer);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(rig.client().await);
    }
    for _ in 0..4 {
        for client in &mut clients {
            assert_eq!(client.exchange(HELLO).await, "200 xx");
            let is_first = rig.server.status().frames == 1;
            assert_eq!(rig.built(1).await, usize::from(is_first));
        }
    }
}

async fn the_service_ends_with_its_server(case: Case) {
    let (rig, _) = Rig::new(case, answer);
    let mut client = rig.client().await;
    assert_eq!(client.exchange(HELLO).await, "200 xx");
    let Rig { server, clones, .. } = rig;
    at_rest(&server, 1, 0).await;
    drop(server);
    support::eventually(|| Arc::strong_count(&clones) == 1).await;
}

async fn old_requests_leave_no_trace(case: Case) {
    let (mut rig, _) = Rig::new(case, answer);
    let mut old = rig.client().await;
    let request = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(old.exchange(request).await, "200 xx");
    assert_eq!(rig.built(1).await, 1);
    let mut bad = rig.client().await;
    bad.send("GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
    let reply = bad.rest_text().await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
}

async fn large_ones_are_not_kept(case: Case) {
    let (mut rig, _) = Rig::new(case, answer);
    let mut client = rig.client().await;
    assert_eq!(client.exchange(HELLO).await, "200 xx");
    assert_eq!(rig.built(1).await, 1);
    assert_eq!(client.exchange(get("/1000000")).await.len(), 1_000_004);
    assert_eq!(rig.built(1).await, 0);
    assert_eq!(client.exchange(HELLO).await, "200 xx");
    assert_eq!(rig.built(1).await, 1);
    let (mut rig, _) = Rig::new(case, tell);
    let mut client = rig.client().await;
    for length in [10, 10_000, 20_000] {
        let request = format!("{}{}", post("/", length), "x".repeat(length));
        assert_eq!(client.exchange(request).await, format!("200 /  {length}"));
    }
    assert_eq!(rig.built(3).await, 1);
    assert_eq!(client.exchange(HELLO).await, "200 /hello  0");
    assert_eq!(rig.built(1).await, 1);
}

/// Bytes that follow a request stay with their connection.
async fn beginnings_are_not_passed_on(case: Case) {
    let (mut rig, _) = Rig::new(case, tell);
    let (mut one, mut other) = (rig.client().await, rig.client().await);
    for _ in 0..2 {
        assert_eq!(one.exchange(HELLO).await, "200 /hello  0");
    }
    // A part of the body that ends like a head, and then a part of the next request.
    one.send(format!("{}{}\r\n\r\n", post("/", 40), "x".repeat(19))).await;
    support::eventually(|| rig.server.status().parked == 2).await;
    one.send(format!("{}GET /evil HTTP/1.1\r\nx: ", "x".repeat(17))).await;
    assert_eq!(one.reply().await.text(), "200 /  40");
    support::eventually(|| rig.server.status().parked == 2).await;
    for _ in 0..3 {
        let request = "GET /private HTTP/1.1\r\nhost: a\r\nsecret: mine\r\n\r\n";
        assert_eq!(other.exchange(request).await, "200 /private mine 0");
    }
    assert_eq!(one.exchange("y\r\nhost: a\r\n\r\n").await, "200 /evil  0");
    // Hyper still holds the empty line.
    assert_eq!(one.exchange(format!("{HELLO}\r\n")).await, "200 /hello  0");
    support::eventually(|| rig.server.status().parked == 2).await;
    assert_eq!(rig.built(8).await, 2);
    assert_eq!(other.exchange(HELLO).await, "200 /hello  0");
    assert_eq!(rig.built(1).await, 1);
}

/// The body is dropped unread after all of it has arrived. The connection keeps hyper's state to its end,
/// and no other connection gets it.
async fn unread_bodies_hold_it(case: Case) {
    let (mut rig, _) = Rig::new(case, answer);
    let mut client = rig.client().await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcde";
    for _ in 0..3 {
        assert_eq!(client.exchange(request).await, "200 xx");
        at_rest(&rig.server, 1, 1).await;
        assert_eq!(client.exchange(HELLO).await, "200 xx");
        at_rest(&rig.server, 1, 1).await;
    }
    let mut other = rig.client().await;
    assert_eq!(other.exchange(HELLO).await, "200 xx");
    at_rest(&rig.server, 2, 1).await;
    drop(client);
    support::eventually(|| rig.server.status().open == 1).await;
    assert_eq!(rig.built(7).await, 2);
    assert_eq!(other.exchange(HELLO).await, "200 xx");
    assert_eq!(rig.built(1).await, 0);
}

/// Hyper has passed on all of the body and waits for nothing more of it. So only the drop itself can
/// tell the connection that the body is gone.
async fn a_body_is_dropped_elsewhere(case: Case) {
    let kept = Arc::new(Mutex::new(None));
    let keeps = kept.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        let kept = keeps.clone();
        async move {
            let mut body = request.into_body();
            if let Some(frame) = body.frame().await {
                frame.unwrap();
                *kept.lock().unwrap() = Some(body);
            }
            Ok::<_, Infallible>(Response::new(Body::from("xx")))
        }
    });
    let server = case.http().serve(service).unwrap();
    let mut client = case.client(&server).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(client.exchange(format!("{head}3\r\nabc\r\n0\r\n\r\n")).await, "200 xx");
        support::settle().await;
        assert_eq!(server.status().parked, 0, "the body is under way");
        let body = kept.lock().unwrap().take().unwrap();
        std::thread::spawn(move || drop(body)).join().unwrap();
        at_rest(&server, 1, 1).await;
        assert_eq!(client.exchange(HELLO).await, "200 xx");
        at_rest(&server, 1, 1).await;
    }
}

/// Keeps the wakers of its requests. Answers `/wait` after two wake-ups, other paths at once.
fn keep(request: Request<RequestBody>, wakers: Arc<Mutex<Vec<Waker>>>) -> Answer {
    let waits = request.uri().path() == "/wait";
    let mut polls = 0;
    Box::pin(async move {
        poll_fn(|cx| {
            wakers.lock().unwrap().push(cx.waker().clone());
            polls += 1;
            if waits && polls < 3 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        Ok(Response::new(Body::from(format!("{polls}"))))
    })
}

async fn old_wakers_disturb_nobody(case: Case) {
    let (mut rig, wakers) = Rig::new(case, keep);
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    assert_eq!(first.exchange(get("/keep")).await, "200 1");
    assert_eq!(rig.built(1).await, 1);
    let old = wakers.lock().unwrap().pop().unwrap();
    // The state is in the pool.
    let turns = rig.server.status().turns;
    for _ in 0..3 {
        old.wake_by_ref();
        rig.built(0).await;
    }
    assert_eq!(rig.server.status().turns, turns);
    assert_eq!(second.exchange(get("/keep")).await, "200 1");
    assert_eq!(rig.built(1).await, 0);
    wakers.lock().unwrap().clear();
    second.send(get("/wait")).await;
    for _ in 0..2 {
        support::eventually(|| !wakers.lock().unwrap().is_empty()).await;
        let new = std::mem::take(&mut *wakers.lock().unwrap()).pop().unwrap();
        new.wake();
    }
    assert_eq!(second.reply().await.text(), "200 3");
    old.wake();
    assert_eq!(first.exchange(get("/keep")).await, "200 1");
    assert_eq!(rig.built(2).await, 0);
}
