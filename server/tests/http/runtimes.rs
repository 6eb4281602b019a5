//! Servers beside a second runtime: handlers and bodies that it wakes, a pool that it runs, its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond::Pool;
use millpond_server::http::Server;
use millpond_server::ws::{Message, WebSocketUpgrade};
use millpond_server::{BoxError, CloseReason, Connection, Handler};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use crate::support::http::app::{App, channel, digest_of};
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve, websocket};
use crate::support::other_runtime::OtherRuntime;
use crate::support::server::{Case, Client, in_all_cases, in_both_modes, no_time};
use crate::support::*;

in_all_cases!(single: handlers_and_bodies, a_runtime_ends, of_one_thread_ends);
in_all_cases!(single: a_shared_pool_loses_its_runtime, a_pool_without_sockets);
in_all_cases!(single: a_shutdown_on_a_runtime_that_ends);
in_all_cases!(double: handlers_and_bodies_of_threads, a_shared_pool_of_threads);
in_all_cases!(double_for_long: many_ends);
in_all_cases!(paused: on_a_paused_clock);
in_both_modes!(single: an_unstarted_server_ends);

const SECOND: Duration = Duration::from_secs(1);

/// More requests than make a connection busy.
const MANY: usize = 8;

async fn asks_often(client: &mut Client) {
    for _ in 0..MANY {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    }
}

/// An app whose handlers read and write their bodies in tasks of another runtime. `/slow` sleeps there.
fn elsewhere(other: &Handle) -> Router {
    let other = other.clone();
    let answer = move |request: Request| {
        let other = other.clone();
        async move { answer_elsewhere(&other, request).await }
    };
    App::default().router().route("/else/{kind}", any(answer))
}

async fn answer_elsewhere(other: &Handle, request: Request) -> Response {
    let kind = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let read = other.spawn(async move {
        if kind == "slow" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        request.into_body().collect().await.map(|body| body.to_bytes())
    });
    let Ok(Ok(bytes)) = read.await else { return "cut off".into_response() };
    let (sender, body) = channel();
    other.spawn(async move {
        for piece in bytes.chunks(1000) {
            tokio::task::yield_now().await;
            let data = Frame::data(Bytes::copy_from_slice(piece));
            if sender.send(data).await.is_err() {
                return;
            }
        }
    });
    body.into_response()
}

async fn handlers_and_bodies(case: Case) {
    bodies_elsewhere(case, 0).await;
}

async fn handlers_and_bodies_of_threads(case: Case) {
    bodies_elsewhere(case, 2).await;
}

/// No wake-up of the other runtime is lost, at rest, with a task and with hyper's state.
async fn bodies_elsewhere(case: Case, threads: usize) {
    let other = OtherRuntime::new(threads);
    let server = case.http().serve(elsewhere(other.handle())).unwrap();
    let mut asking = Vec::new();
    for n in 0..6 {
        let mut client = case.client(&server).await;
        asking.push(tokio::spawn(async move {
            for round in 0..40 {
                let body = "body ".repeat((n * 7 + round * 13) % 900);
                let kind = if round % 2 == 0 { "slow" } else { "quick" };
                let request = post(&format!("/else/{kind}"), body.len()) + &body;
                let (first, rest) = request.split_at(request.len() / 2);
                client.send(first).await;
                tokio::task::yield_now().await;
                client.send(rest).await;
                let reply = soon(client.reply()).await.text();
                assert!(reply == format!("200 {body}"), "{} of {}", reply.len(), body.len());
            }
            client
        }));
    }
    let mut clients = Vec::new();
    for asking in asking {
        clients.push(asking.await.unwrap());
    }
    at_rest(&server, 6, 0).await;
    // In the middle of a body that a task of the other runtime reads.
    for client in &mut clients {
        client.send(post("/else/quick", 100) + "part").await;
    }
    settle().await;
    other.end().await;
    for client in &mut clients {
        // The body's reader is gone: the answer may come before the rest of the body.
        let reply = soon(client.reply()).await;
        assert_eq!(reply.text(), "200 cut off");
    }
    drop(clients);
    // The server itself is well.
    let mut client = case.client(&server).await;
    asks_often(&mut client).await;
    drop(client);
    nothing_left(&server).await;
}

/// Echoes the messages of a WebSocket, or waits for ever after one.
#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    type In = Message;
    type Out = Message;
    type State = ();

    async fn on_frame(&self, to: &Connection<Message>, message: Message) -> Result<(), BoxError> {
        let waits = message == Message::text("wait");
        to.send(message).await?;
        match waits {
            true => std::future::pending().await,
            false => Ok(()),
        }
    }
}

/// Awaits the WebSocket that was asked for, and the echo of its first message.
async fn first_message(client: &mut Client, text: &str) {
    assert_eq!(client.reply().await.status, 101);
    client.send([b"\x81\x84\0\0\0\0", text.as_bytes()].concat()).await;
    assert_eq!(client.read_exact(6).await[2..], *text.as_bytes());
}

/// Connections of each kind, and a server that has them.
struct All {
    server: Server,
    clients: Vec<Client>,
    /// Keeps the connection of HTTP/2 open.
    http2: JoinHandle<bool>,
    app: App,
}

impl All {
    /// Serves on the other runtime.
    async fn of(case: Case, other: &OtherRuntime, pool: Option<&Pool>) -> Self {
        let app = App::default();
        let server = {
            let _entered = other.enter();
            let builder = case.timeless().shutdown_grace(None);
            let builder = if let Some(pool) = pool { builder.pool(pool) } else { builder };
            let upgrade = async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(Echo);
            builder.serve(app.router().route("/ws/{text}", any(upgrade))).unwrap()
        };
        let mut clients = Vec::new();
        let up = "GET /raw HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
        let large = "y".repeat(5000);
        let sent = [
            String::new(),
            HELLO.to_owned(),
            HELLO[..20].to_owned(),
            format!("GET /hello HTTP/1.1\r\nx: {large}"),
            post("/digest", 100) + "part",
            post("/echo", 100) + "part",
            get("/held/a"),
            get("/held/a"),
            get("/sse/a"),
            get("/big"),
            up.to_owned(),
            websocket("/ws/echo"),
            websocket("/ws/wait"),
        ];
        for sent in &sent {
            for busy in [false, true] {
                let mut client = case.client(&server).await;
                if busy {
                    asks_often(&mut client).await;
                }
                client.send(sent).await;
                if sent == up {
                    assert_eq!(client.reply().await.status, 101);
                    client.send("echo").await;
                    assert_eq!(client.read_exact(4).await, b"echo");
                }
                if let Some(path) = sent.strip_prefix("GET /ws/") {
                    first_message(&mut client, &path[..4]).await;
                }
                clients.push(client);
            }
        }
        let http2 = streams(case, &server).await;
        let open = clients.len() + 1;
        eventually(|| server.status().open == open && app.inside().now() >= 5).await;
        Self { server, clients, http2, app }
    }

    /// All has ended with the runtime.
    async fn ended(self) {
        let Self { server, mut clients, http2, app } = self;
        let open = clients.len() as u64 + 1;
        for client in &mut clients {
            soon(client.gone()).await;
        }
        assert!(!soon(http2).await.unwrap());
        let status = nothing_left(&server).await;
        assert_eq!(app.inside().now(), 0);
        assert_eq!((status.accepted, status.closed), (open, open), "{status:?}");
        let report = soon(server.shutdown(10 * SECOND)).await;
        let counts = (report.closed, report.others, report.aborted, report.still_open);
        assert_eq!(counts, (0, 0, 0, 0), "{report:?}");
    }
}

/// Opens an HTTP/2 connection with one stream that has ended, and one that waits. Returns whether that one is
/// answered.
async fn streams(case: Case, server: &Server) -> JoinHandle<bool> {
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let io = TokioIo::new(case.http2_stream(tcp).await);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut client, connection) = no_time(shaken).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        let request = hyper::Request::get(format!("http://a{path}"));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let answer = no_time(client.send_request(request("/hello"))).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let waits = client.send_request(request("/held/a"));
    tokio::spawn(async move {
        let is_answered = waits.await.is_ok();
        drop(client);
        is_answered
    })
}

/// The end of a runtime ends the servers that were started in it, with all that they have.
async fn a_runtime_ends(case: Case) {
    ends_of(case, 2).await;
}

async fn of_one_thread_ends(case: Case) {
    ends_of(case, 0).await;
}

async fn ends_of(case: Case, threads: usize) {
    let other = OtherRuntime::new(threads);
    let all = All::of(case, &other, None).await;
    other.end().await;
    let status = all.server.status();
    assert_eq!(status.open, 0, "{status:?}");
    all.ended().await;
    // During a shutdown that another runtime waits for.
    let other = OtherRuntime::new(threads);
    let All { server, mut clients, http2, .. } = All::of(case, &other, None).await;
    let server = Arc::new(server);
    let stops = server.clone();
    let report = tokio::spawn(async move { stops.shutdown(100 * SECOND).await });
    eventually(|| server.status().closed_for(CloseReason::Shutdown) >= 2).await;
    other.end().await;
    let report = soon(report).await.unwrap();
    let all = clients.len() as u64 + 1;
    assert_eq!(report.closed + report.others + report.aborted, all, "{report:?}");
    // Those whose handlers wait.
    assert!(report.aborted >= 7 && report.still_open == 0, "{report:?}");
    for client in &mut clients {
        soon(client.gone()).await;
    }
    assert!(!soon(http2).await.unwrap());
    nothing_left(&server).await;
}

async fn a_shared_pool_loses_its_runtime(case: Case) {
    shared_pool(case, 0).await;
}

async fn a_shared_pool_of_threads(case: Case) {
    shared_pool(case, 2).await;
}

/// Two servers on two runtimes share a pool, which runs in the first. The end of the first leaves the second
/// its connections, but for those that it was serving.
async fn shared_pool(case: Case, threads: usize) {
    let pool = Pool::builder().size(64).build().unwrap();
    let other = OtherRuntime::new(threads);
    let first = All::of(case, &other, Some(&pool)).await;
    let app = App::default();
    let server = serve(case.timeless().shutdown_grace(None).pool(&pool), &app);
    let (mut idle, mut busy, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..4 {
        let mut client = case.client(&server).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        idle.push(client);
        let mut client = case.client(&server).await;
        asks_often(&mut client).await;
        busy.push(client);
        let mut client = case.client(&server).await;
        if n % 2 == 0 {
            asks_often(&mut client).await;
        }
        client.send(get("/held/b")).await;
        held.push(client);
    }
    let http2 = streams(case, &server).await;
    eventually(|| app.inside().now() == 5).await;
    eventually(|| server.status().parked >= 8).await;
    settle().await;
    other.end().await;
    first.ended().await;
    for client in &mut held {
        assert_eq!(soon(client.gone()).await, b"");
    }
    for client in idle.iter_mut().chain(&mut busy) {
        asks_often(client).await;
    }
    let mut client = case.client(&server).await;
    asks_often(&mut client).await;
    let status = server.status();
    assert_eq!((status.open, status.closed), (10, 4), "{status:?}");
    assert_eq!(status.closed_for(CloseReason::Aborted), 4, "{status:?}");
    // Streams of HTTP/2 are no jobs.
    app.gate("a").open();
    assert!(soon(http2).await.unwrap());
    eventually(|| server.status().open == 9).await;
    let report = soon(server.shutdown(10 * SECOND)).await;
    assert_eq!((report.closed, report.still_open), (9, 0), "{report:?}");
    drop((idle, busy, client));
    nothing_left(&server).await;
    whole(&pool).await;
}

/// The runtime of a pool needs timers alone. The server's own runtime has the sockets.
async fn a_pool_without_sockets(case: Case) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let other = OtherRuntime::drive(runtime);
    let pool = Pool::builder().size(4).runtime(other.handle().clone()).build().unwrap();
    let app = App::default();
    let server = serve(case.timeless().pool(&pool), &app);
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = case.client(&server).await;
        for _ in 0..3 {
            asks_often(&mut client).await;
            let body = "much ".repeat(n * 20_000);
            let request = post("/digest", body.len()) + &body;
            let digest = digest_of(body.as_bytes());
            assert_eq!(client.exchange(request).await, format!("200 {digest}"));
            assert_eq!(client.exchange(get("/big")).await.len(), 4 + (4 << 20));
        }
        clients.push(client);
    }
    let http2 = streams(case, &server).await;
    eventually(|| app.inside().now() == 1).await;
    app.gate("a").open();
    assert!(soon(http2).await.unwrap());
    drop(clients);
    nothing_left(&server).await;
    whole(&pool).await;
    other.end().await;
}

/// The second request to close comes from the server's runtime.
async fn a_shutdown_on_a_runtime_that_ends(case: Case) {
    let app = App::default();
    let server = serve(case.timeless().shutdown_grace(SECOND / 10), &app);
    let mut client = case.client(&server).await;
    assert_eq!(client.exchange(HELLO).await, "200 hello");
    let other = OtherRuntime::new(1);
    let mut stopping = Box::pin(server.shutdown(100 * SECOND));
    for _ in 0..3 {
        let entered = other.enter();
        assert!(poll(&mut stopping).is_pending());
        drop(entered);
        settle().await;
    }
    drop(stopping);
    other.end().await;
    assert_eq!(soon(client.gone()).await, b"");
    nothing_left(&server).await;
}

/// Again and again, at any moment.
async fn many_ends(case: Case) {
    for round in 0..12 {
        let pool = Pool::builder().size(4).build().unwrap();
        let (first, second) = (OtherRuntime::new(round % 3), OtherRuntime::new((round + 1) % 3));
        let app = App::default();
        let server = |other: &OtherRuntime, on_pool: bool| {
            let _entered = other.enter();
            let builder = case.http().shutdown_grace(None);
            serve(if on_pool { builder.pool(&pool) } else { builder }, &app)
        };
        let servers = [
            server(&first, true),
            server(&second, true),
            server(&first, false),
            server(&second, false),
        ];
        let mut asking = Vec::new();
        for server in &servers {
            for _ in 0..3 {
                let mut client = case.client(server).await;
                asking.push(tokio::spawn(async move {
                    let mut count = 0;
                    while client.try_send(HELLO).await.is_ok() {
                        if !matches!(client.read_some(4096).await, Ok(1..)) {
                            break;
                        }
                        count += 1;
                    }
                    count
                }));
            }
        }
        eventually(|| servers.iter().all(|server| server.status().frames > 20)).await;
        first.end().await;
        nothing_left(&servers[0]).await;
        nothing_left(&servers[2]).await;
        second.end().await;
        for asking in asking {
            soon(asking).await.unwrap();
        }
        for server in &servers {
            nothing_left(server).await;
        }
        soon(pool.wait_idle()).await;
        quiet(&pool);
    }
}

/// Deadlines follow the server's clock, wherever the handlers wait. No turn may run in the other runtime: the
/// paused clock would leap meanwhile.
async fn on_a_paused_clock(case: Case) {
    let other = OtherRuntime::new(1);
    let builder = case.timeless().keep_alive_timeout(8 * SECOND).shutdown_grace(None);
    let server = builder.serve(elsewhere(other.handle())).unwrap();
    let mut client = case.client(&server).await;
    for _ in 0..5 {
        let asked = client.exchange(post("/else/slow", 4) + "body");
        assert_eq!(asked.await, "200 body");
    }
    at_rest(&server, 1, 0).await;
    tokio::time::sleep(7 * SECOND).await;
    assert_eq!(server.status().open, 1);
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(no_time(client.gone()).await, b"");
    nothing_left(&server).await;
    other.end().await;
}

/// The runtime is never driven, so nothing of the server runs before its end.
async fn an_unstarted_server_ends(case: Case) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = {
        let _entered = runtime.enter();
        serve(case.http(), &App::default())
    };
    let mut client = case.client(&server).await;
    client.send(HELLO).await;
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    assert_eq!(soon(client.gone()).await, b"");
    let report = soon(server.shutdown(10 * SECOND)).await;
    assert_eq!((report.closed, report.still_open), (0, 0), "{report:?}");
    nothing_left(&server).await;
}
