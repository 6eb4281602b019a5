//! How long jobs waited and ran, as the pool measures it.

use std::time::Duration;

use crate::support::*;
use millpond::{JobError, JobOptions, Pool};

const MS: Duration = Duration::from_millis(1);

/// Sleeps from its first poll on.
async fn sleeps(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A timer may fire a millisecond late.
fn about(found: Duration, expected: Duration) -> bool {
    (expected..expected + 5 * MS).contains(&found)
}

#[test]
fn waits_and_runs_follow_the_paused_clock() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let mut handles = Vec::new();
        // One runs, one is queued, one is committed, one waits with its caller.
        handles.push(pool.try_schedule(sleeps(100 * MS)).unwrap());
        handles.push(pool.try_schedule(sleeps(100 * MS)).unwrap());
        handles.push(pool.anyway_go(sleeps(100 * MS)).unwrap().into_handle());
        handles.push(pool.schedule(sleeps(100 * MS)).await.unwrap());
        for handle in handles {
            handle.await.unwrap();
        }
        let timings = pool.timings();
        assert_eq!((timings.wait.count(), timings.run.count()), (4, 4));
        assert!(about(timings.run.max(), 100 * MS), "{timings:?}");
        assert!(about(timings.wait.max(), 300 * MS), "{timings:?}");
        assert!(about(timings.wait.sum(), 600 * MS), "{timings:?}");
        assert_eq!(timings.wait.quantile(0.25), Duration::ZERO);
        quiet(&pool);
    });
}

#[test]
fn a_slot_at_once_is_a_wait_of_zero_and_a_submit_in_vain_is_none() {
    paused(async {
        let pool = Pool::new(2);
        let held = pool.reserve().await.unwrap();
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        assert!(pool.try_schedule(async {}).is_err());
        assert!(pool.schedule_within(50 * MS, async {}).await.is_err());
        // In its caller, and beyond the size.
        pool.try_go(sleeps(20 * MS)).await.unwrap().await.unwrap();
        pool.schedule_always(sleeps(30 * MS)).unwrap().await.unwrap();
        let timings = pool.timings();
        assert_eq!((timings.wait.count(), timings.wait.max()), (4, Duration::ZERO));
        assert_eq!(timings.run.count(), 2, "one still runs");
        assert!(about(timings.run.sum(), 50 * MS), "{timings:?}");
        // A slot that waited, and was reserved for a job or for none.
        let waits = tokio::spawn({
            let pool = pool.clone();
            async move { drop(pool.reserve().await.unwrap()) }
        });
        sleeps(40 * MS).await;
        held.schedule(async {}).unwrap().await.unwrap();
        waits.await.unwrap();
        let later = pool.timings().since(&timings);
        assert_eq!((later.wait.count(), later.run.count()), (1, 1));
        assert!(about(later.wait.sum(), 40 * MS), "{later:?}");
        stuck.abort();
        pool.wait_idle().await;
        let all = pool.timings();
        assert_eq!((all.wait.count(), all.run.count()), (5, 4), "the aborted job ran");
    });
}

#[test]
fn a_job_that_never_ran_has_no_run() {
    paused(async {
        let pool = Pool::new(1);
        let late = JobOptions::new().timeout(Duration::ZERO);
        let expired = pool.with(late).schedule(async {}).await.unwrap();
        let aborted = pool.schedule(async {}).await;
        let aborted = aborted.unwrap();
        aborted.abort();
        assert!(matches!(expired.await, Err(JobError::Expired)));
        let ran = aborted.await.is_ok();
        assert_eq!(pool.timings().run.count(), u64::from(ran));
        let panics = pool.schedule(async { panic!("on purpose") }).await.unwrap();
        assert!(panics.await.is_err());
        assert_eq!(pool.timings().run.count(), u64::from(ran) + 1);
        whole(&pool).await;
    });
}

async fn many_tiny_jobs() {
    let pool = Pool::new(64);
    for _ in 0..20_000 {
        drop(pool.schedule(async {}).await.unwrap());
    }
    pool.wait_idle().await;
    let timings = pool.timings();
    // A window of 64 may be open for each worker.
    assert!(timings.run.count().abs_diff(20_000) <= 16 * 64, "{timings:?}");
    // The same for grants.
    assert!(timings.wait.count().abs_diff(20_000) <= 64, "{timings:?}");
    assert!(timings.run.max() > Duration::ZERO);
    whole(&pool).await;
}

#[test]
fn a_sample_stands_for_the_jobs_that_are_not_measured() {
    single(many_tiny_jobs());
}

#[test]
fn a_sample_stands_for_the_jobs_of_several_threads() {
    multi(2, many_tiny_jobs());
}

/// A job that lends its slot goes on with its run, and does not wait a second time.
#[test]
fn a_lent_slot_is_no_second_wait() {
    paused(async {
        let pool = Pool::new(1);
        let inner = pool.clone();
        let outer = pool.schedule(async move {
            let handle = inner.schedule(sleeps(50 * MS)).await.unwrap();
            handle.await.unwrap();
        });
        outer.await.unwrap().await.unwrap();
        let timings = pool.timings();
        assert_eq!((timings.wait.count(), timings.run.count()), (2, 2), "{timings:?}");
        assert!(about(timings.run.sum(), 100 * MS), "{timings:?}");
        whole(&pool).await;
    });
}
