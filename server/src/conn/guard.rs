//! The owner of an active connection: a turn, or the task of a connection.

use std::any::Any;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::conn::listener_conns::{ListenerConns, ParkedState, WakeOnEvents};
#[cfg(feature = "http")]
use crate::conn::protocol::Detach;
use crate::conn::protocol::{Outcome, Protocol, Turn, WakeEvents};
use crate::conn::server_state::Counters;
use crate::conn::table::{ConnKey, TurnInput};
use crate::conn::transport::{MaybeTls, Transport};
use crate::panic::catch;
use crate::trace::{ConnSpan, event};

/// Whatever becomes of it, dropped it has closed its connection, told the protocol, and released
/// its entry and its permit.
pub(crate) struct ConnGuard<P: Protocol, T: ParkedState, W: Transport> {
    pub(crate) conns: Arc<ListenerConns<P, T>>,
    pub(crate) key: ConnKey,
    pub(crate) span: ConnSpan,
    /// None once it is parked again.
    pub(crate) body: Option<(MaybeTls<W>, P::Idle)>,
    pub(crate) counters: Counters,
    /// What a drop means.
    pub(crate) reason: CloseReason,
}

impl<P: Protocol, T: ParkedState, W: Transport> ConnGuard<P, T, W> {
    pub(crate) fn new(
        conns: Arc<ListenerConns<P, T>>,
        (key, span): (ConnKey, ConnSpan),
        body: (MaybeTls<W>, P::Idle),
    ) -> Self {
        let (counters, reason) = (Counters::default(), CloseReason::Aborted);
        Self { conns, key, span, body: Some(body), counters, reason }
    }

    /// Closes it.
    pub(crate) fn end(mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Closes it, and has the panic go on.
    pub(crate) fn panic(self, payload: Box<dyn Any + Send>) -> ! {
        self.end(CloseReason::Panicked);
        resume_unwind(payload)
    }

    /// Leaves entry and permit to the connection's new owner.
    #[cfg(feature = "http")]
    pub(crate) fn detach(self, detach: Detach) {
        detach(Box::new(DetachedConn(self)));
    }

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

/// A detached connection. The reason of its end is known when it ends.
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
            // It waited for a slot of the pool.
            false if self.reason == CloseReason::PoolClosed && self.conns.is_killed() => {
                CloseReason::Aborted
            }
            false => self.reason,
        };
        drop(io);
        // Before it is given back: who waits for the last connection finds that all is told.
        catch(|| {
            self.span.in_scope(|| {
                event!(DEBUG, %reason, "connection closed");
                self.conns.protocol.on_close(idle, reason);
            });
        });
        self.conns.release(self.key, &self.counters, reason);
    }
}
