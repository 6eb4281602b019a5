//! What an idle WebSocket and an idle TLS connection cost: the heap of the server's thread, counted byte by
//! byte.
//!
//! The clients run on another thread, and the allocator counts per thread. So neither they nor other
//! tests of this program are in the figure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::any;
use millpond_server::ws::{Message, WebSocketUpgrade};
use millpond_server::{BoxError, Connection, Handler};

use crate::support::http::server::{at_rest, websocket};
use crate::support::server::{EVENT_DRIVEN, single};
use crate::support::settle;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Echo;

impl Handler for Echo {
    type In = Message;
    type Out = Message;
    type State = ();

    async fn on_frame(&self, to: &Connection<Message>, message: Message) -> Result<(), BoxError> {
        Ok(to.send(message).await?)
    }
}

/// Opens WebSockets, each with an echo, once those before it are at rest: turns at once need more of the
/// buffers that are shared.
fn opened(
    address: std::net::SocketAddr,
    numbers: Range<usize>,
    at_rest: &AtomicUsize,
) -> Vec<TcpStream> {
    let open = |number| {
        while at_rest.load(Relaxed) < number {
            thread::sleep(Duration::from_micros(50));
        }
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(websocket("/").as_bytes()).unwrap();
        stream.write_all(b"\x82\x85\0\0\0\0hello").unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n\x82\x05hello") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        stream
    };
    numbers.map(open).collect()
}

#[test]
fn an_idle_websocket_is_small() {
    single(async {
        let upgrade = async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(Echo);
        let app = Router::new().route("/", any(upgrade));
        let server = EVENT_DRIVEN.http().serve(app).unwrap();
        let address = server.local_addrs()[0];
        let mut clients = Vec::new();
        let mut live = Vec::new();
        let at_rest_yet = Arc::new(AtomicUsize::new(0));
        // The first ones warm up what all share.
        for count in [64, 320] {
            let (first, may_open) = (clients.len(), at_rest_yet.clone());
            let open = move || opened(address, first..first + count, &may_open);
            let opening = tokio::task::spawn_blocking(open);
            for open in first + 1..=first + count {
                at_rest(&server, open, 0).await;
                at_rest_yet.store(open, Relaxed);
            }
            clients.extend(opening.await.unwrap());
            settle().await;
            live.push(LIVE.get());
        }
        let each = (live[1] - live[0]) as usize / 320;
        println!("{each} bytes of heap for an idle WebSocket");
        assert!(each <= 256, "{each}");
    });
}

/// HTTP/1.1 over TLS. What rustls keeps for a session is measured apart, without sockets and server.
#[cfg(feature = "rustls")]
#[test]
fn an_idle_tls_connection_adds_little_to_its_session() {
    use tokio_rustls::rustls::server::NoServerSessionStorage;
    use tokio_rustls::rustls::{ServerConnection, StreamOwned};

    use crate::support::server::tls;

    const COUNT: usize = 128;
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Returns a session that is open, and that has had a request and its answer.
    fn session(config: &Arc<tokio_rustls::rustls::ServerConfig>) -> Box<ServerConnection> {
        let mut server = Box::new(ServerConnection::new(config.clone()).unwrap());
        let mut client = tls::client_session();
        client.writer().write_all(REQUEST).unwrap();
        let (mut bytes, mut request) = (Vec::new(), Vec::new());
        while request.len() < REQUEST.len() {
            client.write_tls(&mut bytes).unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            let _ = server.reader().read_to_end(&mut request);
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
            bytes.clear();
        }
        server.writer().write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        server
    }

    fn asked(address: std::net::SocketAddr, count: usize) -> Vec<Box<dyn Read + Send>> {
        let ask = |_| {
            let tcp = TcpStream::connect(address).unwrap();
            tcp.set_nodelay(true).unwrap();
            let mut stream = StreamOwned::new(tls::client_session(), tcp);
            stream.write_all(REQUEST).unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nhello") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
            }
            Box::new(stream) as Box<dyn Read + Send>
        };
        (0..count).map(ask).collect()
    }

    single(async {
        let mut config = (*tls::server()).clone();
        // The store of sessions belongs to all connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = Arc::new(config);
        let warm_up = session(&config);
        let before = LIVE.get();
        let sessions: Vec<_> = (0..COUNT).map(|_| session(&config)).collect();
        let of_session = (LIVE.get() - before) as usize / COUNT;
        drop((warm_up, sessions));

        let app = Router::new().route("/", any(async || "hello"));
        let server = EVENT_DRIVEN.http().tls(config).serve(app).unwrap();
        let (address, empty) = (server.local_addrs()[0], LIVE.get());
        let (mut clients, mut live) = (Vec::new(), Vec::new());
        for count in [32, COUNT] {
            clients
                .extend(tokio::task::spawn_blocking(move || asked(address, count)).await.unwrap());
            at_rest(&server, clients.len(), 0).await;
            settle().await;
            // A connection with many turns in one tick is warm, and keeps hyper's state for some ticks.
            let most = (of_session + 512) * clients.len() + 64 * 1024;
            let start = Instant::now();
            while (LIVE.get() - empty) as usize > most && start.elapsed().as_secs() < 10 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            live.push(LIVE.get());
        }
        let each = (live[1] - live[0]) as usize / COUNT;
        println!("{each} bytes of heap for an idle TLS connection, {of_session} of them rustls's");
        assert!(each <= of_session + 4096, "{each} - {of_session}");
    });
}
