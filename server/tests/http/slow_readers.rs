//! Slow peers: no timer and no shutdown cuts a response while its bytes move, whatever the protocol. If a
//! peer takes nothing, a deadline closes the connection and counts as the reason.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::http::server::{get, nothing_left};
use crate::support::server::{Case, Client, Stream, in_all_cases, no_time, unchanged};
use crate::support::*;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use bytes::Bytes;
use futures_util::stream::repeat_with;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond_server::http::Server;
use millpond_server::{CloseReason, Deadline, ShutdownReport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

in_all_cases!(paused: a_shutdown_waits_for_streams, keep_alive_waits_for_streams);
in_all_cases!(paused: a_shutdown_waits_for_the_kernel, keep_alive_waits_for_the_kernel);
in_all_cases!(paused: stalled_streams_are_aborted, stalled_streams_meet_the_write_deadline);
in_all_cases!(paused: streams_that_peers_leave_are_not_closed, tunnels_are_not_idle);
in_all_cases!(paused: a_small_window_is_no_stall, work_is_no_stall);
in_all_cases!(paused: replies_outlive_all_but_the_deadline, upgraded_ones_outlive_all_but_the_deadline);

const SECOND: Duration = Duration::from_secs(1);
/// Shorter than a download, longer than a pause.
const LIMIT: Duration = Duration::from_secs(8);
/// Longer than the shutdown timeout of HTTP/2.
const PAUSE: Duration = Duration::from_secs(5);
const LARGE: usize = 1 << 20;
/// How much the client takes at a time.
const STEP: usize = 64 << 10;

/// An app with large responses, CONNECT tunnels, and a large download after an upgrade.
fn app() -> Router {
    let large = || async { vec![b'x'; LARGE] };
    let up = |mut request: Request| async move {
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = on.await else { return };
            let mut io = TokioIo::new(upgraded);
            let mut bytes = vec![b'x'; 4 * LARGE];
            if io.write_all(&bytes).await.is_ok() && io.flush().await.is_ok() {
                let _ = io.shutdown().await;
                let _ = io.read_to_end(&mut bytes).await;
            }
        });
        let headers = [("connection", "upgrade"), ("upgrade", "raw")];
        let response: Response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        response
    };
    let echo = |mut request: Request| async move {
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = on.await else { return };
            let mut io = TokioIo::new(upgraded);
            let mut bytes = [0; 100];
            while let Ok(count @ 1..) = io.read(&mut bytes).await {
                let _ = io.write_all(&bytes[..count]).await;
                let _ = io.flush().await;
            }
        });
        StatusCode::OK
    };
    let huge = || async { vec![b'x'; 8 * LARGE] };
    Router::new()
        .route("/large", on_get(large))
        .route("/huge", on_get(huge))
        .route("/up", on_get(up))
        .fallback(echo)
}

fn shutdown(server: &Arc<Server>, deadline: Duration) -> JoinHandle<ShutdownReport> {
    let server = server.clone();
    tokio::spawn(async move { server.shutdown(deadline).await })
}

#[track_caller]
fn is(report: ShutdownReport, closed: u64, others: u64, aborted: u64) {
    let all = (report.closed, report.others, report.aborted, report.still_open);
    assert_eq!(all, (closed, others, aborted, 0), "{report:?}");
}

/// A stream that reads no more bytes than are allowed. It breaks when the sender of the limit is gone.
struct Paced {
    stream: Stream,
    allowed: watch::Receiver<usize>,
    read: usize,
    changes: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let room = self.allowed.borrow().saturating_sub(self.read).min(buffer.remaining());
            if room > 0 {
                let mut part = buffer.take(room);
                let polled = Pin::new(&mut self.stream).poll_read(cx, &mut part);
                let count = part.filled().len();
                // Copied, since `part` borrows a part of the buffer.
                let bytes = part.filled().to_vec();
                buffer.put_slice(&bytes);
                self.read += count;
                return polled;
            }
            let mut allowed = self.allowed.clone();
            let read = self.read;
            let changes = self.changes.get_or_insert_with(|| {
                Box::pin(async move { allowed.wait_for(|allowed| *allowed > read).await.is_ok() })
            });
            let goes_on = std::task::ready!(changes.as_mut().poll(cx));
            self.changes = None;
            if !goes_on {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
            }
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client of HTTP/2 with a limit of bytes to read and a window of its own.
struct Http2 {
    client: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
    allow: watch::Sender<usize>,
}

async fn connect(case: Case, server: &Server, window: u32, allowed: usize) -> Http2 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(server.local_addrs()[0]).await.unwrap();
    let stream = case.http2_stream(tcp).await;
    let (allow, allowed) = watch::channel(allowed);
    let paced = Paced { stream, allowed, read: 0, changes: None };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window).initial_connection_window_size(window);
    let (client, connection) = no_time(builder.handshake(TokioIo::new(paced))).await.unwrap();
    Http2 { client, connection: tokio::spawn(connection), allow }
}

impl Http2 {
    async fn get(&mut self, path: &str) -> Incoming {
        let request = hyper::Request::get(format!("http://a{path}")).body(Empty::new()).unwrap();
        no_time(self.client.send_request(request)).await.unwrap().into_body()
    }
}

/// Reads frames until `most` bytes have come, or until the end.
async fn take(body: &mut Incoming, most: usize) -> hyper::Result<usize> {
    let mut taken = 0;
    while taken < most {
        match no_time(body.frame()).await {
            Some(frame) => taken += frame?.into_data().map_or(0, |data| data.len()),
            None => break,
        }
    }
    Ok(taken)
}

/// Reads the rest of a body, with pauses.
async fn take_slowly(body: &mut Incoming) -> usize {
    let mut all = 0;
    loop {
        sleep(PAUSE).await;
        match take(body, STEP).await.unwrap_or_else(|error| panic!("cut after {all}: {error:?}")) {
            0 => return all,
            taken => all += taken,
        }
    }
}

/// Hyper has the whole response at once and sends it as the peer's window allows.
async fn a_shutdown_waits_for_streams(case: Case) {
    let server = Arc::new(case.narrow_timeless().serve(app()).unwrap());
    let mut peer = connect(case, &server, STEP as u32, usize::MAX).await;
    let mut body = peer.get("/large").await;
    let first = take(&mut body, 1).await.unwrap();
    settle().await;
    let ending = shutdown(&server, 1000 * SECOND);
    assert_eq!(first + take_slowly(&mut body).await, LARGE);
    drop(peer.client);
    no_time(peer.connection).await.unwrap().unwrap();
    is(no_time(ending).await.unwrap(), 1, 0, 0);
    nothing_left(&server).await;
}

async fn keep_alive_waits_for_streams(case: Case) {
    let builder = case.narrow_timeless().keep_alive_timeout(LIMIT);
    let server = builder.serve(app()).unwrap();
    let mut peer = connect(case, &server, STEP as u32, usize::MAX).await;
    for _ in 0..2 {
        let mut body = peer.get("/large").await;
        assert_eq!(take_slowly(&mut body).await, LARGE);
    }
    // A stream that waits for the peer is not idle.
    let mut body = peer.get("/large").await;
    sleep(100 * LIMIT).await;
    assert_eq!(take_slowly(&mut body).await, LARGE);
    sleep(3 * LIMIT).await;
    no_time(peer.connection).await.unwrap().unwrap();
    nothing_left(&server).await;
}

/// Reads what the socket has, with pauses, until the body is whole.
async fn pace(peer: &Http2, mut body: Incoming, right: usize) {
    let reading = tokio::spawn(async move { body_size(&mut body).await });
    while !reading.is_finished() {
        sleep(PAUSE).await;
        peer.allow.send_modify(|allowed| *allowed += 4 * STEP);
        // Until the client has read that much, or has all of it.
        for _ in 0..5 {
            settle().await;
        }
    }
    assert_eq!(reading.await.unwrap(), Ok(right));
}

async fn body_size(body: &mut Incoming) -> Result<usize, String> {
    let mut all = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("cut after {all}: {error:?}"))?;
        all += frame.into_data().map_or(0, |data| data.len());
    }
    Ok(all)
}

/// The last bytes stay in the kernel for long, and the peer still sends window updates.
async fn a_shutdown_waits_for_the_kernel(case: Case) {
    let server = Arc::new(case.narrow_timeless().serve(app()).unwrap());
    let mut peer = connect(case, &server, 1 << 20, 2 * STEP).await;
    let body = peer.get("/huge").await;
    settle().await;
    let ending = shutdown(&server, 1000 * SECOND);
    pace(&peer, body, 8 * LARGE).await;
    peer.allow.send_replace(usize::MAX);
    no_time(peer.connection).await.unwrap().unwrap();
    is(no_time(ending).await.unwrap(), 1, 0, 0);
    nothing_left(&server).await;
}

async fn keep_alive_waits_for_the_kernel(case: Case) {
    let builder = case.narrow_timeless().keep_alive_timeout(SECOND);
    let server = builder.serve(app()).unwrap();
    let mut peer = connect(case, &server, 1 << 20, 2 * STEP).await;
    let body = peer.get("/huge").await;
    pace(&peer, body, 8 * LARGE).await;
    peer.allow.send_replace(usize::MAX);
    sleep(3 * LIMIT).await;
    no_time(peer.connection).await.unwrap().unwrap();
    nothing_left(&server).await;
}

async fn stalled_streams_are_aborted(case: Case) {
    let builder = case.narrow_timeless().keep_alive_timeout(LIMIT);
    let server = Arc::new(builder.serve(app()).unwrap());
    // One peer takes bytes and opens no window; the other takes none.
    let mut peers = Vec::new();
    for (window, allowed, path) in [(STEP as u32, usize::MAX, "/large"), (1 << 24, STEP, "/huge")] {
        let mut peer = connect(case, &server, window, allowed).await;
        let body = peer.get(path).await;
        peers.push((peer, body));
    }
    sleep(100 * LIMIT).await;
    assert_eq!(server.status().open, 2);
    is(server.shutdown(3 * SECOND).await, 0, 0, 2);
    for (peer, mut body) in peers {
        peer.allow.send_replace(usize::MAX);
        assert!(no_time(body_size(&mut body)).await.is_err());
    }
    nothing_left(&server).await;
}

async fn stalled_streams_meet_the_write_deadline(case: Case) {
    for shuts_down in [false, true] {
        let builder = case.narrow_timeless().write_timeout(LIMIT);
        let server = Arc::new(builder.serve(app()).unwrap());
        let mut peer = connect(case, &server, STEP as u32, usize::MAX).await;
        let mut body = peer.get("/large").await;
        let ending = shuts_down.then(|| shutdown(&server, 100 * LIMIT));
        for _ in 0..3 {
            sleep(PAUSE).await;
            assert!(take(&mut body, STEP).await.unwrap() > 0);
        }
        sleep(PAUSE).await;
        assert_eq!(server.status().open, 1);
        sleep(LIMIT).await;
        assert!(no_time(body_size(&mut body)).await.is_err());
        let status = nothing_left(&server).await;
        assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::Write)), 1, "{status:?}");
        if let Some(ending) = ending {
            is(no_time(ending).await.unwrap(), 0, 1, 0);
        }
    }
}

/// A response may find the kernel as full as the one before has left it. What the peer took meanwhile shows in
/// no count, so the deadline begins behind the work of the handler.
async fn work_is_no_stall(case: Case) {
    let (gate, inside) = (Gate::new(), Gauge::default());
    let held = {
        let (gate, inside) = (gate.clone(), inside.clone());
        move || {
            let (gate, inside) = (gate.clone(), inside.clone());
            async move {
                let _inside = inside.enter();
                gate.wait().await;
                vec![b'x'; LARGE]
            }
        }
    };
    let some = |Path(size): Path<usize>| async move { vec![b'x'; size] };
    let app = Router::new().route("/held", on_get(held)).route("/{size}", on_get(some));
    let server = case.smallest_http().write_timeout(LIMIT).serve(app).unwrap();
    for size in (20_000..26_000).step_by(200) {
        let mut client = case.narrow(&server).await;
        client.send([get(&format!("/{size}")), get("/held")].concat()).await;
        settle().await;
        while inside.now() == 0 {
            no_time(client.read_some(200)).await.unwrap();
            settle().await;
        }
        sleep(10 * LIMIT).await;
        gate.pass(1);
        settle().await;
        sleep(LIMIT - SECOND).await;
        assert_eq!(server.status().open, 1, "{case:?}: {size}");
        drop(client);
        nothing_left(&server).await;
    }
}

/// A window lets some bytes of a part through at a time. The deadline of the stream begins with the last of
/// them, and other streams go on.
async fn a_small_window_is_no_stall(case: Case) {
    const WINDOW: u32 = 1000;
    let body = Arc::new(());
    let kept = body.clone();
    let endless = move || {
        let kept = kept.clone();
        let part = move || {
            let _ = &kept;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; STEP]))
        };
        async move { Body::from_stream(repeat_with(part)) }
    };
    let app = app().route("/endless", on_get(endless));
    let server = case.narrow_timeless().write_timeout(LIMIT).serve(app).unwrap();
    let mut peer = connect(case, &server, WINDOW, usize::MAX).await;
    // Its connection stays open beside the stream that is reset.
    let request = hyper::Request::connect("a:1").body(Empty::new()).unwrap();
    let tunnel = no_time(peer.client.send_request(request)).await.unwrap();
    let tunnel = no_time(hyper::upgrade::on(tunnel)).await.unwrap();
    let others = Arc::strong_count(&body);
    let mut taken = peer.get("/endless").await;
    for _ in 0..8 {
        unchanged(|| ()).await;
        sleep(PAUSE).await;
        let taken = take(&mut taken, 1).await.unwrap_or_else(|error| panic!("cut: {error:?}"));
        assert!(taken > 0 && taken <= WINDOW as usize, "{taken}");
    }
    // These frames have opened the window for the last time.
    unchanged(|| ()).await;
    sleep(LIMIT - SECOND).await;
    assert_eq!(Arc::strong_count(&body), others + 1, "{case:?}");
    sleep(2 * SECOND).await;
    assert_eq!(Arc::strong_count(&body), others, "{case:?}");
    assert_eq!(server.status().open, 1);
    drop((taken, tunnel, peer.client));
    no_time(peer.connection).await.unwrap().unwrap();
    nothing_left(&server).await;
}

async fn streams_that_peers_leave_are_not_closed(case: Case) {
    let server = Arc::new(case.narrow_timeless().serve(app()).unwrap());
    let mut peer = connect(case, &server, STEP as u32, STEP / 2).await;
    let mut body = peer.get("/large").await;
    take(&mut body, 1).await.unwrap();
    let ending = shutdown(&server, 1000 * SECOND);
    settle().await;
    drop(peer.allow);
    assert!(no_time(peer.connection).await.unwrap().is_err());
    is(no_time(ending).await.unwrap(), 0, 1, 0);
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Shutdown), 0, "{status:?}");
}

/// A tunnel lasts until the code that owns it drops it.
async fn tunnels_are_not_idle(case: Case) {
    let builder = case.narrow_timeless().keep_alive_timeout(LIMIT);
    let server = Arc::new(builder.serve(app()).unwrap());
    let mut peer = connect(case, &server, 1 << 20, usize::MAX).await;
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let request = hyper::Request::connect("a:1").body(Empty::new()).unwrap();
        let response = no_time(peer.client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        let upgraded = no_time(hyper::upgrade::on(response)).await.unwrap();
        tunnels.push(TokioIo::new(upgraded));
    }
    let ending = {
        sleep(100 * LIMIT).await;
        assert_eq!(server.status().open, 1);
        shutdown(&server, 100 * LIMIT)
    };
    let mut bytes = [0; 4];
    for _ in 0..5 {
        sleep(PAUSE).await;
        for tunnel in &mut tunnels {
            no_time(tunnel.write_all(b"echo")).await.unwrap();
            no_time(tunnel.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(&bytes, b"echo");
        }
    }
    is(ending.await.unwrap(), 0, 0, 1);
    nothing_left(&server).await;
}

/// Reads the rest of a stream, with pauses.
async fn read_slowly(client: &mut Client) -> usize {
    let mut all = 0;
    loop {
        sleep(PAUSE).await;
        let mut taken = 0;
        while taken < 8 * STEP {
            match no_time(client.read_some(STEP)).await.expect("it was cut") {
                0 => return all + taken,
                count => taken += count,
            }
        }
        all += taken;
    }
}

/// HTTP/1: the response to `request` has `right` bytes and a head.
async fn outlives_all_but_the_deadline(case: Case, request: &str, right: usize) {
    let builder =
        case.narrow_timeless().keep_alive_timeout(LIMIT).write_timeout(LIMIT).shutdown_grace(None);
    let server = Arc::new(builder.serve(app()).unwrap());
    let mut client = case.narrow(&server).await;
    client.send(request).await;
    no_time(client.read_exact(STEP)).await;
    let ending = shutdown(&server, 1000 * SECOND);
    let all = STEP + read_slowly(&mut client).await;
    assert!(all > right && all < right + 1000, "{all}");
    drop(client);
    is(no_time(ending).await.unwrap(), 1, 0, 0);
    nothing_left(&server).await;

    let server = Arc::new(case.narrow_timeless().serve(app()).unwrap());
    let mut client = case.narrow(&server).await;
    client.send(request).await;
    no_time(client.read_exact(STEP)).await;
    is(server.shutdown(3 * SECOND).await, 0, 0, 1);
    assert!(no_time(client.gone()).await.len() < right);
    nothing_left(&server).await;
}

async fn replies_outlive_all_but_the_deadline(case: Case) {
    outlives_all_but_the_deadline(case, &get("/huge"), 8 * LARGE).await;
}

async fn upgraded_ones_outlive_all_but_the_deadline(case: Case) {
    let up = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
    outlives_all_but_the_deadline(case, up, 4 * LARGE).await;
}
