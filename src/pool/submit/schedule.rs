//! The ways in, as named futures: what happens when the pool is full, and when a wait is dropped.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::ScheduleError;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::limiter::deadlock::OnDeadlock;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::WaiterState;
use crate::pool::limiter::{AcquireOutcome, OnFull};
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::pool::submit::submission::Submission;

/// A job that runs in the job that submitted it.
type BoxedJob<'a, F, S> = Pin<Box<CallerRunsJob<&'a Shared, F, S>>>;

/// A caller that may wait in the wait list with its job.
pub(crate) struct ScheduleInner<'a, F, S>
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
    in_caller: Option<BoxedJob<'a, F, S>>,
}

impl<'a, F, S> ScheduleInner<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline]
    pub(crate) fn new(shared: &'a Shared, job: F, sink: S) -> Self {
        // Into its cell at once: that way it is moved once, and waits without being in the way.
        let submission = Submission::allocated(shared, job, sink);
        Self { submission, polled: false, yielded: false, waiter_key: None, in_caller: None }
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
        if self.waiter_key.is_some() || self.in_caller.is_some() {
            return self.poll_again(cx);
        }
        assert!(!self.polled, "polled after completion");
        if !self.yielded && self.submission.shared.should_yield() {
            self.yielded = true;
            // Not `yield_now`: this thread alone could go on after that, whatever it does first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polled = true;
        let outcome = self
            .submission
            .admit(OnFull::Wait { waker: cx.waker(), pool: self.submission.shared.id() });
        if let AcquireOutcome::Started { .. } = outcome {
            return Poll::Ready(Ok(self.submission.take_handle()));
        }
        self.conclude(outcome, cx)
    }

    #[cold]
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, ScheduleError<F>>> {
        let Some(waiter_key) = self.waiter_key else { return self.poll_in_caller(cx).map(Ok) };
        let waiter_key = waiter_key as usize;
        let shared = self.submission.shared;
        if shared.limiter.poll_waiter(waiter_key, cx.waker(), shared.id()) == WaiterState::Waiting {
            return Poll::Pending;
        }
        self.waiter_key = None;
        let shard_id = shared.current_shard();
        let mut deferred = DeferredWakes::default();
        let outcome = shared.limiter.submit_granted(
            shard_id,
            waiter_key,
            &mut self.submission,
            &mut deferred,
        );
        shared.run_deferred(shard_id, deferred);
        self.conclude(shared.after_submit(shard_id, outcome), cx)
    }

    #[cold]
    fn conclude(
        &mut self,
        outcome: AcquireOutcome,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, ScheduleError<F>>> {
        let shared = self.submission.shared;
        match outcome {
            AcquireOutcome::Started { .. } | AcquireOutcome::Enqueued => {
                Poll::Ready(Ok(self.submission.take_handle()))
            }
            AcquireOutcome::Waiting(waiter_key) => {
                self.waiter_key = Some(waiter_key as u32);
                Poll::Pending
            }
            AcquireOutcome::Deadlock if shared.config.on_deadlock == OnDeadlock::RunInCaller => {
                shared.limiter.run_refused_in_caller();
                self.in_caller = Some(Box::pin(self.submission.take_in_caller(shared)));
                self.poll_in_caller(cx).map(Ok)
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

    fn poll_in_caller(&mut self, cx: &mut Context<'_>) -> Poll<S::Handle> {
        let in_caller = self.in_caller.as_mut().expect("polled after completion");
        let handle = ready!(in_caller.as_mut().poll(cx));
        self.in_caller = None;
        Poll::Ready(handle)
    }
}

impl<F, S> Drop for ScheduleInner<'_, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[inline]
    fn drop(&mut self) {
        if let Some(waiter_key) = self.waiter_key {
            self.submission.shared.cancel_waiter(waiter_key as usize);
        }
    }
}

/// Waits for room in the pool; made by [`Pool::schedule`](crate::Pool::schedule).
#[must_use = "futures do nothing unless polled"]
pub struct Schedule<'a, F>(ScheduleInner<'a, F, StoreOutput>)
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
    pub(crate) fn new(shared: &'a Shared, job: F) -> Self {
        Self(ScheduleInner::new(shared, job, StoreOutput))
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
/// A future of the job's handle, ready once the job has left the wait list. Dropping it
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
            let shared = pool.shared();
            let migrate = || {
                (0..4).for_each(|_| shared.limiter.shard(shared.current_shard()).note_migration())
            };
            let mut cx = Context::from_waker(Waker::noop());
            migrate();
            let mut first = pin!(pool.schedule(async {}));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            migrate();
            assert!(first.as_mut().poll(&mut cx).is_ready(), "once is enough");
            // A worker that runs the jobs here has the drains forgotten.
            shared.limiter.shard(shared.current_shard()).reset_migrations();
            assert!(pin!(pool.schedule(async {})).poll(&mut cx).is_ready());
        });
        runtime.block_on(submitter).unwrap();
    }
}
