//! One of the pool's parallel parts: a thread usually meets only its own.
//!
//! A shard keeps some of the free slots, a queue of jobs that hold one and are ready to be
//! polled, and the suspended jobs that were last polled here. Slots and jobs move between
//! shards; sums over all shards are what counts.

use std::collections::VecDeque;

use slab::Slab;

use crate::pool::job::{End, RawJob, Runnable};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Mutex, MutexGuard, failpoint};

/// The index of a shard in its pool.
pub(crate) type ShardId = usize;

pub(crate) struct Shard {
    state: Mutex<ShardState>,
    /// The length of `run_queue`, to be looked at without the lock.
    depth: AtomicUsize,
    /// How often in a row the jobs went to another thread, as their submitter keeps this one to
    /// itself.
    migrations: AtomicUsize,
}

/// So many drains in a row are no accident.
const MIGRATIONS_BEFORE_YIELD: usize = 4;

pub(crate) struct ShardState {
    pub(crate) free_slots: usize,
    pub(crate) run_queue: VecDeque<Runnable>,
    /// Suspended at least once and not ended, wherever they are.
    pub(crate) suspended: Slab<RawJob>,
    /// Some worker will look at `run_queue` before it goes idle.
    pub(crate) has_worker: bool,
    /// How often somebody took jobs from `run_queue`: whether it moves.
    pub(crate) dequeues: u64,
    pub(crate) counters: Counters,
}

/// Running totals of one shard. A job may begin in one and end in another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    /// Jobs that got a slot, and jobs that gave one back.
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) completed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) overflow_started: u64,
    pub(crate) overflow_ended: u64,
    pub(crate) refused: u64,
    pub(crate) withdrawn: u64,
    /// Slots kept for jobs to come, and those of them that were used or given up.
    pub(crate) reserved: u64,
    pub(crate) reservations_ended: u64,
    /// Slots kept beyond their jobs, and those of them that were given back.
    pub(crate) held_slots: u64,
    pub(crate) held_released: u64,
}

/// A slot kept without a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseReason {
    /// For a job that never came.
    Unused,
    /// For a job that came too late.
    Refused,
    /// Beyond a job's end.
    Held,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.started += other.started;
        self.ended += other.ended;
        self.completed += other.completed;
        self.panicked += other.panicked;
        self.cancelled += other.cancelled;
        self.overflow_started += other.overflow_started;
        self.overflow_ended += other.overflow_ended;
        self.refused += other.refused;
        self.withdrawn += other.withdrawn;
        self.reserved += other.reserved;
        self.reservations_ended += other.reservations_ended;
        self.held_slots += other.held_slots;
        self.held_released += other.held_released;
    }

    /// A slot that was kept is free.
    pub(crate) fn release(&mut self, reason: ReleaseReason) {
        match reason {
            ReleaseReason::Unused => self.withdrawn += 1,
            ReleaseReason::Refused => self.refused += 1,
            ReleaseReason::Held => {
                self.held_released += 1;
                return;
            }
        }
        self.reservations_ended += 1;
    }

    pub(crate) fn end(&mut self, end: End) {
        match end {
            End::Completed => self.completed += 1,
            End::Panicked => self.panicked += 1,
            End::Cancelled => self.cancelled += 1,
        }
    }
}

impl Shard {
    pub(crate) fn new(free_slots: usize) -> Self {
        let state = ShardState {
            free_slots,
            run_queue: VecDeque::new(),
            suspended: Slab::new(),
            has_worker: false,
            dequeues: 0,
            counters: Counters::default(),
        };
        Self {
            state: Mutex::new(state),
            depth: AtomicUsize::new(0),
            migrations: AtomicUsize::new(0),
        }
    }

    pub(crate) fn lock(&self) -> ShardGuard<'_> {
        ShardGuard { state: self.state.lock(), depth: &self.depth }
    }

    /// The jobs went to another thread.
    pub(crate) fn note_migration(&self) {
        // Counted roughly: one more or less matters little, an exchange for each job would.
        self.migrations.store(self.migrations.load(Relaxed) + 1, Relaxed);
    }

    /// A worker runs the jobs on their own thread.
    pub(crate) fn reset_migrations(&self) {
        if self.migrations.load(Relaxed) > 0 {
            self.migrations.store(0, Relaxed);
        }
    }

    /// Whether the next submitter on this thread is to yield to the runtime once.
    pub(crate) fn should_yield(&self) -> bool {
        let due = self.migrations.load(Relaxed) >= MIGRATIONS_BEFORE_YIELD;
        if due {
            self.migrations.store(0, Relaxed);
        }
        due
    }

    /// How many jobs were ready a moment ago.
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }
}

pub(crate) struct ShardGuard<'a> {
    state: MutexGuard<'a, ShardState>,
    depth: &'a AtomicUsize,
}

impl ShardGuard<'_> {
    /// Puts a job at the end of the queue. `true` if no worker would see it: one must be called.
    #[must_use]
    pub(crate) fn push(&mut self, job: Runnable) -> bool {
        self.state.run_queue.push_back(job);
        self.depth.store(self.state.run_queue.len(), Relaxed);
        !std::mem::replace(&mut self.state.has_worker, true) && !failpoint("push without wake")
    }

    /// Puts a claimed job back where it was.
    pub(crate) fn push_front(&mut self, job: Runnable) {
        self.state.run_queue.push_front(job);
        self.depth.store(self.state.run_queue.len(), Relaxed);
    }

    /// Takes the oldest jobs, at most `jobs`.
    pub(crate) fn pop_batch(&mut self, jobs: usize) -> impl Iterator<Item = Runnable> + '_ {
        let jobs = jobs.min(self.state.run_queue.len());
        self.depth.store(self.state.run_queue.len() - jobs, Relaxed);
        self.state.dequeues += 1;
        self.state.run_queue.drain(..jobs)
    }

    /// Takes the older half, for a worker of another shard, or everything.
    pub(crate) fn take(&mut self, all: bool) -> VecDeque<Runnable> {
        let keep = if all { 0 } else { self.state.run_queue.len() / 2 };
        let rest = self.state.run_queue.len() - keep;
        self.state.dequeues += 1;
        let kept = self.state.run_queue.split_off(rest);
        let taken = std::mem::replace(&mut self.state.run_queue, kept);
        self.depth.store(self.state.run_queue.len(), Relaxed);
        taken
    }
}

impl std::ops::Deref for ShardGuard<'_> {
    type Target = ShardState;

    fn deref(&self) -> &ShardState {
        &self.state
    }
}

impl std::ops::DerefMut for ShardGuard<'_> {
    fn deref_mut(&mut self) -> &mut ShardState {
        &mut self.state
    }
}
