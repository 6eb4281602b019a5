//! A connection in the hands of a burst, or of its task.

use std::any::Any;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::conn::listener_conns::{Content, Suspendable, Yard};
#[cfg(feature = "http")]
use crate::conn::protocol::Keep;
use crate::conn::protocol::{Cue, Outcome, Protocol, Turn};
use crate::conn::server_state::Tally;
use crate::conn::table::{Key, Order};
use crate::conn::transport::{Io, Wire};
use crate::panic::fenced;
use crate::trace::{ConnSpan, event};

/// Whatever becomes of it, dropped it has closed its connection, told the protocol, and given
/// back its record and its place.
pub(crate) struct Held<P: Protocol, T: Content, W: Wire> {
    pub(crate) yard: Arc<Yard<P, T>>,
    pub(crate) key: Key,
    pub(crate) span: ConnSpan,
    /// None once it is parked again.
    pub(crate) body: Option<(Io<W>, P::Idle)>,
    pub(crate) tally: Tally,
    /// What a drop means.
    pub(crate) reason: CloseReason,
}

impl<P: Protocol, T: Content, W: Wire> Held<P, T, W> {
    pub(crate) fn new(
        yard: Arc<Yard<P, T>>,
        (key, span): (Key, ConnSpan),
        body: (Io<W>, P::Idle),
    ) -> Self {
        let (tally, reason) = (Tally::default(), CloseReason::Aborted);
        Self { yard, key, span, body: Some(body), tally, reason }
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

    /// Leaves record and place to those who have the connection now.
    #[cfg(feature = "http")]
    pub(crate) fn leave(self, keep: Keep) {
        keep(Box::new(Left(self)));
    }

    pub(crate) async fn burst(&mut self, order: Order) -> Outcome {
        let Some((io, idle)) = &mut self.body else { return Outcome::Close(self.reason) };
        self.tally.bursts += 1;
        let (yard, key, cue) = (&self.yard, self.key, Cue::default());
        let nudge = || yard.nudge(key);
        let (hub, tally) = (&*yard.hub, &mut self.tally);
        let turn = Turn { hub, io, idle, order, tally, cue: &cue, nudge: &nudge };
        let future = pin!(yard.protocol.burst(turn));
        let (yard, span, cue) = (&**yard, &self.span, Some(&cue));
        let ended = Suspendable { yard, key, span, future, cue, suspended: false }.await;
        ended.unwrap_or(Outcome::Close(CloseReason::Aborted))
    }
}

/// In the hands of others. Who wanted its end is known when it comes.
#[cfg(feature = "http")]
struct Left<P: Protocol, T: Content, W: Wire>(Held<P, T, W>);

#[cfg(feature = "http")]
impl<P: Protocol, T: Content, W: Wire> Drop for Left<P, T, W> {
    fn drop(&mut self) {
        let Held { yard, key, reason, .. } = &mut self.0;
        *reason = match yard.is_killed() {
            true => CloseReason::Aborted,
            false => yard.lock().lot.doom_of(*key).unwrap_or(CloseReason::Local),
        };
    }
}

impl<P: Protocol, T: Content, W: Wire> Drop for Held<P, T, W> {
    fn drop(&mut self) {
        let Some((io, idle)) = self.body.take() else { return };
        let reason = match std::thread::panicking() {
            true => CloseReason::Panicked,
            // It waited for a place on the pool.
            false if self.reason == CloseReason::PoolClosed && self.yard.is_killed() => {
                CloseReason::Aborted
            }
            false => self.reason,
        };
        drop(io);
        // Before it is given back: who waits for the last connection finds that all is told.
        fenced(|| {
            self.span.in_scope(|| {
                event!(DEBUG, %reason, "connection closed");
                self.yard.protocol.closed(idle, reason);
            });
        });
        self.yard.release(self.key, &self.tally, reason);
    }
}
