//! The lock of the line, and what is decided under it.

use std::collections::HashSet;
use std::task::Waker;

use crate::pool::job::SlotKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::{Caller, Entry, List, Told};
use crate::pool::limiter::{CONGESTED, FULL, Offer, State, Verdict};
use crate::pool::scheduler::context::{self, Within};
use crate::sync::MutexGuard;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Relaxed, Release};

/// The state of the line, locked. Keeps `FULL` true to it.
pub(crate) struct Desk<'a> {
    pub(crate) state: MutexGuard<'a, State>,
    pub(crate) attention: &'a AtomicUsize,
}

impl Desk<'_> {
    pub(crate) fn has(&self, flag: usize) -> bool {
        self.attention.load(Relaxed) & flag != 0
    }

    pub(crate) fn set(&self, flag: usize) {
        self.attention.store(self.attention.load(Relaxed) | flag, Release);
    }

    pub(crate) fn clear(&self, flag: usize) {
        self.attention.store(self.attention.load(Relaxed) & !flag, Release);
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        let full = self.has(CONGESTED) && !self.state.line.has_place();
        if full != self.has(FULL) {
            if full { self.set(FULL) } else { self.clear(FULL) }
        }
    }
}

impl std::ops::Deref for Desk<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Desk<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl State {
    /// Whether a quota, if there is one, has a part left.
    pub(crate) fn is_within_share(&self, quota: Option<usize>) -> bool {
        quota.is_none_or(|quota| {
            let quota = &self.line.quotas[quota];
            quota.held < quota.limit
        })
    }

    pub(crate) fn hold(&mut self, quota: Option<usize>) {
        if let Some(quota) = quota {
            self.line.quotas[quota].held += 1;
        }
    }

    /// Puts the job itself in line.
    pub(crate) fn stand(&mut self, list: List, offer: &mut impl Offer, slot_kind: SlotKind) {
        let ticket = self.line.next_ticket();
        let job = offer.admit_to_line(slot_kind, ticket);
        self.line.push(list, slot_kind.quota(), Entry::Job(job, None));
        // Callers before it have their places already: this may admit the job itself.
        let _ = self.line.admit_next();
    }

    /// Puts a caller in line, unless that would deadlock. One who comes `for_slot` has no job to
    /// leave in the queue.
    pub(crate) fn stand_caller(
        &mut self,
        list: List,
        quota: Option<usize>,
        within_share: bool,
        waker: &mut Option<Waker>,
        pool: usize,
        for_slot: bool,
    ) -> Verdict {
        let within = context::within(pool);
        if within.is_some_and(|within| self.would_deadlock(list, within)) {
            self.tally.refused += 1;
            return Verdict::Deadlock;
        }
        if within_share {
            self.hold(quota);
        }
        self.block(within);
        let caller = Caller { waker: waker.take(), within, told: Told::Wait, for_slot };
        let ticket = self.line.push(list, quota, Entry::Caller(caller));
        if for_slot {
            // It stands in the queue if there is a place: nobody may overtake it there.
            let _ = self.line.admit_next();
        }
        Verdict::Waiting(ticket)
    }

    /// Fills the places in the queue.
    pub(crate) fn admit_all(&mut self, deferred: &mut DeferredWakes) {
        while let Some(entry) = self.line.admit_next() {
            let Entry::Caller(caller) = entry else { continue };
            if caller.for_slot {
                continue;
            }
            caller.told = Told::Place;
            let within = caller.within;
            caller.waker.take().into_iter().for_each(|waker| deferred.wake(waker));
            // It can hand its job in now, and go on.
            self.unblock(within);
        }
    }

    /// Gives a slot to somebody who has just been taken out of its list.
    pub(crate) fn take_in(&mut self, ticket: usize, deferred: &mut DeferredWakes) {
        match &mut self.line.node(ticket).entry {
            Entry::Job(..) => {
                self.tally.started += 1;
                if let Entry::Job(job, waker) = self.line.dismiss(ticket).entry {
                    deferred.start(job);
                    waker.into_iter().for_each(|waker| deferred.wake(waker));
                }
            }
            Entry::Caller(_) => {
                self.granted += 1;
                self.mark(ticket, Told::Slot, deferred);
            }
        }
    }

    pub(crate) fn tell(&mut self, ticket: usize, told: Told, deferred: &mut DeferredWakes) {
        self.line.unlink(ticket);
        self.mark(ticket, told, deferred);
    }

    pub(crate) fn mark(&mut self, ticket: usize, told: Told, deferred: &mut DeferredWakes) {
        let caller = self.line.caller(ticket);
        let before = std::mem::replace(&mut caller.told, told);
        let within = caller.within;
        caller.waker.take().into_iter().for_each(|waker| deferred.wake(waker));
        if before == Told::Wait {
            self.unblock(within);
        }
    }

    /// A caller in line is waited through by this job from now on, or by none.
    pub(crate) fn wait_within(&mut self, ticket: usize, within: Option<Within>) {
        let caller = self.line.caller(ticket);
        if caller.told == Told::Wait && caller.within != within {
            let before = std::mem::replace(&mut caller.within, within);
            self.unblock(before);
            self.block(within);
        }
    }

    pub(crate) fn block(&mut self, within: Option<Within>) {
        if let Some(Within { job, .. }) = within {
            *self.blocked.entry(job).or_default() += 1;
        }
    }

    pub(crate) fn unblock(&mut self, within: Option<Within>) {
        let Some(Within { job, .. }) = within else { return };
        if let Some(callers) = self.blocked.get_mut(&job) {
            *callers -= 1;
            if *callers == 0 {
                self.blocked.remove(&job);
            }
        }
    }

    /// Whether nobody would be left to give a slot back if this job waited as well.
    pub(crate) fn would_deadlock(&mut self, list: List, within: Within) -> bool {
        let others = self.blocked.len() - usize::from(self.blocked.contains_key(&within.job));
        if self.granted == 0 && others + 1 >= self.size + self.debt {
            return true;
        }
        // Within a quota the same holds for its share alone.
        let List::Quota(key) = list else { return false };
        if within.quota != Some(key) {
            return false;
        }
        let others = self.line.callers(list).filter_map(|caller| caller.within);
        let members = others.filter(|other| other.quota == Some(key)).map(|other| other.job);
        let blocked: HashSet<_> = members.chain([within.job]).collect();
        blocked.len() >= self.line.quotas[key].held
    }
}
