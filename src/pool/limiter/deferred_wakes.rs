//! Wakers and jobs that must wait until the locks are released (L2).
//!
//! Wakers and jobs belong to users. Running or dropping one may take long, panic or call back into
//! the pool. Code under a lock therefore only collects them here, and its caller runs them after
//! the lock: `Shared::run_deferred` starts the jobs, wakes the wakers and notifies idle waiters.

use std::task::Waker;

use crate::panic::catch_panic;
use crate::pool::job::Runnable;
use crate::sync::failpoint;

#[derive(Default)]
pub(crate) struct DeferredWakes {
    wakes: Few<Waker>,
    drops: Vec<Waker>,
    started: Few<Runnable>,
    given_back: Vec<Runnable>,
    /// The pool has become idle, and a caller waits for that.
    pub(crate) idle: bool,
}

/// A list that allocates from its second entry on: most steps wake or start at most one.
struct Few<T> {
    first: Option<T>,
    rest: Vec<T>,
}

impl<T> Default for Few<T> {
    #[inline]
    fn default() -> Self {
        Self { first: None, rest: Vec::new() }
    }
}

impl<T> Few<T> {
    #[inline]
    fn push(&mut self, entry: T) {
        if self.is_empty() {
            self.first = Some(entry);
        } else {
            self.rest.push(entry);
        }
    }

    /// Takes all entries, oldest first.
    #[inline]
    fn take_all(&mut self, mut take: impl FnMut(T)) {
        if let Some(first) = self.first.take() {
            take(first);
        }
        if !self.rest.is_empty() {
            std::mem::take(&mut self.rest).into_iter().for_each(take);
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }
}

impl DeferredWakes {
    /// Collects a waker to wake.
    #[inline]
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.wakes.push(waker);
        }
    }

    /// Collects a waker to drop without a wake.
    pub(super) fn discard(&mut self, waker: Option<Waker>) {
        self.drops.extend(waker);
    }

    /// Collects a job that left the wait list with a slot, for the first time or after it lent one.
    pub(super) fn start(&mut self, job: Runnable) {
        if failpoint("started jobs change their order") {
            return self.started.rest.insert(0, job);
        }
        self.started.push(job);
    }

    /// Takes the jobs out, in the order of `start`. Returns whether there was one.
    #[inline]
    pub(crate) fn take_started(&mut self, take: impl FnMut(Runnable)) -> bool {
        let any = !self.started.is_empty();
        self.started.take_all(take);
        any
    }

    /// Whether nothing was collected.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.wakes.is_empty()
            && self.started.is_empty()
            && self.drops.is_empty()
            && self.given_back.is_empty()
            && !self.idle
    }

    /// Collects a job that left the wait list because it is refused, and the waker of its submitter.
    pub(super) fn give_back(&mut self, job: Runnable, waker: Option<Waker>) {
        self.given_back.push(job);
        self.wake(waker);
    }

    /// Gives back the refused jobs, then wakes and drops all collected wakers. A waker that panics does
    /// not stop the others.
    pub(crate) fn wake_all(&mut self) {
        std::mem::take(&mut self.given_back).into_iter().for_each(Runnable::give_back);
        let mut first = true;
        self.wakes.take_all(|waker| {
            if std::mem::take(&mut first) || !failpoint("only the first waker is called") {
                catch_panic(|| waker.wake());
            }
        });
        for waker in std::mem::take(&mut self.drops) {
            catch_panic(|| drop(waker));
        }
    }

    /// Forgets a value that is empty. Its drop would look at each list again, which is 3 % of the
    /// instructions of a tiny job in a full pool.
    #[inline]
    pub(crate) fn forget_empty(self) {
        debug_assert!(self.wakes.is_empty() && self.started.is_empty());
        debug_assert!(self.drops.is_empty() && self.given_back.is_empty());
        // An empty list has no memory: each list is taken whole.
        std::mem::forget(self);
    }
}
