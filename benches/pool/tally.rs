//! Proof that no job was lost, and the bell that ends a measurement.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

/// From the end of production on: far longer than any rival honestly needs to catch up.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Tally {
    /// One counter for each producer. All threads would contend for a single counter, whichever rival
    /// runs the jobs, and that would hide the differences.
    parts: Box<[CachePadded<AtomicU64>]>,
    share: u64,
    unfinished: AtomicUsize,
    all_ended: Notify,
}

/// What a job carries.
#[derive(Clone, Copy)]
pub struct Part {
    whole: &'static Tally,
    ended: &'static AtomicU64,
}

impl Tally {
    /// Leaked so that a job carries plain references: a shared `Arc` would add its own contention.
    pub fn leak(producers: usize, share: u64) -> &'static Self {
        Box::leak(Box::new(Self {
            parts: (0..producers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
            share,
            unfinished: AtomicUsize::new(producers),
            all_ended: Notify::new(),
        }))
    }

    pub fn part(&'static self, producer: usize) -> Part {
        Part { whole: self, ended: &self.parts[producer] }
    }

    /// Counting in the jobs ends the clock at the same point for all rivals, whichever way each of
    /// them has to wait for its jobs.
    pub async fn wait(&self) {
        // The timer comes first: a wake-up that was lost must not look like a slow one.
        let in_time = tokio::select! {
            biased;
            () = tokio::time::sleep(PATIENCE) => false,
            () = self.all_ended.notified() => true,
        };
        let ended: u64 = self.parts.iter().map(|part| part.load(Ordering::Relaxed)).sum();
        let expected = self.share * self.parts.len() as u64;
        assert!(in_time && ended == expected, "{ended} jobs ran of {expected} submitted");
    }
}

impl Part {
    pub async fn wait(self) {
        self.whole.wait().await;
    }

    /// The one effect of a job.
    pub fn hit(self) {
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == self.whole.share
            && self.whole.unfinished.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.whole.all_ended.notify_one();
        }
    }
}
