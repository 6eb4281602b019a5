//! The wake policy, and the stall monitor.
//!
//! [`wake_worker_for`] runs after each push of a job, without a lock. Its callers are the methods of
//! `Shared` that submit, wake or reschedule jobs. The policy asks the idle list (`idle`) for a
//! worker and acts on the answer.
//!
//! # When a worker is woken
//!
//! 1. The shard has no worker: the push says so, and the idle list must find a worker (W2).
//! 2. The shard has a worker, but its ready jobs would take longer than [`WORTH_A_WAKE`]: a second
//!    worker is woken if one is idle, or if the pool has fewer workers than threads. The second
//!    worker finds its own shard empty and steals the older half.
//! 3. A worker is stalled: see below.
//!
//! # The stall monitor
//!
//! A worker polls its jobs one after another, and a few quick jobs are not worth a second thread. But
//! a job may compute for long, or block the thread. The jobs behind it must then run on another
//! thread, and no part of the pool can know that in advance.
//!
//! The stall monitor is a task of each pool that runs only when a submit leaves a job behind a busy
//! worker (W7). It compares two scans, a period apart:
//!
//! * A worker without a step is stalled. Its local queue goes to the monitor's own shard, and its
//!   deferred slots are released.
//! * A shard with ready jobs but without a dequeue is stalled. Another worker is woken or spawned for
//!   it, beyond the runtime's threads if need be.
//!
//! A short timer is not free: the kernel sets it anew each time that a thread goes to sleep. So the
//! period is short only after slow jobs were measured, or a stall was found.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;

use crate::pool::context;
use crate::pool::limiter::shard::ShardId;
use crate::pool::scheduler::complete::release_deferred_of;
use crate::pool::scheduler::idle::WakeAction;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::worker::Worker;
use crate::pool::scheduler::worker_handle::WorkerHandle;
use crate::sync::failpoint;

/// The time between two scans while jobs are slow. A stall is found after one to two periods.
const PERIOD: Duration = Duration::from_millis(1);

/// The time between two scans while jobs are quick. The kernel's own clock ticks no less often.
const SLOW_PERIOD: Duration = Duration::from_millis(8);

/// How many scans after a stall have the short period. The pool learns how long a job takes only
/// when the job's poll returns, so the measured times do not show the stall yet.
const ALERT_SCANS: u32 = 16;

/// The time of ready jobs, in nanoseconds, for which a second worker is woken. To wake a parked
/// thread takes a fifth of it, and jobs run slower on a thread other than their submitter's.
const WORTH_A_WAKE: u64 = 100_000;

/// Makes sure that a worker polls the ready jobs of a shard. `needs_wake` is the result of the push,
/// `depth` the length of the run queue after it.
#[inline]
pub(super) fn wake_worker_for(shared: &Shared, shard_id: ShardId, needs_wake: bool, depth: usize) {
    // tokio runs a task that was woken inside another task on the same thread, once that task
    // returns. So a worker that a job wakes may wait for this very job, and the monitor must look.
    if needs_wake && wake_for(shared, shard_id) && context::current().is_none() {
        return;
    }
    // The job stands behind a busy worker, and no thread knows for how long.
    if shared.workers.request_stall_monitor() {
        StallMonitor::start(shared.arc());
    }
    wake_another_for_long_queue(shared, shard_id, depth);
}

#[inline]
fn wake_another_for_long_queue(shared: &Shared, shard_id: ShardId, depth: usize) {
    if shared.workers.has_capacity() && shared.poll_times.expected_wait(depth) > WORTH_A_WAKE {
        wake_another(shared, shard_id);
    }
}

#[cold]
fn wake_another(shared: &Shared, shard_id: ShardId) {
    let action = shared.workers.wake_or_spawn(shared.workers.target_workers());
    act(shared, action, (shard_id + 1) % shared.limiter.shards().len());
}

#[cold]
fn wake_for(shared: &Shared, shard_id: ShardId) -> bool {
    act(shared, shared.workers.wake_one(shard_id), shard_id)
}

/// Does what the idle list decided, without the idle lock. Returns whether a worker was woken or
/// spawned for the shard.
fn act(shared: &Shared, action: WakeAction, shard_id: ShardId) -> bool {
    match action {
        WakeAction::Wake(handle) => handle.wake(shard_id),
        WakeAction::Spawn(handle) => Worker::start(shared.arc(), handle, shard_id),
        WakeAction::Nothing => return false,
    }
    true
}

/// Spawns workers until there are `wanted`. Called by `Pool::prewarm`.
pub(super) fn spawn_up_to(shared: &Shared, wanted: usize) {
    for handle in shared.workers.register_up_to(wanted) {
        Worker::start(shared.arc(), handle, 0);
    }
}

/// What a scan has found.
#[derive(Default)]
struct Scan {
    /// Jobs or deferred slots stand behind a worker, so another scan is needed.
    busy: bool,
    stalled: bool,
}

struct StallMonitor {
    shared: Arc<Shared>,
    /// The `dequeues` of each shard at the last scan.
    dequeues: Vec<u64>,
    /// The steps of each worker at the last scan.
    steps: Vec<(Arc<WorkerHandle>, usize)>,
    /// How many more scans have the short period.
    alert: u32,
    /// The monitor is marked as stopped, and another may run already.
    stopped: bool,
}

impl Drop for StallMonitor {
    fn drop(&mut self) {
        // A monitor that is not stopped is dropped by its runtime.
        self.shared.workers.monitor_ends(!self.stopped);
    }
}

impl StallMonitor {
    /// Spawns the stall monitor. Called by the thread whose request found the monitor stopped, so a
    /// pool has at most one.
    ///
    /// A runtime of one thread has none: a job that stalls a worker there stalls the monitor too.
    #[cold]
    fn start(shared: Arc<Shared>) {
        let runtime = shared.runtime();
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            // The request stays, so that no later submit comes here.
            return;
        }
        shared.workers.monitor_starts();
        let (dequeues, steps) = (Vec::new(), Vec::new());
        let monitor = Self { shared, dequeues, steps, alert: 0, stopped: false };
        runtime.spawn(monitor.run());
        // tokio keeps the task that was spawned last for the current thread, which a job may be
        // about to block. This empty task takes that place, so any thread may run the monitor.
        runtime.spawn(async {});
    }

    async fn run(mut self) {
        self.scan();
        loop {
            tokio::time::sleep(self.period()).await;
            let requested = self.shared.workers.take_stall_monitor_request();
            let scan = self.scan();
            self.alert = if scan.stalled { ALERT_SCANS } else { self.alert.saturating_sub(1) };
            if scan.busy || requested || !self.shared.workers.stop_stall_monitor() {
                continue;
            }
            self.stopped = true;
            // A submitter that saw the monitor run did not start another. Its push is visible
            // under the shard lock now, so this last look finds the job (W7).
            let shards = self.shared.limiter.shards();
            let queued = shards.iter().any(|shard| !shard.lock().run_queue.is_empty())
                || self.shared.workers.handles().iter().any(|handle| handle.has_stealable());
            if !queued || !self.shared.workers.request_stall_monitor() {
                return;
            }
            self.stopped = false;
        }
    }

    fn period(&self) -> Duration {
        if self.alert > 0 || self.shared.poll_times.has_slow() { PERIOD } else { SLOW_PERIOD }
    }

    fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        self.scan_workers(&mut scan);
        self.scan_shards(&mut scan);
        scan
    }

    /// Takes the jobs and deferred slots of each worker that made no step since the last scan.
    fn scan_workers(&mut self, scan: &mut Scan) {
        let shared = &*self.shared;
        let handles = shared.workers.handles();
        for handle in &handles {
            let has_stealable = handle.has_stealable();
            scan.busy |= has_stealable;
            let known = self.steps.iter().find(|(known, _)| Arc::ptr_eq(known, handle));
            if known.is_some_and(|(_, steps)| *steps == handle.steps()) {
                scan.stalled |= has_stealable;
                if !failpoint("a stalled worker keeps its jobs") {
                    let jobs = handle.steal_local_queue();
                    jobs.for_each(|job| shared.push_runnable(shared.current_shard(), job));
                }
                if !failpoint("a stalled worker keeps its slots") {
                    release_deferred_of(shared, handle);
                }
            }
        }
        self.steps = handles.into_iter().map(|handle| (handle.clone(), handle.steps())).collect();
    }

    /// Finds another worker for each shard whose ready jobs did not move since the last scan.
    fn scan_shards(&mut self, scan: &mut Scan) {
        let shared = &*self.shared;
        let shards = shared.limiter.shards();
        let dequeues: Vec<_> = shards.iter().map(|shard| shard.lock().dequeues).collect();
        for (shard_id, shard) in shards.iter().enumerate() {
            scan.busy |= shard.depth() > 0;
            if shard.depth() > 0
                && self.dequeues.get(shard_id) == Some(&dequeues[shard_id])
                && !failpoint("a stalled shard gets no worker")
            {
                scan.stalled = true;
                // More workers than running jobs would never find a job.
                let counts = shared.limiter.counts();
                let max_workers = counts.size.saturating_add(counts.overflow);
                act(shared, shared.workers.wake_or_spawn(max_workers), shard_id);
            }
        }
        self.dequeues = dequeues;
    }
}
