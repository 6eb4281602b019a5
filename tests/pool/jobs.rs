//! The list of jobs, and the events of slow ones.

use std::panic::Location;
use std::time::Duration;

use crate::support::*;
use millpond::{JobInfo, JobOptions, JobState, Pool, Priority};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn states(jobs: &[JobInfo]) -> Vec<JobState> {
    jobs.iter().map(|job| job.state).collect()
}

async fn forever() {
    std::future::pending::<()>().await;
}

/// One job in each place, a second apart: the longest comes first.
#[test]
fn each_kind_of_job_is_listed_with_its_age() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let group = pool.group_builder::<()>().name("tenant").build().unwrap();
        let options = JobOptions::new().name("import").priority(Priority::High);
        let here = Location::caller();
        let running = pool.with(options.clone()).schedule(forever()).await.unwrap();
        sleep(SECOND).await;
        group.schedule(forever()).await.unwrap();
        sleep(SECOND).await;
        let overflow = pool.schedule_always(forever()).unwrap();
        sleep(SECOND).await;
        let committed = pool.anyway_go(forever()).unwrap().into_handle();
        sleep(SECOND).await;
        let caller = tokio::spawn({
            let group = group.clone();
            async move { drop(group.schedule(forever()).await) }
        });
        sleep(SECOND).await;
        let in_caller = tokio::spawn({
            let (pool, options) = (pool.clone(), options.clone());
            async move { drop(pool.with(options).try_go(forever()).await) }
        });
        sleep(SECOND).await;

        let jobs = pool.jobs(100);
        use JobState::{InCaller, Suspended, Waiting};
        assert_eq!(states(&jobs), [Suspended, Waiting, Suspended, Waiting, Waiting, InCaller]);
        for (job, seconds) in jobs.iter().zip((1..=6).rev()) {
            assert!(
                (seconds * SECOND..seconds * SECOND + SECOND / 2).contains(&job.age),
                "{job:?}"
            );
            assert_eq!(job.place.file(), here.file());
            assert!(job.place.line() > here.line(), "{job:?}");
        }
        let lines: Vec<_> = jobs.iter().map(|job| job.place.line()).collect();
        assert!(lines.is_sorted_by(|a, b| a < b), "{lines:?}");
        let named = [Some("import"), None, None, None, None, Some("import")];
        assert!(jobs.iter().map(|job| job.name).eq(named));
        let groups = [None, Some("tenant"), None, None, Some("tenant"), None];
        assert!(jobs.iter().map(|job| job.group.as_deref()).eq(groups));
        assert!(jobs[0].priority == Priority::High && jobs[1].priority == Priority::Normal);
        assert!(
            jobs.iter().map(|job| job.is_overflow).eq([false, false, true, false, false, false])
        );
        // At most as many as asked for.
        assert_eq!(states(&pool.jobs(3)), [Suspended, Waiting, Suspended]);
        assert!(pool.jobs(0).is_empty());

        caller.abort();
        in_caller.abort();
        group.cancel();
        [&running, &overflow, &committed].iter().for_each(|job| job.abort());
        pool.wait_idle().await;
        assert!(pool.jobs(9).is_empty(), "{:?}", pool.jobs(9));
        quiet(&pool);
    });
}

/// A job that blocks its thread is seen in its first poll, and in a later one.
#[test]
fn a_job_that_blocks_its_thread_is_listed() {
    multi(2, async {
        let pool = Pool::new(4);
        for is_first in [true, false] {
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let line = line!() + 1;
            let job = pool.schedule(async move {
                if !is_first {
                    tokio::task::yield_now().await;
                }
                let _ = wait.recv();
            });
            let job = job.await.unwrap();
            // A thread of its own: the job may block the one that this task runs on next.
            let seen = pool.clone();
            let look = move || {
                while !seen.jobs(9).iter().any(|job| {
                    let is_long = job.age >= Duration::from_millis(2);
                    is_long && job.state == JobState::Polled && job.place.line() == line
                }) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(seen.jobs(9).len(), 1);
            };
            tokio::task::spawn_blocking(look).await.unwrap();
            drop(release);
            job.await.unwrap();
            // The worker may be about to record the end.
            eventually(|| pool.jobs(9).is_empty()).await;
        }
        whole(&pool).await;
    });
}

/// Where jobs start too quickly for a measurement of each, those that stay have an age too.
#[test]
fn jobs_that_are_not_measured_have_an_age() {
    single(async {
        let pool = Pool::new(20_000);
        for _ in 0..20_000 {
            drop(pool.schedule(forever()).await.unwrap());
        }
        // The last ones are polled for the first time while this task sleeps.
        sleep(Duration::from_millis(100)).await;
        let jobs = pool.jobs(usize::MAX);
        assert_eq!(jobs.len(), 20_000);
        assert!(jobs.iter().all(|job| job.state == JobState::Suspended));
        assert!(jobs.iter().all(|job| job.age >= Duration::from_millis(20)), "{:?}", jobs.last());
        assert!(jobs.is_sorted_by(|a, b| a.age >= b.age));
        let _ = pool.shutdown(Duration::ZERO).await;
    });
}

#[cfg(feature = "serde")]
#[test]
fn a_list_becomes_text() {
    paused(async {
        let pool = Pool::new(1);
        let job = pool.with(JobOptions::new().name("import")).schedule(forever()).await.unwrap();
        sleep(SECOND).await;
        let jobs = serde_json::to_value(pool.jobs(1)).unwrap();
        assert!(jobs[0]["place"].as_str().unwrap().contains("jobs.rs:"));
        assert_eq!((&jobs[0]["name"], &jobs[0]["state"]), (&"import".into(), &"suspended".into()));
        assert_eq!(jobs[0]["priority"], "normal");
        assert!(jobs[0]["age"].as_f64().unwrap() >= 1.0);
        let status = serde_json::to_value(pool.status()).unwrap();
        assert_eq!((&status["running"], &status["oldest_wait"]), (&1.into(), &0.0.into()));
        assert_eq!(serde_json::to_value(pool.timings()).unwrap()["wait"]["count"], 1);
        job.abort();
        whole(&pool).await;
    });
}
