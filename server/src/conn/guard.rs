//! The owner of an active connection: a turn, a connection's task, or a detached owner.
//!
//! A [`ConnGuard`] has what only the owner may touch: the stream, the idle state and the counters.
//! The modes make a guard when they take a connection, and take the guard apart to park it. Any
//! other end of a guard is a drop, and the drop ends the connection (C9).

use std::any::Any;
use std::io;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::conn::key::ConnKey;
use crate::conn::listener_conns::ListenerConns;
#[cfg(feature = "http")]
use crate::conn::protocol::Detach;
use crate::conn::protocol::{Outcome, Protocol, Turn, WakeEvents};
use crate::conn::server_state::Counters;
use crate::conn::task_entry::TaskEntry;
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::TurnInput;
use crate::conn::wake_on_events::WakeOnEvents;
use crate::panic::catch;
use crate::trace::{ConnSpan, event};

/// Owns an active connection. A drop at any point closes the socket and calls the protocol's
/// `on_close`. Then the drop releases the entry and the permit (C9).
pub(crate) struct ConnGuard<P: Protocol, W: Transport> {
    pub(crate) conns: Arc<ListenerConns<P>>,
    pub(crate) key: ConnKey,
    pub(crate) span: ConnSpan,
    /// The stream and the idle state. `None` once the connection is parked: then a drop has no
    /// effect.
    pub(crate) body: Option<(MaybeTls<W>, P::Idle)>,
    pub(crate) counters: Counters,
    /// The reason that a drop reports.
    pub(crate) reason: CloseReason,
}

impl<P: Protocol, W: Transport> ConnGuard<P, W> {
    /// Makes the guard of a new connection, or of one that was taken from the table.
    pub(crate) fn new(
        conns: Arc<ListenerConns<P>>,
        (key, span): (ConnKey, ConnSpan),
        body: (MaybeTls<W>, P::Idle),
    ) -> Self {
        let (counters, reason) = (Counters::default(), CloseReason::Aborted);
        Self { conns, key, span, body: Some(body), counters, reason }
    }

    /// Closes the connection for `reason`.
    pub(crate) fn end(mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Closes the connection, and then continues the panic of its turn.
    pub(crate) fn panic(self, payload: Box<dyn Any + Send>) -> ! {
        self.end(CloseReason::Panicked);
        resume_unwind(payload)
    }

    /// Whether the stream is a socket without TLS, and no other part of the server has it.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.body, Some((MaybeTls::Plain(_), _)))
    }

    /// Makes a socket of another kind of the connection's socket. Closes the connection if that fails,
    /// or if the stream is not plain.
    pub(crate) fn with_socket<X: Transport>(
        mut self,
        make: impl FnOnce(W) -> io::Result<X>,
    ) -> Option<ConnGuard<P, X>> {
        let (io, idle) = self.body.take()?;
        let made = match io {
            MaybeTls::Plain(socket) => make(socket).ok(),
            _ => None,
        };
        let is_made = made.is_some();
        let io = made.map_or(MaybeTls::Taken, MaybeTls::Plain);
        let (key, span) = (self.key, std::mem::take(&mut self.span));
        let mut conn = ConnGuard::new(self.conns.clone(), (key, span), (io, idle));
        conn.counters = self.counters;
        if !is_made {
            conn.end(CloseReason::Io);
            return None;
        }
        Some(conn)
    }

    /// Gives the guard to the new owner of the stream. The connection ends when that owner drops
    /// it.
    #[cfg(feature = "http")]
    pub(crate) fn detach(self, detach: Detach) {
        let conns = self.conns.clone();
        // The new owner may be a task of ours.
        let _entered = conns.runtime.enter();
        detach(Box::new(DetachedConn(self)));
    }

    /// Serves a turn. While the turn is suspended in user code, events of the connection wake the
    /// turn (C7). A kill ends the turn (C8), and so does a close that drops user code.
    ///
    /// `task`: the connection's task polls this future until the turn ends.
    pub(crate) async fn serve_turn(
        &mut self,
        input: TurnInput,
        task: Option<&TaskEntry>,
    ) -> Outcome {
        let Some((io, idle)) = &mut self.body else { return Outcome::Close(self.reason) };
        self.counters.turns += 1;
        let (conns, key, wake_events) = (&self.conns, self.key, WakeEvents::default());
        let notifier = || conns.notifier(key);
        let (server, counters) = (&*conns.server, &mut self.counters);
        let turn = Turn {
            server,
            io,
            idle,
            input,
            counters,
            wake_events: &wake_events,
            notifier: &notifier,
            task,
        };
        let future = pin!(conns.protocol.serve_turn(turn));
        let (conns, span, wake_events) = (&**conns, &self.span, Some(&wake_events));
        let ended =
            WakeOnEvents { conns, key, span, future, wake_events, task, suspended: false }.await;
        ended.unwrap_or_else(Outcome::Close)
    }
}

/// The guard of a detached connection. It determines the close reason when it is dropped.
#[cfg(feature = "http")]
struct DetachedConn<P: Protocol, W: Transport>(ConnGuard<P, W>);

#[cfg(feature = "http")]
impl<P: Protocol, W: Transport> Drop for DetachedConn<P, W> {
    fn drop(&mut self) {
        let ConnGuard { conns, key, reason, .. } = &mut self.0;
        *reason = match conns.is_killed() {
            true => CloseReason::Aborted,
            false => {
                conns.lock().table.close_requested(*key).unwrap_or(CloseReason::ClosedByServer)
            }
        };
    }
}

impl<P: Protocol, W: Transport> Drop for ConnGuard<P, W> {
    fn drop(&mut self) {
        let Some((io, idle)) = self.body.take() else { return };
        let reason = match std::thread::panicking() {
            true => CloseReason::Panicked,
            // A kill ended the wait for a slot; the pool did not refuse the turn.
            false if self.reason == CloseReason::PoolClosed && self.conns.is_killed() => {
                CloseReason::Aborted
            }
            false => self.reason,
        };
        drop(io);
        // `on_close` comes before the release: `ServerState::empty` is a promise that every
        // `on_close` has returned (C9).
        catch(|| {
            self.span.in_scope(|| {
                event!(DEBUG, %reason, "connection closed");
                self.conns.protocol.on_close(idle, reason);
            });
        });
        self.conns.release(self.key, &self.counters, reason);
    }
}
