//! A quota bounds a group's share of the pool's slots, and wastes none of the others'.

use crate::support::*;
use millpond::{Group, Pool, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready, task};

fn tenant<T: Send + 'static>(pool: &Pool, quota: usize) -> Group<T> {
    pool.group_builder().quota(quota).build().unwrap()
}

#[test]
fn a_quota_out_of_range_is_refused() {
    let pool = Pool::new(1);
    let error = pool.group_builder::<()>().quota(0).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("quota", "0"));
}

#[test]
fn every_verb_at_the_quota() {
    single(async {
        let pool = Pool::builder().size(4).queue(1).build().unwrap();
        let group = tenant(&pool, 2);
        let gate = Gate::new();
        let job = |n: u32| {
            let inside = gate.wait();
            async move {
                inside.await;
                n
            }
        };
        group.try_schedule(job(0)).unwrap();
        group.schedule(job(1)).await.unwrap();
        // Two slots and a place in the queue are free, for others.
        let refused = group.try_schedule(job(9)).unwrap_err();
        assert_eq!((refused.kind(), refused.is_full()), (SubmitErrorKind::GroupFull, true));
        let mut waiter = task::spawn(group.schedule(job(4)));
        assert_pending!(waiter.poll());
        group.schedule_always(job(2)).unwrap();
        let mut in_caller = task::spawn(group.try_go(job(3)));
        assert_pending!(in_caller.poll());
        group.anyway_go(job(5)).unwrap();
        let status = law(&pool);
        assert_eq!((status.running, status.overflow, status.in_caller), (2, 1, 1));
        assert_eq!((status.queued, status.waiting), (0, 2));
        let others = [hold(&pool), hold(&pool)];
        assert_eq!(law(&pool).running, 4);
        gate.open();
        assert_ready!(in_caller.poll()).unwrap();
        settle().await;
        assert!(waiter.is_woken());
        assert_ready!(waiter.poll()).unwrap();
        drop((waiter, in_caller));
        let mut values: Vec<_> =
            joined(&group).await.into_iter().map(|outcome| outcome.result.unwrap()).collect();
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2, 3, 4, 5]);
        release(others.into()).await;
        whole(&pool).await;
    });
}

#[test]
fn first_come_first_served_at_the_quota() {
    single(async {
        let pool = Pool::new(4);
        let group = tenant(&pool, 1);
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let job = |n: u32| {
            let tell = tell.clone();
            async move { tell.send(n).unwrap() }
        };
        let mut first = task::spawn(group.schedule(job(0)));
        assert_pending!(first.poll());
        group.anyway_go(job(1)).unwrap();
        let mut third = task::spawn(group.schedule(job(2)));
        assert_pending!(third.poll());
        group.anyway_go(job(3)).unwrap();
        gate.open();
        settle().await;
        assert!(first.is_woken() && !third.is_woken());
        assert!(group.try_schedule(job(9)).is_err(), "it would overtake");
        assert_ready!(first.poll()).unwrap();
        settle().await;
        assert!(third.is_woken());
        assert_ready!(third.poll()).unwrap();
        drop((first, third));
        soon(group.wait()).await;
        let order: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        whole(&pool).await;
    });
}

#[test]
fn those_at_their_quota_do_not_hold_up_others() {
    single(async {
        let pool = Pool::new(2);
        let group = tenant(&pool, 1);
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let mut waiter = task::spawn(group.schedule(async {}));
        assert_pending!(waiter.poll());
        // Work-conserving: the other slot is free for other tenants, although this tenant has a waiter.
        soon(pool.try_schedule(async {}).unwrap()).await.unwrap();
        soon(pool.schedule(async {}).await.unwrap()).await.unwrap();
        let other = tenant(&pool, 1);
        other.try_schedule(async {}).unwrap();
        soon(other.wait()).await;
        assert!(!waiter.is_woken());
        gate.open();
        settle().await;
        assert_ready!(waiter.poll()).unwrap();
        drop(waiter);
        soon(group.wait()).await;
        whole(&pool).await;
    });
}

#[test]
fn room_in_the_quota_but_none_in_the_pool() {
    single(async {
        let pool = Pool::new(1);
        let group = tenant(&pool, 2);
        let held = hold(&pool);
        assert_eq!(group.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Full);
        let mut waiters: Vec<_> = (0..3).map(|_| task::spawn(group.schedule(async {}))).collect();
        waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
        held.release().await;
        for waiter in &mut waiters {
            settle().await;
            assert!(waiter.is_woken());
            assert_ready!(waiter.poll()).unwrap();
        }
        drop(waiters);
        assert_eq!(joined(&group).await.len(), 3);
        whole(&pool).await;
    });
}

#[test]
fn dropped_waiters_give_their_share_back() {
    single(async {
        for size in [1, 3] {
            let pool = Pool::new(size);
            let group = tenant(&pool, 1);
            let gate = Gate::new();
            group.schedule(gate.wait()).await.unwrap();
            let mut waiters: Vec<_> =
                (0..4).map(|_| task::spawn(group.schedule(async {}))).collect();
            waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
            drop(waiters.remove(1));
            gate.open();
            settle().await;
            assert!(waiters[0].is_woken() && !waiters[1].is_woken());
            drop(waiters.remove(0)); // granted, then dropped
            assert!(waiters[0].is_woken() && !waiters[1].is_woken());
            assert_ready!(waiters[0].poll()).unwrap();
            drop(waiters);
            assert_eq!(joined(&group).await.len(), 2);
            group.try_schedule(async {}).unwrap();
            soon(group.wait()).await;
            whole(&pool).await;
        }
    });
}

#[test]
fn aborts_and_cancel_in_the_quotas_wait_list() {
    single(async {
        let pool = Pool::new(3);
        let group = tenant(&pool, 1);
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let aborts: Vec<_> = (0..3).map(|_| group.anyway_go(async {}).unwrap()).collect();
        aborts[1].abort();
        assert!(aborts[1].is_finished());
        assert_eq!(law(&pool).waiting, 2);
        gate.open();
        let outcomes = joined(&group).await;
        let successes: Vec<_> = outcomes.iter().map(|outcome| outcome.is_success()).collect();
        assert_eq!(successes, [true, true, false, true]);

        group.schedule(std::future::pending()).await.unwrap();
        let aborts: Vec<_> = (0..3).map(|_| group.anyway_go(async {}).unwrap()).collect();
        group.cancel();
        assert!(joined(&group).await.iter().all(|outcome| !outcome.is_success()));
        assert!(aborts.iter().all(millpond::JobTicket::is_finished));
        group.try_schedule(async {}).unwrap();
        soon(group.wait()).await;
        whole(&pool).await;
    });
}

#[test]
fn close_with_a_waiter_in_the_quotas_wait_list() {
    single(async {
        let pool = Pool::new(3);
        let group = tenant(&pool, 1);
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let mut waiter = task::spawn(group.schedule(async {}));
        assert_pending!(waiter.poll());
        group.anyway_go(async {}).unwrap();
        pool.close();
        assert!(waiter.is_woken());
        assert_eq!(assert_ready!(waiter.poll()).unwrap_err().kind(), SubmitErrorKind::Closed);
        drop(waiter);
        gate.open();
        assert_eq!(joined(&group).await.len(), 2, "the committed one runs");
        soon(pool.wait_idle()).await;
        let status = quiet(&pool);
        assert_eq!((status.completed, status.refused), (2, 1));
    });
}

#[test]
fn shutdown_reaches_the_quotas_wait_list() {
    paused(async {
        let pool = Pool::new(3);
        let group = tenant(&pool, 1);
        for _ in 0..4 {
            group.anyway_go(std::future::pending::<()>()).unwrap();
        }
        let report = pool.shutdown(std::time::Duration::from_secs(1)).await;
        assert_eq!((report.cancelled, report.still_running), (4, 0));
        assert_eq!(joined(&group).await.len(), 4);
        quiet(&pool);
    });
}

#[test]
fn a_group_dropped_with_waiting_jobs_leaves_no_trace() {
    single(async {
        let pool = Pool::new(1);
        for _ in 0..3 {
            // A later group may get what the earlier one had inside of the pool.
            let group = tenant(&pool, 1);
            for _ in 0..3 {
                group.anyway_go(std::future::pending::<()>()).unwrap();
            }
            settle().await;
            drop(group);
            soon(pool.wait_idle()).await;
            let group = tenant(&pool, 1);
            group.try_schedule(async {}).unwrap();
            soon(group.wait()).await;
        }
        whole(&pool).await;
    });
}
