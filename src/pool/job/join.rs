//! The submitters' side of a job: asking for its end, and claiming its outcome.

use std::marker::PhantomData;
use std::task::{Context, Poll};

use crate::error::JobError;
use crate::pool::job::refs::{RawJob, Runnable};
use crate::pool::job::{
    ABORT, ABORT_DEFERRED, ABORT_DEFERRED_MASK, COMPLETE, JOIN_WAKER, RUNNING, SCHEDULED, WAITING,
};
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::failpoint;

/// A counted reference to a job, for handles: it can ask for the job's end and for its outcome.
#[derive(Debug)]
pub(crate) struct JobArc(pub(crate) RawJob);

impl JobArc {
    /// Has aborts wait until [`allow_abort`](Self::allow_abort), once for each call.
    pub(crate) fn defer_abort(&self) {
        self.0.header().state.fetch_add(ABORT_DEFERRED, AcqRel);
    }

    pub(crate) fn allow_abort(&self) {
        let before = self.0.header().state.fetch_sub(ABORT_DEFERRED, AcqRel);
        if before & ABORT != 0 && before & ABORT_DEFERRED_MASK == ABORT_DEFERRED {
            // The abort that had to wait.
            self.0.wake();
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.header().state.load(Acquire) & COMPLETE != 0
    }

    /// Asks for the job's end.
    pub(crate) fn abort(&self) {
        let header = self.0.header();
        let mut now = header.state.load(Acquire);
        loop {
            if now & COMPLETE != 0 {
                return;
            }
            let mut after = now | ABORT | SCHEDULED;
            if now & WAITING != 0 {
                let waiter_key = header.waiter_key.load(Relaxed) as usize;
                if self.0.scheduler().withdraw(self.0, waiter_key) {
                    return;
                }
                // It is on its way out of the wait list, where it is looked at again before it runs.
                now = header.state.load(Acquire);
                after = if now & WAITING != 0 { now | ABORT } else { now | ABORT | SCHEDULED };
            }
            match header.state.compare_exchange_weak(now, after, AcqRel, Acquire) {
                Ok(_) if now & (WAITING | SCHEDULED | RUNNING | COMPLETE) == 0 => {
                    return self.0.scheduler().schedule(Runnable(self.0));
                }
                Ok(_) => return,
                Err(actual) => now = actual,
            }
        }
    }

    /// Waits until the job has left its wait list.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.0.header();
        if header.state.load(Acquire) & WAITING == 0 {
            return Poll::Ready(());
        }
        let waiter_key = header.waiter_key.load(Relaxed) as usize;
        match self.0.scheduler().await_start(self.0, waiter_key, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

/// The one right to the outcome a job's cell keeps. There is none for a sink that delivers.
#[derive(Debug)]
pub(crate) struct RawJoinHandle<T> {
    pub(crate) job: JobArc,
    pub(crate) output: PhantomData<fn() -> T>,
}

impl<T> RawJoinHandle<T> {
    pub(crate) fn job(&self) -> &JobArc {
        &self.job
    }

    pub(crate) fn into_job(self) -> JobArc {
        self.job
    }

    /// Waits until the outcome is there.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.job.0.header();
        let state = &header.state;
        if state.load(Acquire) & COMPLETE != 0 {
            return Poll::Ready(());
        }
        // SAFETY: this reference keeps the cell alive.
        let join_waker = unsafe { &*(header.vtable.join_waker)(self.job.0.0) };
        if state.load(Acquire) & JOIN_WAKER != 0 {
            // SAFETY: only this handle writes the waker, so that it may always read it.
            let kept = join_waker.with(|waker| unsafe {
                (*waker).as_ref().is_some_and(|old| old.will_wake(cx.waker()))
            });
            if kept {
                return Poll::Pending;
            }
            // Taken back before it is changed; if the job ended first, it is the ender's for good.
            if state.fetch_and(!JOIN_WAKER, AcqRel) & COMPLETE != 0 {
                return Poll::Ready(());
            }
        }
        let waker = cx.waker().clone();
        // SAFETY: `JOIN_WAKER` is not set, and there is one `RawJoinHandle`.
        let old = join_waker.with_mut(|place| unsafe { (*place).replace(waker) });
        let done = state.fetch_or(JOIN_WAKER, AcqRel) & COMPLETE != 0
            && !failpoint("join without recheck");
        drop(old);
        if done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the outcome of a job that is done, once.
    pub(crate) fn take(&mut self) -> Option<Result<T, JobError>> {
        let mut out: Option<Result<T, JobError>> = None;
        if self.job.is_finished() {
            let ptr = self.job.0;
            // SAFETY: the job is `COMPLETE`, join handles are made by `allocate_job` with the type of the
            // job's output, and there is one for each job.
            unsafe { (ptr.header().vtable.take)(ptr.0, (&raw mut out).cast()) };
        }
        out
    }
}

impl Clone for JobArc {
    fn clone(&self) -> Self {
        self.0.to_arc()
    }
}

impl Drop for JobArc {
    fn drop(&mut self) {
        self.0.drop_ref();
    }
}
