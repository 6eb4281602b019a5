//! What a worker measures of a job, and what it tells other threads of the one that it polls.
//!
//! A worker calls [`JobTimer::start`] before each poll and [`JobTimer::suspend`] after a first poll that
//! leaves the job suspended. The head of `pool/timings.rs` says which jobs are measured. The place of a job
//! that is polled for the first time stands in the worker's handle; all other jobs are known to their
//! shards. Both are stores to lines that the worker owns.

use crate::pool::job::Runnable;
use crate::pool::limiter::shard::Since;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::worker_handle::WorkerHandle;
use crate::pool::timings::{Clock, Moment, Sampler};

/// The turns, and the suspensions, after which a reading of the clock is too old to be the begin of a
/// job's age.
const READING_FOR: u32 = 16;

/// Owned by a worker.
pub(super) struct JobTimer {
    sampler: Sampler,
    /// Turns and suspensions since the last reading.
    readings: u32,
    /// When the measured job that is polled began, and the weight of its measurement.
    started: (Moment, u32),
    /// Slow jobs are reported.
    watches_slow: bool,
}

impl JobTimer {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            sampler: Sampler::new(),
            readings: 0,
            started: (shared.clock.now(), 0),
            watches_slow: shared.config.slow_job.is_some(),
        }
    }

    /// Notes that the worker was polled by the runtime.
    #[inline]
    pub(super) fn start_turn(&mut self, handle: &WorkerHandle) {
        self.readings += 1;
        if self.readings >= READING_FOR {
            self.forget(handle);
        }
    }

    /// Forgets the last reading. Called when the worker parks.
    #[cold]
    pub(super) fn forget(&mut self, handle: &WorkerHandle) {
        self.readings = 0;
        handle.set_read_at(None);
    }

    /// Tells other threads of a first poll that is about to begin, and counts any other one. Returns whether
    /// the job is measured: then the clock was read.
    #[inline]
    pub(super) fn start(&mut self, shared: &Shared, handle: &WorkerHandle, job: &Runnable) -> bool {
        if job.suspended_key().is_some() {
            handle.polling.set(None);
            job.count_poll();
            return false;
        }
        handle.polling.set(Some(job.ptr().place()));
        if self.watches_slow {
            handle.take_reported();
        }
        let is_due = self.sampler.is_due();
        if is_due {
            self.measure(shared, handle);
        }
        is_due
    }

    #[cold]
    fn measure(&mut self, shared: &Shared, handle: &WorkerHandle) {
        let at = self.read_clock(shared, handle);
        self.started = (at, self.sampler.take(at));
    }

    #[cold]
    fn read_clock(&mut self, shared: &Shared, handle: &WorkerHandle) -> Moment {
        let now = shared.clock.now();
        self.readings = 0;
        handle.set_read_at(Some(now));
        now
    }

    /// Returns the nanoseconds and the weight of a measured job that has ended in its first poll.
    #[cold]
    pub(super) fn end(&self, clock: &Clock) -> (u64, u32) {
        (clock.now().nanos_since(self.started.0), self.started.1)
    }

    /// Returns what the shard must know of a job that is to be suspended. If the job is not measured, its
    /// age begins at the last reading.
    #[inline]
    pub(super) fn suspend(
        &mut self,
        shared: &Shared,
        handle: &WorkerHandle,
        job: &Runnable,
        is_measured: bool,
    ) -> Since {
        let mut since = match is_measured {
            true => {
                job.set_measured();
                Since::measured(self.started.0, self.started.1)
            }
            false => {
                self.start_turn(handle);
                let at = handle.read_at();
                Since::unmeasured(at.unwrap_or_else(|| self.read_clock(shared, handle)))
            }
        };
        if self.watches_slow && handle.take_reported() {
            since.set_reported();
        }
        since
    }
}
