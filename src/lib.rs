//! A bounded task pool for tokio.
//!
//! At most `size` jobs run at once; what happens to the next one is chosen per call, by the verb.
//! Every job ends in exactly one way and is counted.
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
//! | verb | a slot is free | full | closed | dropped before it resolves |
//! |---|---|---|---|---|
//! | [`schedule(job).await`](Pool::schedule) | runs | the caller waits its turn | [`ScheduleError::Closed`] | the job never runs |
//! | [`try_schedule(job)`](Pool::try_schedule) | runs | [`TryScheduleError::Full`] | [`TryScheduleError::Closed`] | – |
//! | [`schedule_always(job)`](Pool::schedule_always) | runs | runs beyond the size | [`TryScheduleError::Closed`] | – |
//! | [`try_go(job).await`](Pool::try_go) | runs | runs in the caller | [`ClosedError`] | a job in the caller is cancelled, one in the pool goes on |
//! | [`anyway_go(job)`](Pool::anyway_go) | runs | the job waits in the wait list | [`ClosedError`] | the job runs anyway |
//!
//! *Full* means that no slot is free and no place in the queue. The wait list is strictly first come,
//! first served: a free slot goes to the oldest in it. Refusals hold the job. All verbs lead to a
//! [`JobHandle`]. From threads outside of the runtime use [`Pool::blocking_schedule`] and
//! [`Pool::blocking_anyway_go`]; for closures that block or compute for long, [`blocking`].
//!
//! # Groups
//!
//! A [`Group`] has the same verbs on the same pool. [`wait`](Group::wait) gives the outcome of each
//! of its jobs in the order of submission, [`next`](Group::next) in the order of completion;
//! [`wait_or_cancel_on_failure`](Group::wait_or_cancel_on_failure) cancels the rest at the first failure. A
//! [quota](GroupBuilder::quota) bounds its share of the pool. Dropping the last handle of a group
//! cancels its jobs, unless it was [detached](Group::detach).
//!
//! # Services
//!
//! The `layer` module (feature `tower`) makes each call of a tower service a job.
//! [`Pool::reserver`] reserves a slot before there is a job, [`Pool::hold_slot`] keeps one beyond a
//! job's end.
//!
//! # Connections
//!
//! The `server` module (feature `server`) holds connections by a task each, or parked: then an idle
//! one is a small record, and a job on a pool when bytes arrive.
//!
//! # The accounting law
//!
//! In every [`PoolStatus`] the numbers belong to one moment, and
//!
//! ```text
//! submitted = refused + withdrawn
//!           + reserved + queued + waiting + running + overflow + in_caller
//!           + completed + panicked + cancelled
//! ```
//!
//! [`PoolStatus::accounted`] is the right-hand side.
//!
//! # Cancel safety
//!
//! - [`Reserver`], dropped: what it has reserved, or its place in the wait list, is given back.
//! - [`schedule`](Pool::schedule), dropped: the job never runs; its place, or the slot that was kept
//!   for it, passes to the next waiter.
//! - [`try_go`](Pool::try_go), dropped: a job in the caller is cancelled, one in the pool goes on.
//! - [`anyway_go`](Pool::anyway_go): the future it returns only observes; the job runs.
//! - [`JobHandle`], dropped: detaches. [`JobHandle::abort_on_drop`] does the opposite.
//! - [`Group::wait`], [`Group::next`] and [`Pool::wait_idle`], dropped: nothing is lost.
//! - [`Pool::shutdown`], dropped: the pool stays closed and nothing is cancelled.
//!
//! # Panics
//!
//! A panic of a job ends that job: its handle gives [`JobError::Panicked`], its slot comes back, its
//! worker goes on. [`PoolBuilder::on_panic`] hears of each. That takes unwinding: with `panic = "abort"`
//! the process ends.
//!
//! # Features
//!
//! `tracing` (default): a job runs inside the span that was current where it was submitted, unless
//! [`PoolBuilder::propagate_span`] says no. Events have the target `millpond` and the field `pool`, the pool's
//! name: panic (error), close, resize and shutdown (info), overflow and refusal (debug).
//!
//! `tower`: the module `layer`. `http-body`: its `hold_until_body_end`. `hyper`: a [`Pool`] is a
//! `hyper::rt::Executor`. `server`: the module `server`, on Unix. `serde`: its configuration by a
//! file. `rustls`: its TLS. `http`: the module `http`, a server for HTTP. `axum`: its requests carry
//! axum's `ConnectInfo`.
//!
//! # Words
//!
//! - **job**: a future given to the pool. **task**: a tokio task, nothing else.
//! - **slot**: the right to run; there are `size`. A job keeps its slot while it is suspended.
//! - **worker**: a task that polls jobs. There are at most as many as the runtime has threads,
//!   or a few more for a while when a slow job stalls a worker.
//! - **queue**: places for admitted jobs that wait for a slot; none by default.
//! - **reserved**: a slot kept for a job to come. **held**: a slot kept beyond its job's end.
//! - **waiting**: in the wait list for room, as a caller (`schedule`) or as a committed job (`anyway_go`).
//! - **overflow**: a job that runs beyond `size`. **in caller**: a job that its caller runs.
//! - **handle**: the right to a job's outcome. **group**: jobs waited for together.
//!
//! # Map, for readers of the source
//!
//! - `pool` is the facade; `pool/builder` checks the settings; `pool/handle`, `pool/status` and
//!   `pool/shutdown` hold what its methods return.
//! - `pool/submit`: the named futures of the verbs, and slots without jobs.
//! - `pool/job`: a job's storage and states, the one unsafe module.
//! - `pool/limiter`: the only place that counts slots; its wait list, quotas and deadlock detection.
//! - `pool/scheduler`: shards with their run queues, workers, the idle list, the wake policy with the
//!   stall monitor, and what the rooms of a pool share.
//! - `group`: groups. `layer`: tower services. `executor`: hyper's. `blocking`: closures as jobs.
//!   `error`: refusals, ends, settings.
//! - `trace`: spans and events. `sync`: std or loom. `pool/loom`: the loom models.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod blocking;
mod error;
#[cfg(feature = "hyper")]
mod executor;
mod group;
#[cfg(feature = "tower")]
pub mod layer;
mod panic;
mod pool;
mod sync;
mod trace;

pub use crate::blocking::blocking;
pub use crate::error::{
    ClosedError, ConfigError, JobError, JobPanic, ScheduleError, TryScheduleError,
};
pub use crate::group::{Group, GroupBuilder, Outcome};
pub use crate::pool::{
    AbortHandle, AbortOnDropHandle, JobHandle, OnDeadlock, Pool, PoolBuilder, PoolStatus, Reserver,
    ShutdownReport, SlotGuard,
};

/// The named futures that the verbs, groups and [`blocking`] return.
pub mod future {
    pub use crate::blocking::Blocking;
    pub use crate::group::{GroupSchedule, GroupTryGo, Next, Wait};
    pub use crate::pool::{AnywayGo, Schedule, TryGo};
}

#[cfg(all(doctest, feature = "tower"))]
#[doc = include_str!("../README.md")]
struct Readme;
