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
    wakes: Vec<Waker>,
    drops: Vec<Waker>,
    started: Vec<Runnable>,
    given_back: Vec<Runnable>,
    /// The pool has become idle, and a caller waits for that.
    pub(crate) idle: bool,
}

impl DeferredWakes {
    /// Collects a waker to wake.
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakes.extend(waker);
    }

    /// Collects a waker to drop without a wake.
    pub(super) fn discard(&mut self, waker: Option<Waker>) {
        self.drops.extend(waker);
    }

    /// Collects a job that left the wait list with a slot, for the first time or after it lent one.
    pub(super) fn start(&mut self, job: Runnable) {
        self.started.push(job);
        if failpoint("started jobs change their order") {
            self.started.reverse();
        }
    }

    /// Collects a job that left the wait list because it is refused, and the waker of its submitter.
    pub(super) fn give_back(&mut self, job: Runnable, waker: Option<Waker>) {
        self.given_back.push(job);
        self.wakes.extend(waker);
    }

    pub(crate) fn take_started(&mut self) -> Vec<Runnable> {
        std::mem::take(&mut self.started)
    }

    /// Gives back the refused jobs, then wakes and drops all collected wakers. A waker that panics does
    /// not stop the others.
    pub(crate) fn wake_all(&mut self) {
        self.given_back.drain(..).for_each(Runnable::give_back);
        for waker in self.wakes.drain(..) {
            catch_panic(|| waker.wake());
            if failpoint("only the first waker is called") {
                break;
            }
        }
        for waker in self.drops.drain(..) {
            catch_panic(|| drop(waker));
        }
    }
}
