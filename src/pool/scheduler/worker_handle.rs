//! The shared side of a worker: what other threads may do with it.
//!
//! A [`WorkerHandle`] lives in the idle list (`idle`), in its worker (`worker`) and in the memory of
//! the stall monitor (`wake`). It has three parts:
//!
//! * **The wake-up**: the shard to serve, and the waker of the worker's task.
//! * **The local queue**: jobs that the worker took from its shard and has not polled yet. A swap
//!   takes a job out, so the worker and the stall monitor never both get it (W4).
//! * **The deferred releases**: slots of ended jobs that the worker will release under its next
//!   shard lock. The stall monitor releases them instead when the worker is stalled (W5). Two counts that
//!   only grow tell them: `deferred`, and `released`, which is at most as large. The one exchange that
//!   raises `released` releases the slots in between.

use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::pool::job::{AtomicJobSlot, AtomicPlace, Runnable};
use crate::pool::limiter::shard::ShardId;
use crate::pool::timings::Moment;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::sync::failpoint;

/// The length of a local queue: how many jobs a worker takes under one shard lock.
pub(super) const LOCAL_QUEUE_LEN: usize = 8;

/// No wake-up is pending.
const NO_SHARD: usize = usize::MAX;

pub(crate) struct WorkerHandle {
    /// The shard that a wake-up asks the worker to serve, or `NO_SHARD`.
    wakeup_shard: AtomicUsize,
    /// The waker of the worker's task; set before the worker parks for the first time.
    waker: OnceLock<Waker>,
    pub(super) local_queue: [AtomicJobSlot; LOCAL_QUEUE_LEN],
    /// Grows by one between two polls of the local queue. The worker alone writes it.
    steps: AtomicUsize,
    /// How many slots of ended jobs the worker left to be released, ever. The worker alone writes it.
    deferred: AtomicU64,
    /// How many of `deferred` were taken, by the worker or by the stall monitor.
    released: AtomicU64,
    /// The place of the job that the worker polls for the first time. Jobs that were suspended before
    /// are known to their shards.
    pub(super) polling: AtomicPlace,
    /// The worker's last reading of the clock, unless it was too long ago; 0 without one. A thread that
    /// lists jobs may put its own reading here.
    read_at: AtomicU64,
    /// The job in its first poll was reported as slow.
    reported: AtomicBool,
    /// The worker's task was spawned, and not dropped at once by a runtime that has shut down.
    spawned: AtomicBool,
}

impl WorkerHandle {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            wakeup_shard: AtomicUsize::new(NO_SHARD),
            waker: OnceLock::new(),
            local_queue: std::array::from_fn(|_| AtomicJobSlot::new()),
            steps: AtomicUsize::new(0),
            deferred: AtomicU64::new(0),
            released: AtomicU64::new(0),
            polling: AtomicPlace::new(),
            read_at: AtomicU64::new(0),
            reported: AtomicBool::new(false),
            spawned: AtomicBool::new(false),
        })
    }

    /// Notes that the worker's task was spawned.
    pub(super) fn set_spawned(&self) {
        // Relaxed, also in `is_spawned`: the thread that spawns the task is the one that asks.
        self.spawned.store(true, Relaxed);
    }

    /// Returns whether the worker's task was spawned before it was dropped.
    pub(super) fn is_spawned(&self) -> bool {
        self.spawned.load(Relaxed)
    }

    /// Stores the waker of the worker's task. Called before each park; the task's waker is always
    /// the same, so only the first call has an effect.
    pub(super) fn set_waker(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// Wakes the parked worker to serve a shard. Called by the thread that took the handle out of
    /// the idle list, without a lock (W3).
    pub(super) fn wake(&self, shard_id: ShardId) {
        // Release pairs with the Acquire in `take_wakeup`. Jobs need no ordering from here, because
        // the worker finds them under the shard lock.
        self.wakeup_shard.store(shard_id, Release);
        self.waker.get().expect("a worker stores its waker before it parks").wake_by_ref();
    }

    /// Takes the pending wake-up. Returns its shard, or `None` if there is none. Called by the
    /// worker at each poll while it is parked.
    pub(super) fn take_wakeup(&self) -> Option<ShardId> {
        // Acquire pairs with the Release in `wake`. The load saves a read-modify-write at each
        // tick. An old value is harmless: `wake` wakes the task after its store, and the runtime
        // orders that before the next poll.
        if self.wakeup_shard.load(Acquire) == NO_SHARD {
            return None;
        }
        Some(self.wakeup_shard.swap(NO_SHARD, AcqRel))
    }

    /// Counts a step. Called by the worker before each shard lock.
    #[inline]
    pub(super) fn step(&self) {
        // Relaxed without a partner, also in `steps`: the counter says only that the worker moves.
        // An old value makes the stall monitor take jobs that the worker would have polled.
        self.steps.store(self.steps.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Notes the worker's reading of the clock, or that there is none.
    #[inline]
    pub(super) fn set_read_at(&self, now: Option<Moment>) {
        // Relaxed without a partner, also below: the moment is a hint for a list of jobs.
        self.read_at.store(now.map_or(0, Moment::get), Relaxed);
    }

    /// Returns the last reading.
    #[inline]
    pub(super) fn read_at(&self) -> Option<Moment> {
        Moment::new(self.read_at.load(Relaxed))
    }

    /// Returns the last reading. Without one, notes `now` instead.
    pub(super) fn read_at_or(&self, now: Moment) -> Moment {
        match self.read_at.compare_exchange(0, now.get(), Relaxed, Relaxed) {
            Ok(_) => now,
            Err(at) => Moment::new(at).unwrap_or(now),
        }
    }

    /// Notes that the job in its first poll is reported as slow.
    pub(super) fn set_reported(&self) {
        // Relaxed without a partner, also below: in the worst case a job is reported twice or not.
        self.reported.store(true, Relaxed);
    }

    /// Returns whether the job in its first poll was reported as slow, and forgets that.
    pub(super) fn take_reported(&self) -> bool {
        self.reported.load(Relaxed)
            && self.reported.swap(false, Relaxed)
            && !failpoint("a slow first poll is reported again")
    }

    pub(super) fn steps(&self) -> usize {
        self.steps.load(Relaxed)
    }

    /// Leaves the slot of an ended job to be released. Called by the worker, after the job is dropped.
    #[inline]
    pub(super) fn defer_release(&self) {
        // Release pairs with the Acquire in `steal_deferred_releases`: the stall monitor releases
        // the slots after the destructors of their jobs (W6).
        self.deferred.store(self.deferred.load(Relaxed) + 1, Release);
    }

    /// Returns how many deferred slots the worker must release now. Called before each shard lock.
    #[inline]
    pub(super) fn take_deferred_releases(&self) -> usize {
        let deferred = self.deferred.load(Relaxed);
        // Relaxed suffices: `released` never passes `deferred`, so equal counts are final.
        if self.released.load(Relaxed) == deferred {
            return 0;
        }
        // AcqRel pairs with the exchange in `steal_deferred_releases`.
        (deferred - self.released.swap(deferred, AcqRel)) as usize
    }

    /// Takes the deferred releases over from a stalled worker. Returns how many slots the caller
    /// must release.
    pub(super) fn steal_deferred_releases(&self) -> usize {
        // Acquire pairs with the Release in `defer_release`.
        let deferred = self.deferred.load(Acquire);
        // AcqRel pairs with the exchange in `take_deferred_releases`. A worker that has gone on may have
        // released more by now.
        deferred.saturating_sub(self.released.fetch_max(deferred, AcqRel)) as usize
    }

    /// Takes the jobs out of the local queue of a stalled worker, or of a worker that is dropped.
    pub(super) fn steal_local_queue(&self) -> impl Iterator<Item = Runnable> + '_ {
        self.local_queue.iter().filter_map(AtomicJobSlot::take)
    }

    /// Returns whether the stall monitor could do something in place of this worker.
    pub(super) fn has_stealable(&self) -> bool {
        // Relaxed without a partner: the stall monitor looks again after a period. Its last look
        // has locked every shard before, so it sees each job that left a run queue before (W7).
        self.deferred.load(Relaxed) != self.released.load(Relaxed)
            || self.local_queue.iter().any(|slot| !slot.is_empty())
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_deferred_release_happens_once() {
        let handle = WorkerHandle::new();
        let defer = |slots| (0..slots).for_each(|_| handle.defer_release());
        defer(2);
        assert_eq!(handle.steal_deferred_releases(), 2);
        assert!(!handle.has_stealable());
        defer(1);
        assert_eq!(handle.steal_deferred_releases(), 1);
        assert_eq!(handle.steal_deferred_releases(), 0);
        defer(2);
        assert!(handle.has_stealable());
        assert_eq!(handle.take_deferred_releases(), 2);
        assert_eq!(handle.take_deferred_releases(), 0);
        defer(1);
        assert_eq!(handle.steal_deferred_releases(), 1);
        assert_eq!(handle.take_deferred_releases(), 0);
    }
}
