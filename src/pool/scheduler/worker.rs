//! A worker: a tokio task that polls jobs, one after another.
//!
//! `wake` spawns a worker and wakes it; the idle list (`idle`) holds it while it is parked. The life
//! of a worker stands in the head of `scheduler/mod.rs`.
//!
//! A worker serves one shard at a time, in turns. A turn alternates two steps:
//!
//! 1. **Without a lock**, poll the jobs of the local queue ([`Worker::poll_local_queue`]). This is
//!    the only place where the pool runs user code of a job.
//! 2. **Under one shard lock**, record what the polls left, and take the next batch of ready jobs
//!    ([`Worker::next_batch`]).
//!
//! A suspended job keeps its slot but no worker. So as many workers as the runtime has threads are
//! enough, whatever the size of the pool.
//!
//! A turn ends after [`TURN_JOBS`] polls or [`TURN_TIME`], or when the task's budget in tokio is
//! spent. The worker then yields, so that the other tasks of the runtime run.
//!
//! What must never happen: the worker parks while its shard has ready jobs (W2), or is dropped with
//! jobs in its hands (W8).

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::coop;
use tokio::time::{Sleep, sleep_until};

use crate::pool::job::{Runnable, Step, trim_cache};
use crate::pool::limiter::shard::{ShardGuard, ShardId};
use crate::pool::scheduler::complete::{Completions, cancel};
use crate::pool::scheduler::idle::ParkOutcome;
use crate::pool::scheduler::job_timer::JobTimer;
use crate::pool::scheduler::poll_times::PollTimes;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::slow;
use crate::pool::scheduler::worker_handle::{LOCAL_QUEUE_LEN, WorkerHandle};
use crate::sync::{failpoint, without};

/// The polls after which a turn ends.
const TURN_JOBS: u32 = 2_048;

/// The time after which a turn ends.
const TURN_TIME: Duration = Duration::from_micros(100);

/// A worker takes as many jobs at once as need about this many nanoseconds.
const BATCH_NANOS: u32 = 4_000;

/// The number of quick polls after which the clock is read. Slow polls are measured one by one.
const CLOCK_JOBS: u32 = 16;

/// The time of a shard's ready jobs, in nanoseconds, for which another worker steals half of them.
/// Jobs run slower on a thread other than their submitter's.
const WORTH_STEALING: u64 = 100_000;

pub(super) struct Worker {
    shared: Arc<Shared>,
    handle: Arc<WorkerHandle>,
    /// The shard that the worker serves.
    shard_id: ShardId,
    /// The worker is parked: it stands in the idle list, or a wake-up has just taken it out.
    idle: bool,
    /// When the worker will have been idle for the idle timeout. `None` while the worker has nothing
    /// to expire: it is one of `min_idle`, and has no timer.
    expires_at: Option<tokio::time::Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer has the task's waker.
    armed: bool,
    retired: bool,
    /// tokio has polled the worker: its runtime lived when the worker was spawned.
    polled: bool,
    /// The part of the local queue that was filled from the shard and is not polled yet.
    local_range: Range<usize>,
    /// What the polls left to be recorded under the next shard lock.
    completions: Completions,
    /// A job that was woken while it was polled.
    reschedule: Option<Runnable>,
    job_timer: JobTimer,
}

/// How a turn ended.
enum TurnEnd {
    /// The shard has more ready jobs, or expects some, but the worker must yield first.
    Yield,
    /// The shard has no ready job, and the shard's `has_worker` is cleared.
    Empty,
}

/// What a worker has done since it was polled by tokio, and the clock that measures the jobs.
struct TurnBudget {
    /// How many jobs the worker takes at once.
    batch: usize,
    /// Slow jobs are about: the clock is read after each poll.
    slow: bool,
    /// The last reading of the clock, if the clock runs.
    read: Option<Instant>,
    took: Duration,
    polls: u32,
    /// Polls since the last reading.
    unread: u32,
    over: bool,
}

impl TurnBudget {
    fn new(poll_times: &PollTimes) -> Self {
        let batch = poll_times.batch(BATCH_NANOS);
        let slow = batch < 2;
        let batch = if without("local queue") { 1 } else { batch };
        Self {
            batch: batch.clamp(1, LOCAL_QUEUE_LEN as u32) as usize,
            slow,
            read: slow.then(Instant::now),
            took: Duration::ZERO,
            polls: 0,
            unread: 0,
            over: false,
        }
    }

    /// Starts the clock. Called when jobs stand behind the next ones; one or two are not worth a
    /// reading.
    fn start(&mut self) {
        if !cfg!(millpond_loom) && self.read.is_none() {
            self.read = Some(Instant::now());
            self.polls += std::mem::take(&mut self.unread);
        }
    }

    /// Counts one poll.
    #[inline]
    fn tick(&mut self, poll_times: &PollTimes) {
        self.unread += 1;
        if self.slow || self.unread == CLOCK_JOBS {
            self.read_clock(poll_times);
        }
    }

    /// Adds the polls since the last reading.
    fn read_clock(&mut self, poll_times: &PollTimes) {
        // Models have no time.
        if !cfg!(millpond_loom) {
            let now = Instant::now();
            if let Some(before) = self.read.replace(now) {
                self.took += now - before;
                poll_times.observe(now - before, self.unread);
            }
        }
        self.polls += std::mem::take(&mut self.unread);
        self.over =
            (self.polls >= TURN_JOBS || self.took >= TURN_TIME) && !failpoint("a turn without end");
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

impl Worker {
    /// Spawns the worker of a registered handle, to serve a shard first. Called without a lock.
    pub(super) fn start(shared: Arc<Shared>, handle: Arc<WorkerHandle>, shard_id: ShardId) {
        let worker = Self {
            job_timer: JobTimer::new(&shared),
            shared,
            handle,
            shard_id,
            idle: false,
            expires_at: None,
            timer: None,
            armed: false,
            retired: false,
            polled: false,
            local_range: 0..0,
            completions: Completions::new(),
            reschedule: None,
        };
        worker.spawn();
    }

    #[cfg(not(millpond_loom))]
    fn spawn(self) {
        let (runtime, handle) = (self.shared.runtime(), self.handle.clone());
        runtime.spawn(self);
        handle.set_spawned();
    }

    #[cfg(millpond_loom)]
    fn spawn(self) {
        crate::sync::spawn(self.shard_id, self);
    }

    /// Polls the ready jobs of the shard until there are none or the budget is spent.
    fn turn(&mut self, budget: &mut TurnBudget) -> TurnEnd {
        loop {
            let over = self.poll_local_queue(budget);
            self.handle.polling.set(None);
            self.handle.step();
            self.completions.take_releases(&self.handle);
            let shared = &self.shared;
            let mut shard = shared.limiter.shard(self.shard_id).lock();
            self.completions.record(shared, self.shard_id, &mut shard);
            if let Some(job) = self.reschedule.take() {
                // The result of the push does not matter: this worker serves the shard.
                let _ = shard.push(job);
            }
            let unpolled = self.local_range.clone();
            self.local_range = Self::next_batch(&self.handle, unpolled, &mut shard, over, budget);
            let empty = self.local_range.is_empty() && shard.run_queue.is_empty();
            // Waiters that receive a slot now will submit at once. So the worker looks again after
            // them, instead of a park and a wake-up for every few jobs. With several threads, a task
            // that yields wakes another thread, which costs more.
            let hands_over = empty
                && shared.workers.has_one_thread()
                && self.completions.passes_slots_on()
                && !without("hand-over");
            // From here on a push must wake a worker (W2).
            shard.has_worker = !empty || hands_over;
            if empty || over {
                shard.shrink();
            }
            drop(shard);
            let refilled = self.completions.finish(shared, self.shard_id, true);
            if empty && !refilled && !hands_over {
                return TurnEnd::Empty;
            }
            if over || hands_over && !refilled {
                let lost = !over && failpoint("a worker that hands over does not come back");
                return if lost { TurnEnd::Empty } else { TurnEnd::Yield };
            }
        }
    }

    /// Refills the local queue from the run queue once it is empty. At the end of a turn, puts the
    /// local queue back instead: other workers must find the jobs while this one yields. Returns the
    /// part of the local queue to be polled next.
    fn next_batch(
        handle: &WorkerHandle,
        unpolled: Range<usize>,
        shard: &mut ShardGuard<'_>,
        over: bool,
        budget: &mut TurnBudget,
    ) -> Range<usize> {
        let local_queue = &handle.local_queue;
        let range = if over {
            let jobs = unpolled.rev().filter_map(|index| local_queue[index].take());
            jobs.for_each(|job| shard.push_front(job));
            if failpoint("jobs are put back at the wrong end") {
                shard.run_queue.rotate_left(1);
            }
            0..0
        } else if unpolled.is_empty() {
            0..shard.pop_batch(budget.batch, local_queue)
        } else {
            unpolled
        };
        if range.len() > 2 {
            budget.start();
        }
        range
    }

    /// Polls the local queue, up to a job whose outcome must be recorded before the next poll.
    /// Returns whether the turn is over.
    fn poll_local_queue(&mut self, budget: &mut TurnBudget) -> bool {
        for index in self.local_range.by_ref() {
            // The stall monitor may have taken the job for another worker (W4).
            let Some(job) = self.handle.local_queue[index].take() else { continue };
            let is_measured = self.job_timer.start(&self.shared, &self.handle, &job);
            let (step, waits) = self.shared.poll(&job);
            budget.tick(&self.shared.poll_times);
            match step {
                Step::Ended(end) => {
                    let clock = &self.shared.clock;
                    if is_measured {
                        self.completions.note_run(self.job_timer.end(clock), end);
                    }
                    if !self.completions.end(&self.handle, job, end, clock) {
                        return budget.is_over();
                    }
                }
                Step::Pending => {
                    // A wait that this poll did not come by may still go on.
                    if waits || job.has_waited() {
                        self.shared.block(&job, waits);
                    }
                    // The job may be pending because it spent the budget that tokio gives a task.
                    let spent =
                        !coop::has_budget_remaining() && !failpoint("tokio's budget ignored");
                    if job.suspended_key().is_none() {
                        // A waker may find the job only after the job has its key (W9).
                        let (shared, handle) = (&self.shared, &self.handle);
                        let since = self.job_timer.suspend(shared, handle, &job, is_measured);
                        self.completions.suspend(job, since);
                        return spent || budget.is_over();
                    }
                    self.reschedule = job.suspend().and_then(|job| self.shared.unblock(job));
                    if spent || self.reschedule.is_some() {
                        return spent || budget.is_over();
                    }
                }
            }
            if budget.is_over() {
                return true;
            }
        }
        false
    }

    /// Moves the worker to the shard of its current thread, together with all ready jobs of the
    /// shard that it was woken for. So the jobs stay on one thread, and new jobs in the old shard
    /// find a worker of their own.
    fn migrate_to_current_shard(&mut self) {
        let shard_id = self.shared.current_shard();
        let shards = self.shared.limiter.shards();
        if shard_id == self.shard_id {
            return shards[shard_id].reset_migrations();
        }
        let mut source = shards[self.shard_id].lock();
        source.has_worker = false;
        let jobs = source.take(true);
        drop(source);
        if !jobs.is_empty() {
            // While the submitter keeps its thread busy, tokio runs the woken worker on another
            // thread. Jobs and cells then cross threads, at three times the price, until the
            // submitter yields.
            shards[self.shard_id].note_migration();
        }
        self.shard_id = shard_id;
        self.push_all(jobs);
    }

    /// Puts jobs of another shard into the run queue of this worker's shard.
    fn push_all(&self, jobs: VecDeque<Runnable>) {
        let mut shard = self.shared.limiter.shard(self.shard_id).lock();
        for job in jobs {
            // The result of the push does not matter: this worker serves the shard.
            let _ = shard.push(job);
        }
    }

    /// Takes the older half of the longest run queue, if its jobs would wait long. Returns whether
    /// there may be jobs now.
    fn steal(&self) -> bool {
        let shards = self.shared.limiter.shards();
        let deepest = (0..shards.len()).max_by_key(|&shard_id| shards[shard_id].depth());
        let worth = |&shard_id: &ShardId| {
            shard_id != self.shard_id
                && self.shared.poll_times.expected_wait(shards[shard_id].depth()) > WORTH_STEALING
        };
        let victim = deepest.filter(worth).filter(|_| !failpoint("a worker never steals"));
        let Some(victim) = victim else { return false };
        let jobs = shards[victim].lock().take(false);
        self.push_all(jobs);
        true
    }

    /// Waits in the idle list until a wake-up comes or the worker retires.
    fn poll_parked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(shard_id) = self.handle.take_wakeup() {
                self.shard_id = shard_id;
                self.idle = false;
                return Poll::Ready(());
            }
            ready!(self.poll_expired(cx));
            self.expires_at = None;
            let Shared { limiter, workers, config, .. } = &*self.shared;
            if workers.try_retire(limiter, config.min_idle, &self.handle) {
                trim_cache();
                self.shared.watch_ends();
                self.retired = true;
                return Poll::Ready(());
            }
        }
    }

    /// Waits until the worker was idle for the idle timeout.
    ///
    /// A wake-up leaves the timer alone, and a later park moves `expires_at`. So a timer that fires
    /// early is set again, at most once in an idle timeout. The task's waker is always the same: the
    /// timer keeps it, and is polled once after each firing.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(expires_at) = self.expires_at else {
            self.timer = None;
            return Poll::Pending;
        };
        loop {
            let timer = self.timer.get_or_insert_with(|| {
                self.armed = false;
                Box::pin(sleep_until(expires_at))
            });
            if self.armed && !timer.is_elapsed() {
                return Poll::Pending;
            }
            self.armed = true;
            // Without tokio's budget, which the jobs may have spent: a timer that is not polled is
            // not set.
            ready!(pin!(coop::unconstrained(timer.as_mut())).poll(cx));
            self.armed = false;
            if tokio::time::Instant::now() >= expires_at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(expires_at);
        }
    }

    /// Finds the next thing to do after a turn that left the shard empty. Returns `false` if the
    /// worker has parked or retired.
    fn find_jobs(&mut self, cx: &mut Context<'_>) -> bool {
        if self.steal() {
            return true;
        }
        let Shared { limiter, workers, config, .. } = &*self.shared;
        match workers.park(limiter, config.min_idle, &self.handle, cx.waker()) {
            ParkOutcome::Serve(shard_id) => {
                self.shard_id = shard_id;
                true
            }
            ParkOutcome::Parked { expires } => {
                self.idle = true;
                self.job_timer.forget(&self.handle);
                // Models have no time.
                self.expires_at = (expires && !cfg!(millpond_loom))
                    .then(|| tokio::time::Instant::now() + config.idle_timeout);
                false
            }
            ParkOutcome::Retire => {
                self.retired = true;
                workers.wake_all();
                false
            }
        }
    }

    /// Records what the last polls left, and cancels the jobs that the worker still has. Called when
    /// the runtime drops the worker.
    fn abandon(&mut self) {
        let (shared, shard_id) = (&self.shared, self.shard_id);
        self.completions.take_releases(&self.handle);
        self.completions.record(shared, shard_id, &mut shared.limiter.shard(shard_id).lock());
        self.completions.finish(shared, shard_id, false);
        let unpolled = self.reschedule.take().into_iter().chain(self.handle.steal_local_queue());
        unpolled.for_each(|job| cancel(shared, shard_id, job));
    }
}

impl Future for Worker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.polled = true;
        this.job_timer.start_turn(&this.handle);
        slow::watch(&this.shared);
        // One budget for all that the worker does before it yields, stolen jobs included.
        let mut budget = TurnBudget::new(&this.shared.poll_times);
        loop {
            if this.idle {
                ready!(this.poll_parked(cx));
            }
            if this.retired {
                return Poll::Ready(());
            }
            this.migrate_to_current_shard();
            let yields = match this.turn(&mut budget) {
                TurnEnd::Yield => {
                    this.shard_id = this.shared.workers.next_shard(this.shard_id);
                    true
                }
                // A worker that parked or retired goes on above, at the head of the loop.
                TurnEnd::Empty => this.find_jobs(cx) && budget.is_over(),
            };
            if yields {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.retired {
            let (shared, handle) = (&self.shared, &self.handle);
            // A worker that finds its runtime gone at its spawn has jobs of another runtime alone.
            if !self.polled && !handle.is_spawned() && shared.move_to_current_runtime(Some(handle))
            {
                return Self::start(shared.clone(), handle.clone(), self.shard_id);
            }
            // The runtime is shutting down: no worker will run a job again (W8).
            shared.workers.remove_idle(handle);
            self.abandon();
            if !failpoint("a dead runtime leaves jobs") {
                self.shared.lose_runtime();
            }
            self.shared.workers.remove_dead(&self.handle);
        }
    }
}
