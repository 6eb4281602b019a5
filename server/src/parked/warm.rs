//! Busy connections of the event-driven mode: each has a task of its own until it is idle.
//!
//! A parked connection costs least while it is idle. Under load it costs a second epoll and the start
//! of a worker for each turn. So a *warm* connection is one of the dedicated mode: a task, with its
//! socket registered with tokio. The turns are the same. A connection becomes warm when it was parked
//! and served some times within one tick, and goes back when it was idle for a tick.
//!
//! ```text
//! ConnWorker: busy, and idle now ──adopt──▶ ConnTask (task/mod.rs)
//! table of parked connections    ◀─take_back── idle for a tick: COOL
//! ```
//!
//! A connection that has become a WebSocket goes back at once and never becomes warm again
//! (`Outcome::Settle`): the handles of its user name its entry.
//!
//! A connection moves only between turns, when its stream is plain and no other part of the server
//! has the stream. The kernel reports readiness anew with each registration, so no byte is missed.
//!
//! # Invariants
//!
//! - **W1** The permit, the deadline, the age, the number of requests and a request to close move with
//!   the connection. (tests: `http/deadlines.rs`, `http/limits.rs`, `http/shutdown.rs`)
//! - **W2** A shutdown and a kill reach a connection that is between two tables. Both set their flag
//!   before they visit the tables; a move reads the flag after the insert, the next park reads
//!   `killed`. (test: `a_move_sees_a_shutdown`)

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::Registry;
use mio::unix::SourceFd;

use crate::close_reason::CloseReason;
use crate::conn::events::ParkReason;
use crate::conn::guard::{ConnGuard, Moved};
use crate::conn::listener_conns::{ListenerConns, ParkedState};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::Counters;
use crate::conn::transport::{MaybeTls, Transport};
use crate::parked::edge_socket::EdgeSocket;
use crate::parked::{EventConn, EventConns, watch};
use crate::sync::failpoint;
use crate::task::tokio_socket::TokioSocket;
use crate::task::{Dedicated, IdleTable, TaskConn};
use crate::trace::ConnSpan;

/// The busy connections of a listener.
pub(crate) struct Warm<P: Protocol> {
    pub(crate) mode: Arc<Dedicated<P>>,
    pub(crate) registry: Registry,
    /// How many idle connections may be warm.
    pub(crate) most: usize,
}

impl<P: Protocol> Warm<P> {
    /// Returns whether the connection may become warm.
    pub(crate) fn has_room(&self, conn: &EventConn<P>) -> bool {
        let is_full = self.mode.conns.lock().table.open() >= self.most;
        is_plain(conn) && (!is_full || failpoint("any number is warm"))
    }

    /// Spawns a task for a plain connection.
    pub(crate) fn adopt(&self, conn: EventConn<P>, park_reason: (ParkReason, bool)) {
        let make = |socket: EdgeSocket| {
            // An error would leave a registration that ends with the socket.
            let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
            let (socket, is_unix) = socket.into_socket();
            TokioSocket::new(socket, is_unix)
        };
        if let Some(conn) = convert(conn, &self.mode.conns, make) {
            self.mode.adopt(conn, park_reason);
        }
    }
}

/// The table of parked connections, to which warm ones come back when they are idle.
pub(crate) struct Cold<P: Protocol> {
    pub(crate) conns: Arc<EventConns<P>>,
    pub(crate) registry: Registry,
}

impl<P: Protocol> IdleTable<P> for Cold<P> {
    fn take_back(
        &self,
        conn: TaskConn<P>,
        park_reason: (ParkReason, bool),
    ) -> Result<(), TaskConn<P>> {
        if !is_plain(&conn) {
            return Err(conn);
        }
        let make = |socket: TokioSocket| {
            let (socket, is_unix) = socket.into_socket()?;
            Ok(EdgeSocket::new(socket, is_unix))
        };
        if let Some(conn) = convert(conn, &self.conns, make) {
            watch(conn, &self.registry, park_reason);
        }
        Ok(())
    }
}

fn is_plain<P: Protocol, T: ParkedState, W: Transport>(conn: &ConnGuard<P, T, W>) -> bool {
    matches!(conn.body, Some((MaybeTls::Plain(_), _)))
}

/// Moves a connection to another table and its socket to another type. Closes the connection if that
/// fails.
fn convert<P: Protocol, T: ParkedState, W: Transport, U: ParkedState, X: Transport>(
    conn: ConnGuard<P, T, W>,
    to: &Arc<ListenerConns<P, U>>,
    make: impl FnOnce(W) -> std::io::Result<X>,
) -> Option<ConnGuard<P, U, X>> {
    let Moved { entry, io, idle, span }: Moved<P, W> = conn.move_out()?;
    let key = to.move_in(entry);
    if let MaybeTls::Plain(socket) = io
        && let Ok(socket) = make(socket)
    {
        return Some(ConnGuard::new(to.clone(), (key, span), (MaybeTls::Plain(socket), idle)));
    }
    let _: ConnSpan = span;
    to.protocol.on_close(idle, CloseReason::Io);
    to.release(key, &Counters::default(), CloseReason::Io);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::per_ip::PerIpPermit;
    use crate::conn::server_state::ServerState;
    use crate::framed::service::{Lines, lines};
    use crate::settings::Settings;
    use crate::task::TaskWaker;

    #[tokio::test]
    async fn a_move_sees_a_shutdown() {
        let server = Arc::new(ServerState::new(Settings::least(), 1, None));
        let conns: ListenerConns<Lines, TaskWaker> =
            ListenerConns::new(server.clone(), Arc::new(lines()));
        let key = conns.insert(PerIpPermit::UNCOUNTED);
        let moved = conns.move_out(key, &Counters::default()).unwrap();
        // The table is empty now, so this request reaches no connection.
        server.begin_close_round();
        conns.request_close_all(CloseReason::Shutdown);
        let key = conns.move_in(moved);
        assert_eq!(conns.lock().table.close_requested(key), Some(CloseReason::Shutdown));
    }
}
