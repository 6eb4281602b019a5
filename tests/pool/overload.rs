//! Overload: which callers are refused while the line does not become shorter. A simulated load, a paused
//! clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use millpond::{JobOptions, Pool, PoolBuilder, Priority, SubmitErrorKind};
use tokio::time::{Instant, sleep, sleep_until};

const MS: Duration = Duration::from_millis(1);
const SERVICE: Duration = Duration::from_millis(20);
/// With this size and service time, a load of 1.0 is 400 jobs a second.
const SIZE: usize = 8;

/// A job that takes `SERVICE` from its start on.
async fn serve() {
    sleep(SERVICE).await;
}

/// What became of the callers of one priority.
#[derive(Debug, Default, Clone)]
struct Seen {
    offered: usize,
    /// From the call to the end of the job.
    latencies: Vec<Duration>,
    /// The refusals of callers that came in the first 200 ms.
    early: Vec<Refusal>,
    refusals: Vec<Refusal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    waited: Duration,
    retry_after: Duration,
}

impl Seen {
    fn within(&self, patience: Duration) -> usize {
        self.latencies.iter().filter(|&&latency| latency <= patience).count()
    }
}

/// Offers jobs at `load` times the pool's capacity for a time, and waits for all of them.
async fn offer(pool: &Pool, load: f64, time: Duration, priority: Priority) -> Seen {
    let gap = SERVICE.div_f64(SIZE as f64 * load);
    let (start, seen) = (Instant::now(), Arc::new(Mutex::new(Seen::default())));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0.. {
        let at = start + gap * number;
        if at >= start + time {
            break;
        }
        sleep_until(at).await;
        seen.lock().unwrap().offered += 1;
        let (pool, seen) = (pool.clone(), seen.clone());
        callers.spawn(async move {
            let called = Instant::now();
            let view = pool.with(JobOptions::new().priority(priority));
            match view.schedule(serve()).await {
                Ok(handle) => {
                    handle.await.unwrap();
                    seen.lock().unwrap().latencies.push(called.elapsed());
                }
                Err(refused) => {
                    let SubmitErrorKind::Shed { retry_after } = refused.kind() else {
                        panic!("{refused}");
                    };
                    let mut seen = seen.lock().unwrap();
                    let is_early = called - start < 200 * MS;
                    let list = if is_early { &mut seen.early } else { &mut seen.refusals };
                    list.push(Refusal { waited: called.elapsed(), retry_after });
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.offered, seen.latencies.len() + seen.early.len() + seen.refusals.len());
    seen
}

fn builder() -> PoolBuilder {
    Pool::builder().size(SIZE)
}

#[test]
fn overload_keeps_the_pool_busy_and_the_waits_short() {
    for load in [1.4, 2.0, 10.0] {
        paused(async move {
            let pool = builder().target_wait(20 * MS).build().unwrap();
            let seen = offer(&pool, load, 2_000 * MS, Priority::Normal).await;
            // Two seconds of 400 jobs: all slots were busy (O2).
            let good = seen.within(200 * MS);
            assert!(good >= 760, "{load}: {good} of 800");
            // After the first interval, no wait is longer than two targets.
            let mut latencies = seen.latencies.clone();
            latencies.sort();
            let p99 = latencies[latencies.len() * 99 / 100];
            assert!(p99 <= SERVICE + 2 * 20 * MS + 60 * MS, "{load}: {p99:?}");
            // The newest goes first, so most wait for a moment alone.
            let median = latencies[latencies.len() / 2];
            assert!(load > 2.0 || median <= SERVICE + 10 * MS, "{load}: {median:?}");
            // Once the overload is known, a refusal comes at once, or after two targets and a turn.
            let late = seen.refusals.iter().find(|refusal| refusal.waited > 62 * MS);
            assert_eq!(late, None, "{load}");
            // Where the line is always full, most callers hear so at once.
            let at_once = seen.refusals.iter().filter(|refusal| refusal.waited.is_zero()).count();
            assert!(load < 10.0 || at_once * 2 >= seen.refusals.len(), "{at_once}");
            let honest = |refusal: &Refusal| (MS..80 * MS).contains(&refusal.retry_after);
            let strange = seen.refusals.iter().find(|refusal| !honest(refusal));
            assert_eq!(strange, None, "{load}");
            law(&pool);
            whole(&pool).await;
        });
    }
}

/// The same load and the same program: the same decisions.
#[test]
fn a_simulated_load_has_one_result() {
    let run = || {
        let (tell, told) = std::sync::mpsc::channel();
        paused(async move {
            let pool = builder().target_wait(20 * MS).build().unwrap();
            let seen = offer(&pool, 3.0, 500 * MS, Priority::Normal).await;
            tell.send((seen.latencies, seen.refusals)).unwrap();
        });
        told.recv().unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_burst_and_a_busy_pool_are_no_overload() {
    paused(async {
        let pool = builder().target_wait(20 * MS).build().unwrap();
        for _ in 0..5 {
            // Three times the capacity for 20 ms, then a pause in which the line empties.
            let seen = offer(&pool, 3.0, 20 * MS, Priority::Normal).await;
            assert!(seen.early.is_empty(), "{:?}", seen.early);
        }
        let seen = offer(&pool, 0.95, 1_000 * MS, Priority::Normal).await;
        assert!(seen.early.is_empty() && seen.refusals.is_empty());
    });
}

#[test]
fn the_overload_ends_with_the_load() {
    paused(async {
        let pool = builder().target_wait(20 * MS).build().unwrap();
        let flood = offer(&pool, 5.0, 500 * MS, Priority::Normal).await;
        assert!(!flood.refusals.is_empty());
        let calm = offer(&pool, 0.9, 500 * MS, Priority::Normal).await;
        assert!(calm.early.is_empty() && calm.refusals.is_empty(), "{calm:?}");
    });
}

/// A program that feeds a pool by `schedule` wants to wait. Without a target, its jobs are never refused.
#[test]
fn feeders_wait_unless_they_ask_for_a_target() {
    for pool in [builder().build().unwrap(), builder().target_wait(None).build().unwrap()] {
        paused(async move {
            let seen = offer(&pool, 10.0, 300 * MS, Priority::Normal).await;
            assert_eq!(seen.latencies.len(), seen.offered);
        });
    }
}

#[test]
fn a_committed_job_is_never_shed() {
    paused(async {
        let pool = builder().target_wait(5 * MS).build().unwrap();
        let promised: Vec<_> = (0..200)
            .map(|number| {
                let job = async move {
                    serve().await;
                    number
                };
                pool.anyway_go(job).unwrap().into_handle()
            })
            .collect();
        let flood = offer(&pool, 5.0, 300 * MS, Priority::Normal).await;
        assert!(!flood.refusals.is_empty());
        for (number, handle) in promised.into_iter().enumerate() {
            assert_eq!(handle.await.unwrap(), number);
        }
        whole(&pool).await;
    });
}

#[test]
fn a_spike_of_the_low_class_costs_the_high_one_nothing() {
    paused(async {
        let pool = builder().target_wait(20 * MS).build().unwrap();
        let (high, low) = tokio::join!(
            offer(&pool, 0.5, 2_000 * MS, Priority::High),
            offer(&pool, 6.0, 2_000 * MS, Priority::Low),
        );
        assert!(high.early.is_empty() && high.refusals.is_empty());
        assert_eq!(high.within(200 * MS), high.offered);
        // The low class takes what is left.
        let all = high.within(200 * MS) + low.within(200 * MS);
        assert!(all >= 760, "{all} of 800");
    });
}

/// Five classes, together nearly the capacity; then the low one sends twelve times as much for a second.
#[test]
fn a_spike_of_the_low_class_leaves_it_the_rest() {
    use Priority::{Background, Critical, High, Low, Normal};
    for target in [20 * MS, 50 * MS] {
        paused(async move {
            let pool = builder().target_wait(target).build().unwrap();
            let steady = |priority, load| {
                let pool = pool.clone();
                async move { offer(&pool, load, 3_000 * MS, priority).await }
            };
            let low = async {
                let before = offer(&pool, 0.2, 1_000 * MS, Low).await;
                let spike = offer(&pool, 12.0 * 0.2, 1_000 * MS, Low).await;
                (before, spike, offer(&pool, 0.2, 900 * MS, Low).await)
            };
            let steady = async {
                tokio::join!(
                    steady(Critical, 0.1),
                    steady(High, 0.3),
                    steady(Normal, 0.3),
                    steady(Background, 0.05)
                )
            };
            let ((critical, high, normal, background), (before, spike, after)) =
                tokio::join!(steady, low);
            for class in [&critical, &high, &normal] {
                let answered = class.within(200 * MS) as f64 / class.offered as f64;
                assert!(answered >= 0.994, "{answered} of {}", class.offered);
            }
            let good = |seen: &Seen| seen.within(200 * MS) as f64;
            assert!(good(&before) >= 0.99 * before.offered as f64);
            let all = [&critical, &high, &normal, &background, &before, &spike, &after];
            // Before and after the spike, less is offered than the pool can serve.
            let possible = 400.0 * (0.95 + 1.0 + 0.95);
            let all = all.into_iter().map(good).sum::<f64>();
            assert!(all >= 0.95 * possible, "{all} of {possible}");
            // The spike has what the higher classes leave of a second, 0.3 of 400 jobs. A few are the lowest
            // class's, and a few callers are served after the spike.
            assert!((95.0..=130.0).contains(&good(&spike)), "{}", good(&spike));
            whole(&pool).await;
        });
    }
}

/// The load steps far beyond the capacity. Callers that could not be served any more are refused before the
/// overload is certain, and not when it is.
#[test]
fn a_great_step_is_refused_at_once() {
    paused(async {
        let pool = builder().target_wait(50 * MS).build().unwrap();
        offer(&pool, 0.9, 200 * MS, Priority::Normal).await;
        let seen = offer(&pool, 10.0, 150 * MS, Priority::Normal).await;
        let late = seen.early.iter().filter(|refusal| !refusal.waited.is_zero()).count();
        // Three targets of waiting, less what is served until the overload is certain. Without the early refusal: 499.
        assert!(late <= 120, "{late} of {} late", seen.early.len());
        assert!(seen.latencies.len() >= 60, "{}", seen.latencies.len());
    });
}

/// A pool whose jobs were slow does not know yet that they are quick now.
#[test]
fn a_line_of_quick_jobs_after_slow_ones_is_let_in() {
    paused(async {
        let pool = builder().target_wait(20 * MS).build().unwrap();
        let slow = || async { sleep(1_000 * MS).await };
        let slow = (0..4 * SIZE).map(|_| pool.anyway_go(slow()).unwrap().into_handle());
        for handle in slow.collect::<Vec<_>>() {
            handle.await.unwrap();
        }
        for _ in 0..20 {
            let quick = (0..5 * SIZE).map(|_| pool.schedule(async { sleep(MS).await }));
            let handles = futures_util::future::join_all(quick).await;
            assert!(handles.iter().all(Result::is_ok));
            for handle in handles {
                handle.unwrap().await.unwrap();
            }
        }
    });
}

/// The classes are let in from the top down until what comes in equals what goes out.
#[test]
fn what_is_served_is_above_a_quantile() {
    use Priority::{Background, Critical, High, Low, Normal};
    paused(async {
        let pool = builder().target_wait(50 * MS).build().unwrap();
        let offer = |priority, load| offer(&pool, load, 4_000 * MS, priority);
        let [critical, high, normal, low, background] = futures_util::future::join_all([
            offer(Critical, 0.2),
            offer(High, 0.3),
            offer(Normal, 0.3),
            offer(Low, 1.0),
            offer(Background, 3.0),
        ])
        .await
        .try_into()
        .unwrap();
        for class in [&critical, &high, &normal] {
            assert_eq!(class.within(200 * MS), class.offered);
        }
        // Four seconds of 400 jobs, of which 0.8 are above.
        let share = |seen: &Seen| seen.within(200 * MS) as f64 / 1_600.0;
        assert!(share(&low) + share(&background) >= 0.19);
        // The threshold is in the low class. The one below has the part that no class is denied.
        assert!((0.05..0.09).contains(&share(&background)), "{}", share(&background));
        // Without regard to what the higher ones take, 0.24 wait in vain.
        let late = background.refusals.iter().filter(|refusal| !refusal.waited.is_zero());
        let late = late.count() as f64 / background.offered as f64;
        assert!(late < 0.2, "{late}");
    });
}

#[test]
fn no_class_starves_under_overload() {
    for target in [5 * MS, 20 * MS, 50 * MS] {
        paused(async move {
            let pool = builder().target_wait(target).build().unwrap();
            let (high, low) = tokio::join!(
                offer(&pool, 5.0, 2_000 * MS, Priority::High),
                offer(&pool, 2.0, 2_000 * MS, Priority::Low),
            );
            let all = high.within(200 * MS) + low.within(200 * MS);
            assert!(all >= 760, "{target:?}: {all} of 800");
            // A sixteenth of 800.
            assert!(low.latencies.len() >= 45, "{target:?}: {}", low.latencies.len());
        });
    }
}

/// Where the high class stops, the low one has all slots at once.
#[test]
fn what_the_high_class_leaves_the_low_one_has_at_once() {
    for target in [20 * MS, 50 * MS] {
        paused(async move {
            let pool = builder().target_wait(target).build().unwrap();
            let high = async {
                offer(&pool, 2.0, 1_000 * MS, Priority::High).await;
                // All high ones have ended.
                let before = pool.timings().run.count();
                sleep(200 * MS).await;
                pool.timings().run.count() - before
            };
            let (ended, _) = tokio::join!(high, offer(&pool, 2.0, 1_500 * MS, Priority::Low));
            assert!(ended >= 76, "{target:?}: {ended} of 80");
        });
    }
}

#[test]
fn the_status_tells_the_oldest_wait_and_what_to_expect() {
    paused(async {
        let pool = Pool::builder().size(1).target_wait(1_000 * MS).build().unwrap();
        assert_eq!(pool.status().oldest_wait, Duration::ZERO);
        let mut handles = Vec::new();
        for _ in 0..10 {
            handles.push(pool.anyway_go(serve()).unwrap().into_handle());
        }
        sleep(SERVICE * 4 + 5 * MS).await;
        let status = pool.status();
        assert!((80..95).contains(&status.oldest_wait.as_millis()), "{status:?}");
        // Five wait, of 20 ms each.
        assert!((90..125).contains(&status.expected_wait.as_millis()), "{status:?}");
        for handle in handles {
            handle.await.unwrap();
        }
    });
}

/// A target that no clock can tell is never missed.
#[test]
fn the_longest_target_refuses_no_caller() {
    for target in [Duration::MAX, Duration::MAX / 2, Duration::from_secs(1 << 60)] {
        paused(async move {
            let pool = builder().target_wait(target).build().unwrap();
            let seen = offer(&pool, 3.0, 300 * MS, Priority::Normal).await;
            assert_eq!(seen.latencies.len(), seen.offered);
            whole(&pool).await;
        });
    }
}

#[test]
fn a_target_of_zero_is_refused() {
    let error = builder().target_wait(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.field(), "target_wait");
}
