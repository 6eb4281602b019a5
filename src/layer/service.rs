//! A service whose calls are jobs on a pool.

use std::fmt;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::error::{ClosedError, TryScheduleError};
use crate::group::Submitted;
use crate::layer::call::Call;
use crate::layer::error::Refusal;
use crate::layer::future::ResponseFuture;
use crate::layer::on_error::HandleError;
use crate::layer::{Setup, Verb};
use crate::pool::Reserver;

/// Runs each call of the wrapped service as a job on a pool; made by
/// [`PoolLayer`](crate::layer::PoolLayer).
///
/// # Panics
///
/// With the verb `schedule`, if it is called without having been polled ready.
pub struct PoolService<S, A> {
    inner: S,
    setup: Setup,
    on_error: A,
    /// For the verb that waits in `poll_ready`.
    reserver: Option<Reserver>,
    /// Why the next call has no slot: found out in `poll_ready`, which may not say so.
    refusal: Option<Refusal>,
}

impl<S, A> PoolService<S, A> {
    pub(crate) fn new(inner: S, setup: Setup, on_error: A) -> Self {
        let reserver = (setup.verb == Verb::Schedule).then(|| setup.shared.submitter.reserver());
        Self { inner, setup, on_error, reserver, refusal: None }
    }

    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service. A slot that was reserved is given back.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, A, Q> Service<Q> for PoolService<S, A>
where
    S: Service<Q> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    Q: Send + 'static,
    A: HandleError<Q, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = ResponseFuture<S, Q, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        let submitter = &self.setup.shared.submitter;
        if let Some(reserver) = self.reserver.as_mut().filter(|_| self.refusal.is_none()) {
            if submitter.is_closed() {
                reserver.release();
                self.refusal = Some(Refusal::Closed);
            } else {
                self.refusal = ready!(reserver.poll_reserve(cx)).err().map(Refusal::from);
            }
        }
        match self.refusal {
            None => {}
            // The call will run in its caller, so it must be ready.
            Some(Refusal::WouldDeadlock) if submitter.deadlock_runs_in_caller() => {}
            Some(Refusal::Closed) => {
                let Some(error) = A::closed() else { return Poll::Ready(Ok(())) };
                return Poll::Ready(Err(error));
            }
            // No word of it before the call: it is no fault of this instance.
            Some(_) => return Poll::Ready(Ok(())),
        }
        let ready = ready!(self.inner.poll_ready(cx)).map_err(A::inner);
        if let (Err(_), Some(reserver)) = (&ready, &mut self.reserver) {
            reserver.release();
        }
        Poll::Ready(ready)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let verb = match self.refusal.take() {
            None => self.setup.verb,
            // A job of the same pool calls: it waits for nothing.
            Some(Refusal::WouldDeadlock)
                if self.setup.shared.submitter.deadlock_runs_in_caller() =>
            {
                Verb::TryGo
            }
            Some(refusal) => return self.refuse(refusal, request),
        };
        if verb == Verb::TrySchedule && self.setup.shared.submitter.refuse_if_full() {
            return self.refuse(Refusal::Overloaded, request);
        }
        // The clone was not polled ready, so it stays and the ready one goes.
        let clone = self.inner.clone();
        let call = Call::new(std::mem::replace(&mut self.inner, clone), request);
        let submitter = &self.setup.shared.submitter;
        let handle = match verb {
            Verb::Schedule => {
                let reserver = self.reserver.as_mut().expect("this verb has one");
                assert!(reserver.is_reserved(), "`poll_ready` must return `Ready` before `call`");
                submitter.submit_reserved(reserver, call).map_err(TryScheduleError::from)
            }
            Verb::TrySchedule => submitter.try_schedule(call),
            Verb::ScheduleAlways => submitter.schedule_always(call),
            Verb::AnywayGo => submitter.anyway_go(call),
            Verb::TryGo => match submitter.try_go(call) {
                Ok(Submitted::Pool(handle)) => Ok(handle),
                Ok(Submitted::Caller(job)) => {
                    return ResponseFuture::in_caller(
                        job,
                        self.on_error.clone(),
                        self.setup.detach,
                    );
                }
                Err(ClosedError(call)) => Err(TryScheduleError::Closed(call)),
            },
            Verb::ScheduleWithin(limit) => {
                return ResponseFuture::waiting(
                    call,
                    self.setup.shared.clone(),
                    limit,
                    self.on_error.clone(),
                    self.setup.detach,
                );
            }
        };
        match handle {
            Ok(handle) => ResponseFuture::running(handle, self.on_error.clone(), self.setup.detach),
            Err(TryScheduleError::Full(call)) => {
                self.refuse(Refusal::Overloaded, call.into_request())
            }
            Err(TryScheduleError::Closed(call)) => {
                self.refuse(Refusal::Closed, call.into_request())
            }
        }
    }
}

impl<S, A> PoolService<S, A> {
    #[cold]
    fn refuse<Q>(&self, refusal: Refusal, request: Q) -> ResponseFuture<S, Q, A>
    where
        S: Service<Q>,
        A: HandleError<Q, S::Response, S::Error>,
    {
        self.setup.shared.log_refused(refusal);
        ResponseFuture::done(
            self.on_error.failed(refusal.into(), Some(request)),
            self.on_error.clone(),
        )
    }
}

impl<S: Clone, A: Clone> Clone for PoolService<S, A> {
    /// Another service on the same pool, with no slot reserved.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.setup.clone(), self.on_error.clone())
    }
}

impl<S: fmt::Debug, A> fmt::Debug for PoolService<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolService")
            .field("inner", &self.inner)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}
