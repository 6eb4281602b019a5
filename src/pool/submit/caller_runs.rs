//! A job that its caller polls: `try_go` on a full pool, and nested submissions that may not wait.
//!
//! The limiter counts such a job as `in_caller`. The job holds no slot, and no worker, handle or
//! group can reach it before its end. So there is no cell: the caller's future owns the job.

use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::error::JobError;
use crate::panic::catch_panic;
use crate::pool::context::enter_in_caller;
use crate::pool::job::{End, OutputSink};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::measured::CallerKey;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::slow;
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
                catch_panic(|| drop(outcome));
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
    pub(crate) fn new(shared: C, job: F, sink: S, (place, key): (Place, CallerKey)) -> Self {
        slow::watch(&shared);
        let end = CompletionGuard { shared, sink: Some(sink), place, key };
        Self { job: Some(job), end: Some(end) }
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
        let outcome = match catch_unwind(AssertUnwindSafe(|| enter_in_caller(|| job.poll(cx)))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(payload) => Err(JobError::panicked(payload)),
        };
        let end = this.end.take().expect("the guard leaves together with the job");
        Poll::Ready(end.end(outcome, || this.job.set(None)))
    }
}
