//! The flag word of a limiter.
//!
//! The word tells submitters and job ends, without the state lock, whether they must take that
//! lock. [`StateGuard`](super::state::StateGuard) alone writes the word, so writes never overlap.
//! The word must never claim more than the state: a wrong `NO_SLOTS` would hide a free slot
//! forever, and a missing `NO_SLOTS` would lose a waiter's wake-up.
//!
//! # Orderings
//!
//! The state lock orders all writers, so a writer reads its own word with Relaxed. Readers come in
//! two kinds:
//!
//! * **Under a shard lock** ([`is_set_in_lock`](Flags::is_set_in_lock)). Relaxed is enough, because
//!   the shard lock is the partner. A writer whose flag must be seen stores the flag first and
//!   locks every shard afterwards (L4). A reader that locks a shard after the writer finds the flag
//!   set. A reader that locked the shard before the writer has left its change for the writer to
//!   find.
//! * **Without a lock** ([`is_set`](Flags::is_set), [`is_full`](Flags::is_full)). The Acquire load
//!   pairs with the Release store of `set` and `clear`. The reader then sees what the writer's
//!   thread had seen, for example the end of the job whose slot it found. The answer may be old by
//!   the time it is used, which a submit without a lock accepts.

use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// No shard has a free slot. A slot that comes back goes through the state lock.
pub(super) const NO_SLOTS: usize = 1;
/// The limiter admits nothing new.
pub(super) const CLOSED: usize = 1 << 1;
/// A caller waits until the pool is idle. Each end of a job goes through the state lock.
pub(super) const IDLE_WAITERS: usize = 1 << 2;
/// A suspended job is cancelled instead of kept.
pub(super) const CANCELLING: usize = 1 << 3;
/// The runtime is gone, so no worker will run a job again.
pub(super) const RUNTIME_GONE: usize = 1 << 4;
/// `NO_SLOTS`, and the queue has no room either. The state guard derives this flag on unlock.
pub(super) const FULL: usize = 1 << 5;
/// The pool was closed by its owner, and not only by the end of its runtime.
pub(super) const CLOSED_BY_OWNER: usize = 1 << 6;
/// A waiter has a deadline. The state guard derives this flag on unlock.
pub(super) const DEADLINES: usize = 1 << 7;

pub(super) struct Flags(AtomicUsize);

impl Flags {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Returns whether any of `flags` is set. Exact while the caller holds the state lock or a
    /// shard lock (see the head); a hint otherwise.
    #[inline]
    pub(super) fn is_set_in_lock(&self, flags: usize) -> bool {
        self.0.load(Relaxed) & flags != 0
    }

    /// Returns whether any of `flags` is set, for callers without a lock.
    #[inline]
    pub(super) fn is_set(&self, flags: usize) -> bool {
        self.0.load(Acquire) & flags != 0
    }

    /// Returns whether the limiter is full and open. A closed limiter must say that it is closed.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.0.load(Acquire) & (FULL | CLOSED) == FULL
    }

    /// Makes the `derived` flags those in `flags`, and leaves the others. The caller holds the state
    /// lock, so no other store comes in between.
    #[inline]
    pub(super) fn derive(&self, derived: usize, flags: usize) {
        let before = self.0.load(Relaxed);
        if before & derived != flags {
            self.0.store(before & !derived | flags, Release);
        }
    }

    /// Sets `flags`. The caller holds the state lock, so no other store comes in between.
    pub(super) fn set(&self, flags: usize) {
        self.0.store(self.0.load(Relaxed) | flags, Release);
    }

    /// Clears `flags`. The caller holds the state lock, so no other store comes in between.
    pub(super) fn clear(&self, flags: usize) {
        self.0.store(self.0.load(Relaxed) & !flags, Release);
    }
}
