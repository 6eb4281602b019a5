//! The peaks of a limiter: the marks of each reader.
//!
//! Marks are raised under the state lock, where a number grows: waiters, overflow, jobs in callers. Slots
//! are taken under the shard locks alone. So each shard has `unused_slots`: the free slots that no job has
//! needed since the last look. A start lowers that number only if it takes one of them. A look sums up
//! the shards under all locks, and raises the marks of all readers.
//!
//! At any moment since the last look, at least the sum of all `unused_slots` were free. So the slots in
//! existence, less that sum, are an upper bound of the slots in use. Slots that move to another shard take
//! their part of the sum along. Slots that come into existence raise the sum, and slots that vanish lower
//! it. A shard's part may be negative; it is never more than the shard's free slots.

use slab::Slab;
use tokio::time::Instant;

use crate::pool::limiter::Limiter;
use crate::pool::limiter::shard::ShardState;
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::peaks::{MAX_READERS, Peaks};
use crate::sync::failpoint;

/// The marks of all readers.
pub(super) type Marks = Slab<Peaks>;

impl ShardState {
    /// Takes a free slot for a job.
    #[inline]
    pub(super) fn use_slot(&mut self) {
        self.free_slots -= usize::from(!failpoint("a job starts without its slot"));
        if !failpoint("a start is no peak") {
            self.unused_slots = self.unused_slots.min(self.free_slots as isize);
        }
    }

    /// Takes free slots to another place. Returns how many of them no job has needed.
    pub(super) fn move_out(&mut self, slots: usize) -> isize {
        self.free_slots -= slots;
        let before = self.unused_slots;
        self.unused_slots = before.min(self.free_slots as isize);
        before - self.unused_slots
    }

    /// Adds free slots, of which no job has needed `unused`.
    pub(super) fn move_in(&mut self, slots: usize, unused: isize) {
        self.free_slots += slots;
        let unused = self.unused_slots + unused * isize::from(!failpoint("a moved slot is used"));
        self.unused_slots = unused.min(self.free_slots as isize);
    }

    /// Removes free slots from existence, or returned ones that were not free yet.
    pub(super) fn forget_slots(&mut self, free: usize, returned: usize) {
        self.free_slots -= free;
        self.unused_slots -= (free + returned) as isize;
    }
}

impl State {
    /// Raises the marks to the present numbers. Called where the numbers under the state lock have grown.
    pub(super) fn note_peaks(&mut self) {
        if self.measured.peaks.is_empty() || failpoint("waiters are no peak") {
            return;
        }
        let now = self.present();
        for (_, marks) in &mut self.measured.peaks {
            marks.raise(&now);
        }
    }

    /// Returns the present numbers, without those of the shards.
    fn present(&self) -> Peaks {
        Peaks {
            waiting: self.wait_list.queued_jobs() + self.wait_list.waiting() - self.slots_granted,
            overflow: self.overflow,
            in_caller: self.in_caller(),
            ..Peaks::default()
        }
    }
}

impl Peaks {
    pub(super) fn raise(&mut self, other: &Self) {
        self.used_slots = self.used_slots.max(other.used_slots);
        self.waiting = self.waiting.max(other.waiting);
        self.overflow = self.overflow.max(other.overflow);
        self.in_caller = self.in_caller.max(other.in_caller);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

impl StateGuard<'_> {
    /// Raises the marks of all readers by what the shards know, and starts the shards anew. Returns the
    /// present numbers.
    fn look(&mut self) -> Peaks {
        let mut shards: Vec<_> = self.limiter.shards.iter().map(|shard| shard.lock()).collect();
        let slots = (self.slots() - self.paused_slots) as isize;
        let (mut unused, mut free) = (0, 0);
        for shard in &mut shards {
            let present = shard.free_slots as isize;
            unused += std::mem::replace(&mut shard.unused_slots, present);
            free += present;
        }
        drop(shards);
        let used = |unused: isize| usize::try_from(slots - unused).unwrap_or(0);
        let oldest = self.wait_list.oldest_since();
        let longest_wait = oldest.map(|since| Instant::now().saturating_duration_since(since));
        let peaks = Peaks {
            used_slots: used(unused),
            longest_wait: longest_wait.unwrap_or_default(),
            ..Peaks::default()
        };
        for (_, marks) in &mut self.measured.peaks {
            marks.raise(&peaks);
        }
        Peaks { used_slots: used(free), ..self.present() }
    }
}

impl Limiter {
    /// Returns the key of a new reader, or `None` if there are too many.
    pub(crate) fn add_peak_reader(&self) -> Option<usize> {
        let mut state = self.lock_state();
        if state.measured.peaks.len() >= MAX_READERS {
            return None;
        }
        let present = state.look();
        Some(state.measured.peaks.insert(present))
    }

    /// Returns the peaks of a reader since its last look.
    pub(crate) fn take_peaks(&self, key: usize) -> Peaks {
        let mut state = self.lock_state();
        let present = state.look();
        let peaks = std::mem::replace(&mut state.measured.peaks[key], present);
        if failpoint("a look ends each period") {
            state.measured.peaks.iter_mut().for_each(|(_, marks)| *marks = present);
        }
        peaks
    }

    pub(crate) fn remove_peak_reader(&self, key: usize) {
        self.lock_state().measured.peaks.remove(key);
    }
}
