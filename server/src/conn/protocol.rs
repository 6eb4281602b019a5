//! The interface between the modes and the protocols.
//!
//! A mode (`parked`, `task`) decides when a connection is served and owns its socket. A protocol
//! (`framed`, `http`) knows what the bytes mean. The mode calls [`Protocol::serve_turn`] with a
//! [`Turn`], and the protocol answers with an [`Outcome`].

use std::any::Any;
use std::future::Future;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::task_entry::TaskEntry;
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::TurnInput;

/// Serves connections, a turn at a time. The same code runs in both modes.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// The state of a connection between two turns.
    type Idle: Send + 'static;

    /// Whether the protocol may act before the first byte has come. Then the first turn of a plain
    /// connection runs at once.
    const SERVER_FIRST: bool;

    /// Whether the protocol itself says which idle connections are warm, and lets tokio look at its I/O
    /// driver between two workers: HTTP. Other connections are warm while they have many turns, and on a
    /// pool none is: there a task needs a slot for each turn, a worker one for many.
    const WARMS_ITSELF: bool;

    /// The events that wake a turn while it is suspended in user code (C7).
    const INTEREST: Events;

    /// Makes the idle state of a new connection. May call user code.
    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle;

    /// Serves a connection until its socket would block or its budget is spent. The future may wait
    /// for user code, never for the peer.
    fn serve_turn<W: Transport>(
        &self,
        turn: Turn<'_, W, Self::Idle>,
    ) -> impl Future<Output = Outcome> + Send;

    /// Ends the idle state of a closed connection. Called once for each connection, also after a
    /// panic (C9).
    fn on_close(&self, idle: Self::Idle, reason: CloseReason);

    /// Called when a shutdown begins, before any connection is asked to close.
    fn on_shutdown(&self) {}
}

/// What a protocol may use for one turn.
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
    /// Present if the connection's task polls the turn. Such a turn may wait for the peer without an
    /// end: its future is pending, and [`TaskEntry::park`] says what it waits for.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) task: Option<&'a TaskEntry>,
}

/// How a turn ended.
pub(crate) enum Outcome {
    /// The connection is to be parked. `moved`: the deadline begins anew, even if the connection
    /// waits for the same reason as before.
    Park {
        park_reason: ParkReason,
        moved: bool,
    },
    Close(CloseReason),
    /// The connection is to have a task of its own, in which the next turn begins at once. Only for a
    /// plain connection of the event-driven mode.
    #[cfg(feature = "http")]
    Warm,
    /// The connection is to be closed; then the panic continues.
    Panicked(Box<dyn Any + Send>),
    /// The socket has a new owner, which takes the connection's entry and permit, too.
    #[cfg(feature = "http")]
    Detached(Detach),
}

/// Gives the new owner of a detached connection a value that holds the entry and the permit. The
/// drop of that value releases both.
#[cfg(feature = "http")]
pub(crate) type Detach = Box<dyn FnOnce(Box<dyn Any + Send>) + Send>;

/// The events that have woken a suspended turn, until the turn takes them.
///
/// All accesses are Relaxed. Each runs within a poll of the turn's future: `WakeOnEvents::poll`
/// adds events, then the turn reads them. The executor orders the polls of one future. The type is
/// atomic only to be `Sync`, because the turn and `WakeOnEvents` share a reference.
#[derive(Default)]
pub(crate) struct WakeEvents(AtomicU8);

impl WakeEvents {
    pub(crate) fn add(&self, events: Events) {
        if !events.is_empty() {
            self.0.fetch_or(events.bits(), Relaxed);
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn has(&self, events: Events) -> bool {
        Events::from_bits(self.0.load(Relaxed)).any(events)
    }

    #[cfg(feature = "http")]
    pub(crate) fn take(&self) -> Events {
        match self.0.load(Relaxed) {
            0 => Events::NONE,
            _ => Events::from_bits(self.0.swap(0, Relaxed)),
        }
    }
}
