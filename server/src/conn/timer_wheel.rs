//! The timer wheel of a connection table: each list has the entries to look at in one tick.
//!
//! The lists run through the entries: each [`Timer`] has the index of the next entry. A wheel has
//! no allocation per entry, and a free entry may stay linked until its tick comes.
//!
//! A moved deadline costs one store, because the entry stays in its list. The table looks at each
//! entry after at most `horizon` ticks, and links the entry again by its current deadline. The
//! horizon is not longer than the shortest deadline, so no deadline passes unseen (C5).
//!
//! The lock of the table covers the wheel. Nothing here reads a clock: `ListenerConns::run_timer`
//! advances the wheel.

use crate::settings::NEVER;

/// The end of a list.
pub(crate) const NIL: u32 = u32::MAX;
/// The `next` of an entry that is in no list.
const NOT_LINKED: u32 = u32::MAX - 1;

/// The part of the wheel that is inside of an entry.
pub(crate) struct Timer {
    /// The tick at which the wait ends, or [`NEVER`].
    pub(crate) deadline: u32,
    /// The next entry of the list.
    next: u32,
}

impl Timer {
    pub(crate) const UNLINKED: Self = Self { deadline: NEVER, next: NOT_LINKED };

    pub(crate) fn is_linked(&self) -> bool {
        self.next != NOT_LINKED
    }

    /// Takes the entry out of its list, and returns the next one.
    pub(crate) fn unlink(&mut self) -> u32 {
        std::mem::replace(&mut self.next, NOT_LINKED)
    }

    /// Returns the number of ticks until the deadline.
    pub(crate) fn ticks_left(&self, now: u32) -> Option<u32> {
        ticks_left(self.deadline, now)
    }
}

/// Returns the number of ticks until a deadline, or `None` without a deadline. Ticks wrap. No deadline is
/// half of the range away, so a larger distance means that the deadline has passed.
pub(crate) fn ticks_left(deadline: u32, now: u32) -> Option<u32> {
    let left = deadline.wrapping_sub(now);
    (deadline != NEVER).then_some(if left > NEVER / 2 { 0 } else { left })
}

pub(crate) struct TimerWheel {
    /// The first entry of each list.
    buckets: Vec<u32>,
    /// The current tick.
    pub(crate) now: u32,
}

impl TimerWheel {
    /// `horizon`: the shortest of all deadlines, in ticks.
    pub(crate) fn new(horizon: u32) -> Self {
        Self { buckets: vec![NIL; horizon.clamp(1, 4096) as usize + 1], now: 0 }
    }

    /// Returns the most ticks that an entry may be linked for.
    pub(crate) fn horizon(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }

    /// Advances by a tick. Returns the first entry of the tick's list, and empties the list.
    pub(crate) fn advance(&mut self) -> u32 {
        self.now = self.now.wrapping_add(1);
        let bucket = self.bucket(0);
        std::mem::replace(&mut self.buckets[bucket], NIL)
    }

    /// Links an entry into the list of the tick that is `ticks` from now.
    pub(crate) fn link(&mut self, index: u32, timer: &mut Timer, ticks: u32) {
        let bucket = self.bucket(ticks);
        timer.next = std::mem::replace(&mut self.buckets[bucket], index);
    }

    fn bucket(&self, ticks: u32) -> usize {
        self.now.wrapping_add(ticks) as usize % self.buckets.len()
    }
}
