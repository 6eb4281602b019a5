//! Every verb takes part in tokio's cooperative budget: a loop of it yields to other tasks.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::*;
use millpond::Pool;
use tokio::task::coop;

/// Repeats `turn` without end. The timeout fires only if the loop yields.
async fn times_out<F: Future<Output = ()>>(mut turn: impl FnMut() -> F) {
    let endless = async {
        loop {
            turn().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
}

/// Runs the body on both flavours. A loop that never yields trips the watchdog.
#[track_caller]
fn both<F: Future<Output = ()> + Send + 'static>(body: impl Fn() -> F) {
    single(body());
    multi(2, body());
}

/// Spends the budget of the task that is polled.
fn spend(cx: &mut Context<'_>) {
    for _ in 0..10_000 {
        match coop::poll_proceed(cx) {
            Poll::Ready(budget) => budget.made_progress(),
            Poll::Pending => return,
        }
    }
    panic!("a task's budget has an end");
}

#[test]
fn a_loop_of_reserve_yields() {
    both(|| async {
        let pool = Pool::new(1);
        times_out(|| async { drop(pool.reserve().await.unwrap()) }).await;
        let mut reserver = pool.reserver();
        let endless = async {
            loop {
                reserver.reserve().await.unwrap();
                reserver.release();
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
        drop(reserver);
        whole(&pool).await;
    });
}

#[test]
fn a_loop_of_schedule_yields() {
    both(|| async {
        // More room than the loop can use, so that no submit waits.
        let pool = Pool::builder().size(4).queue(10_000_000).build().unwrap();
        times_out(|| async { pool.schedule(async {}).await.unwrap().detach() }).await;
        pool.close();
        soon(pool.wait_idle()).await;
        times_out(|| async { assert!(pool.schedule(async {}).await.is_err()) }).await;
    });
}

#[test]
fn a_loop_of_try_go_yields() {
    both(|| async {
        let pool = Pool::new(1);
        times_out(|| async { pool.try_go(async {}).await.unwrap().detach() }).await;
        soon(pool.wait_idle()).await;
        let held = hold(&pool);
        times_out(|| async { pool.try_go(async {}).await.unwrap().detach() }).await;
        let group = pool.group();
        times_out(|| async { drop(group.try_go(async {}).await.unwrap()) }).await;
        held.release().await;
        whole(&pool).await;
        pool.close();
        times_out(|| async { assert!(pool.try_go(async {}).await.is_err()) }).await;
    });
}

#[test]
fn a_loop_of_anyway_go_and_of_handles_yields() {
    both(|| async {
        let pool = Pool::new(4);
        times_out(|| async { pool.anyway_go(async {}).unwrap().await.detach() }).await;
        soon(pool.wait_idle()).await;
        let held = (0..3).map(|_| hold(&pool)).collect();
        let last = hold(&pool);
        // The handle of a job that ran in its caller is finished.
        times_out(|| async { pool.try_go(async {}).await.unwrap().await.unwrap() }).await;
        last.release().await;
        release(held).await;
        whole(&pool).await;
    });
}

#[test]
fn a_loop_of_wait_idle_yields() {
    both(|| async {
        let pool = Pool::new(1);
        times_out(|| pool.wait_idle()).await;
    });
}

#[test]
fn a_loop_of_try_go_does_not_starve_the_jobs_of_its_pool() {
    single(async {
        let pool = Pool::new(4);
        let ended = Arc::new(AtomicUsize::new(0));
        for _ in 0..1_000 {
            let ended = ended.clone();
            let job = async move { _ = ended.fetch_add(1, Relaxed) };
            drop(pool.anyway_go(job).unwrap());
        }
        let mut turns = 0;
        while ended.load(Relaxed) < 1_000 {
            pool.try_go(async {}).await.unwrap().detach();
            turns += 1;
            assert!(turns < 1_000_000, "{} of the jobs have run", ended.load(Relaxed));
        }
        whole(&pool).await;
    });
}

#[test]
fn a_caller_without_budget_keeps_its_place_and_its_job() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut first = Box::pin(pool.schedule(async { 1 }));
        let mut reserver = pool.reserver();
        let mut third = Box::pin(pool.schedule(async { 3 }));
        poll_fn(|cx| {
            assert!(first.as_mut().poll(cx).is_pending());
            assert!(reserver.poll_reserve(cx).is_pending());
            assert!(third.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(pool.status().waiting, 3);
        held.release().await;
        // The slot is granted to the first caller. Its task has no budget left.
        poll_fn(|cx| {
            spend(cx);
            assert!(first.as_mut().poll(cx).is_pending());
            assert!(reserver.poll_reserve(cx).is_pending());
            assert!(third.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let status = pool.status();
        assert_eq!((status.granted, status.waiting), (1, 2), "nothing was lost");
        assert_eq!(soon(soon(first).await.unwrap()).await.unwrap(), 1);
        soon(reserver.reserve()).await.unwrap();
        assert_eq!(pool.status().waiting, 1);
        reserver.release();
        assert_eq!(soon(soon(third).await.unwrap()).await.unwrap(), 3);
        drop(reserver);
        whole(&pool).await;
    });
}

#[test]
fn a_verb_without_budget_starts_nothing() {
    single(async {
        let pool = Pool::new(1);
        let mut schedule = Box::pin(pool.schedule(async {}));
        let mut try_go = Box::pin(pool.try_go(async {}));
        poll_fn(|cx| {
            spend(cx);
            assert!(schedule.as_mut().poll(cx).is_pending());
            assert!(try_go.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(pool.status().submitted, 0);
        drop((schedule, try_go));
        assert_eq!(pool.status().submitted, 0);
        whole(&pool).await;
    });
}
