//! The services that are compared.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millpond::Pool;
use millpond::layer::PoolLayer;
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_executor::ExecutorLayer;

/// The wrapped service: it answers at once and allocates nothing.
#[derive(Clone)]
pub struct Next;

impl Service<u64> for Next {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(Ok(n + 1))
    }
}

/// A measurement of a service of any type.
pub trait Visit {
    type Out;

    fn visit<S>(self, service: S) -> impl Future<Output = Self::Out>
    where
        S: Service<u64, Response = u64, Error: std::fmt::Debug + Send, Future: Send>
            + Clone
            + Send
            + 'static;
}

pub const BARE: usize = 0;
pub const LIMIT: usize = 1;
pub const BUFFER: usize = 2;
pub const EXECUTOR: usize = 4;

pub const ARMS: [&str; 12] = [
    "bare service",
    "ConcurrencyLimit",
    "Buffer",
    "LoadShed over ConcurrencyLimit",
    "tower-resilience executor (unbounded)",
    "tower-resilience bulkhead",
    "millpond `schedule`",
    "millpond `schedule_within`",
    "millpond `try_schedule`",
    "millpond `schedule_always`",
    "millpond `try_go`",
    "millpond `anyway_go`",
];

pub const SIZE: usize = 100;

/// Call it on a runtime, because `Buffer` spawns its worker here.
pub async fn with_arm<V: Visit>(arm: usize, visit: V) -> V::Out {
    let pool = Pool::new(SIZE);
    let limit = || GlobalConcurrencyLimitLayer::with_semaphore(Arc::new(Semaphore::new(SIZE)));
    let on_pool = |layer: PoolLayer| layer.layer(Next);
    match arm {
        0 => visit.visit(Next).await,
        1 => visit.visit(limit().layer(Next)).await,
        2 => visit.visit(ServiceBuilder::new().buffer(SIZE).service(Next)).await,
        3 => visit.visit(ServiceBuilder::new().load_shed().layer(limit()).service(Next)).await,
        4 => visit.visit(ExecutorLayer::current().layer(Next)).await,
        5 => {
            let bulkhead = BulkheadLayer::builder().max_concurrent_calls(SIZE).backpressure();
            visit.visit(bulkhead.build().expect("valid").layer(Next)).await
        }
        6 => visit.visit(on_pool(PoolLayer::schedule(&pool))).await,
        7 => visit.visit(on_pool(PoolLayer::schedule_within(&pool, Duration::from_secs(1)))).await,
        8 => visit.visit(on_pool(PoolLayer::try_schedule(&pool))).await,
        9 => visit.visit(on_pool(PoolLayer::schedule_always(&pool))).await,
        10 => visit.visit(on_pool(PoolLayer::try_go(&pool))).await,
        _ => visit.visit(on_pool(PoolLayer::anyway_go(&pool))).await,
    }
}
