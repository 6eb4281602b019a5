//! The greatest numbers of a period.

use std::time::Duration;

use crate::support::*;
use millpond::Pool;

const MS: Duration = Duration::from_millis(1);

#[test]
fn each_peak_is_that_of_the_period() {
    paused(async {
        let pool = Pool::builder().size(4).queue(1).build().unwrap();
        let mut reader = pool.peak_reader().unwrap();
        let zero = reader.take();
        assert_eq!((zero.used_slots, zero.waiting, zero.longest_wait), (0, 0, Duration::ZERO));
        let sleeps = || tokio::time::sleep(100 * MS);
        for _ in 0..4 {
            drop(pool.try_schedule(sleeps()).unwrap());
        }
        // One is queued, two are committed, one runs beyond the size, one in its caller.
        drop(pool.try_schedule(sleeps()).unwrap());
        drop((pool.anyway_go(sleeps()).unwrap(), pool.anyway_go(sleeps()).unwrap()));
        drop(pool.schedule_always(sleeps()).unwrap());
        pool.try_go(sleeps()).await.unwrap().await.unwrap();
        soon(pool.wait_idle()).await;
        let peaks = reader.take();
        assert_eq!((peaks.used_slots, peaks.waiting), (4, 3), "{peaks:?}");
        assert_eq!((peaks.overflow, peaks.in_caller), (1, 1), "{peaks:?}");
        assert!((100 * MS..105 * MS).contains(&peaks.longest_wait), "{peaks:?}");
        // The next period begins with nothing.
        assert_eq!(reader.take(), zero);
        let held = [pool.reserve().await.unwrap(), pool.reserve().await.unwrap()];
        drop(held);
        drop(pool.try_schedule(async {}).unwrap());
        soon(pool.wait_idle()).await;
        assert_eq!(reader.take().used_slots, 2);
        quiet(&pool);
    });
}

#[test]
fn a_period_begins_with_the_present_numbers() {
    paused(async {
        let pool = Pool::new(1);
        let running = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let waiting = pool.anyway_go(async {}).unwrap();
        let mut reader = pool.peak_reader().unwrap();
        tokio::time::sleep(50 * MS).await;
        let peaks = reader.take();
        assert_eq!((peaks.used_slots, peaks.waiting), (1, 1));
        assert!(peaks.longest_wait >= 50 * MS, "the oldest wait goes on: {peaks:?}");
        running.abort();
        waiting.into_handle().await.unwrap();
        let peaks = reader.take();
        assert_eq!((peaks.used_slots, peaks.waiting), (1, 1));
        soon(pool.wait_idle()).await;
        reader.take();
        assert_eq!((reader.take().used_slots, reader.take().waiting), (0, 0));
    });
}

#[test]
fn readers_do_not_steal_from_each_other() {
    single(async {
        let pool = Pool::new(2);
        let (mut often, mut seldom) = (pool.peak_reader().unwrap(), pool.peak_reader().unwrap());
        for _ in 0..2 {
            drop(pool.try_schedule(async {}).unwrap());
        }
        let waiting = pool.anyway_go(async {}).unwrap();
        waiting.into_handle().await.unwrap();
        soon(pool.wait_idle()).await;
        let peaks = often.take();
        assert_eq!((peaks.used_slots, peaks.waiting), (2, 1));
        assert_eq!(often.take().used_slots, 0);
        assert_eq!(seldom.take(), peaks);
    });
}

#[test]
fn readers_are_bounded_and_keep_no_pool_open() {
    single(async {
        let pool = Pool::new(1);
        let mut readers: Vec<_> = (0..16).map(|_| pool.peak_reader().unwrap()).collect();
        let error = pool.peak_reader().unwrap_err();
        assert!(error.to_string().contains("at most 16 readers"), "{error}");
        readers.pop();
        readers.push(pool.peak_reader().unwrap());
        let handle = pool.try_schedule(async {}).unwrap();
        drop(pool);
        handle.await.unwrap();
        assert_eq!(readers[0].take().used_slots, 1);
    });
}

#[test]
fn a_resize_and_a_pause_are_no_use() {
    paused(async {
        let pool = Pool::new(8);
        let mut reader = pool.peak_reader().unwrap();
        let handles: Vec<_> =
            (0..3).map(|_| pool.try_schedule(tokio::time::sleep(MS)).unwrap()).collect();
        pool.resize(100).unwrap();
        pool.resize(2).unwrap();
        for handle in handles {
            handle.await.unwrap();
        }
        soon(pool.wait_idle()).await;
        pool.pause();
        pool.resize(1).unwrap();
        pool.resize(5).unwrap();
        pool.resume();
        law(&pool);
        assert_eq!(reader.take().used_slots, 3);
        pool.try_schedule(async {}).unwrap().await.unwrap();
        pool.pause();
        pool.resume();
        assert_eq!(reader.take().used_slots, 1);
    });
}

#[test]
fn on_many_threads_the_peak_is_a_bound() {
    multi(2, async {
        let pool = Pool::new(64);
        let mut reader = pool.peak_reader().unwrap();
        let gate = Gate::new();
        let handles: Vec<_> = (0..20).map(|_| pool.try_schedule(gate.wait()).unwrap()).collect();
        let peaks = reader.take();
        assert!((20..=64).contains(&peaks.used_slots), "{peaks:?}");
        // What a look finds in use is exact.
        assert_eq!(reader.take().used_slots, 20);
        gate.open();
        for handle in handles {
            soon(handle).await.unwrap();
        }
        soon(pool.wait_idle()).await;
        assert!((1..=20).contains(&reader.take().used_slots));
        assert_eq!(reader.take().used_slots, 0);
    });
}
