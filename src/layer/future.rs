//! The response of a call: a future over the job of the call.
//!
//! [`PoolService`](crate::layer::PoolService) makes a [`ResponseFuture`] in one of its states, and
//! the caller polls it. The states follow each other in this order:
//!
//! ```text
//!   Waiting ──▶ Running ──▶ Done       Waiting: `schedule_within` has the call in its cell
//!      │  └───▶ InCaller ───▲ ▲        InCaller: the caller polls the call
//!      └──────── refused ─────┘        Running: the pool has the call
//! ```
//!
//! A dropped future must leave no call behind, unless the layer detaches: `Waiting` and `InCaller`
//! own the call, and `Drop` aborts the job of `Running`. Inside a job of the pool, the call of `Waiting` may
//! have started since the last poll, so `Drop` aborts its job as well.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::coop;
use tower_service::Service;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::layer::call::Call;
use crate::layer::counts::CallSink;
use crate::layer::on_error::HandleError;
use crate::layer::setup::{LayerPool, LayerShared};
use crate::pool::{
    CallerRunsJob, JobHandle, JobOptions, REFUSALS_PER_UNIT, Shared, Submitted, WithinInner,
    is_budget_due,
};
use crate::sync::failpoint;

type Output<S, Q> = Result<<S as Service<Q>>::Response, <S as Service<Q>>::Error>;
type CallInCaller<S, Q> = CallerRunsJob<Arc<Shared>, Call<S, Q>, CallSink>;

pin_project! {
    /// Resolves to the response of a call; made by [`PoolService`](crate::layer::PoolService).
    ///
    /// Dropping it cancels the call, unless the layer has
    /// [`detach_on_drop`](crate::layer::PoolLayer::detach_on_drop).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Q>, Q, A: HandleError<Q, S::Response, S::Error>> {
        #[pin]
        state: State<S, Q, A::Error>,
        on_error: A,
        detach: bool,
    }

    impl<S: Service<Q>, Q, A: HandleError<Q, S::Response, S::Error>> PinnedDrop
        for ResponseFuture<S, Q, A>
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if *this.detach || failpoint("a dropped call goes on") {
                return;
            }
            match this.state.project() {
                StateProj::Running { handle } => handle.abort(),
                StateProj::Waiting { wait } => wait.abort(),
                StateProj::InCaller { .. } | StateProj::Done { .. } => {}
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S: Service<Q>, Q, E> {
        Running { handle: JobHandle<Output<S, Q>> },
        Waiting { wait: WithinInner<LayerPool, Call<S, Q>, CallSink> },
        InCaller { #[pin] job: CallInCaller<S, Q> },
        Done { result: Option<Result<S::Response, E>> },
    }
}

impl<S, Q, A> ResponseFuture<S, Q, A>
where
    S: Service<Q>,
    A: HandleError<Q, S::Response, S::Error>,
{
    pub(super) fn running(handle: JobHandle<Output<S, Q>>, on_error: A, detach: bool) -> Self {
        Self { state: State::Running { handle }, on_error, detach }
    }

    pub(super) fn in_caller(job: CallInCaller<S, Q>, on_error: A, detach: bool) -> Self {
        Self { state: State::InCaller { job }, on_error, detach }
    }

    pub(super) fn done(result: Result<S::Response, A::Error>, on_error: A) -> Self {
        Self { state: State::Done { result: Some(result) }, on_error, detach: false }
    }
}

impl<S, Q, A> ResponseFuture<S, Q, A>
where
    S: Service<Q> + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    Q: Send + 'static,
    A: HandleError<Q, S::Response, S::Error>,
{
    pub(super) fn waiting(
        call: Call<S, Q>,
        options: Option<&JobOptions>,
        shared: Arc<LayerShared>,
        limit: Duration,
        on_error: A,
        detach: bool,
    ) -> Self {
        // A caller without a limit has all the patience.
        let (sink, place) = (shared.sink().with_request(limit < Duration::MAX), shared.place);
        let wait = WithinInner::with(LayerPool(shared), limit, call, sink, place, options);
        let state = State::Waiting { wait };
        Self { state, on_error, detach }
    }
}

impl<S, Q, A> Future for ResponseFuture<S, Q, A>
where
    S: Service<Q> + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    Q: Send + 'static,
    A: HandleError<Q, S::Response, S::Error>,
{
    type Output = Result<S::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Ahead of the others, since a refusal has to be quick.
        if let StateProj::Done { result } = this.state.as_mut().project() {
            return poll_done(result, cx);
        }
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Running { handle } => {
                    let output = ready!(Pin::new(handle).poll(cx));
                    let result = match output {
                        Ok(Ok(response)) => Ok(response),
                        Ok(Err(error)) => Err(A::inner(error)),
                        Err(error) => this.on_error.failed(error.into(), None),
                    };
                    this.state.set(State::Done { result: None });
                    return Poll::Ready(result);
                }
                StateProj::InCaller { job } => State::Running { handle: ready!(job.poll(cx)) },
                StateProj::Done { result } => return poll_done(result, cx),
                StateProj::Waiting { wait } => match ready!(wait.poll(cx)) {
                    Ok(handle) => State::Running { handle },
                    Err(refused) => match refuse(&wait.pool().0, refused, this.on_error) {
                        Ok(next) => next,
                        Err((refusal, call)) => {
                            let request = Some(call.into_request());
                            let result = this.on_error.failed(refusal.into(), request);
                            State::Done { result: Some(result) }
                        }
                    },
                },
            };
            this.state.set(next);
        }
    }
}

/// Takes the result of a call that the pool did not take.
#[inline]
fn poll_done<R>(result: &mut Option<R>, cx: &mut Context<'_>) -> Poll<R> {
    // A loop of refused calls must yield to the other tasks of its thread.
    if is_budget_due(REFUSALS_PER_UNIT) {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(result.take().expect("`ResponseFuture` polled after completion"))
}

/// Decides on a call that `schedule_within` did not take. Returns how the call goes on, or why it is
/// refused.
#[allow(clippy::type_complexity)]
fn refuse<S, Q, A>(
    shared: &LayerShared,
    refused: SubmitError<Call<S, Q>>,
    on_error: &A,
) -> Result<State<S, Q, A::Error>, (SubmitErrorKind, Call<S, Q>)>
where
    S: Service<Q> + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    Q: Send + 'static,
    A: HandleError<Q, S::Response, S::Error>,
{
    let (kind, call) = refused.into_parts();
    let (kind, call) = match kind {
        // The caller is a job of this pool, which keeps its slot while it runs the call.
        SubmitErrorKind::WouldDeadlock => {
            let options = call.request().and_then(|request| on_error.options(request));
            match shared.submission(call, options.as_ref()).try_go(shared.pool_shared()) {
                Ok(Submitted::Pool(handle)) => return Ok(State::Running { handle }),
                Ok(Submitted::Caller(job)) => return Ok(State::InCaller { job }),
                Err(refused) => refused.into_parts(),
            }
        }
        SubmitErrorKind::TimedOut => (shared.full_kind(), call),
        kind => (kind, call),
    };
    shared.note_refused(kind);
    Err((kind, call))
}

impl<S, Q, A> fmt::Debug for ResponseFuture<S, Q, A>
where
    S: Service<Q>,
    A: HandleError<Q, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
