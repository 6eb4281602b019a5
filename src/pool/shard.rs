//! One of the pool's parallel parts: a thread usually meets only its own.
//!
//! A shard keeps some of the free slots, a queue of jobs that hold one and are ready to be
//! polled, and the suspended jobs that were last polled here. Slots and jobs move between
//! shards; sums over all shards are what counts.

use std::collections::VecDeque;

use slab::Slab;

use super::cell::{End, JobPtr, JobRef};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Mutex, MutexGuard, mutant};

pub(super) struct Shard {
    state: Mutex<ShardState>,
    /// The length of `ready`, to be looked at without the lock.
    depth: AtomicUsize,
    /// How often in a row the jobs went to another thread, as their submitter keeps this one to
    /// itself.
    drains: AtomicUsize,
}

/// So many drains in a row are no accident.
const DRAINS: usize = 4;

pub(super) struct ShardState {
    pub(super) free: usize,
    pub(super) ready: VecDeque<JobRef>,
    /// Suspended at least once and not ended, wherever they are.
    pub(super) seated: Slab<JobPtr>,
    /// Some worker will look at `ready` before it goes idle.
    pub(super) served: bool,
    /// How often somebody took jobs from `ready`: whether it moves.
    pub(super) claims: u64,
    pub(super) tally: Tally,
}

/// Running totals of one shard. A job may begin in one and end in another.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) submitted: u64,
    /// Jobs that got a slot, and jobs that gave one back.
    pub(super) started: u64,
    pub(super) ended: u64,
    pub(super) completed: u64,
    pub(super) panicked: u64,
    pub(super) cancelled: u64,
    pub(super) overflow_started: u64,
    pub(super) overflow_ended: u64,
    pub(super) refused: u64,
    pub(super) withdrawn: u64,
    /// Slots kept for jobs to come, and those of them that were used or given up.
    pub(super) reserved: u64,
    pub(super) redeemed: u64,
    /// Slots kept beyond their jobs, and those of them that were given back.
    pub(super) held: u64,
    pub(super) let_go: u64,
}

/// A slot kept without a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// For a job that never came.
    Unused,
    /// For a job that came too late.
    Refused,
    /// Beyond a job's end.
    Held,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
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
        self.redeemed += other.redeemed;
        self.held += other.held;
        self.let_go += other.let_go;
    }

    /// A slot that was kept is free.
    pub(super) fn free(&mut self, kept: Kept) {
        match kept {
            Kept::Unused => self.withdrawn += 1,
            Kept::Refused => self.refused += 1,
            Kept::Held => {
                self.let_go += 1;
                return;
            }
        }
        self.redeemed += 1;
    }

    pub(super) fn end(&mut self, end: End) {
        match end {
            End::Completed => self.completed += 1,
            End::Panicked => self.panicked += 1,
            End::Cancelled => self.cancelled += 1,
        }
    }
}

impl Shard {
    pub(super) fn new(free: usize) -> Self {
        let state = ShardState {
            free,
            ready: VecDeque::new(),
            seated: Slab::new(),
            served: false,
            claims: 0,
            tally: Tally::default(),
        };
        Self { state: Mutex::new(state), depth: AtomicUsize::new(0), drains: AtomicUsize::new(0) }
    }

    pub(super) fn lock(&self) -> ShardGuard<'_> {
        ShardGuard { state: self.state.lock(), depth: &self.depth }
    }

    /// The jobs went to another thread.
    pub(super) fn note_drain(&self) {
        // Counted roughly: one more or less matters little, an exchange for each job would.
        self.drains.store(self.drains.load(Relaxed) + 1, Relaxed);
    }

    /// A worker runs the jobs on their own thread.
    pub(super) fn forget_drains(&self) {
        if self.drains.load(Relaxed) > 0 {
            self.drains.store(0, Relaxed);
        }
    }

    /// Whether the next submitter on this thread is to yield to the runtime once.
    pub(super) fn is_to_yield(&self) -> bool {
        let due = self.drains.load(Relaxed) >= DRAINS;
        if due {
            self.drains.store(0, Relaxed);
        }
        due
    }

    /// How many jobs were ready a moment ago.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }
}

pub(super) struct ShardGuard<'a> {
    state: MutexGuard<'a, ShardState>,
    depth: &'a AtomicUsize,
}

impl ShardGuard<'_> {
    /// Puts a job at the end of the queue. `true` if no worker would see it: one must be called.
    #[must_use]
    pub(super) fn push(&mut self, job: JobRef) -> bool {
        self.state.ready.push_back(job);
        self.depth.store(self.state.ready.len(), Relaxed);
        !std::mem::replace(&mut self.state.served, true) && !mutant("push silently")
    }

    /// Puts a claimed job back where it was.
    pub(super) fn push_front(&mut self, job: JobRef) {
        self.state.ready.push_front(job);
        self.depth.store(self.state.ready.len(), Relaxed);
    }

    /// Takes the oldest jobs, at most `jobs`.
    pub(super) fn claim(&mut self, jobs: usize) -> impl Iterator<Item = JobRef> + '_ {
        let jobs = jobs.min(self.state.ready.len());
        self.depth.store(self.state.ready.len() - jobs, Relaxed);
        self.state.claims += 1;
        self.state.ready.drain(..jobs)
    }

    /// Takes the older half, for a worker of another shard, or everything.
    pub(super) fn take(&mut self, all: bool) -> VecDeque<JobRef> {
        let keep = if all { 0 } else { self.state.ready.len() / 2 };
        let rest = self.state.ready.len() - keep;
        self.state.claims += 1;
        let kept = self.state.ready.split_off(rest);
        let taken = std::mem::replace(&mut self.state.ready, kept);
        self.depth.store(self.state.ready.len(), Relaxed);
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
