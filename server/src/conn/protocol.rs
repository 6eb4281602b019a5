//! What the modes ask of those who know what bytes mean.

use std::any::Any;
use std::future::Future;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::table::TurnInput;
use crate::conn::transport::{MaybeTls, Transport};

/// Serves connections, a turn at a time. The same code runs in both modes.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// What is kept of a connection while nobody works for it.
    type Idle: Send + 'static;

    /// Whether there is something to do before the first byte comes.
    const SERVER_FIRST: bool;

    /// What a turn wants to be woken for while it waits for user code.
    const INTEREST: Events;

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle;

    /// Serves a connection until it would block or others have their turn. Nothing here waits for
    /// the peer.
    fn serve_turn<W: Transport>(
        &self,
        turn: Turn<'_, W, Self::Idle>,
    ) -> impl Future<Output = Outcome> + Send;

    /// The connection is gone. Called once, also after a panic.
    fn on_close(&self, idle: Self::Idle, reason: CloseReason);

    /// Time passes; called about every tick while there are connections.
    fn tick(&self) {}
}

/// A connection whose turn it is.
pub(crate) struct Turn<'a, W, I> {
    pub(crate) server: &'a ServerState,
    pub(crate) io: &'a mut MaybeTls<W>,
    pub(crate) idle: &'a mut I,
    pub(crate) input: TurnInput,
    pub(crate) counters: &'a mut Counters,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) wake_events: &'a WakeEvents,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) notifier: &'a (dyn Fn() -> ConnNotifier + Sync),
}

/// How a turn ended.
pub(crate) enum Outcome {
    /// To be parked; `moved` if the deadline of this wait begins anew.
    Park {
        park_reason: ParkReason,
        moved: bool,
    },
    Close(CloseReason),
    /// To be closed; the panic goes on then.
    Panicked(Box<dyn Any + Send>),
    /// Detached: its new owner also takes the connection's entry and permit.
    #[cfg(feature = "http")]
    Detached(Detach),
}

/// Gives a connection's entry to the connection's new owner.
#[cfg(feature = "http")]
pub(crate) type Detach = Box<dyn FnOnce(Box<dyn Any + Send>) + Send>;

/// The events that have woken a turn.
#[derive(Default)]
pub(crate) struct WakeEvents(AtomicU8);

impl WakeEvents {
    pub(crate) fn add(&self, events: Events) {
        self.0.fetch_or(events.bits(), Relaxed);
    }

    #[cfg(feature = "http")]
    pub(crate) fn has(&self, events: Events) -> bool {
        Events::from_bits(self.0.load(Relaxed)).any(events)
    }

    #[cfg(feature = "http")]
    pub(crate) fn take(&self) -> Events {
        Events::from_bits(self.0.swap(0, Relaxed))
    }
}
