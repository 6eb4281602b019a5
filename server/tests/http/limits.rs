//! What bounds and counts a connection over its life: its age, its requests, and over HTTP/2 the streams,
//! the bodies and the traffic. WebSockets over HTTP/2.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, get, nothing_left, serve};
use crate::support::server::{Case, in_all_cases, in_both_modes, no_time};
use crate::support::*;
use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use bytes::{Buf, Bytes};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Either, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond_server::http::{Http2, Server};
use millpond_server::{CloseReason, Deadline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

in_all_cases!(paused: old_ones_close, work_outlives_the_age, the_grace_of_the_age_ends);
in_all_cases!(paused: a_young_one_waits_for_no_old_one);
in_both_modes!(paused: a_peer_that_answers_no_ping_is_left);
in_all_cases!(paused: a_stalled_body_fails, a_stalled_response_meets_its_deadline);
in_all_cases!(single: requests_are_numbered, streams_are_numbered, traffic_is_counted);
in_all_cases!(single: websockets_over_http2, the_peer_ends_upgraded_ones);
in_both_modes!(single: the_settings_of_http2_reach_the_peer);

const SECOND: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(4);

type Client = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

async fn connect(case: Case, server: &Server) -> (Client, JoinHandle<hyper::Result<()>>) {
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let stream = case.http2_stream(tcp).await;
    let shaken = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    let (client, connection) = no_time(shaken).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn ask(client: &mut Client, path: &str) -> hyper::Result<Bytes> {
    let body = Full::new(Bytes::from("body")).boxed();
    let request = Request::post(format!("http://a{path}")).body(body).unwrap();
    Ok(client.send_request(request).await?.into_body().collect().await?.to_bytes())
}

async fn old_ones_close(case: Case) {
    let builder = case.timeless().shutdown_grace(GRACE).max_connection_age(AGE);
    let server = serve(builder, &App::default());
    let start = Instant::now();
    let mut silent = case.client(&server).await;
    let mut idle = case.client(&server).await;
    assert_eq!(idle.exchange(HELLO).await, "200 hello");
    let mut late = case.client(&server).await;
    assert_eq!(late.exchange(HELLO).await, "200 hello");
    let (mut client, connection) = connect(case, &server).await;
    assert_eq!(no_time(ask(&mut client, "/echo")).await.unwrap(), "body");
    eventually(|| server.status().parked == 3).await;
    sleep(AGE - SECOND).await;
    assert_eq!(idle.exchange(HELLO).await, "200 hello");
    assert_eq!(server.status().open, 4);
    sleep(2 * SECOND).await;
    // A request on its way is answered within the grace.
    no_time(late.send(HELLO)).await;
    let reply = late.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(no_time(late.gone()).await, b"");
    assert_eq!(silent.gone().await, b"");
    assert_eq!(idle.gone().await, b"");
    let _ = soon(connection).await;
    assert!(start.elapsed() < AGE + 2 * GRACE, "{:?}", start.elapsed());
    assert_eq!(nothing_left(&server).await.closed_for(CloseReason::MaxAge), 4);
    // The list of ages forgets them, and a new connection has its own age.
    sleep(AGE / 2).await;
    let mut young = case.client(&server).await;
    sleep(AGE - SECOND).await;
    assert_eq!(young.exchange(HELLO).await, "200 hello");
}

/// The grace of an old connection is longer than the age of the others.
async fn a_young_one_waits_for_no_old_one(case: Case) {
    let builder = case.timeless().shutdown_grace(10 * AGE).max_connection_age(AGE);
    let server = serve(builder, &App::default());
    let mut old = case.client(&server).await;
    assert_eq!(old.exchange(HELLO).await, "200 hello");
    sleep(AGE + SECOND).await;
    let mut young = case.client(&server).await;
    assert_eq!(young.exchange(HELLO).await, "200 hello");
    sleep(AGE + SECOND).await;
    assert_eq!(server.status().open, 2);
    for client in [&mut old, &mut young] {
        no_time(client.send(HELLO)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    }
}

async fn work_outlives_the_age(case: Case) {
    let app = App::default();
    let builder = case.timeless().shutdown_grace(GRACE).max_connection_age(AGE);
    let server = serve(builder, &app);
    let mut client = case.client(&server).await;
    client.send(get("/held/a")).await;
    let (mut other, _connection) = connect(case, &server).await;
    let held = tokio::spawn(async move { ask(&mut other, "/held/a").await });
    eventually(|| app.notes() == 2).await;
    sleep(10 * AGE).await;
    assert_eq!(server.status().open, 2);
    app.gate("a").open();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(no_time(held).await.unwrap().unwrap(), "let go");
    assert_eq!(no_time(client.gone()).await, b"");
    assert_eq!(nothing_left(&server).await.closed_for(CloseReason::MaxAge), 2);
}

async fn the_grace_of_the_age_ends(case: Case) {
    let app = App::default();
    let builder = case.timeless().max_connection_age(AGE).max_connection_age_grace(10 * SECOND);
    let server = serve(builder, &app);
    let start = Instant::now();
    let mut client = case.client(&server).await;
    client.send(get("/sse/a")).await;
    let (mut other, _connection) = connect(case, &server).await;
    let held = tokio::spawn(async move { ask(&mut other, "/held/a").await });
    let mut waits = case.client(&server).await;
    waits.send(get("/held/b")).await;
    let mut upgraded = case.client(&server).await;
    upgraded
        .send("GET /raw HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n")
        .await;
    assert_eq!(upgraded.reply().await.status, 101);
    eventually(|| app.notes() == 4).await;
    sleep(AGE + 9 * SECOND).await;
    no_time(upgraded.send("echo")).await;
    assert_eq!(no_time(upgraded.read_exact(4)).await, b"echo");
    client.gone().await;
    assert_eq!(waits.gone().await, b"");
    assert!(held.await.unwrap().is_err());
    assert_eq!(upgraded.gone().await, b"");
    let waited = start.elapsed();
    assert!(waited >= AGE + 10 * SECOND && waited < AGE + 14 * SECOND, "{waited:?}");
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::MaxAge)), 4, "{status:?}");
}

async fn requests_are_numbered(case: Case) {
    // So many that a busy connection gets a task of its own in between.
    const MOST: u32 = 12;
    let server = serve(case.http().max_requests_per_connection(MOST), &App::default());
    for _ in 0..2 {
        let mut client = case.client(&server).await;
        for n in 1..=MOST {
            client.send(HELLO).await;
            let reply = client.reply().await;
            let closes = (n == MOST).then_some("close");
            assert_eq!((reply.status, reply.header("connection")), (200, closes), "{n}");
            eventually(|| n == MOST || server.status().parked == 1).await;
        }
        assert_eq!(client.gone().await, b"");
    }
    nothing_left(&server).await;
}

async fn streams_are_numbered(case: Case) {
    let server = serve(case.http().max_requests_per_connection(3), &App::default());
    let (mut client, connection) = connect(case, &server).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "/echo").await.unwrap(), "body");
    }
    let _ = soon(connection).await;
    assert!(ask(&mut client, "/echo").await.is_err());
    assert_eq!(nothing_left(&server).await.closed_for(CloseReason::MaxRequests), 1);
}

async fn traffic_is_counted(case: Case) {
    let server = serve(case.http(), &App::default());
    let (mut client, connection) = connect(case, &server).await;
    for _ in 0..101 {
        assert_eq!(ask(&mut client, "/echo").await.unwrap(), "body");
    }
    eventually(|| server.status().frames == 101).await;
    let status = server.status();
    // Each request and each answer has two frames with heads of nine bytes.
    assert!(status.bytes_in > 101 * 22 && status.bytes_out > 101 * 22, "{status:?}");
    drop(client);
    connection.await.unwrap().unwrap();
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Peer), 1, "{status:?}");
    assert_eq!(status.frames, 101);
}

/// Returns a body that sends `first` and then nothing more.
fn stalling(first: &'static str) -> BoxBody<Bytes, std::convert::Infallible> {
    let mut first = Some(Ok(Frame::data(Bytes::from(first))));
    let frames = futures_util::stream::poll_fn(move |_| match first.take() {
        Some(frame) => std::task::Poll::Ready(Some(frame)),
        None => std::task::Poll::Pending,
    });
    BodyExt::boxed(StreamBody::new(frames))
}

async fn a_stalled_body_fails(case: Case) {
    let app = App::default();
    let server = serve(case.timeless().body_timeout(8 * SECOND), &app);
    let (mut client, _connection) = connect(case, &server).await;
    let body = |bytes: Bytes| async move {
        match bytes.len() {
            0 => StatusCode::OK,
            _ => StatusCode::PAYLOAD_TOO_LARGE,
        }
    };
    let router = Router::new().route("/", axum::routing::post(body));
    let reader = case.timeless().body_timeout(8 * SECOND).serve(router).unwrap();
    let (mut other, _other_connection) = connect(case, &reader).await;
    let start = Instant::now();
    let request = Request::post("http://a/").body(stalling("part")).unwrap();
    let response = other.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let waited = start.elapsed();
    assert!(waited >= 8 * SECOND && waited < 9 * SECOND, "{waited:?}");
    // Other streams of the connection go on.
    let request = Request::post("http://a/").body(Empty::new().boxed()).unwrap();
    assert_eq!(no_time(other.send_request(request)).await.unwrap().status(), StatusCode::OK);
    assert_eq!(no_time(ask(&mut client, "/echo")).await.unwrap(), "body");
}

/// Bytes that count how many of them HTTP/2 has taken. The count is 0 when they are dropped.
struct Counted(Bytes, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.store(0, SeqCst);
    }
}

impl Buf for Counted {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
        self.1.fetch_add(count, SeqCst);
    }
}

/// A stream without a window ends alone: other streams of its connection go on, also one whose handler waits
/// meanwhile. HTTP/2 has taken as much of the response as the window lets through, and a frame more.
async fn a_stalled_response_meets_its_deadline(case: Case) {
    let (app, taken) = (App::default(), Arc::new(AtomicUsize::new(0)));
    let (router, counted) = (app.router(), taken.clone());
    let service = tower::service_fn(move |request: Request<millpond_server::http::RequestBody>| {
        let (mut router, counted) = (router.clone(), counted.clone());
        async move {
            if request.uri().path() == "/large" {
                let frame = Frame::data(Counted(vec![b'x'; 16 << 20].into(), counted));
                let frames = futures_util::stream::iter([Ok::<_, axum::Error>(frame)]);
                return Ok(hyper::Response::new(Either::Left(StreamBody::new(frames))));
            }
            let response = tower::Service::call(&mut router, request).await?;
            let body = |body: axum::body::Body| {
                body.map_frame(|frame| frame.map_data(|data| Counted(data, Arc::default())))
            };
            Ok::<_, std::convert::Infallible>(response.map(body).map(Either::Right))
        }
    });
    let server = case.timeless().write_timeout(8 * SECOND).serve(service).unwrap();
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(100_000).initial_connection_window_size(1 << 20);
    let shaken = builder.handshake(TokioIo::new(case.http2_stream(tcp).await));
    let (mut client, connection) = no_time(shaken).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut held_client = client.clone();
    let held = tokio::spawn(async move { ask(&mut held_client, "/held/a").await });
    eventually(|| app.notes() == 1).await;
    let start = Instant::now();
    let request = Request::post("http://a/large").body(Empty::new().boxed()).unwrap();
    // The window of the stream is never given back.
    let stalled = no_time(client.send_request(request)).await.unwrap();
    while start.elapsed() < 20 * SECOND {
        sleep(SECOND).await;
        assert_eq!(no_time(ask(&mut client, "/echo")).await.unwrap(), "body");
        let (taken, seconds) = (taken.load(SeqCst), start.elapsed().as_secs());
        assert!(taken < 100_000 + 2 * 16_384, "{taken}");
        assert!(seconds == 8 || (taken > 0) == (seconds < 8), "{taken} after {seconds} s");
    }
    assert!(no_time(stalled.into_body().collect()).await.is_err());
    app.gate("a").open();
    assert_eq!(no_time(held).await.unwrap().unwrap(), "let go");
    drop(client);
    no_time(connection).await.unwrap().unwrap();
    nothing_left(&server).await;
}

async fn websockets_over_http2(case: Case) {
    let echo = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(Message::Text(text))) = socket.recv().await {
                let _ = socket.send(Message::Text(text)).await;
            }
        })
    };
    let router = Router::new().route("/ws", axum::routing::any(echo));
    let server = case.http().serve(router).unwrap();
    let (mut client, _connection) = connect(case, &server).await;
    let request = || {
        let mut request = Request::connect("http://a/ws")
            .header("sec-websocket-version", "13")
            .body(Empty::new().boxed())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        request
    };
    // The client may use the extension only after it has seen the server's settings.
    let response = loop {
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        match client.send_request(request()).await {
            Ok(response) => break response,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(response.status(), StatusCode::OK);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    // A masked text frame "hi"; the mask is zero.
    io.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut answer = [0; 4];
    soon(io.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [0x81, 2, b'h', b'i']);
}

async fn the_peer_ends_upgraded_ones(case: Case) {
    let server = serve(case.http(), &App::default());
    let mut client = case.client(&server).await;
    let raw = "GET /raw HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
    client.send(raw).await;
    assert_eq!(client.reply().await.status, 101);
    for _ in 0..10 {
        client.send("echo").await;
        assert_eq!(client.read_exact(4).await, b"echo");
    }
    client.finish().await;
    assert_eq!(client.gone().await, b"");
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Peer), 1, "{status:?}");
    // The turn counts the request and its answer, and the upgraded connection the rest.
    assert_eq!(status.bytes_in, raw.len() as u64 + 40, "{status:?}");
    assert!(status.bytes_out >= 40 + 80, "{status:?}");
}

async fn the_settings_of_http2_reach_the_peer(case: Case) {
    let settings = Http2::new()
        .max_concurrent_streams(7)
        .initial_stream_window_size(70_000)
        .max_frame_size(20_000)
        .max_header_list_size(5_000);
    let server = serve(case.http().http2(settings), &App::default());
    let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    peer.write_all(preface).await.unwrap();
    let mut head = [0; 9];
    soon(peer.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut payload = vec![0; usize::from(head[2])];
    peer.read_exact(&mut payload).await.unwrap();
    let told: std::collections::BTreeMap<u16, u32> = payload
        .chunks(6)
        .map(|pair| {
            let value = u32::from_be_bytes(pair[2..].try_into().unwrap());
            (u16::from_be_bytes([pair[0], pair[1]]), value)
        })
        .collect();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE and
    // ENABLE_CONNECT_PROTOCOL.
    let expected = [(3, 7), (4, 70_000), (5, 20_000), (6, 5_000), (8, 1)];
    for (setting, value) in expected {
        assert_eq!(told.get(&setting), Some(&value), "{setting}: {told:?}");
    }
    // Windows of connections begin at 65,535 bytes.
    let settings = Http2::new().initial_connection_window_size(200_000);
    let server = serve(case.http().http2(settings), &App::default());
    let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    peer.write_all(preface).await.unwrap();
    let update = loop {
        let mut head = [0; 9];
        soon(peer.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[2])];
        peer.read_exact(&mut payload).await.unwrap();
        if head[3] == 8 && head[5..] == [0; 4] {
            break u32::from_be_bytes(payload[..].try_into().unwrap());
        }
    };
    assert_eq!(update, 200_000 - 65_535);
    let refused = [
        ("http2.max_frame_size", Http2::new().max_frame_size(16_383)),
        ("http2.initial_stream_window_size", Http2::new().initial_stream_window_size(1 << 31)),
        ("http2.initial_connection_window_size", Http2::new().initial_connection_window_size(0)),
        ("http2.max_concurrent_streams", Http2::new().max_concurrent_streams(0)),
        ("http2.keep_alive_timeout", Http2::new().keep_alive_timeout(Duration::ZERO)),
    ];
    for (field, settings) in refused {
        let error = case.http().http2(settings).serve(App::default().router()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

async fn a_peer_that_answers_no_ping_is_left(case: Case) {
    let settings = Http2::new().keep_alive_interval(10 * SECOND).keep_alive_timeout(3 * SECOND);
    let server = serve(case.timeless().http2(settings), &App::default());
    let start = Instant::now();
    let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut sent = Vec::new();
    let _ = peer.read_to_end(&mut sent).await;
    let waited = start.elapsed();
    assert!(waited >= 13 * SECOND && waited < 15 * SECOND, "{waited:?}");
    // A frame of eight bytes: a ping, and no answer to one.
    assert!(sent.windows(5).any(|head| head == [0, 0, 8, 6, 0]), "{sent:?}");
    nothing_left(&server).await;
}
