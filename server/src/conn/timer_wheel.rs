//! The timer wheel of a connection table: lists of entries, by the tick at which to look at them.
//!
//! The lists run through the entries. Activity moves a deadline by a store, without a change of
//! lists: the table looks at each entry again after at most `horizon` ticks, and links it anew by
//! what its deadline then says. The horizon is no longer than the shortest deadline, so no deadline
//! passes unseen. Nothing here reads a clock.

use crate::settings::NEVER;

/// The end of a list.
pub(crate) const NIL: u32 = u32::MAX;
const NOT_LINKED: u32 = u32::MAX - 1;

/// An entry's part of the wheel.
pub(crate) struct Timer {
    /// A tick, or [`NEVER`].
    pub(crate) deadline: u32,
    /// The next entry of the list. A free entry may be linked, too.
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

    /// How many ticks are left until the deadline. Ticks wrap; no deadline is half of their range
    /// away.
    pub(crate) fn ticks_left(&self, now: u32) -> Option<u32> {
        let left = self.deadline.wrapping_sub(now);
        (self.deadline != NEVER).then_some(if left > NEVER / 2 { 0 } else { left })
    }
}

pub(crate) struct TimerWheel {
    /// The first entry of each list.
    buckets: Vec<u32>,
    /// The current tick.
    pub(crate) now: u32,
}

impl TimerWheel {
    /// `horizon`: how many ticks the shortest of all deadlines has.
    pub(crate) fn new(horizon: u32) -> Self {
        Self { buckets: vec![NIL; horizon.clamp(1, 4096) as usize + 1], now: 0 }
    }

    /// The most ticks that an entry is linked for.
    pub(crate) fn horizon(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }

    /// Advances by a tick, and returns the first entry of the list to look at.
    pub(crate) fn advance(&mut self) -> u32 {
        self.now = self.now.wrapping_add(1);
        let bucket = self.bucket(0);
        std::mem::replace(&mut self.buckets[bucket], NIL)
    }

    /// Links an entry for so many ticks from now.
    pub(crate) fn link(&mut self, index: u32, timer: &mut Timer, ticks: u32) {
        let bucket = self.bucket(ticks);
        timer.next = std::mem::replace(&mut self.buckets[bucket], index);
    }

    fn bucket(&self, ticks: u32) -> usize {
        self.now.wrapping_add(ticks) as usize % self.buckets.len()
    }
}
