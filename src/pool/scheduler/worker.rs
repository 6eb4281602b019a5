//! A worker: a task that polls jobs, one after another.
//!
//! It serves one shard at a time: takes the oldest ready job, polls it once, and either accounts
//! for its end or leaves it suspended until its waker brings it back. Both happen under the one
//! lock that also takes the next job. A suspended job keeps its slot, not its worker; so as many
//! workers as the runtime has threads are enough, whatever the size of the pool.
//!
//! A turn ends after `TURN_JOBS` polls or `TURN_TIME`, or when tokio's budget of the task is
//! spent: then the rest of the runtime has its turn.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::coop;
use tokio::time::Sleep;

use crate::pool::job::{End, Runnable, SlotKind, Step};
use crate::pool::limiter::shard::ShardId;
use crate::pool::scheduler::idle::{LOCAL_QUEUE_LEN, ParkOutcome, WorkerHandle};
use crate::pool::scheduler::poll_times::PollTimes;
use crate::pool::scheduler::shared::Shared;

const TURN_JOBS: u32 = 2_048;
const TURN_TIME: Duration = Duration::from_micros(100);

/// A worker takes no more jobs at once than its local queue holds, nor more than take about this long.
const BATCH_NANOS: u32 = 4_000;

/// The clock is read once in this many polls, or after each when they are slow.
const CLOCK_JOBS: u32 = 16;

/// Jobs are taken from another worker's shard only if they would take it this many nanoseconds: they
/// run slower on another thread than the one they were made on.
const WORTH_STEALING: u64 = 100_000;

/// The idle timer ticks this often in the idle timeout, so that calls need not touch it.
const TICKS: u32 = 8;

pub(crate) struct Worker {
    shared: Arc<Shared>,
    handle: Arc<WorkerHandle>,
    /// The shard it serves.
    shard_id: ShardId,
    idle: bool,
    /// Ticks since it was last called.
    ticks: u32,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer knows whom to wake.
    armed: bool,
    retired: bool,
    /// The range of the local queue with jobs that were taken from the shard and not polled yet.
    local_range: Range<usize>,
    /// What the last poll left to be done.
    record: Option<PollRecord>,
    /// A job that was woken while it was polled.
    reschedule: Option<Runnable>,
    /// Jobs that completed with nobody to see it: their slots are given back a few at a time.
    detached_done: Vec<Runnable>,
}

/// What became of a polled job, to be written down under the next lock.
pub(crate) enum PollRecord {
    /// Suspended for the first time.
    Suspended(Runnable),
    Ended {
        job: Runnable,
        end: End,
        release_slow: bool,
    },
}

/// Measures a turn, and how long jobs take.
struct TurnBudget {
    batch: usize,
    slow: bool,
    read: Option<Instant>,
    took: Duration,
    polls: u32,
    unread: u32,
}

impl TurnBudget {
    fn new(poll_times: &PollTimes) -> Self {
        let batch = poll_times.batch(BATCH_NANOS);
        let slow = batch < 2;
        Self {
            batch: batch.clamp(1, LOCAL_QUEUE_LEN as u32) as usize,
            slow,
            read: slow.then(Instant::now),
            took: Duration::ZERO,
            polls: 0,
            unread: 0,
        }
    }

    /// The first jobs of a turn count as well, if others stand behind them.
    fn start(&mut self) {
        if !cfg!(millpond_loom) && self.read.is_none() {
            self.read = Some(Instant::now());
            self.unread = 0;
        }
    }

    /// Counts one poll.
    fn tick(&mut self, shared: &Shared) {
        self.polls += 1;
        self.unread += 1;
        // Models have no time.
        if !cfg!(millpond_loom) && (self.slow || self.unread == CLOCK_JOBS) {
            let now = Instant::now();
            if let Some(before) = self.read.replace(now) {
                self.took += now - before;
                shared.poll_times.observe(now - before, self.unread);
            }
            self.unread = 0;
        }
    }

    fn is_over(&self) -> bool {
        self.polls >= TURN_JOBS || self.took >= TURN_TIME
    }
}

enum TurnEnd {
    /// There is more, but others come first.
    OutOfBudget,
    /// The shard is empty.
    Empty,
}

impl Worker {
    pub(crate) fn start(shared: Arc<Shared>, handle: Arc<WorkerHandle>, shard_id: ShardId) {
        let worker = Self {
            shared,
            handle,
            shard_id,
            idle: false,
            ticks: 0,
            timer: None,
            armed: false,
            retired: false,
            local_range: 0..0,
            record: None,
            reschedule: None,
            detached_done: Vec::with_capacity(LOCAL_QUEUE_LEN),
        };
        worker.spawn();
    }

    #[cfg(not(millpond_loom))]
    fn spawn(self) {
        let runtime = self.shared.runtime().clone();
        runtime.spawn(self);
    }

    #[cfg(millpond_loom)]
    fn spawn(self) {
        crate::sync::spawn(self.shard_id, self);
    }

    /// Polls ready jobs of the shard until it is empty or the turn is over.
    fn turn(&mut self, budget: &mut TurnBudget) -> TurnEnd {
        loop {
            let over = self.poll_local_queue(budget);
            self.handle.step();
            let shared = &*self.shared;
            let local_queue = &self.handle.local_queue;
            let unreleased = self.handle.take_deferred_releases(self.detached_done.len());
            let mut shard = shared.limiter.shard(self.shard_id).lock();
            let slots =
                shared.release_detached(self.shard_id, &mut shard, &self.detached_done, unreleased);
            let record = self
                .record
                .take()
                .map(|record| shared.record_locked(self.shard_id, &mut shard, record));
            if let Some(job) = self.reschedule.take() {
                // Whatever the push says: this worker is going to look.
                let _ = shard.push(job);
            }
            if over {
                let left =
                    self.local_range.clone().rev().filter_map(|index| local_queue[index].take());
                left.for_each(|job| shard.push_front(job));
                self.local_range = 0..0;
            } else if self.local_range.is_empty() {
                let batch = shard.pop_batch(budget.batch).zip(local_queue);
                self.local_range = 0..batch.map(|(job, slot)| slot.put(job)).count();
            }
            if self.local_range.len() > 1 {
                budget.start();
            }
            let empty = self.local_range.is_empty() && shard.run_queue.is_empty();
            shard.has_worker = !empty;
            drop(shard);
            shared.drop_detached(self.shard_id, &mut self.detached_done);
            shared.release_to_waiters(self.shard_id, slots);
            let woken = record.is_some_and(|record| shared.after_unlock(self.shard_id, record));
            if empty && !woken {
                return TurnEnd::Empty;
            }
            if over {
                return TurnEnd::OutOfBudget;
            }
        }
    }

    /// Polls the claimed jobs, up to one that leaves something to be done at once. `true` if the
    /// turn is over.
    fn poll_local_queue(&mut self, budget: &mut TurnBudget) -> bool {
        for index in self.local_range.by_ref() {
            // Gone if the stall monitor gave it to another worker.
            let Some(job) = self.handle.local_queue[index].take() else { continue };
            let step = self.shared.poll(&job);
            budget.tick(&self.shared);
            match step {
                Step::Ended(End::Completed)
                    if job.slot_kind() == SlotKind::Plain && job.is_detached() =>
                {
                    self.detached_done.push(job);
                    self.handle.set_deferred_releases(self.detached_done.len());
                }
                Step::Ended(end) => {
                    self.record = Some(PollRecord::Ended { job, end, release_slow: false });
                    return budget.is_over();
                }
                Step::Pending => {
                    // Some of what the job met may have been the end of the task's budget.
                    let spent = !coop::has_budget_remaining();
                    if job.suspended_key().is_none() {
                        // Only a job that has a suspended key may be left to its wakers.
                        self.record = Some(PollRecord::Suspended(job));
                        return spent || budget.is_over();
                    }
                    self.reschedule = job.suspend();
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

    /// Moves to the shard of the thread it runs on, with all that is ready in the one it was called
    /// to: so the jobs stay with one thread, and new ones there find a worker of their own.
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
            // Tokio has another thread run what a long-running task wakes. So jobs and their cells
            // would cross threads one by one, at three times the price, until the submitter yields.
            shards[self.shard_id].note_migration();
        }
        self.shard_id = shard_id;
        self.push_all(jobs);
    }

    /// Takes jobs of another shard into its own.
    fn push_all(&self, jobs: VecDeque<Runnable>) {
        let mut own = self.shared.limiter.shard(self.shard_id).lock();
        for job in jobs {
            // This worker serves the shard itself.
            let _ = own.push(job);
        }
    }

    /// Takes the older half of the deepest shard's jobs, if it is worth that.
    fn steal(&self) -> bool {
        let shards = self.shared.limiter.shards();
        let deepest = (0..shards.len()).max_by_key(|&shard_id| shards[shard_id].depth());
        let worth = |&shard_id: &ShardId| {
            shard_id != self.shard_id
                && self.shared.poll_times.expected_wait(shards[shard_id].depth()) > WORTH_STEALING
        };
        let Some(victim) = deepest.filter(worth) else { return false };
        let jobs = shards[victim].lock().take(false);
        self.push_all(jobs);
        true
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(shard_id) = self.handle.take_wakeup() {
                self.shard_id = shard_id;
                self.idle = false;
                self.ticks = 0;
                return Poll::Ready(());
            }
            ready!(self.poll_tick(cx));
            self.ticks += 1;
            if self.ticks > TICKS && self.shared.workers.try_retire(&self.shared, &self.handle) {
                self.retired = true;
                return Poll::Ready(());
            }
        }
    }

    /// Waits for the idle timer's next tick.
    ///
    /// The task's waker is always the same: polled once after each tick, the timer has it.
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if cfg!(millpond_loom) {
            return Poll::Pending;
        }
        let tick = self.shared.config.idle_timeout / TICKS;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(tick)));
        if self.armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        self.armed = true;
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(tokio::time::Instant::now() + tick);
        self.armed = false;
        Poll::Ready(())
    }
}

impl Worker {
    /// Ends the jobs it has in its hands: there are some only if it was torn out of its work.
    fn abandon(&mut self) {
        let (shared, shard_id) = (&*self.shared, self.shard_id);
        let unreleased = self.handle.take_deferred_releases(self.detached_done.len());
        let mut shard = shared.limiter.shard(shard_id).lock();
        let slots = shared.release_detached(shard_id, &mut shard, &self.detached_done, unreleased);
        let record =
            self.record.take().map(|record| shared.record_locked(shard_id, &mut shard, record));
        drop(shard);
        shared.drop_detached(shard_id, &mut self.detached_done);
        shared.release_to_waiters(shard_id, slots);
        record.into_iter().for_each(|record| {
            shared.after_unlock(shard_id, record);
        });
        let unpolled = self.reschedule.take().into_iter().chain(self.handle.steal_local_queue());
        unpolled.for_each(|job| shared.cancel(shard_id, job));
    }
}

impl Future for Worker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // One clock for all it does before it yields: also for what it steals.
        let mut budget = TurnBudget::new(&this.shared.poll_times);
        loop {
            if this.idle {
                ready!(this.poll_idle(cx));
                if this.retired {
                    return Poll::Ready(());
                }
            }
            this.migrate_to_current_shard();
            let empty = matches!(this.turn(&mut budget), TurnEnd::Empty);
            if !empty {
                this.shard_id = this.shared.workers.next_shard(this.shard_id);
            } else if !this.steal() {
                match this.shared.workers.park(&this.shared, &this.handle, cx.waker()) {
                    ParkOutcome::Parked => {
                        this.idle = true;
                        continue;
                    }
                    ParkOutcome::Serve(shard_id) => this.shard_id = shard_id,
                    ParkOutcome::Retire => {
                        this.retired = true;
                        this.shared.workers.wake_all_if(true);
                        return Poll::Ready(());
                    }
                }
            }
            if !empty || budget.is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.retired {
            // Dropped while it might still be needed: the runtime is going away.
            self.shared.workers.remove_dead(&self.handle);
            self.abandon();
            self.shared.cancel_all(true);
        }
    }
}
