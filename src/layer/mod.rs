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
//! | constructor | when full | admits in | for |
//! |---|---|---|---|
//! | [`schedule`](PoolLayer::schedule) | the caller waits its turn | `poll_ready` | clients, `Balance`, anything that may wait |
//! | [`schedule_within`](PoolLayer::schedule_within) | waits, for so long at most | `call` | servers that smooth short bursts |
//! | [`try_schedule`](PoolLayer::try_schedule) | refuses at once | `call` | servers that shed load |
//! | [`schedule_always`](PoolLayer::schedule_always) | runs beyond the size | `call` | calls that may never be refused, such as health checks |
//! | [`try_go`](PoolLayer::try_go) | runs in the caller | `call` | callers that are to slow down with the pool |
//! | [`anyway_go`](PoolLayer::anyway_go) | the call waits in the wait list | `call` | work that was accepted already |
//!
//! Servers on hyper 1 (axum, tonic) clone their service for each request and wait for its readiness
//! only then: readiness holds nothing back there. Under `schedule` every request that was read waits
//! in the wait list, however long that is; prefer `schedule_within` or `try_schedule` there.
//!
//! # Where a call runs
//!
//! All of it in the pool: `Service::call` of the wrapped service and the future it returns, on one
//! of the pool's workers. The service that was polled ready is the one called; a clone takes its
//! place. Only where `try_go` finds the pool full it all runs in the caller.
//!
//! One pool serves any number of layers, services and direct jobs, with one count of what runs.
//! The count lives in the pool: clones of the service, of which axum makes one for each request,
//! share it.
//!
//! # What becomes of a call
//!
//! - **The response future is dropped**: the call is cancelled, or withdrawn if it had not started.
//!   With [`detach_on_drop`](PoolLayer::detach_on_drop) a call that is in the pool goes on to its
//!   end, counted and waited for by [`Pool::shutdown`](crate::Pool::shutdown) like any job.
//! - **The call panics**: [`CallError::Panicked`], or the response of
//!   [`on_error`](PoolLayer::on_error). The connection is not harmed.
//! - **The pool is full or closed**: [`CallError::Overloaded`] or [`CallError::Closed`], or the
//!   response of [`on_error`](PoolLayer::on_error).
//! - **The runtime shuts down**: [`CallError::Cancelled`].
//!
//! With `on_error` the service keeps the error type of the wrapped one, so it
//! goes straight onto an axum `Router` or a tonic `Server`.
//!
//! # Comparison to tower's own
//!
//! `ConcurrencyLimit` bounds calls too, but the caller's task runs them: one connection, one thread
//! at a time. `Buffer` makes all calls on one worker task; their futures run in the callers.
//! `LoadShed` takes whatever is not ready for overload. Here a call runs on any thread, the bound is
//! shared with everything else on the pool, and a refusal means that the pool is full and nothing
//! else.

#[cfg(feature = "http-body")]
mod body;
mod call;
mod error;
mod future;
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
pub use crate::layer::error::CallError;
pub use crate::layer::future::ResponseFuture;
#[doc(hidden)]
pub use crate::layer::on_error::{OnError, ReturnError};
pub use crate::layer::service::PoolService;
use crate::layer::setup::{LayerShared, Setup, Verb};
use crate::pool::Pool;

/// Runs each call of a service as a job on a pool.
///
/// Make it anywhere, also outside of a runtime; see the [module](self) for which constructor.
/// Cloning is cheap.
///
/// The wrapped service must be `Clone + Send + 'static`; its requests, responses, errors and futures
/// `Send + 'static`.
#[derive(Clone)]
pub struct PoolLayer<A = ReturnError, B = ()> {
    setup: Setup,
    on_error: A,
    body: B,
}

impl PoolLayer {
    fn new(pool: &Pool, verb: Verb) -> Self {
        let shared = Arc::new(LayerShared { pool: pool.clone(), group: None, name: None });
        let setup = Setup { verb, detach: false, shared };
        Self { setup, on_error: ReturnError::default(), body: () }
    }

    /// Waits for a slot in `poll_ready`, in the wait list with all other callers; never refuses.
    ///
    /// A service that is ready holds a slot until it is called or dropped: do not keep it ready
    /// for nothing. A clone has no slot. A place in the pool's queue is not enough: a call that was
    /// reserved for starts at once. In a job of the same pool, do not wait for anything else of that
    /// pool while the service is ready: such a deadlock goes unnoticed.
    ///
    /// On a closed pool `poll_ready` fails with [`CallError::Closed`], or the call is answered by
    /// [`on_error`](Self::on_error).
    pub fn schedule(pool: &Pool) -> Self {
        Self::new(pool, Verb::Schedule)
    }

    /// Waits for a slot in the response future, for `limit` at most, counted from `call`; then
    /// refuses with [`CallError::Overloaded`].
    ///
    /// Needs the runtime's timers. A limit of zero refuses what cannot start at the first poll.
    pub fn schedule_within(pool: &Pool, limit: Duration) -> Self {
        Self::new(pool, Verb::ScheduleWithin(limit))
    }

    /// Refuses with [`CallError::Overloaded`] if the pool and its queue are full, or others wait.
    #[doc(alias = "load_shed")]
    pub fn try_schedule(pool: &Pool) -> Self {
        Self::new(pool, Verb::TrySchedule)
    }

    /// Runs beyond the size if the pool is full; refuses only at its
    /// [`overflow_limit`](crate::PoolBuilder::overflow_limit).
    pub fn schedule_always(pool: &Pool) -> Self {
        Self::new(pool, Verb::ScheduleAlways)
    }

    /// Runs in the caller if the pool is full. Never refuses, never waits.
    ///
    /// A call in the caller is cancelled with the response future, detached or not.
    pub fn try_go(pool: &Pool) -> Self {
        Self::new(pool, Verb::TryGo)
    }

    /// Puts the call in the wait list if the pool is full. Never refuses; **the wait list is not bounded**.
    pub fn anyway_go(pool: &Pool) -> Self {
        Self::new(pool, Verb::AnywayGo)
    }
}

impl<A, B> PoolLayer<A, B> {
    /// Has a call go on to its end when its response future is dropped, say because a client hung
    /// up. By default it is cancelled. Calls that wait for a slot yet never start.
    pub fn detach_on_drop(mut self) -> Self {
        self.setup.detach = true;
        self
    }

    /// A name for `Debug` output and events about refused calls, as field `layer`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        let shared = Arc::make_mut(&mut self.setup.shared);
        shared.name = Some(name.into());
        self
    }

    /// Has the calls count in a group: in its length, for its `wait` and `cancel`, and under its
    /// quota. They leave no outcomes there. The layer keeps the group.
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
    /// assert!(tenant.wait().await.is_empty());
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

    /// The pool the calls run on.
    pub fn pool(&self) -> &Pool {
        &self.setup.shared.pool
    }
}

impl<B> PoolLayer<ReturnError, B> {
    /// Responds to calls that gave no result, instead of failing with a [`CallError`].
    ///
    /// `respond` gets every error but [`CallError::Inner`]. A refusal comes with its request, which
    /// the wrapped service has not seen; see [`CallError::is_refusal`]. A panic or a cancellation
    /// comes with `None`. The error of the service is then that of the wrapped service alone, so
    /// the layer goes onto an axum `Router`. A closed pool is no error of `poll_ready` any more:
    /// the call gets the response.
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

#[cfg(feature = "http-body")]
impl<A> PoolLayer<A> {
    /// Keeps a call's slot until the body of its HTTP response has ended or is dropped. By default
    /// it is free when the response's head is there, while a body may stream for hours.
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
