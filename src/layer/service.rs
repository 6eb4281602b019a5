//! The service of a layer: from `poll_ready` to the job of a call.
//!
//! [`PoolLayer`](crate::layer::PoolLayer) makes a [`PoolService`]. A server or a client of tower
//! polls it ready and calls it; [`ResponseFuture`] takes over from there. A service has no lock. It
//! has two pieces of state between `poll_ready` and `call`: a reserved slot for the verb
//! `schedule`, and a refusal.
//!
//! `poll_ready` must not fail because the pool is full. tower treats an error of `poll_ready` as
//! the end of the instance, so a refusal waits for the call. A closed pool is an end, unless
//! `on_error` is set.

use std::cell::Cell;
use std::fmt;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::error::SubmitErrorKind::{self, WouldDeadlock};
use crate::layer::call::Call;
use crate::layer::future::ResponseFuture;
use crate::layer::on_error::HandleError;
use crate::layer::setup::{Setup, Verb};
use crate::pool::{PoolId, Reserver, Submitted};
use crate::sync::failpoint;

thread_local! {
    /// The pool of the layer that polls its wrapped service ready on this thread, or 0.
    static OUTER_POOL: Cell<PoolId> = const { Cell::new(0) };
}

/// Restores the pool of the layer further out.
struct OuterPool(PoolId);

impl OuterPool {
    fn enter(pool: PoolId) -> Self {
        Self(OUTER_POOL.replace(pool))
    }
}

impl Drop for OuterPool {
    fn drop(&mut self) {
        OUTER_POOL.set(self.0);
    }
}

/// Runs each call of the wrapped service as a job on a pool; made by
/// [`PoolLayer`](crate::layer::PoolLayer).
///
/// # Panics
///
/// `call` panics with the verb `schedule`, if `poll_ready` has not returned `Ready` before.
pub struct PoolService<S, A> {
    inner: S,
    setup: Setup,
    on_error: A,
    /// Present for the verb `schedule` only.
    reserver: Option<Reserver>,
    /// Why the next call gets no slot. `poll_ready` found this out and left it to `call`.
    refusal: Option<SubmitErrorKind>,
}

impl<S, A> PoolService<S, A> {
    pub(super) fn new(inner: S, setup: Setup, on_error: A) -> Self {
        let reserver = (setup.verb == Verb::Schedule).then(|| setup.shared.reserver());
        Self { inner, setup, on_error, reserver, refusal: None }
    }

    /// Returns the wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the wrapped service, and gives back a reserved slot.
    pub fn into_inner(self) -> S {
        self.inner
    }

    // Inlined: a full pool refuses for a reason that is known where this is called.
    #[inline(always)]
    fn refuse<Q>(&self, refusal: SubmitErrorKind, request: Q) -> ResponseFuture<S, Q, A>
    where
        S: Service<Q>,
        A: HandleError<Q, S::Response, S::Error>,
    {
        self.setup.shared.note_refused(refusal);
        let result = self.on_error.failed(refusal.into(), Some(request));
        ResponseFuture::done(result, self.on_error.clone())
    }

    #[cold]
    fn refuse_for<Q>(&self, refusal: SubmitErrorKind, request: Q) -> ResponseFuture<S, Q, A>
    where
        S: Service<Q>,
        A: HandleError<Q, S::Response, S::Error>,
    {
        self.refuse(refusal, request)
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
        let pool = self.setup.shared.pool.shared().id();
        if self.refusal.is_none() {
            if let Some(reserver) = &mut self.reserver {
                // An outer layer of the pool polls this one ready: a wait for a slot would not end (T5).
                let nested = || Some(WouldDeadlock).filter(|_| OUTER_POOL.get() == pool);
                self.refusal = self.setup.shared.refusal().or_else(nested);
                if self.refusal.is_some() {
                    reserver.release();
                } else {
                    self.refusal =
                        ready!(reserver.poll_reserve_now(cx)).err().map(|error| error.kind());
                }
            }
        }
        match self.refusal {
            // The call will run without a wait, perhaps in its caller: the wrapped service must be ready.
            None | Some(WouldDeadlock) => {}
            Some(refusal) if refusal.is_closed() => {
                return Poll::Ready(A::closed(refusal).map_or(Ok(()), Err));
            }
            // The call answers this: an error here would end the instance.
            Some(_) => return Poll::Ready(Ok(())),
        }
        let outer = OuterPool::enter(pool);
        let ready = self.inner.poll_ready(cx);
        drop(outer);
        let ready = ready!(ready).map_err(A::inner);
        if let (Err(_), Some(reserver)) = (&ready, &mut self.reserver) {
            if failpoint("a failed service keeps a slot") {
                return Poll::Ready(ready);
            }
            reserver.release();
        }
        Poll::Ready(ready)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let verb = match self.refusal.take() {
            None => self.setup.verb,
            // Run the call in its caller, or in the pool without a wait.
            Some(WouldDeadlock) => Verb::TryGo,
            Some(refusal) => return self.refuse_for(refusal, request),
        };
        let shared = &self.setup.shared;
        if verb == Verb::TrySchedule && shared.refuse_if_full() {
            return self.refuse(SubmitErrorKind::Full, request);
        }
        // The instance that was polled ready makes the call, and its clone stays.
        let clone = self.inner.clone();
        let ready = match failpoint("the clone makes the call") {
            true => clone,
            false => std::mem::replace(&mut self.inner, clone),
        };
        let options = self.on_error.options(&request);
        let options = options.as_ref();
        let call = Call::new(ready, request);
        let (on_error, detach) = (self.on_error.clone(), self.setup.detach);
        let submitted = match verb {
            Verb::Schedule => {
                let reserver = self.reserver.as_mut().expect("`schedule` has a reserver");
                assert!(reserver.is_reserved(), "`poll_ready` must return `Ready` before `call`");
                reserver.submit(call, shared.sink(), shared.place, options)
            }
            Verb::TrySchedule => shared.try_schedule(call, options),
            Verb::ScheduleAlways => shared.submission(call, options).schedule_always(),
            Verb::AnywayGo => shared.submission(call, options).anyway_go(),
            Verb::TryGo => match shared.submission(call, options).try_go(shared.pool_shared()) {
                Ok(Submitted::Pool(handle)) => Ok(handle),
                Ok(Submitted::Caller(job)) => {
                    return ResponseFuture::in_caller(job, on_error, detach);
                }
                Err(refused) => Err(refused),
            },
            Verb::ScheduleWithin(limit) => {
                let shared = shared.clone();
                return ResponseFuture::waiting(call, options, shared, limit, on_error, detach);
            }
        };
        match submitted {
            Ok(handle) => ResponseFuture::running(handle, on_error, detach),
            Err(refused) => {
                let (kind, call) = refused.into_parts();
                self.refuse_for(kind, call.into_request())
            }
        }
    }
}

impl<S: Clone, A: Clone> Clone for PoolService<S, A> {
    /// Makes another service on the same pool, without a reserved slot.
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
