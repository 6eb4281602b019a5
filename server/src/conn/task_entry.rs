//! The part of an entry that the task of its connection reads and writes without the listener's lock.
//!
//! The table holds a [`TaskEntry`] from the first poll of a connection's task until the connection ends
//! or is parked without a task. Meanwhile the table adds events and wakes the task; the task decides
//! when it waits and for what. So a turn of such a connection takes no lock that others take.
//!
//! | field | written by | read by |
//! |---|---|---|
//! | `waker` | nothing: the waker of a task never changes | the table |
//! | `key` | nothing | the task |
//! | `events` | the table adds, under the lock of the listener; the task takes | the task |
//! | `wait` | the task | the task; the timer, under the lock |
//! | `listed` | the task sets, the timer clears; see `warm_list` | both |
//! | `shared`: the clock | the timer | the task |
//!
//! # Invariants
//!
//! - **N1** No event is lost. The table adds an event and then wakes the task; each poll of the task
//!   looks at the events. (tests: `server/push.rs`, `tests::an_event_wakes_once`)
//! - **N2** A deadline closes nothing that has moved on. The timer reads `wait` while the task may
//!   change it, so the timer wakes the task and no more. The task looks at its own deadline.
//!   (test: `tests::a_late_wake_up_expires_nothing`)
//! - **N3** A task that waits has `is_paused`, and is counted until the wait or the connection ends.
//!   (test: `http/shutdown.rs`)

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::task::Waker;

use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::key::ConnKey;
use crate::conn::timer_wheel::ticks_left;
use crate::conn::wait::{TurnInput, Wait};
use crate::conn::warm_list::{Listed, WarmList};
use crate::settings::Ticks;
use crate::sync::failpoint;

/// The bit in `events` that says that the close of the connection was requested. It stays.
const ASKED: u8 = 128;

/// A [`Wait`] of a task in one word, with what the timer must know besides.
#[derive(Clone, Copy)]
struct TaskWait {
    wait: Wait,
    /// `ParkReason::is_turn`: the next turn is to begin at once.
    is_turn: bool,
    /// The task waits, and runs no turn.
    is_paused: bool,
    /// The tick at which the task began to wait, in its lowest bits.
    since: u8,
}

impl TaskWait {
    fn to_bits(self) -> u64 {
        let Self { wait: Wait { park_reason, deadline }, is_turn, is_paused, since } = self;
        let low = [park_reason as u8, u8::from(is_turn), u8::from(is_paused), since];
        u64::from(deadline) << 32 | u64::from(u32::from_le_bytes(low))
    }

    fn from_bits(bits: u64) -> Self {
        let [park_reason, is_turn, is_paused, since] = (bits as u32).to_le_bytes();
        let wait = Wait {
            park_reason: ParkReason::ALL[usize::from(park_reason)],
            deadline: (bits >> 32) as u32,
        };
        Self { wait, is_turn: is_turn != 0, is_paused: is_paused != 0, since }
    }
}

/// What the tasks of a table share with it.
#[derive(Default)]
pub(crate) struct Shared {
    /// The current tick.
    pub(crate) clock: AtomicU32,
    pub(crate) warm: WarmList,
}

pub(crate) struct TaskEntry {
    pub(crate) waker: Waker,
    pub(crate) listed: Listed,
    events: AtomicU8,
    wait: AtomicU64,
    key: ConnKey,
    shared: Arc<Shared>,
}

impl TaskEntry {
    pub(crate) fn new(key: ConnKey, waker: Waker, shared: Arc<Shared>) -> Self {
        let (listed, events, wait) = (Listed::default(), AtomicU8::new(0), AtomicU64::new(0));
        Self { waker, listed, events, wait, key, shared }
    }

    /// Takes over what the entry had before its connection had a task. Called by the table.
    pub(crate) fn begin(&self, wait: Wait, events: Events, is_asked: bool) {
        let wait = TaskWait { wait, is_turn: false, is_paused: false, since: 0 };
        self.wait.store(wait.to_bits(), SeqCst);
        self.deliver(events);
        if is_asked {
            self.ask_to_close();
        }
    }

    /// Returns what the entry has after its connection had a task. Called by the table.
    pub(crate) fn end(&self) -> (Wait, Events) {
        (self.wait().wait, self.events())
    }

    fn events(&self) -> Events {
        Events::from_bits(self.events.load(SeqCst) & !ASKED)
    }

    fn wait(&self) -> TaskWait {
        TaskWait::from_bits(self.wait.load(SeqCst))
    }

    /// Adds events. The caller wakes the task afterwards (N1).
    pub(crate) fn deliver(&self, events: Events) {
        if !events.is_empty() && !failpoint("a task misses its events") {
            self.events.fetch_or(events.bits(), SeqCst);
        }
    }

    /// Notes that the entry has a reason to close.
    pub(crate) fn ask_to_close(&self) {
        self.events.fetch_or(ASKED, SeqCst);
    }

    /// Returns whether the entry has one of `events`.
    pub(crate) fn has(&self, events: Events) -> bool {
        self.events().any(events)
    }

    /// Removes those of `events` that the entry has, and returns them. Also returns
    /// `CLOSE_REQUESTED`, but leaves that for the next turn.
    pub(crate) fn take_events(&self, events: Events) -> Events {
        let mut had = self.events.load(SeqCst);
        if had & events.bits() != 0 {
            had = self.events.fetch_and(!events.bits(), SeqCst);
        }
        Events::from_bits(had).of(events | Events::CLOSE_REQUESTED)
    }

    /// Begins a wait. Called by the task.
    pub(crate) fn park(&self, park_reason: (ParkReason, bool), ticks: &Ticks) {
        let now = self.shared.clock.load(SeqCst);
        let wait = self.wait().wait.next(park_reason, ticks, now);
        let is_turn = park_reason.0.is_turn();
        let task_wait = TaskWait { wait, is_turn, is_paused: true, since: now as u8 };
        self.wait.store(task_wait.to_bits(), SeqCst);
        if wait.park_reason == ParkReason::Warm {
            self.shared.warm.add(self.key, &self.listed);
        }
    }

    /// Returns whether the wait has come to its end. Called by the task.
    pub(crate) fn is_ready(&self) -> bool {
        let TaskWait { wait, is_turn, .. } = self.wait();
        is_turn || wait.park_reason.wakes_on(self.events())
    }

    /// Ends a wait, for a turn that begins. Called by the task. `close_requested` returns the reason that
    /// the table has.
    pub(crate) fn resume(
        &self,
        close_requested: impl FnOnce() -> Option<CloseReason>,
    ) -> TurnInput {
        let wait = self.wait();
        let mut events = self.events.load(SeqCst);
        if events & !ASKED != 0 {
            events = self.events.fetch_and(ASKED, SeqCst);
        }
        self.wait.store(TaskWait { is_paused: false, is_turn: false, ..wait }.to_bits(), SeqCst);
        let Wait { park_reason, deadline } = wait.wait;
        let now = self.shared.clock.load(SeqCst);
        let is_busy =
            park_reason == ParkReason::Warm || wait.since == now as u8 && !park_reason.is_new();
        // N2
        let expired = ticks_left(deadline, now) == Some(0)
            || failpoint("the timer alone decides") && events & Events::EXPIRED.bits() != 0;
        TurnInput {
            events: Events::from_bits(events & !ASKED).without(Events::EXPIRED),
            park_reason: park_reason.wait(),
            expired: expired.then(|| park_reason.deadline()),
            close_requested: if events & ASKED != 0 { close_requested() } else { None },
            is_busy,
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.wait().is_paused
    }

    /// Returns the number of ticks until the deadline, and whether the task waits. Called by the timer.
    pub(crate) fn ticks_left(&self, now: u32) -> (Option<u32>, bool) {
        let TaskWait { wait, is_paused, .. } = self.wait();
        (ticks_left(wait.deadline, now), is_paused)
    }

    /// Returns for how many ticks the task has been idle, if it is warm. Called by the timer.
    pub(crate) fn idle_ticks(&self, now: u8) -> Option<u8> {
        let TaskWait { wait, is_paused, since, .. } = self.wait();
        (is_paused && wait.park_reason == ParkReason::Warm).then(|| now.wrapping_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::close_reason::Deadline;
    use crate::settings::Deadlines;

    fn entry() -> (TaskEntry, Arc<Shared>, Ticks) {
        let shared: Arc<Shared> = Arc::default();
        let key = ConnKey { index: 0, generation: 0 };
        let entry = TaskEntry::new(key, Waker::noop().clone(), shared.clone());
        let wait = Wait { park_reason: ParkReason::FirstByte, deadline: crate::settings::NEVER };
        entry.begin(wait, Events::NONE, false);
        let idle = Some(Duration::from_secs(8));
        (entry, shared, Ticks::new(&Deadlines { idle, ..Deadlines::default() }))
    }

    #[test]
    fn all_reasons_have_their_number() {
        for (number, reason) in ParkReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }

    #[test]
    fn an_event_wakes_once() {
        let (entry, _, ticks) = entry();
        entry.deliver(Events::PUSHED);
        entry.park((ParkReason::Idle, true), &ticks);
        assert!(entry.is_ready() && entry.is_paused());
        assert_eq!(entry.resume(|| None).events, Events::PUSHED);
        entry.park((ParkReason::Idle, true), &ticks);
        assert!(!entry.is_ready());
        // Nothing is written for a wait to write, and the event stays for a later turn.
        entry.park((ParkReason::Write, true), &ticks);
        entry.deliver(Events::PUSHED);
        assert!(!entry.is_ready());
        entry.ask_to_close();
        entry.deliver(Events::CLOSE_REQUESTED);
        assert!(entry.is_ready());
        let input = entry.resume(|| Some(CloseReason::Shutdown));
        assert!(input.events.any(Events::PUSHED));
        assert_eq!(input.close_requested, Some(CloseReason::Shutdown));
        // The reason stays, the event does not.
        entry.park((ParkReason::Idle, true), &ticks);
        assert!(!entry.is_ready());
        assert_eq!(
            entry.resume(|| Some(CloseReason::Shutdown)).close_requested,
            Some(CloseReason::Shutdown)
        );
    }

    #[test]
    fn a_late_wake_up_expires_nothing() {
        let (entry, shared, ticks) = entry();
        let pass = |ticks: u32| shared.clock.fetch_add(ticks, SeqCst);
        entry.park((ParkReason::Idle, true), &ticks);
        pass(ticks.end(ParkReason::Idle, 0));
        assert_eq!(entry.ticks_left(shared.clock.load(SeqCst)), (Some(0), true));
        // Between the look of the timer and its wake-up the connection is served.
        assert_eq!(entry.resume(|| None).expired, Some(Deadline::Idle));
        entry.park((ParkReason::Idle, true), &ticks);
        entry.deliver(Events::CLOSE_REQUESTED | Events::EXPIRED);
        assert_eq!(entry.resume(|| None).expired, None);
    }
}
