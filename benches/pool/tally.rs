//! Proof that no job was lost, and the bell that ends a measurement.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// From the end of production on: far longer than any rival honestly needs to catch up.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Tally {
    ended: AtomicU64,
    expected: u64,
    all_ended: Notify,
}

impl Tally {
    /// Leaked so that a job carries a plain reference: a shared `Arc` would add its own contention
    /// to every job of every rival and blur the differences.
    pub fn leak(expected: u64) -> &'static Self {
        let ended = AtomicU64::new(0);
        Box::leak(Box::new(Self { ended, expected, all_ended: Notify::new() }))
    }

    /// The one effect of a job.
    pub fn hit(&self) {
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == self.expected {
            self.all_ended.notify_one();
        }
    }

    /// Counting in the jobs ends the clock at the same point for all rivals, whichever way each of
    /// them has to wait for its jobs.
    pub async fn wait(&self) {
        let waited = tokio::time::timeout(PATIENCE, self.all_ended.notified()).await;
        let (ended, expected) = (self.ended.load(Ordering::Relaxed), self.expected);
        assert!(waited.is_ok() && ended == expected, "{ended} jobs ran of {expected} submitted");
    }
}
