//! `schedule_within` and `reserve_within`: waits with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use millpond::{Pool, SubmitErrorKind};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_millis(250);

#[test]
fn a_job_comes_back_at_the_limit_and_never_runs() {
    paused(async {
        let pool = Pool::new(1);
        let slow = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let job = {
            let runs = runs.clone();
            async move { runs.fetch_add(1, Ordering::Relaxed) }
        };
        let called = Instant::now();
        let refused = pool.schedule_within(LIMIT, job).await.unwrap_err();
        assert!((250..260).contains(&called.elapsed().as_millis()));
        assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
        assert!(refused.is_full() && !refused.is_closed());
        let status = law(&pool);
        assert_eq!((status.waiting, status.refused, status.withdrawn), (0, 1, 0));
        slow.abort();
        whole(&pool).await;
        assert_eq!(runs.load(Ordering::Relaxed), 0);
        assert_eq!(refused.into_job().await, 0, "the job is whole");
    });
}

#[test]
fn a_slot_that_comes_in_time_is_taken() {
    paused(async {
        let pool = Pool::new(1);
        let slow = async { tokio::time::sleep(LIMIT / 2).await };
        drop(pool.try_schedule(slow).unwrap());
        let handle = pool.schedule_within(LIMIT, async { 7 }).await.unwrap();
        assert_eq!(handle.await.unwrap(), 7);
        // Without a wait there is no timer: the clock stands still.
        let called = Instant::now();
        assert_eq!(pool.schedule_within(LIMIT, async { 7 }).await.unwrap().await.unwrap(), 7);
        assert_eq!(called.elapsed(), Duration::ZERO);
        whole(&pool).await;
    });
}

/// On a clock that runs.
#[test]
fn a_limit_of_zero_does_not_wait_and_the_longest_has_no_end() {
    single(async {
        let pool = Pool::new(1);
        let slow = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let now = pool.schedule_within(Duration::ZERO, async { 7 }).await.unwrap_err();
        assert_eq!(now.kind(), SubmitErrorKind::TimedOut);
        let mut ever = Box::pin(pool.schedule_within(Duration::MAX, async { 7 }));
        assert!(poll(&mut ever).is_pending());
        slow.abort();
        assert_eq!(ever.await.unwrap().await.unwrap(), 7);
        whole(&pool).await;
    });
}

/// A waiter behind one whose time is over moves up, and a dropped wait leaves nothing behind.
#[test]
fn the_place_passes_on() {
    paused(async {
        let pool = Pool::new(1);
        let slow = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let mut short = Box::pin(pool.schedule_within(LIMIT, async { 1 }));
        let mut dropped = Box::pin(pool.schedule_within(LIMIT * 9, async { 2 }));
        let mut long = Box::pin(pool.schedule_within(LIMIT * 9, async { 3 }));
        assert!(poll(&mut short).is_pending());
        assert!(poll(&mut dropped).is_pending());
        assert!(poll(&mut long).is_pending());
        assert!(short.await.is_err());
        drop(dropped);
        assert_eq!(law(&pool).withdrawn, 1);
        slow.abort();
        assert_eq!(long.await.unwrap().await.unwrap(), 3);
        whole(&pool).await;
    });
}

/// A job of the pool waits with a job that stands in the wait list itself. While the pool lends nothing,
/// the time of that job may be over.
#[test]
fn inside_a_job_of_the_pool() {
    paused(async {
        let pool = Pool::new(2);
        let slow = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let inner = pool.clone();
        let outer = pool
            .try_schedule(async move {
                let refused = inner.schedule_within(LIMIT, async { 7 }).await.unwrap_err();
                assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
                let job = refused.into_job();
                assert_eq!(law(&inner).queued + law(&inner).waiting, 0);
                job.await
            })
            .unwrap();
        assert_eq!(outer.await.unwrap(), 7);
        slow.abort();
        whole(&pool).await;
    });
}

#[test]
fn in_a_group_whose_quota_is_used_up() {
    paused(async {
        let pool = Pool::new(2);
        let group = pool.group_builder::<u32>().quota(1).build().unwrap();
        let first = group.try_schedule(std::future::pending()).unwrap();
        let refused = group.schedule_within(LIMIT, async { 7 }).await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
        first.abort();
        group.schedule_within(LIMIT, refused.into_job()).await.unwrap();
        let report = group.wait().await;
        let ended = (report.succeeded, report.failed);
        assert_eq!(ended, (1, 1), "a job that timed out leaves no outcome");
        whole(&pool).await;
    });
}

#[test]
fn a_reserver_gives_its_place_up() {
    paused(async {
        let pool = Pool::new(1);
        let slot = pool.reserve().await.unwrap();
        let mut reserver = pool.reserver();
        let refused = reserver.reserve_within(LIMIT).await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
        assert_eq!((law(&pool).waiting_reservers, law(&pool).refused), (0, 1));
        drop(slot);
        reserver.reserve_within(LIMIT).await.unwrap();
        assert!(reserver.is_reserved());
        drop(reserver);
        whole(&pool).await;
    });
}
