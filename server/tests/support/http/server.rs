//! Support for tests of the server itself, which serves the app in both modes.

use std::time::Instant;

use millpond_server::ServerStatus;
use millpond_server::http::{Server, ServerBuilder};
use tokio::net::{TcpSocket, TcpStream};

use super::app::App;
use super::reply::{Parsed, Reading, Reply, parse};
use crate::support::server::{Case, Client, buffered_listener, narrow_listener, no_time};

pub const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: a\r\n\r\n";

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// The head of a request whose body follows later.
pub fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")
}

/// A request for a WebSocket.
pub fn websocket(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

impl Case {
    pub fn http(self) -> ServerBuilder {
        self.http_on("127.0.0.1:0")
    }

    /// Like [`narrow_builder`](Self::narrow_builder).
    pub fn narrow_http(self) -> ServerBuilder {
        self.http_on(narrow_listener())
    }

    /// Like [`smallest_builder`](Self::smallest_builder).
    pub fn smallest_http(self) -> ServerBuilder {
        self.http_on(buffered_listener(1))
    }

    fn http_on(self, listen: impl millpond_server::IntoListen) -> ServerBuilder {
        let builder = Server::builder().listen(listen).mode(self.mode);
        #[cfg(feature = "rustls")]
        if self.tls {
            return builder.tls(crate::support::server::tls::web_server());
        }
        builder
    }

    /// Returns a builder without any deadline.
    pub fn timeless(self) -> ServerBuilder {
        timeless(self.http())
    }

    /// The same, with small send buffers.
    pub fn narrow_timeless(self) -> ServerBuilder {
        timeless(self.narrow_http())
    }

    pub async fn client(self, server: &Server) -> Client {
        let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        no_time(self.secure(tcp)).await.unwrap()
    }

    /// Like [`connect_narrow`](Self::connect_narrow).
    pub async fn narrow(self, server: &Server) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        no_time(self.secure(socket.connect(server.local_addrs()[0]).await.unwrap())).await.unwrap()
    }
}

fn timeless(builder: ServerBuilder) -> ServerBuilder {
    builder
        .first_byte_timeout(None)
        .handshake_timeout(None)
        .header_read_timeout(None)
        .body_timeout(None)
        .keep_alive_timeout(None)
        .write_timeout(None)
}

pub fn serve(builder: ServerBuilder, app: &App) -> Server {
    builder.serve(app.router()).unwrap()
}

impl Client {
    /// Reads the next reply.
    pub async fn reply(&mut self) -> Reply {
        no_time(async {
            self.read_until(|bytes| match parse(bytes, Reading::default()) {
                Parsed::Whole(reply, length) => Some((reply, length)),
                Parsed::Broken(error) => panic!("{error}"),
                Parsed::Partial => None,
            })
            .await
        })
        .await
    }

    /// Sends a request and reads its reply. A paused clock stands still meanwhile.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> String {
        no_time(Box::pin(self.send(request))).await;
        self.reply().await.text()
    }
}

impl Reply {
    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// Waits until no connection is left, nor any state of one.
pub async fn nothing_left(server: &Server) -> ServerStatus {
    let start = Instant::now();
    loop {
        let status = server.status();
        if (status.open, status.parked, status.http_states) == (0, 0, 0) {
            let reasons: u64 = status.reasons().map(|(_, count)| count).sum();
            let known = status.refused_full + status.refused_per_ip + status.closed;
            assert_eq!((status.closed, status.accepted), (reasons, known), "{status:?}");
            return status;
        }
        assert!(start.elapsed().as_secs() < 10, "something is left: {status:?}");
        tokio::task::yield_now().await;
    }
}

/// Waits until `open` connections are open, all parked, and the given number have hyper's state.
#[track_caller]
pub fn at_rest(server: &Server, open: usize, http_states: usize) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let status = server.status();
            if (status.open, status.parked, status.http_states) == (open, open, http_states) {
                return;
            }
            let late = start.elapsed().as_secs() >= 10;
            assert!(!late, "{at}: not {open} at rest, {http_states} with state: {status:?}");
            tokio::task::yield_now().await;
        }
    }
}
