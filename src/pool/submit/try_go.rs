//! The verb `try_go`: a job that the pool takes, or that its caller runs.
//!
//! [`Pool::try_go`](crate::Pool::try_go) and [`Group::try_go`](crate::Group::try_go) return these
//! futures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::SubmitError;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::pool::submit::submission::{PoolRef, Submission, Submitted};

pin_project! {
    /// `try_go` for any sink. The job stays in here until the first poll, and while the caller runs
    /// it.
    pub(crate) struct TryGoInner<C: PoolRef, F, S> {
        #[pin]
        state: State<C, F, S>,
        // Declared last: the job is dropped before a future that owns its pool lets go of the pool.
        shared: C,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<C: PoolRef, F, S> {
        New { job: F, sink: S },
        InCaller { #[pin] run: CallerRunsJob<C, F, S> },
        Taken,
    }
}

impl<C, F, S> TryGoInner<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    pub(crate) fn new(shared: C, job: F, sink: S) -> Self {
        shared.ensure_runtime();
        Self { state: State::New { job, sink }, shared }
    }
}

impl<C, F, S> Future for TryGoInner<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    type Output = Result<S::Handle, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StateProj::New { .. } = this.state.as_mut().project() {
            let StateReplace::New { job, sink } = this.state.as_mut().project_replace(State::Taken)
            else {
                unreachable!("the state was `New` just now");
            };
            let shared = this.shared.clone();
            match Submission::new(&**this.shared, job, sink).try_go(shared)? {
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
        inner: TryGoInner<&'a Shared, F, StoreOutput>,
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
    type Output = Result<JobHandle<F::Output>, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for TryGo<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGo").finish_non_exhaustive()
    }
}
