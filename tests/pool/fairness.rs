//! A job that keeps its thread, or is always ready, holds back no job that another worker could run.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::*;
use millpond::Pool;

/// A job that keeps its thread until the sender is gone, and says when it has begun.
fn heavy() -> (mpsc::Sender<()>, mpsc::Receiver<()>, impl Future<Output = ()> + Send + 'static) {
    let ((go, gone), (enter, entered)) = (mpsc::channel::<()>(), mpsc::channel());
    let job = async move {
        let _ = enter.send(());
        // Not for ever: a test that fails should say so.
        let _ = gone.recv_timeout(Duration::from_secs(5));
    };
    (go, entered, job)
}

/// Runs the body on a thread that is none of the runtime's own: a task which a heavy job woke
/// may itself be stuck behind that job, whatever the pool does.
#[track_caller]
fn beside<F: Future<Output = ()>>(threads: usize, body: impl FnOnce() -> F + Send + 'static) {
    watched(move || runtime(threads).block_on(body()));
}

/// Fails after 3 s: the heavy jobs are not done before 5.
#[track_caller]
fn meanwhile<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        match within(Duration::from_secs(3), future).await {
            Some(value) => value,
            None => panic!("held back by a heavy job: {at}"),
        }
    }
}

#[test]
fn jobs_submitted_behind_a_heavy_one() {
    for light in [1, 3, 40] {
        watched(move || {
            // Submitted from outside: nothing says where the heavy job is.
            let runtime = runtime(2);
            let builder = Pool::builder().size(100).runtime(runtime.handle().clone());
            let pool = builder.build().unwrap();
            let (go, entered, job) = heavy();
            let slow = pool.try_schedule(job).unwrap();
            entered.recv().unwrap();
            let handles: Vec<_> =
                (0..light).map(|_| pool.try_schedule(tokio::task::yield_now()).unwrap()).collect();
            runtime.block_on(async {
                for handle in handles {
                    meanwhile(handle).await.unwrap();
                }
                assert!(!slow.is_finished());
                drop(go);
                soon(slow).await.unwrap();
                whole(&pool).await;
            });
        });
    }
}

#[test]
fn jobs_in_front_and_in_the_same_breath() {
    for threads in [2, 4] {
        beside(threads, move || async move {
            let pool = Pool::new(100);
            let (gate, (go, entered, job)) = (Gate::new(), heavy());
            let inside = gate.wait();
            let suspended = pool.try_schedule(inside).unwrap();
            let before = pool.try_schedule(async {}).unwrap();
            let slow = pool.try_schedule(job).unwrap();
            let after: Vec<_> = (0..3).map(|_| pool.try_schedule(async {}).unwrap()).collect();
            entered.recv().unwrap();
            meanwhile(before).await.unwrap();
            for handle in after {
                meanwhile(handle).await.unwrap();
            }
            gate.open();
            meanwhile(suspended).await.unwrap();
            assert!(!slow.is_finished());
            drop(go);
            soon(slow).await.unwrap();
            whole(&pool).await;
        });
    }
}

/// A worker takes a few jobs at once. Those behind a heavy one go to another worker.
#[test]
fn jobs_taken_along_with_a_heavy_one() {
    watched(|| {
        let runtime = runtime(2);
        for _ in 0..5 {
            let builder = Pool::builder().size(10).runtime(runtime.handle().clone());
            let pool = builder.build().unwrap();
            let (first, entered, job) = heavy();
            pool.try_schedule(job).unwrap().detach();
            entered.recv().unwrap();
            // They all stand behind the first when that ends, and so come in one batch.
            let (go, entered, job) = heavy();
            let slow = pool.try_schedule(job).unwrap();
            let light: Vec<_> =
                (0..3).map(|n| pool.try_schedule(async move { n }).unwrap()).collect();
            drop(first);
            entered.recv().unwrap();
            runtime.block_on(async {
                for (n, handle) in light.into_iter().enumerate() {
                    assert_eq!(meanwhile(handle).await.unwrap(), n);
                }
                assert!(!slow.is_finished());
                drop(go);
                soon(slow).await.unwrap();
                whole(&pool).await;
            });
        }
    });
}

/// A worker gives the slots of a few jobs back at once, unless one of the jobs is heavy.
#[test]
fn slots_of_jobs_that_ended_in_front_of_a_heavy_one() {
    watched(|| {
        let runtime = runtime(2);
        for _ in 0..5 {
            let builder = Pool::builder().size(4).runtime(runtime.handle().clone());
            let pool = builder.build().unwrap();
            let (first, entered, job) = heavy();
            pool.try_schedule(job).unwrap().detach();
            entered.recv().unwrap();
            // They all stand behind the first when that ends, and so come in one batch.
            (0..2).for_each(|_| pool.try_schedule(async {}).unwrap().detach());
            let (go, entered, job) = heavy();
            let slow = pool.try_schedule(job).unwrap();
            drop(first);
            entered.recv().unwrap();
            runtime.block_on(async {
                let mut slots = Vec::new();
                for _ in 0..3 {
                    slots.push(meanwhile(pool.reserve()).await.unwrap());
                }
                assert!(!slow.is_finished());
                drop((go, slots));
                soon(slow).await.unwrap();
                whole(&pool).await;
            });
        }
    });
}

/// Jobs that are each too short for the stall monitor: only a second worker that takes its share
/// of them lets two of them run at once.
#[test]
fn a_long_queue_is_shared() {
    const JOBS: usize = 200;
    beside(2, || async {
        let pool = Pool::new(10 * JOBS);
        let (inside, overlaps) = (Gauge::default(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..5 {
            let submits = {
                let (pool, inside, overlaps) = (pool.clone(), inside.clone(), overlaps.clone());
                tokio::spawn(async move {
                    for _ in 0..JOBS {
                        let (inside, overlaps) = (inside.clone(), overlaps.clone());
                        let job = async move {
                            let _inside = inside.enter();
                            std::thread::sleep(Duration::from_micros(200));
                            overlaps.fetch_add(usize::from(inside.now() > 1), SeqCst);
                        };
                        pool.try_schedule(job).unwrap().detach();
                    }
                })
            };
            soon(submits).await.unwrap();
            soon(pool.wait_idle()).await;
        }
        let overlaps = overlaps.load(SeqCst);
        assert!(overlaps > 5 * JOBS / 3, "{overlaps} of {} jobs ran beside others", 5 * JOBS);
        whole(&pool).await;
    });
}

#[test]
fn a_job_woken_on_the_heavy_ones_thread() {
    beside(2, || async {
        let pool = Pool::new(10);
        let gate = Gate::new();
        let inside = gate.wait();
        let suspended = pool.try_schedule(inside).unwrap();
        settle().await;
        // The heavy job itself wakes the other, and then keeps its thread.
        let (go, entered, job) = heavy();
        let slow = pool
            .try_schedule(async move {
                gate.open();
                job.await;
            })
            .unwrap();
        meanwhile(suspended).await.unwrap();
        assert!(!slow.is_finished());
        drop((go, entered));
        soon(slow).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn what_a_heavy_job_submits_before_it_gets_heavy() {
    beside(2, || async {
        let pool = Pool::new(10);
        let own = pool.clone();
        let (go, _entered, job) = heavy();
        let (tell, told) = tokio::sync::oneshot::channel();
        let slow = pool
            .try_schedule(async move {
                let _ = tell.send(own.try_schedule(async { 4 }).unwrap());
                job.await;
            })
            .unwrap();
        let inner = meanwhile(told).await.unwrap();
        assert_eq!(meanwhile(inner).await.unwrap(), 4);
        assert!(!slow.is_finished());
        drop(go);
        soon(slow).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn a_waiter_whose_slot_comes_from_elsewhere() {
    beside(2, || async {
        let pool = Pool::new(2);
        let (go, _entered, job) = heavy();
        let slow = pool.try_schedule(job).unwrap();
        for n in 0..20 {
            let handle = meanwhile(pool.schedule(async move { n })).await.unwrap();
            assert_eq!(meanwhile(handle).await.unwrap(), n);
        }
        assert!(!slow.is_finished());
        drop(go);
        soon(slow).await.unwrap();
        whole(&pool).await;
    });
}

/// Submits `n` jobs behind the ones that are there. Returns the order in which they run.
fn in_order(pool: &Pool, n: usize) -> Arc<Mutex<Vec<usize>>> {
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in 0..n {
        let order = order.clone();
        pool.try_schedule(async move { order.lock().unwrap().push(n) }).unwrap().detach();
    }
    order
}

#[test]
fn jobs_run_in_the_order_of_submission() {
    single(async {
        let pool = Pool::new(100);
        let order = in_order(&pool, 50);
        soon(pool.wait_idle()).await;
        assert!(order.lock().unwrap().iter().copied().eq(0..50), "{order:?}");
        // Also when they are woken.
        let (gate, order) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
        for n in 0..50 {
            let (inside, order) = (gate.wait(), order.clone());
            let job = async move {
                inside.await;
                order.lock().unwrap().push(n);
            };
            pool.try_schedule(job).unwrap().detach();
        }
        settle().await;
        gate.open();
        soon(pool.wait_idle()).await;
        assert!(order.lock().unwrap().iter().copied().eq(0..50), "{order:?}");
        whole(&pool).await;
    });
}

/// The end of a worker's turn: the jobs that it took and did not poll are still the next ones.
#[test]
fn jobs_keep_their_place_when_a_turn_ends() {
    single(async {
        let pool = Pool::new(100);
        for _ in 0..5 {
            let greedy = async {
                // More than tokio lets a task do before it yields.
                for _ in 0..200 {
                    tokio::task::coop::consume_budget().await;
                }
            };
            let greedy = pool.try_schedule(greedy).unwrap();
            let order = in_order(&pool, 20);
            soon(greedy).await.unwrap();
            soon(pool.wait_idle()).await;
            assert!(order.lock().unwrap().iter().copied().eq(0..20), "{order:?}");
        }
        whole(&pool).await;
    });
}

/// The budget that tokio gives a task is the worker's, so its jobs share one. A job that has spent
/// it ends the turn: the next jobs would be polled in vain.
#[test]
fn no_job_is_polled_without_a_budget() {
    single(async {
        let pool = Pool::new(100);
        let greedy = async {
            for _ in 0..200 {
                tokio::task::coop::consume_budget().await;
            }
        };
        let greedy = pool.try_schedule(greedy).unwrap();
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let polls = polls.clone();
            let job = std::future::poll_fn(move |cx| {
                polls.fetch_add(1, SeqCst);
                tokio::task::coop::poll_proceed(cx).map(|budget| budget.made_progress())
            });
            pool.try_schedule(job).unwrap().detach();
        }
        soon(greedy).await.unwrap();
        soon(pool.wait_idle()).await;
        assert_eq!(polls.load(SeqCst), 20);
        whole(&pool).await;
    });
}

/// Ready again after each poll, until stopped.
fn restless(
    stop: &Arc<AtomicBool>,
    polls: &Arc<AtomicUsize>,
) -> impl Future<Output = ()> + Send + 'static {
    let (stop, polls) = (stop.clone(), polls.clone());
    std::future::poll_fn(move |cx| {
        polls.fetch_add(1, SeqCst);
        if stop.load(SeqCst) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
}

#[test]
fn restless_jobs_starve_no_other_task_and_no_other_job() {
    single(async {
        let pool = Pool::new(8);
        let (stop, polls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> =
            (0..4).map(|_| pool.try_schedule(restless(&stop, &polls)).unwrap()).collect();
        let task = tokio::spawn(async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
        // A timer fires, a job runs, and a task gets on meanwhile.
        soon(tokio::time::sleep(Duration::from_millis(1))).await;
        soon(task).await.unwrap();
        let other = pool.try_schedule(async { 3 }).unwrap();
        assert_eq!(soon(other).await.unwrap(), 3);
        // In a bounded number of polls, not in the end. The task's own wakes go to the end of
        // the runtime's queue, unlike `yield_now`.
        let watched_polls = polls.clone();
        let task = tokio::spawn(async move {
            let before = watched_polls.load(SeqCst);
            for _ in 0..10 {
                let mut woken = false;
                std::future::poll_fn(|cx| {
                    if std::mem::replace(&mut woken, true) {
                        return std::task::Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
            watched_polls.load(SeqCst) - before
        });
        let between = soon(task).await.unwrap() / 10;
        assert!(between <= 1_000, "{between} polls in one turn");
        assert!(jobs.iter().all(|job| !job.is_finished()));
        stop.store(true, SeqCst);
        for job in jobs {
            soon(job).await.unwrap();
        }
        whole(&pool).await;
    });
}

#[test]
fn a_restless_job_starves_no_overflow() {
    beside(2, || async {
        let pool = Pool::new(1);
        let (stop, polls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let restless = pool.try_schedule(restless(&stop, &polls)).unwrap();
        eventually(|| polls.load(SeqCst) > 0).await;
        // From either thread of the runtime, sooner or later.
        let mut results = Vec::new();
        for _ in 0..100 {
            let own = pool.clone();
            let job = tokio::spawn(async move { own.schedule_always(async {}).unwrap().await });
            let done = within(Duration::from_secs(3), job).await;
            let done = done.is_some_and(|joined| joined.unwrap().is_ok());
            results.push(done);
            if !done {
                break;
            }
        }
        stop.store(true, SeqCst);
        soon(restless).await.unwrap();
        assert!(results.iter().all(|done| *done), "overflow job {} never ran", results.len());
        whole(&pool).await;
    });
}
