//! Wakers and jobs that must wait until the locks are released (L2).
//!
//! Wakers and jobs belong to users. Running or dropping one may take long, panic or call back into
//! the pool. Code under a lock therefore only collects them here, and its caller runs them after
//! the lock: `Shared::run_deferred` starts the jobs, wakes the wakers and notifies idle waiters.

use std::task::Waker;

use crate::panic::{catch_panic, drop_caught};
use crate::pool::job::Runnable;
use crate::sync::failpoint;

/// Most steps wake or start at most one, and an end in a small pool two. These need no allocation. All
/// others stand in `rest`.
#[derive(Default)]
pub(crate) struct DeferredWakes {
    /// The first wakers to wake, oldest first.
    wakes: [Option<Waker>; 2],
    /// The first jobs to start, in their order.
    started: [Option<Runnable>; 2],
    /// What came later, and what is rare, in the order in which it came.
    rest: Vec<Deferred>,
    /// The pool has become idle, and a caller waits for that.
    pub(crate) idle: bool,
}

enum Deferred {
    Wake(Waker),
    Drop(Waker),
    Start(Runnable),
    GiveBack(Runnable),
}

impl DeferredWakes {
    /// Collects a waker to wake.
    #[inline]
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        match self.wakes.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(waker),
            None if failpoint("a third waker is forgotten") => {}
            None => self.rest.push(Deferred::Wake(waker)),
        }
    }

    /// Collects a waker to drop without a wake.
    pub(super) fn discard(&mut self, waker: Option<Waker>) {
        self.rest.extend(waker.map(Deferred::Drop));
    }

    /// Collects a job that left the wait list with a slot, for the first time or after it lent one.
    pub(super) fn start(&mut self, job: Runnable) {
        if failpoint("started jobs change their order") {
            return self.rest.insert(0, Deferred::Start(job));
        }
        match self.started.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(job),
            None => self.rest.push(Deferred::Start(job)),
        }
    }

    /// Takes the jobs out, in the order of `start`. Returns whether there was one.
    #[inline]
    pub(crate) fn take_started(&mut self, mut take: impl FnMut(Runnable)) -> bool {
        let mut any = self.started[0].is_some();
        self.started.iter_mut().filter_map(Option::take).for_each(&mut take);
        if !self.rest.is_empty() {
            let (jobs, rest) = split(&mut self.rest, |entry| matches!(entry, Deferred::Start(_)));
            self.rest = rest;
            for entry in jobs {
                if let Deferred::Start(job) = entry {
                    any = true;
                    take(job);
                }
            }
        }
        any
    }

    /// Whether nothing was collected.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.wakes[0].is_none() && self.started[0].is_none() && self.rest.is_empty() && !self.idle
    }

    /// Collects a job that left the wait list because it is refused, and the waker of its submitter.
    pub(super) fn give_back(&mut self, job: Runnable, waker: Option<Waker>) {
        self.rest.push(Deferred::GiveBack(job));
        self.wake(waker);
    }

    /// Gives back the refused jobs, then wakes and drops all collected wakers. A waker that panics does
    /// not stop the others.
    pub(crate) fn wake_all(&mut self) {
        if !self.rest.is_empty() {
            self.give_all_back();
        }
        let mut first = true;
        let mut wake = |waker: Waker| {
            if std::mem::take(&mut first) || !failpoint("only the first waker is called") {
                catch_panic(|| waker.wake());
            }
        };
        self.wakes.iter_mut().filter_map(Option::take).for_each(&mut wake);
        if !self.rest.is_empty() {
            let (wakes, drops) = split(&mut self.rest, |entry| matches!(entry, Deferred::Wake(_)));
            for entry in wakes {
                if let Deferred::Wake(waker) = entry {
                    wake(waker);
                }
            }
            for entry in drops {
                if let Deferred::Drop(waker) = entry {
                    drop_caught(waker);
                }
            }
        }
    }

    #[cold]
    fn give_all_back(&mut self) {
        let (jobs, rest) = split(&mut self.rest, |entry| matches!(entry, Deferred::GiveBack(_)));
        self.rest = rest;
        for entry in jobs {
            if let Deferred::GiveBack(job) = entry {
                job.give_back();
            }
        }
    }

    /// Forgets a value that is empty. Its drop would look at each list again, which is 3 % of the
    /// instructions of a tiny job in a full pool.
    #[inline]
    pub(crate) fn forget_empty(self) {
        debug_assert!(self.wakes[0].is_none() && self.started[0].is_none());
        debug_assert!(self.rest.is_empty());
        // An empty list has no memory: each list is taken whole.
        std::mem::forget(self);
    }
}

/// Takes the entries that `is_first` selects, and the others.
#[cold]
fn split(
    entries: &mut Vec<Deferred>,
    is_first: impl Fn(&Deferred) -> bool,
) -> (Vec<Deferred>, Vec<Deferred>) {
    std::mem::take(entries).into_iter().partition(is_first)
}
