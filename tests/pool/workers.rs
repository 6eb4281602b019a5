//! Workers come with the jobs and leave when they were idle for long enough.

use std::time::Duration;

use crate::support::*;
use millpond::{Pool, PoolBuilder};
use tokio::runtime::Handle;
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_secs(8);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn builder(size: usize) -> PoolBuilder {
    Pool::builder().size(size).min_idle(0).idle_timeout(TIMEOUT)
}

#[test]
fn a_pool_starts_nothing_by_itself() {
    paused(async {
        let pool = builder(4).min_idle(2).build().unwrap();
        settle().await;
        assert_eq!((pool.status().workers, tasks()), (0, 0));
        pool.schedule(async {}).await.unwrap().await.unwrap();
        assert!((1..=4).contains(&tasks()));
    });
}

#[test]
fn an_idle_worker_leaves_after_the_timeout() {
    paused(async {
        let pool = builder(2).build().unwrap();
        pool.schedule(async {}).await.unwrap().await.unwrap();
        settle().await;
        assert_eq!((pool.status().workers, pool.status().idle, tasks()), (1, 1, 1));
        sleep(TIMEOUT - Duration::from_millis(1)).await;
        assert_eq!(tasks(), 1, "too early");
        sleep(TIMEOUT / 4).await;
        assert_eq!((pool.status().workers, tasks()), (0, 0));
        // And another comes.
        pool.schedule(async {}).await.unwrap().await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn prewarm_starts_as_many_as_asked_up_to_the_size() {
    paused(async {
        let pool = builder(4).build().unwrap();
        pool.prewarm(3);
        settle().await;
        assert_eq!((pool.status().workers, pool.status().idle, tasks()), (3, 3, 3));
        pool.prewarm(2);
        pool.prewarm(100);
        settle().await;
        assert_eq!((pool.status().idle, tasks()), (4, 4));
        sleep(TIMEOUT * 2).await;
        assert_eq!((pool.status().workers, tasks()), (0, 0));
        pool.prewarm(0);
        settle().await;
        assert_eq!(tasks(), 0);
        pool.close();
        pool.prewarm(4);
        settle().await;
        assert_eq!(tasks(), 0, "nothing can come any more");
    });
}

#[test]
fn min_idle_stay() {
    paused(async {
        let pool = builder(5).min_idle(2).build().unwrap();
        pool.prewarm(5);
        settle().await;
        assert_eq!(tasks(), 5);
        sleep(TIMEOUT * 3).await;
        assert_eq!((pool.status().workers, pool.status().idle, tasks()), (2, 2, 2));
        sleep(TIMEOUT * 10).await;
        assert_eq!(tasks(), 2);
        pool.close();
        settle().await;
        assert_eq!((pool.status().workers, tasks()), (0, 0));
    });
}

#[test]
fn steady_light_traffic_keeps_just_the_hot_worker() {
    paused(async {
        let pool = builder(4).build().unwrap();
        pool.prewarm(4);
        settle().await;
        for _ in 0..30 {
            sleep(TIMEOUT / 10).await;
            soon(pool.schedule(async {}).await.unwrap()).await.unwrap();
            assert!(pool.status().workers >= 1);
        }
        settle().await;
        assert_eq!((pool.status().workers, tasks()), (1, 1));
        sleep(TIMEOUT * 2).await;
        assert_eq!(tasks(), 0);
    });
}

#[test]
fn suspended_jobs_go_on_whatever_became_of_the_workers() {
    paused(async {
        let pool = builder(3).build().unwrap();
        pool.prewarm(3);
        let jobs: Vec<_> = (0..3).map(|_| pool.try_schedule(sleep(TIMEOUT * 5)).unwrap()).collect();
        sleep(TIMEOUT * 4).await;
        assert!(pool.status().workers <= 1, "{:?}", pool.status());
        sleep(TIMEOUT * 2).await;
        for job in jobs {
            assert!(job.is_finished());
            job.await.unwrap();
        }
        sleep(TIMEOUT * 2).await;
        assert_eq!(tasks(), 0);
        whole(&pool).await;
    });
}

#[test]
fn all_at_once_and_none_left() {
    for threads in [1, 2] {
        multi(threads, async {
            let before = tasks();
            let timeout = Duration::from_millis(40);
            let pool = Pool::builder().size(50).min_idle(0).idle_timeout(timeout).build().unwrap();
            for _ in 0..3 {
                let jobs: Vec<_> =
                    (0..50).map(|_| pool.try_schedule(tokio::task::yield_now()).unwrap()).collect();
                for job in jobs {
                    soon(job).await.unwrap();
                }
                let status = pool.status();
                assert!(status.workers <= 50 && status.idle <= status.workers, "{status:?}");
                eventually(|| tasks() == before).await;
                assert_eq!(pool.status().workers, 0);
            }
        });
    }
}

#[test]
fn a_job_that_comes_as_the_workers_leave_is_run() {
    multi(2, async {
        let timeout = Duration::from_millis(1);
        let pool = Pool::builder().size(2).min_idle(0).idle_timeout(timeout).build().unwrap();
        for round in 0..150u64 {
            // Around the moment at which they leave: between one timeout and 9/8 of it.
            tokio::time::sleep(timeout + Duration::from_micros(round * 5)).await;
            let job = pool.try_schedule(async move { round }).unwrap();
            assert_eq!(soon(job).await.unwrap(), round);
        }
        whole(&pool).await;
    });
}

#[test]
fn settings_out_of_range_are_refused() {
    let field = |builder: PoolBuilder| builder.build().unwrap_err().field().to_owned();
    assert_eq!(field(Pool::builder()), "size");
    assert_eq!(field(Pool::builder().size(0)), "size");
    assert_eq!(field(Pool::builder().size(2).min_idle(3)), "min_idle");
    assert_eq!(field(Pool::builder().size(2).idle_timeout(Duration::ZERO)), "idle_timeout");
    assert_eq!(field(Pool::builder().size(2).idle_timeout(Duration::MAX)), "idle_timeout");
    assert_eq!(field(Pool::builder().size(2).target_wait(Duration::ZERO)), "target_wait");
    assert_eq!(field(Pool::builder().size(2).target_wait(Duration::MAX)), "target_wait");
    assert_eq!(field(Pool::builder().size(2).slow_job(Duration::ZERO)), "slow_job");
    assert_eq!(field(Pool::builder().size(2).name("")), "name");
    #[cfg(target_pointer_width = "64")]
    assert_eq!(field(Pool::builder().size(2).queue(1 << 32)), "queue");
}

/// Lets real time pass without a timer: tokio moves a paused clock whenever its tasks are idle.
async fn work_elsewhere() {
    let done = std::sync::Arc::new(tokio::sync::Notify::new());
    let tell = done.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        tell.notify_one();
    });
    done.notified().await;
}

#[test]
fn an_idle_pool_has_no_timer() {
    paused(async {
        for pool in [Pool::new(4), builder(4).min_idle(2).build().unwrap()] {
            let start = tokio::time::Instant::now();
            for _ in 0..3 {
                for _ in 0..100 {
                    pool.schedule(async {}).await.unwrap().await.unwrap();
                }
                work_elsewhere().await;
            }
            let suspended = pool.try_schedule(std::future::pending::<()>()).unwrap();
            work_elsewhere().await;
            suspended.abort();
            soon(suspended).await.unwrap_err();
            work_elsewhere().await;
            assert_eq!(start.elapsed(), Duration::ZERO, "the clock ran ahead");
            whole(&pool).await;
        }
    });
}

#[test]
fn a_worker_that_retires_moves_the_clock_once() {
    paused(async {
        let start = tokio::time::Instant::now();
        let pool = builder(4).min_idle(1).build().unwrap();
        pool.prewarm(4);
        for _ in 0..3 {
            work_elsewhere().await;
            assert_eq!(start.elapsed(), TIMEOUT);
        }
        assert_eq!((pool.status().workers, tasks()), (1, 1));
        let pool = builder(4).build().unwrap();
        pool.schedule(async {}).await.unwrap().await.unwrap();
        for _ in 0..3 {
            work_elsewhere().await;
            assert_eq!((start.elapsed(), pool.status().workers), (TIMEOUT * 2, 0));
        }
    });
}
