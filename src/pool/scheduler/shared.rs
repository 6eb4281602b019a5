//! What the handles, workers and jobs of one pool share.

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::error::Panic;
use crate::panic::catch_panic;
use crate::pool::job::{JobScheduler, RawJob, Runnable, Step};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::{Admission, Offer, OnFull, Verdict};
use crate::pool::scheduler::context;
use crate::pool::scheduler::idle::Crew;
use crate::pool::scheduler::poll_times::Pace;
use crate::pool::scheduler::shard::{Kept, ShardId};
use crate::pool::scheduler::stall_monitor::Lookout;
use crate::pool::status::Status;
use crate::trace::event;

/// What happens to a `schedule` from within the pool's own jobs that could never end.
///
/// A job that waits for a slot of the pool it runs on keeps its own meanwhile. Once every slot is
/// held by such a job, none of them can go on. Millpond notices the last of them: the one whose
/// waiting would close the circle. The calls of `try_go` and `anyway_go` themselves wait for nothing.
///
/// What is noticed is a wait in line by the job itself, not by a task it spawned. A job that awaits the handle, the start or the group of
/// another job that is queued behind it, and jobs of several quotas that wait for each other, are
/// not: there no submit could fail. Nor is a job that has a slot [reserved](crate::Pool::reserver)
/// or [held](crate::Pool::hold_slot) for another while it waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nested {
    /// The submit fails with [`ScheduleError::WouldDeadlock`](crate::ScheduleError).
    #[default]
    Error,
    /// The job runs in the job that submitted it, as with [`try_go`](crate::Pool::try_go).
    Inline,
}

/// Called with each panic a job of the pool ended by.
pub(crate) type OnPanic = Arc<dyn Fn(&Panic) + Send + Sync>;

pub(crate) struct Config {
    pub(crate) name: Arc<str>,
    pub(crate) idle_timeout: Duration,
    pub(crate) min_idle: usize,
    pub(crate) overflow_limit: usize,
    pub(crate) nested: Nested,
    pub(crate) spans: bool,
    pub(crate) on_panic: Option<OnPanic>,
}

pub(crate) struct Core {
    pub(crate) admission: Admission,
    pub(crate) crew: Crew,
    pub(crate) config: Config,
    pub(crate) idle: Notify,
    runtime: OnceLock<Handle>,
    pub(crate) pace: Pace,
    me: Weak<Self>,
}

/// A shard with fewer slots than this would lend and borrow them all the time.
const SLOTS_WORTH_A_SHARD: usize = 8;

/// Another worker is called when the ready jobs of a shard would take one this long. Waking a
/// parked thread takes a fifth of it, and jobs that move between threads run slower.
const WORTH_A_CALL: u64 = 100_000;

impl Core {
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
        let shards = threads.min(size.get() / SLOTS_WORTH_A_SHARD).max(1);
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
        Arc::new_cyclic(|me| Self {
            admission: Admission::new(shards, size.get(), queue),
            crew: Crew::new(threads, size.get()),
            config,
            idle: Notify::new(),
            runtime: runtime.map_or_else(OnceLock::new, OnceLock::from),
            pace: Pace::new(),
            me: me.clone(),
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
                 submit it from inside one, or build the pool with `Builder::runtime`"
            ),
        })
    }

    pub(crate) fn id(&self) -> usize {
        self as *const Self as usize
    }

    pub(crate) fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("only reached through a live reference")
    }

    /// The shard of the current thread.
    #[cfg(not(millpond_loom))]
    #[inline]
    pub(crate) fn current_shard(&self) -> ShardId {
        match self.admission.shards().len() {
            1 => 0,
            shards => tokio::runtime::worker_index().unwrap_or(0) % shards,
        }
    }

    #[cfg(millpond_loom)]
    pub(crate) fn current_shard(&self) -> ShardId {
        crate::sync::current_shard() % self.admission.shards().len()
    }

    pub(crate) fn admit(
        &self,
        offer: &mut impl Offer,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> Verdict {
        let shard_id = self.current_shard();
        let verdict = self.admission.admit(shard_id, offer, quota, on_full);
        self.follow(shard_id, verdict)
    }

    /// Whether a submitter is to yield to the runtime: its jobs are run on another thread again
    /// and again. No use on threads where no worker could run.
    #[inline]
    pub(crate) fn wants_yield(&self) -> bool {
        self.admission.shards().len() > 1
            && self.admission.shard(self.current_shard()).is_to_yield()
            && !self.admission.needs_desk()
            && (cfg!(millpond_loom) || tokio::runtime::worker_index().is_some())
    }

    pub(crate) fn reserve(&self, quota: Option<usize>, cx: Option<&Context<'_>>) -> Verdict {
        let shard_id = self.current_shard();
        let verdict = self.admission.reserve(shard_id, quota, cx.map(|cx| (cx.waker(), self.id())));
        self.follow(shard_id, verdict)
    }

    /// A caller in line for a slot was told to come.
    pub(crate) fn collect(&self, ticket: usize) -> Verdict {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let verdict = self.admission.collect(ticket, &mut deferred);
        self.apply(shard_id, deferred);
        self.follow(shard_id, verdict)
    }

    pub(crate) fn redeem(&self, offer: &mut impl Offer, quota: Option<usize>) -> Verdict {
        let shard_id = self.current_shard();
        let verdict = self.admission.redeem(shard_id, offer, quota);
        if verdict == Verdict::Closed {
            self.free(quota, Kept::Refused);
        }
        self.follow(shard_id, verdict)
    }

    /// Gives back a slot that was kept without a job.
    pub(crate) fn free(&self, quota: Option<usize>, kept: Kept) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.admission.free(shard_id, quota, kept, &mut deferred);
        self.apply(shard_id, deferred);
    }

    /// Calls a worker for what was started.
    pub(crate) fn follow(&self, shard_id: ShardId, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Started { call, depth } => self.attend(shard_id, call, depth),
            Verdict::Overflow { call, depth } => {
                self.attend(shard_id, call, depth);
                event!(DEBUG, pool = &*self.config.name, "job overflows");
            }
            Verdict::Full | Verdict::Closed | Verdict::Deadlock => self.tell_refused(verdict),
            Verdict::InLine | Verdict::Waiting(_) | Verdict::Inline | Verdict::Reserved => {}
        }
        verdict
    }

    /// Sees to it that somebody polls what is ready in a shard.
    #[inline]
    fn attend(&self, shard_id: ShardId, call: bool, depth: usize) {
        // Otherwise everybody is busy, with the jobs of this shard or with others: for how long?
        // And a worker called from within a job is to run on this thread, once that returns.
        if call && self.crew.call(self, shard_id) && context::current().is_none() {
            return;
        }
        if self.crew.wants_lookout() {
            Lookout::start(self.arc());
        }
        self.consider_help(shard_id, depth);
    }

    #[cold]
    fn tell_refused(&self, _verdict: Verdict) {
        event!(DEBUG, pool = &*self.config.name, reason = ?_verdict, "job refused");
    }

    fn consider_help(&self, shard_id: ShardId, depth: usize) {
        if self.crew.has_spare() && self.pace.wait(depth) > WORTH_A_CALL {
            self.crew.reinforce(
                self,
                (shard_id + 1) % self.admission.shards().len(),
                self.crew.enough(),
            );
        }
    }

    /// Does what was left to do when the locks were released.
    pub(crate) fn apply(&self, shard_id: ShardId, mut deferred: DeferredWakes) {
        for job in deferred.take_started() {
            job.leave_wait_list();
            self.make_ready(shard_id, job);
        }
        deferred.wake_all();
        self.tell_idle(deferred.idle);
    }

    /// Tells whoever waits for the pool's last job.
    pub(crate) fn tell_idle(&self, idle: bool) {
        if idle {
            catch_panic(|| self.idle.notify_waiters());
            self.crew.call_all_if(self.admission.is_closed());
        }
    }

    /// Queues a job that holds what it needs to run.
    pub(crate) fn make_ready(&self, shard_id: ShardId, job: Runnable) {
        let mut shard = self.admission.shard(shard_id).lock();
        // The flag is set before the queues are emptied for the last time.
        if self.admission.is_dead() {
            drop(shard);
            return self.cancel(shard_id, job);
        }
        let call = shard.push(job);
        let depth = shard.ready.len();
        drop(shard);
        self.attend(shard_id, call, depth);
    }

    pub(crate) fn close(&self) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let first = self.admission.close(shard_id, &mut deferred);
        self.apply(shard_id, deferred);
        if first {
            event!(INFO, pool = &*self.config.name, "pool closed");
            // Idle workers have nothing to wait for any more.
            self.crew.call_all_if(true);
        }
    }

    pub(crate) fn resize(&self, size: NonZeroUsize) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let before = self.admission.resize(shard_id, size.get(), &mut deferred);
        self.crew.resize(size.get());
        self.apply(shard_id, deferred);
        event!(INFO, pool = &*self.config.name, before, size, "pool resized");
        let _ = before;
    }

    /// Blocks the thread until the future is ready.
    #[track_caller]
    pub(crate) fn block_on<R>(&self, verb: &str, future: impl Future<Output = R>) -> R {
        self.refuse_to_block(verb);
        self.runtime().block_on(future)
    }

    #[track_caller]
    pub(crate) fn refuse_to_block(&self, verb: &str) {
        self.ensure_runtime();
        // Only tokio knows, and panics when it does not like it.
        assert!(
            catch_panic(|| self.runtime().block_on(async {})).is_some(),
            "`{verb}` would block a thread that drives asynchronous tasks: use the verb without \
             `blocking_` there, or call it through `spawn_blocking`"
        );
    }

    /// A caller in line goes away.
    #[cold]
    pub(crate) fn leave_line(&self, ticket: usize) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        self.admission.leave(shard_id, ticket, &mut deferred);
        self.apply(shard_id, deferred);
    }

    pub(crate) fn overflow_limit(&self) -> usize {
        self.config.overflow_limit
    }

    pub(crate) fn add_quota(&self, limit: usize) -> usize {
        self.admission.add_quota(limit)
    }

    pub(crate) fn remove_quota(&self, key: usize) {
        self.admission.remove_quota(key);
    }

    /// Refuses a job that was not even made if the pool is full.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn turns_away(&self) -> bool {
        self.admission.turns_away()
    }

    /// What becomes of submits that would deadlock.
    #[cfg(feature = "tower")]
    pub(crate) fn nested(&self) -> Nested {
        self.config.nested
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn status(&self) -> Status {
        let census = self.admission.census();
        let (workers, idle) = self.crew.count();
        Status {
            size: census.size,
            queue: census.places,
            workers,
            idle,
            running: census.running,
            queued: census.queued,
            waiting: census.waiting,
            reserving: census.reserving,
            overflow: census.overflow,
            inline: census.inline,
            reserved: census.reserved,
            held: census.held,
            submitted: census.jobs.submitted,
            refused: census.jobs.refused,
            withdrawn: census.jobs.withdrawn,
            completed: census.jobs.completed,
            panicked: census.jobs.panicked,
            cancelled: census.jobs.cancelled,
        }
    }

    /// Runs a step of a job on behalf of nobody in particular; used by workers.
    pub(crate) fn poll(&self, job: &Runnable) -> Step {
        context::enter(self.id(), job.ptr(), || job.poll())
    }
}

impl JobScheduler for Core {
    fn schedule(&self, job: Runnable) {
        self.make_ready(self.current_shard(), job);
    }

    fn await_start(&self, job: RawJob, ticket: usize, waker: &Waker) -> bool {
        self.admission.await_start(job, ticket, waker)
    }

    fn withdraw(&self, job: RawJob, ticket: usize) -> bool {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let withdrawn = self.admission.withdraw(shard_id, job, ticket, &mut deferred);
        self.apply(shard_id, deferred);
        withdrawn.map(|job| self.end_withdrawn(shard_id, job)).is_some()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("name", &self.config.name).finish_non_exhaustive()
    }
}
