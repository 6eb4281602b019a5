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
use crate::pool::scheduler::idle::{LANE, Post, Rest};
use crate::pool::scheduler::poll_times::Pace;
use crate::pool::scheduler::shard::ShardId;
use crate::pool::scheduler::shared::Core;

const TURN_JOBS: u32 = 2_048;
const TURN_TIME: Duration = Duration::from_micros(100);

/// A worker claims no more jobs at once than its lane holds, nor more than take about this long.
const BATCH_NANOS: u32 = 4_000;

/// The clock is read once in this many polls, or after each when they are slow.
const CLOCK_JOBS: u32 = 16;

/// Jobs are taken from another worker's shard only if they would take it this many nanoseconds: they
/// run slower on another thread than the one they were made on.
const WORTH_STEALING: u64 = 100_000;

/// The idle timer ticks this often in the idle timeout, so that calls need not touch it.
const TICKS: u32 = 8;

pub(crate) struct Worker {
    core: Arc<Core>,
    post: Arc<Post>,
    /// The shard it serves.
    home: ShardId,
    idle: bool,
    /// Ticks since it was last called.
    ticks: u32,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer knows whom to wake.
    armed: bool,
    left: bool,
    /// Berths of the own lane with jobs that were taken from the shard and not polled yet.
    claimed: Range<usize>,
    /// What the last poll left to be done.
    note: Option<Note>,
    /// A job that was woken while it was polled.
    again: Option<Runnable>,
    /// Jobs that completed with nobody to see it: their slots are given back a few at a time.
    unseen: Vec<Runnable>,
}

/// What became of a polled job, to be written down under the next lock.
pub(crate) enum Note {
    /// Suspended for the first time.
    Suspended(Runnable),
    Ended {
        job: Runnable,
        end: End,
        release_slow: bool,
    },
}

/// Measures a turn, and how long jobs take.
struct Clock {
    batch: usize,
    slow: bool,
    read: Option<Instant>,
    took: Duration,
    polls: u32,
    unread: u32,
}

impl Clock {
    fn new(pace: &Pace) -> Self {
        let batch = pace.batch(BATCH_NANOS);
        let slow = batch < 2;
        Self {
            batch: batch.clamp(1, LANE as u32) as usize,
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
    fn tick(&mut self, core: &Core) {
        self.polls += 1;
        self.unread += 1;
        // Models have no time.
        if !cfg!(millpond_loom) && (self.slow || self.unread == CLOCK_JOBS) {
            let now = Instant::now();
            if let Some(before) = self.read.replace(now) {
                self.took += now - before;
                core.pace.observe(now - before, self.unread);
            }
            self.unread = 0;
        }
    }

    fn is_over(&self) -> bool {
        self.polls >= TURN_JOBS || self.took >= TURN_TIME
    }
}

enum Turn {
    /// There is more, but others come first.
    Over,
    /// The shard is empty.
    Dry,
}

impl Worker {
    pub(crate) fn start(core: Arc<Core>, post: Arc<Post>, shard_id: ShardId) {
        let worker = Self {
            core,
            post,
            home: shard_id,
            idle: false,
            ticks: 0,
            timer: None,
            armed: false,
            left: false,
            claimed: 0..0,
            note: None,
            again: None,
            unseen: Vec::with_capacity(LANE),
        };
        worker.spawn();
    }

    #[cfg(not(millpond_loom))]
    fn spawn(self) {
        let runtime = self.core.runtime().clone();
        runtime.spawn(self);
    }

    #[cfg(millpond_loom)]
    fn spawn(self) {
        crate::sync::spawn(self.home, self);
    }

    /// Polls ready jobs of the shard until it is empty or the turn is over.
    fn turn(&mut self, clock: &mut Clock) -> Turn {
        loop {
            let over = self.poll_claimed(clock);
            self.post.step();
            let core = &*self.core;
            let lane = &self.post.lane;
            let unpaid = self.post.pay(self.unseen.len());
            let mut shard = core.limiter.shard(self.home).lock();
            let slots = core.settle_unseen(self.home, &mut shard, &self.unseen, unpaid);
            let note = self.note.take().map(|note| core.write_down(self.home, &mut shard, note));
            if let Some(job) = self.again.take() {
                // Whatever the push says: this worker is going to look.
                let _ = shard.push(job);
            }
            if over {
                let left = self.claimed.clone().rev().filter_map(|berth| lane[berth].take());
                left.for_each(|job| shard.push_front(job));
                self.claimed = 0..0;
            } else if self.claimed.is_empty() {
                let claimed = shard.claim(clock.batch).zip(lane);
                self.claimed = 0..claimed.map(|(job, berth)| berth.put(job)).count();
            }
            if self.claimed.len() > 1 {
                clock.start();
            }
            let dry = self.claimed.is_empty() && shard.ready.is_empty();
            shard.served = !dry;
            drop(shard);
            core.drop_unseen(self.home, &mut self.unseen);
            core.bring_to_line(self.home, slots);
            let woken = note.is_some_and(|note| core.follow_up(self.home, note));
            if dry && !woken {
                return Turn::Dry;
            }
            if over {
                return Turn::Over;
            }
        }
    }

    /// Polls the claimed jobs, up to one that leaves something to be done at once. `true` if the
    /// turn is over.
    fn poll_claimed(&mut self, clock: &mut Clock) -> bool {
        for berth in self.claimed.by_ref() {
            // Gone if the lookout gave it to another worker.
            let Some(job) = self.post.lane[berth].take() else { continue };
            let step = self.core.poll(&job);
            clock.tick(&self.core);
            match step {
                Step::Ended(End::Completed)
                    if job.slot_kind() == SlotKind::Plain && job.is_detached() =>
                {
                    self.unseen.push(job);
                    self.post.owe(self.unseen.len());
                }
                Step::Ended(end) => {
                    self.note = Some(Note::Ended { job, end, release_slow: false });
                    return clock.is_over();
                }
                Step::Pending => {
                    // Some of what the job met may have been the end of the task's budget.
                    let spent = !coop::has_budget_remaining();
                    if job.suspended_key().is_none() {
                        // Only a job that has a seat may be left to its wakers.
                        self.note = Some(Note::Suspended(job));
                        return spent || clock.is_over();
                    }
                    self.again = job.suspend();
                    if spent || self.again.is_some() {
                        return spent || clock.is_over();
                    }
                }
            }
            if clock.is_over() {
                return true;
            }
        }
        false
    }

    /// Moves to the shard of the thread it runs on, with all that is ready in the one it was called
    /// to: so the jobs stay with one thread, and new ones there find a worker of their own.
    fn settle_in(&mut self) {
        let shard_id = self.core.current_shard();
        let shards = self.core.limiter.shards();
        if shard_id == self.home {
            return shards[shard_id].forget_drains();
        }
        let mut left = shards[self.home].lock();
        left.served = false;
        let jobs = left.take(true);
        drop(left);
        if !jobs.is_empty() {
            // Tokio has another thread run what a long-running task wakes. So jobs and their cells
            // would cross threads one by one, at three times the price, until the submitter yields.
            shards[self.home].note_drain();
        }
        self.home = shard_id;
        self.adopt(jobs);
    }

    /// Takes jobs of another shard into its own.
    fn adopt(&self, jobs: VecDeque<Runnable>) {
        let mut home = self.core.limiter.shard(self.home).lock();
        for job in jobs {
            // This worker serves the shard itself.
            let _ = home.push(job);
        }
    }

    /// Takes the older half of the deepest shard's jobs, if it is worth that.
    fn steal(&self) -> bool {
        let shards = self.core.limiter.shards();
        let deepest = (0..shards.len()).max_by_key(|&shard_id| shards[shard_id].depth());
        let worth = |&shard_id: &ShardId| {
            shard_id != self.home && self.core.pace.wait(shards[shard_id].depth()) > WORTH_STEALING
        };
        let Some(victim) = deepest.filter(worth) else { return false };
        let jobs = shards[victim].lock().take(false);
        self.adopt(jobs);
        true
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(shard_id) = self.post.answer() {
                self.home = shard_id;
                self.idle = false;
                self.ticks = 0;
                return Poll::Ready(());
            }
            ready!(self.poll_tick(cx));
            self.ticks += 1;
            if self.ticks > TICKS && self.core.crew.may_leave(&self.core, &self.post) {
                self.left = true;
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
        let tick = self.core.config.idle_timeout / TICKS;
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
    fn put_down(&mut self) {
        let (core, shard_id) = (&*self.core, self.home);
        let unpaid = self.post.pay(self.unseen.len());
        let mut shard = core.limiter.shard(shard_id).lock();
        let slots = core.settle_unseen(shard_id, &mut shard, &self.unseen, unpaid);
        let note = self.note.take().map(|note| core.write_down(shard_id, &mut shard, note));
        drop(shard);
        core.drop_unseen(shard_id, &mut self.unseen);
        core.bring_to_line(shard_id, slots);
        note.into_iter().for_each(|note| {
            core.follow_up(shard_id, note);
        });
        let unpolled = self.again.take().into_iter().chain(self.post.give_up());
        unpolled.for_each(|job| core.cancel(shard_id, job));
    }
}

impl Future for Worker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // One clock for all it does before it yields: also for what it steals.
        let mut clock = Clock::new(&this.core.pace);
        loop {
            if this.idle {
                ready!(this.poll_idle(cx));
                if this.left {
                    return Poll::Ready(());
                }
            }
            this.settle_in();
            let dry = matches!(this.turn(&mut clock), Turn::Dry);
            if !dry {
                this.home = this.core.crew.rotate(this.home);
            } else if !this.steal() {
                match this.core.crew.rest(&this.core, &this.post, cx.waker()) {
                    Rest::Idle => {
                        this.idle = true;
                        continue;
                    }
                    Rest::Serve(shard_id) => this.home = shard_id,
                    Rest::Leave => {
                        this.left = true;
                        this.core.crew.call_all_if(true);
                        return Poll::Ready(());
                    }
                }
            }
            if !dry || clock.is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.left {
            // Dropped while it might still be needed: the runtime is going away.
            self.core.crew.lost(&self.post);
            self.put_down();
            self.core.cancel_all(true);
        }
    }
}
