//! What is left to do once the locks are released.
//!
//! Wakers and jobs belong to users: running or dropping one may take long, panic or call back
//! into the pool. So whoever holds a lock only collects them here.

use std::task::Waker;

use crate::panic::catch_panic;
use crate::pool::job::Runnable;

#[derive(Default)]
pub(crate) struct DeferredWakes {
    wakes: Vec<Waker>,
    discards: Vec<Waker>,
    started: Vec<Runnable>,
    /// The pool has nothing left, and somebody waits for that.
    pub(crate) idle: bool,
}

impl DeferredWakes {
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.wakes.push(waker);
    }

    pub(crate) fn discard(&mut self, waker: Waker) {
        self.discards.push(waker);
    }

    /// A job left the wait list with a slot.
    pub(crate) fn start(&mut self, job: Runnable) {
        self.started.push(job);
    }

    pub(crate) fn take_started(&mut self) -> Vec<Runnable> {
        std::mem::take(&mut self.started)
    }

    /// Wakes everybody; a waker that panics spoils nobody else's wake.
    pub(crate) fn wake_all(&mut self) {
        for waker in self.wakes.drain(..) {
            catch_panic(|| waker.wake());
        }
        for waker in self.discards.drain(..) {
            catch_panic(|| drop(waker));
        }
    }
}
