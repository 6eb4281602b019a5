//! The calls of layers with a name: each end is counted once, and the name stands in the list of jobs.

use std::time::Duration;

use crate::probe::{Ask, Probe, every_verb};
use crate::support::*;
use millpond::layer::{LayerCounts, PoolLayer};
use millpond::{JobOptions, JobState, Pool};
use tower::{Layer, ServiceExt, service_fn};

fn counts_of(pool: &Pool, name: &str) -> [u64; 6] {
    let counts = pool.layer_counts().into_iter().find(|counts| *counts.name == *name).unwrap();
    let LayerCounts { succeeded, failed, panicked, cancelled, expired, refused, .. } = counts;
    [succeeded, failed, panicked, cancelled, expired, refused]
}

/// Whether the calls run in the pool, or in their callers.
#[test]
fn each_end_counts_once() {
    paused(async {
        for is_full in [false, true] {
            let pool = Pool::builder().size(1).overflow_limit(1).build().unwrap();
            let held = is_full.then(|| hold(&pool));
            for (verb, layer) in every_verb(&pool).into_iter().enumerate() {
                // Those that would wait.
                if is_full && !matches!(verb, 3 | 4) {
                    continue;
                }
                let layer = layer.name(format!("{verb}"));
                let service = layer.layer(Probe::open());
                service.clone().oneshot(Ask::Echo(1)).await.unwrap();
                service.clone().oneshot(Ask::Fail).await.unwrap_err();
                service.clone().oneshot(Ask::PanicAtOnce).await.unwrap_err();
                service.clone().oneshot(Ask::PanicLater).await.unwrap_err();
                let mut dropped = Box::pin(layer.layer(Probe::gated()).oneshot(Ask::Echo(1)));
                assert!(poll(&mut dropped).is_pending());
                settle().await;
                drop(dropped);
                settle().await;
                assert_eq!(counts_of(&pool, &format!("{verb}")), [1, 4, 2, 1, 0, 0], "{verb}");
            }
            if let Some(held) = held {
                held.release().await;
            }
            whole(&pool).await;
        }
    });
}

#[test]
fn calls_that_never_started_count_as_what_they_are() {
    paused(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let refused = PoolLayer::try_schedule(&pool).name("refused").layer(Probe::open());
        refused.oneshot(Ask::Echo(1)).await.unwrap_err();
        let limited = PoolLayer::schedule_within(&pool, Duration::from_secs(1)).name("limited");
        limited.clone().layer(Probe::open()).oneshot(Ask::Echo(1)).await.unwrap_err();
        let soon_late = |_: &Ask| JobOptions::new().timeout(Duration::from_millis(10));
        let late = limited.clone().options(soon_late).layer(Probe::open());
        late.oneshot(Ask::Echo(1)).await.unwrap_err();
        // A caller that goes away leaves nothing.
        let mut left = Box::pin(limited.layer(Probe::open()).oneshot(Ask::Echo(1)));
        assert!(poll(&mut left).is_pending());
        drop(left);
        let committed = PoolLayer::anyway_go(&pool).name("committed").options(soon_late);
        committed.layer(Probe::open()).oneshot(Ask::Echo(1)).await.unwrap_err();
        held.release().await;
        assert_eq!(counts_of(&pool, "refused"), [0, 0, 0, 0, 0, 1]);
        assert_eq!(counts_of(&pool, "limited"), [0, 1, 0, 0, 1, 1]);
        assert_eq!(counts_of(&pool, "committed"), [0, 1, 0, 0, 1, 0]);
        whole(&pool).await;
    });
}

#[test]
fn a_call_is_listed_under_the_name_of_its_layer() {
    single(async {
        let pool = Pool::new(1);
        let group = pool.group_builder::<()>().name("tenant").build().unwrap();
        let endless = service_fn(|()| std::future::pending::<Result<(), std::io::Error>>());
        let limit = Duration::from_secs(1000);
        let layers = [
            (PoolLayer::schedule(&pool).name("front"), "front", JobState::Suspended),
            (
                PoolLayer::schedule_within(&pool, limit).name("limited"),
                "limited",
                JobState::Waiting,
            ),
            (PoolLayer::try_go(&pool).group(&group).name("own"), "own", JobState::InCaller),
            (PoolLayer::try_go(&pool).group(&group), "tenant", JobState::InCaller),
            (PoolLayer::anyway_go(&pool).name("late"), "late", JobState::Waiting),
        ];
        let mut calls = Vec::new();
        for (layer, _, _) in &layers {
            let mut call = Box::pin(layer.layer(endless).oneshot(()));
            assert!(poll(&mut call).is_pending());
            settle().await;
            calls.push(call);
        }
        let jobs = pool.jobs(10);
        assert_eq!(jobs.len(), layers.len());
        for (_, name, state) in layers {
            let named = |job: &&millpond::JobInfo| job.group.as_deref() == Some(name);
            let job = jobs.iter().find(named).unwrap();
            assert_eq!((job.state, job.place.file()), (state, file!()), "{name}: {jobs:?}");
        }
        drop(calls);
        whole(&pool).await;
    });
}
