//! The settings of a pool.
//!
//! [`Pool::builder`] makes a [`PoolBuilder`]. The setters take any value. [`PoolBuilder::build`]
//! checks all of them together, and an error names the field, its value and the accepted values.
//! `Pool::resize` uses the same check of a size. Building starts no task and needs no runtime.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{ConfigError, JobPanic};
use crate::panic::catch_panic;
use crate::pool::Pool;
use crate::pool::limiter::overload::TargetWait;
use crate::pool::scheduler::shared::{Config, OnPanic, Shared};

/// Keys of jobs and waiters have 32 bits.
const MAX_SIZE: usize = u32::MAX as usize;
const SIZES: &str = "a number from 1 to 4294967295";
const MAX_IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of a pool; from [`Pool::builder`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let pool = millpond::Pool::builder()
///     .size(100)
///     .queue(1_000)
///     .idle_timeout(Duration::from_secs(10))
///     .min_idle(1)
///     .name("thumbnails")
///     .build()?;
/// assert_eq!(pool.status().size, 100);
///
/// let error = millpond::Pool::builder().size(0).build().unwrap_err();
/// assert_eq!(error.field(), "size");
/// # Ok::<(), millpond::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    size: usize,
    queue: usize,
    idle_timeout: Duration,
    min_idle: usize,
    overflow_limit: Option<usize>,
    name: Arc<str>,
    propagate_span: bool,
    target_wait: TargetWait,
    slow_job: Option<Duration>,
    on_panic: Option<OnPanic>,
    runtime: Option<Handle>,
}

impl PoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            size: 0,
            queue: 0,
            idle_timeout: Duration::from_secs(10),
            min_idle: 1,
            overflow_limit: None,
            name: Arc::from("pool"),
            propagate_span: true,
            target_wait: TargetWait::Measured,
            slow_job: None,
            on_panic: None,
            runtime: None,
        }
    }

    /// Sets how many jobs may hold a slot at once: 1 to 4,294,967,295. There is no default.
    #[doc(alias = "concurrency limit")]
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Sets how many admitted jobs may wait for a slot: 0 to 4,294,967,295. Default 0: no queue.
    pub fn queue(mut self, places: usize) -> Self {
        self.queue = places;
        self
    }

    /// Sets how long a worker may be idle before it retires: more than zero, at most a year.
    /// Default 10 s.
    ///
    /// Only workers beyond [`min_idle`](Self::min_idle) retire, and only these have a timer.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how many idle workers stay: 0 to `size`. Default 1. The first jobs or
    /// [`Pool::prewarm`] spawn them.
    ///
    /// An idle worker is one parked task, without a timer: it wakes no thread and moves no paused
    /// clock. With 0 the last worker retires as well, and so it has a timer.
    pub fn min_idle(mut self, workers: usize) -> Self {
        self.min_idle = workers;
        self
    }

    /// Sets how many jobs [`schedule_always`](Pool::schedule_always) may run beyond the size at
    /// once. 0 allows none. By default there is no limit, as the verb's name says.
    pub fn overflow_limit(mut self, jobs: usize) -> Self {
        self.overflow_limit = Some(jobs);
        self
    }

    /// Sets the pool's name in events and in `Debug`: one character or more. Default `pool`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets whether a job runs inside the `tracing` span of its submission. Default `true`. Has no
    /// effect without the feature `tracing`.
    pub fn propagate_span(mut self, propagate_span: bool) -> Self {
        self.propagate_span = propagate_span;
        self
    }

    /// Sets how long callers may have to wait in a line that does not become shorter: more than zero.
    /// More than a year is a year. `None` never refuses a caller for its wait.
    ///
    /// A spike may wait for longer. If the wait stays above the target for two targets more, the pool is
    /// overloaded until it does not. While it is, callers of [`schedule`](Pool::schedule) and
    /// [`reserve`](Pool::reserve) are refused as
    /// [`Shed`](crate::SubmitErrorKind::Shed): at once, if the line before them takes more than two
    /// targets, or after a wait of two targets. The newest caller gets the next slot. Jobs that were
    /// admitted are never refused, nor is a job of [`anyway_go`](Pool::anyway_go).
    ///
    /// By default calls through a layer by `schedule_within` alone are refused so, and the target is the time
    /// that a job takes, as the pool measures it: between 50 ms and 1 s. A program that feeds a pool by
    /// `schedule` wants to wait, and does.
    ///
    /// The idea is CoDel's, in the form that folly and Facebook's servers use for queues of requests.
    #[doc(alias = "CoDel")]
    #[doc(alias = "load shedding")]
    pub fn target_wait(mut self, target: impl Into<Option<Duration>>) -> Self {
        self.target_wait = target.into().map_or(TargetWait::Never, TargetWait::Fixed);
        self
    }

    /// Sets after which time a running job is slow: more than zero. Default: `None`, no job is.
    ///
    /// A slow job leaves one event of the level WARN, with the feature `tracing`: its place, its name, that
    /// of its group, what it does, its [age](crate::JobInfo::age), its wait and its polls. The event comes
    /// while the job runs, some milliseconds after the time is over. One task per pool looks for slow jobs
    /// while any job runs, no more often than jobs come to the limit. A job that blocks the only thread of
    /// its runtime is reported later, if it still runs then. A job that waits for its first slot does not run.
    #[doc(alias = "long running")]
    pub fn slow_job(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.slow_job = limit.into();
        self
    }

    /// Sets a hook that is called for each panic of a job.
    ///
    /// The hook runs on the thread of the panic, before the job's handle resolves. A panic of the
    /// hook itself is caught and ignored.
    pub fn on_panic(mut self, hook: impl Fn(&JobPanic) + Send + Sync + 'static) -> Self {
        self.on_panic = Some(Arc::new(hook));
        self
    }

    /// Sets the runtime that runs the jobs. Its timers must be enabled. Default: the runtime in
    /// which the first job is submitted.
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Makes the pool. Starts no task and needs no runtime.
    ///
    /// # Errors
    ///
    /// The error names the first setting that is not accepted, its value and the accepted values.
    pub fn build(self) -> Result<Pool, ConfigError> {
        let size = checked_size(self.size)?;
        if self.queue > MAX_SIZE {
            return Err(ConfigError::new("queue", self.queue, "a number from 0 to 4294967295"));
        }
        if self.idle_timeout.is_zero() || self.idle_timeout > MAX_IDLE_TIMEOUT {
            let value = format!("{:?}", self.idle_timeout);
            return Err(ConfigError::new(
                "idle_timeout",
                value,
                "more than zero and at most a year",
            ));
        }
        if self.min_idle > self.size {
            return Err(ConfigError::new("min_idle", self.min_idle, "at most `size`"));
        }
        if self.target_wait == TargetWait::Fixed(Duration::ZERO) {
            return Err(ConfigError::new("target_wait", "0ns", "more than zero, or `None`"));
        }
        if self.slow_job == Some(Duration::ZERO) {
            return Err(ConfigError::new("slow_job", "0ns", "more than zero, or `None`"));
        }
        if self.name.is_empty() {
            return Err(ConfigError::new("name", "empty", "one character or more"));
        }
        if let Some(handle) = &self.runtime {
            let _entered = handle.enter();
            if catch_panic(|| drop(tokio::time::sleep(Duration::ZERO))).is_none() {
                let accepted = "a runtime with its timers enabled";
                return Err(ConfigError::new("runtime", "one without timers", accepted));
            }
        }
        let config = Config {
            name: self.name,
            idle_timeout: self.idle_timeout,
            min_idle: self.min_idle,
            overflow_limit: self.overflow_limit.unwrap_or(usize::MAX),
            propagate_span: self.propagate_span,
            target_wait: self.target_wait,
            slow_job: self.slow_job,
            on_panic: self.on_panic,
        };
        Ok(Pool::from_shared(Shared::new(config, size, self.queue, self.runtime)))
    }
}

/// Checks a size, for `build` and for `Pool::resize`.
pub(super) fn checked_size(size: usize) -> Result<NonZeroUsize, ConfigError> {
    NonZeroUsize::new(size)
        .filter(|size| size.get() <= MAX_SIZE)
        .ok_or_else(|| ConfigError::new("size", size, SIZES))
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("queue", &self.queue)
            .field("idle_timeout", &self.idle_timeout)
            .field("min_idle", &self.min_idle)
            .field("overflow_limit", &self.overflow_limit)
            .field("propagate_span", &self.propagate_span)
            .field("target_wait", &self.target_wait)
            .field("slow_job", &self.slow_job)
            .finish_non_exhaustive()
    }
}
