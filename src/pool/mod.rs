//! The pool: a bounded number of jobs at once, and five verbs for the case that the pool is full.
//!
//! This file has the public face, [`Pool`]. A job passes through the folders in this order:
//!
//! | folder | content |
//! |---|---|
//! | `submit` | the verbs: from the call to an offered job; slots without jobs |
//! | `job` | the storage of one job, its state word and its references; the only unsafe module |
//! | `limiter` | the semaphore: slots, wait list, quotas, counters, lending, deadlock detection |
//! | `scheduler` | workers, the idle list, the wake policy and the stall monitor |
//!
//! `builder`, `handle`, `options`, `with`, `status`, `timings`, `peaks`, `jobs`, `pause` and `shutdown`
//! have the other public types and verbs; `paged_slab` is storage of the limiter and of the shards, and
//! `name_table` counts by names. The group and the layer enter through `submit` too.
//!
//! A [`Pool`] is a counted reference to `Shared`, which workers and jobs hold as well. The last
//! `Pool` closes the pool when it is dropped ([`CloseOnDrop`]); jobs that were admitted still run.

mod builder;
mod context;
mod handle;
#[allow(unsafe_code)]
mod job;
mod jobs;
mod limiter;
#[cfg(all(test, millpond_loom))]
mod loom;
mod name_table;
mod options;
mod paged_slab;
mod pause;
mod peaks;
mod scheduler;
mod shutdown;
mod status;
mod submit;
mod timings;
mod with;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConfigError, SubmitError};
pub use crate::pool::builder::PoolBuilder;
#[cfg(feature = "tower")]
pub(crate) use crate::pool::context::PoolId;
pub(crate) use crate::pool::context::{Current, current, enter_closure, note_wait};
use crate::pool::handle::StoreOutput;
pub use crate::pool::handle::{AbortHandle, AbortOnDropHandle, JobHandle};
pub(crate) use crate::pool::job::{JobArc, JobGroup, OutputSink, RawJoinHandle};
pub use crate::pool::jobs::{JobInfo, JobState};
#[cfg(feature = "serde")]
pub(crate) use crate::pool::name_table::serialize_name;
pub(crate) use crate::pool::name_table::{Counters, add as add_counts};
pub use crate::pool::options::{JobOptions, Priority};
pub use crate::pool::peaks::{PeakReader, Peaks};
pub(crate) use crate::pool::scheduler::shared::Shared;
pub use crate::pool::shutdown::ShutdownReport;
pub use crate::pool::status::PoolStatus;
#[cfg(feature = "tower")]
pub(crate) use crate::pool::submit::caller_runs::CallerRunsJob;
pub use crate::pool::submit::reserver::Reserver;
pub(crate) use crate::pool::submit::schedule::ScheduleInner;
pub use crate::pool::submit::schedule::{AnywayGo, Schedule, ScheduleOwned};
#[cfg(feature = "tower")]
pub(crate) use crate::pool::submit::schedule::{REFUSALS_PER_UNIT, is_budget_due};
pub use crate::pool::submit::slot::Slot;
pub use crate::pool::submit::slot_guard::SlotGuard;
pub(crate) use crate::pool::submit::submission::Submission;
#[cfg(feature = "tower")]
pub(crate) use crate::pool::submit::submission::Submitted;
pub(crate) use crate::pool::submit::try_go::TryGoInner;
pub use crate::pool::submit::try_go::{TryGo, TryGoOwned};
pub use crate::pool::submit::within::ScheduleWithin;
pub(crate) use crate::pool::submit::within::WithinInner;
pub use crate::pool::timings::Timings;
pub use crate::pool::with::PoolWith;
use crate::trace::Place;

/// A bounded task pool.
///
/// At most `size` jobs hold a slot at once; `queue` more may be admitted to wait for one. The
/// verb decides what happens to a job beyond that:
///
#[doc = include_str!("../../docs/verbs-table.md")]
///
/// [schedule]: Self::schedule
/// [try_schedule]: Self::try_schedule
/// [schedule_always]: Self::schedule_always
/// [try_go]: Self::try_go
/// [anyway_go]: Self::anyway_go
///
/// *Full* means that no slot is free and the queue has no room, or that a waiter stands in the wait
/// list. Waiters of one [`Priority`] are served first in, first out.
///
/// A clone is cheap and shares the pool. Dropping the last clone closes the pool: admitted jobs run
/// to their ends, and then the workers retire.
///
/// A pool can be made anywhere. It binds to the tokio runtime of its first job, or to the runtime
/// given to [`PoolBuilder::runtime`]. That runtime needs its timers enabled. When it shuts down, the
/// pool's jobs are cancelled and the pool refuses new ones. A pool that was given no runtime then
/// binds to the runtime of the next submit, once no old job is left.
///
/// # Panics
///
/// All verbs panic if the pool is bound to no runtime and the caller is outside of a runtime.
#[doc(alias = "spawn")]
#[doc(alias = "worker pool")]
#[doc(alias = "thread pool")]
#[doc(alias = "executor")]
#[doc(alias = "bulkhead")]
#[doc(alias = "concurrency limit")]
#[doc(alias = "Semaphore")]
#[doc(alias = "BoundedExecutor")]
#[derive(Clone)]
pub struct Pool {
    close_on_drop: Arc<CloseOnDrop>,
}

/// Closes the pool when the last [`Pool`] is dropped. Workers and jobs hold the `Shared` alone.
struct CloseOnDrop {
    shared: Arc<Shared>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Pool {
    /// Makes a pool of `size` slots without a queue. Idle workers but one retire after 10 s.
    ///
    /// # Panics
    ///
    /// Panics if `size` is not between 1 and 4,294,967,295. [`builder`](Self::builder) returns an
    /// error instead.
    #[track_caller]
    pub fn new(size: usize) -> Self {
        match Self::builder().size(size).build() {
            Ok(pool) => pool,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a builder with all settings.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { close_on_drop: Arc::new(CloseOnDrop { shared }) }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.close_on_drop.shared
    }

    /// Runs a job in the pool; waits in the wait list if the pool is full.
    ///
    /// Nothing happens before the first poll. Waiters have the order in which they entered the wait
    /// list, usually at their first polls. The verb is that of MOSN's `WorkerPool.Schedule`.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::SubmitErrorKind::Closed) if the pool is closed, also while waiting.
    /// [`WouldDeadlock`](crate::SubmitErrorKind::WouldDeadlock) if the caller is a job of this pool that
    /// blocks its thread, and every slot is held by a job that waits. Both give the job back.
    ///
    /// # Inside a job of this pool
    ///
    /// A job may await `schedule`, handles and groups of its own pool, to any depth and on any size.
    /// While every slot belongs to a job that waits, the pool *lends*: the slot of one goes to a
    /// waiter, first to one that a job of the pool submitted. The lender receives a slot again
    /// before it is polled, so never more than `size` jobs hold a slot.
    /// [`PoolStatus::lent`] counts the lenders. A job that waits for [`wait_idle`](Self::wait_idle),
    /// [`shutdown`](Self::shutdown) or a group of which it is a member waits for itself.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the job never runs and its place in the wait
    /// list is given up. A slot that was granted passes to the next waiter. Inside a job of this
    /// pool, a waiting job may have started by then; it goes on without a handle.
    ///
    /// **Poll the future or drop it.** A slot that was granted stays with the future until its next
    /// poll, and no other job can use the slot meanwhile. A future that waits unpolled beside
    /// another `await` in the same task holds up the pool: `tokio::spawn` it by
    /// [`schedule_owned`](Self::schedule_owned).
    ///
    /// On a runtime of several threads the future may yield once although there is room. Otherwise
    /// a task that submits many jobs in a row would keep its thread from running them.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(2);
    /// let mut handles = Vec::new();
    /// for n in 0..10u32 {
    ///     // Never more than two run at once: from the third on this waits.
    ///     handles.push(pool.schedule(async move { n * n }).await?);
    /// }
    /// assert_eq!(handles.pop().unwrap().await?, 81);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "spawn")]
    #[doc(alias = "acquire")]
    #[doc(alias = "backpressure")]
    #[track_caller]
    #[inline(always)]
    pub fn schedule<F>(&self, job: F) -> Schedule<'_, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Schedule::new(self.shared(), job)
    }

    /// [`schedule`](Self::schedule) with a limit for the wait, from this call on. A limit of zero does not
    /// wait.
    ///
    /// # Errors
    ///
    /// Those of `schedule`, and [`TimedOut`](crate::SubmitErrorKind::TimedOut) if no slot came within the
    /// limit. All give the job back; [`PoolStatus::refused`] counts the job.
    ///
    /// # Cancel safety
    ///
    /// As [`schedule`](Self::schedule).
    ///
    /// # Panics
    ///
    /// If the job must wait, and the runtime has no timers.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use millpond::{Pool, SubmitErrorKind};
    ///
    /// let pool = Pool::new(1);
    /// let slow = pool.schedule(std::future::pending::<()>()).await?;
    /// let refused = pool.schedule_within(Duration::from_millis(1), async { 7 }).await.unwrap_err();
    /// assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
    /// assert_eq!(refused.into_job().await, 7); // the job came back
    /// slow.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "timeout")]
    #[doc(alias = "acquire_timeout")]
    #[track_caller]
    #[inline(always)]
    pub fn schedule_within<F>(&self, limit: Duration, job: F) -> ScheduleWithin<'_, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        ScheduleWithin::new(self.shared(), limit, job)
    }

    /// [`schedule`](Self::schedule) as a future that borrows nothing: it keeps a handle of the pool,
    /// so it can be spawned.
    ///
    /// # Errors
    ///
    /// Returns the errors of `schedule`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let pool = millpond::Pool::new(2);
    /// // The wait for room goes on in a task of its own.
    /// let waits = tokio::spawn(pool.schedule_owned(async { 7 }));
    /// assert_eq!(waits.await??.await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "acquire_owned")]
    #[track_caller]
    pub fn schedule_owned<F>(&self, job: F) -> ScheduleOwned<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        ScheduleOwned::new(self.clone(), job)
    }

    /// Runs a job in the pool, or refuses the job at once. The job never runs in the caller.
    ///
    /// The model is fasthttp's `workerPool.Serve`, which returns `false`.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::SubmitErrorKind::Full) if the pool is full,
    /// [`Closed`](crate::SubmitErrorKind::Closed) if the pool is closed. Both give the job back.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let first = pool.try_schedule(std::future::pending::<()>())?;
    /// let refused = pool.try_schedule(async { 7 }).unwrap_err();
    /// assert!(refused.is_full());
    /// assert_eq!(refused.into_job().await, 7); // the job came back
    /// first.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_spawn")]
    #[doc(alias = "try_acquire")]
    #[doc(alias = "RejectedExecution")]
    #[track_caller]
    pub fn try_schedule<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Submission::try_schedule(&**self.shared(), job, StoreOutput, Place::caller(), None)
    }

    /// Runs a job in the pool, or beyond the pool's size if the pool is full.
    ///
    /// [`PoolStatus::overflow`] counts such jobs, and [`PoolBuilder::overflow_limit`] caps them.
    /// Without a limit the overflow has no bound. The verb is MOSN's `ScheduleAlways`, which does
    /// not count.
    ///
    /// # Errors
    ///
    /// [`Full`](crate::SubmitErrorKind::Full) at the overflow limit,
    /// [`Closed`](crate::SubmitErrorKind::Closed) if the pool is closed. Both give the job back.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let stuck = pool.try_schedule(std::future::pending::<()>())?;
    /// let urgent = pool.schedule_always(async { "done" })?;
    /// assert_eq!(pool.status().overflow, 1);
    /// assert_eq!(urgent.await?, "done");
    /// stuck.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn schedule_always<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submission(job).schedule_always()
    }

    #[track_caller]
    #[inline]
    fn submission<F>(&self, job: F) -> Submission<&Shared, F, StoreOutput>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Submission::new(&**self.shared(), job, StoreOutput)
    }

    /// Runs a job in the pool, or in the caller's task if the pool is full. So the caller slows
    /// down with the pool.
    ///
    /// Resolves when the pool has taken the job, or when the job has ended in the caller; the
    /// handle is finished then. Where more than 128 jobs are nested in callers, one in another, the
    /// next job is committed as by [`anyway_go`](Self::anyway_go), so that no stack overflows.
    /// The caller never waits for room. **`try_go` does not refuse**;
    /// [`try_schedule`](Self::try_schedule) does. The verb is goutil's `GoPool.TryGo`; Java calls
    /// the policy `CallerRunsPolicy`.
    ///
    /// # Errors
    ///
    /// Returns the job if the pool is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels a job that runs in the caller. A job that the pool has taken
    /// goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let stuck = pool.try_schedule(std::future::pending::<()>())?;
    /// let handle = pool.try_go(async { 7 }).await?;
    /// assert!(handle.is_finished());
    /// assert_eq!(handle.await?, 7);
    /// stuck.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "caller_runs")]
    #[track_caller]
    pub fn try_go<F>(&self, job: F) -> TryGo<'_, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        TryGo::new(self.shared(), job)
    }

    /// [`try_go`](Self::try_go) as a future that borrows nothing: it keeps a handle of the pool, so
    /// it can be spawned.
    ///
    /// # Errors
    ///
    /// Returns the errors of `try_go`.
    #[track_caller]
    pub fn try_go_owned<F>(&self, job: F) -> TryGoOwned<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        TryGoOwned::new(self.clone(), job)
    }

    /// Commits a job now. The job runs in its turn, even if the caller goes away.
    ///
    /// The job waits in the wait list, which has no bound. The returned future resolves when the
    /// job has left the wait list. The verb is erpc's `AnywayGo`, which spins instead of waiting.
    ///
    /// # Errors
    ///
    /// Returns the job if the pool is closed. A pool that is closed later still runs what was
    /// committed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let first = pool.anyway_go(async { 1 })?;
    /// let second = pool.anyway_go(async { 2 })?.into_handle();
    /// let first = first.await; // has left the wait list
    /// assert_eq!(first.await? + second.await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn anyway_go<F>(&self, job: F) -> Result<AnywayGo<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submission(job).anyway_go().map(AnywayGo::new)
    }

    /// [`schedule`](Self::schedule) for threads outside of the runtime: blocks the thread while the
    /// job waits.
    ///
    /// # Errors
    ///
    /// Returns the errors of `schedule`.
    ///
    /// # Panics
    ///
    /// Panics inside a runtime, where the call would stop a thread that drives other tasks. Panics
    /// too if the pool is bound to no runtime yet: give a runtime to [`PoolBuilder::runtime`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let pool = millpond::Pool::builder().size(2).runtime(runtime.handle().clone()).build()?;
    /// let handle = pool.blocking_schedule(async { 3 })?;
    /// assert_eq!(runtime.block_on(handle)?, 3);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn blocking_schedule<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared().block_on("blocking_schedule", self.schedule(job))
    }

    /// [`anyway_go`](Self::anyway_go) for threads outside of the runtime: blocks the thread until the
    /// job has left the wait list.
    ///
    /// # Errors
    ///
    /// Returns the error of `anyway_go`.
    ///
    /// # Panics
    ///
    /// Panics where [`blocking_schedule`](Self::blocking_schedule) panics.
    #[track_caller]
    pub fn blocking_anyway_go<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let shared = self.shared();
        shared.assert_may_block("blocking_anyway_go");
        let committed = self.anyway_go(job)?;
        Ok(shared.block_on("blocking_anyway_go", committed))
    }

    /// Spawns workers ahead of the first jobs, until there are `workers` or as many as `size`.
    ///
    /// Idle ones retire after the idle timeout, down to
    /// [`PoolBuilder::min_idle`](PoolBuilder::min_idle).
    pub fn prewarm(&self, workers: usize) {
        self.shared().prewarm(workers);
    }

    /// Changes the size at once, without waiting.
    ///
    /// A larger size lets waiters in. A smaller size takes free slots away now, and the others when
    /// their jobs end: running jobs go on.
    ///
    /// # Errors
    ///
    /// Returns an error if `size` is not between 1 and 4,294,967,295.
    pub fn resize(&self, size: usize) -> Result<(), ConfigError> {
        self.shared().resize(builder::checked_size(size)?);
        Ok(())
    }

    /// Lets no more jobs in.
    ///
    /// Callers in the wait list get their jobs back; jobs in the queue and committed ones still
    /// run. To wait for them, see [`wait_idle`](Self::wait_idle) and [`shutdown`](Self::shutdown).
    pub fn close(&self) {
        self.shared().close();
    }

    /// Returns whether the pool is closed, or was stopped by the end of its runtime.
    pub fn is_closed(&self) -> bool {
        self.shared().limiter.is_closed()
    }

    /// Returns what the pool is doing at this moment.
    pub fn status(&self) -> PoolStatus {
        self.shared().status()
    }

    /// Returns the name given to [`PoolBuilder::name`].
    pub fn name(&self) -> &str {
        self.shared().name()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        f.debug_struct("Pool")
            .field("name", &self.name())
            .field("size", &status.size)
            .field("running", &status.running)
            .field("waiting", &status.waiting)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
