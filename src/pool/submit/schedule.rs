//! The verbs `schedule` and `anyway_go`: futures that may stand in the wait list.
//!
//! [`ScheduleInner`] is `schedule` for any sink. [`Pool::schedule`](crate::Pool::schedule) and
//! [`Group::schedule`](crate::Group::schedule) wrap it. The caller keeps its job while it waits, so
//! a dropped future takes the job along, and its `Drop` gives up the place or the granted slot
//! (P3). The job of [`AnywayGo`] is in the pool already; that future only observes.
//!
//! A future must not return `Pending` without a waker in the wait list, except for the one yield
//! before its admission, which wakes the task itself.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::pool::Pool;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::limiter::counts::LeaveReason;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::{WaiterKey, WaiterState};
use crate::pool::limiter::{AcquireOutcome, OnFull};
use crate::pool::options::JobOptions;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::submission::{OwnedPool, PoolRef, Submission};
use crate::sync::failpoint;
use crate::trace::Place;

/// `schedule` for any sink.
pub(crate) struct ScheduleInner<C: PoolRef, F: Future, S> {
    submission: Submission<C, F, S>,
    progress: Progress,
}

/// How far a `schedule` has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    New,
    /// The caller has yielded to the runtime once.
    Yielded,
    /// The caller has this place in the wait list (P3).
    Waiting(WaiterKey),
    /// The caller is a job of the pool, and the submitted job has this place itself (P3).
    WaitingForStart(WaiterKey),
    /// The job was offered to the limiter, and nothing waits.
    Done,
}

/// How many submits take one unit of tokio's budget. A task has 128 units per poll. A submit that finds
/// a slot takes some 30 ns. On several threads, each yield for budget costs a wake-up across threads.
const SUBMITS_PER_UNIT: u32 = 8;

/// How many refusals without a lock take one unit: they are quicker than submits.
#[cfg(feature = "tower")]
pub(crate) const REFUSALS_PER_UNIT: u32 = 32;

/// Counts a submit or a refusal on this thread. Returns whether it takes a unit of tokio's budget, which one
/// of `per_unit` does. All share one counter and each `per_unit` is a power of two, so a loop of any mixture
/// is due at last.
#[inline]
pub(crate) fn is_budget_due(per_unit: u32) -> bool {
    thread_local! {
        static COUNTED: Cell<u32> = const { Cell::new(0) };
    }
    let counted = COUNTED.get().wrapping_add(1);
    COUNTED.set(counted);
    // A model must not depend on what ran on its thread before.
    cfg!(millpond_loom) || counted % per_unit == 0
}

impl<C, F, S> ScheduleInner<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline(always)]
    pub(crate) fn new(shared: C, job: F, sink: S) -> Self {
        Self::with(shared, job, sink, Place::caller(), None)
    }

    #[inline(always)]
    pub(crate) fn with(
        shared: C,
        job: F,
        sink: S,
        place: Place,
        options: Option<&JobOptions>,
    ) -> Self {
        let submission = Submission::with(shared, job, sink, place, options);
        Self { submission, progress: Progress::New }
    }

    // Inlined: the result is as large as the job, and its way through memory costs a tiny job a tenth.
    #[inline(always)]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, SubmitError<F>>> {
        let outcome = match self.progress {
            Progress::New | Progress::Yielded => match self.poll_offer(cx) {
                Poll::Ready(Ok(handle)) => return Poll::Ready(Ok(handle)),
                Poll::Ready(Err(outcome)) => outcome,
                Poll::Pending => return Poll::Pending,
            },
            _ => return self.poll_again(cx),
        };
        self.conclude(outcome, cx)
    }

    /// Offers the job to the limiter. Returns the outcome, unless the job has started.
    fn poll_offer(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, AcquireOutcome>> {
        if self.progress == Progress::New && self.submission.shared.should_yield() {
            self.progress = Progress::Yielded;
            // `yield_now` would defer the wake-up on this thread. After a plain wake-up another
            // thread can take the task, while this one runs the jobs.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // A loop that submits without a wait must yield to the other tasks of its thread.
        if is_budget_due(SUBMITS_PER_UNIT) || !coop::has_budget_remaining() {
            let budget = ready!(coop::poll_proceed(cx));
            budget.made_progress();
        }
        self.progress = Progress::Done;
        let outcome = self.submission.admit(OnFull::Wait(cx.waker()));
        Poll::Ready(match outcome {
            AcquireOutcome::Started { .. } => Ok(self.submission.take_handle()),
            _ => Err(outcome),
        })
    }

    /// Polls after the admission did not start the job.
    #[cold]
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, SubmitError<F>>> {
        match self.progress {
            Progress::WaitingForStart(waiter_key) => self.poll_started(waiter_key, cx),
            Progress::Waiting(waiter_key) => self.look_up(waiter_key, cx),
            _ => panic!("`schedule` polled after completion"),
        }
    }

    /// Hands in the job under the key in the wait list, or takes its refusal.
    fn look_up(
        &mut self,
        waiter_key: WaiterKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, SubmitError<F>>> {
        // Without budget the caller keeps its place, and what it was granted.
        let budget = ready!(coop::poll_proceed(cx));
        let shared = self.submission.shared.clone();
        let shard_id = shared.current_shard();
        let mut deferred = DeferredWakes::default();
        let outcome = loop {
            let submission = &mut self.submission;
            let outcome =
                shared.limiter.submit_granted(shard_id, waiter_key, submission, &mut deferred);
            // Most wake-ups bring something. Only a caller that still waits leaves its waker again.
            if !matches!(outcome, AcquireOutcome::Waiting(_)) {
                break outcome;
            }
            if shared.limiter.poll_waiter(waiter_key, cx.waker()) == WaiterState::Waiting {
                return Poll::Pending;
            }
        };
        budget.made_progress();
        self.progress = Progress::Done;
        shared.run_deferred(shard_id, deferred);
        shared.after_submit(shard_id, None, &outcome);
        self.conclude(outcome, cx)
    }

    /// Turns the limiter's outcome into the result of this poll.
    #[cold]
    fn conclude(
        &mut self,
        outcome: AcquireOutcome,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, SubmitError<F>>> {
        match outcome {
            AcquireOutcome::Started { .. } | AcquireOutcome::Enqueued => {
                Poll::Ready(Ok(self.submission.take_handle()))
            }
            AcquireOutcome::Waiting(waiter_key) => {
                self.progress = Progress::Waiting(waiter_key);
                Poll::Pending
            }
            AcquireOutcome::WaitingForStart(waiter_key) => {
                self.progress = Progress::WaitingForStart(waiter_key);
                self.poll_started(waiter_key, cx)
            }
            AcquireOutcome::Refused(kind) => Poll::Ready(Err(self.submission.take_refused(kind))),
            AcquireOutcome::RunInCaller(_)
            | AcquireOutcome::Overflow { .. }
            | AcquireOutcome::Reserved => {
                unreachable!("`OnFull::Wait` has none of these outcomes")
            }
        }
    }

    /// The pool of the job.
    pub(crate) fn pool(&self) -> &C {
        &self.submission.shared
    }

    /// Whether the job was offered and waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.progress, Progress::Waiting(_) | Progress::WaitingForStart(_))
    }

    /// Takes the waiting job back, because its time is over. Goes on with a job that has started by now.
    pub(super) fn time_out(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, SubmitError<F>>> {
        match self.progress {
            Progress::Waiting(waiter_key) if !failpoint("a wait in vain keeps its place") => {
                let shared = &self.submission.shared;
                shared.cancel_waiter(waiter_key, LeaveReason::TimedOut);
            }
            Progress::WaitingForStart(waiter_key) if !self.submission.time_out() => {
                return self.poll_started(waiter_key, cx);
            }
            _ => {}
        }
        self.progress = Progress::Done;
        Poll::Ready(Err(self.submission.take_refused(SubmitErrorKind::TimedOut)))
    }

    /// Waits until the pool starts the job, or gives the job back.
    fn poll_started(
        &mut self,
        waiter_key: WaiterKey,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Handle, SubmitError<F>>> {
        let is_given_back = ready!(self.submission.poll_started(cx));
        if is_given_back {
            self.progress = Progress::Waiting(waiter_key);
            return self.look_up(waiter_key, cx);
        }
        self.progress = Progress::Done;
        Poll::Ready(Ok(self.submission.take_handle()))
    }
}

#[cfg(feature = "tower")]
impl<C: PoolRef, F: Future, S> ScheduleInner<C, F, S> {
    /// Aborts the job if it has started. Called before the drop, which takes a waiting job along.
    pub(super) fn abort(&mut self) {
        if let Progress::WaitingForStart(_) = self.progress {
            self.submission.abort_started();
        }
    }
}

impl<C: PoolRef, F: Future, S> Drop for ScheduleInner<C, F, S> {
    #[inline]
    fn drop(&mut self) {
        let waiter_key = match self.progress {
            Progress::Waiting(waiter_key) => waiter_key,
            // The key is the job's own, until the job is given back and leaves the key to its submitter.
            Progress::WaitingForStart(waiter_key) if self.submission.withdraw() => waiter_key,
            _ => return,
        };
        self.submission.shared.cancel_waiter(waiter_key, LeaveReason::Dropped);
    }
}

/// Waits for room in the pool; made by [`Pool::schedule`](crate::Pool::schedule).
///
/// Dropped before it resolves, it takes its job along and passes its place to the next waiter.
#[must_use = "futures do nothing unless polled"]
pub struct Schedule<'a, F>(ScheduleInner<&'a Shared, F, StoreOutput>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<'a, F> Schedule<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    #[inline(always)]
    pub(crate) fn new(shared: &'a Shared, job: F) -> Self {
        Self(ScheduleInner::new(shared, job, StoreOutput))
    }

    #[track_caller]
    pub(crate) fn with(shared: &'a Shared, job: F, options: &JobOptions) -> Self {
        Self(ScheduleInner::with(shared, job, StoreOutput, Place::caller(), Some(options)))
    }
}

impl<F> Future for Schedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, SubmitError<F>>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// [`Schedule`] with a handle of its pool; made by
/// [`Pool::schedule_owned`](crate::Pool::schedule_owned).
#[must_use = "futures do nothing unless polled"]
pub struct ScheduleOwned<F>(ScheduleInner<OwnedPool, F, StoreOutput>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<F> ScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(crate) fn new(pool: Pool, job: F) -> Self {
        Self(ScheduleInner::new(OwnedPool(pool), job, StoreOutput))
    }

    #[track_caller]
    pub(crate) fn with(pool: Pool, job: F, options: &JobOptions) -> Self {
        let pool = OwnedPool(pool);
        Self(ScheduleInner::with(pool, job, StoreOutput, Place::caller(), Some(options)))
    }
}

impl<F> Future for ScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, SubmitError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// A committed job; made by [`Pool::anyway_go`](crate::Pool::anyway_go).
///
/// A future of the job's handle, ready once the job has left the wait list. Dropping this future
/// changes nothing: the job runs. [`into_handle`](Self::into_handle) returns the handle at once.
#[must_use = "dropping it detaches the job; the result is lost"]
pub struct AnywayGo<T>(Option<JobHandle<T>>);

impl<T> AnywayGo<T> {
    pub(crate) fn new(handle: JobHandle<T>) -> Self {
        Self(Some(handle))
    }

    /// Returns the job's handle without waiting for the job's start.
    ///
    /// # Panics
    ///
    /// If the future has resolved to the handle already.
    pub fn into_handle(self) -> JobHandle<T> {
        self.0.expect("`AnywayGo` has returned its handle already")
    }
}

impl<T> Future for AnywayGo<T> {
    type Output = JobHandle<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<JobHandle<T>> {
        let handle = self.0.as_ref().expect("`AnywayGo` polled after completion");
        let budget = ready!(coop::poll_proceed(cx));
        ready!(handle.poll_started(cx));
        budget.made_progress();
        Poll::Ready(self.0.take().expect("the handle was here just now"))
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

impl<F> fmt::Debug for ScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleOwned").finish_non_exhaustive()
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
            assert!(first.as_mut().poll(&mut cx).is_ready(), "a future yields once");
            // A worker of this shard resets the count of migrations.
            shared.limiter.shard(shared.current_shard()).reset_migrations();
            assert!(pin!(pool.schedule(async {})).poll(&mut cx).is_ready());
        });
        runtime.block_on(submitter).unwrap();
    }
}
