//! Sources on real brokers. Where a broker is not installed, its tests say so and pass.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis;

// Tests that are the same for both.
#[cfg(all(feature = "nats", feature = "redis"))]
mod ledger;
#[cfg(all(feature = "nats", feature = "redis"))]
mod order;
#[cfg(all(feature = "nats", feature = "redis"))]
mod processes;
#[cfg(all(feature = "nats", feature = "redis"))]
mod queue;
