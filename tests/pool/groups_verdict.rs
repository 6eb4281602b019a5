//! A group tells each of its waiters the same, and stops at its first failure if it is to.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::*;
use millpond::{Group, Pool, SubmitErrorKind};
use tokio_test::{assert_pending, assert_ready, task};

type Line = Result<usize, &'static str>;

fn stopping(pool: &Pool) -> Group<Line> {
    pool.group_builder().failure_when(Line::is_err).cancel_on_failure().build().unwrap()
}

async fn endless() -> Line {
    std::future::pending().await
}

#[test]
fn two_waiters_get_the_same_verdict() {
    // Both wait at once; or the second comes when the first has taken everything.
    for at_once in [true, false] {
        single(async move {
            let pool = Pool::new(2);
            let group = pool.group();
            let gate = Gate::new();
            let inside = gate.wait();
            group.schedule(async { 1 }).await.unwrap();
            group
                .schedule(async move {
                    inside.await;
                    silent_panic("failed")
                })
                .await
                .unwrap();
            let mut waits: Vec<_> = (0..2).map(|_| task::spawn(group.wait())).collect();
            if at_once {
                waits.iter_mut().for_each(|wait| assert_pending!(wait.poll()));
            }
            gate.open();
            settle().await;
            for wait in &mut waits {
                let report = assert_ready!(wait.poll());
                assert!(!report.is_success(), "a message of a failed job would be acknowledged");
                assert_eq!((report.succeeded, report.failed, report.panicked), (1, 1, 1));
                assert_eq!((report.unfinished, report.first_failure), (0, Some(1)));
                group.take_outcomes();
            }
            drop(waits);
            assert!(group.take_outcomes().is_empty());
            // Two that join: neither says that all is well, and one has the cause.
            assert!(soon(group.try_join()).await.unwrap_err().into_result().is_none());
            assert!(!group.report().is_success());
        });
    }
}

#[test]
fn two_joins_agree() {
    single(async {
        let pool = Pool::new(2);
        for fails in [false, true] {
            let group = pool.group_builder().failure_when(|n| *n == 7).build().unwrap();
            let gate = Gate::new();
            for n in [5, if fails { 7 } else { 6 }] {
                let inside = gate.wait();
                let job = async move {
                    inside.await;
                    n
                };
                group.schedule(job).await.unwrap();
            }
            let mut joins: Vec<_> = (0..2).map(|_| task::spawn(group.try_join())).collect();
            joins.iter_mut().for_each(|join| assert_pending!(join.poll()));
            gate.open();
            settle().await;
            let results: Vec<_> = joins.iter_mut().map(|join| assert_ready!(join.poll())).collect();
            drop(joins);
            if fails {
                let errors = results.into_iter().map(Result::unwrap_err);
                let causes: Vec<_> = errors
                    .map(|error| (error.index(), error.into_result().map(Result::unwrap)))
                    .collect();
                assert_eq!(causes, [(1, Some(7)), (1, None)]);
                assert_eq!(group.take_outcomes()[0].result.as_ref().unwrap(), &5);
            } else {
                let values: Vec<_> = results.into_iter().map(Result::unwrap).collect();
                assert_eq!(values, [vec![5, 6], vec![]], "each value is given out once");
            }
        }
        whole(&pool).await;
    });
}

#[test]
fn try_join_gives_all_values_in_the_order_of_submission() {
    single(async {
        let pool = Pool::new(4);
        let group = pool.group();
        assert!(soon(group.try_join()).await.unwrap().is_empty());
        let gates: Vec<_> = (0..4).map(|_| Gate::new()).collect();
        for (n, gate) in gates.iter().enumerate() {
            let inside = gate.wait();
            let job = async move {
                inside.await;
                n
            };
            assert_eq!(group.schedule(job).await.unwrap().index(), n);
        }
        let mut join = task::spawn(group.try_join());
        for n in [2, 0, 3, 1] {
            assert_pending!(join.poll());
            gates[n].open();
            settle().await;
        }
        assert_eq!(assert_ready!(join.poll()).unwrap(), [0, 1, 2, 3]);
        drop(join);
        whole(&pool).await;
    });
}

#[test]
fn try_join_gives_the_failure_that_was_first_in_time() {
    single(async {
        let pool = Pool::new(4);
        for how in 0..3 {
            let group: Group<Line> =
                pool.group_builder().failure_when(Line::is_err).build().unwrap();
            let gate = Gate::new();
            let inside = gate.wait();
            // Lower indices than that of the cause: one is cancelled because of it, one fails later.
            let cancelled = group.schedule(endless()).await.unwrap();
            let late = OnDrop(|| silent_panic("in its destructor"));
            group
                .schedule(async move {
                    let _late = late;
                    endless().await
                })
                .await
                .unwrap();
            let cause = group
                .schedule(async move {
                    inside.await;
                    match how {
                        0 => Err("first"),
                        1 => silent_panic("first"),
                        _ => endless().await,
                    }
                })
                .await
                .unwrap();
            group.schedule(async { Ok(9) }).await.unwrap();
            let mut join = task::spawn(group.try_join());
            assert_pending!(join.poll());
            settle().await;
            if how == 2 {
                cause.abort();
            } else {
                gate.open();
            }
            settle().await;
            assert!(join.is_woken());
            let error = soon(join.into_inner()).await.unwrap_err();
            assert!(cancelled.is_finished());
            assert_eq!(error.index(), 2);
            match how {
                0 => {
                    assert_eq!(error.to_string(), "job 2 of the group returned a failure");
                    assert_eq!(error.into_result().unwrap().unwrap(), Err("first"));
                }
                1 => {
                    let source = std::error::Error::source(&error).unwrap().to_string();
                    assert_eq!(source, "the job panicked: first");
                    assert!(error.job_error().unwrap().is_panic());
                }
                _ => assert!(error.into_result().unwrap().unwrap_err().is_cancelled()),
            }
            let report = group.report();
            assert_eq!((report.succeeded, report.failed, report.panicked), (1, 3, 1 + how % 2));
            // The other outcomes are still there.
            let left: Vec<_> = group.take_outcomes().iter().map(|out| out.index).collect();
            assert_eq!(left, [0, 1, 3]);
        }
        whole(&pool).await;
    });
}

#[test]
fn auto_traits_of_a_group() {
    type NotSync = std::cell::Cell<u8>;
    fn boxes<E: std::error::Error + Send + Sync + 'static>() {}
    fn shared<T: Send + Sync + Unpin>() {}
    boxes::<millpond::GroupError<NotSync>>();
    shared::<millpond::GroupReport>();
    shared::<millpond::JobTicket>();
    shared::<millpond::stream::Outcomes<NotSync>>();
    shared::<millpond::stream::Map<millpond::stream::Iter<std::ops::Range<u8>>, fn(), u8>>();
    shared::<millpond::future::TryJoin<'_, NotSync>>();
}

/// Feeds 1,000 jobs by one verb, each a second long but for job 3, which fails.
async fn fed(pool: &Pool, verb: usize) -> (usize, usize, Vec<SubmitErrorKind>) {
    let group = stopping(pool);
    let starts = Arc::new(AtomicUsize::new(0));
    let mut refused = Vec::new();
    let mut admitted = 0;
    for n in 0..1_000 {
        let starts = starts.clone();
        let job = async move {
            starts.fetch_add(1, SeqCst);
            if n == 3 {
                return Err("job 3");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(n)
        };
        let submitted = match verb {
            0 => group.schedule(job).await,
            1 => group.anyway_go(job),
            _ => group.try_go(job).await,
        };
        match submitted {
            Ok(_) => admitted += 1,
            Err(error) => refused.push(error.kind()),
        }
    }
    let report = soon(group.wait()).await;
    assert_eq!((report.first_failure, report.failed >= 1), (Some(3), true));
    let error = soon(group.try_join()).await.unwrap_err();
    assert_eq!(error.index(), 3);
    assert_eq!(error.into_result().unwrap().unwrap(), Err("job 3"));
    assert!(group.is_failed() && !group.is_closed());
    (starts.load(SeqCst), admitted, refused)
}

#[test]
fn a_thousand_jobs_of_which_the_fourth_fails() {
    paused(async {
        let pool = Pool::new(4);
        // On one thread: the four that have slots start, and no other.
        let (starts, admitted, refused) = fed(&pool, 0).await;
        assert_eq!((starts, admitted, refused.len()), (4, 4, 996));
        assert!(refused.iter().all(|kind| *kind == SubmitErrorKind::GroupFailed));
        let (starts, admitted, _) = fed(&pool, 1).await;
        assert_eq!((starts, admitted), (4, 1_000), "committed jobs are cancelled");
        let (starts, admitted, refused) = fed(&pool, 2).await;
        assert!(starts <= 5 && admitted + refused.len() == 1_000, "{starts}");
        whole(&pool).await;
    });
}

#[test]
fn only_what_ran_already_goes_on_after_a_failure() {
    multi(3, async {
        let pool = Pool::builder().size(4).queue(64).build().unwrap();
        for _ in 0..200 {
            let group = stopping(&pool);
            let failing = Arc::new(AtomicUsize::new(0));
            let held: Vec<_> = (0..3).map(|_| group.try_schedule(endless()).unwrap()).collect();
            let mark = failing.clone();
            group
                .try_schedule(async move {
                    tokio::task::yield_now().await;
                    mark.store(1, SeqCst);
                    Err("now")
                })
                .unwrap();
            for n in 0..32 {
                let failing = failing.clone();
                let job = async move {
                    // All slots were taken, so this job can start in that of the failure alone.
                    failing.fetch_add(1_000, SeqCst);
                    Ok(n)
                };
                // The group may have failed by now.
                drop(group.try_schedule(job));
            }
            assert_eq!(soon(group.wait()).await.unfinished, 0);
            assert_eq!(failing.load(SeqCst), 1, "a job started in the slot of the failure");
            assert!(held.iter().all(millpond::JobTicket::is_finished));
        }
        whole(&pool).await;
    });
}

#[test]
fn a_failure_reaches_callers_in_line_at_once() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let strangers = fill(&pool);
        let group = stopping(&pool);
        let committed = group.anyway_go(endless()).unwrap();
        let mut own: Vec<_> = (0..3).map(|_| task::spawn(group.schedule(endless()))).collect();
        let mut other = task::spawn(pool.schedule(async { 2 }));
        own.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
        assert_pending!(other.poll());
        // The failed job has no slot, so neither a slot nor a place in the queue comes free.
        group.schedule_always(async { Err("first") }).unwrap();
        settle().await;
        assert!(own.iter().all(|caller| caller.is_woken()) && !other.is_woken());
        assert!(committed.is_finished());
        for caller in &mut own {
            let error = assert_ready!(caller.poll()).unwrap_err();
            assert_eq!(error.kind(), SubmitErrorKind::GroupFailed);
            drop(error.into_job());
        }
        for refused in [group.try_schedule(endless()), group.anyway_go(endless())] {
            assert_eq!(refused.unwrap_err().kind(), SubmitErrorKind::GroupFailed);
        }
        group.close();
        let late = soon(group.try_go(endless())).await.unwrap_err();
        assert_eq!(late.kind(), SubmitErrorKind::GroupFailed, "the failure says more");
        drop(own);
        let error = soon(group.try_join()).await.unwrap_err();
        assert_eq!(error.into_result().unwrap().unwrap(), Err("first"));
        release(strangers).await;
        assert!(other.is_woken());
        assert_eq!(soon(assert_ready!(other.poll()).unwrap()).await.unwrap(), 2);
        drop(other);
        whole(&pool).await;
    });
}

#[test]
fn a_cancellation_by_the_group_does_not_fail_it_and_an_abort_does() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = stopping(&pool);
        group.schedule(endless()).await.unwrap();
        group.anyway_go(endless()).unwrap();
        group.anyway_go(endless()).unwrap();
        assert_eq!(group.cancel_waiting(), 2);
        settle().await;
        assert!(!group.is_failed());
        group.cancel();
        settle().await;
        assert!(!group.is_failed());
        assert_eq!(group.report().cancelled, 3);
        let last = group.schedule(endless()).await.unwrap();
        assert_eq!(last.index(), 3);
        settle().await;
        last.abort();
        settle().await;
        assert!(group.is_failed());
        whole(&pool).await;
    });
}

#[test]
fn waits_that_cancel_and_a_feeder_beside_them() {
    for joins in [false, true] {
        paused(a_feeder_beside_a_wait(joins));
    }
}

async fn a_feeder_beside_a_wait(joins: bool) {
    let pool = Pool::new(4);
    let group: Group<Line> = pool.group_builder().failure_when(Line::is_err).build().unwrap();
    let feeder = {
        let group = group.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let job = async move {
                    if n == 3 {
                        return Err("job 3");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(n)
                };
                group.schedule(job).await.unwrap();
            }
        })
    };
    settle().await;
    // As documented: the jobs of that moment are cancelled, and the feeder goes on.
    if joins {
        assert_eq!(group.try_join().await.unwrap_err().index(), 3);
    } else {
        group.wait_or_cancel_on_failure().await;
    }
    let report = group.report();
    assert!(report.cancelled <= 4 && report.first_failure == Some(3), "{report:?}");
    feeder.await.unwrap();
    let report = soon(group.wait()).await;
    assert_eq!(report.succeeded + report.failed, 50);
    assert!(report.cancelled <= 4, "{report:?}");
}

#[test]
fn close_gives_callers_in_line_their_jobs_back() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group::<u8>();
        let tenant = pool.group_builder::<u8>().quota(1).build().unwrap();
        let held = hold(&pool);
        group.try_schedule(async { 1 }).unwrap(); // queued
        group.anyway_go(async { 2 }).unwrap(); // committed
        tenant.anyway_go(async { 3 }).unwrap();
        let mut own = task::spawn(group.schedule(std::future::ready(4)));
        let mut other = task::spawn(pool.schedule(async { 5 }));
        let mut quota = task::spawn(tenant.schedule(std::future::ready(6)));
        assert_pending!(own.poll());
        assert_pending!(other.poll());
        assert_pending!(quota.poll());
        assert_eq!(law(&pool).waiting, 5);
        group.close();
        tenant.close();
        assert!(own.is_woken() && quota.is_woken() && !other.is_woken());
        let error = assert_ready!(own.poll()).unwrap_err();
        assert_eq!(error.kind(), SubmitErrorKind::GroupClosed);
        assert_eq!(error.into_job().await, 4);
        let error = assert_ready!(quota.poll()).unwrap_err();
        assert_eq!(error.kind(), SubmitErrorKind::GroupClosed);
        drop((own, quota));
        assert_eq!((law(&pool).waiting, law(&pool).refused), (3, 2));
        held.release().await;
        // What was admitted runs.
        assert_eq!(soon(group.try_join()).await.unwrap(), [1, 2]);
        assert_eq!(soon(tenant.try_join()).await.unwrap(), [3]);
        soon(assert_ready!(other.poll()).unwrap()).await.unwrap();
        drop(other);
        whole(&pool).await;
    });
}

#[test]
fn a_caller_that_was_granted_something_and_has_not_looked_starts_nothing_after_the_close() {
    single(async {
        // Granted a slot, and granted a place in the queue.
        for queue in [0, 1] {
            let pool = Pool::builder().size(1).queue(queue).build().unwrap();
            let group = pool.group::<u8>();
            let held = fill(&pool);
            let mut caller = task::spawn(group.schedule(std::future::ready(1)));
            let mut behind = task::spawn(pool.schedule(async { 2 }));
            assert_pending!(caller.poll());
            assert_pending!(behind.poll());
            let mut held = held.into_iter();
            held.next().unwrap().release().await;
            settle().await;
            assert!(caller.is_woken() && !behind.is_woken());
            group.close();
            assert_eq!(soon(group.wait()).await.succeeded, 0);
            let error = assert_ready!(caller.poll()).unwrap_err();
            assert_eq!(error.kind(), SubmitErrorKind::GroupClosed);
            drop(caller);
            assert!(behind.is_woken(), "what was granted passes on");
            let behind = assert_ready!(behind.poll()).unwrap();
            release(held.collect()).await;
            assert_eq!(soon(behind).await.unwrap(), 2);
            assert_eq!(law(&pool).completed, 2 + queue as u64);
            whole(&pool).await;
        }
    });
}

#[test]
fn nothing_starts_after_close_and_wait() {
    multi(2, async {
        let pool = Pool::builder().size(2).queue(1).overflow_limit(1).build().unwrap();
        for round in 0..300 {
            let mut settings = pool.group_builder();
            if round % 2 == 0 {
                settings = settings.quota(1);
            }
            let group = settings.build().unwrap();
            let ended = Arc::new(AtomicUsize::new(0));
            let submitters: Vec<_> = (0..4)
                .map(|n| {
                    let (group, ended) = (group.clone(), ended.clone());
                    tokio::spawn(async move {
                        let mut ran = 0;
                        for k in 0..50 {
                            let ended = ended.clone();
                            let job = async move {
                                assert_eq!(ended.load(SeqCst), 0, "started after close and wait");
                            };
                            let submitted = match (n + k) % 5 {
                                0 => group.anyway_go(job),
                                1 => group.try_go(job).await,
                                2 => group.try_schedule(job),
                                3 => group.schedule_always(job),
                                _ => group.schedule(job).await,
                            };
                            ran += usize::from(submitted.is_ok());
                        }
                        ran
                    })
                })
                .collect();
            for _ in 0..round % 40 {
                tokio::task::yield_now().await;
            }
            group.close();
            let report = soon(group.wait()).await;
            ended.store(1, SeqCst);
            let mut ran = 0;
            for submitter in submitters {
                ran += soon(submitter).await.unwrap();
            }
            assert!(report.is_success());
            assert_eq!((report, report.succeeded), (group.report(), ran as u64));
        }
        whole(&pool).await;
    });
}

#[test]
fn failures_race_with_submits() {
    multi(2, async {
        let pool = Pool::builder().size(2).queue(2).build().unwrap();
        for round in 0..200u64 {
            let group = stopping(&pool);
            let submitters: Vec<_> = (0..4)
                .map(|n| {
                    let group = group.clone();
                    tokio::spawn(async move {
                        let mut admitted = 0;
                        for k in 0..60 {
                            let fails = n == 0 && k == round % 60;
                            let job = async move {
                                tokio::task::yield_now().await;
                                if fails { Err("now") } else { Ok(k as usize) }
                            };
                            let submitted = match (n + k) % 3 {
                                0 => group.anyway_go(job),
                                1 => group.try_go(job).await,
                                _ => group.schedule(job).await,
                            };
                            match submitted {
                                Ok(_) => admitted += 1,
                                Err(error) => {
                                    assert_eq!(error.kind(), SubmitErrorKind::GroupFailed)
                                }
                            }
                        }
                        admitted
                    })
                })
                .collect();
            let mut admitted = 0;
            for submitter in submitters {
                admitted += soon(submitter).await.unwrap();
            }
            let report = soon(group.wait()).await;
            assert!(group.is_failed());
            assert_eq!(report.succeeded + report.failed, admitted);
            assert_eq!(report.failed, report.cancelled + 1);
            let error = soon(group.try_join()).await.unwrap_err();
            assert_eq!(error.into_result().unwrap().unwrap(), Err("now"));
        }
        whole(&pool).await;
    });
}

#[test]
fn a_ticket_aborts_its_job_and_indices_never_start_again() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group::<u8>();
        let mut tickets = vec![group.try_schedule(std::future::pending()).unwrap()];
        tickets.push(group.schedule(std::future::pending()).await.unwrap());
        tickets.push(group.anyway_go(async { 2 }).unwrap());
        tickets.push(group.schedule_always(async { 3 }).unwrap());
        let in_caller = group.try_go(async { 4 }).await.unwrap();
        assert!(in_caller.is_finished());
        tickets.push(in_caller);
        let indices: Vec<_> = tickets.iter().map(millpond::JobTicket::index).collect();
        assert_eq!(indices, [0, 1, 2, 3, 4]);
        settle().await;
        assert!(!tickets[0].is_finished());
        tickets[1].abort();
        tickets[0].abort_handle().abort();
        let outcomes = joined(&group).await;
        assert!(
            outcomes[..2].iter().all(|out| out.result.as_ref().is_err_and(|e| e.is_cancelled()))
        );
        assert_eq!(outcomes[3].index, 3);
        assert_eq!(group.schedule(async { 5 }).await.unwrap().index(), 5);
        assert_eq!(soon(group.next()).await.unwrap().index, 5);
        whole(&pool).await;
    });
}

#[test]
fn a_group_that_discards_counts_and_keeps_the_first_failure() {
    single(async {
        let pool = Pool::new(2);
        let lives = Gauge::default();
        let group = pool
            .group_builder()
            .failure_when(|(_, fails): &(Inside, bool)| *fails)
            .discard_outcomes()
            .build()
            .unwrap();
        for n in 0..100 {
            let inside = lives.enter();
            group.schedule(async move { (inside, n % 10 == 9) }).await.unwrap();
        }
        let report = soon(group.wait()).await;
        assert_eq!((report.succeeded, report.failed), (90, 10));
        assert_eq!(report.first_failure, Some(9));
        assert_eq!(lives.now(), 1, "only the first failure is kept");
        assert!(soon(group.next()).await.is_none() && group.take_outcomes().is_empty());
        let Err(error) = soon(group.try_join()).await else { panic!("a job failed") };
        assert_eq!((error.index(), lives.now()), (9, 1));
        drop(error.into_result().unwrap());
        assert_eq!(lives.now(), 0);
        let mut outcomes = group.outcomes();
        group.close();
        assert!(soon(outcomes.next()).await.is_none());
        whole(&pool).await;
    });
}
