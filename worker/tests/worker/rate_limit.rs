//! No more messages come in a period than the limit says, and no fewer where they are there.

use std::sync::{Arc, Mutex};

use millpond_worker::WorkerError;
use millpond_worker::memory::Queue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{millis, publish, run_until_empty, secs, worker};

#[tokio::test(start_paused = true)]
async fn each_period_has_its_messages_and_no_more() {
    let queue = Queue::new(secs(30));
    publish(&queue, 200);
    let start = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let worker = worker(&queue).in_flight(64).rate_limit(20, secs(1));
    let report = run_until_empty(&queue, worker, move |_, _| {
        seen.lock().unwrap().push(start.elapsed());
        async { Ok(()) }
    })
    .await;
    assert_eq!(report.acked, 200);
    let times = times.lock().unwrap();
    // The first 20 at once, then 20 a second: the last of 200 after nine seconds.
    assert!(times[19] < millis(100), "{times:?}");
    assert!(times[199] >= secs(9) && times[199] < millis(9_800), "{:?}", times[199]);
    for (first, later) in times.iter().zip(&times[40..]) {
        assert!(*later - *first >= millis(990), "41 messages within {:?}", *later - *first);
    }
}

/// A message that comes after a wait for a token was not claimed before that wait.
#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_ack_wait_costs_no_claim() {
    let queue = Queue::new(secs(2));
    publish(&queue, 5);
    let worker = worker(&queue).rate_limit(1, secs(60));
    let report = run_until_empty(&queue, worker, |_, _| async { Ok(()) }).await;
    assert_eq!((report.fetched, report.acked, report.lost), (5, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_up_no_end() {
    let queue = Queue::new(secs(30));
    publish(&queue, 3);
    let token = CancellationToken::new();
    let run = worker(&queue).rate_limit(1, secs(3600)).run(|_, _| async { Ok(()) }, token.clone());
    let stop = async {
        tokio::time::sleep(secs(1)).await;
        token.cancel();
    };
    let start = Instant::now();
    let (report, ()) = tokio::join!(run, stop);
    assert_eq!((report.unwrap().acked, queue.len()), (1, 2));
    assert!(start.elapsed() < secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_nothing_is_an_error() {
    for (messages, period) in [(0, secs(1)), (1, secs(0)), (1, secs(100_000))] {
        let queue = Queue::<u32>::new(secs(30));
        let worker = worker(&queue).rate_limit(messages, period);
        let error =
            worker.run(|_, _| async { Ok(()) }, CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, WorkerError::Config(_)), "{error}");
        assert!(error.to_string().contains("rate_limit"), "{error}");
    }
}
