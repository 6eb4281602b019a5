//! The event-driven mode: an idle connection is one entry of the connection table, and no task.
//!
//! A *parked* connection is a socket, perhaps a TLS session, and the protocol's idle state
//! (`conn/rest.rs`). It has no task, no timer and no buffer; `benches/modes.md` has the bytes. The `accept`
//! loop parks each new connection with [`EventDriven::accept`]; from then on three parts pass it around,
//! until it is busy:
//!
//! ```text
//! kernel -> inner epoll -> poller -> event_loop -> table: parked entry becomes ready
//!                                        |
//!                          starts a ConnWorker, if one is wanted
//!                                        |
//!           ConnWorker: first ready entry -> turn -> park again, close or detach
//!                                                     \-> busy: a task of its own (`task`), until idle
//! ```
//!
//! HTTP connections and framed ones get such tasks, at most `warm_connections` at a time. Those over TLS get
//! none, nor do framed ones beside a pool (`Protocol::WARMS_ITSELF`).
//!
//! | file | content |
//! |---|---|
//! | `poller` | the inner epoll, itself registered with tokio: a batch of events at a time |
//! | `event_loop` | one task for each listener: delivers the events, starts workers |
//! | `conn_worker` | a task, or a job of the user's pool: serves ready connections, one after another |
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
mod event_loop;
mod poller;

use std::io;
use std::sync::Arc;

use mio::Registry;
use socket2::Socket;

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::conn::edge_socket::EdgeSocket;
use crate::conn::events::{Events, ParkReason};
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::ListenerConns;
use crate::conn::park::watch;
use crate::conn::protocol::Protocol;
use crate::conn::server_state::ServerState;
use crate::conn::transport::TlsAccept;
pub(crate) use crate::parked::event_loop::event_loop;
#[cfg(test)]
pub(crate) use crate::parked::poller::FAILS_ONCE;
use crate::parked::poller::InnerPoll;
use crate::task::Tasks;
use crate::trace::ConnSpan;
use millpond::Pool;

/// The event-driven mode of one listener.
pub(crate) struct EventDriven<P: Protocol> {
    pub(crate) conns: Arc<ListenerConns<P>>,
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
        if P::WARMS_ITSELF {
            self.conns.look_for_events();
        }
    }

    /// Returns what makes the tasks of busy connections, `most_warm` at a time.
    pub(crate) fn tasks(&self, pool: Option<Pool>, most_warm: usize) -> io::Result<Arc<Tasks<P>>> {
        let registry = self.registry.try_clone()?;
        Ok(Arc::new(Tasks::of_busy(self.conns.clone(), pool, registry, most_warm)))
    }
}

#[cfg(test)]
mod tests {
    use crate::parked::conn_worker::ConnWorker;

    #[test]
    fn a_worker_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines =
            crate::framed::service::ServiceProtocol<tokio_util::codec::LinesCodec, Service>;
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(ConnWorker::<Lines>::run) <= 688, "{}", size(ConnWorker::<Lines>::run));
    }
}
