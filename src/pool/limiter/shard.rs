//! A shard: the free slots, ready jobs and suspended jobs of one thread.
//!
//! The limiter owns one shard per worker thread of the runtime, fewer if the pool is small. A
//! thread normally locks only its own shard. One lock covers slots and run queue together, because
//! a submitter needs both: it takes a slot and queues the job in one critical section.
//!
//! Access to the fields, all under the shard lock:
//!
//! * `free_slots`, `counters`: the limiter, and the scheduler when a job ends.
//! * `unused_slots`: the limiter (`peaks`).
//! * `run_queue`, `dequeues`: submitters push, workers pop and steal.
//! * `has_worker`: a push sets it, and a worker clears it when it leaves an empty queue.
//! * `suspended`, `runs`: the scheduler adds a job at its first suspension and removes it at its end.
//!
//! Slots and jobs move between shards, so only sums over all shards mean anything. A thread that
//! holds a shard lock must not take the state lock or another shard lock (L1).
//!
//! `depth` and `migrations` are hints without a lock. Each access is Relaxed and has no partner: a
//! wrong value costs a steal or a yield, never a job.

use std::collections::VecDeque;

use crate::histogram::Histogram;
use crate::pool::job::{AtomicJobSlot, RawJob, Runnable};
use crate::pool::limiter::counts::Counters;
use crate::pool::paged_slab::PagedSlab;
use crate::pool::timings::{Moment, WINDOWS};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Mutex, MutexGuard, failpoint};

/// The index of a shard in its pool.
pub(crate) type ShardId = usize;

pub(crate) struct Shard {
    state: Mutex<ShardState>,
    /// The length of `run_queue`, for workers that look for jobs to steal.
    depth: AtomicUsize,
    /// How often in a row the shard's jobs moved to another thread, because their submitter keeps
    /// this thread busy.
    migrations: AtomicUsize,
}

/// A run queue gives back memory beyond this many jobs, once most of the memory is unused.
const KEPT_CAPACITY: usize = 1_024;

/// The number of migrations in a row after which the next submitter yields. A few happen by chance.
const MIGRATIONS_BEFORE_YIELD: usize = 4;

pub(crate) struct ShardState {
    pub(crate) free_slots: usize,
    /// At most `free_slots`: those that no job has needed since the last look at the peaks.
    pub(crate) unused_slots: isize,
    /// Jobs that are ready to be polled. Each holds a slot or runs as overflow.
    pub(crate) run_queue: VecDeque<Runnable>,
    /// Jobs that were first suspended in this shard and have not ended, wherever they are now.
    pub(crate) suspended: PagedSlab<Suspended>,
    /// How long measured jobs ran that ended in this shard, or were suspended here first.
    pub(crate) runs: Histogram,
    /// A worker will look at `run_queue` before it goes idle.
    pub(crate) has_worker: bool,
    /// How often a worker took jobs. The stall monitor compares two readings.
    pub(crate) dequeues: u64,
    pub(crate) counters: Counters,
}

/// A job that was suspended, and when its first poll began.
#[derive(Debug)]
pub(crate) struct Suspended {
    pub(crate) job: RawJob,
    since: Since,
}

/// When the first poll of a job began, the weight of its measurement, and whether the job was reported as
/// slow: the moment, and below it `REPORTED` and the code of the weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(u64);

/// The low bits of `Since`.
const SINCE_SHIFT: u32 = 3;
/// The job was reported as slow.
const REPORTED: u64 = 1 << 2;
const WEIGHTS: [u32; 4] = [0, WINDOWS[0], WINDOWS[1], WINDOWS[2]];

impl Since {
    /// The run is not measured, and the moment is as exact as the worker's last reading.
    #[inline]
    pub(crate) fn unmeasured(at: Moment) -> Self {
        Self(at.get() << SINCE_SHIFT)
    }

    pub(crate) fn measured(at: Moment, weight: u32) -> Self {
        let code = WEIGHTS.iter().position(|&known| known == weight).unwrap_or(0);
        Self(at.get() << SINCE_SHIFT | code as u64)
    }

    pub(crate) fn at(self) -> Moment {
        Moment::new(self.0 >> SINCE_SHIFT).expect("an entry has a moment")
    }

    pub(crate) fn weight(self) -> u32 {
        WEIGHTS[(self.0 & (REPORTED - 1)) as usize]
    }

    pub(crate) fn set_reported(&mut self) {
        self.0 |= REPORTED;
    }
}

impl Suspended {
    #[inline]
    pub(crate) fn new(job: RawJob, since: Since) -> Self {
        Self { job, since }
    }

    pub(crate) fn since(&self) -> Moment {
        self.since.at()
    }

    pub(crate) fn is_reported(&self) -> bool {
        self.since.0 & REPORTED != 0
    }

    pub(crate) fn set_reported(&mut self) {
        self.since.set_reported();
    }
}

impl ShardState {
    /// Forgets a suspended job that has ended at `ended`. Without that moment its run is not measured.
    #[inline]
    pub(crate) fn remove_suspended(&mut self, key: usize, ended: Option<Moment>) {
        let Suspended { since, .. } = self.suspended.remove(key);
        if let Some(ended) = ended {
            self.record_run(since, ended);
        }
    }

    #[cold]
    fn record_run(&mut self, since: Since, ended: Moment) {
        if !failpoint("a suspended run is not measured") {
            self.runs.record_nanos(ended.nanos_since(since.at()), u64::from(since.weight()));
        }
    }
}

impl Shard {
    pub(crate) fn new(free_slots: usize) -> Self {
        let state = ShardState {
            free_slots,
            unused_slots: free_slots as isize,
            run_queue: VecDeque::new(),
            suspended: PagedSlab::new(),
            runs: Histogram::new(),
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

    /// Counts a move of the shard's jobs to another thread. Called by a worker that migrates.
    pub(crate) fn note_migration(&self) {
        // Load and store may lose a count; a read-modify-write per job would cost more.
        self.migrations.store(self.migrations.load(Relaxed) + 1, Relaxed);
    }

    /// Forgets the migrations. Called by a worker that runs the shard's jobs on their own thread.
    pub(crate) fn reset_migrations(&self) {
        if self.migrations.load(Relaxed) > 0 {
            self.migrations.store(0, Relaxed);
        }
    }

    /// Returns whether the next submitter on this thread must yield to the runtime once, and starts
    /// the count again if so.
    pub(crate) fn should_yield(&self) -> bool {
        let due = self.migrations.load(Relaxed) >= MIGRATIONS_BEFORE_YIELD;
        if due {
            self.migrations.store(0, Relaxed);
        }
        due
    }

    /// Returns the length of the run queue a moment ago.
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }
}

/// A locked shard. Keeps `depth` equal to the length of the run queue.
pub(crate) struct ShardGuard<'a> {
    state: MutexGuard<'a, ShardState>,
    depth: &'a AtomicUsize,
}

impl ShardGuard<'_> {
    /// Puts a job at the end of the run queue. Returns `true` if no worker would see the job, so
    /// the caller must wake a worker.
    #[must_use]
    pub(crate) fn push(&mut self, job: Runnable) -> bool {
        self.state.run_queue.push_back(job);
        if failpoint("last in, first out") {
            self.state.run_queue.rotate_right(1);
        }
        self.depth.store(self.state.run_queue.len(), Relaxed);
        !std::mem::replace(&mut self.state.has_worker, true) && !failpoint("push without wake")
    }

    /// Puts a job back at the front of the run queue, from where a worker had taken it.
    pub(crate) fn push_front(&mut self, job: Runnable) {
        self.state.run_queue.push_front(job);
        self.depth.store(self.state.run_queue.len(), Relaxed);
    }

    /// Moves the oldest jobs to the empty `slots`, at most `jobs`. Returns how many. Called by the
    /// shard's worker.
    #[inline]
    pub(crate) fn pop_batch(&mut self, jobs: usize, slots: &[AtomicJobSlot]) -> usize {
        let mut popped = 0;
        for slot in slots.iter().take(jobs) {
            let Some(job) = self.state.run_queue.pop_front() else { break };
            slot.put(job);
            popped += 1;
        }
        self.depth.store(self.state.run_queue.len(), Relaxed);
        self.state.dequeues += 1;
        popped
    }

    /// Gives back most of the run queue's memory after a peak. Called at the end of each turn, so
    /// that a job costs nothing: the queue moves at most an eighth of what it has moved to grow.
    #[inline]
    pub(crate) fn shrink(&mut self) {
        let (len, capacity) = (self.state.run_queue.len(), self.state.run_queue.capacity());
        if capacity > KEPT_CAPACITY && len <= capacity / 8 {
            self.state.run_queue.shrink_to(KEPT_CAPACITY.max(len * 2));
        }
    }

    /// Takes the older half of the run queue, or all of it. Called by a worker that steals or
    /// migrates, and by `cancel_all`.
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
