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

use crate::error::SubmitError;
use crate::pool::Pool;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::options::JobOptions;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::pool::submit::submission::{OwnedPool, PoolRef, Submission, Submitted};
use crate::trace::Place;

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
        New { job: F, sink: S, place: Place, options: Option<JobOptions> },
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
        Self::with(shared, job, sink, None)
    }

    #[track_caller]
    pub(crate) fn with(shared: C, job: F, sink: S, options: Option<JobOptions>) -> Self {
        shared.ensure_runtime();
        Self { state: State::New { job, sink, place: Place::caller(), options }, shared }
    }

    /// The pool of the job.
    pub(crate) fn pool(&self) -> &C {
        &self.shared
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
            // Taken for the admission alone: the job in its caller spends budget of its own.
            let budget = ready!(coop::poll_proceed(cx));
            budget.made_progress();
            let StateReplace::New { job, sink, place, options } =
                this.state.as_mut().project_replace(State::Taken)
            else {
                unreachable!("the state was `New` just now");
            };
            let shared = this.shared.clone();
            let submission = Submission::with(&**this.shared, job, sink, place, options.as_ref());
            match submission.try_go(shared)? {
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

    #[track_caller]
    pub(crate) fn with(shared: &'a Shared, job: F, options: &JobOptions) -> Self {
        Self { inner: TryGoInner::with(shared, job, StoreOutput, Some(options.clone())) }
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

pin_project! {
    /// [`TryGo`] with a handle of its pool; made by
    /// [`Pool::try_go_owned`](crate::Pool::try_go_owned).
    #[must_use = "futures do nothing unless polled"]
    pub struct TryGoOwned<F> {
        #[pin]
        inner: TryGoInner<OwnedPool, F, StoreOutput>,
    }
}

impl<F> TryGoOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(crate) fn new(pool: Pool, job: F) -> Self {
        Self { inner: TryGoInner::new(OwnedPool(pool), job, StoreOutput) }
    }

    #[track_caller]
    pub(crate) fn with(pool: Pool, job: F, options: &JobOptions) -> Self {
        let options = Some(options.clone());
        Self { inner: TryGoInner::with(OwnedPool(pool), job, StoreOutput, options) }
    }
}

impl<F> Future for TryGoOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobHandle<F::Output>, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for TryGoOwned<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGoOwned").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for TryGo<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryGo").finish_non_exhaustive()
    }
}
