//! Full means: no slot and no place in the queue. Each verb then does what it says, and only then.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;
use millpond::{Pool, SubmitError, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready, task};

/// Without a queue, with one, and with several slots.
fn pools() -> impl Iterator<Item = Pool> {
    [(1, 0), (1, 2), (3, 0), (2, 3)]
        .into_iter()
        .map(|(size, queue)| Pool::builder().size(size).queue(queue).build().unwrap())
}

#[test]
fn schedule_waits_its_turn() {
    single(async {
        for pool in pools() {
            let mut held = fill(&pool);
            let ran = Arc::new(AtomicBool::new(false));
            let flag = ran.clone();
            let mut waiter = task::spawn(pool.schedule(async move { flag.store(true, SeqCst) }));
            assert_pending!(waiter.poll());
            assert_eq!(law(&pool).waiting, 1);
            settle().await;
            assert!(!waiter.is_woken() && !ran.load(SeqCst));

            held.remove(0).release().await;
            assert!(waiter.is_woken());
            let handle = assert_ready!(waiter.poll()).unwrap();
            assert_eq!(law(&pool).waiting, 0);
            release(held).await;
            soon(handle).await.unwrap();
            assert!(ran.load(SeqCst));
            whole(&pool).await;
        }
    });
}

#[test]
fn try_schedule_gives_the_job_back() {
    single(async {
        for pool in pools() {
            let held = fill(&pool);
            match pool.try_schedule(std::future::ready("mine")).map_err(SubmitError::into_parts) {
                Err((SubmitErrorKind::Full, job)) => assert_eq!(job.await, "mine"),
                other => panic!("{other:?}"),
            }
            assert_eq!(law(&pool).refused, 1);
            release(held).await;
            pool.try_schedule(async {}).unwrap().await.unwrap();
            whole(&pool).await;
        }
    });
}

#[test]
fn schedule_always_runs_beyond_the_size() {
    single(async {
        for pool in pools() {
            let held = fill(&pool);
            let (gate, size) = (Gate::new(), pool.status().size);
            let urgent: Vec<_> =
                (0..5).map(|_| pool.schedule_always(gate.wait()).unwrap()).collect();
            settle().await;
            let status = law(&pool);
            assert_eq!((status.overflow, status.running), (5, size));
            gate.open();
            for handle in urgent {
                soon(handle).await.unwrap();
            }
            assert_eq!(law(&pool).overflow, 0);
            assert_eq!(law(&pool).running, size, "overflow gave back a slot it never had");
            release(held).await;
            whole(&pool).await;
        }
    });
}

#[test]
fn schedule_always_uses_room_before_it_overflows() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let slot = hold(&pool);
        let queued = pool.schedule_always(async {}).unwrap();
        assert_eq!((pool.status().queued, pool.status().overflow), (1, 0));
        slot.release().await;
        soon(queued).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn the_overflow_limit_refuses() {
    single(async {
        for limit in [0, 1, 3] {
            let pool = Pool::builder().size(1).overflow_limit(limit).build().unwrap();
            let held = fill(&pool);
            let gate = Gate::new();
            let over: Vec<_> =
                (0..limit).map(|_| pool.schedule_always(gate.wait()).unwrap()).collect();
            match pool.schedule_always(std::future::ready(7)).map_err(SubmitError::into_parts) {
                Err((SubmitErrorKind::Full, job)) => assert_eq!(job.await, 7),
                other => panic!("{other:?}"),
            }
            assert_eq!(law(&pool).overflow, limit);
            gate.open();
            for handle in over {
                handle.await.unwrap();
            }
            // The limit holds for those at once, not for all there ever were.
            if limit > 0 {
                soon(pool.schedule_always(async {}).unwrap()).await.unwrap();
            }
            release(held).await;
            whole(&pool).await;
        }
    });
}

#[test]
fn try_go_runs_in_the_caller() {
    single(async {
        for pool in pools() {
            let held = fill(&pool);
            let gate = Gate::new();
            let inside = gate.wait();
            let mut going = task::spawn(pool.try_go(async {
                inside.await;
                tokio::task::try_id()
            }));
            assert_pending!(going.poll());
            assert_eq!(law(&pool).in_caller, 1);
            settle().await;
            assert!(!going.is_woken(), "the caller alone drives it");
            gate.open();
            assert!(going.is_woken());
            let handle = assert_ready!(going.poll()).unwrap();
            assert!(handle.is_finished());
            // This test is not a task, so neither was the job.
            assert_eq!(handle.await.unwrap(), None);
            assert_eq!(law(&pool).in_caller, 0);
            release(held).await;

            // And with room, in the pool.
            let handle = pool.try_go(async { tokio::task::try_id() }).await.unwrap();
            assert!(!handle.is_finished());
            assert!(handle.await.unwrap().is_some());
            whole(&pool).await;
        }
    });
}

#[test]
fn anyway_go_is_committed_and_waits() {
    single(async {
        for pool in pools() {
            let held = fill(&pool);
            let gauge = Gauge::default();
            let commit = || {
                let gauge = gauge.clone();
                pool.anyway_go(async move { drop(gauge.enter()) }).unwrap()
            };
            let mut started = task::spawn(commit());
            let dropped = commit();
            drop(dropped);
            let handle = commit().into_handle();
            assert_pending!(started.poll());
            assert_eq!(law(&pool).waiting, 3);
            settle().await;
            assert_eq!(gauge.total(), 0);
            release(held).await;
            soon(handle).await.unwrap();
            assert_eq!(gauge.total(), 3);
            assert!(started.is_woken());
            let handle = assert_ready!(started.poll());
            handle.await.unwrap();
            whole(&pool).await;
        }
    });
}

#[test]
fn the_queue_is_first_come_first_served() {
    single(async {
        let pool = Pool::builder().size(1).queue(3).build().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let job = |n: u32| {
            let tell = tell.clone();
            async move { tell.send(n).unwrap() }
        };
        let slot = hold(&pool);
        let a = pool.try_schedule(job(0)).unwrap();
        let b = pool.schedule(job(1)).await.unwrap();
        let c = pool.try_go(job(2)).await.unwrap();
        let d = pool.anyway_go(job(3)).unwrap().into_handle();
        let mut e = task::spawn(pool.schedule(job(4)));
        assert_pending!(e.poll());
        assert!(pool.try_schedule(job(9)).is_err());
        let status = law(&pool);
        assert_eq!((status.queued, status.waiting), (3, 2));
        slot.release().await;
        for handle in [a, b, c, d] {
            soon(handle).await.unwrap();
        }
        assert!(e.is_woken());
        let e = assert_ready!(e.poll()).unwrap();
        soon(e).await.unwrap();
        let order: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        whole(&pool).await;
    });
}

#[test]
fn a_waiter_is_not_overtaken() {
    single(async {
        let pool = Pool::new(1);
        let slot = hold(&pool);
        let mut first = task::spawn(pool.schedule(async {}));
        assert_pending!(first.poll());
        slot.release().await;
        // The slot is kept for the first in the wait list although it has not come yet.
        assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Full);
        let mut second = task::spawn(pool.schedule(async {}));
        assert_pending!(second.poll());
        let handle = pool.try_go(async {}).await.unwrap();
        assert!(handle.is_finished(), "it ran in the caller instead of overtaking");
        let first = assert_ready!(first.poll()).unwrap();
        soon(first).await.unwrap();
        assert!(second.is_woken());
        let second = assert_ready!(second.poll()).unwrap();
        soon(second).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn a_full_pool_refuses_exactly_what_it_has_no_room_for() {
    multi(2, async {
        for size in [1, 2, 7] {
            let pool = Pool::builder().size(size).queue(3).build().unwrap();
            let gate = Gate::new();
            let submitters: Vec<_> = (0..20)
                .map(|_| {
                    let (pool, gate) = (pool.clone(), gate.clone());
                    tokio::spawn(async move { pool.try_schedule(gate.wait()).is_ok() })
                })
                .collect();
            let mut taken = 0;
            for submitter in submitters {
                taken += usize::from(submitter.await.unwrap());
            }
            assert_eq!(taken, size + 3);
            let status = law(&pool);
            assert_eq!((status.running, status.queued), (size, 3));
            assert_eq!(status.refused as usize, 20 - taken);
            gate.open();
            whole(&pool).await;
        }
    });
}
