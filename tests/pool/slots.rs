//! A slot is reserved from `reserve` to its job or its drop, and is never lost.

use std::task::Poll;

use crate::support::*;
use millpond::{Pool, Slot, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready_ok, task};

#[test]
fn a_slot_is_taken_until_it_is_spent_or_dropped() {
    single(async {
        let pool = Pool::new(1);
        for spend in [true, false] {
            let slot = pool.reserve().await.unwrap();
            assert_eq!(slot.pool().name(), pool.name());
            let status = law(&pool);
            assert_eq!((status.reserved, status.running), (1, 0));
            assert_eq!(pool.try_reserve().unwrap_err().kind(), SubmitErrorKind::Full);
            assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Full);
            match spend {
                true => assert_eq!(slot.schedule(async { 7 }).unwrap().await.unwrap(), 7),
                false => drop(slot),
            }
            assert_eq!(law(&pool).reserved, 0);
            whole(&pool).await;
        }
        let status = quiet(&pool);
        assert_eq!((status.completed, status.withdrawn), (2 + 1, 1), "`whole` runs a job, too");
    });
}

/// The slots lie with the threads of the runtime; a submitter of any thread finds all of them.
#[test]
fn one_thread_gets_the_slots_of_all() {
    watched(|| {
        let runtime = runtime(4);
        for size in [32, 33, 100] {
            let builder = Pool::builder().size(size).runtime(runtime.handle().clone());
            let pool = builder.build().unwrap();
            runtime.block_on(whole(&pool));
            let slots: Vec<_> = (0..size).map(|_| pool.try_reserve().unwrap()).collect();
            assert!(pool.try_reserve().is_err());
            assert_eq!(law(&pool).reserved, size);
            drop(slots);
            runtime.block_on(whole(&pool));
        }
    });
}

#[test]
fn a_dropped_slot_goes_to_the_next_waiter() {
    single(async {
        let pool = Pool::new(1);
        let slot = pool.try_reserve().unwrap();
        let mut first = task::spawn(pool.reserve());
        let mut second = task::spawn(pool.schedule(async { 2 }));
        assert_pending!(first.poll());
        assert_pending!(second.poll());
        let status = law(&pool);
        assert_eq!((status.reserved, status.waiting, status.waiting_reservers), (1, 2, 1));
        drop(slot);
        assert!(first.is_woken() && !second.is_woken());
        let slot = assert_ready_ok!(first.poll());
        assert_pending!(second.poll());
        drop(slot);
        assert!(second.is_woken());
        assert_eq!(assert_ready_ok!(second.poll()).await.unwrap(), 2);
        whole(&pool).await;
    });
}

#[test]
fn a_wait_that_is_dropped_gives_up_its_place_or_its_slot() {
    single(async {
        for granted in [false, true] {
            let pool = Pool::new(1);
            let slot = pool.reserve().await.unwrap();
            let mut gone = task::spawn(pool.reserve());
            let mut next = task::spawn(pool.reserve());
            assert_pending!(gone.poll());
            assert_pending!(next.poll());
            let mut slot = Some(slot);
            if granted {
                slot.take();
                assert!(gone.is_woken() && !next.is_woken());
            }
            drop(gone);
            let (places, slots) = (usize::from(!granted), usize::from(granted));
            assert_eq!((law(&pool).waiting, law(&pool).granted), (places, slots));
            assert_eq!(next.is_woken(), granted);
            drop(slot);
            drop(assert_ready_ok!(next.poll()));
            drop(next);
            whole(&pool).await;
        }
    });
}

#[test]
fn an_unpolled_reserve_does_nothing() {
    single(async {
        let pool = Pool::new(1);
        drop(pool.reserve());
        assert_eq!(quiet(&pool).submitted, 0);
    });
}

#[test]
fn a_closed_pool_gives_no_slot_and_takes_no_job() {
    single(async {
        let pool = Pool::new(1);
        let slot = pool.reserve().await.unwrap();
        let mut waits = task::spawn(pool.reserve());
        assert_pending!(waits.poll());
        pool.close();
        assert!(
            matches!(waits.poll(), Poll::Ready(Err(error)) if error.kind() == SubmitErrorKind::Closed)
        );
        drop(waits);
        soon(pool.wait_idle()).await;
        let job = slot.schedule(async { 1 }).unwrap_err().into_job();
        assert_eq!(job.await, 1);
        assert_eq!(pool.reserve().await.unwrap_err().kind(), SubmitErrorKind::Closed);
        assert_eq!(pool.try_reserve().unwrap_err().kind(), SubmitErrorKind::Closed);
        let status = quiet(&pool);
        assert_eq!((status.refused, status.reserved), (4, 0));
    });
}

#[test]
fn a_slot_keeps_its_pool_open() {
    single(async {
        let pool = Pool::new(1);
        let slot = pool.reserve().await.unwrap();
        drop(pool);
        assert!(!slot.pool().is_closed());
        assert_eq!(slot.schedule(async { 3 }).unwrap().await.unwrap(), 3);
    });
}

#[test]
fn a_resize_lets_waiters_in_and_takes_dropped_slots_away() {
    single(async {
        let pool = Pool::new(1);
        let first = pool.reserve().await.unwrap();
        let mut waits = task::spawn(pool.reserve());
        assert_pending!(waits.poll());
        pool.resize(2).unwrap();
        let second = assert_ready_ok!(waits.poll());
        assert_eq!(law(&pool).reserved, 2);
        pool.resize(1).unwrap();
        drop(first);
        assert!(pool.try_reserve().is_err(), "the resize took that slot");
        drop(second);
        drop(waits);
        whole(&pool).await;
    });
}

#[test]
fn a_job_that_reserves_in_its_own_full_pool_is_refused() {
    single(async {
        let pool = Pool::new(1);
        let inside = pool.clone();
        let reserved =
            pool.schedule(async move { inside.reserve().await.map(drop) }).await.unwrap();
        assert_eq!(reserved.await.unwrap().unwrap_err().kind(), SubmitErrorKind::WouldDeadlock);
        // With room it is no deadlock.
        let pool = Pool::new(2);
        let inside = pool.clone();
        let nested = pool.schedule(async move {
            let slot: Slot = inside.reserve().await.unwrap();
            slot.schedule(async { 5 }).unwrap().await.unwrap()
        });
        assert_eq!(nested.await.unwrap().await.unwrap(), 5);
        whole(&pool).await;
    });
}

/// Slots that are spent on other threads, dropped, and waited for in vain share one count.
#[test]
fn no_more_than_the_size_at_once() {
    multi(2, async {
        let pool = Pool::new(3);
        let gauge = Gauge::default();
        let callers: Vec<_> = (0..8u64)
            .map(|seed| {
                let (pool, gauge) = (pool.clone(), gauge.clone());
                tokio::spawn(async move {
                    let mut dice = Dice::new(seed);
                    for _ in 0..500 {
                        let inside = gauge.clone();
                        let job = async move {
                            let _inside = inside.enter();
                            tokio::task::yield_now().await;
                        };
                        match dice.below(4) {
                            0 => drop(pool.reserve().await.unwrap()),
                            1 => {
                                let mut wait = Box::pin(pool.reserve());
                                let _ = poll(&mut wait);
                            }
                            2 => {
                                let slot = pool.reserve().await.unwrap();
                                let spent = async move { drop(slot.schedule(job).unwrap()) };
                                tokio::spawn(spent).await.unwrap();
                            }
                            _ => drop(pool.reserve().await.unwrap().schedule(job).unwrap()),
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        pool.wait_idle().await;
        assert!(gauge.peak() <= 3, "{}", gauge.peak());
        whole(&pool).await;
    });
}
