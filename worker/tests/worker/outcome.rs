//! What success, failure and panic of the code and of jobs do to a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millpond::Pool;
use millpond_worker::memory::Queue;
use millpond_worker::{Backoff, Failure, SourceError, Worker, WorkerError};
use tokio_util::sync::CancellationToken;

use crate::{Running, millis, publish, run_until_empty, secs, worker};

#[tokio::test(start_paused = true)]
async fn acknowledged_when_all_jobs_succeeded() {
    let queue = Queue::new(secs(30));
    publish(&queue, 100);
    let report = run_until_empty(&queue, worker(&queue), |_, group| async move {
        for _ in 0..5 {
            group
                .schedule(async {
                    tokio::time::sleep(millis(10)).await;
                    Ok(())
                })
                .await?;
        }
        Ok(())
    })
    .await;
    assert_eq!((report.fetched, report.acked, report.jobs.succeeded), (100, 100, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_on_several_threads() {
    let queue = Queue::new(secs(30));
    publish(&queue, 2_000);
    let report = run_until_empty(&queue, worker(&queue), |message, group| async move {
        for _ in 0..message.value % 4 {
            group.schedule(async { Ok(()) }).await?;
        }
        Ok(())
    })
    .await;
    assert_eq!((report.acked, report.jobs.succeeded), (2_000, 3_000));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_and_then_a_dead_letter() {
    let queue = Queue::new(secs(30));
    queue.publish(7);
    let report = run_until_empty(&queue, worker(&queue), |_, group| async move {
        group.schedule(async { Ok(()) }).await?;
        group.schedule(async { Err(Failure::new("no such row")) }).await?;
        group.schedule(std::future::pending()).await?;
        Ok(())
    })
    .await;
    assert_eq!((report.fetched, report.nacked, report.dead), (3, 2, 1));
    let dead = queue.dead_letters().pop().unwrap();
    assert_eq!((dead.value, dead.reason.deliveries), (7, 3));
    assert_eq!(dead.reason.reason, "job 1: no such row");
    assert!(dead.reason.place().contains("outcome.rs"), "{}", dead.reason.place());
}

#[tokio::test(start_paused = true)]
async fn pauses_follow_the_backoff() {
    let queue = Queue::new(secs(1));
    queue.publish(0);
    let retry = Backoff::constant(secs(10)).attempts(4);
    let start = tokio::time::Instant::now();
    let report = run_until_empty(&queue, worker(&queue).retry(retry), |_, _| async {
        Err(Failure::new("not yet"))
    })
    .await;
    assert_eq!((report.fetched, report.nacked, report.dead), (4, 3, 1));
    // Three pauses of 10 s, each cut by up to a quarter.
    assert!((secs(22)..secs(31)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

/// A pause without an end is a year: neither its share at random nor a clock overflows.
#[test]
fn a_pause_has_an_end() {
    const DAY: Duration = secs(24 * 60 * 60);
    let forever = Backoff::constant(Duration::MAX);
    let doubled = Backoff::exponential(secs(1), Duration::MAX);
    for delivery in 1..100 {
        let pause = forever.pause(delivery);
        assert!(pause > DAY * 270 && pause <= DAY * 365, "{pause:?}");
        assert!(doubled.pause(delivery) <= DAY * 365);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_a_dead_letter_at_once() {
    let queue = Queue::new(secs(30));
    queue.publish(0);
    queue.publish(1);
    let report = run_until_empty(&queue, worker(&queue), |message, group| async move {
        if message.value == 0 {
            "zero".parse::<u32>().map_err(Failure::dead)?;
        }
        group.schedule(async { Err(Failure::dead("refused for good")) }).await?;
        Ok(())
    })
    .await;
    assert_eq!((report.fetched, report.dead), (2, 2));
    let mut reasons: Vec<_> =
        queue.dead_letters().into_iter().map(|dead| dead.reason.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["invalid digit found in string", "job 0: refused for good"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    let queue = Queue::new(secs(30));
    publish(&queue, 3);
    let retry = Backoff::constant(millis(1)).attempts(1);
    let report = run_until_empty(&queue, worker(&queue).retry(retry), |message, group| {
        assert!(message.value != 0, "in the call");
        async move {
            group
                .schedule(async move {
                    assert!(message.value != 1, "in the job");
                    Ok(())
                })
                .await?;
            assert!(message.value != 2, "in the code");
            Ok(())
        }
    })
    .await;
    assert_eq!((report.fetched, report.dead, report.jobs.panicked), (3, 3, 1));
    let mut reasons: Vec<_> =
        queue.dead_letters().into_iter().map(|dead| dead.reason.reason).collect();
    reasons.sort();
    assert_eq!(reasons[0], "job 0: the job panicked: in the job");
    assert_eq!(reasons[1..], ["the code panicked: in the call", "the code panicked: in the code"]);
}

/// The code fails while its jobs run: they are cancelled.
#[tokio::test(start_paused = true)]
async fn a_failure_of_the_code_cancels_the_jobs() {
    let queue = Queue::new(secs(30));
    queue.publish(0);
    let retry = Backoff::default().attempts(1);
    let report = run_until_empty(&queue, worker(&queue).retry(retry), |_, group| async move {
        group.schedule(std::future::pending()).await?;
        Err(Failure::new("the second part is missing"))
    })
    .await;
    assert_eq!((report.dead, report.jobs.cancelled), (1, 1));
    assert_eq!(queue.dead_letters()[0].reason.reason, "the second part is missing");
}

/// W5: while a job of a delivery lives, the message is not given back.
#[tokio::test(start_paused = true)]
async fn nacked_after_its_jobs() {
    let queue = Queue::new(secs(30));
    queue.publish(0);
    let running = Arc::new(AtomicUsize::new(0));
    let seen = running.clone();
    let retry = Backoff::constant(millis(1)).attempts(20);
    let _ = run_until_empty(&queue, worker(&queue).retry(retry), move |_, group| {
        assert_eq!(seen.load(Ordering::SeqCst), 0, "a job of the last delivery still runs");
        let running = seen.clone();
        async move {
            group.schedule(async { Err(Failure::new("fails first")) }).await?;
            // Cannot be cancelled.
            group
                .schedule(async move {
                    let _running = Running::new(&running);
                    millpond::blocking(|| std::thread::sleep(millis(30))).await;
                    Ok(())
                })
                .await?;
            Ok(())
        }
    })
    .await;
    assert_eq!(queue.dead_letters()[0].reason.reason, "job 0: fails first");
}

/// W6: messages are bounded by `in_flight`, jobs by the pool, and neither blocks the other.
#[tokio::test(start_paused = true)]
async fn never_more_than_in_flight() {
    let queue = Queue::new(secs(30));
    publish(&queue, 50);
    let (messages, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let worker = Worker::new(queue.source(), &Pool::new(1)).in_flight(5);
    let _ = run_until_empty(&queue, worker, move |_, group| {
        let (messages, most) = (messages.clone(), most.clone());
        async move {
            let (_running, now) = Running::new(&messages);
            most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..3 {
                group
                    .schedule(async {
                        tokio::time::sleep(millis(5)).await;
                        Ok(())
                    })
                    .await?;
            }
            Ok(())
        }
    })
    .await;
    assert_eq!(seen.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn invalid_settings_are_named_before_anything_is_fetched() {
    let queue = Queue::<u32>::new(secs(30));
    queue.publish(0);
    let short = Queue::<u32>::new(millis(10));
    let cases = [
        (worker(&queue).in_flight(0), "in_flight"),
        (worker(&queue).in_flight(1_000_001), "in_flight"),
        (worker(&queue).retry(Backoff::default().attempts(0)), "attempts"),
        (worker(&queue).retry(Backoff::exponential(secs(2), secs(1))), "first"),
        (worker(&short), "ack_wait"),
    ];
    for (worker, field) in cases {
        let error =
            worker.run(|_, _| async { Ok(()) }, CancellationToken::new()).await.unwrap_err();
        let WorkerError::Config(error) = error else { panic!("{error}") };
        assert_eq!(error.field(), field);
    }
    assert_eq!(queue.len(), 1);
}

/// A source whose second call says that the stream is gone.
struct Gone(millpond_worker::memory::Consumer<u32>, bool);

impl millpond_worker::Source for Gone {
    type Message = millpond_worker::memory::Message<u32>;
    type Receipt = millpond_worker::memory::Claimed<u32>;

    async fn next(
        &mut self,
        room: std::num::NonZeroUsize,
    ) -> Result<millpond_worker::Batch<Self>, SourceError> {
        if std::mem::replace(&mut self.1, true) {
            return Err(SourceError::Closed("no such stream".into()));
        }
        self.0.next(room).await
    }

    fn ack_wait(&self) -> Option<std::time::Duration> {
        self.0.ack_wait()
    }

    fn system(&self) -> &'static str {
        "test"
    }

    fn destination(&self) -> &str {
        "gone"
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_source_ends_the_worker_after_a_drain() {
    let queue = Queue::new(secs(30));
    queue.publish(0);
    let worker = Worker::new(Gone(queue.source(), false), &Pool::new(1));
    let run = worker.run(
        |_, _| async {
            tokio::time::sleep(secs(3)).await;
            Ok(())
        },
        CancellationToken::new(),
    );
    let WorkerError::Source { error, report } = run.await.unwrap_err() else { panic!() };
    assert_eq!(error.to_string(), "the source is closed: no such stream");
    assert_eq!((report.fetched, report.acked), (1, 1));
}

/// Code that blocks its thread holds up no message that came with it, while another thread is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn code_that_blocks_holds_up_nothing() {
    let queue = Queue::new(secs(600));
    publish(&queue, 3);
    let started = Arc::new(AtomicUsize::new(0));
    let report = run_until_empty(&queue, worker(&queue), move |_, _| {
        started.fetch_add(1, Ordering::SeqCst);
        let start = std::time::Instant::now();
        while started.load(Ordering::SeqCst) < 3 && start.elapsed() < secs(20) {
            std::thread::sleep(millis(1));
        }
        let all = started.load(Ordering::SeqCst) == 3;
        async move { if all { Ok(()) } else { Err(Failure::dead("the others have not started")) } }
    })
    .await;
    assert_eq!((report.fetched, report.acked), (3, 3), "{report:?}");
}

/// On one thread, so that no other starter helps.
#[tokio::test]
async fn an_ack_waits_for_no_long_line() {
    const MESSAGES: u32 = 20;
    let queue = Arc::new(Queue::new(secs(600)));
    publish(&queue, MESSAGES);
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (seen, unacked) = (left.clone(), Arc::clone(&queue));
    let report = run_until_empty(&queue, worker(&queue), move |message, _| {
        if message.value == MESSAGES - 1 {
            seen.store(unacked.len(), Ordering::SeqCst);
        }
        std::thread::sleep(millis(2));
        async { Ok(()) }
    })
    .await;
    assert_eq!(report.acked, u64::from(MESSAGES), "{report:?}");
    assert!(left.load(Ordering::SeqCst) <= 3, "{left:?} messages were not acknowledged");
}

/// Each finds a starter, also after the line was empty. They wait, or end in their first poll.
#[tokio::test(start_paused = true)]
async fn messages_come_one_by_one() {
    let queue = Queue::new(secs(30));
    let publish = async {
        for number in 0..20 {
            queue.publish(number);
            while !queue.is_empty() {
                tokio::time::sleep(millis(20)).await;
            }
        }
    };
    let token = CancellationToken::new();
    let run = worker(&queue).run(
        |message, _| async move {
            if message.value % 3 == 0 {
                tokio::time::sleep(millis(5)).await;
            }
            Ok(())
        },
        token.clone(),
    );
    let both = async {
        tokio::join!(run, async {
            publish.await;
            token.cancel();
        })
    };
    let (report, ()) = tokio::time::timeout(secs(60), both).await.expect("a message stays");
    assert_eq!(report.unwrap().acked, 20);
}
