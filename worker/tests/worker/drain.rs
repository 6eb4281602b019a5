//! The end of a run: by its token, by its pool, or because it was dropped.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millpond::Pool;
use millpond_worker::memory::{Claimed, Consumer, Message, Queue};
use millpond_worker::{Backoff, Batch, Source, SourceError, Worker};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Running, millis, publish, secs, worker};

#[tokio::test(start_paused = true)]
async fn what_runs_may_end() {
    let queue = Queue::new(secs(30));
    publish(&queue, 20);
    let token = CancellationToken::new();
    let run = worker(&queue).in_flight(8).run(
        |_, _| async {
            sleep(secs(10)).await;
            Ok(())
        },
        token.clone(),
    );
    let (report, ()) = tokio::join!(run, async {
        sleep(secs(1)).await;
        token.cancel();
    });
    let report = report.unwrap();
    assert_eq!((report.fetched, report.acked), (8, 8));
    assert_eq!(queue.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cancels_and_gives_back_at_once() {
    let queue = Queue::new(secs(600));
    publish(&queue, 4);
    let token = CancellationToken::new();
    let running = Arc::new(AtomicUsize::new(0));
    let jobs = running.clone();
    let run = worker(&queue).drain_timeout(secs(5)).run(
        move |message, group| {
            let jobs = jobs.clone();
            async move {
                let job = async move {
                    let _running = Running::new(&jobs);
                    sleep(secs(if message.value == 0 { 3 } else { 3600 })).await;
                    Ok(())
                };
                group.schedule(job).await?;
                Ok(())
            }
        },
        token.clone(),
    );
    let start = Instant::now();
    let (report, ()) = tokio::join!(run, async {
        sleep(secs(1)).await;
        token.cancel();
    });
    let report = report.unwrap();
    assert_eq!((report.fetched, report.acked, report.nacked), (4, 1, 3));
    assert_eq!((report.jobs.succeeded, report.jobs.cancelled), (1, 3));
    assert_eq!(running.load(Ordering::SeqCst), 0);
    assert!(start.elapsed() < secs(7), "{:?}", start.elapsed());
    // Another worker has them at once, and not after the ack wait.
    let mut source = queue.source();
    let taken = millpond_worker::Source::next(&mut source, 8.try_into().unwrap());
    assert_eq!(timeout(millis(1), taken).await.unwrap().unwrap().len(), 3);
}

/// A job that cannot be cancelled does not hold up the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_cancelled_is_counted() {
    let queue = Queue::new(secs(600));
    queue.publish(0);
    let token = CancellationToken::new();
    let run = worker(&queue).drain_timeout(millis(50)).run(
        |_, group| async move {
            let job = async {
                millpond::blocking(|| std::thread::sleep(secs(2))).await;
                Ok(())
            };
            group.schedule(job).await?;
            Ok(())
        },
        token.clone(),
    );
    let start = Instant::now();
    let (report, ()) = tokio::join!(run, async {
        sleep(millis(100)).await;
        token.cancel();
    });
    let report = report.unwrap();
    assert!(start.elapsed() < secs(2), "the end waited for the closure");
    assert_eq!((report.nacked, report.jobs.still_running), (1, 1));
    assert!(report.adds_up());
}

/// W4.
#[tokio::test(start_paused = true)]
async fn a_dropped_run_gives_back() {
    let queue = Queue::new(secs(600));
    publish(&queue, 4);
    let running = Arc::new(AtomicUsize::new(0));
    let jobs = running.clone();
    let run = worker(&queue).run(
        move |_, group| {
            let jobs = jobs.clone();
            async move {
                let job = async move {
                    let _running = Running::new(&jobs);
                    std::future::pending().await
                };
                group.schedule(job).await?;
                Ok(())
            }
        },
        CancellationToken::new(),
    );
    assert!(timeout(secs(1), run).await.is_err());
    sleep(millis(1)).await;
    assert_eq!(running.load(Ordering::SeqCst), 0, "jobs of a dropped run go on");
    let mut source = queue.source();
    let taken = millpond_worker::Source::next(&mut source, 8.try_into().unwrap());
    assert_eq!(timeout(millis(1), taken).await.unwrap().unwrap().len(), 4);
}

/// The pool is closed before the worker: no message pays for that with an attempt of its own.
#[tokio::test(start_paused = true)]
async fn a_closed_pool_ends_the_worker() {
    let queue = Queue::new(secs(30));
    publish(&queue, 20);
    let pool = Pool::new(2);
    // A failure of a message would be its last.
    let retry = Backoff::default().attempts(1);
    let run = Worker::new(queue.source(), &pool).retry(retry).in_flight(4).run(
        |_, group| async move {
            group
                .schedule(async {
                    sleep(secs(1)).await;
                    Ok(())
                })
                .await?;
            Ok(())
        },
        CancellationToken::new(),
    );
    let (report, ()) = timeout(secs(60), async {
        tokio::join!(run, async {
            sleep(millis(1500)).await;
            pool.close();
        })
    })
    .await
    .expect("the worker goes on");
    let report = report.unwrap();
    assert!(report.dead == 0 && report.nacked > 0, "{report:?}");
    assert_eq!(queue.len() as u64, 20 - report.acked);
}

/// A source that returns no message at first, and then more than there is room for.
struct Unruly(Consumer<u32>, bool);

impl Source for Unruly {
    type Message = Message<u32>;
    type Receipt = Claimed<u32>;

    async fn next(&mut self, _room: NonZeroUsize) -> Result<Batch<Self>, SourceError> {
        if !std::mem::replace(&mut self.1, true) {
            return Ok(Vec::new());
        }
        self.0.next(NonZeroUsize::MAX).await
    }

    fn ack_wait(&self) -> Option<Duration> {
        self.0.ack_wait()
    }

    fn system(&self) -> &'static str {
        "test"
    }

    fn destination(&self) -> &str {
        "unruly"
    }
}

/// What has no place is given back. Once the ack wait is over, another may have it.
#[tokio::test(start_paused = true)]
async fn messages_beyond_the_room_hold_up_no_drain() {
    for (stop_at, unsettled, lost) in [(1, 4, 0), (60, 0, 4)] {
        let queue = Queue::new(secs(30));
        publish(&queue, 6);
        let token = CancellationToken::new();
        let worker = Worker::new(Unruly(queue.source(), false), &Pool::new(4)).in_flight(2);
        let run = worker
            .drain_timeout(secs(5))
            .run(|_, _| async { std::future::pending().await }, token.clone());
        let stop = async {
            sleep(secs(stop_at)).await;
            token.cancel();
        };
        let both = async { tokio::join!(run, stop) };
        let report = timeout(secs(600), both).await.expect("the drain waits").0.unwrap();
        assert!(report.adds_up() && report.nacked == 2, "{report:?}");
        assert_eq!((report.unsettled, report.lost), (unsettled, lost));
    }
}
