//! Deadlocks that a shrink completes, or that a quota has by itself.

use crate::nest::{Nest, nest};
use crate::support::*;
use millpond::{Pool, SubmitError, SubmitErrorKind};

#[test]
fn a_shrink_that_makes_a_deadlock_is_noticed() {
    single(async {
        for early in [false, true] {
            let pool = Pool::new(3);
            let held = hold(&pool);
            let nested = [1, 2].map(|n| pool.try_schedule(nest(pool.clone(), n)).unwrap());
            settle().await;
            assert_eq!(law(&pool).waiting, 2);
            // The one job that can end takes its slot along.
            if early {
                pool.resize(2).unwrap();
                held.release().await;
            } else {
                pool.resize(1).unwrap();
                held.release().await;
            }
            for (n, handle) in (1..).zip(nested) {
                assert_eq!(soon(handle).await.unwrap(), Nest::Ran(n));
            }
            whole(&pool).await;
        }
    });
}

#[test]
fn a_shrink_refuses_a_wait_and_not_a_granted_place_in_the_queue() {
    single(async {
        let pool = Pool::builder().size(3).queue(3).build().unwrap();
        let mut third = pool.reserver();
        third.try_reserve().unwrap();
        // Two jobs reserve; the second one also submits, once the queue is full.
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let first = pool.clone();
        let first = pool.try_schedule(async move { first.reserver().reserve().await.is_ok() });
        let second = pool.clone();
        let second = pool.try_schedule(async move {
            let mut reserver = second.reserver();
            let submit = async {
                gate.await.unwrap();
                second.schedule(async {}).await.is_ok()
            };
            tokio::join!(reserver.reserve(), submit)
        });
        settle().await;
        let queued = pool.try_schedule(async {}).unwrap();
        open.send(()).unwrap();
        settle().await;
        assert_eq!((law(&pool).queued, law(&pool).waiting), (1, 3));
        // The submit receives the place in the queue, and then the last slot that could come back
        // vanishes.
        queued.abort();
        pool.resize(2).unwrap();
        third.release();
        let (reserved, submitted) = soon(second.unwrap()).await.unwrap();
        assert_eq!(reserved.unwrap_err().kind(), SubmitErrorKind::WouldDeadlock);
        assert!(submitted);
        assert!(soon(first.unwrap()).await.unwrap());
        whole(&pool).await;
    });
}

#[test]
fn a_quota_can_deadlock_by_itself() {
    for quota in [1, 2] {
        single(async move {
            let pool = Pool::new(4);
            let group = pool.group_builder().quota(quota).build().unwrap();
            for _ in 0..quota {
                let own = group.clone();
                let job = async move {
                    match own.schedule(async { true }).await.map_err(SubmitError::into_parts) {
                        Ok(_) => true,
                        Err((SubmitErrorKind::WouldDeadlock, _)) => false,
                        Err((kind, _)) => panic!("{kind}"),
                    }
                };
                group.try_schedule(job).unwrap();
            }
            let outcomes = joined(&group).await;
            let told = outcomes.iter().filter(|out| !*out.result.as_ref().unwrap()).count();
            assert_eq!(told, 0, "with a quota of {quota}");
            whole(&pool).await;
        });
    }
}
