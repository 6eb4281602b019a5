//! The workers of a pool: who is idle, who is called, who may leave.
//!
//! Idle workers are a stack: the newest is called first, so the others stay cold and leave one
//! after another when they were not needed for the idle timeout.
//!
//! No call is lost: a call that finds nobody idle and may not start anybody leaves a note, and a
//! worker that wants to go idle looks for it under the same lock.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::pool::job::{AtomicJobSlot, Runnable};
use crate::pool::limiter::shard::ShardId;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::worker::Worker;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use crate::sync::{Mutex, failpoint};

const NO_SHARD: usize = usize::MAX;

/// Of the stall monitor.
const STOPPED: u8 = 0;
const RUNNING: u8 = 1;
const REQUESTED: u8 = 2;

pub(crate) struct IdleWorkers {
    /// How many threads the runtime has.
    threads: usize,
    state: Mutex<State>,
    /// Whether a call would find or start somebody, to be looked at without the lock.
    has_capacity: AtomicBool,
    /// How many calls found nobody, likewise.
    pending_wakeup_count: AtomicUsize,
    /// Whether somebody is on the stall monitor, and whether that was asked for since the last look.
    stall_monitor: AtomicU8,
}

struct State {
    /// Every worker there is.
    handles: Vec<Arc<WorkerHandle>>,
    /// How many there may be without need for more.
    target_workers: usize,
    /// Oldest first.
    idle: Vec<Arc<WorkerHandle>>,
    /// Shards for which a call found nobody.
    pending_wakeups: VecDeque<ShardId>,
}

/// How many jobs a worker may take at once.
pub(crate) const LOCAL_QUEUE_LEN: usize = 8;

/// Where a worker is found.
pub(crate) struct WorkerHandle {
    /// The shard it is called to.
    wakeup_shard: AtomicUsize,
    waker: OnceLock<Waker>,
    /// The jobs it has claimed and not polled yet: there for others should it be held up.
    pub(crate) local_queue: [AtomicJobSlot; LOCAL_QUEUE_LEN],
    /// Whether it moves: counts what it does between two polls of jobs.
    steps: AtomicUsize,
    /// Slots of ended jobs the worker has yet to give back. Only the worker writes it.
    deferred_releases: AtomicUsize,
    /// How many of these the stall monitor gave back in its place.
    stolen_releases: Mutex<usize>,
}

impl WorkerHandle {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            wakeup_shard: AtomicUsize::new(NO_SHARD),
            waker: OnceLock::new(),
            local_queue: std::array::from_fn(|_| AtomicJobSlot::new()),
            steps: AtomicUsize::new(0),
            deferred_releases: AtomicUsize::new(0),
            stolen_releases: Mutex::new(0),
        })
    }

    pub(crate) fn step(&self) {
        // Only the worker itself writes it.
        self.steps.store(self.steps.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps.load(Relaxed)
    }

    pub(crate) fn set_deferred_releases(&self, slots: usize) {
        self.deferred_releases.store(slots, Release);
    }

    /// Clears the deferred releases. Returns how many of the `owed` slots are left to be given back.
    pub(crate) fn take_deferred_releases(&self, deferred_releases: usize) -> usize {
        if deferred_releases == 0 {
            return 0;
        }
        let mut stolen_releases = self.stolen_releases.lock();
        self.deferred_releases.store(0, Relaxed);
        deferred_releases - std::mem::take(&mut *stolen_releases)
    }

    /// Takes the deferred releases over. Returns how many slots the caller is to give back.
    pub(crate) fn steal_deferred_releases(&self) -> usize {
        let mut stolen_releases = self.stolen_releases.lock();
        let deferred_releases = self.deferred_releases.load(Acquire);
        deferred_releases - std::mem::replace(&mut *stolen_releases, deferred_releases)
    }

    /// Whether there is something to be done in its place, should it be held up.
    pub(crate) fn has_stealable(&self) -> bool {
        self.deferred_releases.load(Relaxed) > 0
            || self.local_queue.iter().any(|slot| !slot.is_empty())
    }

    /// The claimed jobs, taken from a worker that is held up.
    pub(crate) fn steal_local_queue(&self) -> impl Iterator<Item = Runnable> + '_ {
        self.local_queue.iter().filter_map(AtomicJobSlot::take)
    }

    /// The shard the worker was called to, if it was.
    pub(crate) fn take_wakeup(&self) -> Option<ShardId> {
        if self.wakeup_shard.load(Acquire) == NO_SHARD {
            return None;
        }
        Some(self.wakeup_shard.swap(NO_SHARD, AcqRel))
    }

    fn wake(&self, shard_id: ShardId) {
        self.wakeup_shard.store(shard_id, Release);
        self.waker.get().expect("idle workers left their waker").wake_by_ref();
    }
}

/// What a worker that found nothing to do is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkOutcome {
    /// Wait for a call.
    Parked,
    /// Serve this shard: a call was missed.
    Serve(ShardId),
    /// Leave: nothing can come any more.
    Retire,
}

impl State {
    fn remove(&mut self, handle: &Arc<WorkerHandle>) {
        self.handles.retain(|other| !Arc::ptr_eq(other, handle));
    }
}

impl IdleWorkers {
    pub(crate) fn new(threads: usize, size: usize) -> Self {
        let target_workers = threads.min(size);
        let state = State {
            handles: Vec::new(),
            target_workers,
            idle: Vec::new(),
            pending_wakeups: VecDeque::new(),
        };
        Self {
            threads,
            state: Mutex::new(state),
            has_capacity: AtomicBool::new(true),
            pending_wakeup_count: AtomicUsize::new(0),
            stall_monitor: AtomicU8::new(if cfg!(millpond_loom) { REQUESTED } else { STOPPED }),
        }
    }

    pub(crate) fn has_capacity(&self) -> bool {
        self.has_capacity.load(Relaxed)
    }

    /// Workers, and how many of them are idle.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.handles.len(), state.idle.len())
    }

    /// Has a worker serve a shard: the newest idle one, a new one, or the next that has time:
    /// `false` in that case.
    pub(crate) fn wake_one(&self, shared: &Shared, shard_id: ShardId) -> bool {
        let mut state = self.state.lock();
        if let Some(handle) = state.idle.pop() {
            self.update_capacity(&state);
            drop(state);
            handle.wake(shard_id);
        } else if state.handles.len() < state.target_workers {
            self.spawn_worker(shared, state, shard_id);
        } else {
            if !state.pending_wakeups.contains(&shard_id) && !failpoint("forget pending wakeups") {
                state.pending_wakeups.push_back(shard_id);
                self.pending_wakeup_count.store(state.pending_wakeups.len(), Relaxed);
            }
            return false;
        }
        true
    }

    /// A busy worker's turn at a shard is over: which one comes next?
    pub(crate) fn next_shard(&self, shard_id: ShardId) -> ShardId {
        if self.pending_wakeup_count.load(Relaxed) == 0 {
            return shard_id;
        }
        let mut state = self.state.lock();
        match state.pending_wakeups.pop_front() {
            Some(next) => {
                if !state.pending_wakeups.contains(&shard_id) {
                    state.pending_wakeups.push_back(shard_id);
                }
                next
            }
            None => shard_id,
        }
    }

    /// Starts workers until there are `wanted`.
    pub(crate) fn spawn_up_to(&self, shared: &Shared, wanted: usize) {
        // Counted once: on a runtime that is gone they leave as they come.
        let missing = wanted.saturating_sub(self.state.lock().handles.len());
        for _ in 0..missing {
            self.spawn_worker(shared, self.state.lock(), 0);
        }
    }

    fn spawn_worker(
        &self,
        shared: &Shared,
        mut state: crate::sync::MutexGuard<'_, State>,
        shard_id: ShardId,
    ) {
        let handle = WorkerHandle::new();
        state.handles.push(handle.clone());
        self.update_capacity(&state);
        drop(state);
        Worker::start(shared.arc(), handle, shard_id);
    }

    /// Sends a worker to rest.
    pub(crate) fn park(
        &self,
        shared: &Shared,
        handle: &Arc<WorkerHandle>,
        waker: &Waker,
    ) -> ParkOutcome {
        handle.waker.get_or_init(|| waker.clone());
        let mut state = self.state.lock();
        if let Some(shard_id) = state.pending_wakeups.pop_front() {
            self.pending_wakeup_count.store(state.pending_wakeups.len(), Relaxed);
            return ParkOutcome::Serve(shard_id);
        }
        // Looked at under the lock, so that whoever closes the pool, or ends its last job, finds
        // this worker either gone or idle.
        if shared.limiter.is_closed() && shared.limiter.counts().is_idle() {
            state.remove(handle);
            return ParkOutcome::Retire;
        }
        state.idle.push(handle.clone());
        self.update_capacity(&state);
        ParkOutcome::Parked
    }

    /// Whether an idle worker that was not called for the idle timeout may leave. The last one
    /// stays as long as there is a job: with it goes the runtime's end, should that come.
    pub(crate) fn try_retire(&self, shared: &Shared, handle: &Arc<WorkerHandle>) -> bool {
        let busy = !shared.limiter.counts().is_idle();
        let mut state = self.state.lock();
        if state.idle.len() <= shared.config.min_idle || (busy && state.handles.len() == 1) {
            return false;
        }
        let Some(position) = state.idle.iter().position(|other| Arc::ptr_eq(other, handle)) else {
            return false;
        };
        state.idle.remove(position);
        state.remove(handle);
        self.update_capacity(&state);
        true
    }

    /// A worker is gone without having been allowed to: its runtime is.
    pub(crate) fn remove_dead(&self, handle: &Arc<WorkerHandle>) {
        let mut state = self.state.lock();
        state.remove(handle);
        state.idle.retain(|other| !Arc::ptr_eq(other, handle));
    }

    /// Asks for somebody on the stall monitor: `true` if there is nobody yet.
    pub(crate) fn request_stall_monitor(&self) -> bool {
        self.stall_monitor.load(Relaxed) != REQUESTED
            && self.stall_monitor.swap(REQUESTED, AcqRel) == STOPPED
    }

    /// Whether it was asked for since the last look.
    pub(crate) fn take_stall_monitor_request(&self) -> bool {
        self.stall_monitor.swap(RUNNING, AcqRel) == REQUESTED
    }

    /// Unless it was asked for again.
    pub(crate) fn stop_stall_monitor(&self) -> bool {
        self.stall_monitor.compare_exchange(RUNNING, STOPPED, AcqRel, Relaxed).is_ok()
    }

    pub(crate) fn handles(&self) -> Vec<Arc<WorkerHandle>> {
        self.state.lock().handles.clone()
    }

    /// Calls a worker to a shard whose own is held up, or hires one more if there are fewer than
    /// `most`.
    pub(crate) fn wake_or_spawn(&self, shared: &Shared, shard_id: ShardId, most: usize) {
        let mut state = self.state.lock();
        if let Some(handle) = state.idle.pop() {
            self.update_capacity(&state);
            drop(state);
            handle.wake(shard_id);
        } else if state.handles.len() < most {
            self.spawn_worker(shared, state, shard_id);
        }
    }

    /// Has every idle worker look around, if `wanted`.
    pub(crate) fn wake_all_if(&self, wanted: bool) {
        if !wanted {
            return;
        }
        let mut state = self.state.lock();
        let idle = std::mem::take(&mut state.idle);
        self.update_capacity(&state);
        drop(state);
        idle.iter().for_each(|handle| handle.wake(0));
    }

    pub(crate) fn target_workers(&self) -> usize {
        self.state.lock().target_workers
    }

    /// More workers than threads are of use only while some are held up.
    pub(crate) fn resize(&self, size: usize) {
        let mut state = self.state.lock();
        state.target_workers = size.min(self.threads);
        self.update_capacity(&state);
    }

    fn update_capacity(&self, state: &State) {
        self.has_capacity
            .store(!state.idle.is_empty() || state.handles.len() < state.target_workers, Relaxed);
    }
}
