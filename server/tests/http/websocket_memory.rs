//! What an idle WebSocket costs: the heap of the server's thread, counted byte by byte.
//!
//! The clients run on another thread, and the allocator counts per thread. So neither they nor other
//! tests of this program are in the figure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;

use axum::Router;
use axum::routing::any;
use millpond_server::ws::{Message, WebSocketUpgrade};
use millpond_server::{BoxError, Connection, Handler};

use crate::support::http::server::at_rest;
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

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opens WebSockets, each with an echo.
fn opened(address: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(HANDSHAKE.as_bytes()).unwrap();
        stream.write_all(b"\x82\x85\0\0\0\0hello").unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n\x82\x05hello") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        stream
    };
    (0..count).map(open).collect()
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
        // The first ones warm up what all share.
        for count in [64, 320] {
            let more = tokio::task::spawn_blocking(move || opened(address, count)).await.unwrap();
            clients.extend(more);
            at_rest(&server, clients.len(), 0).await;
            settle().await;
            live.push(LIVE.get());
        }
        let each = (live[1] - live[0]) as usize / 320;
        println!("{each} bytes of heap for an idle WebSocket");
        assert!(each <= 256, "{each}");
    });
}
