//! Order by key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use millpond_worker::memory::Queue;
use millpond_worker::{Backoff, Failure};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{millis, publish, run_until_empty, secs, worker};

const KEYS: u32 = 100;

/// Messages of `KEYS` keys, one in 50 of which fails once. The environment may ask for more.
fn messages(default: u32) -> u32 {
    std::env::var("MILLPOND_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

async fn no_inversion(count: u32) {
    let queue = Queue::new(secs(30));
    publish(&queue, count);
    let last: Arc<Mutex<HashMap<u32, u32>>> = Arc::default();
    let failed = Arc::new(AtomicU32::new(0));
    let (seen, fails) = (last.clone(), failed.clone());
    let retry = Backoff::constant(millis(1)).attempts(3);
    let worker = worker(&queue).in_flight(64).retry(retry).by_key(|m| m.value % KEYS);
    let report = run_until_empty(&queue, worker, move |message, group| {
        let (last, failed, n) = (seen.clone(), fails.clone(), message.value);
        async move {
            // A message before the last one of its key is an inversion; the same one is an attempt.
            let previous = last.lock().unwrap().insert(n % KEYS, n);
            assert!(previous.is_none_or(|previous| previous <= n), "{n} after {previous:?}");
            if n % 50 == 7 && previous != Some(n) {
                failed.fetch_add(1, Ordering::Relaxed);
                return Err(Failure::new("once"));
            }
            if n % 10 == 0 {
                group.schedule(async { Ok(()) }).await?;
            }
            Ok(())
        }
    })
    .await;
    assert_eq!((report.acked, report.dead), (u64::from(count), 0));
    assert_eq!(failed.load(Ordering::Relaxed), (0..count).filter(|n| n % 50 == 7).count() as u32);
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order() {
    no_inversion(messages(20_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_keeps_its_order_on_several_threads() {
    no_inversion(messages(20_000)).await;
}

#[tokio::test(start_paused = true)]
async fn different_keys_run_side_by_side() {
    let queue = Queue::new(secs(30));
    publish(&queue, 8);
    let start = tokio::time::Instant::now();
    let worker = worker(&queue).by_key(|message| message.value % 4);
    let _ = run_until_empty(&queue, worker, |_, _| async {
        sleep(secs(1)).await;
        Ok(())
    })
    .await;
    assert!((secs(2)..millis(2500)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

/// A message that fails for good lets the next of its key go on.
#[tokio::test(start_paused = true)]
async fn after_a_dead_letter_the_key_goes_on() {
    let queue = Queue::new(secs(30));
    publish(&queue, 3);
    let worker = worker(&queue).by_key(|_| 0);
    let report = run_until_empty(&queue, worker, |message, _| async move {
        if message.value == 1 { Err(Failure::new("never")) } else { Ok(()) }
    })
    .await;
    assert_eq!((report.fetched, report.acked, report.dead), (3, 2, 1));
    assert_eq!(queue.dead_letters()[0].reason.deliveries, 3);
}

/// What waits for its key, and what waits for another attempt, is given back when the drain begins.
#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_what_waits() {
    let queue = Queue::new(secs(600));
    publish(&queue, 6);
    let token = CancellationToken::new();
    let retry = Backoff::constant(secs(3600));
    let run = worker(&queue).retry(retry).by_key(|message| message.value / 3).run(
        |message, _| async move {
            if message.value == 0 {
                return Err(Failure::new("not yet"));
            }
            sleep(secs(5)).await;
            Ok(())
        },
        token.clone(),
    );
    let start = tokio::time::Instant::now();
    let (report, ()) = tokio::join!(run, async {
        sleep(secs(1)).await;
        token.cancel();
    });
    let report = report.unwrap();
    assert_eq!((report.fetched, report.acked, report.nacked), (6, 1, 5));
    assert!(start.elapsed() < secs(6), "{:?}", start.elapsed());
}
