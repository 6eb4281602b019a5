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
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::coop;
use tokio::time::Sleep;

use super::cell::{End, JobRef, Step};
use super::core::Core;
use super::crew::{Post, Rest};

const TURN_JOBS: u32 = 128;
const TURN_TIME: Duration = Duration::from_micros(100);

/// The clock is read once in this many polls, or after each when they are slow.
const CLOCK_JOBS: u32 = 16;
const SLOW_NANOS: u32 = 4_000;

/// Work is taken from another worker's shard only if that takes some time itself.
const WORTH_STEALING: u64 = 4_000;

/// The idle timer ticks this often in the idle timeout, so that calls need not touch it.
const TICKS: u32 = 8;

pub(super) struct Worker {
    core: Arc<Core>,
    post: Arc<Post>,
    /// The shard it serves.
    home: usize,
    idle: bool,
    /// Ticks since it was last called.
    ticks: u32,
    timer: Option<Pin<Box<Sleep>>>,
    left: bool,
}

/// What became of the job that was polled last, to be written down under the next lock.
enum Last {
    Nothing,
    Suspended(JobRef),
    Ended(JobRef, End),
}

enum Turn {
    /// There is more, but others come first.
    Over,
    /// The shard is empty.
    Dry,
}

impl Worker {
    pub(super) fn start(core: Arc<Core>, at: usize) {
        let handle = core.runtime().clone();
        let worker = Self {
            core,
            post: Post::new(),
            home: at,
            idle: false,
            ticks: 0,
            timer: None,
            left: false,
        };
        handle.spawn(worker);
    }

    /// Polls ready jobs of the shard until it is empty or the turn is over.
    fn turn(&self) -> Turn {
        let core = &*self.core;
        let at = self.home;
        let shard = core.admission.shard(at);
        let pace = core.pace();
        let batch = (4_000 / pace.max(1)).clamp(1, 8) as usize;
        let slow = pace > SLOW_NANOS;
        let mut clock = slow.then(Instant::now);
        let mut took = Duration::ZERO;
        let (mut polls, mut unclocked) = (0, 0);
        let mut last = Last::Nothing;
        let mut mine: VecDeque<JobRef> = VecDeque::with_capacity(8);
        let mut unseen = 0;
        loop {
            // A job that returned `Pending` may have met the end of the task's budget.
            let spent = matches!(last, Last::Suspended(_)) && !coop::has_budget_remaining();
            let over = spent || polls >= TURN_JOBS || took >= TURN_TIME;
            let mut next = mine.pop_front();
            if next.is_none() || !matches!(last, Last::Nothing) {
                let mut guard = shard.lock();
                let tell_line = match &last {
                    Last::Nothing => false,
                    Last::Suspended(job) => {
                        core.seat(at, &mut guard, job);
                        false
                    }
                    Last::Ended(job, end) => core.settle(at, &mut guard, job, *end),
                };
                let slots = core.settle_unseen(&mut guard, std::mem::take(&mut unseen));
                let mut dry = false;
                if next.is_none() {
                    if !over {
                        next = guard.pop();
                        for _ in 1..batch {
                            match guard.pop() { Some(job) => mine.push_back(job), None => break }
                        }
                    }
                    dry = next.is_none() && guard.ready.is_empty();
                    guard.served = !dry;
                }
                drop(guard);
                core.bring_to_line(at, slots);
                let mut again = false;
                match std::mem::replace(&mut last, Last::Nothing) {
                    Last::Nothing => {}
                    Last::Ended(job, end) => core.settled(at, job, end, tell_line),
                    Last::Suspended(job) => {
                        if let Some(job) = job.suspend() {
                            // Whatever the push says: this worker comes back to the shard.
                            let _ = shard.lock().push(job);
                            again = true;
                        }
                    }
                }
                if next.is_none() {
                    if over && (again || !dry) { return Turn::Over; }
                    if again { continue; }
                    return Turn::Dry;
                }
            }
            let job = next.unwrap();
            last = match core.poll(&job) {
                Step::Pending => Last::Suspended(job),
                Step::Ended(End::Completed) if job.is_plain() => { unseen += 1; Last::Nothing }
                Step::Ended(end) => Last::Ended(job, end),
            };
            polls += 1;
            unclocked += 1;
            if slow || unclocked == CLOCK_JOBS {
                let now = Instant::now();
                if let Some(before) = clock.replace(now) {
                    took += now - before;
                    core.set_pace((now - before) / unclocked);
                }
                unclocked = 0;
            }
        }
    }

    /// Takes the older half of the deepest shard's jobs, if it is worth that.
    fn steal(&self) -> bool {
        let shards = self.core.admission.shards();
        let deepest = (0..shards.len()).max_by_key(|&at| shards[at].depth());
        let worth = |&at: &usize| {
            at != self.home && shards[at].depth() as u64 * u64::from(self.core.pace()) > WORTH_STEALING
        };
        let Some(victim) = deepest.filter(worth) else { return false };
        let jobs = shards[victim].lock().take(false);
        let mut home = shards[self.home].lock();
        for job in jobs {
            // This worker serves the shard itself.
            let _ = home.push(job);
        }
        true
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(at) = self.post.answer() {
                self.home = at;
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
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tick = self.core.config.idle_timeout / TICKS;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(tick)));
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(tokio::time::Instant::now() + tick);
        Poll::Ready(())
    }
}

impl Future for Worker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if this.idle {
                ready!(this.poll_idle(cx));
                if this.left {
                    return Poll::Ready(());
                }
            }
            if let Turn::Over = this.turn() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.steal() {
                continue;
            }
            match this.core.crew.rest(&this.core, &this.post, cx.waker()) {
                Rest::Idle => this.idle = true,
                Rest::Serve(at) => this.home = at,
                Rest::Leave => {
                    this.left = true;
                    this.core.crew.call_all_if(true);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.left {
            // Dropped while it might still be needed: the runtime is going away.
            self.core.crew.lost(&self.post);
            self.core.cancel_all(true);
        }
    }
}
