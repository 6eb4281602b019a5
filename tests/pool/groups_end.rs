//! A group's jobs after its last handle, and the waiters of a group.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;
use millpond::{Group, Pool};
use tokio_test::{assert_pending, assert_ready, task};

fn endless(group: &Group<()>, lives: &Gauge) {
    let inside = lives.enter();
    let job = async move {
        std::future::pending::<()>().await;
        drop(inside);
    };
    group.anyway_go(job).unwrap();
}

#[test]
fn the_last_handle_takes_the_jobs_along() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group();
        let lives = Gauge::default();
        for _ in 0..3 {
            endless(&group, &lives);
        }
        let clone = group.clone();
        drop(group);
        settle().await;
        assert_eq!(clone.len(), 3, "a handle is left");
        drop(clone);
        soon(pool.wait_idle()).await;
        assert_eq!((lives.now(), law(&pool).cancelled), (0, 3));
        assert!(!pool.is_closed());
        whole(&pool).await;
    });
}

#[test]
fn detached_the_jobs_go_on() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group();
        let (gate, lives) = (Gate::new(), Gauge::default());
        for _ in 0..3 {
            let (inside, output) = (gate.wait(), lives.enter());
            let job = async move {
                inside.await;
                output
            };
            group.anyway_go(job).unwrap();
        }
        group.detach();
        drop(group);
        settle().await;
        assert_eq!(law(&pool).cancelled, 0);
        gate.pass(1);
        settle().await;
        assert_eq!(law(&pool).completed, 1);
        assert_eq!(lives.now(), 2, "an outcome is kept that no caller can take");
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!((law(&pool).completed, lives.now()), (3, 0));
        whole(&pool).await;
    });
}

#[test]
fn dropped_within_its_own_job() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group::<()>();
        let own = group.clone();
        let lives = Gauge::default();
        endless(&group, &lives);
        let gate = Gate::new();
        let inside = gate.wait();
        group
            .schedule(async move {
                inside.await;
                drop(own);
                std::future::pending().await
            })
            .await
            .unwrap();
        drop(group);
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!((law(&pool).cancelled, lives.now()), (2, 0));
        whole(&pool).await;
    });
}

#[test]
fn outcomes_nobody_took_are_dropped_with_the_group() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let group = pool.group();
        for _ in 0..3 {
            let inside = lives.enter();
            group.schedule(async move { inside }).await.unwrap();
        }
        soon(pool.wait_idle()).await;
        assert_eq!(lives.now(), 3);
        drop(group);
        assert_eq!(lives.now(), 0);
    });
}

#[test]
fn a_job_may_submit_to_its_own_group() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group();
        let own = group.clone();
        group
            .schedule(async move {
                own.anyway_go(async { 2 }).unwrap();
                1
            })
            .await
            .unwrap();
        let outcomes = joined(&group).await;
        let values: Vec<_> = outcomes.into_iter().map(|out| out.result.unwrap()).collect();
        assert_eq!(values, [1, 2]);
    });
}

#[test]
fn jobs_submitted_while_somebody_waits_are_waited_for() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group();
        let gates = [Gate::new(), Gate::new()];
        group.schedule(gates[0].wait()).await.unwrap();
        let mut wait = task::spawn(group.wait());
        assert_pending!(wait.poll());
        group.schedule(gates[1].wait()).await.unwrap();
        gates[0].open();
        settle().await;
        assert_pending!(wait.poll());
        gates[1].open();
        settle().await;
        assert!(wait.is_woken());
        assert_eq!(assert_ready!(wait.poll()).succeeded, 2);
    });
}

#[test]
fn dropping_a_wait_loses_nothing() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group();
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        for _ in 0..3 {
            let (mut wait, mut next) = (task::spawn(group.wait()), task::spawn(group.next()));
            assert_pending!(wait.poll());
            assert_pending!(next.poll());
        }
        gate.open();
        assert_eq!(joined(&group).await.len(), 1);
        // The waiter is dropped after its wake-up, and another takes the outcome.
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let (mut one, mut two) = (task::spawn(group.next()), task::spawn(group.next()));
        assert_pending!(one.poll());
        assert_pending!(two.poll());
        gate.open();
        settle().await;
        drop(one);
        assert!(two.is_woken());
        assert!(assert_ready!(two.poll()).is_some());
    });
}

#[test]
fn many_submit_while_many_take() {
    multi(2, async {
        let pool = Pool::new(3);
        let group = pool.group();
        let done = Arc::new(AtomicBool::new(false));
        let submitters: Vec<_> = (0..4)
            .map(|n| {
                let group = group.clone();
                tokio::spawn(async move {
                    for k in 0..500usize {
                        let value = n * 500 + k;
                        match k % 4 {
                            0 => drop(group.anyway_go(async move { value }).unwrap()),
                            1 => drop(group.try_go(async move { value }).await.unwrap()),
                            _ => drop(group.schedule(async move { value }).await.unwrap()),
                        }
                    }
                })
            })
            .collect();
        let takers: Vec<_> = (0..3)
            .map(|n| {
                let (group, done) = (group.clone(), done.clone());
                tokio::spawn(async move {
                    let mut taken = Vec::new();
                    loop {
                        // Read before `next`, so that outcomes after the last submission are not
                        // missed.
                        let last = done.load(SeqCst);
                        if n == 0 {
                            taken.extend(joined(&group).await);
                        } else {
                            while let Some(outcome) = soon(group.next()).await {
                                taken.push(outcome);
                            }
                        }
                        if last {
                            return taken;
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for submitter in submitters {
            submitter.await.unwrap();
        }
        done.store(true, SeqCst);
        let (mut indices, mut values) = (HashSet::new(), HashSet::new());
        for taker in takers {
            for outcome in taker.await.unwrap() {
                assert!(indices.insert(outcome.index), "an outcome came twice");
                assert!(values.insert(outcome.result.unwrap()));
            }
        }
        assert_eq!((indices.len(), values.len()), (2_000, 2_000));
        drop(group);
        whole(&pool).await;
    });
}
