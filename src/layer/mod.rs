//! Any tower service on a pool: each call is a job.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use millpond::Pool;
//! use millpond::layer::PoolLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let pool = Pool::new(100);
//! let double = service_fn(|n: u32| async move { Ok::<_, std::convert::Infallible>(2 * n) });
//! let service = ServiceBuilder::new().layer(PoolLayer::schedule(&pool)).service(double);
//! assert_eq!(service.oneshot(21).await?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! # Which verb
//!
//! | constructor | when the pool is full | decides in | for |
//! |---|---|---|---|
//! | [`schedule`](PoolLayer::schedule) | the caller waits its turn | `poll_ready` | clients that call each ready service soon |
//! | [`schedule_within`](PoolLayer::schedule_within) | the call waits up to a limit | `call` | servers that smooth short peaks; services under `Balance` or `Steer` |
//! | [`try_schedule`](PoolLayer::try_schedule) | the call is refused | `call` | servers that shed load |
//! | [`schedule_always`](PoolLayer::schedule_always) | the call runs beyond the size | `call` | calls that must not be refused, such as health checks |
//! | [`try_go`](PoolLayer::try_go) | the call runs in the caller | `call` | callers that should slow down with the pool |
//! | [`anyway_go`](PoolLayer::anyway_go) | the call waits in the wait list | `call` | work that was accepted already |
//!
//! Servers on hyper 1, such as axum and tonic, clone their service for each request and poll
//! readiness only then. Readiness therefore holds no request back. Under `schedule` every request
//! that was read waits in the wait list, which has no bound. Prefer `schedule_within` or
//! `try_schedule` in a server.
//!
//! `Balance` and `Steer` keep all their services ready, called or not. Under `schedule` each of these
//! services holds a slot as long as it is ready: with as many endpoints as slots, no other job of
//! the pool ever starts. Put the layer of `schedule` around the balancer, behind a `Buffer`, or use
//! a verb that decides in `call` for the endpoints.
//!
//! # Where a call runs
//!
//! A worker of the pool runs `Service::call` of the wrapped service and the future that it returns.
//! The instance that was polled ready makes the call, and a clone takes its place. Only `try_go` on
//! a full pool runs the call in the caller.
//!
//! **Put one layer of a pool around a service, not two.** The inner call is a second job, inside the
//! job of the outer call, and needs a second slot: `try_schedule` on a pool of one slot refuses each
//! such call. A `Buffer` or another task between two layers of `schedule` hides the one from the
//! other; then calls can wait for each other without end.
//!
//! One pool serves any number of layers, services and other jobs, with one count of what runs. The
//! count lives in the pool, so the clones of a service share it. axum makes one clone for each
//! request.
//!
//! # The end of a call
//!
//! - **The response future is dropped**: the call is cancelled. If it has not started, it is
//!   withdrawn. With [`detach_on_drop`](PoolLayer::detach_on_drop) a call in the pool goes on to
//!   its end, and [`Pool::shutdown`](crate::Pool::shutdown) waits for it as for any job.
//! - **The call panics**: the service fails with [`CallError::Panicked`]. The connection is not
//!   harmed.
//! - **The pool is full or closed**: the service fails with [`CallError::Overloaded`] or
//!   [`CallError::Closed`]; with [`CallError::GroupClosed`] if the layer's group is closed.
//! - **The runtime shuts down**: the service fails with [`CallError::Cancelled`].
//!
//! [`on_error`](PoolLayer::on_error) turns all of these into responses. The service then keeps the
//! error type of the wrapped service, so the layer goes onto an axum `Router` or a tonic `Server`.
//!
//! # Comparison to tower's own layers
//!
//! `ConcurrencyLimit` also bounds calls, but the caller's task runs them: one connection uses one
//! thread at a time. `Buffer` makes all calls on one worker task; their futures run in the callers.
//! `LoadShed` takes any service that is not ready for overloaded. Here a call runs on any thread of
//! the runtime, and all that uses the pool shares the bound. A refusal means that the pool is full
//! or closed, and nothing else.

// The way of a call: `service` decides by the verb, `setup` makes the submission, `call` is the
// job, `future` waits for its output, `on_error` and `error` turn a missing output into a result.
// `counts` counts the ends of calls by the layer's name.
// With `http-body`, `body` keeps the slot for the response's body.
//
// Invariants:
//
// - T1, ready before called. The instance of the wrapped service that was polled ready makes the
//   call. Test: `the_service_that_was_ready_is_the_one_called`.
// - T2, full is no error of `poll_ready`. A refusal found there waits in `PoolService::refusal` for
//   the call. Test: `busy_is_never_an_error_of_poll_ready`.
// - T3, a refused call has not started. `Call` keeps the request until its first poll, and the pool
//   polls no refused job. So the request goes back to `on_error`. Test:
//   `answers_take_the_place_of_errors`.
// - T4, no call without a response future, unless it is detached. Tests:
//   `a_dropped_response_cancels_the_call_unless_it_is_detached`,
//   `a_dropped_response_of_a_call_that_has_just_started_cancels_the_call`.
// - T5, no wait inside a layer of the same pool. An outer layer may hold a slot, or wait in `call`,
//   while the inner one is ready. So an inner `schedule` reserves nothing in that `poll_ready`, and
//   its call runs in the outer call's job if the pool is full. Test:
//   `a_layer_twice_on_one_pool_ends`.

#[cfg(feature = "http-body")]
mod body;
mod call;
mod counts;
mod error;
mod future;
#[cfg(feature = "http-body")]
mod grpc;
mod on_error;
mod service;
mod setup;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use crate::group::{Group, GroupHandle};
#[cfg(feature = "http-body")]
pub use crate::layer::body::HeldBody;
#[cfg(feature = "http-body")]
#[doc(hidden)]
pub use crate::layer::body::{Hold, Holding};
pub use crate::layer::counts::LayerCounts;
use crate::layer::counts::LayerName;
pub use crate::layer::error::CallError;
pub use crate::layer::future::ResponseFuture;
#[cfg(feature = "http-body")]
pub use crate::layer::grpc::grpc_options;
#[doc(hidden)]
pub use crate::layer::on_error::{OnError, ReturnError, WithOptions};
pub use crate::layer::service::PoolService;
use crate::layer::setup::{LayerShared, Setup, Verb};
use crate::pool::{JobOptions, Pool};
use crate::trace::Place;

/// Runs each call of a service as a job on a pool.
///
/// The [module](self) helps to choose a constructor. A layer can be made outside of a runtime, and
/// cloning it is cheap.
///
/// The wrapped service must be `Clone + Send + 'static`. Its requests, responses, errors and
/// futures must be `Send + 'static`.
#[doc(alias = "concurrency limit")]
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct PoolLayer<A = ReturnError, B = ()> {
    setup: Setup,
    on_error: A,
    body: B,
}

impl PoolLayer {
    #[track_caller]
    fn new(pool: &Pool, verb: Verb) -> Self {
        let (pool, place) = (pool.clone(), Place::caller());
        let shared = Arc::new(LayerShared { pool, group: None, name: None, place });
        let setup = Setup { verb, detach: false, shared };
        Self { setup, on_error: ReturnError::default(), body: () }
    }

    /// Waits for a slot in `poll_ready`, in the wait list with all other callers. Never refuses.
    ///
    /// **A ready service holds a slot until it is called or dropped**, so do not keep it ready without
    /// a call. tower's `Balance` and `Steer` do keep their services ready: use
    /// [`schedule_within`](Self::schedule_within) there. A service whose `poll_ready` was pending
    /// keeps its place in the wait list, and then the slot that it is granted, until it is polled
    /// again or dropped. A clone has no slot. A place in the pool's queue is not enough, because the
    /// call starts at once.
    ///
    /// Right inside another layer of the same pool this layer reserves nothing. Its call takes a
    /// second slot if a slot is free, and runs in the outer call's job otherwise.
    ///
    /// In a job of the same pool, do not wait for another job of that pool while the service is
    /// ready. The pool does not detect such a deadlock.
    ///
    /// On a closed pool `poll_ready` fails with [`CallError::Closed`]. With
    /// [`on_error`](Self::on_error) the call gets a response instead.
    #[doc(alias = "backpressure")]
    #[track_caller]
    pub fn schedule(pool: &Pool) -> Self {
        Self::new(pool, Verb::Schedule)
    }

    /// Waits for a slot in the response future, for `limit` from `call` on. Then refuses with
    /// [`CallError::Overloaded`].
    ///
    /// The service holds nothing between `poll_ready` and `call`, so it suits tower's `Balance` and
    /// `Steer`. [`Duration::MAX`] waits without a limit.
    ///
    /// While the pool is overloaded, a call with a limit is refused earlier, with [`CallError::Shed`] and a
    /// `retry_after`; see [`PoolBuilder::target_wait`](crate::PoolBuilder::target_wait). A call past its
    /// deadline fails with [`CallError::Expired`].
    ///
    /// A limit of zero refuses a call that cannot start at the first poll. The runtime needs its
    /// timers.
    #[track_caller]
    pub fn schedule_within(pool: &Pool, limit: Duration) -> Self {
        Self::new(pool, Verb::ScheduleWithin(limit))
    }

    /// Refuses with [`CallError::Overloaded`] if the pool and its queue are full, or if a waiter
    /// stands in the wait list.
    #[doc(alias = "load_shed")]
    #[track_caller]
    pub fn try_schedule(pool: &Pool) -> Self {
        Self::new(pool, Verb::TrySchedule)
    }

    /// Runs beyond the size if the pool is full. Refuses only at the pool's
    /// [`overflow_limit`](crate::PoolBuilder::overflow_limit).
    #[track_caller]
    pub fn schedule_always(pool: &Pool) -> Self {
        Self::new(pool, Verb::ScheduleAlways)
    }

    /// Runs in the caller if the pool is full. Never refuses, never waits.
    ///
    /// Dropping the response future cancels a call in the caller, even with
    /// [`detach_on_drop`](Self::detach_on_drop).
    #[track_caller]
    pub fn try_go(pool: &Pool) -> Self {
        Self::new(pool, Verb::TryGo)
    }

    /// Puts the call in the wait list if the pool is full. Never refuses, so **the wait list has no
    /// bound**.
    #[track_caller]
    pub fn anyway_go(pool: &Pool) -> Self {
        Self::new(pool, Verb::AnywayGo)
    }
}

impl<A, B> PoolLayer<A, B> {
    /// Lets a call go on to its end when its response future is dropped, such as when a client
    /// hangs up. By default the call is cancelled. A call that still waits for a slot never starts.
    pub fn detach_on_drop(mut self) -> Self {
        self.setup.detach = true;
        self
    }

    /// Sets a name: in `Debug`, in [`Pool::layer_counts`], in the field `layer` of events about refused
    /// calls, and as the [group](crate::JobInfo::group) of its calls in [`Pool::jobs`]. Default: none, and
    /// the calls have the name of the layer's group there.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        let shared = Arc::make_mut(&mut self.setup.shared);
        shared.name = Some(Arc::new(LayerName::new(shared.pool.shared(), name.into())));
        self
    }

    /// Counts the calls in a group: in its length, for its `wait` and `cancel`, and under its
    /// quota.
    ///
    /// The calls leave no outcomes in the group. A closed group refuses calls with
    /// [`CallError::GroupClosed`]. The layer and its services hold a handle of the group.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use millpond::Pool;
    /// use millpond::layer::PoolLayer;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let pool = Pool::new(100);
    /// let tenant = pool.group_builder::<()>().quota(10).build()?;
    /// let layer = PoolLayer::try_schedule(&pool).group(&tenant);
    /// let service = layer.layer(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
    /// assert_eq!(service.oneshot(1).await?, 2);
    /// assert_eq!(tenant.wait().await.unfinished, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the group belongs to another pool.
    #[track_caller]
    pub fn group<T: Send + 'static>(mut self, group: &Group<T>) -> Self {
        let shared = Arc::make_mut(&mut self.setup.shared);
        assert!(group.is_of(&shared.pool), "the group belongs to another pool than the layer");
        shared.group = Some(GroupHandle::new(group));
        self
    }

    /// Returns the pool of the calls.
    pub fn pool(&self) -> &Pool {
        &self.setup.shared.pool
    }
}

impl<B> PoolLayer<ReturnError, B> {
    /// Responds to calls that gave no result. Without it they fail with a [`CallError`].
    ///
    /// `respond` gets every error but [`CallError::Inner`]. A [refusal](CallError::is_refusal)
    /// comes with its request, which the wrapped service has not seen. A panic or a cancellation
    /// comes with `None`.
    ///
    /// The error of the service is then that of the wrapped service: `Infallible` on an axum
    /// `Router`. On a closed pool `poll_ready` does not fail; the call gets the response.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use millpond::Pool;
    /// use millpond::layer::PoolLayer;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let pool = Pool::new(1);
    /// let layer = PoolLayer::try_schedule(&pool).on_error(|error, request: Option<u32>| match request {
    ///     Some(n) => format!("{n} was refused: {error}"),
    ///     None => error.to_string(),
    /// });
    /// let service = layer.layer(service_fn(|n: u32| async move {
    ///     assert_ne!(n, 13, "unlucky");
    ///     Ok::<_, std::io::Error>("done".to_owned())
    /// }));
    /// // The error is the wrapped service's own.
    /// let response: Result<String, std::io::Error> = service.clone().oneshot(1).await;
    /// assert_eq!(response?, "done");
    /// assert!(service.clone().oneshot(13).await?.starts_with("the call panicked"));
    /// let held = pool.try_schedule(std::future::pending::<()>())?;
    /// assert_eq!(service.oneshot(2).await?, "2 was refused: the pool is full");
    /// # held.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "HandleError")]
    pub fn on_error<F, Q, R>(self, respond: F) -> PoolLayer<OnError<F>, B>
    where
        F: Fn(CallError<Infallible>, Option<Q>) -> R + Clone,
    {
        PoolLayer { setup: self.setup, on_error: OnError(respond), body: self.body }
    }
}

impl<O, B> PoolLayer<WithOptions<ReturnError, O>, B> {
    /// Responds to calls that gave no result, as [`on_error`](PoolLayer::on_error) before `options` does.
    pub fn on_error<F, Q, R>(self, respond: F) -> PoolLayer<WithOptions<OnError<F>, O>, B>
    where
        F: Fn(CallError<Infallible>, Option<Q>) -> R + Clone,
    {
        let WithOptions { options, .. } = self.on_error;
        let on_error = WithOptions { on_error: OnError(respond), options };
        PoolLayer { setup: self.setup, on_error, body: self.body }
    }
}

impl<A, B> PoolLayer<A, B> {
    /// Gives each call options by its request: a priority, a key, a deadline. Without it, calls have the
    /// options of the layer's group.
    ///
    /// With the verb `schedule` a call waits in `poll_ready`, before its request is known. Its priority
    /// and key change nothing then, and its deadline counts from the slot on. The other verbs use all.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use std::time::Duration;
    ///
    /// use millpond::layer::{CallError, PoolLayer};
    /// use millpond::{JobOptions, Pool};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// struct Query {
    ///     patience: Duration,
    /// }
    ///
    /// let pool = Pool::new(1);
    /// let layer = PoolLayer::schedule_within(&pool, Duration::from_secs(1))
    ///     .options(|query: &Query| JobOptions::new().timeout(query.patience));
    /// let service = layer.layer(service_fn(|_: Query| async { Ok::<_, std::io::Error>("rows") }));
    ///
    /// let held = pool.try_schedule(std::future::pending::<()>())?;
    /// let answer = service.oneshot(Query { patience: Duration::from_millis(10) }).await;
    /// assert!(matches!(answer, Err(CallError::Expired)));
    /// # held.abort();
    /// # Ok(())
    /// # }
    /// ```
    pub fn options<F, Q>(self, options: F) -> PoolLayer<WithOptions<A, F>, B>
    where
        F: Fn(&Q) -> JobOptions + Clone,
    {
        let on_error = WithOptions { on_error: self.on_error, options };
        PoolLayer { setup: self.setup, on_error, body: self.body }
    }
}

#[cfg(feature = "http-body")]
impl<A> PoolLayer<A> {
    /// Keeps a call's slot until the body of its HTTP response has ended or is dropped. By default
    /// the slot is free when the response's head is ready, and the body may stream for hours after
    /// that.
    ///
    /// Responses of [`on_error`](Self::on_error) hold no slot.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use bytes::Bytes;
    /// use http_body_util::{BodyExt, Full};
    /// use hyper::Response;
    /// use millpond::Pool;
    /// use millpond::layer::PoolLayer;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let pool = Pool::new(1);
    /// let layer = PoolLayer::try_schedule(&pool).hold_until_body_end();
    /// let service = layer.layer(service_fn(|(): ()| async {
    ///     Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from("a long story"))))
    /// }));
    /// let response = service.oneshot(()).await?;
    /// assert_eq!(pool.status().held_slots, 1);
    /// response.into_body().collect().await?;
    /// assert_eq!(pool.status().held_slots, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_until_body_end(self) -> PoolLayer<A, Holding> {
        PoolLayer { setup: self.setup, on_error: self.on_error, body: Holding(()) }
    }
}

impl<S, A: Clone> Layer<S> for PoolLayer<A> {
    type Service = PoolService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        PoolService::new(inner, self.setup.clone(), self.on_error.clone())
    }
}

#[cfg(feature = "http-body")]
impl<S, A: Clone> Layer<S> for PoolLayer<A, Holding> {
    type Service = PoolService<Hold<S>, A>;

    fn layer(&self, inner: S) -> Self::Service {
        let inner = Hold::new(inner, self.pool().clone());
        PoolService::new(inner, self.setup.clone(), self.on_error.clone())
    }
}

impl<A, B> fmt::Debug for PoolLayer<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolLayer").field("setup", &self.setup).finish_non_exhaustive()
    }
}
