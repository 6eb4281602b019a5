//! What the handles, workers and jobs of one pool share.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::error::JobPanic;
use crate::panic::catch_panic;
use crate::pool::context;
use crate::pool::job::{JobScheduler, RawJob, Runnable, Step};
use crate::pool::limiter::counts::ReleaseReason;
use crate::pool::limiter::deadlock::OnDeadlock;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::limiter::{AcquireOutcome, Limiter, OnFull, PendingJob};
use crate::pool::scheduler::idle::IdleWorkers;
use crate::pool::scheduler::poll_times::PollTimes;
use crate::pool::status::PoolStatus;
use crate::trace::event;

/// Called with each panic a job of the pool ended by.
pub(crate) type OnPanic = Arc<dyn Fn(&JobPanic) + Send + Sync>;

pub(crate) struct Config {
    pub(crate) name: Arc<str>,
    pub(crate) idle_timeout: Duration,
    pub(crate) min_idle: usize,
    pub(crate) overflow_limit: usize,
    pub(crate) on_deadlock: OnDeadlock,
    pub(crate) propagate_span: bool,
    pub(crate) on_panic: Option<OnPanic>,
}

pub(crate) struct Shared {
    pub(crate) limiter: Limiter,
    pub(crate) workers: IdleWorkers,
    pub(crate) config: Config,
    pub(crate) idle_notify: Notify,
    runtime: OnceLock<Handle>,
    pub(crate) poll_times: PollTimes,
    weak_self: Weak<Self>,
}

/// A shard with fewer slots than this would lend and borrow them all the time.
const MIN_SLOTS_PER_SHARD: usize = 8;

impl Shared {
    pub(crate) fn new(
        config: Config,
        size: NonZeroUsize,
        queue: usize,
        runtime: Option<Handle>,
    ) -> Arc<Self> {
        let threads = match runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(handle) => handle.metrics().num_workers(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let shards = threads.min(size.get() / MIN_SLOTS_PER_SHARD).max(1);
        Self::with_shards(shards, threads, config, size, queue, runtime)
    }

    pub(crate) fn with_shards(
        shards: usize,
        threads: usize,
        config: Config,
        size: NonZeroUsize,
        queue: usize,
        runtime: Option<Handle>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak_self| Self {
            limiter: Limiter::new(shards, size.get(), queue),
            workers: IdleWorkers::new(threads, size.get()),
            config,
            idle_notify: Notify::new(),
            runtime: runtime.map_or_else(OnceLock::new, OnceLock::from),
            poll_times: PollTimes::new(),
            weak_self: weak_self.clone(),
        })
    }

    /// The runtime the jobs run on: the given one, or the first caller's.
    #[track_caller]
    #[inline]
    pub(crate) fn ensure_runtime(&self) {
        if !cfg!(millpond_loom) {
            self.runtime();
        }
    }

    #[track_caller]
    #[inline]
    pub(crate) fn runtime(&self) -> &Handle {
        match self.runtime.get() {
            Some(handle) => handle,
            None => self.bind(),
        }
    }

    #[track_caller]
    #[cold]
    fn bind(&self) -> &Handle {
        self.runtime.get_or_init(|| match Handle::try_current() {
            Ok(handle) => {
                // Panics here, in the caller, if the runtime has no timers: idle workers need them.
                drop(tokio::time::sleep(Duration::ZERO));
                handle
            }
            Err(_) => panic!(
                "a pool built without a runtime handle got its first job outside of a tokio runtime: \
                 submit it from inside one, or build the pool with `PoolBuilder::runtime`"
            ),
        })
    }

    pub(crate) fn id(&self) -> usize {
        self as *const Self as usize
    }

    pub(crate) fn arc(&self) -> Arc<Self> {
        self.weak_self.upgrade().expect("only reached through a live reference")
    }

    /// The shard of the current thread.
    #[cfg(not(millpond_loom))]
    #[inline]
    pub(crate) fn current_shard(&self) -> ShardId {
        match self.limiter.shards().len() {
            1 => 0,
            shards => tokio::runtime::worker_index().unwrap_or(0) % shards,
        }
    }

    #[cfg(millpond_loom)]
    pub(crate) fn current_shard(&self) -> ShardId {
        crate::sync::current_shard() % self.limiter.shards().len()
    }

    pub(crate) fn admit(
        &self,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.admit(shard_id, pending, quota, on_full);
        self.after_submit(shard_id, outcome)
    }

    /// Whether a submitter is to yield to the runtime: its jobs are run on another thread again
    /// and again. No use on threads where no worker could run.
    #[inline]
    pub(crate) fn should_yield(&self) -> bool {
        self.limiter.shards().len() > 1
            && self.limiter.shard(self.current_shard()).should_yield()
            && !self.limiter.needs_slow_release()
            && (cfg!(millpond_loom) || tokio::runtime::worker_index().is_some())
    }

    pub(crate) fn reserve(&self, quota: Option<usize>, cx: Option<&Context<'_>>) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.reserve(shard_id, quota, cx.map(|cx| (cx.waker(), self.id())));
        self.after_submit(shard_id, outcome)
    }

    /// A caller in the wait list for a slot was told to come.
    pub(crate) fn take_granted(&self, waiter_key: WaiterKey) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let outcome = self.limiter.take_granted(waiter_key, &mut deferred);
        self.run_deferred(shard_id, deferred);
        self.after_submit(shard_id, outcome)
    }

    pub(crate) fn submit_reserved(
        &self,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
    ) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.submit_reserved(shard_id, pending, quota);
        if outcome == AcquireOutcome::Closed {
            self.release_slot(quota, ReleaseReason::Refused);
        }
        self.after_submit(shard_id, outcome)
    }

    /// Gives back a slot that was kept without a job.
    pub(crate) fn release_slot(&self, quota: Option<usize>, reason: ReleaseReason) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.release_slot(shard_id, quota, reason, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    /// Calls a worker for what was started.
    pub(crate) fn after_submit(
        &self,
        shard_id: ShardId,
        outcome: AcquireOutcome,
    ) -> AcquireOutcome {
        match outcome {
            AcquireOutcome::Started { needs_wake, depth } => {
                self.wake_worker_for(shard_id, needs_wake, depth)
            }
            AcquireOutcome::Overflow { needs_wake, depth } => {
                self.wake_worker_for(shard_id, needs_wake, depth);
                event!(DEBUG, pool = &*self.config.name, "job overflows");
            }
            AcquireOutcome::Full | AcquireOutcome::Closed | AcquireOutcome::Deadlock => {
                self.log_refused(outcome)
            }
            AcquireOutcome::Enqueued
            | AcquireOutcome::Waiting(_)
            | AcquireOutcome::RunInCaller
            | AcquireOutcome::Reserved => {}
        }
        outcome
    }

    #[cold]
    fn log_refused(&self, _outcome: AcquireOutcome) {
        event!(DEBUG, pool = &*self.config.name, reason = ?_outcome, "job refused");
    }

    /// Does what was left to do when the locks were released.
    pub(crate) fn run_deferred(&self, shard_id: ShardId, mut deferred: DeferredWakes) {
        for job in deferred.take_started() {
            job.leave_wait_list();
            self.push_runnable(shard_id, job);
        }
        deferred.wake_all();
        self.notify_idle(deferred.idle);
    }

    /// Tells whoever waits for the pool's last job.
    pub(crate) fn notify_idle(&self, idle: bool) {
        if idle {
            catch_panic(|| self.idle_notify.notify_waiters());
            self.workers.wake_all_if(self.limiter.is_closed());
        }
    }

    /// Queues a job that holds what it needs to run.
    pub(crate) fn push_runnable(&self, shard_id: ShardId, job: Runnable) {
        let mut shard = self.limiter.shard(shard_id).lock();
        // The flag is set before the queues are emptied for the last time.
        if self.limiter.is_runtime_gone() {
            drop(shard);
            return self.cancel(shard_id, job);
        }
        let needs_wake = shard.push(job);
        let depth = shard.run_queue.len();
        drop(shard);
        self.wake_worker_for(shard_id, needs_wake, depth);
    }

    pub(crate) fn close(&self) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let first = self.limiter.close(shard_id, &mut deferred);
        self.run_deferred(shard_id, deferred);
        if first {
            event!(INFO, pool = &*self.config.name, "pool closed");
            // Idle workers have nothing to wait for any more.
            self.workers.wake_all_if(true);
        }
    }

    pub(crate) fn resize(&self, size: NonZeroUsize) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let before = self.limiter.resize(shard_id, size.get(), &mut deferred);
        self.workers.resize(size.get());
        self.run_deferred(shard_id, deferred);
        event!(INFO, pool = &*self.config.name, before, size, "pool resized");
        let _ = before;
    }

    /// Blocks the thread until the future is ready.
    #[track_caller]
    pub(crate) fn block_on<R>(&self, verb: &str, future: impl Future<Output = R>) -> R {
        self.assert_may_block(verb);
        self.runtime().block_on(future)
    }

    #[track_caller]
    pub(crate) fn assert_may_block(&self, verb: &str) {
        self.ensure_runtime();
        // Only tokio knows, and panics when it does not like it.
        assert!(
            catch_panic(|| self.runtime().block_on(async {})).is_some(),
            "`{verb}` would block a thread that drives asynchronous tasks: use the verb without \
             `blocking_` there, or call it through `spawn_blocking`"
        );
    }

    /// A caller in the wait list goes away.
    #[cold]
    pub(crate) fn cancel_waiter(&self, waiter_key: WaiterKey) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.cancel_waiter(shard_id, waiter_key, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    pub(crate) fn overflow_limit(&self) -> usize {
        self.config.overflow_limit
    }

    pub(crate) fn add_quota(&self, limit: usize) -> usize {
        self.limiter.add_quota(limit)
    }

    pub(crate) fn remove_quota(&self, key: usize) {
        self.limiter.remove_quota(key);
    }

    /// Refuses a job that was not even made if the pool is full.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        self.limiter.refuse_if_full()
    }

    /// What becomes of submits that would deadlock.
    #[cfg(feature = "tower")]
    pub(crate) fn on_deadlock(&self) -> OnDeadlock {
        self.config.on_deadlock
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let counts = self.limiter.counts();
        let (workers, idle) = self.workers.count();
        PoolStatus {
            size: counts.size,
            queue: counts.queue_capacity,
            workers,
            idle,
            running: counts.running,
            queued: counts.queued,
            waiting: counts.waiting,
            waiting_reservers: counts.waiting_reservers,
            overflow: counts.overflow,
            in_caller: counts.in_caller,
            reserved: counts.reserved,
            held_slots: counts.held_slots,
            submitted: counts.jobs.submitted,
            refused: counts.jobs.refused,
            withdrawn: counts.jobs.withdrawn,
            completed: counts.jobs.completed,
            panicked: counts.jobs.panicked,
            cancelled: counts.jobs.cancelled,
        }
    }

    /// Runs a step of a job on behalf of nobody in particular; used by workers.
    pub(crate) fn poll(&self, job: &Runnable) -> Step {
        context::enter(self.id(), job.ptr(), || job.poll())
    }
}

impl JobScheduler for Shared {
    fn schedule(&self, job: Runnable) {
        self.push_runnable(self.current_shard(), job);
    }

    fn await_start(&self, job: RawJob, waiter_key: WaiterKey, waker: &Waker) -> bool {
        self.limiter.await_start(job, waiter_key, waker)
    }

    fn withdraw(&self, job: RawJob, waiter_key: WaiterKey) -> bool {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let withdrawn = self.limiter.withdraw(shard_id, job, waiter_key, &mut deferred);
        self.run_deferred(shard_id, deferred);
        withdrawn.map(|job| self.end_withdrawn(shard_id, job)).is_some()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.config.name).finish_non_exhaustive()
    }
}
