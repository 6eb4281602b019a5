//! Aborts race with completion: one of the two happens, and the slot is free when it shows.

use crate::support::*;
use millpond::Pool;

#[test]
fn the_slot_is_free_when_the_handle_resolves() {
    multi(2, async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let mut cancelled = 0;
        for n in 0..20_000 {
            let inside = lives.enter();
            let handle = pool
                .try_schedule(async move {
                    let _inside = inside;
                    for _ in 0..n % 3 {
                        tokio::task::yield_now().await;
                    }
                })
                .unwrap_or_else(|_| panic!("no slot in round {n}"));
            let aborter = (n % 2 == 0).then(|| {
                let abort = handle.abort_handle();
                tokio::spawn(async move { abort.abort() })
            });
            let outcome = handle.await;
            assert_eq!(lives.now(), 0);
            assert_eq!(law(&pool).running, 0);
            cancelled += u64::from(outcome.is_err());
            if let Some(aborter) = aborter {
                aborter.await.unwrap();
            }
        }
        assert_eq!(law(&pool).cancelled, cancelled);
        whole(&pool).await;
    });
}

#[test]
fn aborts_race_with_completion_both_ways() {
    multi(2, async {
        let pool = Pool::new(2);
        let (mut completed, mut cancelled) = (0u32, 0u32);
        for round in 0..40_000u32 {
            let handle = pool
                .schedule(async move {
                    for _ in 0..round % 5 {
                        tokio::task::yield_now().await;
                    }
                    round
                })
                .await
                .unwrap();
            let abort = handle.abort_handle();
            let aborter = tokio::spawn(async move { abort.abort() });
            match soon(handle).await {
                Ok(value) => {
                    assert_eq!(value, round);
                    completed += 1;
                }
                Err(error) => {
                    assert!(error.is_cancelled());
                    cancelled += 1;
                }
            }
            aborter.await.unwrap();
            if round > 2_000 && completed > 50 && cancelled > 50 {
                break;
            }
        }
        assert!(completed > 0 && cancelled > 0, "{completed} completed, {cancelled} cancelled");
        let status = law(&pool);
        assert_eq!((status.completed, status.cancelled), (completed.into(), cancelled.into()));
        whole(&pool).await;
    });
}
