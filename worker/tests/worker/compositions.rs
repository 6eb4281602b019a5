//! A worker beside what else a program has: a second runtime, and other uses of its pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millpond::Pool;
use millpond_worker::memory::Queue;
use millpond_worker::{Backoff, Failure, Report, Worker};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{millis, publish, run_until_empty, secs};

fn runtime(threads: usize) -> Runtime {
    match threads {
        1 => Builder::new_current_thread().enable_all().build().unwrap(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap(),
    }
}

/// Runs `messages` on a pool, each with the jobs of `code`.
async fn work(messages: u32, worker: impl FnOnce(&Queue<u32>) -> WorkerOf, code: Code) -> Report {
    let queue = Queue::new(secs(600));
    publish(&queue, messages);
    let worker = worker(&queue).retry(Backoff::constant(millis(1)).attempts(1_000));
    let run = run_until_empty(&queue, worker, move |message, group| code(message.value, group));
    tokio::time::timeout(secs(60), run).await.expect("the worker hangs")
}

type WorkerOf = Worker<millpond_worker::memory::Consumer<u32>>;
type Ended = std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
type Code = Box<dyn Fn(u32, millpond_worker::Jobs) -> Ended + Send + Sync>;

/// The code holds no slot, so it may wait for jobs of its own pool, with a handle or in a group.
#[test]
fn code_awaits_jobs_of_a_pool_with_one_slot() {
    for threads in [1, 2] {
        let pool = Pool::new(1);
        let own = pool.clone();
        let code: Code = Box::new(move |value, group| {
            let pool = own.clone();
            Box::pin(async move {
                let job = async {
                    tokio::task::yield_now().await;
                    Ok(())
                };
                group.schedule(job).await?;
                let twice = pool.schedule(async move { 2 * value }).await.map_err(Failure::new)?;
                assert_eq!(twice.await.map_err(Failure::new)?, 2 * value);
                Ok(())
            })
        });
        let worker = |queue: &Queue<u32>| Worker::new(queue.source(), &pool).in_flight(16);
        let report = runtime(threads).block_on(work(500, worker, code));
        assert_eq!((report.acked, report.nacked, report.jobs.succeeded), (500, 0, 500));
    }
}

/// A job that submits to its own group and pool: its wait ends, also with one slot.
#[test]
fn jobs_fan_out_in_a_pool_with_one_slot() {
    for threads in [1, 2] {
        let pool = Pool::new(1);
        let code: Code = Box::new(|_, group| {
            Box::pin(async move {
                let inner = group.clone();
                let job = async move {
                    // The job holds the one slot, so it must not wait for another.
                    inner.schedule_always(async { Ok(()) })?;
                    Ok(())
                };
                group.schedule(job).await?;
                // The group takes jobs until the code returns.
                group.wait().await;
                Ok(())
            })
        });
        let worker = |queue: &Queue<u32>| Worker::new(queue.source(), &pool).in_flight(16);
        let report = runtime(threads).block_on(work(200, worker, code));
        assert_eq!((report.acked, report.jobs.succeeded), (200, 400));
    }
}

/// Another runtime uses the pool, and ends while messages run.
#[test]
fn another_runtime_ends() {
    for threads in [1, 2] {
        let pool = Pool::new(2);
        let (other, stop) = (pool.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let submits = async {
                while !stopped.load(Ordering::SeqCst) {
                    let _ = other.schedule(tokio::task::yield_now()).await;
                }
            };
            for _ in 0..20 {
                // The runtime is dropped with what runs on it.
                runtime(1).block_on(async {
                    let _ = tokio::time::timeout(millis(5), submit_on(&other)).await;
                });
            }
            runtime(2).block_on(submits);
        });
        let code: Code = Box::new(|_, group| {
            Box::pin(async move {
                for _ in 0..3 {
                    let job = async {
                        tokio::task::yield_now().await;
                        Ok(())
                    };
                    group.schedule(job).await?;
                }
                Ok(())
            })
        });
        let worker = |queue: &Queue<u32>| Worker::new(queue.source(), &pool).in_flight(32);
        let report = runtime(threads).block_on(work(3_000, worker, code));
        stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
        // Jobs that were cancelled with their runtime are a failure, and the message comes again.
        assert_eq!((report.acked, report.dead), (3_000, 0), "{report:?}");
    }
}

async fn submit_on(pool: &Pool) {
    loop {
        let _ = pool.schedule(tokio::task::yield_now()).await;
    }
}

/// The runtime of a worker ends while messages run: another worker has them at once.
#[test]
fn the_runtime_of_a_worker_ends() {
    let queue = Queue::new(secs(600));
    publish(&queue, 50);
    let pool = Pool::new(1);
    for threads in [1, 2] {
        let run = Worker::new(queue.source(), &pool).in_flight(10).run(
            |_, group| async move {
                group.schedule(std::future::pending()).await?;
                Ok(())
            },
            CancellationToken::new(),
        );
        let first = runtime(threads);
        let _ = first.block_on(async { tokio::time::timeout(millis(50), run).await });
        drop(first);
        assert_eq!(queue.len(), 50);
    }
    let code: Code = Box::new(|_, group| {
        Box::pin(async move {
            group.schedule(async { Ok(()) }).await?;
            Ok(())
        })
    });
    let worker = Worker::new(queue.source(), &pool);
    let report = runtime(2).block_on(async {
        let run = run_until_empty(&queue, worker, move |message, group| code(message.value, group));
        let ended = tokio::time::timeout(secs(20), run).await;
        ended.unwrap_or_else(|_| panic!("messages are kept: {queue:?}, {:?}", pool.status()))
    });
    assert_eq!(report.acked, 50);
}

/// The pool is closed by a message of a long line: what was fetched ends, and nothing hangs.
#[test]
fn a_pool_that_a_message_closes() {
    for threads in [1, 2] {
        let queue = Queue::new(secs(600));
        publish(&queue, 300);
        let pool = Pool::new(2);
        let closing = pool.clone();
        let worker = Worker::new(queue.source(), &pool).in_flight(100);
        let run = worker.run(
            move |message, group| {
                let pool = closing.clone();
                async move {
                    if message.value == 50 {
                        pool.close();
                    }
                    if message.value % 2 == 0 {
                        group.schedule(async { Ok(()) }).await?;
                    }
                    Ok(())
                }
            },
            CancellationToken::new(),
        );
        let ended = runtime(threads).block_on(async { tokio::time::timeout(secs(60), run).await });
        let report = ended.expect("the worker goes on").unwrap();
        assert!(report.adds_up() && report.acked >= 25 && report.dead == 0, "{report:?}");
        assert_eq!(queue.len() as u64 + report.acked, 300);
    }
}
