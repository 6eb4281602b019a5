//! Claims: kept alive, lost, and never settled twice.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use millpond::Pool;
use millpond_worker::memory::{Claimed, Consumer, Message, Queue};
use millpond_worker::{
    Batch, DeadReason, Extend, Receipt, ReceiptError, Source, SourceError, Worker,
};
use tokio_util::sync::CancellationToken;

use crate::{Running, millis, run_until_empty, secs, worker};

#[tokio::test(start_paused = true)]
async fn a_long_job_is_delivered_once() {
    let queue = Queue::new(secs(2));
    queue.publish(0);
    let report = run_until_empty(&queue, worker(&queue), |_, group| async move {
        group
            .schedule(async {
                tokio::time::sleep(secs(30)).await;
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
    assert_eq!((report.fetched, report.acked), (1, 1));
}

/// W1 and W2: the thread stood still for longer than the ack wait, and the code returns `Ok` before
/// the keeper can run. The broker would confirm the ack, although the message is another's by then.
#[tokio::test]
async fn a_late_success_is_no_ack() {
    let queue = Queue::new(millis(100));
    queue.publish(0);
    let first = AtomicBool::new(true);
    let token = CancellationToken::new();
    let run = Worker::new(Other(queue.source(), Duration::ZERO), &Pool::new(1)).run(
        move |_, _| {
            if first.swap(false, Ordering::SeqCst) {
                std::thread::sleep(millis(300));
            }
            async { Ok(()) }
        },
        token.clone(),
    );
    let stop = async {
        while !queue.is_empty() {
            tokio::time::sleep(millis(5)).await;
        }
        token.cancel();
    };
    let both = async { tokio::join!(run, stop) };
    let (report, ()) = tokio::time::timeout(secs(30), both).await.expect("the worker hangs");
    let report = report.unwrap();
    // The second delivery may be too old as well: it was fetched across the same stop.
    assert!(report.lost >= 1 && report.acked == 1, "{report:?}");
    assert_eq!(report.fetched, report.lost + 1);
}

/// W2: the thread stood still while a message was on its way.
#[tokio::test]
async fn a_message_that_is_too_old_is_not_started() {
    let queue = Queue::new(millis(300));
    let started = Arc::new(AtomicUsize::new(0));
    let starts = started.clone();
    let publish = async {
        // The worker waits in the queue by now.
        tokio::time::sleep(millis(50)).await;
        queue.publish(0);
        // The source hands out the message after the stop, as if it had been in a socket.
        std::thread::sleep(millis(700));
        while started.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(millis(5)).await;
        }
    };
    let token = CancellationToken::new();
    let run = worker(&queue).run(
        move |_, _| {
            starts.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        },
        token.clone(),
    );
    let (report, ()) = tokio::join!(run, async {
        publish.await;
        token.cancel();
    });
    let report = report.unwrap();
    assert_eq!((report.fetched, report.lost, report.acked), (2, 1, 1));
    assert_eq!(started.load(Ordering::SeqCst), 1);
}

/// A broker that knows less, or more: it confirms late acks, and refuses extensions after a time.
struct Other(Consumer<u32>, Duration);

struct Claim(Claimed<u32>, Duration);

impl Source for Other {
    type Message = Message<u32>;
    type Receipt = Claim;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Batch<Self>, SourceError> {
        let batch = self.0.next(room).await?;
        Ok(batch.into_iter().map(|(message, claim)| (message, Claim(claim, self.1))).collect())
    }

    fn ack_wait(&self) -> Option<Duration> {
        self.0.ack_wait().map(|ack_wait| ack_wait.min(secs(2)))
    }

    fn system(&self) -> &'static str {
        "test"
    }

    fn destination(&self) -> &str {
        "other"
    }
}

impl Receipt for Claim {
    async fn ack(self) -> Result<(), ReceiptError> {
        let _ = self.0.ack().await;
        Ok(())
    }

    async fn nack(self, after: Duration) -> Result<(), ReceiptError> {
        self.0.nack(after).await
    }

    async fn dead(self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.0.dead(why).await
    }

    fn abandon(self) {
        self.0.abandon();
    }

    fn extend(&self) -> Extend {
        let wait = tokio::time::sleep(self.1);
        Box::pin(async {
            wait.await;
            Err(ReceiptError::Lost)
        })
    }

    fn deliveries(&self) -> u32 {
        self.0.deliveries()
    }

    fn id(&self) -> String {
        self.0.id()
    }
}

/// W3.
#[tokio::test(start_paused = true)]
async fn a_refused_extension_cancels_the_jobs() {
    let queue = Queue::new(secs(3600));
    queue.publish(0);
    let (token, running) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let (stop, jobs) = (token.clone(), running.clone());
    let run = Worker::new(Other(queue.source(), Duration::ZERO), &Pool::new(2)).run(
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
        token,
    );
    let watch = async {
        tokio::time::sleep(millis(500)).await;
        assert_eq!(running.load(Ordering::SeqCst), 1);
        tokio::time::sleep(secs(1)).await;
        assert_eq!(running.load(Ordering::SeqCst), 0, "the jobs of a lost claim go on");
        stop.cancel();
    };
    let (report, ()) = tokio::join!(run, watch);
    let report = report.unwrap();
    assert_eq!((report.fetched, report.lost, report.jobs.cancelled), (1, 1, 1));
    assert!(report.adds_up());
}

/// W1: the answer comes when another claim has the place in the table.
#[tokio::test(start_paused = true)]
async fn an_answer_is_for_the_claim_that_asked() {
    let queue = Queue::new(secs(3600));
    crate::publish(&queue, 2);
    let token = CancellationToken::new();
    // By an ack wait of 2 s, the first extension is asked for after 667 ms.
    let worker = Worker::new(Other(queue.source(), millis(200)), &Pool::new(1)).in_flight(1);
    let run = worker.run(
        |message, _| async move {
            tokio::time::sleep(millis(if message.value == 0 { 750 } else { 300 })).await;
            Ok(())
        },
        token.clone(),
    );
    let stop = async {
        tokio::time::sleep(secs(10)).await;
        token.cancel();
    };
    let report = tokio::join!(run, stop).0.unwrap();
    assert_eq!((report.fetched, report.acked, report.lost), (2, 2, 0));
}

/// The broker is away for longer than the ack wait: the claim is lost by the clock.
#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_costs_the_claim_after_the_ack_wait() {
    let queue = Queue::new(secs(2));
    queue.publish(0);
    let outage = async {
        tokio::time::sleep(secs(1)).await;
        queue.set_connected(false);
        tokio::time::sleep(secs(5)).await;
        queue.set_connected(true);
    };
    let run = run_until_empty(&queue, worker(&queue), |_, group| async move {
        group
            .schedule(async {
                tokio::time::sleep(secs(4)).await;
                Ok(())
            })
            .await?;
        Ok(())
    });
    let (report, ()) = tokio::join!(run, outage);
    assert_eq!((report.fetched, report.lost, report.acked), (2, 1, 1));
    assert_eq!((report.jobs.cancelled, report.jobs.succeeded), (1, 1));
}

/// A short outage costs nothing but an unconfirmed settlement.
#[tokio::test(start_paused = true)]
async fn a_settlement_during_an_outage_is_unsettled() {
    let queue = Queue::new(secs(2));
    queue.publish(0);
    let outage = async {
        tokio::time::sleep(millis(10)).await;
        queue.set_connected(false);
        tokio::time::sleep(secs(1)).await;
        queue.set_connected(true);
    };
    let run = run_until_empty(&queue, worker(&queue), |_, _| async {
        tokio::time::sleep(millis(100)).await;
        Ok(())
    });
    let (report, ()) = tokio::join!(run, outage);
    assert_eq!((report.fetched, report.unsettled, report.acked), (2, 1, 1));
}
