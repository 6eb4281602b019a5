//! Jobs that wait for jobs of their own pool, to any depth, on any size.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::support::*;
use millpond::{Group, Pool, SubmitErrorKind};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a body on both flavours.
fn both<F: Future<Output = ()> + Send + 'static>(body: impl Fn() -> F) {
    single(body());
    multi(2, body());
}

/// A chain of jobs, each of which awaits the next one.
fn chain(pool: Pool, depth: u32) -> BoxFuture<u32> {
    Box::pin(async move {
        match depth {
            0 => 0,
            _ => 1 + pool.schedule(chain(pool.clone(), depth - 1)).await.unwrap().await.unwrap(),
        }
    })
}

/// A binary tree of jobs; counts its nodes.
fn tree(pool: Pool, depth: u32) -> BoxFuture<u32> {
    Box::pin(async move {
        if depth == 0 {
            return 1;
        }
        let left = pool.schedule(tree(pool.clone(), depth - 1)).await.unwrap();
        let right = pool.schedule(tree(pool.clone(), depth - 1)).await.unwrap();
        1 + left.await.unwrap() + right.await.unwrap()
    })
}

/// Fibonacci by groups.
fn fibonacci(pool: Pool, n: u32) -> BoxFuture<u32> {
    Box::pin(async move {
        if n < 2 {
            return n;
        }
        let group = pool.group();
        for less in [1, 2] {
            group.schedule(fibonacci(pool.clone(), n - less)).await.unwrap();
        }
        group.try_join().await.unwrap().into_iter().sum()
    })
}

async fn on(size: usize, queue: usize, job: impl Fn(Pool) -> BoxFuture<u32>) -> u32 {
    let pool = Pool::builder().size(size).queue(queue).build().unwrap();
    let result = pool.schedule(job(pool.clone())).await.unwrap().await.unwrap();
    assert_eq!(law(&pool).refused, 0);
    whole(&pool).await;
    result
}

#[test]
fn a_chain_of_any_depth_ends() {
    both(|| async {
        for size in [1, 2, 7] {
            for queue in [0, 1, 1_000] {
                assert_eq!(on(size, queue, |pool| chain(pool, 200)).await, 200);
            }
        }
    });
}

#[test]
fn a_tree_on_few_slots_ends() {
    both(|| async {
        for size in [1, 2, 4] {
            assert_eq!(on(size, 0, |pool| tree(pool, 10)).await, 2_047);
        }
    });
}

#[test]
fn a_tree_of_depth_16_on_two_slots_ends() {
    for threads in [1, 2] {
        multi_for(Duration::from_secs(120), threads, async {
            assert_eq!(on(2, 0, |pool| tree(pool, 16)).await, 131_071);
        });
    }
}

#[test]
fn fibonacci_by_groups_ends() {
    both(|| async {
        for size in [1, 2, 3] {
            assert_eq!(on(size, 0, |pool| fibonacci(pool, 14)).await, 377);
        }
    });
}

/// The bound is strict: a job that lent its slot is not polled before it has one again. Before its first wait
/// a job lends nothing.
#[test]
fn never_more_jobs_run_than_there_are_slots() {
    fn noted(pool: Pool, gauge: Gauge, depth: u32) -> BoxFuture<()> {
        Box::pin(async move {
            let inside = gauge.enter();
            tokio::task::yield_now().await;
            drop(inside);
            let children: Vec<_> = match depth {
                0 => Vec::new(),
                _ => {
                    let mut children = Vec::new();
                    for _ in 0..3 {
                        let child = noted(pool.clone(), gauge.clone(), depth - 1);
                        children.push(pool.schedule(child).await.unwrap());
                    }
                    children
                }
            };
            for child in children {
                child.await.unwrap();
                let inside = gauge.enter();
                assert!(pool.status().running <= 2);
                drop(inside);
                tokio::task::yield_now().await;
            }
        })
    }
    both(|| async {
        let (pool, gauge) = (Pool::new(2), Gauge::default());
        let root = pool.schedule(noted(pool.clone(), gauge.clone(), 5)).await.unwrap();
        soon(root).await.unwrap();
        assert!(gauge.peak() <= 2, "{} at once", gauge.peak());
        whole(&pool).await;
    });
}

#[test]
fn a_lender_is_counted_as_lent() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let (own, inside) = (pool.clone(), gate.wait());
        let job = pool
            .try_schedule(async move { own.schedule(inside).await.unwrap().await.unwrap() })
            .unwrap();
        settle().await;
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.waiting), (1, 1, 0));
        gate.open();
        soon(job).await.unwrap();
        assert_eq!(law(&pool).lent, 0);
        whole(&pool).await;
    });
}

#[test]
fn nothing_is_lent_while_a_job_can_go_on() {
    single(async {
        let pool = Pool::new(2);
        let held = hold(&pool);
        let nested = pool.try_schedule(chain(pool.clone(), 1)).unwrap();
        settle().await;
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.waiting), (2, 0, 1));
        held.release().await;
        assert_eq!(soon(nested).await.unwrap(), 1);
        whole(&pool).await;
    });
}

/// Children come before strangers: otherwise each parent that waits would let another one in.
#[test]
fn a_slot_is_lent_to_a_child_before_a_stranger() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let (own, inside, child) = (pool.clone(), gate.wait(), Gate::new());
        let child_waits = child.wait();
        let parent = pool
            .try_schedule(async move {
                inside.await;
                own.schedule(child_waits).await.unwrap().await.unwrap();
            })
            .unwrap();
        let stranger = pool.anyway_go(async {}).unwrap().into_handle();
        settle().await;
        gate.open();
        settle().await;
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.waiting), (1, 1, 1));
        assert!(!stranger.is_finished(), "the child runs, and the stranger waits");
        child.open();
        soon(parent).await.unwrap();
        soon(stranger).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn a_lender_that_is_aborted_ends_without_a_slot() {
    both(|| async {
        let pool = Pool::new(1);
        let (gate, lives) = (Gate::new(), Gauge::default());
        let (own, inside, life) = (pool.clone(), gate.wait(), lives.enter());
        let job = pool
            .schedule(async move {
                let _life = life;
                own.schedule(inside).await.unwrap().await.unwrap();
            })
            .await
            .unwrap();
        eventually(|| pool.status().lent == 1).await;
        job.abort();
        assert!(soon(job).await.unwrap_err().is_cancelled());
        assert_eq!((lives.now(), law(&pool).lent), (0, 0));
        // The child has started, so it goes on without a handle.
        assert_eq!(law(&pool).running, 1);
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!((law(&pool).cancelled, law(&pool).completed), (1, 1));
        whole(&pool).await;
    });
}

#[test]
fn a_shutdown_cancels_lenders_and_those_that_wait_to_resume() {
    both(|| async {
        for size in [1, 3] {
            let pool = Pool::new(size);
            let mut roots = Vec::new();
            for _ in 0..10 {
                let own = pool.clone();
                // The innermost jobs never end, and the others are woken while they are lent out.
                let job = async move {
                    let timer = tokio::time::sleep(Duration::from_millis(1));
                    let child = own.schedule(std::future::pending::<()>());
                    tokio::join!(timer, async { child.await.unwrap().await })
                };
                roots.push(pool.anyway_go(job).unwrap().into_handle());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let report = soon(pool.shutdown(Duration::ZERO)).await;
            assert_eq!(report.still_running, 0, "{report:?}");
            for root in roots {
                soon(root).await.unwrap_err();
            }
            law(&pool);
        }
    });
}

#[test]
fn a_nested_wait_that_is_dropped_leaves_nothing() {
    single(async {
        let pool = Pool::new(2);
        let (held, group) = (hold(&pool), pool.group::<()>());
        let (own, members) = (pool.clone(), group.clone());
        let job = pool
            .try_schedule(async move {
                let mut wait = Box::pin(own.schedule(async { unreachable!() }));
                assert!(poll(&mut wait).is_pending());
                let mut member = Box::pin(members.schedule(async { unreachable!() }));
                assert!(poll(&mut member).is_pending());
                assert_eq!(own.status().waiting, 2);
                drop((wait, member));
                own.status().waiting
            })
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(soon(job).await.unwrap(), 0);
        assert_eq!((law(&pool).withdrawn, law(&pool).cancelled), (2, 0));
        assert!(soon(group.wait()).await.is_success());
        assert!(group.take_outcomes().is_empty(), "a job that was never submitted has no outcome");
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_nested_submit_that_is_dropped_after_the_start_leaves_its_job_running() {
    both(|| async {
        let pool = Pool::new(2);
        let (held, gate, go) = (hold(&pool), Gate::new(), Gate::new());
        let (own, inside, goes) = (pool.clone(), gate.wait(), go.wait());
        let job = pool
            .schedule(async move {
                let mut wait = Box::pin(own.schedule(inside));
                assert!(poll(&mut wait).is_pending());
                goes.await;
            })
            .await
            .unwrap();
        eventually(|| pool.status().waiting == 1).await;
        held.release().await;
        eventually(|| pool.status().running == 2).await;
        go.open();
        soon(job).await.unwrap();
        assert_eq!(law(&pool).running, 1);
        gate.open();
        soon(pool.wait_idle()).await;
        let status = law(&pool);
        assert_eq!((status.cancelled, status.withdrawn, status.completed), (0, 0, 3));
        whole(&pool).await;
    });
}

/// How the wait of a nested submit ends, and the refusal that comes of it.
type Close = fn(&Pool, &Group<()>, &Gate);

const CLOSES: [(Close, SubmitErrorKind); 3] = [
    (|pool, _, _| pool.close(), SubmitErrorKind::Closed),
    (|_, group, _| group.close(), SubmitErrorKind::GroupClosed),
    (|_, _, fails| fails.open(), SubmitErrorKind::GroupFailed),
];

#[test]
fn a_nested_submit_gets_its_job_back() {
    both(|| async {
        for (close, expected) in CLOSES {
            for quota in [1, 9] {
                let (pool, fails) = (Pool::new(3), Gate::new());
                let group = pool.group_builder().cancel_on_failure().quota(quota).build().unwrap();
                let (held, failure) = (hold(&pool), fails.wait());
                let failing = async move {
                    failure.await;
                    silent_panic("the first failure")
                };
                group.try_schedule(failing).unwrap();
                let members = group.clone();
                let submitter = pool.try_schedule(async move {
                    // Two of them: neither may start because the other leaves.
                    let submit = || members.schedule(async { unreachable!() });
                    let refused = tokio::join!(submit(), submit());
                    [refused.0, refused.1].map(|refused| refused.unwrap_err().into_parts().0)
                });
                eventually(|| pool.status().waiting == 2).await;
                close(&pool, &group, &fails);
                assert_eq!(soon(submitter.unwrap()).await.unwrap(), [expected; 2]);
                fails.open();
                let report = soon(group.wait()).await;
                assert_eq!((report.failed, report.panicked, report.cancelled), (1, 1, 0));
                held.release().await;
                soon(pool.wait_idle()).await;
                let status = quiet(&pool);
                assert_eq!((status.refused, status.withdrawn, status.cancelled), (2, 0, 0));
            }
        }
    });
}

#[test]
fn what_a_nested_submit_waits_with_is_cancelled_with_the_others() {
    both(|| async {
        let pool = Pool::new(2);
        let (held, own) = (hold(&pool), pool.clone());
        let job = async move { own.schedule(async { unreachable!() }).await.unwrap().await };
        let job = pool.schedule(job).await.unwrap();
        eventually(|| pool.status().waiting == 1).await;
        assert_eq!(pool.cancel_waiting(), 1);
        let nested: Result<(), _> = soon(job).await.unwrap();
        assert!(nested.unwrap_err().is_cancelled());
        held.release().await;
        whole(&pool).await;
    });
}

/// The job is given back, and the future is dropped before it looks.
#[test]
fn a_nested_submit_that_is_dropped_after_a_close_drops_its_job() {
    both(|| async {
        let (pool, lives) = (Pool::new(2), Gauge::default());
        let (held, life, go) = (hold(&pool), lives.enter(), Gate::new());
        let (own, group, goes) = (pool.clone(), pool.group::<()>(), go.wait());
        let (members, other) = (group.clone(), lives.enter());
        let job = pool.schedule(async move {
            let mut wait = Box::pin(own.schedule(async move { drop(life) }));
            let mut member = Box::pin(members.schedule(async move { drop(other) }));
            assert!(poll(&mut wait).is_pending() && poll(&mut member).is_pending());
            goes.await;
        });
        let job = job.await.unwrap();
        eventually(|| pool.status().waiting == 2).await;
        pool.close();
        assert!(soon(group.wait()).await.is_success());
        assert_eq!(lives.now(), 2);
        go.open();
        soon(job).await.unwrap();
        assert_eq!((lives.now(), law(&pool).withdrawn), (0, 2));
        held.release().await;
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn a_quota_lends_within_itself() {
    both(|| async {
        for quota in [1, 2] {
            let pool = Pool::new(4);
            let group = pool.group_builder::<u32>().quota(quota).build().unwrap();
            fn nested(group: millpond::Group<u32>, pool: Pool, depth: u32) -> BoxFuture<u32> {
                Box::pin(async move {
                    if depth == 0 {
                        return 1;
                    }
                    let inner = pool.group_builder().quota(1).build().unwrap();
                    group.schedule(nested(inner.clone(), pool.clone(), depth - 1)).await.unwrap();
                    inner.schedule(async { 1 }).await.unwrap();
                    inner.try_join().await.unwrap().len() as u32
                })
            }
            group.schedule(nested(group.clone(), pool.clone(), 8)).await.unwrap();
            assert_eq!(soon(group.try_join()).await.unwrap().len(), 2);
            whole(&pool).await;
        }
    });
}

#[test]
fn a_smaller_pool_still_ends_its_trees() {
    both(|| async {
        let pool = Pool::new(4);
        let root = pool.schedule(tree(pool.clone(), 9)).await.unwrap();
        for size in [3, 1, 5, 2].into_iter().cycle().take(40) {
            pool.resize(size).unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(soon(root).await.unwrap(), 1_023);
        whole(&pool).await;
    });
}

/// Each job runs in its caller, one in another: deeper than a stack can hold.
#[test]
fn jobs_nested_in_their_callers_do_not_overflow_the_stack() {
    fn deep(pool: Pool, depth: u32) -> BoxFuture<u32> {
        Box::pin(async move {
            match depth {
                0 => 0,
                _ => 1 + pool.try_go(deep(pool.clone(), depth - 1)).await.unwrap().await.unwrap(),
            }
        })
    }
    both(|| async {
        let pool = Pool::new(1);
        let root = pool.schedule(deep(pool.clone(), 20_000)).await.unwrap();
        assert_eq!(soon(root).await.unwrap(), 20_000);
        whole(&pool).await;
        // From a task, beside a job that keeps the slot for some time.
        let held = hold(&pool);
        let task = tokio::spawn(deep(pool.clone(), 20_000));
        settle().await;
        held.release().await;
        assert_eq!(soon(task).await.unwrap(), 20_000);
        whole(&pool).await;
    });
}

/// A blocking thread cannot lend the slot of its job, so the wait that closes the circle is refused.
#[test]
fn a_blocking_wait_inside_a_job_is_seen() {
    watched(|| {
        let runtime = runtime(2);
        runtime.block_on(async {
            let pool = Pool::new(1);
            let own = pool.clone();
            let in_closure = millpond::blocking(move || {
                own.blocking_schedule(async { 1 }).map(drop).map_err(|error| error.kind())
            });
            let refused = soon(pool.schedule(in_closure).await.unwrap()).await.unwrap();
            assert_eq!(refused, Err(SubmitErrorKind::WouldDeadlock));
            let own = pool.clone();
            let in_place = async move {
                tokio::task::block_in_place(|| {
                    own.blocking_schedule(async { 1 }).map(drop).map_err(|error| error.kind())
                })
            };
            let refused = soon(pool.schedule(in_place).await.unwrap()).await.unwrap();
            assert_eq!(refused, Err(SubmitErrorKind::WouldDeadlock));
            // With room the closure is served.
            pool.resize(2).unwrap();
            let own = pool.clone();
            let in_closure =
                millpond::blocking(move || own.blocking_schedule(async { 1 }).map(drop).is_ok());
            assert!(soon(pool.schedule(in_closure).await.unwrap()).await.unwrap());
            whole(&pool).await;
        });
    });
}

/// A closure that nothing awaits any more outlives its job: its wait is no wait of a job.
#[test]
fn a_closure_that_outlives_its_job_waits_like_a_stranger() {
    watched(|| {
        let runtime = runtime(2);
        runtime.block_on(async {
            let pool = Pool::new(1);
            let own = pool.clone();
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let (tell, told) = tokio::sync::oneshot::channel();
            let job = pool.schedule(async move {
                let mut closure = Box::pin(millpond::blocking(move || {
                    gone.recv().unwrap();
                    let waited = own.blocking_schedule(async { 1 });
                    tell.send(waited.map(drop).map_err(|error| error.kind())).unwrap();
                }));
                assert!(poll(&mut closure).is_pending());
            });
            soon(job.await.unwrap()).await.unwrap();
            let held = hold(&pool);
            go.send(()).unwrap();
            eventually(|| pool.status().waiting == 1 || pool.status().refused == 1).await;
            held.release().await;
            assert_eq!(soon(told).await.unwrap(), Ok(()));
            whole(&pool).await;
        });
    });
}

/// The job has dropped the future of its closure, and has lent its slot. So the closure's wait can end.
#[test]
fn a_closure_whose_future_is_gone_waits_like_a_stranger() {
    watched(|| {
        runtime(2).block_on(async {
            let (pool, gate) = (Pool::new(1), Gate::new());
            let (own, nested, inside) = (pool.clone(), pool.clone(), gate.wait());
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let (tell, told) = tokio::sync::oneshot::channel();
            let job = pool.schedule(async move {
                let mut closure = Box::pin(millpond::blocking(move || {
                    let _ = gone.recv();
                    let waited = own.blocking_schedule(async { 1 });
                    tell.send(waited.map(drop).map_err(|error| error.kind())).unwrap();
                }));
                assert!(poll(&mut closure).is_pending());
                drop(closure);
                nested.schedule(inside).await.unwrap().await.unwrap();
            });
            let job = job.await.unwrap();
            eventually(|| pool.status().lent == 1).await;
            drop(go);
            eventually(|| pool.status().waiting == 1 || pool.status().refused == 1).await;
            gate.open();
            soon(job).await.unwrap();
            assert_eq!(soon(told).await.unwrap(), Ok(()));
            whole(&pool).await;
        });
    });
}

/// Two pools whose jobs wait for each other: neither pool is stuck by its own jobs, so nothing is
/// lent. Each direction alone ends.
#[test]
fn a_wait_for_another_pool_lends_nothing() {
    single(async {
        let (front, back) = (Pool::new(1), Pool::new(1));
        let gate = Gate::new();
        let (other, inside) = (back.clone(), gate.wait());
        let job = async move { other.schedule(inside).await.unwrap().await.unwrap() };
        let job = front.schedule(job).await.unwrap();
        let second = front.anyway_go(async {}).unwrap().into_handle();
        settle().await;
        assert_eq!((front.status().lent, front.status().waiting), (0, 1));
        gate.open();
        soon(job).await.unwrap();
        soon(second).await.unwrap();
        whole(&front).await;
        whole(&back).await;
    });
}

/// A consumer inside the pool waits for outcomes of jobs that are fed from outside.
#[test]
fn a_consumer_in_the_pool_lets_its_feeder_in() {
    both(|| async {
        let pool = Pool::new(1);
        let group = pool.group::<u32>();
        let mut outcomes = group.outcomes();
        let consumer = pool.schedule(async move {
            let mut sum = 0;
            while let Some(outcome) = outcomes.next().await {
                sum += outcome.result.unwrap();
            }
            sum
        });
        let consumer = consumer.await.unwrap();
        for n in 1..=100 {
            soon(group.schedule(async move { n })).await.unwrap();
        }
        group.close();
        assert_eq!(soon(consumer).await.unwrap(), 5_050);
        drop(group);
        whole(&pool).await;
    });
}

/// A paused pool starts nothing, but a job that lent its slot has started.
#[test]
fn a_lender_goes_on_in_a_paused_pool() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let (own, inside) = (pool.clone(), gate.wait());
        let job = async move { own.schedule(inside).await.unwrap().await.unwrap() };
        let job = pool.schedule(job).await.unwrap();
        settle().await;
        assert_eq!(law(&pool).lent, 1);
        pool.pause();
        let later = pool.anyway_go(async {}).unwrap().into_handle();
        gate.open();
        soon(job).await.unwrap();
        settle().await;
        assert!(!later.is_finished(), "the pool is paused");
        pool.resume();
        soon(later).await.unwrap();
        whole(&pool).await;
    });
}

/// What waits in a paused pool is lent a slot once the pool goes on.
#[test]
fn a_nested_wait_of_a_paused_pool_ends_after_the_pause() {
    single(async {
        let pool = Pool::new(1);
        let (own, gate) = (pool.clone(), Gate::new());
        let inside = gate.wait();
        let job = pool.schedule(async move {
            inside.await;
            own.schedule(async { 7 }).await.unwrap().await.unwrap()
        });
        let job = job.await.unwrap();
        settle().await;
        pool.pause();
        gate.open();
        settle().await;
        assert!(!job.is_finished());
        assert_eq!(law(&pool).lent, 0, "nothing starts, so nothing is lent");
        pool.resume();
        assert_eq!(soon(job).await.unwrap(), 7);
        whole(&pool).await;
    });
}

/// A job that waits to resume has started: it is no waiting job.
#[test]
fn a_cancel_of_waiting_jobs_leaves_those_that_wait_to_resume() {
    single(async {
        let pool = Pool::new(1);
        for cancel in [false, true] {
            let (group, child, own) = (pool.group::<u32>(), Gate::new(), pool.clone());
            let inside = child.wait();
            let member = async move {
                // The start of the child wakes the member, and the child has the slot.
                own.schedule(inside).await.unwrap().await.unwrap();
                7
            };
            group.try_schedule(member).unwrap();
            settle().await;
            let status = law(&pool);
            assert_eq!((status.running, status.lent, status.waiting), (1, 1, 0));
            assert_eq!((group.cancel_waiting(), pool.cancel_waiting()), (0, 0));
            if cancel {
                // An abort takes the job out.
                group.cancel();
                assert_eq!(soon(group.wait()).await.cancelled, 1);
                assert_eq!((law(&pool).running, pool.status().lent), (1, 0));
                child.open();
            } else {
                child.open();
                assert_eq!(soon(group.try_join()).await.unwrap(), [7]);
            }
            whole(&pool).await;
        }
    });
}

/// The submit was not polled since its job started. By the drop, the job has lent its slot and waits for
/// another.
#[test]
fn a_nested_submit_that_is_dropped_leaves_a_job_that_waits_to_resume() {
    single(async {
        let (pool, done) = (Pool::new(1), Gauge::default());
        let (go, goes_on, woken) = (Gate::new(), Gate::new(), Gate::new());
        let (goes, begins, wakes) = (go.wait(), goes_on.wait(), woken.wait());
        let (own, inner, ended) = (pool.clone(), pool.clone(), done.clone());
        let submitted = async move {
            begins.await;
            let child = async { inner.schedule(async {}).await.unwrap().await.unwrap() };
            tokio::join!(child, wakes);
            drop(ended.enter());
        };
        let outer = pool.try_schedule(async move {
            let mut submit = Box::pin(own.schedule(submitted));
            assert!(poll(&mut submit).is_pending());
            goes.await;
            woken.open();
            // The child waits, and the submitted job as well: the one slot is this job's.
            let status = own.status();
            assert_eq!((status.running, status.lent, status.waiting), (1, 1, 1));
            drop(submit);
        });
        settle().await;
        assert_eq!((law(&pool).running, pool.status().lent), (1, 1), "the submitted job runs");
        go.open();
        settle().await;
        goes_on.open();
        soon(outer.unwrap()).await.unwrap();
        soon(pool.wait_idle()).await;
        let status = law(&pool);
        assert_eq!((status.completed, status.cancelled, status.withdrawn), (3, 0, 0));
        assert_eq!(done.total(), 1);
        whole(&pool).await;
    });
}
