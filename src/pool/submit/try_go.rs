//! The verb `try_go`: a job that the pool takes, or that its caller runs.
//!
//! [`Pool::try_go`](crate::Pool::try_go) and [`Group::try_go`](crate::Group::try_go) return these
//! futures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::coop;

use crate::error::ClosedError;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::pool::submit::submission::{Submission, Submitted};
use crate::trace::Place;

pin_project! {
    /// `try_go` for any sink. The job stays in here until the first poll, and while the caller runs
    /// it.
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
        New { job: F, sink: S, place: Place },
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
    pub(crate) fn new(shared: &'a Shared, job: F, sink: S) -> Self {
        shared.ensure_runtime();
        Self { shared, state: State::New { job, sink, place: Place::caller() } }
    }
}

impl<F, S> Future for TryGoInner<'_, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    type Output = Result<S::Handle, ClosedError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StateProj::New { .. } = this.state.as_mut().project() {
            // Taken for the admission alone: the job in its caller spends budget of its own.
            let budget = ready!(coop::poll_proceed(cx));
            budget.made_progress();
            let StateReplace::New { job, sink, place } =
                this.state.as_mut().project_replace(State::Taken)
            else {
                unreachable!("the state was `New` just now");
            };
            let submission = Submission::from_place(this.shared, job, sink, place);
            match submission.try_go(*this.shared)? {
                Submitted::Pool(handle) => return Poll::Ready(Ok(handle)),
                Submitted::Caller(run) => this.state.set(State::InCaller { run }),
            }
        }
        let StateProj::InCaller { run } = this.state.project() else {
            panic!("`try_go` polled after completion");
        };
        run.poll(cx).map(Ok)
    }
}

pin_project! {
    /// Runs a job in the pool, or in the caller if the pool is full; made by
    /// [`Pool::try_go`](crate::Pool::try_go).
    ///
    /// Resolves to the job's handle. Dropping this future cancels a job that runs in the caller; a
    /// job that the pool has taken goes on.
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
        Self { inner: TryGoInner::new(shared, job, StoreOutput) }
    }
}

impl<F> Future for TryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, ClosedError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for TryGo<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGo").finish_non_exhaustive()
    }
}
