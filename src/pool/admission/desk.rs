//! The lock of the line, and what is decided under it.

use super::{CONGESTED, FULL, Offer, State};
use crate::pool::cell::Terms;
use crate::pool::context::Within;
use crate::pool::effects::Effects;
use crate::pool::line::{Entry, List, Told};
use crate::sync::MutexGuard;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Relaxed, Release};

/// The state of the line, locked. Keeps `FULL` true to it.
pub(super) struct Desk<'a> {
    pub(super) state: MutexGuard<'a, State>,
    pub(super) attention: &'a AtomicUsize,
}

impl Desk<'_> {
    pub(super) fn has(&self, flag: usize) -> bool {
        self.attention.load(Relaxed) & flag != 0
    }

    pub(super) fn set(&self, flag: usize) {
        self.attention.store(self.attention.load(Relaxed) | flag, Release);
    }

    pub(super) fn clear(&self, flag: usize) {
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
    pub(super) fn hold(&mut self, quota: Option<usize>) {
        if let Some(quota) = quota {
            self.line.quotas[quota].held += 1;
        }
    }

    /// Puts the job itself in line.
    pub(super) fn stand(&mut self, list: List, offer: &mut impl Offer, terms: Terms) {
        let ticket = self.line.next_ticket();
        let job = offer.admit_to_line(terms, ticket);
        self.line.push(list, terms.quota(), Entry::Job(job, None));
        // Callers before it have their places already, so there is nobody to wake.
        while self.line.admit_next(drop) {}
    }

    /// Gives a slot to somebody who has just been taken out of its list.
    pub(super) fn take_in(&mut self, ticket: usize, fx: &mut Effects) {
        match &mut self.line.node(ticket).entry {
            Entry::Job(..) => {
                self.tally.jobs.started += 1;
                if let Entry::Job(job, waker) = self.line.dismiss(ticket).entry {
                    fx.start(job);
                    waker.into_iter().for_each(|waker| fx.wake(waker));
                }
            }
            Entry::Caller(_) => {
                self.granted += 1;
                self.mark(ticket, Told::Slot, fx);
            }
        }
    }

    pub(super) fn tell(&mut self, ticket: usize, told: Told, fx: &mut Effects) {
        self.line.unlink(ticket);
        self.mark(ticket, told, fx);
    }

    pub(super) fn mark(&mut self, ticket: usize, told: Told, fx: &mut Effects) {
        let caller = self.line.caller(ticket);
        caller.told = told;
        let within = caller.within;
        if let Some(waker) = caller.waker.take() {
            fx.wake(waker);
        }
        self.unblock(within);
    }

    pub(super) fn block(&mut self, within: Option<usize>) {
        if let Some(job) = within {
            *self.blocked.entry(job).or_default() += 1;
        }
    }

    pub(super) fn unblock(&mut self, within: Option<usize>) {
        let Some(job) = within else { return };
        if let Some(callers) = self.blocked.get_mut(&job) {
            *callers -= 1;
            if *callers == 0 {
                self.blocked.remove(&job);
            }
        }
    }

    /// Whether nobody would be left to give a slot back if this job waited as well.
    pub(super) fn would_deadlock(&mut self, list: List, within: Within) -> bool {
        let others = self.blocked.len() - usize::from(self.blocked.contains_key(&within.job));
        if self.granted == 0 && others + 1 >= self.size + self.debt {
            return true;
        }
        // Within a quota the same holds for its share alone.
        matches!(list, List::Quota(key) if within.quota == Some(key) && self.line.quotas[key].held == 1)
    }
}
