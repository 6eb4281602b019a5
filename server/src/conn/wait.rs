//! What a connection waits for, and what its next turn is told. Plain values.

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Events, ParkReason};
use crate::settings::Ticks;
use crate::sync::failpoint;

/// What a connection waits for, or has waited for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) park_reason: ParkReason,
    /// The tick at which the wait ends, or `NEVER`.
    pub(crate) deadline: u32,
}

impl Wait {
    /// Returns the wait that begins `now`, after this one.
    ///
    /// The deadline begins anew if the turn has `moved` it, or if the reason is a new one.
    /// Otherwise the deadline of the wait before goes on. `ParkReason::Turn` is not a new reason;
    /// with `moved` it ends the deadline.
    pub(crate) fn next(
        self,
        (park_reason, moved): (ParkReason, bool),
        ticks: &Ticks,
        now: u32,
    ) -> Self {
        let moved = moved && !failpoint("traffic extends no deadline");
        let is_turn = park_reason == ParkReason::Turn;
        let is_new = self.park_reason.wait() != park_reason.wait() && !is_turn;
        Self {
            park_reason: if moved || !is_turn { park_reason } else { self.park_reason },
            deadline: if moved || is_new { ticks.end(park_reason, now) } else { self.deadline },
        }
    }
}

/// What a turn is told at its begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnInput {
    pub(crate) events: Events,
    pub(crate) park_reason: ParkReason,
    /// The deadline that has passed. The turn decides, because bytes may have come meanwhile (C5).
    pub(crate) expired: Option<Deadline>,
    pub(crate) close_requested: Option<CloseReason>,
    /// The connection had many turns in a short time. In a task: it did not wait for long.
    pub(crate) is_busy: bool,
}

impl TurnInput {
    /// Returns whether the turn may close the connection. Then the turn asks the socket itself
    /// first, because the known readiness may be out of date.
    pub(crate) fn forces_io(&self) -> bool {
        self.close_requested.is_some() || self.expired.is_some()
    }
}
