//! A resize holds at once for new jobs, and for running jobs as they end.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use crate::support::*;
use millpond::Pool;
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn jobs_that_start_together_run_in_order() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..20 {
            let order = order.clone();
            drop(pool.anyway_go(async move { order.lock().unwrap().push(n) }).unwrap());
        }
        pool.resize(11).unwrap();
        settle().await;
        assert!(order.lock().unwrap().iter().copied().eq(0..20), "{order:?}");
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn sizes_out_of_range_are_refused() {
    single(async {
        let pool = Pool::new(3);
        let error = pool.resize(0).unwrap_err();
        assert_eq!((error.field(), error.value()), ("size", "0"));
        #[cfg(target_pointer_width = "64")]
        assert!(pool.resize(1 << 32).is_err());
        assert_eq!(pool.status().size, 3);
        whole(&pool).await;
        pool.resize(3).unwrap();
        whole(&pool).await;
    });
}

#[test]
fn growing_makes_room() {
    single(async {
        let pool = Pool::new(1);
        let mut held = fill(&pool);
        assert!(pool.try_schedule(async {}).is_err());
        pool.resize(4).unwrap();
        assert_eq!(pool.status().size, 4);
        for _ in 0..3 {
            held.push(hold(&pool));
        }
        assert!(pool.try_schedule(async {}).is_err());
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn growing_admits_waiters_in_order() {
    single(async {
        let pool = Pool::new(1);
        let held = fill(&pool);
        let gate = Gate::new();
        let mut first = task::spawn(pool.schedule(gate.wait()));
        assert_pending!(first.poll());
        let second = pool.anyway_go(gate.wait()).unwrap().into_handle();
        let mut third = task::spawn(pool.schedule(gate.wait()));
        assert_pending!(third.poll());
        pool.resize(3).unwrap();
        assert!(first.is_woken() && !third.is_woken());
        let first = assert_ready!(first.poll()).unwrap();
        let status = law(&pool);
        assert_eq!((status.running, status.waiting), (3, 1));
        pool.resize(10).unwrap();
        assert!(third.is_woken());
        let third = assert_ready!(third.poll()).unwrap();
        assert_eq!(law(&pool).running, 4);
        gate.open();
        for handle in [first, second, third] {
            soon(handle).await.unwrap();
        }
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn shrinking_takes_free_slots_now_and_the_rest_as_they_come_back() {
    single(async {
        let pool = Pool::new(5);
        let mut held: Vec<_> = (0..4).map(|_| hold(&pool)).collect();
        pool.resize(2).unwrap();
        let status = law(&pool);
        assert_eq!((status.size, status.running), (2, 4));
        for left in [3, 2, 1] {
            assert!(pool.try_schedule(async {}).is_err(), "{} running of 2", left + 1);
            held.remove(0).release().await;
            assert_eq!(law(&pool).running, left);
        }
        held.push(hold(&pool));
        assert!(pool.try_schedule(async {}).is_err());
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn slots_to_remove_go_before_any_waiter_is_admitted() {
    single(async {
        let pool = Pool::new(3);
        let mut held = fill(&pool);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        pool.resize(1).unwrap();
        held.remove(0).release().await;
        held.remove(0).release().await;
        assert!(!waiter.is_woken());
        held.remove(0).release().await;
        assert!(waiter.is_woken());
        soon(assert_ready!(waiter.poll()).unwrap()).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn growing_keeps_slots_that_were_to_be_removed() {
    single(async {
        let pool = Pool::new(3);
        let mut held = fill(&pool);
        pool.resize(1).unwrap();
        pool.resize(2).unwrap();
        assert!(pool.try_schedule(async {}).is_err());
        held.remove(0).release().await;
        assert!(pool.try_schedule(async {}).is_err());
        pool.resize(3).unwrap();
        held.push(hold(&pool));
        assert!(pool.try_schedule(async {}).is_err());
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn a_slot_kept_for_a_caller_counts_when_shrinking() {
    single(async {
        let pool = Pool::new(2);
        let mut held = fill(&pool);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        held.remove(0).release().await; // kept for the waiter
        pool.resize(1).unwrap();
        drop(waiter);
        assert!(pool.try_schedule(async {}).is_err(), "the slot of the second is in use");
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn overflow_removes_no_slot_when_shrinking() {
    single(async {
        let pool = Pool::new(2);
        let held = fill(&pool);
        let gate = Gate::new();
        let over = pool.schedule_always(gate.wait()).unwrap();
        pool.resize(1).unwrap();
        gate.open();
        soon(over).await.unwrap();
        assert_eq!(law(&pool).running, 2);
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn also_before_the_first_job_and_after_close() {
    let pool = Pool::new(2);
    pool.resize(5).unwrap(); // outside of any runtime
    single(async move {
        whole(&pool).await;
        let held = fill(&pool);
        let committed = pool.anyway_go(async {}).unwrap().into_handle();
        pool.close();
        pool.resize(6).unwrap();
        soon(committed).await.unwrap();
        release(held).await;
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn never_more_than_the_size_once_it_has_settled() {
    multi(2, async {
        let pool = Pool::builder().size(4).queue(2).build().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let gauge = Gauge::default();
        let load: Vec<_> = (0..12)
            .map(|n| {
                let (pool, stop, gauge) = (pool.clone(), stop.clone(), gauge.clone());
                tokio::spawn(async move {
                    while !stop.load(SeqCst) {
                        let gauge = gauge.clone();
                        let job = async move {
                            let _inside = gauge.enter();
                            tokio::task::yield_now().await;
                        };
                        // No slot is ever kept for a caller, so those in use are the running.
                        if n % 3 == 0 {
                            pool.anyway_go(job).unwrap().await.await.unwrap();
                        } else if let Ok(handle) = pool.try_schedule(job) {
                            handle.await.unwrap();
                        } else {
                            tokio::task::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        let mut dice = Dice::new(7);
        for _ in 0..150 {
            // A storm of sizes, then one to stay.
            for _ in 0..dice.below(6) {
                pool.resize(1 + dice.below(9) as usize).unwrap();
                law(&pool);
            }
            let size = 1 + dice.below(6) as usize;
            pool.resize(size).unwrap();
            eventually(|| law(&pool).running <= size).await;
            gauge.reset_peak();
            // So much load goes through meanwhile.
            let until = gauge.total() + 60;
            eventually(|| gauge.total() >= until).await;
            // A job of before may have been inside when the peak was reset, but not more of them.
            assert!(gauge.peak() <= size, "{} at once, size {size}", gauge.peak());
            assert!(law(&pool).running <= size);
        }
        stop.store(true, SeqCst);
        for task in load {
            soon(task).await.unwrap();
        }
        whole(&pool).await;
    });
}
