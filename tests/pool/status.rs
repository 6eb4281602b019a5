//! `submitted == accounted()`, at each moment and from any thread.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;
use millpond::Pool;
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn a_new_pool_has_nothing() {
    let pool = Pool::builder().size(3).queue(4).build().unwrap();
    let status = quiet(&pool);
    assert_eq!((status.size, status.queue, status.submitted), (3, 4, 0));
    assert_eq!((status.workers, status.idle), (0, 0));
}

#[test]
fn every_number_at_each_step() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).overflow_limit(1).build().unwrap();
        let gate = Gate::new();
        let running = pool.try_schedule(gate.wait()).unwrap();
        assert_eq!((law(&pool).submitted, law(&pool).running), (1, 1));
        settle().await;
        let queued = pool.try_schedule(async { silent_panic("oh") }).unwrap();
        assert_eq!((law(&pool).submitted, law(&pool).queued), (2, 1));
        assert!(pool.try_schedule(async {}).is_err());
        assert_eq!((law(&pool).submitted, law(&pool).refused), (3, 1));
        let over = pool.schedule_always(gate.wait()).unwrap();
        assert!(pool.schedule_always(async {}).is_err());
        assert_eq!((law(&pool).submitted, law(&pool).overflow, law(&pool).refused), (5, 1, 2));
        let job = gate.wait();
        let mut inline = task::spawn(pool.try_go(job));
        assert_eq!(law(&pool).submitted, 5, "nothing happens before the first poll");
        assert_pending!(inline.poll());
        assert_eq!((law(&pool).submitted, law(&pool).in_caller), (6, 1));
        let committed = pool.anyway_go(async {}).unwrap().into_handle();
        assert_eq!((law(&pool).submitted, law(&pool).waiting), (7, 1));
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_eq!(law(&pool).submitted, 7);
        assert_pending!(waiter.poll());
        assert_eq!((law(&pool).submitted, law(&pool).waiting), (8, 2));
        drop(waiter);
        assert_eq!((law(&pool).waiting, law(&pool).withdrawn), (1, 1));
        committed.abort();
        assert_eq!((law(&pool).waiting, law(&pool).cancelled), (0, 1));
        gate.open();
        assert_ready!(inline.poll()).unwrap().detach();
        assert_eq!((law(&pool).in_caller, law(&pool).completed), (0, 1));
        soon(running).await.unwrap();
        soon(over).await.unwrap();
        assert!(soon(queued).await.unwrap_err().is_panic());
        let status = quiet(&pool);
        assert_eq!((status.completed, status.panicked, status.cancelled), (3, 1, 1));
        assert_eq!((status.submitted, status.refused, status.withdrawn), (8, 2, 1));
    });
}

#[test]
fn from_another_thread_under_load() {
    multi(2, async {
        let pool = Pool::builder().size(3).queue(2).build().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let observers: Vec<_> = (0..2)
            .map(|_| {
                let (pool, stop) = (pool.clone(), stop.clone());
                std::thread::spawn(move || {
                    let (mut looks, mut busy, mut last) = (0u32, 0u32, pool.status());
                    while !stop.load(SeqCst) {
                        let now = law(&pool);
                        assert!(now.running <= 3 && now.queued <= 2, "{now:?}");
                        // Totals only grow.
                        assert!(now.submitted >= last.submitted && now.completed >= last.completed);
                        assert!(now.refused >= last.refused && now.withdrawn >= last.withdrawn);
                        assert!(now.panicked >= last.panicked && now.cancelled >= last.cancelled);
                        looks += 1;
                        busy += u32::from(!now.is_idle());
                        last = now;
                    }
                    (looks, busy)
                })
            })
            .collect();
        let load: Vec<_> = (0..6u64)
            .map(|seed| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut dice = Dice::new(seed + 1);
                    for _ in 0..3_000 {
                        let kind = dice.below(10);
                        let job = async move {
                            if kind == 0 {
                                silent_panic("oh");
                            }
                            tokio::task::yield_now().await;
                        };
                        let handle = match dice.below(6) {
                            0 => pool.schedule(job).await.ok(),
                            1 => pool.try_schedule(job).ok(),
                            2 => pool.schedule_always(job).ok(),
                            3 => pool.try_go(job).await.ok(),
                            4 => pool.anyway_go(job).ok().map(|going| going.into_handle()),
                            _ => {
                                let mut waiter = Box::pin(pool.schedule(job));
                                let _ = poll(&mut waiter);
                                None
                            }
                        };
                        if let Some(handle) = handle {
                            if kind == 1 {
                                handle.abort();
                            }
                            if kind < 8 {
                                let _ = handle.await;
                            }
                        }
                    }
                })
            })
            .collect();
        for task in load {
            soon(task).await.unwrap();
        }
        stop.store(true, SeqCst);
        for observer in observers {
            let (looks, busy) = observer.join().unwrap();
            assert!(looks > 100 && busy > 10, "{busy} of {looks} looks saw anything");
        }
        soon(pool.wait_idle()).await;
        let status = quiet(&pool);
        assert_eq!(status.submitted, 18_000);
        assert!(status.panicked > 0 && status.cancelled > 0 && status.withdrawn > 0);
        whole(&pool).await;
    });
}

#[test]
fn workers_and_idle_ones_are_counted() {
    single(async {
        let pool = Pool::new(2);
        let held = hold(&pool);
        settle().await;
        let status = law(&pool);
        // The job is suspended: it keeps its slot, and no worker.
        assert_eq!((status.running, status.workers, status.idle), (1, 1, 1));
        held.release().await;
        assert_eq!(pool.status().workers, 1);
    });
}

#[test]
fn a_slot_that_is_kept_for_a_caller_is_granted_and_not_waiting() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut caller = task::spawn(pool.schedule(async {}));
        assert_pending!(caller.poll());
        let levels = || {
            let status = law(&pool);
            assert!(status.used_slots() <= status.size, "{status:?}");
            (status.running, status.waiting, status.granted)
        };
        assert_eq!(levels(), (1, 1, 0));
        held.release().await;
        assert!(caller.is_woken());
        assert_eq!(levels(), (0, 0, 1));
        assert!(!law(&pool).is_idle(), "the caller has a job");
        let handle = assert_ready!(caller.poll()).unwrap();
        assert_eq!(levels(), (1, 0, 0));
        soon(handle).await.unwrap();
        // A reserver that was told to come has no job, so the pool is idle.
        let held = hold(&pool);
        let mut reserver = pool.reserver();
        let mut wait = task::spawn(reserver.reserve());
        assert_pending!(wait.poll());
        held.release().await;
        assert_eq!(levels(), (0, 0, 1));
        assert!(law(&pool).is_idle());
        assert_ready!(wait.poll()).unwrap();
        assert_eq!((levels(), law(&pool).reserved), ((0, 0, 0), 1));
        drop(wait);
        drop(reserver);
        whole(&pool).await;
    });
}
