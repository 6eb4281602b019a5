//! The wake policy: which worker is woken for a job that is ready, and the stall monitor.
//!
//! The stall monitor notices workers that are held up, and has others do what they should have done.
//!
//! A worker polls its jobs one after another and nobody wakes a second thread for a handful of
//! quick ones. When one of them turns out to be slow (it computes, or blocks the thread), those
//! behind it must not wait for it while another thread is free. Nobody can tell in advance, so
//! somebody looks now and then: a task that lives only while jobs queue up behind a busy worker, or
//! are submitted by other jobs. Its timer is not free: one that is due soon is set anew by the kernel
//! each time a thread goes to sleep. So it looks often only where jobs of late were slow, or one was
//! found to hold up others.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;

use crate::pool::context;
use crate::pool::limiter::shard::ShardId;
use crate::pool::scheduler::idle::WorkerHandle;
use crate::pool::scheduler::shared::Shared;

/// How long jobs may stand behind a slow one: one to two of these.
const PERIOD: Duration = Duration::from_millis(1);
/// The same for the first slow one after many quick ones. No sooner than the kernel's own clock
/// ticks, for what the timer costs.
const SLOW_PERIOD: Duration = Duration::from_millis(8);
/// For so many looks a worker that was held up is remembered: how long its job takes is known to the
/// pool only at its end.
const ALERT: u32 = 16;

/// Another worker is called when the ready jobs of a shard would take one this long. Waking a
/// parked thread takes a fifth of it, and jobs that move between threads run slower.
const WORTH_A_WAKE: u64 = 100_000;

impl Shared {
    /// Sees to it that somebody polls what is ready in a shard.
    #[inline]
    pub(super) fn wake_worker_for(&self, shard_id: ShardId, needs_wake: bool, depth: usize) {
        // Otherwise everybody is busy, with the jobs of this shard or with others: for how long?
        // And a worker called from within a job is to run on this thread, once that returns.
        if needs_wake && self.workers.wake_one(self, shard_id) && context::current().is_none() {
            return;
        }
        if self.workers.request_stall_monitor() {
            StallMonitor::start(self.arc());
        }
        self.maybe_wake_another(shard_id, depth);
    }

    fn maybe_wake_another(&self, shard_id: ShardId, depth: usize) {
        if self.workers.has_capacity() && self.poll_times.expected_wait(depth) > WORTH_A_WAKE {
            self.workers.wake_or_spawn(
                self,
                (shard_id + 1) % self.limiter.shards().len(),
                self.workers.target_workers(),
            );
        }
    }
}

/// What a look has found.
#[derive(Default)]
struct Scan {
    /// There is reason to look again.
    busy: bool,
    stalled: bool,
}

pub(crate) struct StallMonitor {
    shared: Arc<Shared>,
    /// What each shard and each worker had done by the last look.
    dequeues: Vec<u64>,
    steps: Vec<(Arc<WorkerHandle>, usize)>,
    alert: u32,
}

impl StallMonitor {
    /// Starts the one stall monitor of a pool. A runtime of one thread needs none: what holds up a
    /// worker there holds up everybody.
    #[cold]
    pub(crate) fn start(shared: Arc<Shared>) {
        let runtime = shared.runtime().clone();
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return;
        }
        let monitor = Self { shared, dequeues: Vec::new(), steps: Vec::new(), alert: 0 };
        runtime.spawn(monitor.run());
        // tokio keeps the task spawned last for the current thread, which may be about to be held
        // up itself. This one takes that place, so that any thread may run the stall monitor.
        runtime.spawn(async {});
    }

    async fn run(mut self) {
        self.scan();
        loop {
            tokio::time::sleep(self.period()).await;
            let keeps = self.shared.workers.take_stall_monitor_request();
            let scan = self.scan();
            self.alert = if scan.stalled { ALERT } else { self.alert.saturating_sub(1) };
            if scan.busy || keeps || !self.shared.workers.stop_stall_monitor() {
                continue;
            }
            // Whoever queued a job before that saw a stall monitor; so it looks once more.
            let shards = self.shared.limiter.shards();
            let queued = shards.iter().any(|shard| !shard.lock().run_queue.is_empty())
                || self.shared.workers.handles().iter().any(|handle| handle.has_stealable());
            if !queued || !self.shared.workers.request_stall_monitor() {
                return;
            }
        }
    }

    fn period(&self) -> Duration {
        if self.alert > 0 || self.shared.poll_times.has_slow() { PERIOD } else { SLOW_PERIOD }
    }

    fn scan(&mut self) -> Scan {
        let shared = &*self.shared;
        let mut scan = Scan::default();
        let handles = shared.workers.handles();
        for handle in &handles {
            let has_stealable = handle.has_stealable();
            scan.busy |= has_stealable;
            let known = self.steps.iter().find(|(known, _)| Arc::ptr_eq(known, handle));
            if known.is_some_and(|(_, steps)| *steps == handle.steps()) {
                scan.stalled |= has_stealable;
                handle
                    .steal_local_queue()
                    .for_each(|job| shared.push_runnable(shared.current_shard(), job));
                shared.release_deferred_of(handle);
            }
        }
        self.steps = handles.into_iter().map(|handle| (handle.clone(), handle.steps())).collect();
        let dequeues: Vec<_> =
            shared.limiter.shards().iter().map(|shard| shard.lock().dequeues).collect();
        for (shard_id, shard) in shared.limiter.shards().iter().enumerate() {
            scan.busy |= shard.depth() > 0;
            if shard.depth() > 0 && self.dequeues.get(shard_id) == Some(&dequeues[shard_id]) {
                scan.stalled = true;
                let counts = shared.limiter.counts();
                shared.workers.wake_or_spawn(
                    shared,
                    shard_id,
                    counts.size.saturating_add(counts.overflow),
                );
            }
        }
        self.dequeues = dequeues;
        scan
    }
}
