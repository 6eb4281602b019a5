//! How long tiny jobs wait to start when now and then a job before them hogs its thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::arms::{Gated, Kanal, Millpond, Submit, Workers};
use crate::runtime::Flavour;
use crate::tally::Tally;
use crate::workloads::spin;

pub const NAME: &str = "head-of-line";
pub const BLOCKING_NAME: &str = "head-of-line, block_in_place";
pub const JOBS: u64 = 100_000;
const SIZE: usize = 100;
/// Submitted at once, one burst per pace: about a tenth of what two threads can do, hogs included.
/// Single jobs at this load would hardly ever stand behind another one.
const BURST: u64 = 50;
const PACE: Duration = Duration::from_micros(250);
const HOG: Duration = Duration::from_millis(1);
/// How long a job blocks its thread, by tokio's `block_in_place`.
const BLOCK: Duration = Duration::from_millis(5);

/// One job in a thousand, with most of its burst behind it.
fn hogs(index: u64) -> bool {
    index % 1_000 == BURST / 5
}

pub type Run = fn(u64) -> Histogram<u64>;

pub const ARMS: [(&str, Run); 3] = arms::<false>();
pub const BLOCKING_ARMS: [(&str, Run); 3] = arms::<true>();

const fn arms<const BLOCKS: bool>() -> [(&'static str, Run); 3] {
    [
        ("semaphore", measure::<Gated, BLOCKS>),
        ("kanal", measure::<Workers<Kanal>, BLOCKS>),
        ("millpond", measure::<Millpond<false>, BLOCKS>),
    ]
}

/// The time from submission to start of each job, in ns. One thread has no second one to take
/// over from a hog, so this runs on several only.
fn measure<S: Submit, const BLOCKS: bool>(jobs: u64) -> Histogram<u64> {
    Flavour::Multi.run(async move {
        let pool = S::new(SIZE);
        let tally = Tally::leak(1, jobs).part(0);
        let waits: Arc<[AtomicU64]> = (0..jobs).map(|_| AtomicU64::new(0)).collect();
        for first in (0..jobs).step_by(BURST as usize) {
            let burst = Instant::now();
            for index in first..jobs.min(first + BURST) {
                let waits = waits.clone();
                let submitted = Instant::now();
                let job = async move {
                    let wait = submitted.elapsed().as_nanos() as u64;
                    waits[index as usize].store(wait, Ordering::Relaxed);
                    if hogs(index) && BLOCKS {
                        tokio::task::block_in_place(|| std::thread::sleep(BLOCK));
                    } else if hogs(index) {
                        spin(HOG);
                    }
                    tally.hit();
                };
                drop(pool.submit(job).await);
            }
            while burst.elapsed() < PACE {
                tokio::task::yield_now().await;
            }
        }
        tally.wait().await;
        let mut histogram = Histogram::new(3).expect("3 digits are valid");
        for wait in &*waits {
            histogram.record(wait.load(Ordering::Relaxed)).expect("the histogram grows");
        }
        histogram
    })
}
