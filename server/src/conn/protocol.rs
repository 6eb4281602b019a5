//! What the modes ask of those who know what bytes mean.

use std::any::Any;
use std::future::Future;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::{Signal, Wait};
use crate::conn::notifier::Nudge;
use crate::conn::server_state::{Hub, Tally};
use crate::conn::table::Order;
use crate::conn::transport::{Io, Wire};

/// Serves connections, a burst at a time. The same code runs in both modes.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// What is kept of a connection while nobody works for it.
    type Idle: Send + 'static;

    /// Whether there is something to do before the first byte comes.
    const OPENS: bool;

    /// What a burst wants to be woken for while it waits for user code.
    const HEARS: Signal;

    fn arrive(&self, address: Address, nudge: Nudge) -> Self::Idle;

    /// Serves a connection until it would block or others have their turn. Nothing here waits for
    /// the peer.
    fn burst<W: Wire>(&self, turn: Turn<'_, W, Self::Idle>)
    -> impl Future<Output = Outcome> + Send;

    /// The connection is gone. Called once, also after a panic.
    fn closed(&self, idle: Self::Idle, reason: CloseReason);

    /// Time passes; called about every tick while there are connections.
    fn tick(&self) {}
}

/// A connection whose turn it is.
pub(crate) struct Turn<'a, W, I> {
    pub(crate) hub: &'a Hub,
    pub(crate) io: &'a mut Io<W>,
    pub(crate) idle: &'a mut I,
    pub(crate) order: Order,
    pub(crate) tally: &'a mut Tally,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) cue: &'a Cue,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) nudge: &'a (dyn Fn() -> Nudge + Sync),
}

/// How a burst ended.
pub(crate) enum Outcome {
    /// To be parked; `moved` if the deadline of this wait begins anew.
    Park {
        wait: Wait,
        moved: bool,
    },
    Close(CloseReason),
    /// To be closed; the panic goes on then.
    Panicked(Box<dyn Any + Send>),
    /// In other hands, which take over the connection's record and its place, too.
    #[cfg(feature = "http")]
    Left(Keep),
}

/// Gives a connection's record to those who have the connection.
#[cfg(feature = "http")]
pub(crate) type Keep = Box<dyn FnOnce(Box<dyn Any + Send>) + Send>;

/// The signals that have woken a burst.
#[derive(Default)]
pub(crate) struct Cue(AtomicU8);

impl Cue {
    pub(crate) fn give(&self, signals: Signal) {
        self.0.fetch_or(signals.bits(), Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn has(&self, signal: Signal) -> bool {
        Signal::of_bits(self.0.load(Relaxed)).any(signal)
    }

    #[cfg(feature = "http")]
    pub(crate) fn take(&self) -> Signal {
        Signal::of_bits(self.0.swap(0, Relaxed))
    }
}
