//! How long jobs take: what it is worth to wake another thread for.

use std::time::Duration;

use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;

pub(crate) struct PollTimes {
    /// Nanoseconds one poll of a job takes, about.
    poll: AtomicU32,
    /// Nanoseconds the slowest of late kept a worker, slowly forgotten: some thousand jobs after
    /// the last slow one, the quick ones are thought to be alone again.
    slowest: AtomicU32,
}

/// Slower polls than this hold up the ones behind them: then nobody claims more than one job.
const SLOW: u32 = 100_000;

/// After this many jobs a slow one has lost two thirds of its weight.
const MEMORY: u32 = 2_048;

impl PollTimes {
    pub(crate) fn new() -> Self {
        Self { poll: AtomicU32::new(1_000), slowest: AtomicU32::new(0) }
    }

    /// Takes in what some polls took.
    pub(crate) fn observe(&self, took: Duration, polls: u32) {
        let nanos = took.as_nanos().min(u128::from(u32::MAX)) as u32;
        let poll = self.poll.load(Relaxed);
        self.poll.store(poll - poll / 4 + nanos / polls / 4, Relaxed);
        let nanos = nanos.saturating_sub(poll.saturating_mul(polls - 1));
        let slowest = self.slowest.load(Relaxed);
        let faded = slowest.saturating_sub((slowest / MEMORY).saturating_mul(polls));
        // Half of it at first: now and then the thread was simply not on a processor.
        self.slowest.store(faded.max(faded / 2 + nanos / 2), Relaxed);
    }

    /// Whether there were slow jobs of late.
    pub(crate) fn has_slow(&self) -> bool {
        self.slowest.load(Relaxed) > SLOW
    }

    /// How many jobs make a batch of this many nanoseconds.
    pub(crate) fn batch(&self, nanos: u32) -> u32 {
        if self.has_slow() { 1 } else { nanos / self.poll.load(Relaxed).max(1) }
    }

    /// How many nanoseconds the last of some jobs would have to wait for one worker.
    pub(crate) fn expected_wait(&self, jobs: usize) -> u64 {
        match jobs {
            0 => 0,
            _ => {
                let polls = jobs as u64 * u64::from(self.poll.load(Relaxed));
                polls.max(u64::from(self.slowest.load(Relaxed)))
            }
        }
    }
}
