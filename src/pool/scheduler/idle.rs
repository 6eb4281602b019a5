//! The idle list: the workers of a pool, and the shards that wait for a worker.
//!
//! `Shared` owns the list as its field `workers`. Its callers:
//!
//! * `wake` asks for a worker to serve a shard, on behalf of a submitter or of the stall monitor.
//! * `worker` parks and retires here, and asks which shard comes next after a turn.
//! * `shared` asks for new workers (prewarm), and wakes all workers when the pool has ended.
//!
//! One lock, the idle lock, protects [`State`]. The list starts no task and knows neither `Shared`
//! nor `Worker`: it returns a [`WakeAction`], and the caller acts on it without the lock.
//!
//! Idle workers form a stack. The worker that parked last is woken first: its thread is the most
//! likely to be still awake, and the others reach their idle timeout and retire.
//!
//! What must never happen: a worker is idle while a shard waits in `pending_wakeups` (W3), or the
//! last worker retires while the pool has jobs (W8).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::pool::limiter::Limiter;
use crate::pool::limiter::shard::ShardId;
use crate::pool::scheduler::worker_handle::WorkerHandle;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use crate::sync::{Mutex, failpoint, without};

/// No stall monitor runs.
const STOPPED: u8 = 0;
/// The stall monitor runs, and was not requested since its last scan.
const RUNNING: u8 = 1;
/// The stall monitor runs or is about to start, and was requested since its last scan.
const REQUESTED: u8 = 2;

pub(crate) struct IdleWorkers {
    /// The number of the runtime's threads.
    threads: usize,
    state: Mutex<State>,
    /// Whether a wake-up would find an idle worker or may spawn a worker.
    has_capacity: AtomicBool,
    /// The length of `pending_wakeups`, or more.
    pending_wakeup_count: AtomicUsize,
    /// `STOPPED`, `RUNNING` or `REQUESTED`.
    stall_monitor: AtomicU8,
    /// How many stall monitors exist: one, or none.
    monitors: AtomicUsize,
}

struct State {
    /// All workers, from their registration until they retire or are dropped.
    handles: Vec<Arc<WorkerHandle>>,
    /// The number of workers that wake-ups may spawn. The stall monitor may spawn more.
    target_workers: usize,
    /// The parked workers, newest last.
    idle: Vec<Arc<WorkerHandle>>,
    /// Shards with ready jobs for which a wake-up found no worker, oldest first, each once.
    pending_wakeups: VecDeque<ShardId>,
}

/// What a caller of the idle list must do after the idle lock is released.
#[must_use]
pub(super) enum WakeAction {
    /// Wake this worker, which has just left the idle list.
    Wake(Arc<WorkerHandle>),
    /// Spawn the worker of this handle, which has just been registered.
    Spawn(Arc<WorkerHandle>),
    /// Every worker is busy, and no more workers may be spawned.
    Nothing,
}

/// What a worker without ready jobs must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParkOutcome {
    /// Wait for a wake-up. The worker stands in the idle list. Not one of the first `min_idle` there,
    /// it `expires` after the idle timeout.
    Parked { expires: bool },
    /// Serve this shard, whose wake-up found no idle worker.
    Serve(ShardId),
    /// Retire: the pool is closed and has no jobs.
    Retire,
}

impl State {
    fn remove(&mut self, handle: &Arc<WorkerHandle>) {
        self.handles.retain(|other| !Arc::ptr_eq(other, handle));
    }

    /// Takes the newest idle worker, or registers a new worker if there are fewer than
    /// `max_workers`.
    fn wake_or_spawn(&mut self, max_workers: usize) -> WakeAction {
        if failpoint("the oldest idle worker is woken") {
            self.idle.reverse();
        }
        if let Some(handle) = self.idle.pop() {
            WakeAction::Wake(handle)
        } else if self.handles.len() < max_workers {
            WakeAction::Spawn(self.register())
        } else {
            WakeAction::Nothing
        }
    }

    fn register(&mut self) -> Arc<WorkerHandle> {
        let handle = WorkerHandle::new();
        self.handles.push(handle.clone());
        handle
    }
}

impl IdleWorkers {
    pub(super) fn new(threads: usize, size: usize) -> Self {
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
            // A model has no time, so no stall monitor may start there.
            stall_monitor: AtomicU8::new(if cfg!(millpond_loom) { REQUESTED } else { STOPPED }),
            monitors: AtomicUsize::new(0),
        }
    }

    /// Returns the number of workers, and how many of them are idle.
    pub(super) fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.handles.len(), state.idle.len())
    }

    /// Returns whether the runtime has one thread, on which workers and submitters take turns.
    pub(super) fn has_one_thread(&self) -> bool {
        self.threads == 1
    }

    /// Returns the handles of all workers. Called by the stall monitor.
    pub(super) fn handles(&self) -> Vec<Arc<WorkerHandle>> {
        self.state.lock().handles.clone()
    }

    pub(super) fn target_workers(&self) -> usize {
        self.state.lock().target_workers
    }

    /// Follows a new size of the pool. More workers than threads are of use only while some of the
    /// workers are stalled.
    pub(crate) fn resize(&self, size: usize) {
        let mut state = self.state.lock();
        state.target_workers = size.min(self.threads);
        self.update_capacity(&state);
    }

    /// Finds a worker for a shard whose run queue has no worker. If there is none, the shard goes to
    /// `pending_wakeups`, and the next worker that ends a turn or wants to park serves it.
    pub(super) fn wake_one(&self, shard_id: ShardId) -> WakeAction {
        let mut state = self.state.lock();
        let max_workers = state.target_workers;
        let action = state.wake_or_spawn(max_workers);
        if !matches!(action, WakeAction::Nothing) {
            self.update_capacity(&state);
        } else if !state.pending_wakeups.contains(&shard_id) && !failpoint("forget pending wakeups")
        {
            state.pending_wakeups.push_back(shard_id);
            // Relaxed: see `next_shard`.
            self.pending_wakeup_count.store(state.pending_wakeups.len(), Relaxed);
        }
        action
    }

    /// Finds another worker for a shard that has one already. Returns `Nothing` if no worker is
    /// idle and there are `max_workers`. Called for long run queues and by the stall monitor.
    pub(super) fn wake_or_spawn(&self, max_workers: usize) -> WakeAction {
        let mut state = self.state.lock();
        let action = state.wake_or_spawn(max_workers);
        self.update_capacity(&state);
        action
    }

    /// Registers workers until there are `wanted`. Returns the handles of the new ones, for the
    /// caller to spawn.
    pub(super) fn register_up_to(&self, wanted: usize) -> Vec<Arc<WorkerHandle>> {
        let mut state = self.state.lock();
        let missing = wanted.saturating_sub(state.handles.len());
        let handles = (0..missing).map(|_| state.register()).collect();
        self.update_capacity(&state);
        handles
    }

    /// Returns the shard that a busy worker serves after a turn at `shard_id`: the oldest pending
    /// one, behind which `shard_id` queues up, or the same shard again.
    pub(super) fn next_shard(&self, shard_id: ShardId) -> ShardId {
        // Relaxed without a partner: the count only saves the lock. A worker that misses a new
        // entry finds it after its next turn, or under the lock before it parks.
        if self.pending_wakeup_count.load(Relaxed) == 0 {
            return shard_id;
        }
        let mut state = self.state.lock();
        match state.pending_wakeups.pop_front() {
            Some(next) => {
                // The list cannot become empty here, so the count need not follow: more than the
                // length costs a lock, no more.
                if !state.pending_wakeups.contains(&shard_id)
                    && !failpoint("a busy shard is dropped")
                {
                    state.pending_wakeups.push_back(shard_id);
                }
                next
            }
            None => shard_id,
        }
    }

    /// Puts a worker without ready jobs into the idle list, unless there is something to do.
    pub(super) fn park(
        &self,
        limiter: &Limiter,
        min_idle: usize,
        handle: &Arc<WorkerHandle>,
        waker: &Waker,
    ) -> ParkOutcome {
        handle.set_waker(waker);
        let mut state = self.state.lock();
        if let Some(shard_id) = state.pending_wakeups.pop_front() {
            // Relaxed: see `next_shard`.
            self.pending_wakeup_count.store(state.pending_wakeups.len(), Relaxed);
            return ParkOutcome::Serve(shard_id);
        }
        // The check stands under the idle lock because `wake_all` follows the close and the last
        // end. It finds this worker in the list, or this check sees what it follows.
        if limiter.is_closed() && limiter.counts().is_idle() {
            state.remove(handle);
            return ParkOutcome::Retire;
        }
        state.idle.push(handle.clone());
        self.update_capacity(&state);
        // The workers above retire before this one, so the place in the stack never grows (W10).
        ParkOutcome::Parked { expires: state.idle.len() > min_idle }
    }

    /// Removes an idle worker whose idle timeout has passed. Returns whether the worker must retire.
    ///
    /// The last worker stays while the pool has jobs: when the runtime shuts down, dropping that
    /// worker is what cancels them (W8).
    pub(super) fn try_retire(
        &self,
        limiter: &Limiter,
        min_idle: usize,
        handle: &Arc<WorkerHandle>,
    ) -> bool {
        // A job that comes after this snapshot finds this worker idle, or spawns another.
        let busy = !limiter.counts().is_idle();
        let mut state = self.state.lock();
        let last =
            busy && state.handles.len() == 1 && !failpoint("the last worker leaves its jobs");
        let few = state.idle.len() <= min_idle;
        if few || last {
            return false;
        }
        // A wake-up may have taken the handle already; the worker then finds it at its next poll.
        let Some(position) = state.idle.iter().position(|other| Arc::ptr_eq(other, handle)) else {
            return false;
        };
        state.idle.remove(position);
        state.remove(handle);
        self.update_capacity(&state);
        true
    }

    /// Takes a worker that its runtime drops out of the idle list. The worker still counts.
    pub(super) fn remove_idle(&self, handle: &Arc<WorkerHandle>) {
        let mut state = self.state.lock();
        state.idle.retain(|other| !Arc::ptr_eq(other, handle));
        self.update_capacity(&state);
    }

    /// Removes a worker that its runtime has dropped. Called when the worker can do nothing more to
    /// the pool (W11).
    pub(super) fn remove_dead(&self, handle: &Arc<WorkerHandle>) {
        let mut state = self.state.lock();
        state.remove(handle);
        self.update_capacity(&state);
    }

    /// Prepares for another runtime. Returns `false` if the old one has a stall monitor left, or a
    /// worker other than `worker` (W11).
    pub(super) fn leave_runtime(&self, worker: Option<&Arc<WorkerHandle>>) -> bool {
        let state = self.state.lock();
        let is_worker = |other| worker.is_some_and(|worker| Arc::ptr_eq(worker, other));
        // Acquire pairs with the AcqRel in `monitor_ends`.
        if self.monitors.load(Acquire) > 0 || !state.handles.iter().all(is_worker) {
            return false;
        }
        // The old runtime may have had one thread, and so no monitor for any request. AcqRel pairs with
        // the exchanges in `request_stall_monitor`.
        self.stall_monitor.swap(STOPPED, AcqRel);
        true
    }

    /// Counts a stall monitor. Called before its task is spawned.
    pub(super) fn monitor_starts(&self) {
        // AcqRel pairs with the Acquire in `leave_runtime`; also below.
        self.monitors.fetch_add(1, AcqRel);
    }

    /// Counts the end of a stall monitor. One that its runtime dropped is marked as stopped.
    pub(super) fn monitor_ends(&self, dropped: bool) {
        if dropped {
            self.stall_monitor.swap(STOPPED, AcqRel);
        }
        self.monitors.fetch_sub(1, AcqRel);
    }

    /// Wakes every idle worker. Called when the pool is closed, and when a closed pool's last job
    /// has ended: each worker then parks again or retires.
    pub(super) fn wake_all(&self) {
        let mut state = self.state.lock();
        let idle = std::mem::take(&mut state.idle);
        self.update_capacity(&state);
        drop(state);
        idle.iter().for_each(|handle| handle.wake(0));
    }

    /// Returns whether a wake-up would find an idle worker or may spawn one. A hint.
    pub(super) fn has_capacity(&self) -> bool {
        // Relaxed without a partner: the caller asks for a second worker for a shard that has one.
        self.has_capacity.load(Relaxed)
    }

    fn update_capacity(&self, state: &State) {
        let has_capacity = !state.idle.is_empty() || state.handles.len() < state.target_workers;
        // Relaxed: see `has_capacity`.
        self.has_capacity.store(has_capacity, Relaxed);
    }

    /// Requests the stall monitor. Returns whether the caller must start it. Called after a push,
    /// by a thread that has released the shard lock.
    pub(super) fn request_stall_monitor(&self) -> bool {
        // The Relaxed load spares a swap per submit. It relies on the shard lock as its partner: a
        // monitor that stops locks every shard after its exchange. It sees the caller's job there,
        // or the caller's load comes after the exchange and sees `STOPPED` (W7).
        !without("stall monitor")
            && self.stall_monitor.load(Relaxed) != REQUESTED
            // AcqRel pairs with the exchanges in the two functions below.
            && self.stall_monitor.swap(REQUESTED, AcqRel) == STOPPED
    }

    /// Returns whether the stall monitor was requested since its last scan, and takes the request.
    pub(super) fn take_stall_monitor_request(&self) -> bool {
        self.stall_monitor.swap(RUNNING, AcqRel) == REQUESTED
    }

    /// Marks the stall monitor as stopped, unless it was requested again. Returns whether it is
    /// stopped now.
    pub(super) fn stop_stall_monitor(&self) -> bool {
        // The Relaxed failure says only that a request came in between.
        self.stall_monitor.compare_exchange(RUNNING, STOPPED, AcqRel, Relaxed).is_ok()
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::pool::limiter::overload::TargetWait;
    use crate::pool::timings::Clock;

    fn limiter() -> Limiter {
        Limiter::new(0, 2, 2, 0, TargetWait::Never, Clock::new())
    }

    fn spawned(action: WakeAction) -> Arc<WorkerHandle> {
        match action {
            WakeAction::Spawn(handle) => handle,
            _ => panic!("a worker was to be spawned"),
        }
    }

    #[test]
    fn a_wakeup_without_a_worker_is_served_before_a_worker_parks() {
        let (workers, limiter) = (IdleWorkers::new(1, 2), limiter());
        let handle = spawned(workers.wake_one(0));
        assert!(matches!(workers.wake_one(1), WakeAction::Nothing));
        assert!(matches!(workers.wake_one(1), WakeAction::Nothing));
        let park = || workers.park(&limiter, 0, &handle, Waker::noop());
        assert_eq!(park(), ParkOutcome::Serve(1));
        assert_eq!(park(), ParkOutcome::Parked { expires: true });
        assert_eq!(workers.count(), (1, 1));
    }

    #[test]
    fn busy_shards_take_turns() {
        let workers = IdleWorkers::new(1, 2);
        let _handle = spawned(workers.wake_one(0));
        assert_eq!(workers.next_shard(0), 0);
        assert!(matches!(workers.wake_one(1), WakeAction::Nothing));
        assert_eq!(workers.next_shard(0), 1);
        assert_eq!(workers.next_shard(1), 0);
    }

    #[test]
    fn the_newest_idle_worker_is_woken_first() {
        let (workers, limiter) = (IdleWorkers::new(2, 2), limiter());
        let handles = workers.register_up_to(2);
        for handle in &handles {
            let parked = workers.park(&limiter, 2, handle, Waker::noop());
            assert_eq!(parked, ParkOutcome::Parked { expires: false });
        }
        for expected in handles.iter().rev() {
            assert!(workers.has_capacity());
            let WakeAction::Wake(handle) = workers.wake_one(1) else { panic!("all are idle") };
            assert!(Arc::ptr_eq(&handle, expected));
            handle.wake(1);
            assert_eq!(handle.take_wakeup(), Some(1));
            assert_eq!(handle.take_wakeup(), None);
        }
        assert!(!workers.has_capacity());
    }

    #[test]
    fn a_stall_monitor_that_is_requested_does_not_stop() {
        let workers = IdleWorkers::new(1, 1);
        assert!(workers.request_stall_monitor(), "the first request starts it");
        assert!(!workers.request_stall_monitor());
        assert!(workers.take_stall_monitor_request());
        assert!(!workers.take_stall_monitor_request());
        assert!(!workers.request_stall_monitor(), "it runs");
        assert!(!workers.stop_stall_monitor());
        assert!(workers.take_stall_monitor_request());
        assert!(workers.stop_stall_monitor());
        assert!(workers.request_stall_monitor());
    }
}
