//! A job that waits for its own pool: an error only where waiting could never end.
#![allow(clippy::async_yields_async)]

use crate::nest::{Nest, nest};
use crate::support::*;
use millpond::Pool;
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn jobs_that_all_wait_for_room_lend_their_slots() {
    for size in [1, 2, 5] {
        single(async move {
            let pool = Pool::new(size);
            let handles: Vec<_> =
                (0..size).map(|_| pool.try_schedule(nest(pool.clone(), 3)).unwrap()).collect();
            for handle in handles {
                assert_eq!(soon(handle).await.unwrap(), Nest::Ran(3));
            }
            assert_eq!(law(&pool).refused, 0);
            whole(&pool).await;
        });
    }
}

#[test]
fn not_while_a_slot_is_held_by_a_job_that_can_end() {
    single(async {
        let pool = Pool::new(2);
        let held = hold(&pool);
        let nested = pool.try_schedule(nest(pool.clone(), 3)).unwrap();
        settle().await;
        assert_eq!(law(&pool).waiting, 1, "it waits: the other job may end");
        held.release().await;
        assert_eq!(soon(nested).await.unwrap(), Nest::Ran(3));
        whole(&pool).await;
    });
}

#[test]
fn not_with_room() {
    single(async {
        // A slot is free; a place in the queue is.
        for (size, queue) in [(2, 0), (1, 1)] {
            let pool = Pool::builder().size(size).queue(queue).build().unwrap();
            let own = pool.clone();
            let outer = pool.try_schedule(async move { own.schedule(async { 3 }).await });
            let inner = soon(outer.unwrap()).await.unwrap().unwrap();
            assert_eq!(soon(inner).await.unwrap(), 3);
            whole(&pool).await;
        }
    });
}

#[test]
fn not_when_a_waiting_job_is_about_to_be_let_in() {
    single(async {
        // A job waits for a place in the queue, and one comes free for it just before the other
        // job asks: the first will go on.
        let pool = Pool::builder().size(2).queue(1).build().unwrap();
        let own = pool.clone();
        let first = pool
            .try_schedule(
                async move { own.schedule(async { 1 }).await.map(|handle| handle.detach()) },
            )
            .unwrap();
        let (tell, told) = tokio::sync::oneshot::channel::<millpond::JobHandle<()>>();
        let own = pool.clone();
        let second = pool
            .try_schedule(async move {
                told.await.unwrap().abort();
                own.schedule(async { 2 }).await.map(|handle| handle.detach())
            })
            .unwrap();
        let queued = pool.try_schedule(std::future::pending::<()>()).unwrap();
        settle().await;
        assert_eq!(law(&pool).waiting, 1);
        tell.send(queued).unwrap();
        soon(first).await.unwrap().unwrap();
        soon(second).await.unwrap().expect("no deadlock: the first job was let in");
        whole(&pool).await;
    });
}

#[test]
fn not_for_callers_outside_of_its_jobs() {
    single(async {
        let (pool, other) = (Pool::new(1), Pool::new(1));
        let held = hold(&pool);
        // A job of another pool, a plain task, an overflow job: none of them holds a slot here.
        let foreign = other.try_schedule(nest(pool.clone(), 1)).unwrap();
        let task = tokio::spawn(nest(pool.clone(), 2));
        let over = pool.schedule_always(nest(pool.clone(), 3)).unwrap();
        settle().await;
        assert_eq!(law(&pool).waiting, 3);
        held.release().await;
        assert_eq!(soon(foreign).await.unwrap(), Nest::Ran(1));
        assert_eq!(soon(task).await.unwrap(), Nest::Ran(2));
        assert_eq!(soon(over).await.unwrap(), Nest::Ran(3));
        whole(&pool).await;
        whole(&other).await;
    });
}

#[test]
fn one_job_with_many_waits_counts_once() {
    single(async {
        let pool = Pool::new(2);
        let held = hold(&pool);
        let own = pool.clone();
        let job = pool
            .try_schedule(async move {
                let (a, b) = (nest(own.clone(), 1), nest(own.clone(), 2));
                tokio::join!(a, b)
            })
            .unwrap();
        settle().await;
        assert_eq!(law(&pool).waiting, 2);
        held.release().await;
        assert_eq!(soon(job).await.unwrap(), (Nest::Ran(1), Nest::Ran(2)));
        whole(&pool).await;
    });
}

#[test]
fn a_wait_that_was_given_up_does_not_count() {
    single(async {
        let pool = Pool::new(2);
        let gate = Gate::new();
        let (own, inside) = (pool.clone(), gate.wait());
        let first = pool
            .try_schedule(async move {
                let mut wait = Box::pin(own.schedule(async {}));
                assert!(poll(&mut wait).is_pending());
                drop(wait);
                inside.await;
            })
            .unwrap_or_else(|_| panic!());
        let second = hold(&pool);
        settle().await;
        second.release().await;
        let second = pool.try_schedule(nest(pool.clone(), 3)).unwrap();
        let filler = pool.anyway_go(async {}).unwrap();
        settle().await;
        gate.open();
        soon(first).await.unwrap();
        assert_eq!(soon(second).await.unwrap(), Nest::Ran(3));
        drop(filler);
        whole(&pool).await;
    });
}

#[test]
fn try_go_and_anyway_go_are_safe_anywhere() {
    single(async {
        let pool = Pool::new(1);
        let own = pool.clone();
        let outer = pool
            .try_schedule(async move {
                let depth_two = own.clone();
                let inner =
                    async move { depth_two.try_go(async { 4 }).await.unwrap().await.unwrap() };
                let here = own.try_go(inner).await.unwrap().await.unwrap();
                (here, own.anyway_go(async { 5 }).unwrap().into_handle())
            })
            .unwrap();
        let (here, later) = soon(outer).await.unwrap();
        assert_eq!((here, soon(later).await.unwrap()), (4, 5));
        whole(&pool).await;
    });
}

#[test]
fn other_waiters_are_not_refused() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let (own, inside) = (pool.clone(), gate.wait());
        let job = pool
            .try_schedule(async move {
                inside.await;
                nest(own, 1).await
            })
            .unwrap();
        let mut outsider = task::spawn(pool.schedule(async { 2 }));
        assert_pending!(outsider.poll());
        gate.open();
        assert_eq!(soon(job).await.unwrap(), Nest::Ran(1));
        assert!(outsider.is_woken());
        assert_eq!(soon(assert_ready!(outsider.poll()).unwrap()).await.unwrap(), 2);
        whole(&pool).await;
    });
}
