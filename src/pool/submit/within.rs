//! The verb `schedule_within`: `schedule` with a limit for the wait.
//!
//! [`WithinInner`] is the verb for any sink: that of [`Pool::schedule_within`](crate::Pool::schedule_within),
//! of [`Group::schedule_within`](crate::Group::schedule_within) and of the layer's verb of that name. The
//! timer exists only while the job waits, since most jobs never do. A job whose time is over leaves the
//! wait list before the verb returns, so a job is never both refused and started.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::SubmitError;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::options::JobOptions;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::schedule::ScheduleInner;
use crate::pool::submit::submission::PoolRef;
use crate::sync::failpoint;
use crate::trace::Place;

/// `schedule_within` for any sink.
pub(crate) struct WithinInner<C: PoolRef, F: Future, S> {
    inner: ScheduleInner<C, F, S>,
    end: WaitEnd,
    timer: Option<Pin<Box<Sleep>>>,
}

/// When the wait ends.
#[derive(Debug, Clone, Copy)]
enum WaitEnd {
    /// The limit is zero: the first poll that reaches the limiter decides.
    AtOnce,
    At(Instant),
    /// The end is beyond what the clock can tell.
    Never,
}

impl WaitEnd {
    fn of(limit: Duration) -> Self {
        if limit.is_zero() {
            return Self::AtOnce;
        }
        Instant::now().checked_add(limit).map_or(Self::Never, Self::At)
    }
}

#[cfg(feature = "tower")]
impl<C: PoolRef, F: Future, S> WithinInner<C, F, S> {
    /// Aborts the job if it has started. Called before the drop.
    pub(crate) fn abort(&mut self) {
        self.inner.abort();
    }
}

impl<C, F, S> WithinInner<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[inline(always)]
    pub(crate) fn with(
        shared: C,
        limit: Duration,
        job: F,
        sink: S,
        place: Place,
        options: Option<&JobOptions>,
    ) -> Self {
        let end = WaitEnd::of(limit);
        let inner = ScheduleInner::with(shared, job, sink, place, options);
        Self { inner, end, timer: None }
    }

    #[inline(always)]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, SubmitError<F>>> {
        match self.inner.poll(cx) {
            Poll::Pending => self.poll_limit(cx),
            ready => ready,
        }
    }

    /// The pool of the job.
    pub(crate) fn pool(&self) -> &C {
        self.inner.pool()
    }

    /// Waits for the end of the limit, and then takes the job back.
    #[cold]
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Handle, SubmitError<F>>> {
        // A caller without budget has not been to the limiter yet.
        if !self.inner.is_waiting() {
            return Poll::Pending;
        }
        match self.end {
            WaitEnd::AtOnce if !failpoint("a zero limit waits") => {}
            WaitEnd::AtOnce | WaitEnd::Never => return Poll::Pending,
            WaitEnd::At(deadline) => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
            }
        }
        self.inner.time_out(cx)
    }
}

/// Waits for room in the pool, for a limited time; made by
/// [`Pool::schedule_within`](crate::Pool::schedule_within).
///
/// Dropped before it resolves, it takes its job along and passes its place to the next waiter.
#[must_use = "futures do nothing unless polled"]
pub struct ScheduleWithin<'a, F>(WithinInner<&'a Shared, F, StoreOutput>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<'a, F> ScheduleWithin<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    #[inline(always)]
    pub(crate) fn new(shared: &'a Shared, limit: Duration, job: F) -> Self {
        Self(WithinInner::with(shared, limit, job, StoreOutput, Place::caller(), None))
    }

    #[track_caller]
    pub(crate) fn with(shared: &'a Shared, limit: Duration, job: F, options: &JobOptions) -> Self {
        let place = Place::caller();
        Self(WithinInner::with(shared, limit, job, StoreOutput, place, Some(options)))
    }
}

impl<F> Future for ScheduleWithin<'_, F>
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

impl<F> fmt::Debug for ScheduleWithin<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleWithin").field("end", &self.0.end).finish_non_exhaustive()
    }
}
