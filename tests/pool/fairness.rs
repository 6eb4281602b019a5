//! A job that keeps its thread, or is always ready, holds back nobody whom others could serve.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, mpsc};
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
