//! Jobs that run in their callers: `try_go` on a full pool, and nested submits that may not wait.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::error::{Closed, JobError};
use crate::panic::catch_panic;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::{End, OutputSink};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::{AcquireOutcome, OnFull};
use crate::pool::scheduler::context::enter_inline;
use crate::pool::scheduler::shared::Core;
use crate::pool::submit::schedule::Submission;

/// Writes down the end of a job that runs in its caller; dropped, that it was cancelled.
struct InlineEnd<C: Deref<Target = Core>, S> {
    core: C,
    sink: Option<S>,
}

impl<C: Deref<Target = Core>, S> InlineEnd<C, S> {
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
                self.core.report_panic(panic);
                End::Panicked
            }
        });
        self.sink.take().expect("taken only here").inline(outcome)
    }

    fn record_end(&self, end: End) {
        let mut deferred = DeferredWakes::default();
        self.core.limiter.end_in_caller(end, &mut deferred);
        self.core.run_deferred(self.core.current_shard(), deferred);
    }
}

impl<C: Deref<Target = Core>, S> Drop for InlineEnd<C, S> {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.record_end(End::Cancelled);
        }
    }
}

pin_project! {
    /// A job that runs in its caller: a future of its handle.
    pub(crate) struct InlineJob<C: Deref<Target = Core>, F, S> {
        #[pin]
        job: Option<F>,
        // Stands behind the job, so that the job is dropped before it is written off.
        end: Option<InlineEnd<C, S>>,
    }
}

impl<C, F, S> InlineJob<C, F, S>
where
    C: Deref<Target = Core>,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    /// The job was counted as one that runs inline.
    pub(crate) fn new(core: C, job: F, mut sink: S) -> Self {
        sink.on_admit(None);
        Self { job: Some(job), end: Some(InlineEnd { core, sink: Some(sink) }) }
    }
}

impl<C, F, S> Future for InlineJob<C, F, S>
where
    C: Deref<Target = Core>,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    type Output = S::Handle;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S::Handle> {
        let mut this = self.project();
        let job = this.job.as_mut().as_pin_mut().expect("polled after completion");
        let outcome = match catch_unwind(AssertUnwindSafe(|| enter_inline(|| job.poll(cx)))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(payload) => Err(JobError::panicked(payload)),
        };
        let end = this.end.take().expect("taken with the job");
        Poll::Ready(end.end(outcome, || this.job.set(None)))
    }
}

pin_project! {
    /// Runs a job in the pool, or in the caller if that is full.
    pub(crate) struct Going<'a, F, S> {
        core: &'a Core,
        #[pin]
        state: State<'a, F, S>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<'a, F, S> {
        NewJob { job: F },
        Inline { #[pin] run: InlineJob<&'a Core, F, S> },
        Gone,
    }
}

impl<'a, F, S> Going<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    pub(crate) fn new(core: &'a Core, job: F) -> Self {
        core.ensure_runtime();
        Self { core, state: State::NewJob { job } }
    }

    /// Takes the job back if it was not offered yet.
    pub(crate) fn take_back(self: Pin<&mut Self>) -> Option<F> {
        let mut state = self.project().state;
        if !matches!(state.as_mut().project(), StateProj::NewJob { .. }) {
            return None;
        }
        match state.project_replace(State::Gone) {
            StateReplace::NewJob { job } => Some(job),
            _ => None,
        }
    }

    pub(crate) fn poll_with(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: impl FnOnce() -> S,
    ) -> Poll<Result<S::Handle, Closed<F>>> {
        let job = self.as_mut().take_back();
        let mut this = self.project();
        if let Some(job) = job {
            let mut submission = Submission::new(this.core, job, sink());
            match submission.admit(OnFull::RunInCaller) {
                AcquireOutcome::RunInCaller => {
                    let run = submission.take_inline(*this.core);
                    this.state.set(State::Inline { run });
                }
                AcquireOutcome::Closed => return Poll::Ready(Err(Closed(submission.take_job()))),
                _ => return Poll::Ready(Ok(submission.take_handle())),
            }
        }
        let StateProj::Inline { run } = this.state.project() else {
            panic!("`try_go` polled after completion");
        };
        run.poll(cx).map(Ok)
    }
}

pin_project! {
    /// Runs a job in the pool, or here if that is full; made by [`Pool::try_go`](crate::Pool::try_go).
    #[must_use = "futures do nothing unless polled"]
    pub struct TryGo<'a, F> {
        #[pin]
        going: Going<'a, F, StoreOutput>,
    }
}

impl<'a, F> TryGo<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(crate) fn new(core: &'a Core, job: F) -> Self {
        Self { going: Going::new(core, job) }
    }
}

impl<F> Future for TryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, Closed<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().going.poll_with(cx, || StoreOutput)
    }
}

impl<F> fmt::Debug for TryGo<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGo").finish_non_exhaustive()
    }
}
