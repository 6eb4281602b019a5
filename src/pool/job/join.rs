//! The join handle's side of a job: waiting for the output, and taking it.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::task::{Context, Poll};

use crate::error::JobError;
use crate::panic::drop_caught;
use crate::pool::context::note_wait;
use crate::pool::job::raw::{JOIN, REF};
use crate::pool::job::refs::JobArc;
use crate::sync::atomic::Ordering::{Acquire, Relaxed};
use crate::sync::failpoint;

/// The one right to the output that a job's cell keeps. A sink that pushes leaves nothing to take.
#[derive(Debug)]
pub(crate) struct RawJoinHandle<T> {
    /// Counted as `JOIN`, or as a plain reference if the sink pushes. So `drop` gives it up.
    job: ManuallyDrop<JobArc>,
    output: PhantomData<fn() -> T>,
}

impl<T> RawJoinHandle<T> {
    /// # Safety
    ///
    /// `T` is the output of the job, and no other join handle of the job exists.
    pub(super) unsafe fn new(job: JobArc) -> Self {
        Self { job: ManuallyDrop::new(job), output: PhantomData }
    }

    /// The job, for aborts and for its state.
    pub(crate) fn job(&self) -> &JobArc {
        &self.job
    }

    /// Gives up the right to the output.
    pub(crate) fn into_job(self) -> JobArc {
        if self.is_join() {
            let job = (*self.job).clone();
            drop(self);
            return job;
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so its reference moves to the caller (S6).
        unsafe { ManuallyDrop::take(&mut this.job) }
    }

    /// Waits until the job is complete. The last waker is the one that is woken.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.poll_complete(cx);
        if polled.is_pending() {
            note_wait(self.job.0.pool());
        }
        polled
    }

    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    /// Drops the handle of a job whose output was taken.
    #[inline]
    pub(crate) fn release_taken(self) {
        let this = ManuallyDrop::new(self);
        debug_assert!(this.is_join() && this.job.is_finished());
        this.job.0.drop_refs(JOIN);
    }

    /// Whether this handle is counted as `JOIN`. No other reference changes that bit.
    fn is_join(&self) -> bool {
        // Relaxed suffices: this handle alone clears the bit.
        self.job.0.header().refs.load(Relaxed) & JOIN != 0
    }

    /// Drops an output that will never be taken, or leaves it to the completing thread (S10).
    #[inline(never)]
    fn give_up_output(&mut self, is_complete: bool) {
        if is_complete || self.job.0.header().state.drop_join() {
            drop_caught(self.take());
        }
    }

    /// Drops a handle that is counted as a plain reference.
    #[inline(never)]
    fn drop_plain(&mut self) {
        // SAFETY: the handle is dropped, and gives up its reference once (S6).
        drop(unsafe { ManuallyDrop::take(&mut self.job) });
    }
}

impl<T> Drop for RawJoinHandle<T> {
    #[inline]
    fn drop(&mut self) {
        let header = self.job.0.header();
        // The order of the two loads matters. The token lives until the job is complete. So if the
        // job is not complete after the first load, the one other reference was the token, and no
        // abort handle exists. Only a join handle or an abort handle can make one.
        let refs = header.refs.load(Acquire);
        if refs & JOIN == 0 {
            return self.drop_plain();
        }
        let is_complete = header.state.load().is_complete();
        if is_complete || refs != REF | JOIN {
            self.give_up_output(is_complete);
        }
        self.job.0.drop_refs(JOIN);
    }
}
