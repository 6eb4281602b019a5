//! HTTP/2 by prior knowledge, and by ALPN over TLS: streams, their ends, and the server's shutdown.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{nothing_left, serve};
use crate::support::server::{Case, in_all_cases, in_both_modes, no_time};
use crate::support::*;
use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond_server::http::{RequestBody, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

in_all_cases!(double: many_streams, idle_ones_are_closed_under_load);
in_all_cases!(paused: idle_ones_are_closed, shutdown_lets_streams_finish, cut_off);
in_all_cases!(single: dropped_it_closes_all, panics, panics_in_call, resets_stay_bounded);
#[cfg(feature = "rustls")]
in_both_modes!(single: alpn_is_offered_by_default);

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(8);
const LAG: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Client(SendRequest<Full<Bytes>>);

/// Returns a client and its connection's task, which ends with the client.
async fn connect(case: Case, server: &Server) -> (Client, JoinHandle<hyper::Result<()>>) {
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let stream = case.http2_stream(tcp).await;
    let io = TokioIo::new(stream);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (client, connection) = no_time(shaken).await.unwrap();
    (Client(client), tokio::spawn(connection))
}

impl Client {
    async fn ask(&self, path: &str, body: impl Into<Bytes>) -> hyper::Result<Bytes> {
        let request = Request::post(format!("http://a{path}")).version(Version::HTTP_2);
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.0.clone().send_request(request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[cfg(feature = "rustls")]
async fn alpn_is_offered_by_default(case: Case) {
    let tls = crate::support::server::tls::server();
    assert!(tls.alpn_protocols.is_empty());
    let server = serve(case.http().tls(tls.clone()), &App::default());
    let case = Case { tls: true, ..case };
    let (client, _connection) = connect(case, &server).await;
    assert_eq!(client.ask("/echo", "body").await.unwrap(), "body");
    // So it is after a reload.
    server.reload_tls(tls).unwrap();
    let (client, _connection) = connect(case, &server).await;
    assert_eq!(client.ask("/echo", "body").await.unwrap(), "body");
    // A client that offers HTTP/1.1 alone gets that.
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    crate::support::server::tls::connect_alpn(tcp, b"http/1.1").await.unwrap();
    // A client without ALPN speaks HTTP/1.
    let mut client = case.client(&server).await;
    assert_eq!(client.exchange(crate::support::http::server::HELLO).await, "200 hello");
}

async fn many_streams(case: Case) {
    let app = App::default();
    let server = serve(case.http(), &app);
    let (client, connection) = connect(case, &server).await;
    let asking: Vec<_> = (0..20u8)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let body = vec![n; 1 << 20];
                assert!(client.ask("/echo", body.clone()).await.unwrap() == body, "{n}");
            })
        })
        .collect();
    // One request waits, and another is answered meanwhile.
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.ask("/held/a", "").await }
    });
    eventually(|| app.inside().now() == 1).await;
    assert!(client.ask("/hello/", "").await.is_ok());
    for asking in asking {
        asking.await.unwrap();
    }
    let status = server.status();
    assert_eq!((status.open, status.parked, status.http_states), (1, 0, 1), "{status:?}");
    app.gate("a").open();
    assert_eq!(held.await.unwrap().unwrap(), "let go");
    drop(client);
    connection.await.unwrap().unwrap();
    nothing_left(&server).await;
}

async fn idle_ones_are_closed(case: Case) {
    let app = App::default();
    let server = serve(case.timeless().keep_alive_timeout(LIMIT), &app);
    for used in [false, true] {
        let (client, connection) = connect(case, &server).await;
        eventually(|| server.status().http_states == 1).await;
        if used {
            assert_eq!(no_time(client.ask("/echo", "body")).await.unwrap(), "body");
            sleep(LIMIT - SECOND).await;
            // A handler that waits is not idle.
            let held = tokio::spawn({
                let client = client.clone();
                async move { client.ask("/held/a", "").await }
            });
            sleep(100 * LIMIT).await;
            app.gate("a").open();
            assert_eq!(no_time(held).await.unwrap().unwrap(), "let go");
        }
        let start = Instant::now();
        let _ = within(20 * LIMIT, connection).await.expect("it is closed some time");
        let waited = start.elapsed();
        assert!(waited >= LIMIT - SECOND && waited <= LIMIT + LAG, "{waited:?}");
        assert!(client.ask("/hello/", "").await.is_err());
        nothing_left(&server).await;
    }
}

/// The connection learns of the end of each stream, whichever thread the stream ends on.
async fn idle_ones_are_closed_under_load(case: Case) {
    let timeout = Duration::from_millis(50);
    // A client may need longer than the timeout from its handshake to its first byte.
    let builder = case.timeless().keep_alive_timeout(timeout).max_connections_per_ip(None);
    let builder = builder.first_byte_timeout(1200 * timeout);
    let server = Arc::new(serve(builder, &App::default()));
    // A busy machine has no time for all rounds.
    let start = std::time::Instant::now();
    for _ in (0..5).take_while(|_| start.elapsed() < Duration::from_secs(8)) {
        let clients = (0..20).map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let (client, connection) = connect(case, &server).await;
                let asking = (0..4).map(|_| client.ask("/echo", vec![0; 1000]));
                // On a slow machine the pause may exceed the timeout.
                let _ = futures_util::future::join_all(asking).await;
                let _ = soon(connection).await;
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
    nothing_left(&server).await;
}

async fn shutdown_lets_streams_finish(case: Case) {
    let app = App::default();
    let server = Arc::new(serve(case.timeless(), &app));
    let (idle, idle_connection) = connect(case, &server).await;
    assert_eq!(no_time(idle.ask("/echo", "body")).await.unwrap(), "body");
    let (silent, silent_connection) = connect(case, &server).await;
    let (busy, busy_connection) = connect(case, &server).await;
    let held: Vec<_> = ["/held/a", "/sse/a"]
        .map(|path| {
            let client = busy.clone();
            tokio::spawn(async move { client.ask(path, "").await })
        })
        .into();
    eventually(|| app.inside().now() == 1 && app.notes() == 3).await;
    eventually(|| server.status().http_states == 3).await;
    let start = Instant::now();
    let ending = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(100 * SECOND).await }
    });
    for connection in [idle_connection, silent_connection] {
        no_time(connection).await.unwrap().unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(10 * SECOND).await;
    assert_eq!(server.status().open, 1);
    // After the GOAWAY new requests need another connection.
    assert!(no_time(busy.ask("/echo", "body")).await.is_err());
    app.gate("a").open();
    let mut held = held.into_iter();
    assert_eq!(no_time(held.next().unwrap()).await.unwrap().unwrap(), "let go");
    assert_eq!(no_time(held.next().unwrap()).await.unwrap().unwrap().len(), 27);
    no_time(busy_connection).await.unwrap().unwrap();
    let report = no_time(ending).await.unwrap();
    assert_eq!((report.closed, report.others, report.aborted, report.still_open), (3, 0, 0, 0));
    assert_eq!(start.elapsed().as_secs(), 10);
    nothing_left(&server).await;
    drop((idle, silent, busy));
}

async fn cut_off(case: Case) {
    let app = App::default();
    let server = serve(case.timeless(), &app);
    let (client, connection) = connect(case, &server).await;
    let held = tokio::spawn(async move { client.ask("/held/a", "").await });
    eventually(|| app.inside().now() == 1).await;
    let report = server.shutdown(10 * SECOND).await;
    assert_eq!((report.closed, report.others, report.aborted, report.still_open), (0, 0, 1, 0));
    assert!(soon(held).await.unwrap().is_err());
    let _ = soon(connection).await;
    eventually(|| app.inside().now() == 0).await;
    nothing_left(&server).await;
}

async fn dropped_it_closes_all(case: Case) {
    let app = App::default();
    let server = serve(case.timeless(), &app);
    let (idle, idle_connection) = connect(case, &server).await;
    let (client, connection) = connect(case, &server).await;
    let held = tokio::spawn(async move { client.ask("/held/a", "").await });
    eventually(|| app.inside().now() == 1 && server.status().http_states == 2).await;
    drop(server);
    assert!(soon(held).await.unwrap().is_err());
    let _ = soon(connection).await;
    let _ = soon(idle_connection).await;
    eventually(|| app.inside().now() == 0).await;
    drop(idle);
}

/// A service that panics before it returns a future ends its stream alone.
async fn panics_in_call(case: Case) {
    let service = tower::service_fn(|request: Request<RequestBody>| {
        assert_ne!(request.uri().path(), "/panic");
        ready(Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("fine")))))
    });
    let server = case.timeless().serve(service).unwrap();
    let (client, connection) = connect(case, &server).await;
    for _ in 0..3 {
        assert!(client.ask("/panic", "").await.is_err());
        assert_eq!(client.ask("/", "").await.unwrap(), "fine");
    }
    drop(client);
    connection.await.unwrap().unwrap();
    nothing_left(&server).await;
}

async fn panics(case: Case) {
    let server = serve(case.timeless(), &App::default());
    let (client, connection) = connect(case, &server).await;
    for _ in 0..3 {
        assert!(client.ask("/panic", "").await.is_err());
        assert_eq!(client.ask("/echo", "body").await.unwrap(), "body");
    }
    drop(client);
    connection.await.unwrap().unwrap();
    nothing_left(&server).await;
}

/// Counts the calls of a service that are under way.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, SeqCst);
        Self(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Rapid resets: a request and its reset, again and again.
async fn resets_stay_bounded(case: Case) {
    let (running, calls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (of_app, all) = (running.clone(), calls.clone());
    let waits = move || async move {
        all.fetch_add(1, SeqCst);
        let _running = Running::new(&of_app);
        std::future::pending::<()>().await;
    };
    let server = case.http().serve(Router::new().fallback(waits)).unwrap();
    let id = |number: u32| (2 * number + 1).to_be_bytes();
    let request = |number| {
        let block = b"\x82\x86\x84\x41\x01a";
        [&[0, 0, block.len() as u8, 1, 5][..], &id(number), block].concat()
    };
    let reset = |number| [&[0, 0, 4, 3, 0][..], &id(number), &8u32.to_be_bytes()].concat();
    let open = async || {
        let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        let mut peer = case.http2_stream(tcp).await;
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        peer
    };
    // One by one: each call ends with its stream.
    let mut peer = open().await;
    for number in 0..300 {
        peer.write_all(&request(number)).await.unwrap();
        eventually(|| running.load(SeqCst) == 1).await;
        peer.write_all(&reset(number)).await.unwrap();
        eventually(|| running.load(SeqCst) == 0).await;
    }
    assert_eq!((calls.swap(0, SeqCst), server.status().open), (300, 1));
    drop(peer);
    nothing_left(&server).await;
    // All at once: the connection ends after a few.
    let mut peer = open().await;
    let all: Vec<u8> = (0..2_000).flat_map(|n| [request(n), reset(n)].concat()).collect();
    let _ = peer.write_all(&all).await;
    let mut rest = Vec::new();
    let _ = soon(peer.read_to_end(&mut rest)).await;
    drop(peer);
    nothing_left(&server).await;
    assert_eq!(running.load(SeqCst), 0);
    assert!(calls.load(SeqCst) < 300, "{calls:?}");
}
