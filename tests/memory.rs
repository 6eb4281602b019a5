//! Memory comes back after a burst, and nothing keeps an output that has no reader.
//!
//! A program of its own: it counts every byte of the process. Its tests run one after another.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use millpond::{JobHandle, Pool};
use support::*;

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const MIB: isize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(150);
const IDLE: Duration = Duration::from_secs(10);

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Calls `burst` with a pool and a job that never ends, on a runtime with a paused clock. `burst`
/// leaves the pool with that job alone. At most `limit` bytes are left an idle timeout later.
fn left_after<F>(limit: isize, burst: impl FnOnce(Pool) -> F + Send + 'static) -> impl FnOnce(bool)
where
    F: Future<Output = ()> + Send,
{
    move |stays| {
        watched_for(LIMIT, move || {
            let _alone = alone();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let pool = Pool::builder().size(4).queue(1_000).idle_timeout(IDLE).build().unwrap();
                pool.schedule(async {}).await.unwrap().await.unwrap();
                let stays = stays.then(|| {
                    pool.try_schedule(std::future::pending::<()>()).unwrap().abort_on_drop()
                });
                let before = LIVE.load(Relaxed);
                burst(pool.clone()).await;
                tokio::time::sleep(IDLE).await;
                let left = LIVE.load(Relaxed) - before;
                assert!(left < limit, "{:.1} MiB are left", left as f64 / MIB as f64);
                drop(stays);
                whole(&pool).await;
            });
        });
    }
}

#[test]
fn after_a_million_jobs_in_line() {
    left_after(8 * MIB, |pool| async move {
        let mut last = None;
        for _ in 0..1_000_000 {
            last = Some(pool.anyway_go(async {}).unwrap().into_handle());
        }
        assert!(pool.status().waiting > 900_000);
        last.unwrap().await.unwrap();
    })(false);
}

#[test]
fn after_many_jobs_in_line_around_some_that_wait() {
    left_after(2 * MIB, |pool| async move {
        let mut last = None;
        for _ in 0..100_000 {
            last = Some(pool.anyway_go(async {}).unwrap().into_handle());
        }
        // Never again is the wait list empty.
        let gate = Gate::new();
        let held: Vec<_> =
            (0..10).map(|_| pool.anyway_go(gate.wait()).unwrap().into_handle()).collect();
        last.unwrap().await.unwrap();
        settle().await;
        assert!(pool.status().waiting + pool.status().queued > 0);
        let before = LIVE.load(Relaxed);
        gate.open();
        for held in held {
            held.await.unwrap();
        }
        let after = LIVE.load(Relaxed);
        assert!(before - after < 2 * MIB, "{} B came back only at the end", before - after);
    })(true);
}

#[test]
fn after_many_jobs_in_a_run_queue() {
    left_after(2 * MIB, |pool| async move {
        let mut last = None;
        for _ in 0..300_000 {
            last = Some(pool.schedule_always(async {}).unwrap());
        }
        last.unwrap().await.unwrap();
    })(true);
}

#[test]
fn after_many_suspended_jobs() {
    left_after(2 * MIB, |pool| async move {
        let jobs: Vec<JobHandle<()>> = (0..200_000)
            .map(|n| {
                let job = async move {
                    for _ in 0..1 + n % 3 {
                        tokio::task::yield_now().await;
                    }
                    tokio::time::sleep(Duration::from_millis(n % 7)).await;
                };
                pool.schedule_always(job).unwrap()
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
    })(true);
}

/// An output that tells when it is dropped.
type Output = Inside;

/// Checks that no output of a finished job is left, although its abort handle or its waker is kept.
fn dropped<F: Future<Output = ()> + Send + 'static>(
    body: impl Fn(Pool, Gauge) -> F + Send + Sync + 'static,
) {
    let _alone = alone();
    let body = Arc::new(body);
    for threads in [0, 2] {
        let body = body.clone();
        let test = async move {
            let pool = Pool::new(2);
            let outputs = Gauge::default();
            body(pool.clone(), outputs.clone()).await;
            soon(pool.wait_idle()).await;
            eventually(|| outputs.now() == 0).await;
            assert!(outputs.total() > 0);
            whole(&pool).await;
        };
        if threads == 0 { single(test) } else { multi(threads, test) }
    }
}

async fn output(gate: Gate, outputs: Gauge) -> Output {
    gate.wait().await;
    outputs.enter()
}

#[test]
fn an_abort_handle_keeps_no_output() {
    dropped(|pool, outputs| async move {
        let gate = Gate::new();
        let mut kept = Vec::new();
        // The handle goes before the job starts, while it is suspended, and after its end.
        for n in 0..3 {
            let handle = pool.schedule(output(gate.clone(), outputs.clone())).await.unwrap();
            kept.push(handle.abort_handle());
            if n == 1 {
                settle().await;
            }
            if n < 2 {
                drop(handle);
                gate.pass(1);
            } else {
                gate.pass(1);
                eventually(|| handle.is_finished()).await;
                assert_eq!(outputs.now(), 1, "the handle may still take the output");
                drop(handle);
                assert_eq!(outputs.now(), 0, "the last reader is gone");
            }
            eventually(|| kept.last().unwrap().is_finished()).await;
            assert_eq!(outputs.now(), 0);
        }
        // Taken: the output is the caller's.
        gate.open();
        let handle = pool.schedule(output(gate, outputs.clone())).await.unwrap();
        kept.push(handle.abort_handle());
        let taken = handle.await.unwrap();
        assert_eq!(outputs.now(), 1);
        drop(taken);
        assert_eq!(outputs.now(), 0);
        assert!(kept.iter().all(millpond::AbortHandle::is_finished));
        kept.iter().for_each(millpond::AbortHandle::abort);
    });
}

#[test]
fn a_waker_keeps_no_output() {
    dropped(|pool, outputs| async move {
        let kept = Arc::new(Mutex::new(None::<Waker>));
        let (place, inside) = (kept.clone(), outputs.clone());
        let job = async move {
            std::future::poll_fn(|cx| {
                *place.lock().unwrap() = Some(cx.waker().clone());
                Poll::Ready(())
            })
            .await;
            inside.enter()
        };
        drop(pool.schedule(job).await.unwrap());
        soon(pool.wait_idle()).await;
        eventually(|| outputs.total() == 1 && outputs.now() == 0).await;
        kept.lock().unwrap().take().unwrap().wake();
    });
}

#[test]
fn handles_that_race_with_the_end_drop_the_output_once() {
    let _alone = alone();
    multi_for(LIMIT, 2, async {
        let pool = Pool::new(2);
        let outputs = Gauge::default();
        for round in 0..2_000 {
            let inside = outputs.clone();
            let handle = pool.schedule(async move { inside.enter() }).await.unwrap();
            let abort = handle.abort_handle();
            for _ in 0..round % 64 {
                std::hint::spin_loop();
            }
            drop(handle);
            eventually(|| abort.is_finished() && outputs.now() == 0).await;
        }
        assert_eq!(outputs.total(), 2_000);
        whole(&pool).await;
    });
}
