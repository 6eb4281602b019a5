//! A job that runs in its caller, on the pool's account.

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
use crate::pool::scheduler::shared::Shared;

/// Writes down the end of a job that runs in its caller; dropped, that it was cancelled.
struct CompletionGuard<C: Deref<Target = Shared>, S> {
    shared: C,
    sink: Option<S>,
}

impl<C: Deref<Target = Shared>, S> CompletionGuard<C, S> {
    /// The job has ended and is dropped by `drop_job`.
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
            Err(JobError::Panicked(panic)) => {
                self.shared.report_panic(panic);
                End::Panicked
            }
        });
        self.sink.take().expect("taken only here").finished_handle(outcome)
    }

    fn record_end(&self, end: End) {
        let mut deferred = DeferredWakes::default();
        self.shared.limiter.end_in_caller(end, &mut deferred);
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
    /// A job that runs in its caller: a future of its handle.
    pub(crate) struct CallerRunsJob<C: Deref<Target = Shared>, F, S> {
        #[pin]
        job: Option<F>,
        // Stands behind the job, so that the job is dropped before it is written off.
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
    /// The job was counted as one that runs in its caller.
    pub(crate) fn new(shared: C, job: F, mut sink: S) -> Self {
        sink.on_admit(None);
        Self { job: Some(job), end: Some(CompletionGuard { shared, sink: Some(sink) }) }
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
        let job = this.job.as_mut().as_pin_mut().expect("polled after completion");
        let outcome = match catch_unwind(AssertUnwindSafe(|| enter_in_caller(|| job.poll(cx)))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(payload) => Err(JobError::panicked(payload)),
        };
        let end = this.end.take().expect("taken with the job");
        Poll::Ready(end.end(outcome, || this.job.set(None)))
    }
}
