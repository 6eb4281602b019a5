//! The worker on the in-memory source, most of it under paused time.

mod accounting;
mod claims;
mod compositions;
mod drain;
mod memory;
mod order;
mod outcome;
mod panics;
mod rate_limit;
#[cfg(feature = "tracing")]
mod spans;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millpond::Pool;
use millpond_worker::memory::{Consumer, Message, Queue};
use millpond_worker::{Backoff, Failure, Jobs, Report, Worker};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A worker with short pauses, on a pool of 4 slots.
fn worker(queue: &Queue<u32>) -> Worker<Consumer<u32>> {
    let retry = Backoff::exponential(millis(100), secs(1)).attempts(3);
    Worker::new(queue.source(), &Pool::new(4)).in_flight(8).retry(retry)
}

/// Runs a worker until the queue is empty. Under paused time a worker that hangs fails the test.
async fn run_until_empty<F, Fut>(
    queue: &Queue<u32>,
    worker: Worker<Consumer<u32>>,
    code: F,
) -> Report
where
    F: Fn(Message<u32>, Jobs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let token = CancellationToken::new();
    let run = worker.run(code, token.clone());
    let stop = async {
        while !queue.is_empty() {
            tokio::time::sleep(millis(20)).await;
        }
        token.cancel();
    };
    let (report, ()) =
        timeout(secs(3600), async { tokio::join!(run, stop) }).await.expect("the worker hangs");
    let report = report.expect("the settings are valid");
    assert!(report.adds_up(), "{report:?}");
    report
}

/// Publishes the numbers below `count`.
fn publish(queue: &Queue<u32>, count: u32) {
    for number in 0..count {
        queue.publish(number);
    }
}

/// Counts up while it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> (Self, usize) {
        let now = count.fetch_add(1, Ordering::SeqCst) + 1;
        (Self(count.clone()), now)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
