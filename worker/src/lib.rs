//! A worker for brokers: one message fans out into many jobs of a pool, and is acknowledged once, when
//! all of them succeeded.
//!
//! ```
//! # use std::time::Duration;
//! # use millpond_worker::{Backoff, Failure, Worker, memory::Queue};
//! # async fn send(part: String) -> Result<(), Failure> { drop(part); Ok(()) }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let queue = Queue::new(Duration::from_secs(30)); // or `nats::Source`, `redis::Source`
//! queue.publish("one two three".to_owned());
//!
//! let pool = millpond::Pool::new(16); // at most 16 jobs at once, of all messages
//! let token = tokio_util::sync::CancellationToken::new(); // cancel it on SIGTERM
//! # let stop = token.clone();
//! # tokio::spawn(async move { tokio::time::sleep(Duration::from_secs(1)).await; stop.cancel() });
//! let report = Worker::new(queue.source(), &pool)
//!     .in_flight(64) // messages at once
//!     .retry(Backoff::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8))
//!     .run(
//!         |message, group| async move {
//!             for part in message.value.split(' ') {
//!                 group.schedule(send(part.to_owned())).await?;
//!             }
//!             Ok(())
//!         },
//!         token,
//!     )
//!     .await?;
//! assert_eq!((report.acked, report.jobs.succeeded), (1, 3));
//! # Ok(())
//! # }
//! ```
//!
//! - **Acknowledged last:** the broker confirms the ack after all jobs succeeded. The first failure
//!   cancels the other jobs, and the message comes again after a pause. The last attempt goes to the
//!   dead letters, with the reason and its place in the code.
//! - **Claims are kept alive** at a third of the broker's ack wait, however long a job takes. A claim
//!   that was lost cancels its jobs, and its late success is no ack.
//! - **Fetched by room:** a worker asks the broker for as many messages as it has room for. Messages
//!   and jobs are bounded apart, so neither waits for the other for ever.
//! - **Drained:** when the token is cancelled, what runs may end until a deadline. The rest is given
//!   back at once, and not after the ack wait.
//! - **Accounted for:** each delivery and each job is in one count of the [`Report`].
//!
//! # The guide
//!
//! | page | about |
//! |---|---|
//! | [`guide::delivery`] | at least once, idempotency, failures, order by key |
//! | [`guide::sizing`] | how large `in_flight`, the pool and the ack wait should be |
//! | [`guide::sources`] | how to write a source for another broker, and how to test it |
//!
//! # How it compares
//!
#![doc = include_str!("../docs/comparison-table.md")]
//!
//! `benches/results.md` has figures.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tracing` (default) | a span for each delivery, by OpenTelemetry's conventions for messaging; events of the target `millpond` |
//! | `nats` | the module `nats`: NATS JetStream |
//! | `redis` | the module `redis`: Redis Streams |
//!
//! The span of a delivery is called `process`. It has the message's id, the number of the delivery and
//! the header `traceparent`. Jobs run inside it. [`Worker::on_span`] continues the trace of the publisher.
//!
//! # Words
//!
//! - **delivery**: a message that was fetched, once. A message that comes again is another delivery.
//! - **claim**: the right to work on a message, for the ack wait. **receipt**: the object that holds it.
//! - **settle**: acknowledge, give back (*nack*), or move to the **dead letters**.
//! - **place**: one of `in_flight`. **slot**: the right to run one job of the pool.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod by_key;
mod claims;
mod delivery;
mod error;
mod failpoint;
mod failure;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod memory;
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub mod nats;
mod rate_limit;
mod receipt;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
mod report;
#[cfg(any(feature = "nats", feature = "redis"))]
mod settlement;
mod source;
mod starter;
#[cfg(all(test, any(feature = "nats", feature = "redis")))]
#[path = "../tests/support/mod.rs"]
mod support;
pub mod testing;
mod trace;
mod worker;

pub use crate::backoff::Backoff;
pub use crate::error::{ConnectError, WorkerError};
pub use crate::failure::{BoxError, Failure};
pub use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
pub use crate::report::{JobCounts, Report};
pub use crate::source::{Batch, Source, SourceError};
pub use crate::worker::Worker;

/// The group of a message: its jobs return `Result<(), Failure>`.
///
/// The first failure cancels the other jobs, and later submits get their job back.
pub type Jobs = millpond::Group<Result<(), Failure>>;

#[cfg(test)]
mod tests {
    #[test]
    fn readme_carries_the_comparison() {
        let table = include_str!("../docs/comparison-table.md");
        assert!(include_str!("../README.md").contains(table), "the table differs");
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
