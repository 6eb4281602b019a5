//! How late a timer elsewhere on the runtime fires while a flood of tiny jobs runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::arms::{Gated, Kanal, Millpond, Spawn, Submit, Workers};
use crate::runtime::Flavour;
use crate::tally::Tally;

pub const NAME: &str = "neighbour";
pub const JOBS: u64 = 2_000_000;
const SIZE: usize = 100;
const TICK: Duration = Duration::from_millis(1);

pub type Run = fn(Flavour, u64) -> Histogram<u64>;

pub const ARMS: [(&str, Run); 4] = [
    ("spawn", measure::<Spawn>),
    ("semaphore", measure::<Gated>),
    ("kanal", measure::<Workers<Kanal>>),
    ("millpond", measure::<Millpond<false>>),
];

/// What the timer's own coarseness costs, to read the other rows against.
pub fn undisturbed(flavour: Flavour) -> Histogram<u64> {
    flavour.run(beside(async { tokio::time::sleep(Duration::from_millis(300)).await }))
}

fn measure<S: Submit>(flavour: Flavour, jobs: u64) -> Histogram<u64> {
    flavour.run(async move {
        let pool = S::new(SIZE);
        let tally = Tally::leak(1, jobs).part(0);
        beside(async move {
            for _ in 0..jobs {
                drop(pool.submit(async move { tally.hit() }).await);
            }
            tally.wait().await;
        })
        .await
    })
}

/// The lateness of each tick, in ns, for as long as `flood` runs.
async fn beside(flood: impl Future<Output = ()> + Send + 'static) -> Histogram<u64> {
    let over = Arc::new(AtomicBool::new(false));
    let neighbour = tokio::spawn({
        let over = over.clone();
        async move {
            let mut lateness = Histogram::new(3).expect("3 digits are valid");
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                tokio::time::sleep(TICK).await;
                let late = start.elapsed().saturating_sub(TICK);
                lateness.record(late.as_nanos() as u64).expect("the histogram grows");
            }
            lateness
        }
    });
    // The first tick has to be under way before a flood that never yields.
    tokio::task::yield_now().await;
    tokio::spawn(flood).await.expect("the flood ended");
    over.store(true, Ordering::Relaxed);
    neighbour.await.expect("the neighbour ended")
}
