//! The ways in, as named futures: what happens when the pool is full, and when a wait is dropped.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{ScheduleError, TryScheduleError};
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::{self, NewJob, OutputSink, RawJoinHandle, Runnable, SlotKind};
use crate::pool::limiter::deadlock::Nested;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::WaiterState;
use crate::pool::limiter::{AcquireOutcome, OnFull, PendingJob};
use crate::pool::scheduler::shared::Core;
use crate::pool::submit::try_go::InlineJob;
use crate::trace::JobSpan;

/// A job on its way into the pool.
pub(crate) struct Submission<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    core: &'a Core,
    job: Stage<F, S>,
    sink: Option<S>,
}

enum Stage<F: Future, S> {
    Bare(F),
    NewJob(NewJob<F, S>),
    Admitted(RawJoinHandle<F::Output>),
    Gone,
}

impl<'a, F, S> Submission<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline]
    pub(crate) fn new(core: &'a Core, job: F, sink: S) -> Self {
        core.ensure_runtime();
        Self { core, job: Stage::Bare(job), sink: Some(sink) }
    }

    /// A submission whose job is in its cell from the start.
    #[track_caller]
    #[inline]
    fn offered(core: &'a Core, job: F, sink: S) -> Self {
        core.ensure_runtime();
        let span = JobSpan::current(core.config.spans);
        Self { core, job: Stage::NewJob(job::allocate_job(job, span)), sink: Some(sink) }
    }

    #[inline]
    pub(crate) fn admit(&mut self, on_full: OnFull<'_>) -> AcquireOutcome {
        let core = self.core;
        let quota = self.sink.as_ref().and_then(S::quota);
        core.admit(self, quota, on_full)
    }

    /// For a caller that does not wait: admits the job, or gives it back.
    #[inline]
    pub(crate) fn submit(mut self, on_full: OnFull<'_>) -> Result<S::Handle, TryScheduleError<F>> {
        match self.admit(on_full) {
            AcquireOutcome::Full => Err(TryScheduleError::Full(self.take_job())),
            AcquireOutcome::Closed => Err(TryScheduleError::Closed(self.take_job())),
            _ => Ok(self.take_handle()),
        }
    }

    /// Hands the job in for a slot that was kept for it.
    #[inline]
    pub(crate) fn submit_reserved(&mut self) -> AcquireOutcome {
        let core = self.core;
        let quota = self.sink.as_ref().and_then(S::quota);
        core.submit_reserved(self, quota)
    }

    /// The job of a refused one.
    pub(crate) fn take_job(&mut self) -> F {
        match std::mem::replace(&mut self.job, Stage::Gone) {
            Stage::Bare(job) => job,
            Stage::NewJob(offered) => offered.take_back(),
            Stage::Admitted(_) | Stage::Gone => unreachable!("a refused job is still here"),
        }
    }

    #[inline]
    pub(crate) fn take_handle(&mut self) -> S::Handle {
        match std::mem::replace(&mut self.job, Stage::Gone) {
            Stage::Admitted(join) => S::handle(join),
            _ => unreachable!("an admitted job has one"),
        }
    }

    /// The job, to be run here.
    pub(crate) fn take_inline<C: Deref<Target = Core>>(&mut self, core: C) -> InlineJob<C, F, S> {
        let sink = self.sink.take().expect("the job was not admitted");
        InlineJob::new(core, self.take_job(), sink)
    }
}

impl<F, S> PendingJob for Submission<'_, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[inline]
    fn prepare(&mut self) {
        if let Stage::Bare(_) = &self.job {
            let span = JobSpan::current(self.core.config.spans);
            self.job = Stage::NewJob(job::allocate_job(self.take_job(), span));
        }
    }

    #[inline]
    fn admit(&mut self, slot_kind: SlotKind) -> Runnable {
        let (Stage::NewJob(offered), Some(sink)) =
            (std::mem::replace(&mut self.job, Stage::Gone), self.sink.take())
        else {
            unreachable!("a job is prepared before, and admitted once");
        };
        let (job, join) = offered.admit(sink, slot_kind);
        self.job = Stage::Admitted(join);
        job
    }

    fn admit_waiting(&mut self, slot_kind: SlotKind, waiter_key: usize) -> Runnable {
        if let Stage::NewJob(offered) = &self.job {
            offered.enter_wait_list(|| self.core.arc(), waiter_key);
        }
        PendingJob::admit(self, slot_kind)
    }
}

/// A job that runs in the job that submitted it.
type Nest<'a, F, S> = Pin<Box<InlineJob<&'a Core, F, S>>>;

/// A caller that may wait in line with its job.
pub(crate) struct Entering<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    submission: Submission<'a, F, S>,
    polled: bool,
    yielded: bool,
    waiter_key: Option<u32>,
    /// Waiting would have deadlocked, and the pool's policy is to run such jobs here.
    inline: Option<Nest<'a, F, S>>,
}

impl<'a, F, S> Entering<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline]
    pub(crate) fn new(core: &'a Core, job: F, sink: S) -> Self {
        // Into its cell at once: that way it is moved once, and waits without being in the way.
        let submission = Submission::offered(core, job, sink);
        Self { submission, polled: false, yielded: false, waiter_key: None, inline: None }
    }

    /// Takes the job back if it was not offered yet.
    pub(crate) fn take_back(&mut self) -> Option<F> {
        (!std::mem::replace(&mut self.polled, true)).then(|| self.submission.take_job())
    }

    #[inline]
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, ScheduleError<F>>> {
        if self.waiter_key.is_some() || self.inline.is_some() {
            return self.poll_again(cx);
        }
        assert!(!self.polled, "polled after completion");
        if !self.yielded && self.submission.core.should_yield() {
            self.yielded = true;
            // Not `yield_now`: this thread alone could go on after that, whatever it does first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polled = true;
        let outcome = self
            .submission
            .admit(OnFull::Wait { waker: cx.waker(), pool: self.submission.core.id() });
        if let AcquireOutcome::Started { .. } = outcome {
            return Poll::Ready(Ok(self.submission.take_handle()));
        }
        self.conclude(outcome, cx)
    }

    #[cold]
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, ScheduleError<F>>> {
        let Some(waiter_key) = self.waiter_key else { return self.poll_inline(cx).map(Ok) };
        let waiter_key = waiter_key as usize;
        let core = self.submission.core;
        if core.limiter.poll_waiter(waiter_key, cx.waker(), core.id()) == WaiterState::Waiting {
            return Poll::Pending;
        }
        self.waiter_key = None;
        let shard_id = core.current_shard();
        let mut deferred = DeferredWakes::default();
        let outcome =
            core.limiter.submit_granted(shard_id, waiter_key, &mut self.submission, &mut deferred);
        core.run_deferred(shard_id, deferred);
        self.conclude(core.after_submit(shard_id, outcome), cx)
    }

    #[cold]
    fn conclude(
        &mut self,
        outcome: AcquireOutcome,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, ScheduleError<F>>> {
        let core = self.submission.core;
        match outcome {
            AcquireOutcome::Started { .. } | AcquireOutcome::Enqueued => {
                Poll::Ready(Ok(self.submission.take_handle()))
            }
            AcquireOutcome::Waiting(waiter_key) => {
                self.waiter_key = Some(waiter_key as u32);
                Poll::Pending
            }
            AcquireOutcome::Deadlock if core.config.nested == Nested::Inline => {
                core.limiter.run_refused_in_caller();
                self.inline = Some(Box::pin(self.submission.take_inline(core)));
                self.poll_inline(cx).map(Ok)
            }
            AcquireOutcome::Deadlock => {
                Poll::Ready(Err(ScheduleError::WouldDeadlock(self.submission.take_job())))
            }
            AcquireOutcome::Closed => {
                Poll::Ready(Err(ScheduleError::Closed(self.submission.take_job())))
            }
            AcquireOutcome::Full
            | AcquireOutcome::RunInCaller
            | AcquireOutcome::Overflow { .. }
            | AcquireOutcome::Reserved => {
                unreachable!("a caller that may wait waits")
            }
        }
    }

    fn poll_inline(&mut self, cx: &mut Context<'_>) -> Poll<S::Handle> {
        let inline = self.inline.as_mut().expect("polled after completion");
        let handle = ready!(inline.as_mut().poll(cx));
        self.inline = None;
        Poll::Ready(handle)
    }
}

impl<F, S> Drop for Entering<'_, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[inline]
    fn drop(&mut self) {
        if let Some(waiter_key) = self.waiter_key {
            self.submission.core.cancel_waiter(waiter_key as usize);
        }
    }
}

/// Waits for room in the pool; made by [`Pool::schedule`](crate::Pool::schedule).
#[must_use = "futures do nothing unless polled"]
pub struct Schedule<'a, F>(Entering<'a, F, StoreOutput>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<'a, F> Schedule<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    #[inline]
    pub(crate) fn new(core: &'a Core, job: F) -> Self {
        Self(Entering::new(core, job, StoreOutput))
    }
}

impl<F> Future for Schedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, ScheduleError<F>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

// The job is moved into the pool before it is first polled, so it is never pinned in here.
impl<F> Unpin for Schedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
}

/// A committed job; made by [`Pool::anyway_go`](crate::Pool::anyway_go).
///
/// A future of the job's handle, ready once the job has left the waiting line. Dropping it
/// changes nothing: the job runs. To have the handle at once, take it with
/// [`into_handle`](Self::into_handle).
#[must_use = "dropping it detaches the job; its result is lost"]
pub struct AnywayGo<T>(Option<JobHandle<T>>);

impl<T> AnywayGo<T> {
    pub(crate) fn new(handle: JobHandle<T>) -> Self {
        Self(Some(handle))
    }

    /// The job's handle, without waiting for its start.
    ///
    /// # Panics
    ///
    /// If the future has resolved to the handle already.
    pub fn into_handle(self) -> JobHandle<T> {
        self.0.expect("`AnywayGo` gave its handle away already")
    }
}

impl<T> Future for AnywayGo<T> {
    type Output = JobHandle<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<JobHandle<T>> {
        let handle = self.0.as_ref().expect("`AnywayGo` polled after completion");
        ready!(handle.poll_started(cx));
        Poll::Ready(self.0.take().expect("just seen"))
    }
}

impl<F> fmt::Debug for Schedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for AnywayGo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnywayGo").field(&self.0).finish()
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::Pool;

    #[test]
    fn a_submitter_whose_jobs_go_elsewhere_yields_once() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_time().build().unwrap();
        let submitter = runtime.spawn(async {
            let pool = Pool::new(100);
            let core = pool.core();
            let migrate =
                || (0..4).for_each(|_| core.limiter.shard(core.current_shard()).note_migration());
            let mut cx = Context::from_waker(Waker::noop());
            migrate();
            let mut first = pin!(pool.schedule(async {}));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            migrate();
            assert!(first.as_mut().poll(&mut cx).is_ready(), "once is enough");
            // A worker that runs the jobs here has the drains forgotten.
            core.limiter.shard(core.current_shard()).reset_migrations();
            assert!(pin!(pool.schedule(async {})).poll(&mut cx).is_ready());
        });
        runtime.block_on(submitter).unwrap();
    }
}
