//! A pool whose runtime is gone moves to the next one, once no job of the old one is left.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::support::*;
use millpond::{JobHandle, JobOptions, Pool, PoolBuilder, SubmitErrorKind};
use tokio::runtime::{Builder, Runtime};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Makes one runtime after another, of both flavours.
fn runtimes() -> impl Iterator<Item = Runtime> {
    (0..8).map(|n| if n % 3 == 0 { runtime(2) } else { one_thread() })
}

/// Uses every verb once.
async fn use_all(pool: &Pool) {
    assert_eq!(soon(soon(pool.schedule(async { 1 })).await.unwrap()).await.unwrap(), 1);
    assert_eq!(soon(pool.try_schedule(async { 2 }).unwrap()).await.unwrap(), 2);
    assert_eq!(soon(pool.schedule_always(async { 3 }).unwrap()).await.unwrap(), 3);
    assert_eq!(soon(soon(pool.try_go(async { 4 })).await.unwrap()).await.unwrap(), 4);
    assert_eq!(soon(soon(pool.anyway_go(async { 5 }).unwrap()).await).await.unwrap(), 5);
    let slot = soon(pool.reserve()).await.unwrap();
    assert_eq!(soon(slot.schedule(async { 6 }).unwrap()).await.unwrap(), 6);
    let group = pool.group();
    for n in 0..10 {
        soon(group.schedule(async move { n })).await.unwrap();
    }
    assert!(soon(group.wait()).await.is_success());
    // More than the slots, so that the wait list is in use.
    let jobs: Vec<_> = (0..40).map(|n| pool.anyway_go(async move { n }).unwrap()).collect();
    for (n, job) in jobs.into_iter().enumerate() {
        assert_eq!(soon(job.into_handle()).await.unwrap(), n);
    }
    whole(pool).await;
}

/// Every verb says that the runtime is gone, and gives the job back.
async fn all_refuse(pool: &Pool) {
    let group = pool.group();
    let kinds = [
        pool.try_schedule(async {}).map(drop).unwrap_err().kind(),
        soon(pool.schedule(async {})).await.map(drop).unwrap_err().kind(),
        pool.schedule_always(async {}).map(drop).unwrap_err().kind(),
        soon(pool.try_go(async {})).await.map(drop).unwrap_err().kind(),
        pool.anyway_go(async {}).map(drop).unwrap_err().kind(),
        pool.try_reserve().map(drop).unwrap_err().kind(),
        soon(pool.reserve()).await.map(drop).unwrap_err().kind(),
        group.try_schedule(async {}).map(drop).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [SubmitErrorKind::RuntimeGone; 8]);
}

/// Runs the body once in each runtime, inside a task where there are threads for it.
fn in_each_runtime<F: Future<Output = ()> + Send + 'static>(body: impl Fn() -> F) {
    for runtime in runtimes() {
        runtime.block_on(body());
        drop(runtime);
    }
}

#[test]
fn a_pool_in_a_static_serves_one_runtime_after_another() {
    static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(3));
    watched(|| in_each_runtime(|| use_all(&POOL)));
}

#[test]
fn a_pool_without_workers_moves_too() {
    watched(|| {
        let build = |builder: PoolBuilder| builder.size(20).min_idle(0).build().unwrap();
        // No worker has ever been there: nothing tells that the first runtime has shut down.
        let pool = build(Pool::builder());
        let slot = one_thread().block_on(pool.reserve()).unwrap();
        runtime(2).block_on(async {
            assert_eq!(soon(slot.schedule(async { 7 }).unwrap()).await.unwrap(), 7);
            use_all(&pool).await;
        });
        // All workers have retired.
        let timeout = Duration::from_secs(1);
        let pool = build(Pool::builder().idle_timeout(timeout));
        for _ in 0..3 {
            let mut runtime = Builder::new_current_thread();
            runtime.enable_all().start_paused(true).build().unwrap().block_on(async {
                use_all(&pool).await;
                tokio::time::sleep(timeout * 2).await;
                assert_eq!(pool.status().workers, 0);
            });
        }
    });
}

#[test]
fn a_job_of_the_old_runtime_is_cancelled_and_the_next_runs() {
    watched(|| {
        let pool = Pool::new(2);
        let mut ends = 0;
        for runtime in runtimes() {
            let lives = Gauge::default();
            let handles = runtime.block_on(async {
                use_all(&pool).await;
                let mut handles = Vec::new();
                for n in 0..6 {
                    let inside = lives.enter();
                    let job = async move {
                        std::future::pending::<()>().await;
                        drop(inside);
                    };
                    handles.push(pool.anyway_go(job).unwrap().into_handle());
                    if n == 2 {
                        settle().await;
                    }
                }
                handles
            });
            drop(runtime);
            assert_eq!(lives.now(), 0);
            assert!(handles.iter().all(millpond::JobHandle::is_finished));
            ends += handles.len() as u64;
            assert_eq!(law(&pool).cancelled, ends);
        }
    });
}

#[test]
fn a_pool_with_jobs_left_does_not_move() {
    watched(|| {
        let pool = Pool::new(2);
        let old = runtime(2);
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (enter, entered) = std::sync::mpsc::channel();
        let entered_old = old.enter();
        let job = async move {
            enter.send(()).unwrap();
            let _ = gone.recv();
        };
        let busy = pool.try_schedule(job).unwrap();
        drop(entered_old);
        entered.recv().unwrap();
        // Ends only when the busy worker has.
        let old_ends = std::thread::spawn(move || drop(old));
        let next = one_thread();
        next.block_on(async {
            // Idle workers of the old runtime may be dropped already; the busy one is not.
            let submitted = pool.try_schedule(async {});
            drop(go);
            old_ends.join().unwrap();
            if let Ok(job) = submitted {
                let _ = soon(job).await;
            }
            let _ = soon(busy).await;
            use_all(&pool).await;
        });
    });
}

#[test]
fn a_pool_that_was_closed_stays_closed() {
    watched(|| {
        for before in [false, true] {
            let pool = Pool::new(2);
            let old = one_thread();
            old.block_on(use_all(&pool));
            if before {
                pool.close();
            }
            drop(old);
            pool.close();
            one_thread().block_on(async {
                let refused = pool.schedule(async {}).await.unwrap_err();
                assert_eq!(refused.kind(), SubmitErrorKind::Closed);
                assert!(pool.is_closed());
                soon(pool.wait_idle()).await;
            });
        }
    });
}

#[test]
fn a_pool_of_a_given_runtime_stays_there() {
    watched(|| {
        for warm in [false, true] {
            let old = one_thread();
            let pool = Pool::builder().size(2).runtime(old.handle().clone()).build().unwrap();
            if warm {
                old.block_on(use_all(&pool));
            }
            drop(old);
            one_thread().block_on(async {
                // Also the first submit is refused.
                all_refuse(&pool).await;
                soon(pool.wait_idle()).await;
            });
            let refused = pool.try_schedule(async {}).unwrap_err();
            assert_eq!(refused.kind(), SubmitErrorKind::RuntimeGone, "outside of a runtime, too");
        }
    });
}

#[test]
fn a_dead_runtime_outside_of_any_other_refuses() {
    watched(|| {
        let pool = Pool::new(2);
        one_thread().block_on(use_all(&pool));
        let refused = pool.try_schedule(async {}).unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::RuntimeGone);
        assert!(refused.to_string().contains("runtime has shut down"), "{refused}");
        one_thread().block_on(use_all(&pool));
    });
}

#[test]
fn the_stall_monitor_works_in_the_next_runtime() {
    watched(|| {
        for first in [one_thread(), runtime(2)] {
            let pool = Pool::new(8);
            // Jobs stand behind a busy worker: the monitor is requested, and dropped with its runtime.
            first.block_on(async {
                let jobs: Vec<_> = (0..4)
                    .map(|_| {
                        let job = async { std::thread::sleep(Duration::from_millis(2)) };
                        pool.try_schedule(job).unwrap()
                    })
                    .collect();
                for job in jobs {
                    soon(job).await.unwrap();
                }
            });
            drop(first);
            runtime(2).block_on(async {
                let inside = pool.clone();
                // The second job stands behind the first, which waits for it.
                let blocked = pool.try_schedule(async move {
                    let (tell, told) = std::sync::mpsc::channel();
                    let job = inside.try_schedule(async move { tell.send(7).unwrap() }).unwrap();
                    let told = told.recv_timeout(Duration::from_secs(10));
                    job.detach();
                    told
                });
                assert_eq!(soon(blocked.unwrap()).await.unwrap(), Ok(7));
            });
        }
    });
}

#[test]
fn a_waiter_on_another_runtime_learns_why() {
    watched(|| {
        let (old, other) = (one_thread(), one_thread());
        let pool = Pool::new(1);
        old.block_on(async { pool.try_schedule(std::future::pending::<()>()).unwrap().detach() });
        let mut waiter = Box::pin(pool.schedule(async {}));
        let mut reserver = pool.reserver();
        other.block_on(async {
            assert!(poll(&mut waiter).is_pending());
            let mut reserve = Box::pin(reserver.reserve());
            assert!(poll(&mut reserve).is_pending());
        });
        drop(old);
        other.block_on(async {
            let refused = soon(waiter).await.unwrap_err();
            assert_eq!(refused.kind(), SubmitErrorKind::RuntimeGone);
            use_all(&pool).await;
            // The pool is open again, but this place was lost before.
            let refused = soon(reserver.reserve()).await.unwrap_err();
            assert_eq!(refused.kind(), SubmitErrorKind::RuntimeGone);
            soon(reserver.reserve()).await.unwrap();
            reserver.release();
            whole(&pool).await;
        });
    });
}

/// A pool whose runtime has shut down, after the last worker had retired.
fn left_alone() -> Pool {
    let timeout = Duration::from_secs(1);
    let pool = Pool::builder().size(2).min_idle(0).idle_timeout(timeout).build().unwrap();
    let mut clock = Builder::new_current_thread();
    clock.enable_all().start_paused(true).build().unwrap().block_on(async {
        soon(pool.schedule(async {}).await.unwrap()).await.unwrap();
        tokio::time::sleep(timeout * 2).await;
        assert_eq!(pool.status().workers, 0);
    });
    pool
}

/// Both find that the old runtime is gone before one of them moves the pool.
#[test]
fn two_first_submits_at_once_move_the_pool_once() {
    watched(|| {
        let next = runtime(2);
        // The second one comes from the next runtime, too, or from outside of any.
        for round in 0..400 {
            let (pool, ready) = (left_alone(), Arc::new(AtomicUsize::new(0)));
            let submits = [true, round % 2 == 0].map(|inside| {
                let (pool, ready, next) = (pool.clone(), ready.clone(), next.handle().clone());
                std::thread::spawn(move || {
                    let _entered = inside.then(|| next.enter());
                    ready.fetch_add(1, SeqCst);
                    while ready.load(SeqCst) < 2 {
                        std::hint::spin_loop();
                    }
                    pool.try_schedule(async {})
                })
            });
            let submitted = submits.map(|submit| submit.join().unwrap());
            next.block_on(async {
                if round % 2 == 0 {
                    for job in submitted.map(|job| job.map_err(|refused| refused.kind())) {
                        soon(job.unwrap()).await.unwrap();
                    }
                } else {
                    submitted.into_iter().flatten().for_each(JobHandle::detach);
                }
                let job = soon(pool.schedule(async { 7 })).await.map_err(|refused| refused.kind());
                assert_eq!(soon(job.unwrap()).await.unwrap(), 7);
            });
        }
    });
}

/// A reserved slot needs no worker. So nothing tells of the end of its runtime.
#[test]
fn a_waiter_with_a_deadline_after_the_end_of_the_runtime() {
    watched(|| {
        for given in [false, true] {
            let old = one_thread();
            let builder = Pool::builder().size(1);
            let builder = if given { builder.runtime(old.handle().clone()) } else { builder };
            let pool = builder.build().unwrap();
            let slot = old.block_on(pool.reserve()).unwrap();
            drop(old);
            one_thread().block_on(async {
                let view = pool.with(JobOptions::new().timeout(Duration::from_millis(10)));
                let refused = soon(view.schedule(async { unreachable!() })).await.unwrap_err();
                let moves = SubmitErrorKind::Expired;
                let stays = SubmitErrorKind::RuntimeGone;
                assert_eq!(refused.kind(), if given { stays } else { moves });
                drop(slot);
                if !given {
                    use_all(&pool).await;
                }
            });
        }
    });
}

#[test]
fn a_runtime_that_ends_while_a_waiter_has_a_deadline() {
    watched(|| {
        let (old, other) = (one_thread(), one_thread());
        let pool = Pool::new(1);
        let slot = old.block_on(pool.reserve()).unwrap();
        let view = pool.with(JobOptions::new().timeout(Duration::from_secs(3600)));
        let mut waiter = Box::pin(view.schedule(async { unreachable!() }));
        other.block_on(async { assert!(poll(&mut waiter).is_pending()) });
        drop(old);
        other.block_on(async {
            let refused = soon(waiter).await.unwrap_err();
            assert_eq!(refused.kind(), SubmitErrorKind::RuntimeGone);
            drop(slot);
            use_all(&pool).await;
        });
    });
}
