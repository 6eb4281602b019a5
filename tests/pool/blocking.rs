//! Blocking closures keep their slot until they have returned; blocking verbs block threads that
//! may be blocked, and no others.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::support::*;
use millpond::{JobHandle, JobOptions, Pool, SubmitErrorKind};
use tokio::sync::oneshot;

/// A closure that runs until its sender is gone.
fn closure(
    lives: &Gauge,
) -> (mpsc::Sender<()>, oneshot::Receiver<()>, impl FnOnce() -> u32 + Send + 'static) {
    let ((go, gone), (enter, entered)) = (mpsc::channel::<()>(), oneshot::channel());
    let inside = lives.enter();
    let closure = move || {
        let _inside = inside;
        let _ = enter.send(());
        let _ = gone.recv();
        7
    };
    (go, entered, closure)
}

#[test]
fn returns_what_the_closure_returns_off_the_async_threads() {
    single(async {
        let pool = Pool::new(1);
        let here = std::thread::current().id();
        let job = millpond::blocking(move || (std::thread::current().id() != here, 5));
        assert_eq!(pool.schedule(job).await.unwrap().await.unwrap(), (true, 5));
        // Outside of a pool, within a job, in the caller.
        assert_eq!(millpond::blocking(|| 1).await, 1);
        let job = async { millpond::blocking(|| 2).await + millpond::blocking(|| 3).await };
        assert_eq!(pool.schedule(job).await.unwrap().await.unwrap(), 5);
        let held = hold(&pool);
        let handle = pool.try_go(millpond::blocking(|| 4)).await.unwrap();
        assert_eq!(handle.await.unwrap(), 4);
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_panic_goes_on_in_the_job() {
    single(async {
        let pool = Pool::new(1);
        let handle = pool.schedule(millpond::blocking(|| silent_panic("oh"))).await.unwrap();
        let error = handle.await.unwrap_err();
        assert_eq!(error.into_panic().unwrap().message(), Some("oh"));
        whole(&pool).await;
    });
}

#[test]
fn an_abort_does_not_free_the_slot_before_the_closure_has_returned() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let (go, entered, closure) = closure(&lives);
        let handle = pool.schedule(millpond::blocking(closure)).await.unwrap();
        entered.await.unwrap();
        handle.abort();
        handle.abort();
        settle().await;
        assert!(!handle.is_finished());
        assert_eq!((law(&pool).running, lives.now()), (1, 1));
        assert!(pool.try_schedule(async {}).is_err());
        drop(go);
        let outcome = soon(handle).await;
        assert_eq!(lives.now(), 0);
        // The closure did return; but an abort may win.
        assert!(outcome.is_ok_and(|n| n == 7) || law(&pool).cancelled == 1);
        whole(&pool).await;
    });
}

#[test]
fn an_abort_that_waited_for_the_closure_is_not_forgotten() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let (go, entered, closure) = closure(&lives);
        let job = async {
            millpond::blocking(closure).await;
            std::future::pending::<()>().await;
        };
        let handle = pool.try_schedule(job).unwrap();
        entered.await.unwrap();
        handle.abort();
        settle().await;
        assert!(!handle.is_finished());
        drop(go);
        assert!(soon(handle).await.unwrap_err().is_cancelled());
        whole(&pool).await;
    });
}

/// The job has given its closure to a task, so no poll of the job sees the closure's end.
#[test]
fn an_abort_that_waited_for_a_closure_elsewhere_is_not_forgotten() {
    let body = || async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let (go, entered, closure) = closure(&lives);
        let job = async {
            let mut closure = millpond::blocking(closure);
            std::future::poll_fn(|cx| {
                assert!(Pin::new(&mut closure).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            tokio::spawn(closure);
            std::future::pending::<()>().await;
        };
        let handle = pool.try_schedule(job).unwrap();
        soon(entered).await.unwrap();
        handle.abort();
        settle().await;
        assert!(!handle.is_finished());
        drop(go);
        assert!(soon(handle).await.unwrap_err().is_cancelled());
        whole(&pool).await;
    };
    single(body());
    multi(2, body());
}

/// Runs a job that gives its closure to a task and then waits for its pool. While the closure runs, its job
/// keeps the slot. Nothing but the end of the closure can change that.
async fn lends_once_the_closure_has_returned<F>(wait: impl FnOnce(Pool) -> F)
where
    F: Future<Output = u32> + Send + 'static,
{
    let pool = Pool::new(1);
    let lives = Gauge::default();
    let (go, entered, closure) = closure(&lives);
    let wait = wait(pool.clone());
    let job = pool.try_schedule(async move {
        let mut closure = Box::pin(millpond::blocking(closure));
        assert!(poll(&mut closure).is_pending());
        tokio::spawn(closure);
        wait.await
    });
    soon(entered).await.unwrap();
    eventually(|| pool.status().waiting == 1).await;
    settle().await;
    assert_eq!((law(&pool).running, pool.status().lent), (1, 0));
    drop(go);
    assert_eq!(soon(job.unwrap()).await.unwrap(), 5);
    whole(&pool).await;
}

#[test]
fn a_job_lends_its_slot_once_its_closure_elsewhere_has_returned() {
    let body = || {
        lends_once_the_closure_has_returned(|own| async move {
            own.schedule(async { 5 }).await.unwrap().await.unwrap()
        })
    };
    single(body());
    multi(2, body());
}

/// The poll after the end of the closure is the first one that may lend, and comes by no wait.
#[test]
fn a_job_lends_once_its_closure_elsewhere_has_returned_though_no_poll_finds_the_wait() {
    let body = || {
        lends_once_the_closure_has_returned(|own| async move {
            let child = own.anyway_go(async { 5 }).unwrap().into_handle();
            FuturesUnordered::from_iter([child]).next().await.unwrap().unwrap()
        })
    };
    single(body());
    multi(2, body());
}

#[test]
fn aborted_before_its_start_it_never_runs() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let lives = Gauge::default();
        let held = hold(&pool);
        let (_go, entered, closure) = closure(&lives);
        let handle = pool.try_schedule(millpond::blocking(closure)).unwrap();
        handle.abort();
        assert!(soon(handle).await.unwrap_err().is_cancelled());
        assert_eq!(lives.now(), 0);
        assert!(entered.await.is_err(), "dropped, not called");
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn given_up_by_its_job_it_keeps_the_slot_no_longer() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let (go, entered, closure) = closure(&lives);
        let (tell, told) = oneshot::channel();
        let job = async move {
            tokio::select! {
                biased;
                _ = millpond::blocking(closure) => unreachable!("it waits"),
                _ = entered => tell.send(()).unwrap(),
            }
            std::future::pending::<()>().await;
        };
        let handle = pool.try_schedule(job).unwrap();
        soon(told).await.unwrap();
        handle.abort();
        assert!(soon(handle).await.unwrap_err().is_cancelled());
        assert_eq!(lives.now(), 1, "the closure runs on");
        drop(go);
        eventually(|| lives.now() == 0).await;
        whole(&pool).await;
    });
}

#[test]
fn never_more_closures_than_slots_under_aborts() {
    multi(2, async {
        let pool = Pool::new(2);
        let gauge = Gauge::default();
        let mut handles: Vec<JobHandle<()>> = Vec::new();
        for n in 0..300 {
            let gauge = gauge.clone();
            let job = millpond::blocking(move || {
                let _inside = gauge.enter();
                std::thread::yield_now();
            });
            let handle = soon(pool.schedule(job)).await.unwrap();
            if n % 2 == 0 {
                handle.abort();
            }
            handles.push(handle);
        }
        for handle in handles {
            let _ = soon(handle).await;
        }
        assert!(gauge.peak() <= 2, "{} at once", gauge.peak());
        assert!(gauge.total() >= 150);
        whole(&pool).await;
    });
}

#[test]
fn blocking_verbs_from_threads_outside() {
    for threads in [0, 1, 2] {
        watched(move || {
            let runtime = match threads {
                0 => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
                n => runtime(n),
            };
            let builder = Pool::builder().size(1).runtime(runtime.handle().clone());
            let pool = builder.build().unwrap();
            let held = hold(&pool);
            let waiter = |commits: bool| {
                let pool = pool.clone();
                std::thread::spawn(move || {
                    let view = pool.with(JobOptions::new());
                    let handle = match (commits, threads) {
                        (true, 0) => view.blocking_anyway_go(async { 1 }).unwrap(),
                        (true, _) => pool.blocking_anyway_go(async { 1 }).unwrap(),
                        (false, 0) => view.blocking_schedule(async { 2 }).unwrap(),
                        (false, _) => pool.blocking_schedule(async { 2 }).unwrap(),
                    };
                    futures(handle)
                })
            };
            let (a, b) = (waiter(true), waiter(false));
            runtime.block_on(async {
                eventually(|| law(&pool).waiting == 2).await;
                assert!(!a.is_finished() && !b.is_finished());
                held.release().await;
                eventually(|| a.is_finished() && b.is_finished()).await;
            });
            assert_eq!((a.join().unwrap(), b.join().unwrap()), (1, 2));
            pool.close();
            assert_eq!(
                pool.blocking_schedule(async {}).unwrap_err().kind(),
                SubmitErrorKind::Closed
            );
            assert!(pool.blocking_anyway_go(async {}).is_err());
            runtime.block_on(async { quiet(&pool) });
        });
    }
}

/// Waits for a handle on a thread that has no runtime.
fn futures<T>(handle: JobHandle<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handle).unwrap()
}

#[test]
fn blocking_verbs_end_with_a_close() {
    watched(|| {
        let runtime = runtime(1);
        let builder = Pool::builder().size(1).runtime(runtime.handle().clone());
        let pool = builder.build().unwrap();
        let held = hold(&pool);
        let own = pool.clone();
        let waiter = std::thread::spawn(move || own.blocking_schedule(async {}).is_err());
        runtime.block_on(async {
            eventually(|| law(&pool).waiting == 1).await;
            pool.close();
            eventually(|| waiter.is_finished()).await;
            held.release().await;
        });
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn blocking_verbs_work_where_blocking_is_allowed() {
    multi(1, async {
        let pool = Pool::new(1);
        let own = pool.clone();
        let done = tokio::task::spawn_blocking(move || {
            own.blocking_schedule(async { 4 }).unwrap().detach();
            own.blocking_anyway_go(async { 5 }).unwrap()
        });
        let handle = soon(done).await.unwrap();
        assert_eq!(soon(handle).await.unwrap(), 5);
        whole(&pool).await;
    });
}

#[track_caller]
fn refuses_clearly(pool: &Pool) {
    let before = law(pool).submitted;
    for verb in ["blocking_schedule", "blocking_anyway_go"] {
        let panic = catch_unwind(AssertUnwindSafe(|| match verb {
            "blocking_schedule" => drop(pool.blocking_schedule(async {})),
            _ => drop(pool.blocking_anyway_go(async {})),
        }))
        .expect_err(verb);
        let message = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(message.contains(&format!("`{verb}`")), "unclear: {message:?}");
        assert_eq!(law(pool).submitted, before, "`{verb}` took a job it panicked about");
    }
}

#[test]
fn blocking_verbs_panic_clearly_in_a_task() {
    for threads in [1, 2] {
        multi(threads, async { refuses_clearly(&Pool::new(2)) });
    }
    single(async {
        tokio::spawn(async { refuses_clearly(&Pool::new(2)) }).await.unwrap();
        let pool = Pool::new(2);
        let own = pool.clone();
        pool.try_schedule(async move { refuses_clearly(&own) }).unwrap().await.unwrap();
    });
}

#[test]
fn blocking_verbs_panic_clearly_in_block_on() {
    single(async { refuses_clearly(&Pool::new(2)) });
    watched(|| runtime(1).block_on(async { refuses_clearly(&Pool::new(2)) }));
}

#[test]
fn verbs_panic_clearly_without_a_runtime() {
    let pool = Pool::new(1);
    let verbs: [(&str, &dyn Fn()); 3] = [
        ("try_schedule", &|| drop(pool.try_schedule(async {}))),
        ("schedule", &|| drop(pool.schedule(async {}))),
        ("blocking_schedule", &|| drop(pool.blocking_schedule(async {}))),
    ];
    for (verb, call) in verbs {
        let panic = catch_unwind(AssertUnwindSafe(call)).expect_err(verb);
        let text = panic.downcast_ref::<&str>().copied().map(String::from);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        assert!(text.contains("PoolBuilder::runtime"), "unclear: {text:?}");
    }
}
