//! A group waits for its own jobs, and gives their outcomes in either order.

use std::sync::{Arc, Mutex};
use std::task::Wake;
use std::time::Duration;

use crate::support::*;
use millpond::{Group, Pool, SubmitError, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready, task};

fn values<T: Clone>(outcomes: &[millpond::Outcome<T>]) -> Vec<T> {
    outcomes.iter().map(|outcome| outcome.result.as_ref().unwrap().clone()).collect()
}

/// Submits `n` jobs, each of which ends when its gate is opened.
async fn gated(group: &Group<usize>, n: usize) -> Vec<Gate> {
    let gates: Vec<_> = (0..n).map(|_| Gate::new()).collect();
    for (n, gate) in gates.iter().enumerate() {
        let inside = gate.wait();
        let job = async move {
            inside.await;
            n
        };
        group.schedule(job).await.unwrap();
    }
    gates
}

#[test]
fn values_come_in_the_order_of_submission_and_next_in_that_of_completion() {
    single(async {
        let pool = Pool::new(4);
        let group = pool.group();
        for by_next in [false, true] {
            let gates = gated(&group, 4).await;
            for n in [2, 0, 3, 1] {
                gates[n].open();
                settle().await;
            }
            if by_next {
                for n in [2, 0, 3, 1] {
                    let outcome = soon(group.next()).await.unwrap();
                    // Indices go on in the second round.
                    assert_eq!((outcome.index, outcome.is_success()), (n + 4, true));
                    assert_eq!(outcome.into_result().unwrap(), n);
                }
                assert!(soon(group.next()).await.is_none());
            } else {
                let outcomes = joined(&group).await;
                assert_eq!(values(&outcomes), [0, 1, 2, 3]);
                assert!(outcomes.iter().enumerate().all(|(n, outcome)| outcome.index == n));
            }
            assert!(group.is_empty());
        }
        assert!(joined(&group).await.is_empty(), "ready at once, and nothing left to take");
        assert_eq!(group.report().succeeded, 8);
        whole(&pool).await;
    });
}

#[test]
fn wait_takes_what_next_has_left() {
    single(async {
        let pool = Pool::new(3);
        let group = pool.group();
        let gates = gated(&group, 3).await;
        gates[1].open();
        assert_eq!(soon(group.next()).await.unwrap().index, 1);
        let mut wait = task::spawn(group.wait());
        assert_pending!(wait.poll());
        gates[2].open();
        settle().await;
        assert!(!wait.is_woken(), "one is still running");
        assert_eq!(group.len(), 1);
        gates[0].open();
        settle().await;
        assert!(wait.is_woken());
        assert_eq!(assert_ready!(wait.poll()).succeeded, 3);
        assert_eq!(values(&group.take_outcomes()), [0, 2]);
    });
}

#[test]
fn every_verb() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).overflow_limit(1).build().unwrap();
        let group = pool.group();
        let gate = Gate::new();
        let job = |n: u32| {
            let inside = gate.wait();
            async move {
                inside.await;
                n
            }
        };
        group.schedule(job(0)).await.unwrap();
        group.try_schedule(job(1)).unwrap(); // queued
        assert_eq!(group.try_schedule(job(9)).unwrap_err().kind(), SubmitErrorKind::Full);
        group.schedule_always(job(2)).unwrap();
        assert_eq!(group.schedule_always(job(9)).unwrap_err().kind(), SubmitErrorKind::Full);
        group.anyway_go(job(3)).unwrap();
        let mut inline = task::spawn(group.try_go(job(4)));
        assert_pending!(inline.poll());
        let mut waiter = task::spawn(group.schedule(job(5)));
        assert_pending!(waiter.poll());
        let status = law(&pool);
        assert_eq!((status.running, status.queued, status.waiting), (1, 1, 2));
        assert_eq!((status.overflow, status.in_caller), (1, 1));
        assert_eq!(group.len(), 5, "a waiting caller has submitted nothing yet");
        gate.open();
        assert!(assert_ready!(inline.poll()).unwrap().is_finished());
        settle().await;
        assert!(waiter.is_woken());
        let last = assert_ready!(waiter.poll()).unwrap();
        drop((inline, waiter));
        let outcomes = joined(&group).await;
        assert!(last.is_finished());
        assert_eq!(values(&outcomes), [0, 1, 2, 3, 4, 5]);
        whole(&pool).await;
    });
}

#[test]
fn other_jobs_of_the_pool_are_not_waited_for() {
    single(async {
        let pool = Pool::new(3);
        let stranger = hold(&pool);
        let (group, other) = (pool.group(), pool.group());
        let gates = gated(&other, 1).await;
        group.schedule(async { 1 }).await.unwrap();
        assert_eq!(values(&joined(&group).await), [1]);
        assert_eq!(law(&pool).running, 2);
        gates[0].open();
        joined(&other).await;
        stranger.release().await;
        whole(&pool).await;
    });
}

#[test]
fn failures_are_told_apart() {
    single(async {
        let pool = Pool::new(4);
        let group =
            pool.group_builder()
                .failure_when(|result: &Result<u32, u8>| {
                    if *result == Ok(13) { silent_panic("unlucky") } else { result.is_err() }
                })
                .name("tenant")
                .build()
                .unwrap();
        assert_eq!(group.name(), "tenant");
        group.schedule(async { Ok(1) }).await.unwrap();
        group.schedule(async { Err(4) }).await.unwrap();
        group.schedule(async { silent_panic("oh") }).await.unwrap();
        let stuck = group.schedule(std::future::pending()).await.unwrap();
        stuck.abort();
        group.schedule(async { Ok(13) }).await.unwrap();
        let outcomes = joined(&group).await;
        let successes: Vec<_> = outcomes.iter().map(|outcome| outcome.is_success()).collect();
        assert_eq!(successes, [true, false, false, false, false]);
        assert_eq!(*outcomes[1].result.as_ref().unwrap(), Err(4));
        assert!(outcomes[2].result.as_ref().unwrap_err().is_panic());
        assert!(outcomes[3].result.as_ref().unwrap_err().is_cancelled());
        assert_eq!(*outcomes[4].result.as_ref().unwrap(), Ok(13));
        whole(&pool).await;
    });
}

#[test]
fn wait_or_cancel_cancels_the_rest_at_the_first_failure() {
    single(async {
        let pool = Pool::builder().size(3).queue(1).build().unwrap();
        let group = pool.group();
        let gates = gated(&group, 2).await;
        let (fail, inside) = (Gate::new(), Gate::new());
        let trigger = fail.wait();
        group
            .schedule(async move {
                trigger.await;
                silent_panic("first");
            })
            .await
            .unwrap();
        group.schedule(async { 7 }).await.unwrap(); // queued
        group.anyway_go(async { 8 }).unwrap(); // in the wait list
        inside.open();
        let mut wait = task::spawn(group.wait_or_cancel_on_failure());
        assert_pending!(wait.poll());
        gates[0].open();
        settle().await;
        assert!(!wait.is_woken() || wait.poll().is_pending(), "a success is no reason");
        // The other gate stays closed.
        fail.open();
        let report = soon(wait.into_inner()).await;
        assert_eq!((report.succeeded, report.panicked, report.failed), (3, 1, 2));
        assert_eq!(report.first_failure, Some(2));
        let outcomes = group.take_outcomes();
        let successes: Vec<_> = outcomes.iter().map(|outcome| outcome.is_success()).collect();
        assert!(successes[0] && !successes[1] && !successes[2]);
        assert!(outcomes[1].result.as_ref().unwrap_err().is_cancelled());
        assert!(outcomes[2].result.as_ref().unwrap_err().is_panic());
        // The group takes new jobs, and its report keeps the failure.
        group.schedule(async { 9 }).await.unwrap();
        assert_eq!(values(&joined(&group).await), [9]);
        assert!(!group.report().is_success());
        whole(&pool).await;
    });
}

#[test]
fn cancel_reaches_all_it_has_now() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group();
        let lives = Gauge::default();
        for _ in 0..4 {
            let inside = lives.enter();
            let job = async move {
                std::future::pending::<()>().await;
                drop(inside);
            };
            group.anyway_go(job).unwrap();
        }
        settle().await;
        group.cancel();
        let outcomes = joined(&group).await;
        assert_eq!((outcomes.len(), lives.now()), (4, 0));
        assert!(outcomes.iter().all(|outcome| outcome.result.as_ref().unwrap_err().is_cancelled()));
        group.schedule(async {}).await.unwrap();
        assert!(joined(&group).await[0].is_success());
        whole(&pool).await;
    });
}

#[test]
fn a_closed_group_lets_nothing_in_and_leaves_the_pool_open() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group::<usize>();
        let gates = gated(&group, 1).await;
        let late = group.schedule(async { 9 });
        let late_inline = group.try_go(async { 9 });
        group.clone().close();
        assert!(group.is_closed() && !pool.is_closed());
        assert_eq!(late.await.unwrap_err().kind(), SubmitErrorKind::GroupClosed);
        assert!(late_inline.await.is_err());
        match group.schedule(std::future::ready(1)).await.map_err(SubmitError::into_parts) {
            Err((SubmitErrorKind::GroupClosed, job)) => assert_eq!(job.await, 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            group.try_schedule(async { 2 }).unwrap_err().kind(),
            SubmitErrorKind::GroupClosed
        );
        assert_eq!(
            group.schedule_always(async { 3 }).unwrap_err().kind(),
            SubmitErrorKind::GroupClosed
        );
        assert_eq!(
            group.try_go(async { 4 }).await.unwrap_err().kind(),
            SubmitErrorKind::GroupClosed
        );
        assert_eq!(group.anyway_go(async { 5 }).unwrap_err().kind(), SubmitErrorKind::GroupClosed);
        assert_eq!(law(&pool).running, 1, "its own job goes on");
        gates[0].open();
        assert_eq!(values(&joined(&group).await), [0]);
        whole(&pool).await;
        // A closed pool refuses a group's jobs, too.
        let group = pool.group();
        pool.close();
        assert_eq!(group.schedule(async { 1 }).await.unwrap_err().kind(), SubmitErrorKind::Closed);
        assert!(soon(group.next()).await.is_none());
    });
}

#[test]
fn named_ones_count_their_ends_by_name() {
    multi(2, async {
        let pool = Pool::new(2);
        let kept =
            pool.group_builder::<bool>().name("kept").failure_when(|ok| !ok).build().unwrap();
        for ok in [true, false, true] {
            kept.schedule(async move { ok }).await.unwrap();
        }
        kept.schedule(async { silent_panic("counted") }).await.unwrap();
        kept.wait().await;
        pool.group::<()>().schedule(async {}).await.unwrap();
        // Groups that are gone count, and jobs that end after their group.
        for _ in 0..3 {
            let gone = pool.group_builder().name("gone").build().unwrap();
            gone.schedule(std::future::pending::<()>()).await.unwrap();
        }
        whole(&pool).await;
        let [kept, gone] = &pool.group_counts()[..] else { panic!("{:?}", pool.group_counts()) };
        assert_eq!((&*kept.name, kept.succeeded, kept.failed, kept.panicked), ("kept", 2, 2, 1));
        assert_eq!((&*gone.name, gone.succeeded, gone.failed, gone.cancelled), ("gone", 0, 3, 3));
    });
}

#[test]
fn what_a_named_one_gives_back_is_counted_once() {
    single(async {
        let pool = Pool::builder().size(2).overflow_limit(0).build().unwrap();
        let group = pool.group_builder::<()>().name("full").build().unwrap();
        let refused = || pool.group_counts()[0].refused;
        let held = fill(&pool);
        assert!(group.try_schedule(async {}).is_err());
        assert!(group.schedule_always(async {}).is_err());
        assert!(group.schedule_within(Duration::ZERO, async {}).await.is_err());
        assert_eq!(refused(), 3);
        // A caller that goes away was not refused.
        let mut leaves = Box::pin(group.schedule(async {}));
        assert!(poll(&mut leaves).is_pending());
        drop(leaves);
        let mut in_line = Box::pin(group.schedule(async {}));
        let mut owned = Box::pin(group.schedule_owned(async {}));
        let mut within = Box::pin(group.schedule_within(Duration::MAX, async {}));
        assert!(poll(&mut in_line).is_pending() && poll(&mut owned).is_pending());
        assert!(poll(&mut within).is_pending());
        group.close();
        assert!(in_line.await.is_err() && owned.await.is_err() && within.await.is_err());
        assert_eq!(refused(), 6);
        assert!(group.anyway_go(async {}).is_err());
        assert!(group.try_go(async {}).await.is_err());
        assert!(group.try_go_owned(async {}).await.is_err());
        assert_eq!(refused(), 9);
        release(held).await;
        // Inside of a job of the pool, the submitted job itself waits, and is given back.
        let nested = pool.group_builder().name("nested").build().unwrap();
        let inner = nested.clone();
        let outer = pool.schedule(async move { inner.schedule(async {}).await.is_err() });
        let (outer, held) = (outer.await.unwrap(), hold(&pool));
        settle().await;
        assert_eq!(pool.status().waiting, 1);
        nested.close();
        assert!(soon(outer).await.unwrap());
        let counts = &pool.group_counts()[1];
        assert_eq!((counts.refused, counts.succeeded, counts.failed), (1, 0, 0));
        held.release().await;
        whole(&pool).await;
    });
}

/// Looks at a ticket when it is woken.
struct Looks(millpond::JobTicket, Mutex<Option<bool>>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        *self.1.lock().unwrap() = Some(self.0.is_finished());
    }
}

#[test]
fn each_ticket_is_finished_when_the_wait_is_over() {
    multi(2, async {
        let pool = Pool::new(2);
        let group = pool.group();
        let gate = Gate::new();
        let ticket = group.schedule(gate.wait()).await.unwrap();
        let looks = Arc::new(Looks(ticket, Mutex::new(None)));
        let mut wait = Box::pin(group.wait());
        assert!(poll_for(&mut wait, &looks.clone().into()).is_pending());
        gate.open();
        eventually(|| looks.1.lock().unwrap().is_some()).await;
        assert_eq!(*looks.1.lock().unwrap(), Some(true));
        wait.await;
        whole(&pool).await;
    });
}

#[test]
fn named_ones_beyond_64_names_share_their_counts() {
    multi(2, async {
        let pool = Pool::new(2);
        for n in 0..200 {
            let group = pool.group_builder().name(n.to_string()).build().unwrap();
            group.schedule(async {}).await.unwrap();
            group.wait().await;
        }
        let counts = pool.group_counts();
        assert_eq!(counts.len(), 65);
        assert_eq!((&*counts[64].name, counts[64].succeeded), ("other", 200 - 64));
        assert!(counts[..64].iter().all(|one| one.succeeded == 1));
    });
}
