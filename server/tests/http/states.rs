//! Hyper's state: each connection has its own, gives it up when it is idle, and loses no byte with it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support;
use crate::support::http::server::{HELLO, at_rest, get, post};
use crate::support::server::{Case, in_all_cases};
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use millpond_server::http::{RequestBody, Server};
use tokio::time::sleep;
use tower::Service;

in_all_cases!(paused: an_idle_connection_has_none, a_busy_connection_keeps_its_own, old_requests_leave_no_trace);
in_all_cases!(paused: beginnings_are_not_passed_on);
in_all_cases!(paused: the_service_ends_with_its_server);
in_all_cases!(paused: unread_bodies_hold_nothing, old_wakers_disturb_nobody);
in_all_cases!(paused: a_body_is_dropped_elsewhere);

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Handle = fn(Request<RequestBody>, Arc<Mutex<Vec<Waker>>>) -> Answer;

/// A service whose clones can be counted: one for the server, and one for each hyper state.
#[derive(Clone)]
struct Counted {
    alive: Arc<()>,
    wakers: Arc<Mutex<Vec<Waker>>>,
    handle: Handle,
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
    alive: Arc<()>,
    wakers: Arc<Mutex<Vec<Waker>>>,
}

impl Rig {
    fn new(case: Case, handle: Handle) -> Self {
        let service = Counted { alive: Arc::default(), wakers: Arc::default(), handle };
        let (alive, wakers) = (service.alive.clone(), service.wakers.clone());
        Self { case, server: case.timeless().serve(service).unwrap(), alive, wakers }
    }

    async fn client(&self) -> support::server::Client {
        self.case.client(&self.server).await
    }

    /// Returns how many hyper states there are, when all connections are at rest.
    async fn states(&self) -> usize {
        let open = self.server.status().open;
        at_rest(&self.server, open, 0).await;
        support::settle().await;
        Arc::strong_count(&self.alive) - 2
    }
}

async fn an_idle_connection_has_none(case: Case) {
    let rig = Rig::new(case, answer);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(rig.client().await);
    }
    for round in 0..4 {
        for client in &mut clients {
            // Large ones and small ones, once and often.
            for path in [get("/1000000"), post("/", 5) + "abcde", HELLO.into()]
                .iter()
                .cycle()
                .take(1 + 4 * round)
            {
                assert!(client.exchange(path).await.starts_with("200 x"));
            }
        }
        assert!(rig.states().await <= 8);
        sleep(Duration::from_secs(4)).await;
        assert_eq!(rig.states().await, 0, "{round}");
    }
}

async fn a_busy_connection_keeps_its_own(case: Case) {
    let rig = Rig::new(case, answer);
    let mut client = rig.client().await;
    for round in 0..3 {
        assert_eq!(client.exchange(HELLO).await, "200 xx");
        assert_eq!(rig.states().await, 0, "{case:?}, {round}: it has asked once");
        for _ in 0..8 {
            assert_eq!(client.exchange(HELLO).await, "200 xx");
        }
        assert_eq!(rig.states().await, 1, "{case:?}, {round}: it asks often");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(rig.states().await, 0, "{case:?}, {round}: it is idle");
    }
}

async fn the_service_ends_with_its_server(case: Case) {
    let rig = Rig::new(case, answer);
    let mut client = rig.client().await;
    assert_eq!(client.exchange(HELLO).await, "200 xx");
    let Rig { server, alive, .. } = rig;
    at_rest(&server, 1, 0).await;
    drop(server);
    support::eventually(|| Arc::strong_count(&alive) == 1).await;
}

async fn old_requests_leave_no_trace(case: Case) {
    let rig = Rig::new(case, answer);
    let mut old = rig.client().await;
    let request = "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    assert_eq!(old.exchange(request).await, "200 xx");
    let mut bad = rig.client().await;
    bad.send("GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
    let reply = bad.rest_text().await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
}

/// Bytes that follow a request stay with their connection.
async fn beginnings_are_not_passed_on(case: Case) {
    let rig = Rig::new(case, tell);
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
    assert_eq!(other.exchange(HELLO).await, "200 /hello  0");
}

/// The body is dropped unread after all of it has arrived.
async fn unread_bodies_hold_nothing(case: Case) {
    let rig = Rig::new(case, answer);
    let mut client = rig.client().await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcde";
    for _ in 0..3 {
        for request in [request, request, HELLO] {
            assert_eq!(client.exchange(request).await, "200 xx");
            rig.states().await;
        }
        sleep(Duration::from_secs(4)).await;
        assert_eq!(rig.states().await, 0);
    }
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
        at_rest(&server, 1, 0).await;
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
    let rig = Rig::new(case, keep);
    let mut client = rig.client().await;
    assert_eq!(client.exchange(get("/keep")).await, "200 1");
    rig.states().await;
    let old = rig.wakers.lock().unwrap().pop().unwrap();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(rig.states().await, 0);
    rig.wakers.lock().unwrap().clear();
    client.send(get("/wait")).await;
    for _ in 0..2 {
        old.wake_by_ref();
        support::eventually(|| !rig.wakers.lock().unwrap().is_empty()).await;
        let new = std::mem::take(&mut *rig.wakers.lock().unwrap()).pop().unwrap();
        new.wake();
    }
    assert_eq!(client.reply().await.text(), "200 3");
    old.wake();
    assert_eq!(client.exchange(get("/keep")).await, "200 1");
    // A service that keeps the waker of its own connection keeps itself.
    rig.wakers.lock().unwrap().clear();
}
