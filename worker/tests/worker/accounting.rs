//! The law of the report, under everything that can happen to a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond::Pool;
use millpond_worker::memory::Queue;
use millpond_worker::{Backoff, Failure, Worker};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{millis, publish, secs};

/// A small generator: the same numbers in each run.
fn next_random(seed: &AtomicU64) -> u64 {
    let mut x = seed.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    seed.store(x, Ordering::Relaxed);
    x
}

async fn chaos(seed: u64) {
    let queue = Queue::new(secs(2));
    let (random, submitted) = (Arc::new(AtomicU64::new(seed)), Arc::new(AtomicU64::new(0)));
    publish(&queue, 300u32);
    let retry = Backoff::exponential(millis(10), secs(5)).attempts(4);
    let worker = Worker::new(queue.source(), &Pool::new(4)).in_flight(16).retry(retry);
    let worker = worker.drain_timeout(secs(1));
    let worker = if seed % 2 == 0 { worker.by_key(|m| m.value % 7) } else { worker };
    let token = CancellationToken::new();
    let (dice, jobs) = (random.clone(), submitted.clone());
    let run = worker.run(
        move |_, group| {
            let (dice, jobs) = (dice.clone(), jobs.clone());
            async move {
                for _ in 0..next_random(&dice) % 5 {
                    let die = next_random(&dice) % 100;
                    let job = async move {
                        sleep(millis(die * 20)).await;
                        match die {
                            0..5 => Err(Failure::new("failed")),
                            5..8 => panic!("panicked"),
                            8..10 => Err(Failure::dead("dead")),
                            10 => std::future::pending().await,
                            _ => Ok(()),
                        }
                    };
                    group.schedule(job).await?;
                    jobs.fetch_add(1, Ordering::Relaxed);
                }
                match next_random(&dice) % 50 {
                    0 => panic!("the code"),
                    1 => Err(Failure::new("the code")),
                    _ => Ok(()),
                }
            }
        },
        token.clone(),
    );
    let outages = async {
        for _ in 0..10 {
            sleep(millis(next_random(&random) % 3_000)).await;
            queue.set_connected(false);
            sleep(millis(next_random(&random) % 3_000)).await;
            queue.set_connected(true);
        }
        token.cancel();
    };
    let (report, ()) =
        timeout(secs(3600), async { tokio::join!(run, outages) }).await.expect("the worker hangs");
    let report = report.unwrap();
    assert!(report.adds_up(), "seed {seed}: {report:?}");
    let jobs = report.jobs;
    let ended = jobs.succeeded + jobs.failed + jobs.panicked + jobs.cancelled + jobs.still_running;
    // A submit may be cancelled with its code after its job was admitted.
    assert!(ended >= submitted.load(Ordering::Relaxed), "seed {seed}: {report:?}");
    // The queue agrees: what was not acknowledged and is no dead letter is still there. An unsettled
    // message may be either.
    let left = queue.len() as u64 + queue.dead_letters().len() as u64;
    assert_eq!(left + report.acked, 300, "seed {seed}: {report:?}");
    assert_eq!(queue.dead_letters().len() as u64, report.dead, "seed {seed}: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn everything_at_once() {
    for seed in 1..=40 {
        chaos(seed).await;
    }
}
