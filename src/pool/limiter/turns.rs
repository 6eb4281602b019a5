//! Whose turn it is in the main list: which priority, and within a priority which key.
//!
//! The next slot goes to the highest priority that has a waiter. A lower one that was passed by [`PASSES`]
//! times comes first, so each of them receives a sixteenth of the slots at least. Within a priority the
//! oldest waiter comes first, unless a waiter has a key: then the keys take turns ([`FairLine`]).
//!
//! The wait list tells the [`Turns`] of each waiter that joins or leaves the main list, under the state
//! lock. It keeps the waiters, and their order of arrival.

use crate::pool::limiter::fair::{FairLine, LinkId, UNLINKED};
use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::options::PRIORITIES;
use crate::sync::failpoint;

/// How often higher priorities may pass a waiter by before its priority has a turn. With four lower
/// priorities, each has one slot in sixteen.
pub(super) const PASSES: u32 = 12;

pub(super) struct Turns {
    /// A bit for each priority that has a waiter in the main list.
    classes: u8,
    /// A bit for each of these that has turns of keys: a waiter with a key came since it was empty.
    keyed: u8,
    /// How often each priority was passed by since its last turn, while it had a waiter.
    passed: [u32; PRIORITIES],
    /// The turns of the keys of each priority that ever had one.
    fair: [Option<Box<FairLine>>; PRIORITIES],
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { classes: 0, keyed: 0, passed: [0; PRIORITIES], fair: Default::default() }
    }

    /// Returns the priority that gets the next slot: the highest that has a waiter, or a lower one that
    /// was passed by too often.
    #[inline]
    pub(super) fn next_class(&self) -> usize {
        let highest = self.classes.checked_ilog2().unwrap_or(0) as usize;
        if self.classes.is_power_of_two() || failpoint("a low priority starves") {
            return highest;
        }
        let waits = |class: usize| self.classes >> class & 1 == 1;
        let overdue = (0..=highest).filter(|&class| waits(class) && self.passed[class] >= PASSES);
        overdue.max_by_key(|&class| self.passed[class]).unwrap_or(highest)
    }

    /// Returns the turns of the keys of a priority, if it has any.
    #[inline]
    pub(super) fn keys(&self, class: usize) -> Option<&FairLine> {
        if self.keyed & 1 << class == 0 { None } else { self.fair[class].as_deref() }
    }

    #[inline]
    fn keys_mut(&mut self, class: usize) -> Option<&mut FairLine> {
        if self.keyed & 1 << class == 0 { None } else { self.fair[class].as_deref_mut() }
    }

    /// Notes that a waiter is about to get a slot in its turn.
    #[inline]
    pub(super) fn note_turn(&mut self, class: usize, link: LinkId) {
        if let Some(keys) = self.keys_mut(class) {
            keys.note_turn(link);
        }
        self.passed[class] = 0;
        if self.classes.is_power_of_two() {
            return;
        }
        for lower in 0..class {
            self.passed[lower] += u32::from(self.classes >> lower & 1);
        }
    }

    /// Notes that a waiter of this key joined the main list, behind so many of its priority. `prev` is the last of
    /// these. Returns the link of the waiter.
    #[inline]
    pub(super) fn join(
        &mut self,
        class: usize,
        key: Option<u64>,
        waiter_key: WaiterKey,
        ahead: usize,
        prev: WaiterKey,
    ) -> LinkId {
        self.classes |= 1 << class;
        if key.is_none() && self.keyed & 1 << class == 0 {
            return UNLINKED;
        }
        self.join_key(class, key, waiter_key, ahead, prev)
    }

    #[cold]
    fn join_key(
        &mut self,
        class: usize,
        key: Option<u64>,
        waiter_key: WaiterKey,
        ahead: usize,
        prev: WaiterKey,
    ) -> LinkId {
        let keys = self.fair[class].get_or_insert_with(FairLine::new);
        if self.keyed & 1 << class == 0 {
            self.keyed |= 1 << class;
            keys.start(ahead, prev);
        }
        keys.push(key, waiter_key)
    }

    /// Notes that a waiter left the main list, with so many of its priority that stay. `prev` was its
    /// older neighbour.
    #[inline]
    pub(super) fn leave(
        &mut self,
        class: usize,
        link: LinkId,
        waiter_key: WaiterKey,
        prev: WaiterKey,
        stay: usize,
    ) {
        if let Some(keys) = self.keys_mut(class) {
            keys.remove(link, waiter_key, prev);
        }
        if stay == 0 {
            self.classes &= !(1 << class);
            self.keyed &= !(1 << class);
            // Its waiters may have lost their patience, so `passed` stays.
            if failpoint("a priority is passed anew") {
                self.passed[class] = 0;
            }
        }
    }
}
