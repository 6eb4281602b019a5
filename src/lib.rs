//! A bounded task pool for tokio: five ways to submit a job, groups with results, a tower layer.
//!
//! A [`Pool`] runs at most `size` jobs at once. The verb of a call decides what happens to the next
//! job: wait, refuse, overflow, run in the caller, or commit. Every job ends exactly once, and the
//! pool counts it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = millpond::Pool::builder().size(4).queue(16).name("thumbnails").build()?;
//! let handle = pool.schedule(async { 6 * 7 }).await?; // waits its turn if the pool is full
//! assert_eq!(handle.await?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! # The verbs
//!
#![doc = include_str!("../docs/verbs-table.md")]
//!
//! *Full* means that no slot is free and the queue has no room, or that a waiter stands in the wait
//! list. Waiters of one [`Priority`] are served first in, first out. The page [`guide::verbs`] helps to choose.
//!
//! [schedule]: Pool::schedule
//! [try_schedule]: Pool::try_schedule
//! [schedule_always]: Pool::schedule_always
//! [try_go]: Pool::try_go
//! [anyway_go]: Pool::anyway_go
//!
//! # The guide
//!
//! | page | about |
//! |---|---|
//! | [`guide::verbs`] | the verbs, handles, reserved slots, blocking closures, nested submissions |
//! | [`guide::groups`] | jobs that are waited for together; quotas |
//! | [`guide::layer`] | tower services on a pool: axum, tonic, clients |
//! | [`guide::overload`] | what to do when more comes in than the pool can finish |
//! | [`guide::shutdown`] | drain, cancel, report |
//! | [`guide::tuning`] | the size, the queue, a database pool and timeouts together |
//! | [`guide::seeing`] | waits, runs, the list of jobs, slow ones |
//! | [`guide::testing`] | pools in tests, paused time |
//! | [`guide::migrating`] | from `Semaphore` + spawn, `JoinSet`, `TaskTracker` |
//! | [`guide::buffered`] | from `buffer_unordered` and `buffered`: outcomes as a stream |
//! | [`guide::comparison`] | features and speed beside the alternatives |
//! | [`guide::when_not`] | what the pool is not for |
//!
//! Connections belong to the crate [`millpond-server`](https://docs.rs/millpond-server): framed
//! protocols, and HTTP under axum, with idle connections parked. Messages of a broker belong to
//! [`millpond-worker`](https://docs.rs/millpond-worker): a message fans out into jobs and is acknowledged
//! once, when all of them succeeded.
//!
//! # The accounting law
//!
//! The numbers of a [`PoolStatus`] belong to one moment, and at any moment
//!
#![doc = include_str!("../docs/accounting-law.md")]
//!
//! [`PoolStatus::accounted`] is the right-hand side.
//!
//! # Panics
//!
//! A panic ends its job and nothing else. The handle gives [`JobError::Panicked`], the slot comes back
//! and the worker goes on. [`PoolBuilder::on_panic`] is called for each panic. With `panic = "abort"`
//! the process ends.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tracing` (default) | a job runs inside the span of its submission; events of the target `millpond` |
//! | `tower` | the module `layer` |
//! | `http-body` | `PoolLayer::hold_until_body_end` |
//! | `hyper` | a [`Pool`] is a `hyper::rt::Executor` |
//! | `metrics` | `Pool::publish_metrics`: counts for Prometheus, StatsD and others |
//! | `serde` | [`PoolStatus`], [`Histogram`] and all else that a pool tells of itself implement `Serialize` |
//!
//! Events have the field `pool`, the pool's name. Panics are ERROR; slow jobs are WARN; close, resize and
//! shutdown are INFO; overflow and refusals are DEBUG.
//!
//! # Words
//!
//! - **job**: a future given to the pool. **task**: a tokio task, nothing else.
//! - **slot**: the right to run one job; at most `size` of them are out. A suspended job keeps its slot.
//! - **worker**: a tokio task that polls jobs. There are at most as many as the runtime has threads, or
//!   a few more while a slow job holds one up.
//! - **queue**: room for admitted jobs without a slot; none by default. **waiting**: callers and
//!   committed jobs in the wait list.
//! - **reserved**: a slot kept for a job to come. **held**: a slot kept beyond its job's end.
//! - **overflow**: a job beyond `size`. **in caller**: a job that its caller runs.
//! - **handle**: the right to a job's result. **group**: jobs waited for together.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

mod blocking;
mod error;
#[cfg(feature = "hyper")]
mod executor;
mod group;
#[cfg(any(doc, doctest, test))]
pub mod guide;
mod histogram;
#[cfg(feature = "tower")]
pub mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod panic;
mod pool;
mod sync;
mod trace;

pub use crate::blocking::blocking;
pub use crate::error::{ConfigError, JobError, JobPanic, SubmitError, SubmitErrorKind};
pub use crate::group::{
    Group, GroupBuilder, GroupCounts, GroupError, GroupReport, JobTicket, Outcome,
};
pub use crate::histogram::Histogram;
pub use crate::pool::{
    AbortHandle, AbortOnDropHandle, JobHandle, JobInfo, JobOptions, JobState, PeakReader, Peaks,
    Pool, PoolBuilder, PoolStatus, PoolWith, Priority, Reserver, ShutdownReport, Slot, SlotGuard,
    Timings,
};

/// The named futures that the verbs, groups and [`blocking`] return.
pub mod future {
    pub use crate::blocking::Blocking;
    pub use crate::group::{
        GroupSchedule, GroupScheduleOwned, GroupScheduleWithin, GroupTryGo, GroupTryGoOwned, Next,
        TryJoin, Wait,
    };
    pub use crate::pool::{AnywayGo, Schedule, ScheduleOwned, ScheduleWithin, TryGo, TryGoOwned};
}

/// The streams of outcomes that groups and [`Pool::map`] return.
pub mod stream {
    pub use crate::group::{Iter, Map, Outcomes};
}

#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../README.md")]
struct Readme;
