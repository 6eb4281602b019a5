//! How long the polls of a pool's jobs take, as an estimate.

use std::time::Duration;

use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::without;

/// Two estimates, written by all workers of a pool and read by the wake policy.
///
/// Every access is Relaxed and has no partner. Two workers that write at once lose one measurement,
/// and an old value costs a wake-up too many or too few, never a job.
pub(crate) struct PollTimes {
    /// The nanoseconds of one poll: a moving average.
    poll: AtomicU32,
    /// The nanoseconds of the slowest recent poll. It fades by two thirds in [`MEMORY`] polls.
    slowest: AtomicU32,
}

/// A poll that takes more nanoseconds than this is slow. While there are slow polls, a worker takes
/// one job at a time: the jobs behind a slow one must stay where other workers find them.
const SLOW: u32 = 100_000;

/// The number of polls in which `slowest` loses two thirds of its value.
const MEMORY: u32 = 2_048;

impl PollTimes {
    pub(super) fn new() -> Self {
        Self { poll: AtomicU32::new(1_000), slowest: AtomicU32::new(0) }
    }

    /// Adds a measurement: `polls` polls took `took` together.
    pub(super) fn observe(&self, took: Duration, polls: u32) {
        if without("poll-time estimate") {
            return;
        }
        let nanos = took.as_nanos().min(u128::from(u32::MAX)) as u32;
        let poll = self.poll.load(Relaxed);
        self.poll.store(poll - poll / 4 + nanos / polls / 4, Relaxed);
        let nanos = nanos.saturating_sub(poll.saturating_mul(polls - 1));
        let slowest = self.slowest.load(Relaxed);
        let faded = slowest.saturating_sub((slowest / MEMORY).saturating_mul(polls));
        // A new slow poll counts half: the kernel may have preempted the thread.
        self.slowest.store(faded.max(faded / 2 + nanos / 2), Relaxed);
    }

    /// Returns whether a recent poll was slow.
    pub(super) fn has_slow(&self) -> bool {
        self.slowest.load(Relaxed) > SLOW
    }

    /// Returns how many jobs a worker takes at once so that they need about `nanos` nanoseconds.
    pub(super) fn batch(&self, nanos: u32) -> u32 {
        if self.has_slow() { 1 } else { nanos / self.poll.load(Relaxed).max(1) }
    }

    /// Returns how many nanoseconds the last of `jobs` jobs would wait for a single worker.
    pub(super) fn expected_wait(&self, jobs: usize) -> u64 {
        match jobs {
            0 => 0,
            _ => {
                let polls = jobs as u64 * u64::from(self.poll.load(Relaxed));
                polls.max(u64::from(self.slowest.load(Relaxed)))
            }
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slow_poll_is_remembered_and_fades() {
        let times = PollTimes::new();
        assert_eq!(times.batch(4_000), 4);
        assert_eq!(times.expected_wait(0), 0);
        assert_eq!(times.expected_wait(3), 3_000);
        times.observe(Duration::from_millis(1), 1);
        assert!(times.has_slow());
        assert_eq!(times.batch(4_000), 1);
        (0..1_000).for_each(|_| times.observe(Duration::from_micros(16), 16));
        assert!(!times.has_slow());
        assert!(times.batch(4_000) > 1);
    }
}
