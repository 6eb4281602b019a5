//! An abort reaches a job wherever it is; when the handle resolves, the destructor has run and
//! the slot is free.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;
use millpond::{JobHandle, Pool};
use tokio_test::{assert_pending, assert_ready, task};

/// A job that never ends, with something to drop.
fn endless(lives: &Gauge) -> impl Future<Output = ()> + Send + 'static {
    let inside = lives.enter();
    async move {
        std::future::pending::<()>().await;
        drop(inside);
    }
}

async fn cancelled<T: std::fmt::Debug>(handle: JobHandle<T>, lives: &Gauge) {
    let error = soon(handle).await.unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(error.to_string(), "the job was cancelled");
    assert_eq!(lives.now(), 0, "the destructor has not run");
}

#[test]
fn waiting() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let lives = Gauge::default();
        let before = pool.anyway_go(async { 1 }).unwrap().into_handle();
        let handle = pool.anyway_go(endless(&lives)).unwrap().into_handle();
        let after = pool.anyway_go(async { 2 }).unwrap().into_handle();
        assert_eq!(law(&pool).waiting, 3);
        handle.abort();
        assert!(handle.is_finished(), "nothing to wait for");
        assert_eq!(lives.now(), 0);
        assert_eq!(law(&pool).waiting, 2);
        cancelled(handle, &lives).await;
        held.release().await;
        assert_eq!((before.await.unwrap(), after.await.unwrap()), (1, 2));
        assert_eq!(law(&pool).cancelled, 1);
        whole(&pool).await;
    });
}

#[test]
fn queued_makes_room_in_the_queue() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let held = hold(&pool);
        let lives = Gauge::default();
        let handle = pool.try_schedule(endless(&lives)).unwrap();
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        handle.abort();
        assert!(waiter.is_woken(), "the place in the queue is free");
        let waited = assert_ready!(waiter.poll()).unwrap();
        assert_eq!((law(&pool).queued, law(&pool).waiting), (1, 0));
        cancelled(handle, &lives).await;
        held.release().await;
        soon(waited).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn ready_but_not_started() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let polled = Arc::new(AtomicBool::new(false));
        let (flag, inside) = (polled.clone(), endless(&lives));
        let handle = pool
            .try_schedule(async move {
                flag.store(true, SeqCst);
                inside.await;
            })
            .unwrap();
        handle.abort();
        cancelled(handle, &lives).await;
        assert!(!polled.load(SeqCst));
        soon(pool.try_schedule(async {}).unwrap()).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn suspended() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let handle = pool.try_schedule(endless(&lives)).unwrap();
        settle().await;
        assert_eq!(lives.now(), 1);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        handle.abort();
        cancelled(handle, &lives).await;
        assert!(waiter.is_woken());
        soon(assert_ready!(waiter.poll()).unwrap()).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn running() {
    for returns in [false, true] {
        multi(2, async move {
            let pool = Pool::new(1);
            let lives = Gauge::default();
            let (meet, inside) = (Arc::new(Barrier::new(2)), endless(&lives));
            let met = meet.clone();
            let handle = pool
                .try_schedule(async move {
                    met.wait();
                    met.wait();
                    if !returns {
                        inside.await;
                    }
                })
                .unwrap();
            // Aborts from outside of the runtime, while the job is being polled.
            let abort = handle.abort_handle();
            let aborter = std::thread::spawn(move || {
                meet.wait();
                abort.abort();
                assert!(!abort.is_finished());
                meet.wait();
            });
            let outcome = soon(handle).await;
            assert_eq!(lives.now(), 0);
            if returns {
                outcome.expect("it returned before it could be cancelled");
            } else {
                assert!(outcome.unwrap_err().is_cancelled());
            }
            aborter.join().unwrap();
            whole(&pool).await;
        });
    }
}

#[test]
fn from_within() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let (tell, told) = tokio::sync::oneshot::channel::<millpond::AbortHandle>();
        let inside = endless(&lives);
        let handle = pool
            .try_schedule(async move {
                told.await.unwrap().abort();
                inside.await;
            })
            .unwrap();
        tell.send(handle.abort_handle()).unwrap();
        cancelled(handle, &lives).await;
        whole(&pool).await;
    });
}

#[test]
fn finished_twice_and_after_detach() {
    single(async {
        let pool = Pool::new(1);
        let handle = pool.try_schedule(async { 5 }).unwrap();
        settle().await;
        assert!(handle.is_finished());
        handle.abort();
        handle.abort_handle().abort();
        assert_eq!(handle.await.unwrap(), 5, "the result was there first");

        let lives = Gauge::default();
        let handle = pool.try_schedule(endless(&lives)).unwrap();
        handle.abort();
        handle.abort();
        cancelled(handle, &lives).await;

        for starts in [false, true] {
            let handle = pool.try_schedule(endless(&lives)).unwrap();
            let abort = handle.abort_handle();
            handle.detach();
            if starts {
                settle().await;
            }
            assert!(!abort.is_finished());
            abort.abort();
            abort.clone().abort();
            settle().await;
            assert!(abort.is_finished());
            assert_eq!((lives.now(), law(&pool).running), (0, 0));
        }
        assert_eq!(law(&pool).cancelled, 3);
        whole(&pool).await;
    });
}

#[test]
fn overflow_and_in_caller() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let lives = Gauge::default();
        let handle = pool.schedule_always(endless(&lives)).unwrap();
        settle().await;
        handle.abort();
        cancelled(handle, &lives).await;
        let handle = pool.try_go(async { 1 }).await.unwrap();
        handle.abort();
        assert!(handle.abort_handle().is_finished());
        assert_eq!(handle.await.unwrap(), 1);
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_destructor_may_submit() {
    single(async {
        let pool = Pool::new(2);
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let own = pool.clone();
        let last_words = OnDrop(move || {
            tell.send(own.try_schedule(async { 8 }).unwrap()).unwrap();
        });
        let handle = pool.try_schedule(async move {
            std::future::pending::<()>().await;
            drop(last_words);
        });
        let handle = handle.unwrap();
        settle().await;
        handle.abort();
        assert!(soon(handle).await.unwrap_err().is_cancelled());
        assert_eq!(soon(told.recv().await.unwrap()).await.unwrap(), 8);
        drop(told);
        whole(&pool).await;
    });
}
