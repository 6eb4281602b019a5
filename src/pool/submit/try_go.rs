//! Jobs that run in their callers: `try_go` on a full pool, and nested submits that may not wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::ClosedError;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::limiter::{AcquireOutcome, OnFull};
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::pool::submit::submission::Submission;

pin_project! {
    /// Runs a job in the pool, or in the caller if that is full.
    pub(crate) struct TryGoInner<'a, F, S> {
        shared: &'a Shared,
        #[pin]
        state: State<'a, F, S>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<'a, F, S> {
        New { job: F },
        InCaller { #[pin] run: CallerRunsJob<&'a Shared, F, S> },
        Taken,
    }
}

impl<'a, F, S> TryGoInner<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    pub(crate) fn new(shared: &'a Shared, job: F) -> Self {
        shared.ensure_runtime();
        Self { shared, state: State::New { job } }
    }

    /// Takes the job back if it was not offered yet.
    pub(crate) fn take_back(self: Pin<&mut Self>) -> Option<F> {
        let mut state = self.project().state;
        if !matches!(state.as_mut().project(), StateProj::New { .. }) {
            return None;
        }
        match state.project_replace(State::Taken) {
            StateReplace::New { job } => Some(job),
            _ => None,
        }
    }

    pub(crate) fn poll_with(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        sink: impl FnOnce() -> S,
    ) -> Poll<Result<S::Handle, ClosedError<F>>> {
        let job = self.as_mut().take_back();
        let mut this = self.project();
        if let Some(job) = job {
            let mut submission = Submission::new(this.shared, job, sink());
            match submission.admit(OnFull::RunInCaller) {
                AcquireOutcome::RunInCaller => {
                    let run = submission.take_in_caller(*this.shared);
                    this.state.set(State::InCaller { run });
                }
                AcquireOutcome::Closed => {
                    return Poll::Ready(Err(ClosedError(submission.take_job())));
                }
                _ => return Poll::Ready(Ok(submission.take_handle())),
            }
        }
        let StateProj::InCaller { run } = this.state.project() else {
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
        inner: TryGoInner<'a, F, StoreOutput>,
    }
}

impl<'a, F> TryGo<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(crate) fn new(shared: &'a Shared, job: F) -> Self {
        Self { inner: TryGoInner::new(shared, job) }
    }
}

impl<F> Future for TryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, ClosedError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll_with(cx, || StoreOutput)
    }
}

impl<F> fmt::Debug for TryGo<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGo").finish_non_exhaustive()
    }
}
