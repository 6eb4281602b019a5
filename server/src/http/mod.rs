//! An HTTP server that parks idle connections. hyper speaks the protocol; axum, or any other tower
//! service of `http` requests, answers unchanged.
//!
//! An idle connection under hyper keeps a task and buffers of 16 KiB or more. This server takes both back
//! from idle connections: an idle keep-alive connection is a record of some 50 bytes and its socket. When
//! bytes arrive, the connection gets a new hyper state. No byte is lost, and no answer differs.
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
//! HTTP/2 and upgraded connections are never parked. Requests over HTTP/2 take no slots of the server's
//! pool: bound them by a layer.
//!
//! [`guide::http`](crate::guide::http) has the settings with their defaults, what the pool's size bounds,
//! when connections have hyper's state, and figures.

// # The protocol
//
// hyper wants to own its socket for the whole life of a connection. The server wants the socket back when a
// connection is idle, so that the connection needs no hyper state then. The files of this folder lend the
// socket to a hyper connection of its own, and prove each time that it may come back.
//
// ```text
//                 first bytes             whole head              pending poll
//  accept -> Parked ---------> Busy::Head ---------> in hyper (turn) ---------> Busy::Http1 (parked)
//              ^                                       |   |    ^                   |
//              |       rest: H1 holds, not warm        |   |    +---- next event ---+
//              +---------------------------------------+   |
//                                                          +-> suspended (service), lingers, detached
// ```
//
// 1. At rest a connection is `Idle::Parked`: an entry of the table and a socket.
// 2. A turn reads. A partial head stays as its bytes in `Busy::Head`; hyper sees none of it (`head.rs`).
// 3. With a whole head the turn makes a hyper connection (`conn.rs`). It puts the socket into `LentState`
//    and gives hyper the bytes first (`lent_io.rs`).
// 4. Hyper is polled until it waits. `progress.rs` computes for what: the service, the peer, or nothing.
//    - For the service: the turn is suspended, and keeps its slot.
//    - For the peer, or for the next part of a response body: the entry is parked with hyper and the
//      socket in it (`Busy::Http1`), and holds no slot. A turn in the task of its connection keeps both
//      instead, and goes on with the next event: nothing moves.
//    - For nothing: the connection rests.
// 5. A connection at rest is warm or cold.
//    - Warm: it is busy, and has a task or a TLS session (`HttpTurn::is_warm`). It stays in hyper, so the
//      next request builds nothing. After some idle ticks the table tells it (`Events::COOL`), and it goes
//      cold. In the event-driven mode it then gives up its task, too.
//    - Cold: `Http1Conn::into_io` takes hyper apart. The bytes that hyper has read and not used are the
//      beginning of the next request.
// 6. The proof: all requests are answered and flushed, and hyper has read the body of the last one to its
//    end (`ConnProgress::is_whole`). That is so if user code has read the body to its end, which hyper tells
//    only behind the last byte. For a body that was dropped before, the bytes that hyper was given must be
//    one head and one body of the declared length, and hyper must have been polled since the drop.
// 7. Without the proof hyper keeps the socket, until a later request gives the proof or hyper closes.
//
// HTTP/2 (`http2.rs`) and upgrades leave this cycle. The turn ends as `Outcome::Detached`, and the owner of
// the socket (a task, or the code that asked for the upgrade) owns the entry and the permit too.
//
// A WebSocket of the room `ws` keeps its entry (`websocket.rs`): hyper's upgraded connection gives the
// socket back, with the bytes that hyper has read, and framed turns serve the entry from then on.
//
// # Which part may touch what
//
// Hyper alone begins the parts of a request, inside of its poll, and its owner alone polls it. Other threads
// read and drop request bodies: they end parts, and never begin one. So what the owner finds ended after a
// poll stays ended until the next poll. `ConnProgress::is_whole` turns true once for each request.
//
// # Invariants
//
// H1  No byte of one request is ever part of another. A socket that serves another request leaves hyper only
//     by the proof of 6. Tests: `states::beginnings_are_not_passed_on`, `race_tests`, `soak_tests`,
//     `progress::tests::the_last_body_alone_tells_whether_all_is_whole`, `rounds`.
// H2  An idle connection has no hyper state, in either mode, with a task or without. Tests:
//     `states::an_idle_connection_has_none`, `states::a_busy_connection_keeps_its_own`, `warm`.
// H3  State of one peer is never another's: each connection has hyper connections of its own.
// H4  A hyper connection has one owner at a time: a turn, an entry, or a task. The owner alone polls it and
//     reads `requests`. Rust's ownership of the box holds this.
// H5  No wake-up gets lost. Within a poll it has hyper polled again; at other times it wakes the suspended
//     turn or makes the entry ready. Tests: `progress::tests::a_wake_up_within_a_poll_...`, `rounds`.
// H6  A turn is suspended, and holds its slot, only while user code of a request works and does not wait
//     for the peer. A task that reads the request body waits for the peer until it reads more. Tests:
//     `progress::tests::a_connection_rests_only_without_any_part`, `pool`.
// H7  A deadline closes a connection only if no byte has moved since it began to run. No deadline runs for
//     the service: behind its work, the deadline of a wait for the peer begins anew. Tests: `deadlines`,
//     `slow_readers`.
// H8  A detached connection's entry and permit are free only after its socket is closed. Tests: `upgrades`,
//     `version2`.
// H9  User code (services, bodies, wakers) neither runs nor drops under a lock of this folder, and its panic
//     ends its connection alone. Tests: `pool::panics`, `states::the_service_ends_with_its_server`.
//
// Test names without a file are modules of `tests/http/`.

mod body;
mod builder;
mod conn;
mod head;
mod http2;
mod http2_settings;
mod hyper_service;
mod into_service;
mod lent_io;
mod progress;
#[cfg(test)]
mod race_tests;
mod recent_peers;
mod serve;
mod serve_turn;
mod server;
#[cfg(test)]
mod soak_tests;
mod stalls;
#[cfg(feature = "ws")]
mod websocket;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use hyper::server::conn::http1;

pub use crate::http::body::RequestBody;
pub use crate::http::builder::ServerBuilder;
pub use crate::http::http2_settings::Http2;
pub use crate::http::into_service::IntoHttpService;
pub use crate::http::serve::{Serve, serve};
pub use crate::http::server::Server;

use crate::accept::address::Address;
use crate::builder::Config;
use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, Protocol, Turn};
use crate::conn::transport::Transport;
use crate::http::hyper_service::{HttpService, HyperService};
use crate::http::progress::ConnProgress;
#[cfg(feature = "ws")]
pub(crate) use crate::http::progress::Entry;
use crate::http::serve_turn::HttpTurn;
#[cfg(feature = "ws")]
use crate::ws::conn::{StartWs, WsConn};

/// The size to which hyper's buffer grows by default.
const HYPER_BUFFER: usize = 408 * 1024;

/// What all connections of a server share: the service, and settings.
pub(crate) struct HttpProtocol<A> {
    service: A,
    http1: http1::Builder,
    /// For connections whose first request is the last, since their close was requested already.
    http1_last: http1::Builder,
    http2: Http2,
    keep_alive: Option<Duration>,
    /// How long a body of HTTP/2 may stall. The table's deadlines hold for HTTP/1.
    body_timeout: Option<Duration>,
    /// After this many requests a connection closes.
    max_requests: Option<u32>,
    /// Whether requests carry the peer's address.
    connect_info: bool,
    /// A shutdown has begun: answers say that their connections close.
    is_stopping: Arc<AtomicBool>,
    http_states: Gauge,
}

impl<A: HttpService> HttpProtocol<A> {
    fn new(service: A, config: &Config) -> Self {
        let mut http1 = http1::Builder::new();
        // The table's deadlines hold for heads too.
        http1
            .header_read_timeout(None)
            .max_header_size(config.max_frame_size)
            // A head that comes in parts has to fit in the buffer, too.
            .max_buf_size(config.max_frame_size.max(HYPER_BUFFER))
            .half_close(config.half_close);
        let mut http1_last = http1.clone();
        http1_last.keep_alive(false);
        let http_states = Gauge::default();
        let (keep_alive, connect_info) = (config.deadlines.idle, config.connect_info);
        Self {
            service,
            http1,
            http1_last,
            http2: config.http2.clone(),
            keep_alive,
            body_timeout: config.deadlines.body,
            max_requests: config.max_requests,
            connect_info,
            is_stopping: Arc::default(),
            http_states,
        }
    }

    /// Makes the progress of a connection that hyper gets.
    fn progress(&self, (notifier, peer): (ConnNotifier, Option<Address>)) -> ConnProgress {
        ConnProgress::new(notifier, peer, self.is_stopping.clone())
    }

    /// Returns the service as a new hyper connection calls it.
    fn hyper_service(&self, progress: Arc<ConnProgress>) -> HyperService<A> {
        HyperService {
            service: self.service.clone(),
            progress,
            connect_info: self.connect_info,
            body_timeout: self.body_timeout,
            max_requests: self.max_requests,
        }
    }
}

/// The number of connections with hyper's state.
///
/// Relaxed: the number is a statistic, and no reader concludes anything about other memory from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    fn acquire(&self) -> GaugeGuard {
        self.0.fetch_add(1, Relaxed);
        GaugeGuard { gauge: self.clone(), counts: true }
    }

    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A connection that the gauge counts, but for the time while the connection is warm.
struct GaugeGuard {
    gauge: Gauge,
    counts: bool,
}

impl GaugeGuard {
    fn count(&mut self, counts: bool) {
        match (std::mem::replace(&mut self.counts, counts), counts) {
            (false, true) => self.gauge.0.fetch_add(1, Relaxed),
            (true, false) => self.gauge.0.fetch_sub(1, Relaxed),
            _ => return,
        };
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.count(false);
    }
}

/// What the table keeps of a connection between turns. Small: most connections are idle.
pub(crate) enum Idle {
    /// At rest, without hyper's state: the next bytes begin a head.
    Parked,
    Busy(Box<Busy>),
}

/// A connection in the middle of something.
pub(crate) enum Busy {
    /// The bytes of a partial head.
    Head { bytes: Box<[u8]>, is_new: bool },
    /// An `Http1Conn` of this connection's transport, with the socket in it.
    Http1(Box<dyn Any + Send>),
    /// A WebSocket whose handshake is done. Its next turn is the first of the WebSocket.
    #[cfg(feature = "ws")]
    Upgraded(Box<Upgraded>),
    #[cfg(feature = "ws")]
    WebSocket(Box<dyn WsConn>),
    /// Closed for this reason. The connection waits only for the peer's end.
    Lingers(CloseReason),
}

/// A WebSocket before its first turn.
#[cfg(feature = "ws")]
pub(crate) struct Upgraded {
    start: Box<dyn StartWs>,
    /// The bytes that came behind the handshake.
    input: Box<[u8]>,
}

impl<A: HttpService> Protocol for HttpProtocol<A> {
    type Idle = Idle;

    const SERVER_FIRST: bool = false;

    const WARMS_ITSELF: bool = true;

    const INTEREST: Events = Events::WAKING;

    fn on_accept(&self, _address: Address, _notifier: ConnNotifier) -> Idle {
        Idle::Parked
    }

    async fn serve_turn<W: Transport>(&self, turn: Turn<'_, W, Idle>) -> Outcome {
        #[cfg(feature = "ws")]
        if websocket::is_open(turn.idle) {
            return websocket::serve_turn(turn).await;
        }
        HttpTurn::new(self, turn).await
    }

    #[cfg_attr(not(feature = "ws"), allow(unused_variables))]
    fn on_close(&self, idle: Idle, reason: CloseReason) {
        #[cfg(feature = "ws")]
        websocket::on_close(idle, reason);
    }

    fn on_shutdown(&self) {
        self.is_stopping.store(true, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::Idle;
    use crate::conn::rest::Rest;
    use crate::conn::table;

    #[test]
    fn a_parked_connection_is_small() {
        let size = table::entry_size::<Rest<Idle>>();
        assert!(size <= 64, "{size}");
    }
}
