//! The submitters' side of a job: asking for its end, and claiming its outcome.

use std::marker::PhantomData;
use std::task::{Context, Poll};

use crate::error::JobError;
use crate::pool::job::refs::{JobPtr, JobRef};
use crate::pool::job::{ABORT, AWAITED, DONE, LINE, RUNNING, SCHEDULED, SHIELD, SHIELDED};
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::failpoint;

/// A counted reference to a job, for handles: it can ask for the job's end and for its outcome.
#[derive(Debug)]
pub(crate) struct JobWatch(pub(crate) JobPtr);

impl JobWatch {
    /// Has aborts wait until [`unshield`](Self::unshield), once for each call.
    pub(crate) fn shield(&self) {
        self.0.header().state.fetch_add(SHIELD, AcqRel);
    }

    pub(crate) fn unshield(&self) {
        let before = self.0.header().state.fetch_sub(SHIELD, AcqRel);
        if before & ABORT != 0 && before & SHIELDED == SHIELD {
            // The abort that had to wait.
            self.0.wake();
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.header().state.load(Acquire) & DONE != 0
    }

    /// Asks for the job's end.
    pub(crate) fn abort(&self) {
        let header = self.0.header();
        let mut now = header.state.load(Acquire);
        loop {
            if now & DONE != 0 {
                return;
            }
            let mut after = now | ABORT | SCHEDULED;
            if now & LINE != 0 {
                let ticket = header.ticket.load(Relaxed) as usize;
                if self.0.home().withdraw(self.0, ticket) {
                    return;
                }
                // It is on its way out of the line, where it is looked at again before it runs.
                now = header.state.load(Acquire);
                after = if now & LINE != 0 { now | ABORT } else { now | ABORT | SCHEDULED };
            }
            match header.state.compare_exchange_weak(now, after, AcqRel, Acquire) {
                Ok(_) if now & (LINE | SCHEDULED | RUNNING | DONE) == 0 => {
                    return self.0.home().resume(JobRef(self.0));
                }
                Ok(_) => return,
                Err(actual) => now = actual,
            }
        }
    }

    /// Waits until the job has left its line.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.0.header();
        if header.state.load(Acquire) & LINE == 0 {
            return Poll::Ready(());
        }
        let ticket = header.ticket.load(Relaxed) as usize;
        match self.0.home().await_start(self.0, ticket, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

/// The one right to the outcome a job's cell keeps. There is none for a sink that delivers.
#[derive(Debug)]
pub(crate) struct Claim<T> {
    pub(crate) watch: JobWatch,
    pub(crate) output: PhantomData<fn() -> T>,
}

impl<T> Claim<T> {
    pub(crate) fn watch(&self) -> &JobWatch {
        &self.watch
    }

    pub(crate) fn into_watch(self) -> JobWatch {
        self.watch
    }

    /// Waits until the outcome is there.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.watch.0.header();
        let state = &header.state;
        if state.load(Acquire) & DONE != 0 {
            return Poll::Ready(());
        }
        // SAFETY: this reference keeps the cell alive.
        let awaiter = unsafe { &*(header.vtable.awaiter)(self.watch.0.0) };
        if state.load(Acquire) & AWAITED != 0 {
            // SAFETY: only this claim writes the waker, so that it may always read it.
            let kept = awaiter.with(|waker| unsafe {
                (*waker).as_ref().is_some_and(|old| old.will_wake(cx.waker()))
            });
            if kept {
                return Poll::Pending;
            }
            // Taken back before it is changed; if the job ended first, it is the ender's for good.
            if state.fetch_and(!AWAITED, AcqRel) & DONE != 0 {
                return Poll::Ready(());
            }
        }
        let waker = cx.waker().clone();
        // SAFETY: `AWAITED` is not set, and there is one claim.
        let old = awaiter.with_mut(|place| unsafe { (*place).replace(waker) });
        let done =
            state.fetch_or(AWAITED, AcqRel) & DONE != 0 && !failpoint("join without recheck");
        drop(old);
        if done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the outcome of a job that is done, once.
    pub(crate) fn take(&mut self) -> Option<Result<T, JobError>> {
        let mut out: Option<Result<T, JobError>> = None;
        if self.watch.is_finished() {
            let ptr = self.watch.0;
            // SAFETY: the job is `DONE`, claims are made by `offer` with the type of the
            // job's output, and there is one for each job.
            unsafe { (ptr.header().vtable.take)(ptr.0, (&raw mut out).cast()) };
        }
        out
    }
}

impl Clone for JobWatch {
    fn clone(&self) -> Self {
        self.0.watch()
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        self.0.drop_ref();
    }
}
