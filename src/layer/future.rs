//! The response of a call: a future over the job of the call.
//!
//! [`PoolService`](crate::layer::PoolService) makes a [`ResponseFuture`] in one of its states, and
//! the caller polls it. The states follow each other in this order:
//!
//! ```text
//!   Waiting ──▶ Running ──▶ Done       Waiting: `schedule_within` holds the call and a reserver
//!      │  └───▶ InCaller ───▲ ▲        InCaller: the caller polls the call
//!      └──────── refused ─────┘        Running: the pool has the call
//! ```
//!
//! A dropped future must leave no call behind, unless the layer detaches: `Waiting` and `InCaller`
//! own the call, and `Drop` aborts the job of `Running`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::coop;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::group::MemberGuard;
use crate::layer::call::Call;
use crate::layer::on_error::HandleError;
use crate::layer::setup::LayerShared;
use crate::pool::{CallerRunsJob, JobHandle, Reserver, Shared, Submitted};
use crate::sync::failpoint;

type Output<S, Q> = Result<<S as Service<Q>>::Response, <S as Service<Q>>::Error>;
type CallInCaller<S, Q> = CallerRunsJob<Arc<Shared>, Call<S, Q>, MemberGuard>;
type SubmittedCall<S, Q> = Submitted<Arc<Shared>, Call<S, Q>, MemberGuard>;

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
            if let (StateProj::Running { handle }, false) = (this.state.project(), *this.detach) {
                if !failpoint("a dropped call goes on") {
                    handle.abort();
                }
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S: Service<Q>, Q, E> {
        Running { handle: JobHandle<Output<S, Q>> },
        Waiting { call: Option<Call<S, Q>>, wait: SlotWait, #[pin] limit: Sleep },
        InCaller { #[pin] job: CallInCaller<S, Q> },
        Done { result: Option<Result<S::Response, E>> },
    }
}

/// The wait of `schedule_within` for a slot.
struct SlotWait {
    reserver: Reserver,
    shared: Arc<LayerShared>,
    /// The limit is zero, so the first poll decides.
    at_once: bool,
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

    pub(super) fn waiting(
        call: Call<S, Q>,
        shared: Arc<LayerShared>,
        limit: Duration,
        on_error: A,
        detach: bool,
    ) -> Self {
        let wait = SlotWait { reserver: shared.reserver(), shared, at_once: limit.is_zero() };
        let state = State::Waiting { call: Some(call), wait, limit: sleep(limit) };
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
                StateProj::Done { result } => {
                    // A loop of refused calls must yield to the other tasks of its thread.
                    ready!(coop::poll_proceed(cx)).made_progress();
                    let result = result.take().expect("`ResponseFuture` polled after completion");
                    return Poll::Ready(result);
                }
                StateProj::Waiting { call, wait, limit } => {
                    // Taken before the wait: a call without budget is not a call without a slot.
                    let budget = ready!(coop::poll_proceed(cx));
                    let refusal = match wait.poll(cx) {
                        Poll::Ready(refusal) => {
                            budget.made_progress();
                            refusal
                        }
                        Poll::Pending => {
                            if !wait.at_once || failpoint("a zero limit waits") {
                                // The timer takes budget of its own.
                                drop(budget);
                                ready!(limit.poll(cx));
                            }
                            Some(wait.shared.full_kind())
                        }
                    };
                    let call = call.take().expect("the call leaves together with the state");
                    match wait.submit(call, refusal) {
                        Ok(Submitted::Pool(handle)) => State::Running { handle },
                        Ok(Submitted::Caller(job)) => State::InCaller { job },
                        Err((refusal, call)) => {
                            wait.shared.log_refused(refusal);
                            let request = Some(call.into_request());
                            let result = this.on_error.failed(refusal.into(), request);
                            State::Done { result: Some(result) }
                        }
                    }
                }
            };
            this.state.set(next);
        }
    }
}

impl SlotWait {
    /// Waits for a slot. Returns why there is no slot, or `None` with a reserved slot.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<SubmitErrorKind>> {
        if let Some(refusal) = self.shared.refusal() {
            return Poll::Ready(Some(refusal));
        }
        self.reserver.poll_reserve_now(cx).map(|reserved| reserved.err().map(|error| error.kind()))
    }

    /// Submits the call after the wait, unless it is refused.
    fn submit<S, Q>(
        &mut self,
        call: Call<S, Q>,
        refusal: Option<SubmitErrorKind>,
    ) -> Result<SubmittedCall<S, Q>, (SubmitErrorKind, Call<S, Q>)>
    where
        S: Service<Q> + Send + 'static,
        S::Future: Send + 'static,
        S::Response: Send + 'static,
        S::Error: Send + 'static,
        Q: Send + 'static,
    {
        let shared = &self.shared;
        let submitted = match refusal {
            None => self.reserver.submit(call, shared.member()).map(Submitted::Pool),
            // The caller is a job of this pool, which keeps its slot while it runs the call.
            Some(SubmitErrorKind::WouldDeadlock) => {
                shared.submission(call).try_go(shared.pool_shared())
            }
            Some(refusal) => return Err((refusal, call)),
        };
        submitted.map_err(SubmitError::into_parts)
    }
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
