//! Tests of a request body that another thread drops between hyper's poll and the turn's decision.
//!
//! `serve_turn.rs` calls [`reached`] at the points between which a drop by another thread must not matter. A
//! test's hook drops the body of a request there, on another thread. The hook belongs to
//! a thread. `soak_tests.rs` has hooks too.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Mode;
use crate::http::{RequestBody, Server};
use crate::sync::Mutex;

/// A point of a round in `serve_turn.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncPoint {
    /// The counts before hyper's poll are read.
    Lent,
    /// Hyper's poll was pending. The progress bits are not read yet.
    Polled,
    /// The progress bits are read.
    BitsRead,
    /// The socket is about to leave hyper.
    Leaves,
}

type Hook = Box<dyn FnMut(SyncPoint)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Sets the hook of this thread.
pub(super) fn set_hook(hook: impl FnMut(SyncPoint) + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// Runs the hook of this thread.
pub(super) fn reached(point: SyncPoint) {
    HOOK.with_borrow_mut(|hook| hook.iter_mut().for_each(|hook| hook(point)));
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
const REPLY: &str = "HTTP/1.1 200 OK\r\n";
const POINTS: [SyncPoint; 2] = [SyncPoint::Polled, SyncPoint::BitsRead];

/// A head and the first bytes of its body. [`SMUGGLED`] is the rest.
fn by_length() -> String {
    let length = "first".len() + SMUGGLED.len();
    format!("POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\nfirst")
}

/// The same with chunks. The rest belongs to the chunk that has begun.
fn by_chunks() -> String {
    let length = "first".len() + SMUGGLED.len();
    format!(
        "POST /first HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\nfirst"
    )
}

/// A service that answers at once and keeps the body, for another thread to drop.
#[derive(Clone)]
struct Keeper {
    body: Arc<Mutex<Option<RequestBody>>>,
    served: Arc<Mutex<Vec<String>>>,
}

impl Keeper {
    fn new() -> Self {
        Self { body: Arc::new(Mutex::new(None)), served: Arc::new(Mutex::new(Vec::new())) }
    }

    fn start(&self, mode: Mode) -> Server {
        let keeper = self.clone();
        let service = tower::service_fn(move |request: Request<RequestBody>| {
            let (head, body) = request.into_parts();
            keeper.served.lock().push(head.uri.path().to_owned());
            *keeper.body.lock() = Some(body).filter(|body| !http_body::Body::is_end_stream(body));
            ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))))
        });
        Server::builder().listen("127.0.0.1:0").mode(mode).serve(service).unwrap()
    }

    /// Has another thread drop the body at this point.
    fn drops_at(&self, at: SyncPoint) {
        let kept = self.body.clone();
        let hook = move |point| {
            let body = if point == at { kept.lock().take() } else { None };
            if let Some(body) = body {
                std::thread::spawn(move || drop(body)).join().unwrap();
            }
        };
        set_hook(hook);
    }
}

async fn replied(client: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nok") {
        let mut byte = [0];
        timeout(Duration::from_secs(5), client.read_exact(&mut byte)).await.unwrap().unwrap();
        read.extend(byte);
    }
    assert!(read.starts_with(REPLY.as_bytes()));
}

/// Returns the rest of what the server sends, and whether the server ends the connection.
async fn rest(client: &mut TcpStream) -> (String, bool) {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), client.read_to_end(&mut rest)).await;
    (String::from_utf8_lossy(&rest).into_owned(), ended.is_ok())
}

async fn nothing_left(server: &Server) {
    for _ in 0..500 {
        if server.status().open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = server.status();
    assert_eq!((status.open, status.http_states), (0, 0), "{status:?}");
}

async fn the_rest_is_not_served(mode: Mode, first: fn() -> String) {
    for point in POINTS {
        let keeper = Keeper::new();
        let server = keeper.start(mode);
        let mut client = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        // The second request may find the connection warm.
        client.write_all(NEXT.as_bytes()).await.unwrap();
        replied(&mut client).await;
        keeper.drops_at(point);
        client.write_all(first().as_bytes()).await.unwrap();
        replied(&mut client).await;
        // The server may have closed the connection already.
        let _ = client.write_all(SMUGGLED.as_bytes()).await;
        let rest = rest(&mut client).await;
        assert_eq!(*keeper.served.lock(), ["/next", "/first"], "{point:?}");
        assert_eq!(rest, (String::new(), true), "{point:?}");
        drop(client);
        // The next connection gets no part of this one.
        let mut client = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        client.write_all(NEXT.as_bytes()).await.unwrap();
        replied(&mut client).await;
        drop(client);
        nothing_left(&server).await;
    }
}

/// If the rest of the body has arrived, hyper skips it, and the connection goes on.
async fn a_rest_at_hand_is_skipped(mode: Mode, first: fn() -> String) {
    for point in POINTS {
        let keeper = Keeper::new();
        let server = keeper.start(mode);
        let mut client = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        keeper.drops_at(point);
        client.write_all(format!("{}{SMUGGLED}", first()).as_bytes()).await.unwrap();
        replied(&mut client).await;
        for _ in 0..2 {
            client.write_all(NEXT.as_bytes()).await.unwrap();
            replied(&mut client).await;
        }
        assert_eq!(*keeper.served.lock(), ["/first", "/next", "/next"], "{point:?}");
        // Another connection does not get this state.
        let mut other = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        other.write_all(NEXT.as_bytes()).await.unwrap();
        replied(&mut other).await;
        let report = server.shutdown(Duration::from_secs(5)).await;
        assert_eq!((report.closed, report.others, report.aborted), (2, 0, 0), "{report:?}");
        assert_eq!(rest(&mut client).await, (String::new(), true));
        nothing_left(&server).await;
    }
}

/// The response is complete, and a part of the rest has come, when the body is dropped. In the dedicated
/// mode nothing polls hyper then, before the drop does.
#[tokio::test]
async fn a_late_drop_ends_the_connection() {
    let keeper = Keeper::new();
    let server = keeper.start(Mode::EventDriven);
    let mut client = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let length = "first".len() + SMUGGLED.len() + "last".len();
    let head = format!("POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\nfirst");
    client.write_all(head.as_bytes()).await.unwrap();
    replied(&mut client).await;
    keeper.drops_at(SyncPoint::Polled);
    client.write_all(SMUGGLED.as_bytes()).await.unwrap();
    let rest = rest(&mut client).await;
    assert_eq!(*keeper.served.lock(), ["/first"]);
    assert_eq!(rest, (String::new(), true));
    drop(client);
    nothing_left(&server).await;
}

#[tokio::test]
async fn the_rest_of_a_length_is_not_served_dedicated() {
    the_rest_is_not_served(Mode::Dedicated, by_length).await;
}

#[tokio::test]
async fn the_rest_of_a_length_is_not_served_event_driven() {
    the_rest_is_not_served(Mode::EventDriven, by_length).await;
}

#[tokio::test]
async fn the_rest_of_a_chunk_is_not_served_dedicated() {
    the_rest_is_not_served(Mode::Dedicated, by_chunks).await;
}

#[tokio::test]
async fn the_rest_of_a_chunk_is_not_served_event_driven() {
    the_rest_is_not_served(Mode::EventDriven, by_chunks).await;
}

#[tokio::test]
async fn a_rest_at_hand_is_skipped_dedicated() {
    a_rest_at_hand_is_skipped(Mode::Dedicated, by_length).await;
}

#[tokio::test]
async fn a_rest_at_hand_is_skipped_event_driven() {
    a_rest_at_hand_is_skipped(Mode::EventDriven, by_length).await;
}
