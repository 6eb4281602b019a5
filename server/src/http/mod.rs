//! An HTTP server that parks idle connections. hyper speaks the protocol; axum, or any other tower
//! service of `http` requests, answers unchanged.
//!
//! A connection under hyper keeps a task and buffers of 16 KiB or more while it is idle. Here it gives
//! them up between requests. An idle keep-alive connection is a record of 64 bytes and its socket. When
//! bytes arrive, the connection takes a hyper state that another connection has left, or a new one. No
//! byte is lost, and no answer differs.
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
//! [`serve`] is the short way, with all defaults: `millpond_server::http::serve(listener, app).await`.
//! Both have the mode [`EventDriven`](crate::Mode::EventDriven) by default.
//!
//! HTTP/2 and upgraded connections are never parked. Requests over HTTP/2 are no jobs on the pool:
//! bound them by a layer.
//!
//! [`guide::http`](crate::guide::http) has the settings with their defaults, what the pool's size bounds,
//! how connections share hyper's state, and figures.

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
#[cfg(test)]
mod window;

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
