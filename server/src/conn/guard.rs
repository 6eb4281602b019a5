//! The owner of an active connection: a turn, a connection's task, or a detached owner.
//!
//! A [`ConnGuard`] has what only the owner may touch: the stream, the idle state and the counters.
//! The modes make a guard when they take a connection, and take the guard apart to park it. Any
//! other end of a guard is a drop, and the drop ends the connection (C9).

use std::any::Any;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::conn::listener_conns::{ListenerConns, ParkedState};
#[cfg(feature = "http")]
use crate::conn::protocol::Detach;
use crate::conn::protocol::{Outcome, Protocol, Turn, WakeEvents};
use crate::conn::server_state::Counters;
#[cfg(feature = "http")]
use crate::conn::table::MovedEntry;
use crate::conn::table::{ConnKey, TurnInput};
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wake_on_events::WakeOnEvents;
use crate::panic::catch;
use crate::trace::{ConnSpan, event};

/// Owns an active connection. A drop at any point closes the socket and calls the protocol's
/// `on_close`. Then the drop releases the entry and the permit (C9).
pub(crate) struct ConnGuard<P: Protocol, T: ParkedState, W: Transport> {
    pub(crate) conns: Arc<ListenerConns<P, T>>,
    pub(crate) key: ConnKey,
    pub(crate) span: ConnSpan,
    /// The stream and the idle state. `None` once the connection is parked: then a drop has no
    /// effect.
    pub(crate) body: Option<(MaybeTls<W>, P::Idle)>,
    pub(crate) counters: Counters,
    /// The reason that a drop reports.
    pub(crate) reason: CloseReason,
}

impl<P: Protocol, T: ParkedState, W: Transport> ConnGuard<P, T, W> {
    /// Makes the guard of a new connection, or of one that was taken from the table.
    pub(crate) fn new(
        conns: Arc<ListenerConns<P, T>>,
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

    /// Takes the connection apart, to move it to another table.
    #[cfg(feature = "http")]
    pub(crate) fn move_out(mut self) -> Option<Moved<P, W>> {
        let entry = self.conns.move_out(self.key, &self.counters)?;
        let (io, idle) = self.body.take()?;
        Some(Moved { entry, io, idle, span: std::mem::take(&mut self.span) })
    }

    /// Gives the guard to the new owner of the stream. The connection ends when that owner drops
    /// it.
    #[cfg(feature = "http")]
    pub(crate) fn detach(self, detach: Detach) {
        detach(Box::new(DetachedConn(self)));
    }

    /// Serves a turn. While the turn is suspended in user code, events of the connection wake the
    /// turn (C7). A kill ends the turn (C8).
    pub(crate) async fn serve_turn(&mut self, input: TurnInput) -> Outcome {
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
        };
        let future = pin!(conns.protocol.serve_turn(turn));
        let (conns, span, wake_events) = (&**conns, &self.span, Some(&wake_events));
        let ended = WakeOnEvents { conns, key, span, future, wake_events, suspended: false }.await;
        ended.unwrap_or(Outcome::Close(CloseReason::Aborted))
    }
}

/// A connection on its way from one table to another. A drop would lose its permit.
#[cfg(feature = "http")]
pub(crate) struct Moved<P: Protocol, W> {
    pub(crate) entry: MovedEntry,
    pub(crate) io: MaybeTls<W>,
    pub(crate) idle: P::Idle,
    pub(crate) span: ConnSpan,
}

/// The guard of a detached connection. It determines the close reason when it is dropped.
#[cfg(feature = "http")]
struct DetachedConn<P: Protocol, T: ParkedState, W: Transport>(ConnGuard<P, T, W>);

#[cfg(feature = "http")]
impl<P: Protocol, T: ParkedState, W: Transport> Drop for DetachedConn<P, T, W> {
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

impl<P: Protocol, T: ParkedState, W: Transport> Drop for ConnGuard<P, T, W> {
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
