//! Dropping the runtime at any moment ends every job, resolves every handle and hangs no caller.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::*;
use futures_util::FutureExt;
use millpond::{JobError, JobHandle, Pool, SubmitErrorKind};
use tokio::runtime::Runtime;
use tokio_test::{assert_pending, assert_ready, task};

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn pool_on(runtime: &Runtime, size: usize, queue: usize) -> Pool {
    Pool::builder().size(size).queue(queue).runtime(runtime.handle().clone()).build().unwrap()
}

fn endless(lives: &Gauge) -> impl Future<Output = ()> + Send + 'static {
    let inside = lives.enter();
    async move {
        std::future::pending::<()>().await;
        drop(inside);
    }
}

/// Waits as a caller outside of the pool's runtime does.
#[track_caller]
fn wait<F: Future>(future: F) -> F::Output {
    one_thread().block_on(soon(future))
}

#[track_caller]
fn cancelled<T: std::fmt::Debug>(handle: JobHandle<T>) {
    assert!(handle.is_finished());
    assert!(matches!(handle.now_or_never(), Some(Err(JobError::Cancelled))));
}

fn runtimes() -> impl Iterator<Item = Runtime> {
    [one_thread(), runtime(1), runtime(2)].into_iter()
}

/// A worker stays for as long as there are jobs, however long they sleep: its drop cancels them.
#[test]
fn long_after_the_last_poll() {
    for min_idle in [0, 1] {
        watched(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().unwrap();
            let builder = Pool::builder().size(2).min_idle(min_idle);
            let pool = builder.runtime(runtime.handle().clone()).build().unwrap();
            let lives = Gauge::default();
            let handle = pool.try_schedule(endless(&lives)).unwrap();
            runtime.block_on(async { tokio::time::sleep(Duration::from_secs(3600)).await });
            assert_eq!(lives.now(), 1);
            drop(runtime);
            cancelled(handle);
            assert_eq!(lives.now(), 0);
            quiet(&pool);
        });
    }
}

#[test]
fn with_jobs_in_every_state() {
    watched(|| {
        for started in [false, true] {
            for runtime in runtimes() {
                let pool = pool_on(&runtime, 2, 1);
                let lives = Gauge::default();
                let held = runtime.block_on(async {
                    let running = [(); 2].map(|()| pool.try_schedule(endless(&lives)).unwrap());
                    let queued = pool.try_schedule(endless(&lives)).unwrap();
                    let in_line = pool.anyway_go(endless(&lives)).unwrap().into_handle();
                    let overflow = pool.schedule_always(endless(&lives)).unwrap();
                    if started {
                        settle().await;
                    }
                    let [a, b] = running;
                    [a, b, queued, in_line, overflow]
                });
                let started = task::spawn(pool.anyway_go(endless(&lives)).unwrap());
                let mut waiter = task::spawn(pool.schedule(endless(&lives)));
                assert_pending!(waiter.poll());
                let mut idle = task::spawn(pool.wait_idle());
                assert_pending!(idle.poll());
                drop(runtime);

                assert!(waiter.is_woken());
                assert_eq!(
                    assert_ready!(waiter.poll()).unwrap_err().kind(),
                    SubmitErrorKind::RuntimeGone
                );
                drop(waiter);
                assert_eq!(lives.now(), 0, "of {} jobs", lives.total());
                held.into_iter().for_each(cancelled);
                cancelled(wait(started.into_inner()));
                let status = quiet(&pool);
                assert_eq!((status.cancelled, status.refused), (6, 1));
                wait(pool.wait_idle());
            }
        }
    });
}

#[test]
fn while_somebody_waits_on_another_runtime() {
    watched(|| {
        for runtime in runtimes() {
            let other = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let pool = pool_on(&runtime, 1, 0);
            let lives = Gauge::default();
            let handle = pool.try_schedule(endless(&lives)).unwrap();
            let group = pool.group();
            let aborts = [(); 2].map(|()| group.anyway_go(endless(&lives)).unwrap());
            let pools = pool.clone();
            let waiting = [
                other.spawn(async move { handle.await.unwrap_err().is_cancelled() }),
                other.spawn(async move { group.wait().await.cancelled == 2 }),
                other.spawn(async move { pools.schedule(async {}).await.is_err() }),
            ];
            other.block_on(settle());
            drop(runtime);
            for task in waiting {
                assert!(other.block_on(soon(task)).unwrap());
            }
            assert!(aborts.iter().all(millpond::JobTicket::is_finished));
            assert_eq!(lives.now(), 0);
            other.block_on(pool.wait_idle());
            quiet(&pool);
        }
    });
}

#[test]
fn while_a_job_is_being_polled() {
    watched(|| {
        let runtime = runtime(2);
        let pool = pool_on(&runtime, 3, 0);
        let lives = Gauge::default();
        let (go, gone) = mpsc::channel::<()>();
        let (enter, entered) = mpsc::channel();
        let inside = endless(&lives);
        let busy = pool
            .try_schedule(async move {
                enter.send(()).unwrap();
                let _ = gone.recv();
                inside.await;
            })
            .unwrap();
        let others = [(); 2].map(|()| pool.try_schedule(endless(&lives)).unwrap());
        entered.recv().unwrap();
        let dropper = std::thread::spawn(move || drop(runtime));
        drop(go);
        dropper.join().unwrap();
        assert_eq!(lives.now(), 0);
        cancelled(busy);
        others.into_iter().for_each(cancelled);
        quiet(&pool);
    });
}

#[test]
fn shut_down_in_the_background_while_a_job_is_being_polled() {
    watched(|| {
        let runtime = runtime(1);
        let pool = pool_on(&runtime, 2, 0);
        let lives = Gauge::default();
        let (go, gone) = mpsc::channel::<()>();
        let (enter, entered) = mpsc::channel();
        let inside = endless(&lives);
        let busy = pool
            .try_schedule(async move {
                enter.send(()).unwrap();
                let _ = gone.recv();
                inside.await;
            })
            .unwrap();
        let ready = pool.try_schedule(endless(&lives)).unwrap();
        entered.recv().unwrap();
        runtime.shutdown_background();
        drop(go);
        assert!(wait(busy).unwrap_err().is_cancelled());
        assert!(wait(ready).unwrap_err().is_cancelled());
        wait(pool.wait_idle());
        quiet(&pool);
        assert_eq!(lives.now(), 0);
    });
}

#[test]
fn a_submit_afterwards_resolves() {
    watched(|| {
        for warm in [false, true] {
            for runtime in runtimes() {
                let pool = pool_on(&runtime, 1, 1);
                if warm {
                    let done = pool.try_schedule(async {}).unwrap();
                    runtime.block_on(done).unwrap();
                }
                drop(runtime);
                let lives = Gauge::default();
                let ends = |handle: Option<JobHandle<()>>| {
                    if let Some(handle) = handle {
                        assert!(wait(handle).unwrap_err().is_cancelled());
                    }
                };
                ends(pool.try_schedule(endless(&lives)).ok());
                ends(wait(pool.schedule(endless(&lives))).ok());
                ends(pool.schedule_always(endless(&lives)).ok());
                ends(pool.anyway_go(endless(&lives)).ok().map(wait));
                ends(wait(pool.try_go(endless(&lives))).ok());
                let group = pool.group();
                drop(group.try_schedule(endless(&lives)));
                assert_eq!(wait(group.wait()).succeeded, 0);
                wait(pool.wait_idle());
                assert_eq!(lives.now(), 0);
                let status = quiet(&pool);
                assert_eq!(status.cancelled + status.refused, 6);
            }
        }
    });
}

#[test]
fn prewarming_and_shutting_down_afterwards_return() {
    watched(|| {
        let runtime = one_thread();
        let pool = pool_on(&runtime, 2, 0);
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        drop(runtime);
        cancelled(stuck);
        pool.resize(3).unwrap();
        pool.close();
        assert!(wait(pool.shutdown(std::time::Duration::from_secs(1))).is_clean());
        pool.prewarm(2);
        assert_eq!(pool.status().workers, 0);
    });
}

#[test]
fn a_caller_whose_slot_was_kept_comes_too_late() {
    watched(|| {
        let runtime = one_thread();
        let pool = pool_on(&runtime, 1, 0);
        let held = hold(&pool);
        let lives = Gauge::default();
        let mut waiter = task::spawn(pool.schedule(endless(&lives)));
        assert_pending!(waiter.poll());
        runtime.block_on(held.release());
        assert!(waiter.is_woken());
        // Something to do that no worker has looked at yet.
        let overflow = pool.schedule_always(endless(&lives)).unwrap();
        drop(runtime);
        cancelled(overflow);
        let handle = assert_ready!(waiter.poll());
        drop(waiter);
        match handle {
            Ok(handle) => assert!(wait(handle).unwrap_err().is_cancelled()),
            Err(refused) => drop(refused.into_job()),
        }
        assert_eq!(lives.now(), 0);
        wait(pool.wait_idle());
        quiet(&pool);
    });
}

#[test]
fn at_any_moment_under_load() {
    watched(|| {
        for round in 0..60 {
            let load = runtime(2);
            let pool = pool_on(&load, 2, 1);
            let lives = Gauge::default();
            let (tell, told) = mpsc::channel();
            for n in 0..4 {
                let (pool, lives, tell) = (pool.clone(), lives.clone(), tell.clone());
                load.spawn(async move {
                    loop {
                        let inside = lives.enter();
                        let job = async move {
                            tokio::task::yield_now().await;
                            drop(inside);
                        };
                        let handle = match n {
                            0 => pool.schedule(job).await.ok(),
                            1 => pool.try_go(job).await.ok(),
                            2 => pool.schedule_always(job).ok(),
                            _ => pool.anyway_go(job).ok().map(|going| going.into_handle()),
                        };
                        let Some(handle) = handle else { return };
                        let _ = tell.send(handle);
                        tokio::task::yield_now().await;
                    }
                });
            }
            drop(tell);
            for _ in 0..round * 10 {
                let _ = told.recv();
            }
            drop(load);
            for handle in told.try_iter() {
                assert!(handle.now_or_never().is_some(), "a handle hangs");
            }
            quiet(&pool);
            assert_eq!(lives.now(), 0, "of {} futures", lives.total());
        }
    });
}
