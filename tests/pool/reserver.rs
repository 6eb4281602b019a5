//! A slot reserved before its job is neither lost nor given twice.

use std::time::Duration;

use crate::support::*;
use millpond::{Pool, Reserver, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready_ok, task};

/// A reserver whose wait for a slot was given up: its place in the wait list is kept.
fn waiting_reserver(pool: &Pool) -> Reserver {
    let mut reserver = pool.reserver();
    assert!(poll(&mut Box::pin(reserver.reserve())).is_pending());
    reserver
}

#[test]
fn a_reserved_slot_is_taken_until_it_is_used_or_given_back() {
    single(async {
        let pool = Pool::new(1);
        let mut reserver = pool.reserver();
        for way in 0..4 {
            reserver.reserve().await.unwrap();
            assert!(reserver.is_reserved());
            assert_eq!((law(&pool).reserved, pool.status().running), (1, 0));
            assert!(pool.try_schedule(async {}).unwrap_err().to_string().contains("full"));
            assert!(pool.reserver().try_reserve().is_err());
            // A second call returns the same slot.
            reserver.reserve().await.unwrap();
            reserver.try_reserve().unwrap();
            assert_eq!(law(&pool).reserved, 1);
            match way {
                0 => assert_eq!(reserver.schedule(async { 7 }).unwrap().await.unwrap(), 7),
                1 => reserver.release(),
                2 => drop(std::mem::replace(&mut reserver, pool.reserver())),
                _ => reserver = reserver.clone(),
            }
            assert!(!reserver.is_reserved());
            whole(&pool).await;
        }
        // Three slots were released without a job.
        assert_eq!(quiet(&pool).withdrawn, 3);
    });
}

#[test]
fn reservers_wait_among_all_others() {
    single(async {
        for queue in [0, 3] {
            let pool = Pool::builder().size(1).queue(queue).build().unwrap();
            let held = hold(&pool);
            let mut first = pool.reserver();
            let mut second = pool.reserver();
            let mut one = task::spawn(first.reserve());
            assert_pending!(one.poll());
            let mut job = task::spawn(pool.schedule(async {}));
            let job_waits = job.poll();
            let mut two = task::spawn(second.reserve());
            assert_pending!(two.poll());
            law(&pool);
            held.release().await;
            settle().await;
            assert!(one.is_woken() && !two.is_woken());
            assert_ready_ok!(one.poll());
            drop(one);
            assert_pending!(two.poll());
            first.schedule(async {}).unwrap().await.unwrap();
            if queue == 0 {
                assert!(job_waits.is_pending() && job.is_woken());
                drop(assert_ready_ok!(job.poll()));
            }
            settle().await;
            assert!(two.is_woken());
            assert_ready_ok!(two.poll());
            drop(two);
            second.release();
            drop(job);
            whole(&pool).await;
        }
    });
}

#[test]
fn a_reserver_dropped_while_waiting_passes_its_slot_on() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let (mut gone, mut next) = (pool.reserver(), pool.reserver());
        assert!(poll(&mut Box::pin(gone.reserve())).is_pending());
        let mut waits = task::spawn(next.reserve());
        assert_pending!(waits.poll());
        held.release().await;
        settle().await;
        // `gone` was granted the slot and is dropped before it polls.
        assert_eq!((law(&pool).granted, law(&pool).waiting), (1, 1));
        drop(gone);
        assert!(waits.is_woken());
        assert_ready_ok!(waits.poll());
        drop(waits);
        drop(next);
        whole(&pool).await;
    });
}

#[test]
fn a_place_in_the_wait_list_outlives_the_future_but_not_a_release() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut reserver = waiting_reserver(&pool);
        assert!(poll(&mut Box::pin(reserver.reserve())).is_pending());
        assert_eq!(law(&pool).waiting, 1);
        assert_eq!(reserver.try_reserve().unwrap_err().kind(), SubmitErrorKind::Full);
        assert_eq!(law(&pool).waiting, 0);
        held.release().await;
        reserver.reserve().await.unwrap();
    });
}

#[test]
fn a_closed_pool_takes_no_job_for_a_reserved_slot() {
    single(async {
        let pool = Pool::new(2);
        let held = hold(&pool);
        let (mut early, mut late) = (pool.reserver(), pool.reserver());
        early.reserve().await.unwrap();
        let mut waits = task::spawn(late.reserve());
        assert_pending!(waits.poll());
        pool.close();
        assert!(
            matches!(waits.poll(), std::task::Poll::Ready(Err(error)) if error.kind() == SubmitErrorKind::Closed)
        );
        drop(waits);
        // The idle wait does not count a job that may never come.
        held.release().await;
        pool.wait_idle().await;
        let job = early.schedule(async { 1 }).unwrap_err().into_job();
        assert_eq!(job.await, 1);
        assert_eq!(late.try_reserve().unwrap_err().kind(), SubmitErrorKind::Closed);
        assert_eq!(late.reserve().await.unwrap_err().kind(), SubmitErrorKind::Closed);
        assert_eq!((quiet(&pool).refused, pool.status().reserved), (4, 0));
    });
}

#[test]
fn a_shutdown_does_not_wait_for_reserved_slots() {
    paused(async {
        let pool = Pool::new(1);
        let mut reserver = pool.reserver();
        reserver.reserve().await.unwrap();
        let report = soon(pool.shutdown(Duration::from_secs(3_600))).await;
        assert!(report.is_clean());
        drop(reserver);
        assert_eq!(quiet(&pool).withdrawn, 1);
    });
}

#[test]
fn a_resize_counts_reserved_slots() {
    single(async {
        let pool = Pool::new(2);
        let (mut one, mut two) = (pool.reserver(), pool.reserver());
        one.reserve().await.unwrap();
        two.reserve().await.unwrap();
        pool.resize(1).unwrap();
        drop(one);
        assert!(pool.try_schedule(async {}).is_err(), "that slot is gone");
        drop(two);
        whole(&pool).await;
    });
}

#[test]
fn a_job_that_waits_for_a_slot_of_its_own_pool_is_refused() {
    single(async {
        let pool = Pool::new(1);
        let inside = pool.clone();
        let refused =
            pool.schedule(async move { inside.reserver().reserve().await }).await.unwrap();
        assert_eq!(refused.await.unwrap().unwrap_err().kind(), SubmitErrorKind::WouldDeadlock);
        whole(&pool).await;
    });
}

#[test]
#[should_panic(expected = "a slot must be reserved")]
fn a_job_needs_a_reserved_slot() {
    let _ = Pool::new(1).reserver().schedule(async {});
}

/// Never more than `size` at once, on threads, with slots taken in both ways.
#[test]
fn reserved_and_plain_jobs_share_one_count() {
    multi(2, async {
        let pool = Pool::new(16);
        let gauge = Gauge::default();
        let callers: Vec<_> = (0..8u64)
            .map(|seed| {
                let (pool, gauge) = (pool.clone(), gauge.clone());
                tokio::spawn(async move {
                    let mut dice = Dice::new(seed);
                    let mut reserver = pool.reserver();
                    for _ in 0..2_000 {
                        let inside = gauge.clone();
                        let job = async move {
                            let _inside = inside.enter();
                            tokio::task::yield_now().await;
                        };
                        match dice.below(4) {
                            0 => drop(pool.schedule(job).await.unwrap()),
                            1 => {
                                reserver.reserve().await.unwrap();
                                reserver.release();
                            }
                            _ => {
                                reserver.reserve().await.unwrap();
                                drop(reserver.schedule(job).unwrap());
                            }
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        pool.wait_idle().await;
        assert!(gauge.peak() <= 16, "{}", gauge.peak());
        whole(&pool).await;
    });
}

/// The future is dropped, so no task polls that place. The reserver may still poll it again.
#[test]
fn an_abandoned_place_in_the_wait_list_blocks_no_other_waiter() {
    paused(async {
        for granted in [false, true] {
            let pool = Pool::new(1);
            let mut held = Some(hold(&pool));
            let reserver = waiting_reserver(&pool);
            assert_eq!((law(&pool).waiting, pool.status().waiting_reservers), (1, 1));
            if granted {
                held.take().unwrap().release().await;
            }
            let start = tokio::time::Instant::now();
            let shutdown = tokio::spawn({
                let pool = pool.clone();
                async move { pool.shutdown(Duration::from_secs(60)).await }
            });
            settle().await;
            if let Some(held) = held {
                held.release().await;
            }
            assert!(shutdown.await.unwrap().is_clean());
            assert_eq!(start.elapsed(), Duration::ZERO, "on a clock that only waiting moves");
            drop(reserver);
            assert_eq!(quiet(&pool).waiting, 0);
        }
    });
}

#[test]
fn a_job_that_gave_up_waiting_is_not_taken_for_a_waiting_one() {
    single(async {
        let pool = Pool::new(2);
        let (gate, inside) = (Gate::new(), pool.clone());
        let wait = gate.wait();
        let busy = hold(&pool);
        // The job gives up its wait and works on. Its place in the wait list is still there.
        let fickle = pool.schedule(async move {
            let _reserver = waiting_reserver(&inside);
            wait.await;
        });
        let fickle = fickle.await.unwrap();
        settle().await;
        busy.release().await;
        let inside = pool.clone();
        // The slot went to that place. A second job waits for a job that will end, so it is no deadlock.
        let mut patient = Box::pin(pool.schedule(async move { inside.is_closed() }));
        assert!(poll(&mut patient).is_pending());
        gate.open();
        fickle.await.unwrap();
        assert!(!patient.await.unwrap().await.unwrap());
        whole(&pool).await;

        // The same before any grant: two jobs hold both slots, and one of them only seems to wait.
        let (gate, inside) = (Gate::new(), pool.clone());
        let wait = gate.wait();
        let waits = pool.clone();
        let other = pool.schedule(async move {
            tokio::task::yield_now().await;
            waits.schedule(async {}).await.is_ok()
        });
        let other = other.await.unwrap();
        let fickle = pool.schedule(async move {
            let _reserver = waiting_reserver(&inside);
            wait.await;
        });
        let fickle = fickle.await.unwrap();
        settle().await;
        gate.open();
        fickle.await.unwrap();
        assert!(other.await.unwrap(), "there was no deadlock");
        whole(&pool).await;
    });
}

#[test]
fn what_was_granted_meanwhile_is_found() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut reserver = waiting_reserver(&pool);
        let next = waiting_reserver(&pool);
        held.release().await;
        settle().await;
        // A release and a new request would have lost the slot to the next waiter.
        reserver.try_reserve().unwrap();
        drop((reserver, next));
        whole(&pool).await;
    });
}
