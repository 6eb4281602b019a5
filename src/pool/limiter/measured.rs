//! What the limiter measures: how long waiters waited for their slots, and the jobs in their callers.
//!
//! All of this happens under the state lock, on the slow paths alone: at the grant of a slot, and around a
//! job that its caller runs. A job that gets a slot at once is not counted here. The number of such jobs is
//! the number of all slots that were handed out, less those that passed to a waiter.
//! What must never happen: a reading of the clock for each grant while slots pass on quickly.

use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::histogram::Histogram;
use crate::pool::job::{End, Runnable};
use crate::pool::jobs::{JobInfo, JobState, Longest, SlowJobs};
use crate::pool::limiter::Limiter;
use crate::pool::limiter::counts::Counters;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::peaks::Marks;
use crate::pool::limiter::state::State;
use crate::pool::limiter::wait_list::{Node, Waiter};
use crate::pool::options::Requirements;
use crate::pool::timings::{Clock, Sampler, Timings};
use crate::sync::failpoint;

/// The key of a job that its caller runs.
pub(crate) type CallerKey = usize;

/// A job that its caller runs.
pub(crate) struct InCaller {
    pub(crate) requirements: Requirements,
    pub(crate) group: Option<Arc<str>>,
    pub(crate) since: Instant,
    weight: u32,
    /// The job was reported as slow.
    pub(crate) is_reported: bool,
}

/// What the limiter has measured.
pub(super) struct Measured {
    clock: Clock,
    grants: Sampler,
    starts: Sampler,
    waits: Histogram,
    runs: Histogram,
    /// Slots that were used after a wait for them.
    waited: u64,
    /// Jobs that their callers ran or run.
    ran_in_caller: u64,
    pub(super) in_caller: Slab<InCaller>,
    /// The marks of the readers of peaks.
    pub(super) peaks: Marks,
}

impl Measured {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            grants: Sampler::new(),
            starts: Sampler::new(),
            waits: Histogram::new(),
            runs: Histogram::new(),
            waited: 0,
            ran_in_caller: 0,
            in_caller: Slab::new(),
            peaks: Marks::new(),
        }
    }

    /// Notes that a waiter that joined at `since` is granted a slot.
    pub(super) fn note_grant(&mut self, since: Instant) {
        if self.grants.is_due() {
            self.measure_grant(since);
        }
    }

    #[cold]
    fn measure_grant(&mut self, since: Instant) {
        let now = Instant::now();
        let weight = self.grants.take(self.clock.at(now));
        let since = if failpoint("a wait begins at its grant") { now } else { since };
        let wait = now.saturating_duration_since(since);
        self.waits.record_n(wait, u64::from(weight));
        for (_, marks) in &mut self.peaks {
            marks.longest_wait = marks.longest_wait.max(wait);
        }
    }

    /// Notes that a waiter uses the slot that it was granted.
    pub(super) fn note_waited(&mut self) {
        self.waited += 1;
    }

    /// Notes that a job that joined the wait list at `since` has its slot.
    #[inline]
    pub(super) fn note_start(&mut self, job: &Runnable, since: Instant) {
        self.note_waited();
        job.note_wait(self.clock.at(since));
    }

    /// Notes that a caller is about to run a job.
    pub(super) fn start_in_caller(
        &mut self,
        requirements: Requirements,
        group: Option<Arc<str>>,
    ) -> CallerKey {
        let since = Instant::now();
        let weight = if self.starts.is_due() { self.starts.take(self.clock.at(since)) } else { 0 };
        self.ran_in_caller += 1;
        let entry = InCaller { requirements, group, since, weight, is_reported: false };
        self.in_caller.insert(entry)
    }

    /// Notes that a job has ended in its caller.
    fn end_in_caller(&mut self, key: CallerKey) {
        let entry = self.in_caller.remove(key);
        if entry.weight > 0 && !failpoint("runs in callers are not measured") {
            let run = entry.since.elapsed();
            self.runs.record_n(run, u64::from(entry.weight));
        }
    }

    /// Returns all waits of a pool with these counters.
    fn all_waits(&self, jobs: &Counters) -> Histogram {
        let in_reservations = jobs.reservations_ended - jobs.reservations_unused;
        let slots = jobs.started + jobs.reserved - in_reservations;
        let all = slots + jobs.overflow_started + self.ran_in_caller;
        let mut waits = self.waits.clone();
        let at_once = all.saturating_sub(self.waited);
        waits.record_n(Duration::ZERO, at_once * u64::from(!failpoint("no wait is no wait")));
        waits
    }
}

impl Limiter {
    /// Counts the end of a job that ran in its caller.
    pub(crate) fn end_in_caller(&self, key: CallerKey, end: End, deferred: &mut DeferredWakes) {
        let mut state = self.lock_state();
        state.measured.end_in_caller(key);
        state.counters.end(end);
        state.check_idle(deferred);
    }

    /// Offers the jobs in the wait list, in their callers and in the shards to a list.
    pub(crate) fn list_jobs(&self, list: &mut Longest) {
        let now = Instant::now();
        let mut state = self.lock_state();
        let moment = state.measured.clock.at(now);
        for key in state.wait_list.waiter_keys() {
            let Node { since, requirements, waiter, .. } = state.wait_list.node(key);
            let age = now.saturating_duration_since(*since);
            list.offer(age, || {
                let group = match waiter {
                    Waiter::Job(job, _) => job.ptr().group(),
                    Waiter::Caller(caller) => caller.label.clone(),
                    Waiter::None => None,
                };
                JobInfo::of_requirements(*requirements, group, JobState::Waiting, age)
            });
        }
        for (_, InCaller { requirements, group, since, .. }) in &state.measured.in_caller {
            let age = now.saturating_duration_since(*since);
            list.offer(age, || {
                let state = JobState::InCaller;
                JobInfo::of_requirements(*requirements, group.clone(), state, age)
            });
        }
        drop(state);
        for shard in &self.shards {
            let shard = shard.lock();
            for (_, entry) in shard.suspended.iter() {
                let age = Duration::from_nanos(moment.nanos_since(entry.since()));
                list.offer(age, || Some(JobInfo::of_suspended(entry.job, age)));
            }
            // The others stand among the suspended ones.
            let new = shard.run_queue.iter().filter(|job| job.suspended_key().is_none());
            for job in new {
                list.offer(Duration::ZERO, || Some(JobInfo::of_unpolled(job.ptr(), moment)));
            }
        }
    }

    /// Finds jobs that are slow and were not reported: suspended ones, and those in their callers.
    pub(crate) fn find_slow(&self, slow: &mut SlowJobs) {
        let mut state = self.lock_state();
        let clock = state.measured.clock;
        for (_, entry) in &mut state.measured.in_caller {
            if entry.is_reported {
                continue;
            }
            if let Some(age) = slow.age(clock.at(entry.since)) {
                entry.is_reported = true;
                let (requirements, group) = (entry.requirements, entry.group.clone());
                let state = JobState::InCaller;
                slow.found.extend(JobInfo::of_requirements(requirements, group, state, age));
            }
        }
        drop(state);
        for shard in &self.shards {
            let (mut shard, mut keys) = (shard.lock(), Vec::new());
            for (key, entry) in shard.suspended.iter().filter(|(_, entry)| !entry.is_reported()) {
                if let Some(age) = slow.age(entry.since()) {
                    slow.found.push(JobInfo::of_suspended(entry.job, age));
                    keys.push(key);
                }
            }
            for key in keys.into_iter().filter(|_| !failpoint("a slow job is reported twice")) {
                shard.suspended[key].set_reported();
            }
        }
    }

    pub(crate) fn timings(&self) -> Timings {
        let state = self.lock_state();
        let jobs = state.counts().jobs;
        let mut run = state.measured.runs.clone();
        self.shards.iter().for_each(|shard| run.merge(&shard.lock().runs));
        Timings { wait: state.measured.all_waits(&jobs), run }
    }
}

impl State {
    /// Returns how many jobs run in their callers.
    pub(super) fn in_caller(&self) -> usize {
        self.measured.in_caller.len()
    }
}
