//! Dropping the last handle of a pool closes it: its jobs run to their ends, its workers leave.

use std::time::{Duration, Instant};

use crate::support::*;
use millpond::Pool;
use tokio::runtime::Handle;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[test]
fn before_the_first_job() {
    paused(async {
        drop(Pool::new(3));
        let pool = Pool::new(3);
        drop(pool.schedule(async {}));
        drop(pool);
        assert_eq!(tasks(), 0);
    });
}

#[test]
fn jobs_go_on_and_workers_leave() {
    single(async {
        for min_idle in [0, 1] {
            let pool = Pool::builder().size(1).queue(1).min_idle(min_idle).build().unwrap();
            let gate = Gate::new();
            let job = |n| {
                let wait = gate.wait();
                async move {
                    wait.await;
                    n
                }
            };
            let handles = [
                pool.try_schedule(job(0)).unwrap(),
                pool.try_schedule(job(1)).unwrap(),
                pool.anyway_go(job(2)).unwrap().into_handle(),
                pool.anyway_go(job(3)).unwrap().into_handle(),
                pool.schedule_always(job(4)).unwrap(),
            ];
            settle().await;
            let last = pool.clone();
            drop(pool);
            settle().await;
            assert!(!last.is_closed());
            drop(last);
            settle().await;
            gate.open();
            for (n, handle) in handles.into_iter().enumerate() {
                assert_eq!(soon(handle).await.unwrap(), n);
            }
            eventually(|| tasks() == 0).await;
        }
    });
}

#[test]
fn idle_workers_leave_at_once() {
    single(async {
        let pool = Pool::builder()
            .size(4)
            .min_idle(4)
            .idle_timeout(Duration::from_secs(3600))
            .build()
            .unwrap();
        pool.prewarm(4);
        settle().await;
        assert_eq!((pool.status().idle, tasks()), (4, 4));
        drop(pool);
        eventually(|| tasks() == 0).await;
    });
}

#[test]
fn from_within_its_last_job() {
    single(async {
        let pool = Pool::builder().size(2).min_idle(1).build().unwrap();
        let own = pool.clone();
        let handle = pool
            .try_schedule(async move {
                tokio::task::yield_now().await;
                drop(own);
                tokio::task::yield_now().await;
                3
            })
            .unwrap();
        drop(pool);
        assert_eq!(soon(handle).await.unwrap(), 3);
        eventually(|| tasks() == 0).await;
    });
}

#[test]
fn an_abort_of_the_last_job_lets_the_workers_leave() {
    single(async {
        let pool = Pool::builder().size(1).min_idle(1).build().unwrap();
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let in_line = pool.anyway_go(std::future::pending::<()>()).unwrap().into_handle();
        settle().await;
        drop(pool);
        settle().await;
        in_line.abort();
        assert!(soon(in_line).await.unwrap_err().is_cancelled());
        assert_eq!(tasks(), 1);
        stuck.abort();
        assert!(soon(stuck).await.unwrap_err().is_cancelled());
        eventually(|| tasks() == 0).await;
    });
}

#[test]
fn a_job_that_ends_in_its_caller_lets_the_workers_leave() {
    single(async {
        let pool = Pool::builder().size(1).min_idle(1).build().unwrap();
        let held = hold(&pool);
        let gate = Gate::new();
        let job = gate.wait();
        let mut inline = Box::pin(pool.try_go(job));
        assert!(poll(&mut inline).is_pending());
        held.release().await;
        pool.close();
        settle().await;
        gate.open();
        assert!(poll(&mut inline).is_ready());
        drop(inline);
        quiet(&pool);
        drop(pool);
        eventually(|| tasks() == 0).await;
    });
}

#[test]
fn a_caller_who_takes_its_refusal_last_lets_the_workers_leave() {
    single(async {
        for polls in [false, true] {
            let pool = Pool::builder().size(1).min_idle(1).build().unwrap();
            let held = hold(&pool);
            let mut waiter = Box::pin(pool.schedule(async {}));
            assert!(poll(&mut waiter).is_pending());
            pool.close();
            held.release().await;
            settle().await;
            if polls {
                assert!(poll(&mut waiter).is_ready());
            }
            drop(waiter);
            quiet(&pool);
            drop(pool);
            eventually(|| tasks() == 0).await;
        }
    });
}

#[test]
fn a_group_keeps_the_pool_open() {
    single(async {
        let pool = Pool::new(1);
        let group = pool.group();
        drop(pool);
        group.schedule(async { 5 }).await.unwrap();
        assert_eq!(*soon(group.next()).await.unwrap().result.as_ref().unwrap(), 5);
        drop(group);
        eventually(|| tasks() == 0).await;
    });
}

#[test]
fn at_any_moment_under_load() {
    // Many rounds, but no more than a busy machine has time for.
    multi_for(Duration::from_secs(120), 2, async {
        let (before, start) = (tasks(), Instant::now());
        for round in (0..=1_500).take_while(|_| start.elapsed() < Duration::from_secs(20)) {
            let pool = Pool::builder()
                .size(1 + round % 3)
                .queue(round % 2)
                .min_idle(round % 2)
                .build()
                .unwrap();
            let lives = Gauge::default();
            let submitters: Vec<_> = (0..3)
                .map(|n| {
                    let (pool, lives) = (pool.clone(), lives.clone());
                    tokio::spawn(async move {
                        for _ in 0..n {
                            let inside = lives.enter();
                            let job = async move {
                                tokio::task::yield_now().await;
                                drop(inside);
                            };
                            match n {
                                1 => drop(pool.schedule(job).await.unwrap()),
                                _ => drop(pool.anyway_go(job).unwrap()),
                            }
                        }
                    })
                })
                .collect();
            drop(pool);
            for submitter in submitters {
                soon(submitter).await.unwrap();
            }
            eventually(|| lives.now() == 0).await;
            assert_eq!(lives.total(), 3);
            // The monitor of a pool leaves some milliseconds after its workers.
            if round % 20 == 0 {
                eventually(|| tasks() == before).await;
            }
        }
    });
}
