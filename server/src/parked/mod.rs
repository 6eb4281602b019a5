//! The event-driven mode: an idle connection is one entry of the connection table, and no task.
//!
//! A *parked* connection is a socket, perhaps a TLS session, and the protocol's idle state. It has
//! no task, no timer and no buffer; `benches/modes.md` has the bytes. The `accept` loop parks each
//! new connection with [`EventDriven::accept`]; from then on three parts pass it around:
//!
//! ```text
//! kernel -> inner epoll -> poller -> event_loop -> table: parked entry becomes ready
//!                                        |
//!                          starts a ConnWorker, if one is wanted
//!                                        |
//!           ConnWorker: first ready entry -> turn -> park again, close or detach
//! ```
//!
//! | file | content |
//! |---|---|
//! | `poller` | the inner epoll, itself registered with tokio: a batch of events at a time |
//! | `event_loop` | one task for each listener: delivers the events, starts workers |
//! | `conn_worker` | a task, or a job of the user's pool: serves ready connections, one after another |
//! | `edge_socket` | the socket: non-blocking calls, no wakers |
//! | `warm` | busy connections, which have a task for some time |
//!
//! Why an epoll of its own: a registration of each socket with tokio costs 256 heap bytes, an inner
//! `mio::Poll` costs none. The inner epoll is readable when it has events, so tokio's I/O driver
//! watches one descriptor for all connections of a listener, and no thread is needed.
//!
//! All shared state is in `ListenerConns::state`, under one lock. Neither I/O nor user code runs
//! under that lock, and wakers are woken after the unlock.
//!
//! # Invariants
//!
//! - **E1** A socket is registered once, for both directions, edge-triggered. No event is lost in
//!   between: an event that comes during a turn stays in the entry, and makes the connection ready
//!   when that turn parks it.
//! - **E2** A token is the entry's key with its generation. An event of a closed connection names
//!   an old generation, so it reaches no later connection. (test: `a_token_is_its_key`)
//! - **E3** A ready connection is never left without a worker. The event loop looks at the table and
//!   stores its waker under one lock. A change that makes a worker wanted takes that waker under
//!   the same lock, and wakes it. (test: `server/workers.rs`)
//! - **E4** `WorkerCounts` counts a worker from `ConnWorker::new` until the worker will take no
//!   other connection, even if its job never runs. (test: `a_dropped_worker_is_not_counted`)
//! - **E5** A kill closes every connection. `kill` runs after the flag `killed` is set; each path
//!   that parks a connection or stores a waker reads the flag afterwards. So either the kill finds
//!   the connection, or the path finds the flag. (test: `server/shutdown.rs`)

pub(crate) mod conn_worker;
pub(crate) mod edge_socket;
mod event_loop;
mod poller;
#[cfg(feature = "http")]
pub(crate) mod warm;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::{ListenerConns, ParkedState};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::table::ConnKey;
use crate::conn::transport::{MaybeTls, TlsAccept};
use crate::parked::edge_socket::EdgeSocket;
pub(crate) use crate::parked::event_loop::event_loop;
use crate::parked::poller::InnerPoll;
#[cfg(feature = "http")]
use crate::parked::warm::{Cold, Warm};
#[cfg(feature = "http")]
use crate::task::Dedicated;
use crate::trace::ConnSpan;
#[cfg(feature = "http")]
use millpond::Pool;

/// A parked connection: what the table's entry holds.
pub(crate) struct Parked<I> {
    io: MaybeTls<EdgeSocket>,
    idle: I,
    span: ConnSpan,
}

impl<I: Send + 'static> ParkedState for Parked<I> {
    const USES_READY_QUEUE: bool = true;

    /// Workers take ready connections from the queue; a parked connection has no task to wake.
    fn waker(&self) -> Option<Waker> {
        None
    }
}

/// The connections of a listener in this mode.
type EventConns<P> = ListenerConns<P, Parked<<P as Protocol>::Idle>>;
/// A connection that is being served.
type EventConn<P> = ConnGuard<P, Parked<<P as Protocol>::Idle>, EdgeSocket>;

/// The event-driven mode of one listener.
pub(crate) struct EventDriven<P: Protocol> {
    pub(crate) conns: Arc<EventConns<P>>,
    registry: Registry,
    tls: TlsAccept,
}

impl<P: Protocol> EventDriven<P> {
    /// Makes the inner epoll; the caller gives that to [`event_loop()`].
    pub(crate) fn new(
        server: Arc<ServerState>,
        protocol: Arc<P>,
        tls: TlsAccept,
    ) -> io::Result<(Self, InnerPoll)> {
        let inner = mio::Poll::new()?;
        let registry = inner.registry().try_clone()?;
        let conns = Arc::new(ListenerConns::new(server, protocol));
        Ok((Self { conns, registry, tls }, InnerPoll(inner)))
    }

    /// Registers a new connection's socket, and parks the connection. If the protocol is to send
    /// first, the connection is ready at once.
    pub(crate) fn accept(&self, socket: Socket, address: Address, permit: PerIpPermit) {
        let key = self.conns.insert(permit);
        let Some(idle) = self.conns.on_accept(key, address) else { return };
        let io = self.tls.wrap(EdgeSocket::new(socket, address == Address::Unix));
        let span = ConnSpan::connection(&address);
        let conn = ConnGuard::new(self.conns.clone(), (key, span), (io, idle));
        if P::SERVER_FIRST && self.tls.is_plain() {
            self.conns.deliver(key, Events::PUSHED);
        }
        watch(conn, &self.registry, (ParkReason::FirstByte, true));
        if P::WARMS {
            self.conns.look_for_events();
        }
    }

    /// Makes the tasks of busy connections, `most` at a time.
    #[cfg(feature = "http")]
    pub(crate) fn warm(&self, pool: Option<Pool>, most: usize) -> io::Result<Arc<Warm<P>>> {
        let registry = || self.registry.try_clone();
        let (server, protocol) = (self.conns.server.clone(), self.conns.protocol.clone());
        let idle_table = Box::new(Cold { conns: self.conns.clone(), registry: registry()? });
        let mode = Arc::new(Dedicated::with_idle_table(server, protocol, pool, idle_table));
        Ok(Arc::new(Warm { mode, registry: registry()?, most }))
    }
}

/// Registers the socket of a connection with the inner epoll, and parks the connection.
fn watch<P: Protocol>(
    mut conn: EventConn<P>,
    registry: &Registry,
    park_reason: (ParkReason, bool),
) {
    let transport = conn.body.as_mut().and_then(|(io, _)| io.transport());
    let fd = transport.map(|socket| socket.as_raw_fd());
    // E1: this registration lasts until the socket is closed, or the connection gets a task.
    let both = Interest::READABLE | Interest::WRITABLE;
    match fd.map(|fd| registry.register(&mut SourceFd(&fd), token(conn.key), both)) {
        Some(Ok(())) => park(conn, park_reason),
        _ => conn.end(CloseReason::Io),
    }
}

fn token(key: ConnKey) -> Token {
    Token((u64::from(key.generation) << 32 | u64::from(key.index)) as usize)
}

fn key(token: Token) -> ConnKey {
    ConnKey { index: token.0 as u32, generation: (token.0 as u64 >> 32) as u32 }
}

/// Parks a new connection.
fn park<P: Protocol>(conn: EventConn<P>, park_reason: (ParkReason, bool)) {
    let conns = conn.conns.clone();
    if let Some((key, parked, counters)) = into_parked(conn) {
        conns.park(key, parked, park_reason, &counters);
    }
    // A kill that ran before the park has not found this connection (E5).
    if conns.is_killed() {
        kill(&conns);
    }
}

/// Takes apart a connection that is to be parked. Returns `None` if the server was killed: then the
/// connection is dropped, which closes it.
fn into_parked<P: Protocol>(
    mut conn: EventConn<P>,
) -> Option<(ConnKey, Parked<P::Idle>, Counters)> {
    if conn.conns.is_killed() {
        return None;
    }
    let (io, idle) = conn.body.take()?;
    let span = std::mem::take(&mut conn.span);
    Some((conn.key, Parked { io, idle, span }, conn.counters))
}

/// Closes all parked connections, and wakes the suspended turns, which end then (E5).
pub(crate) fn kill<P: Protocol>(conns: &Arc<EventConns<P>>) {
    for (key, Parked { io, idle, span }) in conns.drain_parked() {
        drop(EventConn::<P>::new(conns.clone(), (key, span), (io, idle)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::table;
    use crate::framed::service::IdleConn;
    use crate::parked::conn_worker::ConnWorker;

    #[test]
    fn a_parked_connection_is_small() {
        type Plain = Parked<IdleConn<()>>;
        let size = table::entry_size::<Plain>();
        assert!(size <= 56, "{size}");
    }

    #[test]
    fn a_worker_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines =
            crate::framed::service::ServiceProtocol<tokio_util::codec::LinesCodec, Service>;
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(ConnWorker::<Lines>::run) <= 672, "{}", size(ConnWorker::<Lines>::run));
    }

    #[test]
    fn a_token_is_its_key() {
        let all = ConnKey { index: u32::MAX - 1, generation: u32::MAX };
        for expected in
            [all, ConnKey { index: 3, generation: 0 }, ConnKey { index: 0, generation: 7 }]
        {
            assert_eq!(key(token(expected)), expected);
        }
    }
}
