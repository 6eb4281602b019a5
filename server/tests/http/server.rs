//! What an HTTP server promises besides its responses: limits, memory at rest, the peer's address, and
//! `http::serve`.

use crate::support;
use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Case, Client, in_all_cases, in_both_modes};
use crate::support::*;
use axum::Router;
use axum::extract::Request;
use millpond_server::Address;
use millpond_server::http::{self, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

in_both_modes!(single: too_many_are_told, too_many_of_one_peer_are_told, unix_sockets);
in_all_cases!(single: parked_at_once, addresses, heads_up_to_the_limit);
#[cfg(feature = "axum")]
in_all_cases!(single: make_services_of_axum);
in_both_modes!(double: parked_under_load);

/// Connects from an address and is refused.
async fn is_refused(server: &Server, ip: &str) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{ip}:0").parse().unwrap()).unwrap();
    let tcp = socket.connect(server.local_addrs()[0]).await.unwrap();
    let mut client = support::server::DEDICATED.secure(tcp).await.unwrap();
    // The server does not read the request, and the response arrives all the same.
    let _ = client.try_send(HELLO.repeat(100)).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(client.rest_text().await, "");
}

async fn too_many_are_told(case: Case) {
    let builder = case.http().max_connections(2).max_connections_per_ip(None);
    let server = serve(builder, &App::default());
    let mut inside = case.client(&server).await;
    let silent = case.client(&server).await;
    assert_eq!(inside.exchange(HELLO).await, "200 hello");
    for _ in 0..10 {
        is_refused(&server, "127.0.0.1").await;
    }
    // Refused clients that stay connected do not delay others.
    let mut refused = Vec::new();
    for _ in 0..200 {
        refused.push(case.client(&server).await);
    }
    eventually(|| server.status().refused_full == 210).await;
    assert_eq!(inside.exchange(HELLO).await, "200 hello");
    drop(silent);
    eventually(|| server.status().open == 1).await;
    let mut other = case.client(&server).await;
    assert_eq!(other.exchange(HELLO).await, "200 hello");
    drop((inside, other, refused));
    assert_eq!(nothing_left(&server).await.closed, 3);
}

/// Also beyond the buffer that hyper has by default, and behind another request.
async fn heads_up_to_the_limit(case: Case) {
    const LIMIT: usize = 1 << 20;
    let server = serve(case.http().max_header_size(LIMIT), &App::default());
    for before in ["", HELLO] {
        for (size, status) in [(LIMIT / 2, 200), (LIMIT, 200), (LIMIT + 1, 431)] {
            let head = "GET /hello HTTP/1.1\r\nhost: a\r\nx: ";
            let value = "y".repeat(size - head.len() - 4);
            let mut client = case.client(&server).await;
            // The server may have closed its side meanwhile.
            let _ = client.try_send([before, head, &value, "\r\n\r\n"].concat()).await;
            if !before.is_empty() {
                assert_eq!(client.reply().await.text(), "200 hello");
            }
            assert_eq!(client.reply().await.status, status, "{size} bytes, {before:?}");
        }
    }
    nothing_left(&server).await;
}

async fn too_many_of_one_peer_are_told(case: Case) {
    let server = serve(case.http().max_connections_per_ip(1), &App::default());
    let mut inside = case.client(&server).await;
    assert_eq!(inside.exchange(HELLO).await, "200 hello");
    is_refused(&server, "127.0.0.1").await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(server.local_addrs()[0]).await.unwrap();
    let mut other = case.secure(other).await.unwrap();
    assert_eq!(other.exchange(HELLO).await, "200 hello");
    is_refused(&server, "127.0.0.2").await;
    drop((inside, other));
    assert_eq!(nothing_left(&server).await.refused_per_ip, 2);
}

async fn clients(case: Case, server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = case.client(server).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        clients.push(client);
    }
    clients
}

async fn parked_at_once(case: Case) {
    let server = serve(case.http(), &App::default());
    let mut clients = clients(case, &server, 8).await;
    at_rest(&server, 8, 0).await;
    // No state stays, also if the body is not read.
    let asks = ["/stream", "/missing", "/trailers", "/digest"].map(|path| post(path, 4) + "body");
    for (client, request) in clients.iter_mut().zip(asks.iter().cycle()) {
        client.send(request).await;
        client.reply().await;
    }
    at_rest(&server, 8, 0).await;
    // Only the last request of each four has its body read.
    let clients: Vec<_> = clients.into_iter().skip(3).step_by(4).collect();
    eventually(|| server.status().open == 2).await;
    at_rest(&server, 2, 0).await;
    drop(clients);
    nothing_left(&server).await;
}

/// Other connections come and go meanwhile.
async fn parked_under_load(case: Case) {
    let server = serve(case.http().max_connections_per_ip(None), &App::default());
    let clients = clients(case, &server, 20).await;
    let asking = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            for _ in 0..200 {
                assert_eq!(client.exchange(HELLO).await, "200 hello");
            }
            client
        })
    });
    let mut clients = Vec::new();
    for asking in asking.collect::<Vec<_>>() {
        clients.push(asking.await.unwrap());
    }
    at_rest(&server, 20, 0).await;
    drop(clients);
    nothing_left(&server).await;
}

/// An app that answers with the extensions of its request.
fn teller() -> Router {
    Router::new().fallback(|request: Request| async move {
        let address = request.extensions().get::<Address>().copied();
        #[cfg(feature = "axum")]
        let info = request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
        #[cfg(feature = "axum")]
        assert_eq!(info.map(|info| info.0.ip()), address.and_then(|address| address.ip()));
        address.map_or("none".to_owned(), |address| address.to_string())
    })
}

async fn addresses(case: Case) {
    let server = case.http().serve(teller()).unwrap();
    let mut clients = [case.client(&server).await, case.client(&server).await];
    for _ in 0..3 {
        for client in &mut clients {
            let address = client.tcp().local_addr().unwrap();
            assert_eq!(client.exchange(HELLO).await, format!("200 {address}"));
        }
    }
    let server = case.http().connect_info(false).serve(teller()).unwrap();
    assert_eq!(case.client(&server).await.exchange(HELLO).await, "200 none");
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;
        use std::net::SocketAddr;
        let told =
            |ConnectInfo(address): ConnectInfo<SocketAddr>| async move { address.to_string() };
        let server = case.http().serve(Router::new().fallback(told)).unwrap();
        let mut client = case.client(&server).await;
        let address = client.tcp().local_addr().unwrap();
        assert_eq!(client.exchange(HELLO).await, format!("200 {address}"));
    }
}

async fn unix_sockets(case: Case) {
    let name = format!("millpond-http-{}-{:?}.sock", std::process::id(), case.mode);
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listen = format!("unix:{}", path.display());
    let server = Server::builder().listen(&*listen).mode(case.mode);
    let server = server.serve(teller()).unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    for _ in 0..3 {
        client.write_all(HELLO.as_bytes()).await.unwrap();
        let mut bytes = [0; 1024];
        let count = client.read(&mut bytes).await.unwrap();
        let reply = String::from_utf8_lossy(&bytes[..count]);
        assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\nunix"), "{reply}");
    }
    at_rest(&server, 1, 0).await;
    drop(client);
    nothing_left(&server).await;
    drop(server);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_default_mode_parks() {
    assert!(format!("{:?}", Server::builder()).contains("mode: EventDriven"));
}

#[test]
fn the_short_way() {
    multi(2, async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (app, (stop, stopped)) = (App::default(), tokio::sync::oneshot::channel::<()>());
        let serving = http::serve(listener, app.router()).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let serving = tokio::spawn(serving.into_future());
        let connect = || async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            support::server::EVENT_DRIVEN.secure(tcp).await.unwrap()
        };
        let (mut idle, mut busy) = (connect().await, connect().await);
        assert_eq!(idle.exchange(HELLO).await, "200 hello");
        busy.send(get("/held/a")).await;
        eventually(|| app.inside().now() == 1).await;
        stop.send(()).unwrap();
        assert_eq!(idle.rest_text().await, "");
        app.gate("a").open();
        assert_eq!(busy.reply().await.text(), "200 let go");
        assert_eq!(busy.rest_text().await, "");
        let report = serving.await.unwrap().unwrap();
        assert_eq!((report.closed, report.others, report.aborted, report.still_open), (2, 0, 0, 0));

        // Without a signal the server runs until it is dropped. A tokio listener fits, too.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(http::serve(listener, app.router()).into_future());
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut client = support::server::EVENT_DRIVEN.secure(tcp).await.unwrap();
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        serving.abort();
        assert_eq!(client.gone().await, b"");
        // An address that cannot be bound.
        let refused = http::serve("127.0.0.1:99999", app.router()).await.unwrap_err().to_string();
        assert!(refused.contains("127.0.0.1:99999"), "{refused}");
    });
}

/// What programs that called `axum::serve` pass.
#[cfg(feature = "axum")]
async fn make_services_of_axum(case: Case) {
    use axum::extract::ConnectInfo;
    use axum::extract::connect_info::Connected;
    use std::net::SocketAddr;

    #[derive(Clone)]
    struct Port(u16);

    impl Connected<SocketAddr> for Port {
        fn connect_info(peer: SocketAddr) -> Self {
            Self(peer.port())
        }
    }

    let by_address = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
    let by_port = |ConnectInfo(Port(port)): ConnectInfo<Port>| async move { port.to_string() };
    let router = || {
        let state = Router::new().route("/address", axum::routing::get(by_address));
        state.route("/port", axum::routing::get(by_port))
    };
    let asked = async |server: Server, path: &str| {
        let mut client = case.client(&server).await;
        let address = client.tcp().local_addr().unwrap();
        let (first, second) = (client.exchange(get(path)).await, client.exchange(get(path)).await);
        assert_eq!(first, second);
        (first, address)
    };
    let make = || router().into_make_service_with_connect_info::<SocketAddr>();
    for builder in [case.http(), case.http().connect_info(false)] {
        let (answer, address) = asked(builder.serve(make()).unwrap(), "/address").await;
        assert_eq!(answer, format!("200 {address}"));
    }
    let make = || router().into_make_service_with_connect_info::<Port>();
    let (answer, address) = asked(case.http().serve(make()).unwrap(), "/port").await;
    assert_eq!(answer, format!("200 {}", address.port()));
    let plain = case.http().serve(router().into_make_service()).unwrap();
    let (answer, address) = asked(plain, "/address").await;
    assert_eq!(answer, format!("200 {address}"));

    let token = std::future::ready(());
    let report = http::serve("127.0.0.1:0", make()).with_graceful_shutdown(token).await.unwrap();
    assert_eq!(report.still_open, 0);
}
