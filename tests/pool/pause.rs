//! A paused pool starts nothing, and a backlog is cancelled without what runs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::*;
use millpond::Pool;
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn nothing_starts_and_all_else_goes_on() {
    single(async {
        let pool = Pool::builder().size(2).queue(1).build().unwrap();
        let gate = Gate::new();
        let running = pool.try_schedule(gate.wait()).unwrap();
        settle().await;
        pool.pause();
        pool.pause(); // the second call changes nothing
        assert!(pool.is_paused());
        let starts = Gauge::default();
        let job = || {
            let starts = starts.clone();
            async move { drop(starts.enter()) }
        };
        let queued = pool.try_schedule(job()).unwrap();
        assert!(pool.try_schedule(job()).is_err(), "the queue is full");
        assert!(pool.schedule_always(job()).is_err(), "an overflow would start");
        assert!(pool.try_go(job()).await.is_err(), "a job in its caller would start");
        assert!(pool.try_reserve().is_err());
        let committed = pool.anyway_go(job()).unwrap().into_handle();
        let mut caller = task::spawn(pool.schedule(job()));
        assert_pending!(caller.poll());
        let mut reserve = task::spawn(pool.reserve());
        assert_pending!(reserve.poll());
        // What runs goes on, and its slot is not handed out.
        gate.open();
        soon(running).await.unwrap();
        settle().await;
        let status = law(&pool);
        assert!(status.paused && starts.total() == 0 && !caller.is_woken());
        assert_eq!((status.running, status.queued, status.waiting), (0, 1, 3));
        pool.resume();
        assert!(!law(&pool).paused);
        soon(queued).await.unwrap();
        soon(committed).await.unwrap();
        assert!(caller.is_woken());
        soon(assert_ready!(caller.poll()).unwrap()).await.unwrap();
        settle().await;
        drop(assert_ready!(reserve.poll()).unwrap());
        drop((caller, reserve));
        assert_eq!(starts.total(), 3);
        whole(&pool).await;
    });
}

#[test]
fn a_suspended_job_goes_on_and_a_slot_that_was_reserved_is_used() {
    single(async {
        let pool = Pool::new(2);
        let gate = Gate::new();
        let suspended = pool.try_schedule(gate.wait()).unwrap();
        let slot = pool.try_reserve().unwrap();
        settle().await;
        pool.pause();
        gate.open();
        soon(suspended).await.unwrap();
        soon(slot.schedule(async {}).unwrap()).await.unwrap();
        assert!(pool.try_schedule(async {}).is_err());
        pool.resume();
        pool.resume();
        whole(&pool).await;
    });
}

/// Callers that were granted a slot before the pause, and look after it.
#[test]
fn a_granted_slot_waits_for_the_end_of_the_pause() {
    for how in 0..3 {
        single(async move {
            let (pool, starts) = (Pool::new(2), Gauge::default());
            let held = fill(&pool);
            let inside = starts.clone();
            let job = async move { drop(inside.enter()) };
            let mut caller = task::spawn(pool.schedule(job));
            let mut reserve = task::spawn(pool.reserve());
            assert_pending!(caller.poll());
            assert_pending!(reserve.poll());
            release(held).await;
            assert!(caller.is_woken() && reserve.is_woken());
            pool.pause();
            assert_pending!(caller.poll());
            assert_pending!(reserve.poll());
            settle().await;
            let status = law(&pool);
            assert_eq!((status.granted, status.running, starts.total()), (2, 0, 0));
            match how {
                0 => pool.resume(),
                1 => pool.close(),
                // A place that is given up: its slot is not handed out either.
                _ => {
                    drop(caller);
                    assert_eq!(law(&pool).granted, 1);
                    assert!(pool.try_schedule(async {}).is_err());
                    pool.resume();
                    assert!(reserve.is_woken());
                    drop(assert_ready!(reserve.poll()).unwrap());
                    drop(reserve);
                    return whole(&pool).await;
                }
            }
            assert!(caller.is_woken() && reserve.is_woken());
            soon(assert_ready!(caller.poll()).unwrap()).await.unwrap();
            drop(assert_ready!(reserve.poll()).unwrap());
            drop((caller, reserve));
            assert_eq!(starts.total(), 1);
            soon(pool.wait_idle()).await;
            quiet(&pool);
        });
    }
}

#[test]
fn waiters_come_and_go_in_a_paused_pool() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let tenant = pool.group_builder::<()>().quota(1).build().unwrap();
        let first = hold(&pool);
        let mut granted = task::spawn(pool.schedule(async {}));
        let queued = pool.try_schedule(async {}).unwrap();
        assert_pending!(granted.poll());
        tenant.anyway_go(async {}).unwrap();
        tenant.anyway_go(async {}).unwrap();
        pool.pause();
        first.release().await;
        // Aborts and drops move the others up, and nothing starts.
        queued.abort();
        settle().await;
        assert!(granted.is_woken(), "there is a place in the queue");
        drop(granted);
        settle().await;
        assert_eq!((law(&pool).running, law(&pool).completed, tenant.len()), (0, 1, 2));
        tenant.cancel();
        settle().await;
        assert_eq!(law(&pool).running, 0);
        tenant.anyway_go(async {}).unwrap();
        pool.resume();
        soon(tenant.wait()).await;
        whole(&pool).await;
    });
}

#[test]
fn resized_while_paused() {
    single(async {
        let cases: [(&[usize], usize); 4] = [(&[5], 5), (&[1], 1), (&[1, 6, 2], 2), (&[9, 3], 3)];
        for ((sizes, end), waiters) in cases.into_iter().flat_map(|case| [(case, 6), (case, 0)]) {
            let pool = Pool::builder().size(3).queue(9).build().unwrap();
            let held = hold(&pool);
            pool.pause();
            let jobs: Vec<_> = (0..waiters).map(|_| hold(&pool)).collect();
            for &size in sizes {
                pool.resize(size).unwrap();
                assert_eq!(law(&pool).running, 1);
            }
            held.release().await;
            settle().await;
            assert_eq!(law(&pool).running, 0);
            pool.resume();
            settle().await;
            assert_eq!((law(&pool).running, law(&pool).size), (end.min(waiters), end));
            release(jobs).await;
            whole(&pool).await;
        }
    });
}

#[test]
fn a_paused_pool_that_is_closed_runs_what_it_has_admitted() {
    paused(async {
        // Closed, shut down, or dropped: in each case the jobs run and no wait hangs.
        for how in 0..3 {
            let pool = Pool::builder().size(1).queue(1).build().unwrap();
            pool.pause();
            let queued = pool.try_schedule(async { 1 }).unwrap();
            let committed = pool.anyway_go(async { 2 }).unwrap().into_handle();
            match how {
                0 => {
                    let mut caller = task::spawn(pool.schedule(async {}));
                    assert_pending!(caller.poll());
                    pool.close();
                    assert!(caller.is_woken());
                    assert!(assert_ready!(caller.poll()).is_err());
                    pool.pause();
                    assert!(!pool.is_paused(), "a closed pool cannot be paused");
                    soon(pool.wait_idle()).await;
                }
                1 => {
                    let report = soon(pool.shutdown(Duration::from_secs(3600))).await;
                    assert!(report.is_clean() && report.completed == 2);
                }
                _ => drop(pool),
            }
            assert_eq!(soon(queued).await.unwrap() + soon(committed).await.unwrap(), 3);
        }
    });
}

#[test]
fn a_backlog_that_is_not_wanted_at_the_end_is_cancelled() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        pool.pause();
        let queued = pool.try_schedule(async { 1 }).unwrap();
        assert_eq!(pool.cancel_waiting(), 1);
        let report = soon(pool.shutdown(Duration::from_secs(1))).await;
        assert_eq!((report.completed, report.still_running), (0, 0));
        assert!(soon(queued).await.unwrap_err().is_cancelled());
    });
}

#[test]
fn cancel_waiting_leaves_what_runs_and_callers_in_line() {
    single(async {
        let pool = Pool::builder().size(2).queue(2).build().unwrap();
        let tenant = pool.group_builder::<u8>().quota(1).build().unwrap();
        let starts = Gauge::default();
        let held = hold(&pool);
        let gate = Gate::new();
        let inside = gate.wait();
        tenant
            .try_schedule(async move {
                inside.await;
                0
            })
            .unwrap();
        let job = || {
            let starts = starts.clone();
            async move {
                drop(starts.enter());
                1
            }
        };
        let queued: Vec<_> = (0..2).map(|_| pool.try_schedule(job()).unwrap()).collect();
        let mut caller = task::spawn(pool.schedule(job()));
        assert_pending!(caller.poll());
        let committed = pool.anyway_go(job()).unwrap().into_handle();
        for _ in 0..3 {
            tenant.anyway_go(job()).unwrap(); // behind the quota
        }
        settle().await;
        assert_eq!(pool.cancel_waiting(), 2 + 1 + 3);
        for handle in queued.into_iter().chain([committed]) {
            assert!(soon(handle).await.unwrap_err().is_cancelled());
        }
        assert_eq!((law(&pool).running, tenant.len(), starts.total()), (2, 1, 0));
        // The caller has moved up into the queue.
        assert!(caller.is_woken());
        let handle = assert_ready!(caller.poll()).unwrap();
        drop(caller);
        assert_eq!(law(&pool).queued, 1);
        gate.open();
        assert_eq!(soon(handle).await.unwrap(), 1);
        soon(tenant.wait()).await;
        assert_eq!(pool.cancel_waiting(), 0);
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn paused_again_and_again_under_load() {
    multi(2, async {
        let pool = Pool::builder().size(16).queue(4).build().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let submitters: Vec<_> = (0..3)
            .map(|_| {
                let (pool, done) = (pool.clone(), done.clone());
                tokio::spawn(async move {
                    let mut jobs = 0;
                    while !done.load(SeqCst) {
                        let job = tokio::task::yield_now();
                        let handle = match jobs % 3 {
                            0 => pool.schedule(job).await.unwrap(),
                            1 => pool.anyway_go(job).unwrap().into_handle(),
                            _ => match pool.try_schedule(job) {
                                Ok(handle) => handle,
                                Err(_) => {
                                    tokio::task::yield_now().await;
                                    continue;
                                }
                            },
                        };
                        jobs += 1;
                        if jobs % 8 == 0 {
                            handle.await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for round in 0..200u32 {
            tokio::task::yield_now().await;
            pool.pause();
            let started = |status: &millpond::PoolStatus| {
                status.running as u64 + status.completed + status.cancelled
            };
            let before = law(&pool);
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            let after = law(&pool);
            // Callers that were granted a slot before the pause may still start: one each.
            assert!(started(&after) <= started(&before) + 3, "{before:?} {after:?}");
            pool.resume();
        }
        done.store(true, SeqCst);
        for submitter in submitters {
            soon(submitter).await.unwrap();
        }
        whole(&pool).await;
    });
}
