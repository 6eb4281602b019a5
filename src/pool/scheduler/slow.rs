//! The task that reports jobs that run for too long.
//!
//! A pool has at most one such task, and only if [`PoolBuilder::slow_job`](crate::PoolBuilder::slow_job) is
//! set and jobs run. It sleeps until the oldest job that is not reported comes to the limit, or for the
//! limit: jobs that start meanwhile cannot be slow before. Then it looks at the suspended jobs of each
//! shard, the jobs in their callers, and the first polls of workers. So a job is reported while it runs,
//! and no job has a task or a timer of its own.
//!
//! [`Slow`] says whether the task is there. A worker asks at each turn, and a caller before it runs a job:
//! [`watch`]. Both come after the job was counted. The task ends if it finds no running job after it has
//! marked itself as gone, so a job that came in between has spawned another one or is found.

use std::sync::Weak;
use std::time::Duration;

use crate::pool::jobs::{JobInfo, SlowJobs};
use crate::pool::limiter::counts::Counts;
use crate::pool::scheduler::shared::Shared;
use crate::pool::timings::Moment;
use crate::sync::atomic::AtomicBool;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::sync::failpoint;
use crate::trace::event;

pub(super) struct Slow {
    is_watched: AtomicBool,
}

impl Slow {
    pub(super) fn new() -> Self {
        Self { is_watched: AtomicBool::new(false) }
    }
}

/// Makes sure that a task looks for slow jobs. Called after a job was counted as running.
#[inline]
pub(crate) fn watch(shared: &Shared) {
    if let Some(limit) = shared.config.slow_job {
        watch_for(shared, limit);
    }
}

#[cold]
fn watch_for(shared: &Shared, limit: Duration) {
    // Models have no time, and without `tracing` there is no event.
    if cfg!(millpond_loom) || !cfg!(feature = "tracing") {
        return;
    }
    let is_watched = &shared.slow.is_watched;
    // Acquire pairs with the Release stores of a watch that ends: what that watch has seen comes before.
    if !is_watched.load(Acquire) && !is_watched.swap(true, AcqRel) {
        let task = Watch { shared: shared.weak(), limit, seen: Vec::new(), ended: false };
        let runtime = shared.runtime();
        runtime.spawn(task.run());
        // tokio keeps the task that was spawned last for the current thread, which a job may be about to
        // block. This empty task takes that place.
        runtime.spawn(async {});
    }
}

struct Watch {
    shared: Weak<Shared>,
    limit: Duration,
    /// The first polls that were reported: the worker's steps, and its reading of the clock.
    seen: Vec<(usize, Moment)>,
    ended: bool,
}

fn runs(counts: &Counts) -> bool {
    counts.running + counts.lent + counts.overflow + counts.in_caller > 0
}

impl Watch {
    async fn run(mut self) {
        while let Some(sleep) = self.look() {
            tokio::time::sleep(sleep).await;
        }
    }

    /// Reports what has become slow. Returns when to look again, or `None` if the task is to end.
    fn look(&mut self) -> Option<Duration> {
        let shared = self.shared.upgrade()?;
        if !runs(&shared.limiter.counts()) {
            let is_watched = &shared.slow.is_watched;
            // Release pairs with the Acquire in `watch_for`. The locks of the counts order the two.
            is_watched.store(false, Release);
            self.ended = !runs(&shared.limiter.counts()) || is_watched.swap(true, AcqRel);
            if self.ended {
                return None;
            }
        }
        let mut slow = SlowJobs::new(shared.clock.now(), self.limit);
        shared.limiter.find_slow(&mut slow);
        self.find_slow_polls(&shared, &mut slow);
        for job in &slow.found {
            report(&shared, job);
        }
        Some(slow.next().max(Duration::from_millis(1)))
    }

    /// Finds first polls that are slow.
    fn find_slow_polls(&mut self, shared: &Shared, slow: &mut SlowJobs) {
        let mut seen = Vec::new();
        for handle in shared.workers.handles() {
            let Some(place) = handle.polling.get() else { continue };
            let since = handle.read_at_or(slow.now());
            let Some(age) = slow.age(since) else { continue };
            let poll = (handle.steps(), since);
            if !self.seen.contains(&poll) {
                handle.set_reported();
                slow.found.push(JobInfo::of_place(place, age));
            }
            seen.push(poll);
        }
        self.seen = seen;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The runtime drops the task: the next job spawns another one.
        if let Some(shared) = self.shared.upgrade().filter(|_| !self.ended) {
            // Release pairs with the Acquire in `watch_for`.
            shared.slow.is_watched.store(false, Release);
        }
    }
}

fn report(shared: &Shared, job: &JobInfo) {
    if failpoint("a slow job is not reported") {
        return;
    }
    let _ = (shared, job);
    event!(
        WARN,
        pool = shared.name(),
        submitted_at = %job.place,
        name = job.name,
        group = job.group.as_deref(),
        state = ?job.state,
        age = ?job.age,
        waited = ?job.waited,
        polls = job.polls,
        "job is slow"
    );
}
