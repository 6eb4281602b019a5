//! The join handle's side of a job: waiting for the output, and taking it.

use std::marker::PhantomData;
use std::task::{Context, Poll};

use crate::error::JobError;
use crate::pool::job::refs::JobArc;
use crate::sync::failpoint;

/// The one right to the output that a job's cell keeps. A sink that pushes leaves nothing to take.
#[derive(Debug)]
pub(crate) struct RawJoinHandle<T> {
    job: JobArc,
    output: PhantomData<fn() -> T>,
}

impl<T> RawJoinHandle<T> {
    /// # Safety
    ///
    /// `T` is the output of the job, and no other join handle of the job exists.
    pub(super) unsafe fn new(job: JobArc) -> Self {
        Self { job, output: PhantomData }
    }

    /// The job, for aborts and for its state.
    pub(crate) fn job(&self) -> &JobArc {
        &self.job
    }

    /// Gives up the right to the output.
    pub(crate) fn into_job(self) -> JobArc {
        self.job
    }

    /// Waits until the job is complete. The last waker is the one that is woken.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.job.0.header();
        let now = header.state.load();
        if now.is_complete() {
            return Poll::Ready(());
        }
        if now.has_join_waker() {
            // SAFETY: `JOIN_WAKER` is set, so both sides may read the waker (S4).
            let is_same = header.join_waker.with(|waker| unsafe {
                (*waker).as_ref().is_some_and(|old| old.will_wake(cx.waker()))
            });
            if is_same || failpoint("the first waker of a handle stays") {
                return Poll::Pending;
            }
            if header.state.unset_join_waker() {
                return Poll::Ready(());
            }
        }
        let waker = cx.waker().clone();
        // SAFETY: `JOIN_WAKER` is not set, so the waker belongs to the one join handle (S4).
        let old = header.join_waker.with_mut(|place| unsafe { (*place).replace(waker) });
        let is_complete = header.state.set_join_waker();
        // The drop of a waker is user code: the job can wake the new one by now.
        drop(old);
        if is_complete { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the output of a job that is complete. Returns `None` before that and from the second
    /// call on.
    pub(crate) fn take(&mut self) -> Option<Result<T, JobError>> {
        let mut out: Option<Result<T, JobError>> = None;
        if self.job.is_finished() {
            let job = self.job.0;
            // SAFETY: the job is complete, and this is its one join handle (S2). `T` is the output's
            // type, by the contract of `new`, and the table belongs to this cell (S7).
            unsafe { (job.header().vtable.take_output)(job.0, (&raw mut out).cast()) };
        }
        out
    }
}
