//! A server for HTTP that parks idle connections: hyper speaks the protocol, axum or any other
//! tower service answers, unchanged.
//!
//! A connection that hyper holds keeps buffers of 16 KiB or more and a task while it says nothing.
//! Here it gives them up between requests. What is left of an idle keep-alive connection is a
//! record of 64 bytes and its socket; when bytes arrive it takes up the state that another has
//! left, or a new one. No byte is lost, and no reply differs.
//!
//! ```
//! use axum::Router;
//! use axum::routing::get;
//! use millpond_server::http::Server;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let server = Server::builder().listen("127.0.0.1:0").serve(app)?;
//! println!("listening at {}", server.local_addrs()[0]);
//! let report = server.shutdown(std::time::Duration::from_secs(1)).await;
//! assert_eq!(report.still_open, 0);
//! # Ok(())
//! # }
//! ```
//!
//! [`serve`] is the short way, with all defaults:
//! `millpond_server::http::serve(listener, app).await`.
//!
//! # The same server
//!
//! Modes, limits, deadlines, TLS, configuration files and shutdown are those of
//! [`millpond-server`](crate); [`Server::builder`] gives the [`ServerBuilder`] of HTTP:
//!
//! | setting | for HTTP | default |
//! |---|---|---|
//! | `first_byte_timeout` | from the accept to the first byte | 10 s |
//! | `header_read_timeout` | a head, from its first byte to its last; then 408 | 10 s |
//! | `body_timeout` | a body of which no more comes; then 408 if no response has begun | 30 s |
//! | `write_timeout` | a peer that takes nothing of a response | 30 s |
//! | `keep_alive_timeout` | between requests | 75 s |
//! | `handshake_timeout` | of TLS | 10 s |
//! | `max_header_size` | the largest head; then 431 | 408 KiB, as hyper's |
//! | `read_budget_bytes` | read from one connection before the others have their turn | 64 KiB |
//! | `overload_response` | over a limit of connections | a 503 with `Retry-After` |
//!
//! Hyper bounds what it buffers, and asks the body of a response for no more while the peer takes
//! none.
//!
//! # The pool
//!
//! A turn of a connection is a job on the [`pool`](ServerBuilder::pool). While the service waits,
//! for a database say, the job keeps its slot: so the pool's size bounds the requests that are
//! being answered, 1,024 by default, and while it is full, others wait in the kernel. A connection
//! that waits for its *peer* holds no slot, nor a thread: an upload that trickles, a download that
//! nobody takes, an idle one. Nor does one whose response has begun and waits for its next part, as
//! an event stream does.
//!
//! For another answer under overload wrap the service in a `millpond::layer::PoolLayer` over a pool
//! of its own: its verbs wait, refuse (with `shed_with` as a 503), or overflow. Over the *same*
//! pool each call would be a job that waits for another of its pool, see
//! [`Nested`](millpond::Nested). In the dedicated mode there is no pool unless one is given.
//!
//! # When connections give up their state
//!
//! At once, when a response is written. What one gives up, the next takes: between two requests of
//! HTTP/1.1 hyper's state knows nothing of its connection, so as many are kept as were in use at
//! once within the last seconds, at most 1,024, and nothing is built for who has a request next. A
//! state is passed on after a request of HTTP/1.1 that came alone, was read to its end, told how
//! long its body is and asked for no upgrade, with at most 16 KiB read and 64 KiB written; else it
//! is dropped, and built anew when one is needed.
//!
//! A head that is not whole is held as its bytes, up to 4 KiB, before hyper sees any of it.
//!
//! What was freed may stay with the allocator: where many requests are under way at once, each has
//! a state of its own, and after them glibc's keeps most of the pages that they used, so RSS stays
//! up though the heap is empty. Connections that are served one after another never take them. If
//! such peaks matter use an allocator that returns memory (jemalloc, mimalloc), or call
//! `malloc_trim` after one.
//!
//! # What is never parked
//!
//! - HTTP/2, by prior knowledge or by ALPN (name `h2` in the TLS configuration): such a connection
//!   has a task of its own for as long as it lasts, in both modes, and its requests are tasks, not
//!   turns on the pool: bound them by a layer. It is closed when no request was under way for the
//!   keep-alive timeout. Bodies have no deadline there.
//! - Upgraded connections, such as WebSockets: whoever has upgraded one owns it, and it counts as
//!   open until it is dropped. No deadline but the shutdown's ends it.
//!
//! # Requests
//!
//! Each has the peer's [`Address`](crate::Address) in its extensions; with the feature `axum` also
//! `ConnectInfo<SocketAddr>`, for axum's extractor; unless
//! [`connect_info`](ServerBuilder::connect_info) is off. Its body is a [`RequestBody`]. A service
//! that panics ends its connection, and so does one that returns an error; over HTTP/2 the stream.

// HTTP by hyper, over connections that are parked between requests.
//
// A connection at rest is `Parked`: an entry and a socket. When bytes come, a turn reads them; what
// is not a whole head yet is held as it is. With a whole head a hyper connection is built over the
// bytes and the lent socket, and polled until it waits. If it waits for the peer the entry
// is parked, hyper's state with it, and no slot is held; if it waits for user code the turn is
// suspended. Once all is answered and flushed, and no byte is left over, hyper's state goes
// to a pool, and the next connection with a request takes it.

mod body;
mod builder;
mod conn;
mod conn_pool;
mod head;
mod http2;
mod hyper_service;
mod lent_io;
mod progress;
mod serve;
mod serve_turn;
mod server;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;

pub use crate::http::body::RequestBody;
pub use crate::http::builder::ServerBuilder;
pub use crate::http::serve::{Serve, serve};
pub use crate::http::server::Server;

use crate::accept::address::Address;
use crate::builder::Config;
use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, Protocol, Turn};
use crate::conn::transport::Transport;
use crate::http::conn_pool::ConnPool;
use crate::http::hyper_service::HttpService;
use crate::http::serve_turn::HttpTurn;

/// What all connections of a server share.
pub(crate) struct HttpProtocol<A> {
    service: A,
    conn_pool: ConnPool,
    http1: http1::Builder,
    /// Without keep-alive.
    http1_last: http1::Builder,
    keep_alive: Option<Duration>,
    /// Requests tell who the peer is.
    connect_info: bool,
    http_states: Gauge,
}

impl<A: HttpService> HttpProtocol<A> {
    fn new(service: A, config: &Config) -> Self {
        let mut http1 = http1::Builder::new();
        // Deadlines are the server's.
        http1.header_read_timeout(None).max_header_size(config.max_frame_size);
        let mut http1_last = http1.clone();
        http1_last.keep_alive(false);
        let http_states = Gauge::default();
        let (keep_alive, connect_info) = (config.deadlines.idle, config.connect_info);
        let conn_pool = ConnPool::new();
        Self { service, conn_pool, http1, http1_last, keep_alive, connect_info, http_states }
    }
}

/// How many there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    fn acquire(&self) -> GaugeGuard {
        self.0.fetch_add(1, Relaxed);
        GaugeGuard(self.clone())
    }

    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// What is kept of a connection.
pub(crate) enum Idle {
    /// At rest, without hyper's state.
    Parked,
    Busy(Box<Busy>),
}

/// A connection in the middle of something.
pub(crate) enum Busy {
    /// The bytes of a head that is not whole.
    Head { bytes: Box<[u8]>, is_new: bool },
    /// Hyper's state, and the socket with it.
    Http1(Box<dyn Any + Send>),
    /// It is closed for this, and only waits for the peer to go.
    Lingers(CloseReason),
}

impl<A: HttpService> Protocol for HttpProtocol<A> {
    type Idle = Idle;

    const SERVER_FIRST: bool = false;

    const INTEREST: Events = Events::WAKING;

    fn on_accept(&self, _address: Address, _notifier: ConnNotifier) -> Idle {
        Idle::Parked
    }

    async fn serve_turn<W: Transport>(&self, turn: Turn<'_, W, Idle>) -> Outcome {
        HttpTurn::new(self, turn).await
    }

    fn on_close(&self, _idle: Idle, _reason: CloseReason) {}

    fn tick(&self) {
        self.conn_pool.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::Idle;
    use crate::conn::table;
    use crate::parked::Parked;

    #[test]
    fn a_parked_connection_is_small() {
        let size = table::entry_size::<Parked<Idle>>();
        assert!(size <= 64, "{size}");
    }
}
