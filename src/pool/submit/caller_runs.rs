//! A job that its caller polls: `try_go` on a full pool, and nested submissions that may not wait.
//!
//! The limiter counts such a job as `in_caller`. The job holds no slot, and no worker, handle or
//! group can reach it before its end. So there is no cell: the caller's future owns the job. The job
//! does not start after its deadline, and what it submits inherits that.

use std::future::Future;
use std::mem::replace;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::error::JobError;
use crate::panic::drop_caught;
use crate::pool::context::enter_in_caller;
use crate::pool::job::{End, NewJob, OutputSink, with_deadline};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::measured::CallerKey;
use crate::pool::options::Deadline;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::slow;
use crate::sync::failpoint;
use crate::trace::Place;

/// Records the end of a job in its caller, once (P4). Dropping the guard records a cancellation.
struct CompletionGuard<C: Deref<Target = Shared>, S> {
    shared: C,
    sink: Option<S>,
    place: Place,
    key: CallerKey,
}

impl<C: Deref<Target = Shared>, S> CompletionGuard<C, S> {
    /// Drops the job by `drop_job`, then records its end. Returns the handle of the finished job.
    ///
    /// A panic of the destructor replaces the output, as for jobs in the pool.
    fn end<T>(mut self, outcome: Result<T, JobError>, drop_job: impl FnOnce()) -> S::Handle
    where
        S: OutputSink<T>,
    {
        let outcome = match catch_unwind(AssertUnwindSafe(drop_job)) {
            Ok(()) => outcome,
            Err(payload) => {
                drop_caught(outcome);
                Err(JobError::panicked(payload))
            }
        };
        self.record_end(match &outcome {
            Ok(_) => End::Completed,
            Err(JobError::Cancelled) => End::Cancelled,
            Err(JobError::Expired) => End::Expired,
            Err(JobError::Panicked(panic)) => {
                self.shared.report_panic(panic, self.place);
                End::Panicked
            }
        });
        self.sink.take().expect("only this method takes the sink").finished_handle(outcome)
    }

    fn record_end(&self, end: End) {
        let mut deferred = DeferredWakes::default();
        self.shared.limiter.end_in_caller(self.key, end, &mut deferred);
        self.shared.run_deferred(self.shared.current_shard(), deferred);
    }
}

impl<C: Deref<Target = Shared>, S> Drop for CompletionGuard<C, S> {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.record_end(End::Cancelled);
        }
    }
}

pin_project! {
    /// A job that its caller polls. The output of this future is the job's handle.
    pub(crate) struct CallerRunsJob<C: Deref<Target = Shared>, F, S> {
        #[pin]
        job: Option<F>,
        deadline: Option<Deadline>,
        started: bool,
        // Declared after the job, so that the job is dropped before its end is recorded (P4).
        end: Option<CompletionGuard<C, S>>,
    }
}

impl<C, F, S> CallerRunsJob<C, F, S>
where
    C: Deref<Target = Shared>,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    /// Takes over a job that the limiter counts as `in_caller`. The sink has admitted the job.
    pub(crate) fn new(shared: C, job: NewJob<F, S>, sink: S, key: CallerKey) -> Self {
        slow::watch(&shared);
        let end = CompletionGuard { shared, sink: Some(sink), place: job.place(), key };
        let deadline = job.deadline();
        Self { job: Some(job.take_back()), deadline, started: false, end: Some(end) }
    }
}

impl<C, F, S> Future for CallerRunsJob<C, F, S>
where
    C: Deref<Target = Shared>,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    type Output = S::Handle;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S::Handle> {
        let mut this = self.project();
        let job =
            this.job.as_mut().as_pin_mut().expect("a job in its caller polled after completion");
        let deadline = *this.deadline;
        let is_late = |deadline: Deadline| deadline.at <= Instant::now();
        let is_late = !replace(this.started, true) && deadline.is_some_and(is_late);
        let outcome = if is_late && !failpoint("a late job starts in its caller") {
            Err(JobError::Expired)
        } else {
            let poll = || with_deadline(deadline, || enter_in_caller(|| job.poll(cx)));
            match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(polled) => Ok(ready!(polled)),
                Err(payload) => Err(JobError::panicked(payload)),
            }
        };
        let end = this.end.take().expect("the guard leaves together with the job");
        Poll::Ready(end.end(outcome, || this.job.set(None)))
    }
}
