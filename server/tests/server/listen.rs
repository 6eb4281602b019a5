//! Where servers listen, and which settings they refuse.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::support;
use crate::support::server::{
    BoxError, Case, DEDICATED, EVENT_DRIVEN, echo, emptied, in_both_modes,
};
use crate::support::*;
use millpond_server::{Listen, Mode, Server, ServerBuilder, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::codec::LinesCodec;

in_both_modes!(single: unix_sockets, several_at_once, bound_before, one_port_for_two);
in_both_modes!(single: a_host_and_a_port);

/// A path that is removed in the end.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str, case: Case) -> Self {
        let name = format!("millpond-{}-{name}-{:?}.sock", std::process::id(), case.mode);
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn asks(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite, line: &str) {
    let mut stream = std::pin::pin!(stream);
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; line.len() + 1];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{line}\n").as_bytes());
}

fn serve(builder: ServerBuilder) -> Result<Server, StartError> {
    let echo = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    builder.codec(LinesCodec::new()).serve(server::service_fn(echo))
}

async fn unix_sockets(case: Case) {
    let socket = Socket::new("unix", case);
    let listen = format!("unix:{}", socket.0.display());
    // A quota for each peer means none of these.
    let builder =
        || Server::builder().listen(listen.clone()).mode(case.mode).max_connections_per_ip(1);
    let server = echo(builder());
    assert!(server.local_addrs().is_empty());
    let mut clients = Vec::new();
    for n in 0..5 {
        let mut client = UnixStream::connect(&socket.0).await.unwrap();
        asks(&mut client, &format!("{n}")).await;
        clients.push(client);
    }
    // A peer that does not read; and half-closes.
    let mut client = UnixStream::connect(&socket.0).await.unwrap();
    let lines = "a line that comes back\n".repeat(2000);
    client.write_all(lines.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    assert!(answers == lines, "{case:?}: {} bytes", answers.len());
    // Another server listens there already.
    match serve(builder()) {
        Err(StartError::Listen { listen: at, .. }) => assert_eq!(at, listen),
        other => panic!("{case:?}: {other:?}"),
    }
    asks(&mut clients[0], "still there").await;
    drop(clients);
    emptied(&server).await;
    // No server listens any more. The file is still there, and a new server replaces it.
    drop(server);
    eventually(|| std::os::unix::net::UnixStream::connect(&socket.0).is_err()).await;
    assert!(socket.0.exists());
    let _server = echo(builder());
    asks(UnixStream::connect(&socket.0).await.unwrap(), "again").await;
}

async fn several_at_once(case: Case) {
    let socket = Socket::new("several", case);
    let server = echo(
        Server::builder()
            .mode(case.mode)
            .listen("127.0.0.1:0")
            .listen(Listen::unix(&socket.0).mode(Mode::EventDriven))
            .listen(Listen::from("127.0.0.1:0").mode(Mode::Dedicated).nodelay(false))
            .listen(Listen::from("localhost:0").mode(Mode::EventDriven).keepalive(None))
            .max_connections(4)
            .max_connections_per_ip(None),
    );
    assert_eq!(server.local_addrs().len(), 3);
    let mut clients = Vec::new();
    for address in server.local_addrs() {
        let mut client = TcpStream::connect(address).await.unwrap();
        asks(&mut client, &address.to_string()).await;
        clients.push(client);
    }
    let mut client = UnixStream::connect(&socket.0).await.unwrap();
    asks(&mut client, "unix").await;
    support::server::parked(&server, 4).await;
    assert_eq!(server.status().frames, 4);
    // One limit for all.
    let mut refused = TcpStream::connect(server.local_addrs()[1]).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
    let report = server.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.closed, report.still_open), (4, 0), "{case:?}: {report:?}");
}

async fn bound_before(case: Case) {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let socket = Socket::new("bound", case);
    let unix = std::os::unix::net::UnixListener::bind(&socket.0).unwrap();
    // They wait in the kernel until there is a server.
    let early = TcpStream::connect(address).await.unwrap();
    let server = echo(Server::builder().mode(case.mode).listen(tcp).listen(unix));
    assert_eq!(server.local_addrs(), [address]);
    asks(early, "early").await;
    asks(TcpStream::connect(address).await.unwrap(), "tcp").await;
    asks(UnixStream::connect(&socket.0).await.unwrap(), "unix").await;
    emptied(&server).await;
}

async fn a_host_and_a_port(case: Case) {
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = Server::builder()
        .mode(case.mode)
        .listen(("127.0.0.1", 0))
        .listen(("localhost", 0))
        .listen((IpAddr::from([127, 0, 0, 1]), 0))
        .listen((Ipv4Addr::LOCALHOST, 0))
        .listen(([127, 0, 0, 1], 0))
        .listen(Listen::from(bound).nodelay(false));
    let server = echo(builder);
    assert_eq!(server.local_addrs().len(), 6);
    for address in server.local_addrs() {
        asks(TcpStream::connect(address).await.unwrap(), "tcp").await;
    }
    emptied(&server).await;
    for host in ["::1", "[::1]"] {
        assert_eq!(Listen::from((host, 7000)).to_string(), "[::1]:7000");
    }
    assert_eq!(Listen::from((Ipv6Addr::LOCALHOST, 7000)).to_string(), "[::1]:7000");
}

async fn one_port_for_two(case: Case) {
    let at = |listen: &str| Listen::from(listen).reuse_port(true).backlog(16);
    let one = echo(Server::builder().mode(case.mode).listen(at("127.0.0.1:0")));
    let address = one.local_addrs()[0].to_string();
    let two = echo(Server::builder().mode(case.mode).listen(at(&address)));
    for n in 0..50 {
        asks(TcpStream::connect(&address).await.unwrap(), &format!("{n}")).await;
    }
    let (one, two) = (emptied(&one).await, emptied(&two).await);
    assert_eq!(one.closed + two.closed, 50);
    assert!(one.closed > 0 && two.closed > 0, "{one:?} {two:?}");
    // Not without both saying so.
    match serve(Server::builder().listen(&*address)) {
        Err(error @ StartError::Listen { .. }) => {
            assert!(error.to_string().contains(&address), "{error}");
            assert!(std::error::Error::source(&error).is_some());
        }
        other => panic!("{case:?}: {other:?}"),
    }
}

/// A process that listens and does not accept is no server that has ended, and delays no start.
#[test]
fn a_full_queue_delays_no_start() {
    single(async {
        let socket = Socket::new("full", DEDICATED);
        let address = socket2::SockAddr::unix(&socket.0).unwrap();
        let new = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let listener = new().unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let mut clients = Vec::new();
        loop {
            let client = new().unwrap();
            client.set_nonblocking(true).unwrap();
            if client.connect(&address).is_err() {
                break;
            }
            clients.push(client);
        }
        match serve(Server::builder().listen(Listen::unix(&socket.0))) {
            Err(StartError::Listen { error, .. }) => {
                assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
            }
            other => panic!("{other:?}"),
        }
        assert!(socket.0.exists());
    });
}

#[test]
fn bad_settings_are_named() {
    single(async {
        let builder = || DEDICATED.builder();
        let zero = Duration::ZERO;
        let long = Duration::from_secs(400 * 24 * 3600);
        let bad = [
            ("listen", Server::builder()),
            ("max_connections", builder().max_connections(0)),
            ("max_connections_per_ip", builder().max_connections_per_ip(0)),
            ("max_frame_size", builder().max_frame_size(0)),
            ("read_budget_bytes", builder().read_budget_bytes(0)),
            ("read_budget_frames", builder().read_budget_frames(0)),
            ("send_buffer", builder().send_buffer(0)),
            ("send_buffer_total", builder().send_buffer_total(0)),
            ("first_byte_timeout", builder().first_byte_timeout(zero)),
            ("handshake_timeout", builder().handshake_timeout(zero)),
            ("frame_timeout", builder().frame_timeout(zero)),
            ("idle_timeout", builder().idle_timeout(long)),
            ("write_timeout", builder().write_timeout(long)),
            ("drain_timeout", builder().drain_timeout(Duration::MAX)),
            ("linger_timeout", builder().linger_timeout(Duration::MAX)),
            ("max_connection_age", builder().max_connection_age(Duration::MAX)),
            ("max_connection_age_grace", builder().max_connection_age_grace(Duration::MAX)),
            ("without a `max_connection_age`", builder().max_connection_age_grace(long / 400)),
            ("keepalive", builder().listen(Listen::from("a:1").keepalive(Duration::MAX))),
            ("backlog", builder().listen(Listen::from("a:1").backlog(0))),
        ];
        for (name, builder) in bad {
            match serve(builder) {
                Err(error @ StartError::Config(_)) => {
                    assert!(error.to_string().contains(name), "{name}: {error}");
                    let error: BoxError = error.into();
                    assert!(error.source().is_some(), "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        for at in
            ["nowhere", "127.0.0.1", "256.0.0.1:0", "unix:/nowhere/at/all.sock", "192.0.2.1:1"]
        {
            match serve(EVENT_DRIVEN.builder().listen(at)) {
                Err(StartError::Listen { listen, .. }) => assert_eq!(listen, at),
                other => panic!("{at}: {other:?}"),
            }
        }
    });
}
