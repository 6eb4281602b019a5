//! What is left to do once the locks are released.
//!
//! Wakers and jobs belong to users: running or dropping one may take long, panic or call back
//! into the pool. So whoever holds a lock only collects them here.

use std::task::Waker;

use super::cell::JobRef;
use crate::fence::fenced;

#[derive(Default)]
pub(super) struct Effects {
    wakes: Vec<Waker>,
    discards: Vec<Waker>,
    started: Vec<JobRef>,
    /// The pool has nothing left, and somebody waits for that.
    pub(super) idle: bool,
}

impl Effects {
    pub(super) fn wake(&mut self, waker: Waker) {
        self.wakes.push(waker);
    }

    pub(super) fn discard(&mut self, waker: Waker) {
        self.discards.push(waker);
    }

    /// A job left the line with a slot.
    pub(super) fn start(&mut self, job: JobRef) {
        self.started.push(job);
    }

    pub(super) fn take_started(&mut self) -> Vec<JobRef> {
        std::mem::take(&mut self.started)
    }

    /// Wakes everybody; a waker that panics spoils nobody else's wake.
    pub(super) fn wake_all(&mut self) {
        for waker in self.wakes.drain(..) {
            fenced(|| waker.wake());
        }
        for waker in self.discards.drain(..) {
            fenced(|| drop(waker));
        }
    }
}
