//! The outcomes of a group as a stream, and inputs that become outcomes.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;
use futures_util::{Stream, StreamExt, stream};
use millpond::{Group, Pool};
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn a_feeder_in_one_task_and_a_joiner_in_another() {
    for threads in [1, 2] {
        // By close, and by the drop of the last handle.
        for closes in [false, true] {
            multi(threads, async move {
                let pool = Pool::new(2);
                let group = pool.group();
                let mut outcomes = group.outcomes();
                let joiner = tokio::spawn(async move {
                    let mut seen = 0;
                    while let Some(outcome) = outcomes.next().await {
                        outcome.into_result().unwrap();
                        seen += 1;
                    }
                    seen
                });
                let kept = closes.then(|| group.clone());
                settle().await;
                let feeder = tokio::spawn(async move {
                    for n in 0..100 {
                        group.schedule(async move { n }).await.unwrap();
                        if n % 10 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    if closes {
                        group.close();
                    }
                });
                soon(feeder).await.unwrap();
                assert_eq!(soon(joiner).await.unwrap(), 100);
                drop(kept);
                whole(&pool).await;
            });
        }
    }
}

#[test]
fn a_stream_is_pending_while_its_group_is_empty_and_open() {
    single(async {
        let pool = Pool::new(2);
        let group = pool.group();
        let mut outcomes = task::spawn(group.outcomes());
        assert_pending!(outcomes.poll_next());
        group.schedule(async { 1 }).await.unwrap();
        settle().await;
        assert!(outcomes.is_woken());
        assert_eq!(assert_ready!(outcomes.poll_next()).unwrap().into_result().unwrap(), 1);
        assert_pending!(outcomes.poll_next());
        let gate = Gate::new();
        let inside = gate.wait();
        group
            .schedule(async move {
                inside.await;
                2
            })
            .await
            .unwrap();
        group.close();
        assert_pending!(outcomes.poll_next());
        gate.open();
        settle().await;
        assert!(outcomes.is_woken());
        assert!(assert_ready!(outcomes.poll_next()).unwrap().is_success());
        assert!(assert_ready!(outcomes.poll_next()).is_none());
        assert!(assert_ready!(outcomes.poll_next()).is_none());
    });
}

/// Each way in which no job can come any more ends a stream that is empty already.
#[test]
fn each_end_wakes_a_stream() {
    single(async {
        let pool = Pool::new(2);
        for how in 0..4 {
            let group: Group<u8> =
                pool.group_builder().failure_when(|_| true).cancel_on_failure().build().unwrap();
            let mut outcomes = task::spawn(group.outcomes());
            assert_pending!(outcomes.poll_next());
            match how {
                0 => group.close(),
                1 => drop(group),
                2 => {
                    drop(group.clone());
                    assert!(!outcomes.is_woken());
                    group.detach();
                    drop(group);
                }
                _ => {
                    group.schedule(async { 1 }).await.unwrap();
                    settle().await;
                    assert!(!assert_ready!(outcomes.poll_next()).unwrap().is_success());
                    assert!(assert_ready!(outcomes.poll_next()).is_none());
                    continue;
                }
            }
            assert!(outcomes.is_woken());
            assert!(assert_ready!(outcomes.poll_next()).is_none());
        }
    });
}

#[test]
fn a_stream_outlives_the_handles() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let lives = Gauge::default();
        let gate = Gate::new();
        let group = pool.group();
        for _ in 0..3 {
            let (inside, life) = (gate.wait(), lives.enter());
            let job = async move {
                inside.await;
                life
            };
            group.anyway_go(job).unwrap();
        }
        let (mut outcomes, second) = (group.outcomes(), group.outcomes());
        drop(group);
        settle().await;
        assert_eq!(law(&pool).cancelled, 0, "a reader is left");
        gate.pass(1);
        assert!(soon(outcomes.next()).await.unwrap().is_success());
        drop(outcomes);
        settle().await;
        assert_eq!((law(&pool).cancelled, lives.now()), (0, 2));
        drop(second);
        soon(pool.wait_idle()).await;
        assert_eq!((law(&pool).cancelled, lives.now()), (2, 0), "the last reader is gone");
        whole(&pool).await;
    });
}

#[test]
fn several_streams_share_the_outcomes() {
    multi(2, async {
        let pool = Pool::new(4);
        let group = pool.group();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let outcomes = group.outcomes();
                tokio::spawn(outcomes.map(|out| out.into_result().unwrap()).collect::<Vec<_>>())
            })
            .collect();
        for n in 0..2_000 {
            group.schedule(async move { n }).await.unwrap();
        }
        group.close();
        let mut all = Vec::new();
        for reader in readers {
            all.extend(soon(reader).await.unwrap());
        }
        all.sort_unstable();
        assert_eq!(all, (0..2_000).collect::<Vec<_>>());
        whole(&pool).await;
    });
}

#[test]
fn a_loop_over_outcomes_that_are_there_yields() {
    single(async {
        let pool = Pool::new(4);
        let group = pool.group();
        for n in 0..2_000 {
            group.schedule(async move { n }).await.unwrap();
        }
        soon(group.wait()).await;
        let mut outcomes = task::spawn(group.outcomes());
        let first = std::iter::from_fn(|| match outcomes.poll_next() {
            std::task::Poll::Ready(outcome) => outcome,
            std::task::Poll::Pending => None,
        });
        // Outside of tokio's budget nothing yields; within a task, a thousand are more than it has.
        let taken = first.take(1_000).count();
        let left = tokio::spawn({
            let mut outcomes = outcomes.into_inner();
            async move {
                let mut polls = 0;
                std::future::poll_fn(|cx| {
                    polls += 1;
                    while let std::task::Poll::Ready(next) = outcomes.poll_next_unpin(cx) {
                        if next.is_none() {
                            return std::task::Poll::Ready(());
                        }
                    }
                    std::task::Poll::Pending
                })
                .await;
                polls
            }
        });
        group.close();
        assert!(taken > 0 && soon(left).await.unwrap() > 1);
    });
}

// ----- map -----

/// Inputs that count how many were taken.
fn counted(n: usize) -> (Arc<AtomicUsize>, impl Iterator<Item = usize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let inputs = (0..n).inspect(move |_| {
        counter.fetch_add(1, SeqCst);
    });
    (taken, inputs)
}

#[test]
fn a_map_gives_outcomes_as_they_complete_or_in_order() {
    single(async {
        let pool = Pool::new(4);
        for in_order in [false, true] {
            for from_stream in [false, true] {
                let gates: Vec<_> = (0..4).map(|_| Gate::new()).collect();
                let inside = gates.clone();
                let job = move |n: usize| {
                    let gate = inside[n].clone();
                    async move {
                        gate.wait().await;
                        n
                    }
                };
                let mut map: std::pin::Pin<
                    Box<dyn Stream<Item = millpond::Outcome<usize>> + Send>,
                > = match (from_stream, in_order) {
                    (false, false) => Box::pin(pool.map(0..4, 3, job)),
                    (false, true) => Box::pin(pool.map(0..4, 3, job).in_order()),
                    (true, false) => Box::pin(pool.map_stream(stream::iter(0..4), 3, job)),
                    (true, true) => {
                        Box::pin(pool.map_stream(stream::iter(0..4), 3, job).in_order())
                    }
                };
                let mut map = task::spawn(map.by_ref());
                assert_pending!(map.poll_next());
                assert_eq!(law(&pool).running, 3, "the limit");
                for n in [2, 0, 1, 3] {
                    gates[n].open();
                    settle().await;
                    if !in_order {
                        assert_eq!(assert_ready!(map.poll_next()).unwrap().index, n);
                        if n != 3 {
                            assert_pending!(map.poll_next());
                        }
                    } else if n == 2 {
                        assert_pending!(map.poll_next());
                        assert_eq!(law(&pool).running, 2, "an outcome that waits counts");
                    }
                }
                if in_order {
                    for n in 0..4 {
                        let next = assert_ready!(map.poll_next()).unwrap();
                        assert_eq!((next.index, next.into_result().unwrap()), (n, n));
                        if n == 2 {
                            settle().await;
                        }
                    }
                }
                assert!(assert_ready!(map.poll_next()).is_none());
            }
        }
        whole(&pool).await;
    });
}

#[test]
fn a_map_takes_no_more_inputs_than_its_limit() {
    single(async {
        let pool = Pool::new(2);
        for in_order in [false, true] {
            let (taken, inputs) = counted(100);
            let mut map = pool.map(inputs, 5, |n| async move { n });
            if in_order {
                map = map.in_order();
            }
            settle().await;
            assert_eq!(taken.load(SeqCst), 0, "nothing happens before the first poll");
            for seen in 0..100 {
                settle().await;
                soon(map.next()).await.unwrap();
                assert!(taken.load(SeqCst) <= seen + 5, "{} of {seen}", taken.load(SeqCst));
            }
            assert!(soon(map.next()).await.is_none());
        }
        // The jobs go on while the consumer is busy.
        let (done, inputs) = (Gauge::default(), 0..10);
        let mut map = pool.map(inputs, 5, |_| {
            let done = done.clone();
            async move { drop(done.enter()) }
        });
        soon(map.next()).await.unwrap();
        settle().await;
        assert_eq!(done.total(), 5, "what was taken is worked on");
        drop(map);
        whole(&pool).await;
    });
}

#[test]
fn a_dropped_map_cancels_what_is_left() {
    single(async {
        let pool = Pool::new(2);
        let lives = Gauge::default();
        let mut map = task::spawn(pool.map(0..10, 6, |_| {
            let life = lives.enter();
            async move {
                std::future::pending::<()>().await;
                drop(life);
            }
        }));
        assert_pending!(map.poll_next());
        let status = law(&pool);
        assert_eq!((status.running, status.waiting, lives.now()), (2, 4, 6));
        drop(map);
        soon(pool.wait_idle()).await;
        assert_eq!((law(&pool).cancelled, lives.now()), (6, 0));
        whole(&pool).await;
    });
}

#[test]
fn a_map_of_a_stream_waits_for_both_its_sides() {
    single(async {
        let pool = Pool::new(2);
        let (sender, receiver) = tokio::sync::mpsc::channel::<u32>(1);
        let inputs = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|input| (input, receiver))
        });
        let mut map = task::spawn(pool.map_stream(Box::pin(inputs), 2, |n| async move { n + 1 }));
        assert_pending!(map.poll_next());
        sender.send(1).await.unwrap();
        assert!(map.is_woken());
        assert_pending!(map.poll_next());
        settle().await;
        assert!(map.is_woken());
        assert_eq!(assert_ready!(map.poll_next()).unwrap().into_result().unwrap(), 2);
        assert_pending!(map.poll_next());
        drop(sender);
        assert!(map.is_woken());
        assert!(assert_ready!(map.poll_next()).is_none());
        drop(map);
        whole(&pool).await;
    });
}

#[test]
fn a_map_on_a_pool_that_is_closed_ends_with_a_failure() {
    single(async {
        for in_order in [false, true] {
            let pool = Pool::new(1);
            let gate = Gate::new();
            let (taken, inputs) = counted(100);
            let mut map = pool.map(inputs, 2, |n| {
                let gate = gate.clone();
                async move {
                    gate.wait().await;
                    n
                }
            });
            if in_order {
                map = map.in_order();
            }
            assert!(poll(&mut Box::pin(map.next())).is_pending());
            pool.close();
            gate.open();
            let mut results = Vec::new();
            while let Some(outcome) = soon(map.next()).await {
                results.push((outcome.index, outcome.is_success()));
            }
            results.sort_unstable();
            assert_eq!(results, [(0, true), (1, true), (2, false)]);
            assert_eq!(taken.load(SeqCst), 3);
        }
    });
}

#[test]
fn many_inputs_on_few_slots() {
    multi(2, async {
        let pool = Pool::new(3);
        let busy = Gauge::default();
        let job = |n: u64| {
            let busy = busy.clone();
            async move {
                let _inside = busy.enter();
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
                n * n
            }
        };
        let squares = pool.map(0..3_000, 8, job).in_order();
        let squares: Vec<_> = squares.map(|out| out.into_result().unwrap()).collect().await;
        assert!(squares.iter().zip(0u64..).all(|(square, n)| *square == n * n));
        let sum: u64 = pool
            .map(0..3_000, 8, job)
            .map(|out| out.into_result().unwrap())
            .fold(0, |sum, n| async move { sum + n })
            .await;
        assert_eq!((squares.len(), sum), (3_000, squares.iter().sum()));
        assert!(busy.peak() <= 3);
        whole(&pool).await;
    });
}

#[test]
#[should_panic = "`limit` must be 1 or more"]
fn a_map_without_jobs_is_refused() {
    drop(Pool::new(1).map(0..1, 0, |n| async move { n }));
}
