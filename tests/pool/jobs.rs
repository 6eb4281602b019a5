//! The list of jobs, and the events of slow ones.

use std::panic::Location;
use std::time::Duration;

use crate::support::*;
use millpond::{JobInfo, JobOptions, JobState, Pool, Priority};
use tokio::time::{sleep, timeout};

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

/// Asserts that a job shows this wait, up to what is lost when it is kept, and these polls.
#[track_caller]
fn assert_history(job: &JobInfo, waited: Duration, polls: u32) {
    let shown = job.waited.expect("the wait is known");
    // The clock of tokio's paused time goes on by a millisecond where a timer was set in between.
    assert!((waited.mul_f64(0.99)..=waited + SECOND / 50).contains(&shown), "{job:?}");
    assert_eq!(job.polls, Some(polls), "{job:?}");
}

/// A job that waited in the queue, one that waited as a caller, and one that did not wait.
#[test]
fn a_running_job_shows_its_wait_and_its_polls() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let first = pool.schedule(forever()).await.unwrap();
        sleep(SECOND).await;
        let queued = pool.schedule(forever()).await.unwrap();
        sleep(SECOND).await;
        let caller = tokio::spawn(pool.schedule_owned(forever()));
        sleep(SECOND).await;
        let jobs = pool.jobs(9);
        assert_eq!(states(&jobs), [JobState::Suspended, JobState::Waiting, JobState::Waiting]);
        assert_history(&jobs[0], Duration::ZERO, 1);
        assert_history(&jobs[1], 2 * SECOND, 0);
        assert_history(&jobs[2], SECOND, 0);
        first.abort();
        sleep(SECOND).await;
        // The caller has handed its job in when the first one ended.
        let jobs = pool.jobs(9);
        assert_eq!(states(&jobs), [JobState::Waiting, JobState::Suspended]);
        assert_history(&jobs[1], 2 * SECOND, 1);
        sleep(3 * SECOND).await;
        queued.abort();
        sleep(SECOND).await;
        let jobs = pool.jobs(9);
        assert_history(&jobs[0], 5 * SECOND, 1);
        assert!(jobs[0].age >= SECOND && jobs[0].age < 2 * SECOND, "{:?}", jobs[0]);
        caller.await.unwrap().unwrap().abort();
        whole(&pool).await;
    });
}

/// A caller without a queue, and polls by wakers of each kind.
#[test]
fn a_caller_that_waited_shows_its_wait() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let ticks = tokio::spawn(pool.schedule_owned(async {
            for _ in 0..5 {
                sleep(SECOND).await;
            }
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            forever().await;
        }));
        sleep(7 * SECOND).await;
        drop(held);
        sleep(SECOND / 2).await;
        assert_history(&pool.jobs(9)[0], 7 * SECOND, 1);
        sleep(2 * SECOND).await;
        assert_history(&pool.jobs(9)[0], 7 * SECOND, 3);
        sleep(5 * SECOND).await;
        assert_history(&pool.jobs(9)[0], 7 * SECOND, 8);
        ticks.await.unwrap().unwrap().abort();
        whole(&pool).await;
    });
}

/// A job that lends its slot and waits for one again keeps its history.
#[test]
fn a_job_that_lent_its_slot_keeps_its_history() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let inner = pool.clone();
        let outer = tokio::spawn(pool.schedule_owned(async move {
            sleep(SECOND).await;
            // Takes the slot of this job, and keeps it for longer than this job waits.
            let nested = inner.schedule(sleep(3 * SECOND)).await.unwrap();
            let _ = timeout(SECOND, nested).await;
            forever().await;
        }));
        sleep(4 * SECOND).await;
        drop(held);
        sleep(5 * SECOND / 2).await;
        let jobs = pool.jobs(9);
        assert_eq!(states(&jobs), [JobState::Waiting, JobState::Suspended]);
        assert_eq!((jobs[0].waited, jobs[0].polls), (None, None));
        sleep(3 * SECOND).await;
        let jobs = pool.jobs(9);
        assert_eq!(states(&jobs), [JobState::Suspended]);
        let polls = jobs[0].polls.unwrap();
        assert!(polls >= 3, "{jobs:?}");
        assert_history(&jobs[0], 4 * SECOND, polls);
        outer.await.unwrap().unwrap().abort();
        whole(&pool).await;
    });
}

/// What is not known is not told.
#[test]
fn a_first_poll_and_a_job_in_its_caller_have_no_history() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let in_caller = tokio::spawn({
            let pool = pool.clone();
            async move { drop(pool.try_go(forever()).await) }
        });
        sleep(SECOND).await;
        let jobs = pool.jobs(9);
        assert_eq!((jobs[0].waited, jobs[0].polls), (Some(Duration::ZERO), None));
        in_caller.abort();
        drop(held);
        let seen = pool.clone();
        let look = async move { seen.jobs(9) };
        let jobs = pool.schedule(look).await.unwrap().await.unwrap();
        assert_eq!((jobs[0].waited, jobs[0].polls), (None, Some(1)));
        whole(&pool).await;
    });
}
