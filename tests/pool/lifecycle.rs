//! Close, wait for idle, shut down: each ends, and tells the truth.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::*;
use millpond::{Pool, SubmitErrorKind};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_idle_pool_is_idle_at_once() {
    single(async {
        let pool = Pool::new(1);
        let mut idle = task::spawn(pool.wait_idle());
        assert_ready!(idle.poll());
        pool.close();
        let mut idle = task::spawn(pool.wait_idle());
        assert_ready!(idle.poll());
    });
}

#[test]
fn wait_idle_waits_for_all_kinds_of_jobs() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        // Running and queued.
        let held = fill(&pool);
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        release(held).await;
        assert!(idle.is_woken());
        assert_ready!(idle.poll());

        // Overflow.
        let (held, gate) = (fill(&pool), Gate::new());
        let overflow = pool.schedule_always(gate.wait()).unwrap();
        release(held).await;
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        gate.open();
        overflow.await.unwrap();
        assert!(idle.is_woken());
        assert_ready!(idle.poll());

        // In its caller.
        let (held, gate) = (fill(&pool), Gate::new());
        let job = gate.wait();
        let mut inline = task::spawn(pool.try_go(job));
        assert_pending!(inline.poll());
        release(held).await;
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        gate.open();
        drop(assert_ready!(inline.poll()));
        assert!(idle.is_woken());
        assert_ready!(idle.poll());

        // A caller that waits and is dropped.
        let held = fill(&pool);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        release(held).await;
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        drop(waiter);
        assert!(idle.is_woken());
        assert_ready!(idle.poll());
        quiet(&pool);
    });
}

#[test]
fn wait_idle_sees_the_last_job_leave_the_wait_list() {
    single(async {
        let pool = Pool::new(1);
        let slot = pool.try_reserve().unwrap();
        let in_line = pool.anyway_go(async {}).unwrap().into_handle();
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        in_line.abort();
        assert!(idle.is_woken());
        assert_ready!(idle.poll());
        drop(slot);
        whole(&pool).await;
    });
}

#[test]
fn wait_idle_sees_a_caller_take_its_refusal() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        let mut idle = task::spawn(pool.wait_idle());
        assert_pending!(idle.poll());
        pool.close();
        held.release().await;
        if idle.poll().is_pending() {
            // The caller has not come for its job yet.
            assert_eq!(law(&pool).waiting, 1);
            assert_eq!(assert_ready!(waiter.poll()).unwrap_err().kind(), SubmitErrorKind::Closed);
            quiet(&pool);
            assert!(idle.is_woken(), "nothing is left, and no waiter hears of it");
            assert_ready!(idle.poll());
        }
    });
}

#[test]
fn many_wait_for_idle() {
    multi(2, async {
        let pool = Pool::new(2);
        for _ in 0..3_000 {
            let jobs: Vec<_> = (0..2).map(|_| pool.try_schedule(async {}).unwrap()).collect();
            let waiters: Vec<_> = (0..3)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.wait_idle().await })
                })
                .collect();
            for waiter in waiters {
                soon(waiter).await.unwrap();
            }
            for job in jobs {
                job.await.unwrap();
            }
        }
    });
}

/// Many rounds: the window between the count and the slot is narrow.
#[test]
fn an_idle_pool_has_its_slots() {
    // From outside of the runtime's threads: so the caller is awake while a worker counts.
    let rounds = async {
        let pool = Pool::new(1);
        // A loaded machine does fewer rounds, so that the watchdog sees no hang.
        let end = Instant::now() + Duration::from_secs(8);
        for round in (0..100_000).take_while(|_| Instant::now() < end) {
            let job = pool.schedule(tokio::task::yield_now()).await.unwrap();
            // Now the pool knows that it is full, and the slot comes back by way of the wait list.
            let _ = pool.try_schedule(async {});
            job.detach();
            soon(pool.wait_idle()).await;
            let next = pool.try_schedule(async {});
            let next = next.unwrap_or_else(|_| panic!("idle and full in round {round}"));
            next.await.unwrap();
        }
    };
    watched(|| runtime(2).block_on(rounds));
}

#[test]
fn shutdown_of_a_pool_whose_jobs_end_by_themselves_is_clean() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        drop(pool.try_schedule(async {}).unwrap().await); // not part of the report
        let slow = pool.try_schedule(tokio::time::sleep(SECOND)).unwrap();
        let bad = pool.try_schedule(async { silent_panic("bad") }).unwrap();
        let committed = pool.anyway_go(async {}).unwrap().into_handle();
        let start = Instant::now();
        let report = pool.shutdown(10 * SECOND).await;
        assert!(start.elapsed() >= SECOND && start.elapsed() < 2 * SECOND);
        assert_eq!((report.completed, report.panicked), (2, 1));
        assert_eq!((report.cancelled, report.still_running), (0, 0));
        assert!(report.is_clean() && pool.is_closed());
        slow.await.unwrap();
        assert!(bad.await.unwrap_err().is_panic());
        committed.await.unwrap();
        quiet(&pool);
    });
}

#[test]
fn shutdown_cancels_at_the_deadline() {
    paused(async {
        let pool = Pool::builder().size(2).queue(1).build().unwrap();
        let lives = Gauge::default();
        let stuck = |inside: Inside| async move {
            std::future::pending::<()>().await;
            drop(inside);
        };
        let handles = [
            pool.try_schedule(stuck(lives.enter())).unwrap(),
            pool.try_schedule(stuck(lives.enter())).unwrap(),
            pool.try_schedule(stuck(lives.enter())).unwrap(), // queued
            pool.anyway_go(stuck(lives.enter())).unwrap().into_handle(), // in the wait list
            pool.schedule_always(stuck(lives.enter())).unwrap(),
        ];
        let mut waiter = task::spawn(pool.schedule(stuck(lives.enter())));
        assert_pending!(waiter.poll());
        settle().await;
        let start = Instant::now();
        let mut shutdown = Box::pin(pool.shutdown(SECOND));
        assert!(poll(&mut shutdown).is_pending());
        assert_eq!(assert_ready!(waiter.poll()).unwrap_err().kind(), SubmitErrorKind::Closed);
        drop(waiter);
        let report = shutdown.await;
        assert!(start.elapsed() >= SECOND && start.elapsed() < 2 * SECOND);
        assert_eq!((report.completed, report.cancelled, report.still_running), (0, 5, 0));
        assert!(!report.is_clean());
        assert_eq!(lives.now(), 0);
        for handle in handles {
            assert!(soon(handle).await.unwrap_err().is_cancelled());
        }
        quiet(&pool);
    });
}

#[test]
fn shutdown_ends_the_wait_for_a_committed_jobs_start() {
    paused(async {
        let pool = Pool::new(1);
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let going = pool.anyway_go(async {}).unwrap();
        let waiting = tokio::spawn(going);
        settle().await;
        assert_eq!(pool.shutdown(SECOND).await.still_running, 0);
        assert!(stuck.await.unwrap_err().is_cancelled());
        let handle = soon(waiting).await.unwrap();
        assert!(handle.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn shutdown_reports_blocking_jobs_left() {
    single(async {
        let pool = Pool::new(2);
        let (let_go, wait) = mpsc::channel::<()>();
        let (enter, entered) = tokio::sync::oneshot::channel();
        let polls = Gauge::default();
        let (counter, mut closure) = (
            polls.clone(),
            Box::pin(millpond::blocking(move || {
                enter.send(()).unwrap();
                let _ = wait.recv();
            })),
        );
        let handle = pool
            .try_schedule(std::future::poll_fn(move |cx| {
                drop(counter.enter());
                std::future::Future::poll(closure.as_mut(), cx)
            }))
            .unwrap();
        entered.await.unwrap();
        let report = pool.shutdown(Duration::from_millis(1)).await;
        assert_eq!((report.completed, report.still_running), (0, 1));
        assert!(!report.is_clean());
        assert!(!handle.is_finished());
        assert_eq!(law(&pool).running, 1, "its slot stays taken");
        let before = polls.total();
        settle().await;
        assert!(polls.total() < before + 5, "the job is polled over and over: {}", polls.total());
        drop(let_go);
        let _ = soon(handle).await;
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn a_dropped_shutdown_cancels_nothing() {
    paused(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut shutdown = Box::pin(pool.shutdown(SECOND));
        assert!(poll(&mut shutdown).is_pending());
        drop(shutdown);
        assert!(pool.is_closed());
        tokio::time::sleep(5 * SECOND).await;
        held.release().await;
        assert_eq!(quiet(&pool).completed, 1);
        assert!(pool.shutdown(SECOND).await.is_clean());
    });
}

#[test]
fn two_shutdowns_both_end() {
    paused(async {
        let pool = Pool::new(1);
        let _stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let (a, b) = tokio::join!(pool.shutdown(SECOND), pool.shutdown(3 * SECOND));
        assert_eq!((a.cancelled, b.cancelled), (1, 1));
        quiet(&pool);
    });
}
