//! What the handles, workers and jobs of one pool share.
//!
//! Every entry into a pool goes through [`Shared`]. It joins three parts that do not know each
//! other: the limiter, the idle list and the poll times. Its callers:
//!
//! * `pool::submit`, `group` and `layer` submit jobs, and reserve and release slots.
//! * `job`, through the trait [`JobScheduler`], brings back jobs that were woken or aborted.
//! * `worker`, `wake` and `complete` run the jobs and record their ends.
//!
//! Each method has the same three steps: find the shard of the current thread, call the limiter, and
//! then, without a lock, do what the limiter left to do ([`run_deferred`](Shared::run_deferred),
//! [`after_submit`](Shared::after_submit)). No method may call a waker, drop a job or spawn a worker
//! while the limiter or the idle list is locked.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::error::{JobPanic, SubmitErrorKind};
use crate::panic::catch_panic;
use crate::pool::context::{self, PoolId};
use crate::pool::job::{
    JobGroup, JobScheduler, RawJob, Runnable, SlotHold, SlotKind, Step, WithdrawReason,
};
use crate::pool::jobs::{JobInfo, Longest};
use crate::pool::limiter::counts::{LeaveReason, ReleaseReason};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::overload::TargetWait;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::limiter::{AcquireOutcome, Limiter, OnFull, PendingJob};
use crate::pool::name_table::NameTable;
use crate::pool::options::Requirements;
use crate::pool::scheduler::binding::{Binding, BindingGuard, BindingState, is_alive};
use crate::pool::scheduler::complete::{cancel, cancel_all, end_withdrawn};
use crate::pool::scheduler::expiry::{self, Expiry};
use crate::pool::scheduler::idle::IdleWorkers;
use crate::pool::scheduler::poll_times::PollTimes;
use crate::pool::scheduler::slow::Slow;
use crate::pool::scheduler::wake::{spawn_up_to, wake_worker_for};
use crate::pool::scheduler::worker_handle::WorkerHandle;
use crate::pool::status::PoolStatus;
use crate::pool::timings::Clock;
use crate::sync::{failpoint, without};
use crate::trace::{Place, event};

/// The hook of [`PoolBuilder::on_panic`](crate::PoolBuilder::on_panic).
pub(crate) type OnPanic = Arc<dyn Fn(&JobPanic) + Send + Sync>;

/// The settings of a pool that do not change.
pub(crate) struct Config {
    pub(crate) name: Arc<str>,
    pub(crate) idle_timeout: Duration,
    pub(crate) min_idle: usize,
    pub(crate) overflow_limit: usize,
    pub(crate) propagate_span: bool,
    pub(crate) target_wait: TargetWait,
    pub(crate) slow_job: Option<Duration>,
    pub(crate) on_panic: Option<OnPanic>,
}

pub(crate) struct Shared {
    pub(crate) limiter: Limiter,
    pub(crate) workers: IdleWorkers,
    pub(crate) config: Config,
    /// Notified when the pool becomes idle.
    pub(crate) idle_notify: Notify,
    pub(super) expiry: Expiry,
    pub(super) slow: Slow,
    /// The runtime that workers are spawned on: the builder's, or that of the first job.
    binding: Binding,
    pub(super) poll_times: PollTimes,
    pub(crate) clock: Clock,
    /// How the jobs of named groups ended.
    pub(crate) names: NameTable,
    id: PoolId,
    weak_self: Weak<Self>,
}

/// The id of the next pool. No pool has the id 0. After four billion pools, two living ones may share an id.
/// Then a wait for one of them counts as a wait for the other, and a slot may be lent without need.
static NEXT_ID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

/// A pool has no more shards than give each this many slots. Smaller shards would exchange slots
/// through the state lock at almost every job.
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
        let shards = if without("shards") { 1 } else { shards };
        Self::with_shards(shards, threads, config, size, queue, runtime)
    }

    /// Makes the shared part with a given number of shards. Called by `new` and by the models.
    pub(crate) fn with_shards(
        shards: usize,
        threads: usize,
        config: Config,
        size: NonZeroUsize,
        queue: usize,
        runtime: Option<Handle>,
    ) -> Arc<Self> {
        // Relaxed, without a partner: the numbers need only differ.
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let clock = Clock::new();
        Arc::new_cyclic(|weak_self| Self {
            id,
            limiter: Limiter::new(id, shards, size.get(), queue, config.target_wait, clock),
            workers: IdleWorkers::new(threads, size.get()),
            config,
            idle_notify: Notify::new(),
            expiry: Expiry::new(),
            slow: Slow::new(),
            binding: Binding::new(runtime),
            poll_times: PollTimes::new(),
            clock,
            names: NameTable::default(),
            weak_self: weak_self.clone(),
        })
    }

    /// Binds the pool to the current runtime, unless the pool is bound already. A pool whose runtime
    /// is gone moves to the current one if it may. Called at the begin of each submit.
    ///
    /// # Panics
    ///
    /// Panics if the pool is not bound and the caller is outside of a runtime, or if the runtime has
    /// no timers.
    #[track_caller]
    #[inline]
    pub(crate) fn ensure_runtime(&self) {
        if !cfg!(millpond_loom) && !self.binding.is_bound() {
            self.bind();
        }
    }

    #[track_caller]
    #[cold]
    fn bind(&self) {
        let mut binding = self.binding.lock();
        if binding.state() == BindingState::Unbound {
            let Ok(handle) = Handle::try_current() else {
                panic!(
                    "a pool without a runtime got its first job outside of a tokio runtime: submit \
                     the job inside a runtime, or build the pool with `PoolBuilder::runtime`"
                )
            };
            // Idle workers need timers. Without timers this panics here, in the caller, and not
            // later in a worker.
            drop(tokio::time::sleep(Duration::ZERO));
            binding.bind(handle);
            return;
        }
        let unwatched = binding.state() == BindingState::Unwatched;
        drop(binding);
        if unwatched {
            self.look_at_runtime();
        }
        if self.binding.is_gone() {
            self.revive();
        }
    }

    /// Finds out whether the runtime lives. Moves the pool if it does not and the pool may move, and closes
    /// the pool otherwise. Called while perhaps no worker would tell of the runtime's end.
    pub(super) fn look_at_runtime(&self) {
        let runtime = self.runtime();
        let is_alive = is_alive(&runtime);
        let mut binding = self.binding.lock();
        // Another thread may have looked at the same time, and moved or closed the pool.
        if is_alive {
            if binding.state() == BindingState::Unwatched {
                binding.set(BindingState::Bound);
            }
        } else if binding.is_unaware_of_end(runtime.id()) {
            match self.bind_successor(&mut binding, None) {
                Some(old) => self.note_move(binding, old),
                None => self.lose(binding),
            }
        }
    }

    /// Notes that a worker retired. If it was the last one, nothing tells of the runtime's end.
    pub(super) fn watch_ends(&self) {
        let binding = self.binding.lock();
        if binding.state() == BindingState::Bound && self.workers.count().0 == 0 {
            binding.set(BindingState::Unwatched);
        }
    }

    /// Closes the pool and cancels its jobs, because its runtime has shut down. Called by each worker
    /// that the runtime drops.
    pub(super) fn lose_runtime(&self) {
        self.lose(self.binding.lock());
    }

    fn lose(&self, mut binding: BindingGuard<'_>) {
        binding.begin_loss();
        drop(binding);
        cancel_all(self, true);
        self.binding.lock().end_loss();
    }

    /// Binds the pool to the runtime of this thread, because the old one is gone and no job of it is
    /// left. `worker` is the only worker, if there is one. Returns whether the pool has moved.
    pub(super) fn move_to_current_runtime(&self, worker: Option<&Arc<WorkerHandle>>) -> bool {
        let mut binding = self.binding.lock();
        if binding.state() == BindingState::Gone {
            return false;
        }
        let Some(old) = self.bind_successor(&mut binding, worker) else { return false };
        self.note_move(binding, old);
        true
    }

    /// Binds the pool to the runtime of this thread if it may. Returns the old one, to drop without the
    /// lock.
    fn bind_successor(
        &self,
        binding: &mut BindingGuard<'_>,
        worker: Option<&Arc<WorkerHandle>>,
    ) -> Option<Handle> {
        let successor = binding.successor()?;
        if self.workers.leave_runtime(worker) { binding.bind(successor) } else { None }
    }

    fn note_move(&self, binding: BindingGuard<'_>, old: Handle) {
        drop(binding);
        drop(old);
        event!(DEBUG, pool = &*self.config.name, "pool moved to another runtime");
    }

    /// Opens the pool again in the runtime of this thread, if the pool was closed by the end of its
    /// runtime alone and has neither jobs nor workers left (W11).
    #[cold]
    fn revive(&self) {
        let mut binding = self.binding.lock();
        if binding.state() != BindingState::Gone {
            return;
        }
        let Some(successor) = binding.successor() else { return };
        if !self.workers.leave_runtime(None) || !self.limiter.reopen() {
            return;
        }
        if let Some(old) = binding.bind(successor) {
            self.note_move(binding, old);
        }
    }

    /// Returns why the pool takes no jobs, or `None` if the pool is open. Moves a pool whose runtime is
    /// gone, if it may. Called by the layer before it makes a call.
    #[cfg(feature = "tower")]
    pub(crate) fn refusal(&self) -> Option<SubmitErrorKind> {
        if !self.limiter.is_closed() {
            return None;
        }
        if self.binding.is_gone() {
            self.revive();
        }
        self.limiter.is_closed().then(|| self.limiter.closed_kind())
    }

    /// Returns the runtime of the pool.
    ///
    /// # Panics
    ///
    /// Panics if the pool is not bound.
    pub(crate) fn runtime(&self) -> Handle {
        self.binding.handle().expect("a submit binds the pool before its job is admitted")
    }

    /// Returns a number that tells this pool from the others.
    pub(crate) fn id(&self) -> PoolId {
        self.id
    }

    pub(super) fn weak(&self) -> Weak<Self> {
        self.weak_self.clone()
    }

    pub(crate) fn arc(&self) -> Arc<Self> {
        self.weak_self.upgrade().expect("only reached through a live reference")
    }

    /// Returns the shard of the current thread: its index among the runtime's threads, or 0 outside
    /// of the runtime.
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

    /// Offers a job to the limiter, and wakes a worker if the job starts.
    #[inline]
    pub(crate) fn admit(
        &self,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.admit(shard_id, pending, quota, on_full);
        self.after_submit(shard_id, quota, &outcome);
        outcome
    }

    /// Returns whether a submitter must yield to the runtime once, because its jobs moved to another
    /// thread again and again. Yielding does not help on a thread where no worker can run.
    #[inline]
    pub(crate) fn should_yield(&self) -> bool {
        self.limiter.shards().len() > 1
            && self.limiter.shard(self.current_shard()).should_yield()
            && !self.limiter.needs_slow_release()
            && (cfg!(millpond_loom) || tokio::runtime::worker_index().is_some())
    }

    /// Reserves a slot without a job. With a context, a caller that finds no slot waits in the wait
    /// list.
    pub(crate) fn reserve(
        &self,
        group: Option<&dyn JobGroup>,
        cx: Option<&Context<'_>>,
        requirements: Requirements,
    ) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.reserve(shard_id, group, cx.map(Context::waker), requirements);
        self.after_submit(shard_id, group.and_then(JobGroup::quota), &outcome);
        outcome
    }

    /// Takes the outcome of a reserver that was notified in the wait list: its slot, or a refusal.
    pub(crate) fn take_granted(&self, waiter_key: WaiterKey) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let outcome = self.limiter.take_granted(waiter_key, &mut deferred);
        self.run_deferred(shard_id, deferred);
        self.after_submit(shard_id, None, &outcome);
        outcome
    }

    /// Offers a job for a reserved slot. A closed pool refuses the job, and the slot is released.
    pub(crate) fn submit_reserved(
        &self,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
    ) -> AcquireOutcome {
        let shard_id = self.current_shard();
        let outcome = self.limiter.submit_reserved(shard_id, pending, quota);
        if let AcquireOutcome::Refused(_) = outcome {
            self.release_slot(quota, ReleaseReason::Refused);
        }
        self.after_submit(shard_id, quota, &outcome);
        outcome
    }

    /// Lets a job that waits lend its slot, because its slot guard was dropped.
    pub(crate) fn end_guard(&self, job_id: usize, slot_hold: &Arc<SlotHold>) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.end_guard(shard_id, job_id, slot_hold, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    /// Releases a slot that is reserved, or held beyond its job.
    pub(crate) fn release_slot(&self, quota: Option<usize>, reason: ReleaseReason) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.release_slot(shard_id, quota, reason, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    /// Wakes a worker for a job that was started, lends a slot to a waiter if the pool is stuck, and
    /// logs refusals. Called after each offer to the limiter, without a lock.
    // Inlined: as a call it costs a tiny job some 3 % more instructions.
    #[inline(always)]
    pub(crate) fn after_submit(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        outcome: &AcquireOutcome,
    ) {
        if let AcquireOutcome::Started { needs_wake, depth } = *outcome {
            wake_worker_for(self, shard_id, needs_wake, depth);
        } else {
            self.after_no_start(shard_id, quota, outcome);
        }
    }

    #[cold]
    fn after_no_start(&self, shard_id: ShardId, quota: Option<usize>, outcome: &AcquireOutcome) {
        match *outcome {
            AcquireOutcome::Overflow { needs_wake, depth } => {
                wake_worker_for(self, shard_id, needs_wake, depth);
                event!(DEBUG, pool = &*self.config.name, "job overflows");
            }
            AcquireOutcome::Refused(kind) => self.log_refused(kind),
            AcquireOutcome::Enqueued
            | AcquireOutcome::Waiting(_)
            | AcquireOutcome::WaitingForStart(_) => {
                if self.limiter.has_deadlines() {
                    expiry::watch(self);
                }
                if self.limiter.may_be_stuck() {
                    let mut deferred = DeferredWakes::default();
                    self.limiter.lend(shard_id, quota, &mut deferred);
                    self.run_deferred(shard_id, deferred);
                }
            }
            AcquireOutcome::Started { .. }
            | AcquireOutcome::RunInCaller(_)
            | AcquireOutcome::Reserved => {}
        }
    }

    #[cold]
    pub(crate) fn log_refused(&self, _kind: SubmitErrorKind) {
        event!(DEBUG, pool = &*self.config.name, reason = ?_kind, "job refused");
    }

    /// Starts the jobs, calls the wakers and notifies the idle waiters that a step of the limiter left
    /// to do. Returns whether a job has started. Called without a lock.
    #[inline]
    pub(crate) fn run_deferred(&self, shard_id: ShardId, deferred: DeferredWakes) -> bool {
        self.run_deferred_for(shard_id, deferred, false)
    }

    /// As [`run_deferred`](Self::run_deferred). If a worker `comes_back` to the shard, the jobs need no other
    /// one.
    #[inline]
    pub(super) fn run_deferred_for(
        &self,
        shard_id: ShardId,
        deferred: DeferredWakes,
        comes_back: bool,
    ) -> bool {
        if deferred.is_empty() {
            deferred.forget_empty();
            return false;
        }
        self.run_some_deferred(shard_id, deferred, comes_back)
    }

    fn run_some_deferred(
        &self,
        shard_id: ShardId,
        mut deferred: DeferredWakes,
        comes_back: bool,
    ) -> bool {
        let started = deferred.take_started(|job| {
            job.leave_wait_list();
            self.push_for(shard_id, job, comes_back);
        });
        deferred.wake_all();
        self.notify_idle(deferred.idle);
        deferred.forget_empty();
        started
    }

    /// Notifies the idle waiters if the pool has become idle. The workers of a closed pool are woken
    /// to retire.
    #[inline]
    pub(super) fn notify_idle(&self, idle: bool) {
        if idle {
            self.notify_idle_waiters();
        }
    }

    #[cold]
    fn notify_idle_waiters(&self) {
        catch_panic(|| self.idle_notify.notify_waiters());
        if self.limiter.is_closed() && !failpoint("workers of an ended pool stay") {
            self.workers.wake_all();
        }
    }

    /// Puts an admitted job into a run queue. Called for jobs that leave the wait list, were woken or
    /// aborted while suspended, or were taken from a stalled worker.
    pub(super) fn push_runnable(&self, shard_id: ShardId, job: Runnable) {
        self.push_for(shard_id, job, false);
    }

    fn push_for(&self, shard_id: ShardId, job: Runnable, comes_back: bool) {
        let mut shard = self.limiter.shard(shard_id).lock();
        // `cancel_all` sets the flag before it empties this shard. It finds the job, or this check
        // finds the flag.
        if self.limiter.is_runtime_gone() {
            drop(shard);
            return cancel(self, shard_id, job);
        }
        let needs_wake = shard.push(job) && !comes_back;
        let depth = shard.run_queue.len();
        drop(shard);
        wake_worker_for(self, shard_id, needs_wake, depth);
    }

    /// Spawns workers until there are `workers`, or as many as the pool has slots.
    pub(crate) fn prewarm(&self, workers: usize) {
        self.ensure_runtime();
        spawn_up_to(self, workers.min(self.limiter.counts().size));
    }

    /// Closes the pool; see [`Pool::close`](crate::Pool::close).
    pub(crate) fn close(&self) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let first = self.limiter.close(shard_id, &mut deferred);
        self.run_deferred(shard_id, deferred);
        if first {
            event!(INFO, pool = &*self.config.name, "pool closed");
            // Idle workers of a closed pool without jobs retire now, not at their idle timeout.
            self.workers.wake_all();
        }
    }

    /// Gives the callers of a group in the wait list their jobs back. Called by a group that takes
    /// no more jobs.
    pub(crate) fn reject_group(&self, tag: usize, kind: SubmitErrorKind) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.reject_group(shard_id, tag, kind, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    /// Hands out no slots; see [`Pool::pause`](crate::Pool::pause).
    pub(crate) fn pause(&self) {
        if self.limiter.pause() {
            event!(INFO, pool = &*self.config.name, "pool paused");
        }
    }

    /// Hands out slots again; see [`Pool::resume`](crate::Pool::resume).
    pub(crate) fn resume(&self) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let was_paused = self.limiter.resume(shard_id, &mut deferred);
        self.run_deferred(shard_id, deferred);
        if was_paused {
            event!(INFO, pool = &*self.config.name, "pool resumed");
        }
    }

    /// Cancels the jobs in the wait list; see
    /// [`Pool::cancel_waiting`](crate::Pool::cancel_waiting).
    pub(crate) fn cancel_waiting(&self) -> usize {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let jobs = self.limiter.take_waiting_jobs(shard_id, &mut deferred);
        self.run_deferred(shard_id, deferred);
        let cancelled = jobs.len();
        jobs.into_iter().for_each(|job| end_withdrawn(self, shard_id, job, WithdrawReason::Abort));
        cancelled
    }

    /// Changes the size; see [`Pool::resize`](crate::Pool::resize).
    pub(crate) fn resize(&self, size: NonZeroUsize) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let before = self.limiter.resize(shard_id, size.get(), &mut deferred);
        self.workers.resize(size.get());
        self.run_deferred(shard_id, deferred);
        event!(INFO, pool = &*self.config.name, before, size, "pool resized");
        let _ = before;
    }

    /// Blocks the thread until the future is ready. `verb` names the caller in the panic message.
    #[track_caller]
    pub(crate) fn block_on<R>(&self, verb: &str, future: impl Future<Output = R>) -> R {
        self.assert_may_block(verb);
        context::enter_blocking(|| self.runtime().block_on(future))
    }

    /// Panics if the current thread drives a runtime. Called by each blocking verb before its job is
    /// submitted.
    #[track_caller]
    pub(crate) fn assert_may_block(&self, verb: &str) {
        self.ensure_runtime();
        // tokio has no query for this. Its `block_on` panics where blocking is not allowed.
        assert!(
            catch_panic(|| self.runtime().block_on(async {})).is_some(),
            "`{verb}` would block a thread that drives asynchronous tasks: use the verb without \
             `blocking_` there, or call the verb through `spawn_blocking`"
        );
    }

    /// Removes a caller from the wait list, and passes on what it was granted. Called when its future
    /// or its reserver is dropped.
    #[cold]
    pub(crate) fn cancel_waiter(&self, waiter_key: WaiterKey, reason: LeaveReason) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.limiter.cancel_waiter(shard_id, waiter_key, reason, &mut deferred);
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

    /// Counts and refuses a job that does not exist yet, if the pool is full. Returns whether it did.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        self.limiter.refuse_if_full()
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Reports a panic to the log and to the pool's hook. Called inside the job's span, before the
    /// job's output is published.
    #[cold]
    pub(crate) fn report_panic(&self, panic: &JobPanic, _place: Place) {
        event!(
            ERROR,
            pool = &*self.config.name,
            message = panic.message(),
            submitted_at = %_place,
            "job panicked"
        );
        if let Some(on_panic) = &self.config.on_panic {
            catch_panic(|| on_panic(panic));
        }
    }

    /// Takes a snapshot of all counters and of the workers.
    pub(crate) fn status(&self) -> PoolStatus {
        let counts = self.limiter.counts();
        let (workers, idle) = self.workers.count();
        PoolStatus {
            size: counts.size,
            queue: counts.queue_capacity,
            workers,
            idle,
            running: counts.running,
            lent: counts.lent,
            queued: counts.queued,
            waiting: counts.waiting,
            granted: counts.granted,
            waiting_reservers: counts.waiting_reservers,
            overflow: counts.overflow,
            in_caller: counts.in_caller,
            reserved: counts.reserved,
            held_slots: counts.held_slots,
            paused: counts.paused,
            submitted: counts.jobs.submitted,
            refused: counts.jobs.refused,
            withdrawn: counts.jobs.withdrawn,
            completed: counts.jobs.completed,
            panicked: counts.jobs.panicked,
            cancelled: counts.jobs.cancelled,
            expired: counts.jobs.expired,
            oldest_wait: counts.oldest_since.map_or(Duration::ZERO, |since| since.elapsed()),
            expected_wait: counts.expected_wait,
        }
    }

    /// Offers all jobs of the pool to a list.
    pub(crate) fn list_jobs(&self, list: &mut Longest) {
        self.limiter.list_jobs(list);
        let now = self.clock.now();
        for handle in self.workers.handles() {
            if let Some(place) = handle.polling.get() {
                let age = Duration::from_nanos(now.nanos_since(handle.read_at_or(now)));
                list.offer(age, || Some(JobInfo::of_place(place, age)));
            }
        }
    }

    /// Polls a job once, with the job as the thread's current job. The second result says whether the
    /// job waits for this pool. Called by workers.
    #[inline]
    pub(super) fn poll(&self, job: &Runnable) -> (Step, bool) {
        context::enter(self.id, job.ptr(), || job.poll())
    }

    /// Notes that a job waits for this pool, so that the job can lend its slot. Called after the poll,
    /// before the job is suspended. From the first wait on, called after each poll; `is_seen` tells
    /// whether that poll found a wait.
    #[cold]
    pub(super) fn block(&self, job: &Runnable, is_seen: bool) {
        job.set_waited();
        // A closure that runs keeps the slot in use.
        if job.slot_kind() == SlotKind::Overflow || job.is_abort_deferred() {
            return;
        }
        job.set_blocked(true);
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let slot_hold = job.slot_hold();
        self.limiter.block(shard_id, (job.ptr(), is_seen), slot_hold, &mut deferred);
        self.run_deferred(shard_id, deferred);
    }

    /// Ends the wait of a blocked job that was woken or is to be cancelled. Returns the job if it may
    /// go to a run queue. A job that lent its slot follows when it has one again.
    #[inline]
    pub(super) fn unblock(&self, job: Runnable) -> Option<Runnable> {
        if job.is_blocked() { self.unblock_slow(job) } else { Some(job) }
    }

    #[cold]
    fn unblock_slow(&self, job: Runnable) -> Option<Runnable> {
        job.set_blocked(false);
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let job = self.limiter.unblock(shard_id, job, &mut deferred);
        self.run_deferred(shard_id, deferred);
        job
    }
}

impl JobScheduler for Shared {
    fn schedule(&self, job: Runnable) {
        if let Some(job) = self.unblock(job) {
            self.push_runnable(self.current_shard(), job);
        }
    }

    fn await_start(&self, job: RawJob, waiter_key: WaiterKey, waker: &Waker) -> bool {
        self.limiter.await_start(job, waiter_key, waker)
    }

    fn withdraw(&self, job: RawJob, waiter_key: WaiterKey, reason: WithdrawReason) -> bool {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let started = reason.ends_started();
        let withdrawn = self.limiter.withdraw(shard_id, job, waiter_key, started, &mut deferred);
        self.run_deferred(shard_id, deferred);
        let Some(job) = withdrawn else { return false };
        match job.slot_kind() {
            // The job has started before, and waited to resume: it is aborted.
            SlotKind::Lent => cancel(self, shard_id, job),
            _ => end_withdrawn(self, shard_id, job, reason),
        }
        true
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.config.name).finish_non_exhaustive()
    }
}
