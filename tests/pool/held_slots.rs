//! A slot held beyond its job stays taken until its guard is dropped, and is released once.

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use crate::support::*;
use millpond::Pool;
use tokio::sync::oneshot;

#[test]
fn a_held_slot_stays_taken_until_it_is_dropped() {
    single(async {
        let pool = Pool::new(1);
        let inside = pool.clone();
        let job = pool.schedule(async move { inside.hold_slot() }).await.unwrap();
        let slot = job.await.unwrap().expect("the job holds a slot");
        let status = law(&pool);
        assert_eq!((status.held_slots, status.running, status.completed), (1, 0, 1));
        assert!(!status.is_idle());
        let mut next = Box::pin(pool.schedule(async { 5 }));
        assert!(poll(&mut next).is_pending());
        drop(slot);
        assert_eq!(next.await.unwrap().await.unwrap(), 5);
        whole(&pool).await;
    });
}

#[test]
fn dropped_before_the_job_ends_it_changes_nothing() {
    single(async {
        let pool = Pool::new(1);
        let (gate, inside) = (Gate::new(), pool.clone());
        let wait = gate.wait();
        let job = pool.schedule(async move {
            drop(inside.hold_slot());
            // The slot was held before.
            assert!(inside.hold_slot().is_none());
            wait.await;
        });
        let job = job.await.unwrap();
        settle().await;
        assert_eq!((law(&pool).running, pool.status().held_slots), (1, 0));
        assert!(pool.try_schedule(async {}).is_err());
        gate.open();
        job.await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn only_jobs_with_a_slot_of_this_pool_can_hold_it() {
    single(async {
        let (pool, other) = (Pool::new(1), Pool::new(1));
        assert!(pool.hold_slot().is_none(), "outside");
        let inside = pool.clone();
        let job = other.schedule(async move { inside.hold_slot().is_none() }).await.unwrap();
        assert!(job.await.unwrap(), "another pool's job");
        let held = hold(&pool);
        let inside = pool.clone();
        let job = pool.schedule_always(async move { inside.hold_slot().is_none() }).unwrap();
        assert!(job.await.unwrap(), "beyond the size");
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_slot_held_by_a_job_that_is_cancelled_or_panics_comes_back() {
    single(async {
        let pool = Pool::new(1);
        let inside = pool.clone();
        let job = pool.schedule(async move {
            let _slot = inside.hold_slot();
            pending::<()>().await
        });
        let job = job.await.unwrap();
        settle().await;
        job.abort();
        assert!(job.await.unwrap_err().is_cancelled());
        whole(&pool).await;

        let inside = pool.clone();
        let job = pool.schedule(async move {
            let _slot = inside.hold_slot();
            silent_panic("with a slot in hand");
        });
        assert!(job.await.unwrap().await.unwrap_err().is_panic());
        whole(&pool).await;

        // The job's destructor panics after the guard moved into the result. The result is dropped,
        // too.
        let inside = pool.clone();
        let bomb = OnDrop(|| silent_panic("on the way out"));
        let job = pool.schedule(poll_fn(move |_| {
            let _ = &bomb;
            Poll::Ready(inside.hold_slot())
        }));
        assert!(job.await.unwrap().await.unwrap_err().is_panic());
        whole(&pool).await;
    });
}

#[test]
fn a_quota_counts_held_slots() {
    single(async {
        let pool = Pool::new(4);
        let group = pool.group_builder().quota(1).build().unwrap();
        let inside = pool.clone();
        group.schedule(async move { inside.hold_slot() }).await.unwrap();
        let slot = group.next().await.unwrap().result.unwrap();
        assert!(slot.is_some());
        assert!(group.try_schedule(async { None }).is_err());
        assert!(pool.try_schedule(async {}).is_ok());
        drop(slot);
        assert!(group.try_schedule(async { None }).is_ok());
    });
}

#[test]
fn a_shutdown_waits_for_held_slots_but_cannot_cancel_them() {
    paused(async {
        for let_go in [true, false] {
            let pool = Pool::new(2);
            let inside = pool.clone();
            let job = pool.schedule(async move { inside.hold_slot() }).await.unwrap();
            let slot = job.await.unwrap();
            let shutdown = tokio::spawn({
                let pool = pool.clone();
                async move { pool.shutdown(Duration::from_secs(1)).await }
            });
            settle().await;
            assert!(!shutdown.is_finished());
            if let_go {
                drop(slot);
                assert!(shutdown.await.unwrap().is_clean());
            } else {
                assert_eq!(shutdown.await.unwrap().still_running, 1);
                drop(slot);
            }
            pool.wait_idle().await;
            assert_eq!(quiet(&pool).held_slots, 0);
        }
    });
}

/// The end of a job races with the drop of its guard on another thread.
#[test]
fn whichever_comes_second_frees_the_slot() {
    multi(2, async {
        let pool = Pool::new(2);
        for _ in 0..5_000 {
            let (send, receive) = oneshot::channel();
            let inside = pool.clone();
            let job = pool.schedule(async move { drop(send.send(inside.hold_slot())) });
            let job = job.await.unwrap();
            drop(receive.await);
            job.await.unwrap();
        }
        whole(&pool).await;
    });
}

/// A result may hold the slot of its own job.
#[test]
fn a_result_nobody_takes_gives_the_slot_back() {
    single(async {
        let pool = Pool::new(1);
        for way in 0..3 {
            let inside = pool.clone();
            let job = pool.schedule(async move { inside.hold_slot() }).await.unwrap();
            match way {
                0 => job.detach(),
                1 => {
                    settle().await;
                    assert_eq!(law(&pool).held_slots, 1);
                    drop(job);
                }
                _ => drop(job.abort_on_drop()),
            }
            whole(&pool).await;
        }
    });
}

#[test]
fn a_quota_lives_as_long_as_what_is_held_under_it() {
    single(async {
        let pool = Pool::new(4);
        let group = pool.group_builder().quota(1).build().unwrap();
        let inside = pool.clone();
        group.schedule(async move { inside.hold_slot() }).await.unwrap();
        let slot = group.next().await.unwrap().result.unwrap();
        drop(group);
        // A new quota must not get the key that the guard still uses.
        let other = pool.group_builder().quota(1).build().unwrap();
        let gate = Gate::new();
        other.schedule(gate.wait()).await.unwrap();
        drop(slot);
        assert!(other.try_schedule(gate.wait()).is_err());
        gate.open();
        other.wait().await;
        whole(&pool).await;
    });
}

#[test]
fn a_job_that_runs_in_another_has_no_slot_to_hold() {
    single(async {
        let pool = Pool::new(1);
        let inside = pool.clone();
        let outer = pool.schedule(async move {
            let within = inside.clone();
            let inner = inside.try_go(async move { within.hold_slot().is_none() }).await;
            assert!(inner.unwrap().await.unwrap(), "the slot is the outer job's");
            inside.hold_slot()
        });
        let slot = outer.await.unwrap().await.unwrap();
        assert!(slot.is_some());
        drop(slot);
        whole(&pool).await;
    });
}

/// A closure runs beside the polls of its job, and may outlive the job.
#[test]
fn a_closure_has_no_slot_to_hold() {
    let body = || async {
        let pool = Pool::new(1);
        let (own, nested) = (pool.clone(), pool.clone());
        let job = async move {
            let first = millpond::blocking(move || own.hold_slot().is_none()).await;
            let runtime = tokio::runtime::Handle::current();
            let inner = async move { nested.hold_slot().is_none() };
            first && millpond::blocking(move || runtime.block_on(inner)).await
        };
        assert!(soon(pool.schedule(job).await.unwrap()).await.unwrap());
        whole(&pool).await;
    };
    single(body());
    multi(2, body());
}

/// The closure outlives its future. Its job lends the slot meanwhile, and would hold it.
#[test]
fn a_closure_whose_job_lent_its_slot_has_none_to_hold() {
    single(async {
        let (pool, gate) = (Pool::new(1), Gate::new());
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (tell, told) = oneshot::channel();
        let (own, nested, inside) = (pool.clone(), pool.clone(), gate.wait());
        let job = pool.try_schedule(async move {
            let mut closure = Box::pin(millpond::blocking(move || {
                let _ = gone.recv();
                let _ = tell.send(own.hold_slot());
            }));
            assert!(poll(&mut closure).is_pending());
            drop(closure);
            nested.schedule(inside).await.unwrap().await.unwrap();
        });
        let job = job.unwrap();
        settle().await;
        assert_eq!(law(&pool).lent, 1);
        drop(go);
        let slot = soon(told).await.unwrap();
        job.abort();
        assert!(soon(job).await.unwrap_err().is_cancelled());
        assert_eq!((law(&pool).lent, pool.status().held_slots), (0, 0));
        gate.open();
        drop(slot);
        whole(&pool).await;
    });
}

/// The slot is another job's when the job is cancelled.
#[test]
fn the_destructor_of_a_job_that_lent_its_slot_has_none_to_hold() {
    single(async {
        let (pool, gate) = (Pool::new(1), Gate::new());
        let (end, ended) = std::sync::mpsc::channel();
        let own = pool.clone();
        let at_end = move || end.send(own.hold_slot()).unwrap();
        abort_lender(&pool, gate.wait(), at_end).await;
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.held_slots), (1, 0, 0));
        assert!(ended.recv().unwrap().is_none());
        gate.open();
        whole(&pool).await;
    });
}

#[test]
fn a_job_without_its_guard_lends_again() {
    single(async {
        let pool = Pool::new(1);
        let own = pool.clone();
        let job = pool.try_schedule(async move {
            drop(own.hold_slot());
            own.schedule(async { 5 }).await.unwrap().await.unwrap()
        });
        assert_eq!(soon(job.unwrap()).await.unwrap(), 5);
        whole(&pool).await;
    });
}

#[test]
fn a_job_lends_once_another_task_drops_its_guard() {
    let body = || async {
        for quota in [None, Some(1)] {
            let pool = Pool::new(if quota.is_some() { 2 } else { 1 });
            let group = pool.group_builder::<u32>().quota(quota.unwrap_or(9)).build().unwrap();
            let (send, receive) = oneshot::channel();
            let (own, members) = (pool.clone(), group.clone());
            let job = group.try_schedule(async move {
                send.send(own.hold_slot().unwrap()).unwrap();
                members.schedule(async { 5 }).await.unwrap();
                6
            });
            job.unwrap();
            let slot = soon(receive).await.unwrap();
            eventually(|| pool.status().waiting == 1).await;
            settle().await;
            assert_eq!((law(&pool).running, pool.status().lent), (1, 0), "the slot is held");
            drop(slot);
            let values: Vec<_> = soon(group.try_join()).await.unwrap();
            assert_eq!(values, [6, 5]);
            whole(&pool).await;
        }
    };
    single(body());
    multi(2, body());
}

/// The wait of the job begins while another thread drops the guard.
#[test]
fn whichever_comes_second_lets_the_job_lend() {
    multi(2, async {
        let pool = Pool::new(1);
        for _ in 0..2_000 {
            let (send, receive) = oneshot::channel();
            let own = pool.clone();
            let job = pool.schedule(async move {
                drop(send.send(own.hold_slot()));
                own.schedule(async { 5 }).await.unwrap().await.unwrap()
            });
            let job = job.await.unwrap();
            drop(receive.await);
            assert_eq!(soon(job).await.unwrap(), 5);
        }
        whole(&pool).await;
    });
}

#[test]
fn a_job_that_waited_with_its_guard_keeps_its_slot_to_the_end_of_both() {
    single(async {
        let pool = Pool::new(2);
        let own = pool.clone();
        let job = pool.try_schedule(async move {
            let slot = own.hold_slot();
            own.schedule(async {}).await.unwrap().await.unwrap();
            slot
        });
        let slot = soon(job.unwrap()).await.unwrap();
        assert!(slot.is_some());
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.held_slots), (0, 0, 1));
        drop(slot);
        whole(&pool).await;

        // Cancelled while it waits.
        let (send, receive) = oneshot::channel();
        let (own, gate) = (pool.clone(), Gate::new());
        let inside = gate.wait();
        let job = pool.try_schedule(async move {
            drop(send.send(own.hold_slot()));
            own.schedule(inside).await.unwrap().await.unwrap();
        });
        let (job, slot) = (job.unwrap(), soon(receive).await.unwrap());
        settle().await;
        job.abort();
        assert!(soon(job).await.unwrap_err().is_cancelled());
        assert_eq!((law(&pool).running, pool.status().held_slots), (1, 1));
        gate.open();
        drop(slot);
        whole(&pool).await;
    });
}
