//! A closed pool lets nothing in, gives waiting callers their jobs back, and runs what it took.

use crate::support::*;
use millpond::{Pool, SubmitError, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn every_verb_gives_the_job_back() {
    single(async {
        let pool = Pool::builder().size(2).queue(2).build().unwrap();
        pool.close();
        assert!(pool.is_closed());
        match pool.schedule(std::future::ready(1)).await.map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 1),
            other => panic!("{other:?}"),
        }
        match pool.try_schedule(std::future::ready(2)).map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 2),
            other => panic!("{other:?}"),
        }
        match pool.schedule_always(std::future::ready(3)).map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 3),
            other => panic!("{other:?}"),
        }
        match pool.try_go(std::future::ready(4)).await.map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 4),
            other => panic!("{other:?}"),
        }
        match pool.anyway_go(std::future::ready(5)).map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 5),
            _ => panic!("taken by a closed pool"),
        }
        let status = quiet(&pool);
        assert_eq!((status.submitted, status.refused), (5, 5));
    });
}

#[test]
fn a_full_closed_pool_says_closed() {
    single(async {
        let pool = Pool::new(1);
        let held = fill(&pool);
        // Full first, so that the pool has taken note of that.
        assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Full);
        pool.close();
        assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Closed);
        assert_eq!(pool.schedule_always(async {}).unwrap_err().kind(), SubmitErrorKind::Closed);
        assert_eq!(pool.schedule(async {}).await.unwrap_err().kind(), SubmitErrorKind::Closed);
        assert!(pool.try_go(async {}).await.is_err());
        assert!(pool.anyway_go(async {}).is_err());
        release(held).await;
        assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Closed);
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn waiting_callers_get_their_jobs_back() {
    single(async {
        for queue in [0, 2] {
            let pool = Pool::builder().size(1).queue(queue).build().unwrap();
            let held = fill(&pool);
            let mut waiters: Vec<_> =
                (0..5).map(|n| task::spawn(pool.schedule(std::future::ready(n)))).collect();
            for waiter in &mut waiters {
                assert_pending!(waiter.poll());
            }
            pool.close();
            for (n, waiter) in waiters.iter_mut().enumerate() {
                assert!(waiter.is_woken());
                match assert_ready!(waiter.poll()).map_err(SubmitError::into_parts) {
                    Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, n),
                    other => panic!("{other:?}"),
                }
            }
            let status = law(&pool);
            assert_eq!((status.refused, status.waiting), (5, 0));
            release(held).await;
            soon(pool.wait_idle()).await;
            assert_eq!(quiet(&pool).completed as usize, 1 + queue);
        }
    });
}

#[test]
fn a_caller_with_a_kept_place_or_slot_is_served_or_refused() {
    single(async {
        // A place in the queue came free for it, and it has not come yet.
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let mut held = fill(&pool);
        let mut waiter = task::spawn(pool.schedule(std::future::ready(3)));
        assert_pending!(waiter.poll());
        held.remove(0).release().await;
        assert!(waiter.is_woken());
        pool.close();
        match assert_ready!(waiter.poll()).map_err(SubmitError::into_parts) {
            Ok(handle) => assert_eq!(soon(handle).await.unwrap(), 3),
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 3),
            Err(other) => panic!("{other:?}"),
        }
        release(held).await;
        soon(pool.wait_idle()).await;
        quiet(&pool);

        // A slot came free for it.
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut waiter = task::spawn(pool.schedule(std::future::ready(3)));
        assert_pending!(waiter.poll());
        held.release().await;
        pool.close();
        match assert_ready!(waiter.poll()).map_err(SubmitError::into_parts) {
            Ok(handle) => assert_eq!(soon(handle).await.unwrap(), 3),
            Err((SubmitErrorKind::Closed, job)) => assert_eq!(job.await, 3),
            Err(other) => panic!("{other:?}"),
        }
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn queued_and_committed_jobs_still_run() {
    single(async {
        let pool = Pool::builder().size(1).queue(2).build().unwrap();
        let held = fill(&pool);
        let committed: Vec<_> =
            (0..4).map(|n| pool.anyway_go(async move { n }).unwrap().into_handle()).collect();
        let overflow = pool.schedule_always(async { 9 }).unwrap();
        let gate = Gate::new();
        let inside = gate.wait();
        let mut inline = task::spawn(pool.try_go(inside));
        assert_pending!(inline.poll());
        pool.close();
        let status = law(&pool);
        assert_eq!((status.queued, status.waiting, status.in_caller), (2, 4, 1));
        release(held).await;
        for (n, handle) in committed.into_iter().enumerate() {
            assert_eq!(soon(handle).await.unwrap(), n);
        }
        assert_eq!(soon(overflow).await.unwrap(), 9);
        gate.open();
        assert_ready!(inline.poll()).unwrap().await.unwrap();
        soon(pool.wait_idle()).await;
        let status = quiet(&pool);
        assert_eq!((status.completed, status.cancelled), (3 + 4 + 1 + 1, 0));
    });
}

#[test]
fn closing_twice_or_through_a_clone_is_one_close() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        pool.clone().close();
        pool.close();
        assert!(pool.is_closed() && pool.clone().is_closed());
        held.release().await;
        soon(pool.wait_idle()).await;
        assert_eq!(quiet(&pool).completed, 1);
    });
}

#[test]
fn a_close_races_with_submits() {
    multi(2, async {
        for round in 0..300 {
            let pool = Pool::builder().size(1 + round % 3).queue(round % 2).build().unwrap();
            let ran = Gauge::default();
            let submitters: Vec<_> = (0..4)
                .map(|n| {
                    let (pool, ran) = (pool.clone(), ran.clone());
                    tokio::spawn(async move {
                        let mut taken = 0;
                        for _ in 0..20 {
                            let inside = ran.clone();
                            let job = async move { drop(inside.enter()) };
                            let handle = match n {
                                0 => pool.schedule(job).await.ok(),
                                1 => pool.try_schedule(job).ok(),
                                2 => pool.try_go(job).await.ok(),
                                _ => pool.anyway_go(job).ok().map(|going| going.into_handle()),
                            };
                            if let Some(handle) = handle {
                                handle.await.unwrap();
                                taken += 1;
                            }
                        }
                        taken
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            pool.close();
            let mut taken = 0;
            for submitter in submitters {
                taken += soon(submitter).await.unwrap();
            }
            soon(pool.wait_idle()).await;
            let status = quiet(&pool);
            assert_eq!((status.completed as usize, ran.total()), (taken, taken));
        }
    });
}
