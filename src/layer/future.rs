//! The response of a call that runs in a pool.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::error::ClosedError;
use crate::group::{CallerRuns, Submitted};
use crate::layer::LayerShared;
use crate::layer::call::Call;
use crate::layer::error::Refusal;
use crate::layer::on_error::HandleError;
use crate::pool::{JobHandle, Reserver};

type Entered<S, Q> = Submitted<Outcome<S, Q>, CallerRuns<Call<S, Q>>>;
type Outcome<S, Q> = Result<<S as Service<Q>>::Response, <S as Service<Q>>::Error>;

pin_project! {
    /// Resolves to the response of a call; made by [`PoolService`](crate::layer::PoolService).
    ///
    /// Dropping it cancels the call, unless the layer says
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
                handle.abort();
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S: Service<Q>, Q, E> {
        Running { handle: JobHandle<Outcome<S, Q>> },
        Waiting { call: Option<Call<S, Q>>, wait: SlotWait, #[pin] limit: Sleep },
        InCaller { #[pin] job: CallerRuns<Call<S, Q>> },
        Done { result: Option<Result<S::Response, E>> },
    }
}

/// A place in the wait list.
struct SlotWait {
    reserver: Reserver,
    shared: Arc<LayerShared>,
    /// Nobody wants to wait.
    at_once: bool,
}

impl<S, Q, A> ResponseFuture<S, Q, A>
where
    S: Service<Q>,
    A: HandleError<Q, S::Response, S::Error>,
{
    pub(crate) fn running(handle: JobHandle<Outcome<S, Q>>, on_error: A, detach: bool) -> Self {
        Self { state: State::Running { handle }, on_error, detach }
    }

    pub(crate) fn in_caller(job: CallerRuns<Call<S, Q>>, on_error: A, detach: bool) -> Self {
        Self { state: State::InCaller { job }, on_error, detach }
    }

    pub(crate) fn done(result: Result<S::Response, A::Error>, on_error: A) -> Self {
        Self { state: State::Done { result: Some(result) }, on_error, detach: false }
    }

    pub(crate) fn waiting(
        call: Call<S, Q>,
        shared: Arc<LayerShared>,
        limit: Duration,
        on_error: A,
        detach: bool,
    ) -> Self {
        let wait =
            SlotWait { reserver: shared.submitter.reserver(), shared, at_once: limit.is_zero() };
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
                    let outcome = ready!(Pin::new(handle).poll(cx));
                    let result = match outcome {
                        Ok(Ok(response)) => Ok(response),
                        Ok(Err(error)) => Err(A::inner(error)),
                        Err(error) => this.on_error.failed(error.into(), None),
                    };
                    this.state.set(State::Done { result: None });
                    return Poll::Ready(result);
                }
                StateProj::InCaller { job } => State::Running { handle: ready!(job.poll(cx)) },
                StateProj::Done { result } => {
                    return Poll::Ready(result.take().expect("polled after completion"));
                }
                StateProj::Waiting { call, wait, limit } => {
                    let refusal = match wait.poll(cx) {
                        Poll::Ready(refusal) => refusal,
                        Poll::Pending => {
                            if !wait.at_once {
                                ready!(limit.poll(cx));
                            }
                            Some(Refusal::Overloaded)
                        }
                    };
                    let call = call.take().expect("gone with the state");
                    match wait.enter(call, refusal) {
                        Ok(Submitted::Pool(handle)) => State::Running { handle },
                        Ok(Submitted::Caller(job)) => State::InCaller { job },
                        Err((refusal, call)) => {
                            wait.shared.log_refused(refusal);
                            let result =
                                this.on_error.failed(refusal.into(), Some(call.into_request()));
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
    /// Ready with a reserved slot, or with why there will be none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Refusal>> {
        if self.shared.submitter.is_closed() {
            return Poll::Ready(Some(Refusal::Closed));
        }
        self.reserver.poll_reserve(cx).map(|reserved| reserved.err().map(Refusal::from))
    }

    /// The wait is over: the call comes in, unless it is refused.
    fn enter<S, Q>(
        &mut self,
        call: Call<S, Q>,
        refusal: Option<Refusal>,
    ) -> Result<Entered<S, Q>, (Refusal, Call<S, Q>)>
    where
        S: Service<Q> + Send + 'static,
        S::Future: Send + 'static,
        S::Response: Send + 'static,
        S::Error: Send + 'static,
        Q: Send + 'static,
    {
        let submitter = &self.shared.submitter;
        let entered = match refusal {
            None => submitter.submit_reserved(&mut self.reserver, call).map(Submitted::Pool),
            Some(Refusal::WouldDeadlock) if submitter.deadlock_runs_in_caller() => {
                submitter.try_go(call)
            }
            Some(refusal) => return Err((refusal, call)),
        };
        entered.map_err(|ClosedError(call)| (Refusal::Closed, call))
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
