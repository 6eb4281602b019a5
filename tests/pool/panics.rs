//! A panic anywhere in user code costs that job alone: slots, workers and the others go on.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::support::*;
use millpond::{JobError, Pool};

const BOOM: &str = "boom";

fn bomb() -> OnDrop<impl FnMut() + Send> {
    OnDrop(|| silent_panic(BOOM))
}

#[track_caller]
fn message(error: JobError) -> String {
    assert!(error.is_panic() && !error.is_cancelled());
    error.into_panic().unwrap().message().unwrap_or("none").to_owned()
}

#[test]
fn in_poll() {
    single(async {
        let pool = Pool::new(1);
        for suspended in [false, true] {
            let handle = pool.schedule(async move {
                if suspended {
                    tokio::task::yield_now().await;
                }
                panic!("{BOOM} {suspended}");
            });
            let error = soon(handle.await.unwrap()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("the job panicked: boom {suspended}"));
            assert_eq!(message(error), format!("boom {suspended}"));
            assert_eq!(law(&pool).running, 0, "the slot is free when the handle resolves");
        }
        assert_eq!(law(&pool).panicked, 2);
        whole(&pool).await;
    });
}

#[test]
fn the_payload_comes_along() {
    single(async {
        let pool = Pool::new(1);
        let fails = |payload: Box<dyn std::any::Any + Send>| {
            let handle = pool.try_schedule(async { std::panic::resume_unwind(payload) }).unwrap();
            async { soon(handle).await.unwrap_err() }
        };
        let error = fails(Box::new(42u8)).await;
        assert_eq!(error.to_string(), "the job panicked");
        let panic = error.into_panic().unwrap();
        assert_eq!(panic.message(), None);
        assert_eq!(*panic.into_payload().downcast::<u8>().unwrap(), 42);
        assert_eq!(message(fails(Box::new(BOOM)).await), BOOM);
        assert_eq!(message(fails(Box::new(String::from(BOOM))).await), BOOM);
        let panic = fails(Box::new(7i64)).await.into_panic().unwrap();
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panic.resume()));
        assert_eq!(*again.unwrap_err().downcast::<i64>().unwrap(), 7);
        // A cancelled job has no panic to give.
        let handle = pool.try_schedule(std::future::pending::<()>()).unwrap();
        handle.abort();
        assert!(handle.await.unwrap_err().into_panic().unwrap_err().is_cancelled());
        whole(&pool).await;
    });
}

#[test]
fn in_the_destructor_of_the_future() {
    single(async {
        let pool = Pool::new(1);
        // After a value, after a panic, and when it is cancelled: suspended and not started.
        let bad = bomb();
        let job = async move {
            let _bad = bad;
            1
        };
        assert_eq!(message(soon(pool.schedule(job).await.unwrap()).await.unwrap_err()), BOOM);

        // Unlike a local variable, this field is dropped with the future, after its poll.
        struct Fused {
            panics: bool,
            _bad: OnDrop<Box<dyn FnMut() + Send>>,
        }
        impl Future for Fused {
            type Output = u32;
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
                if self.panics { silent_panic("first") } else { Poll::Ready(1) }
            }
        }
        for panics in [false, true] {
            let job = Fused { panics, _bad: OnDrop(Box::new(|| silent_panic(BOOM))) };
            let error = soon(pool.schedule(job).await.unwrap()).await.unwrap_err();
            assert_eq!(message(error), BOOM);
        }
        for started in [false, true] {
            let bad = bomb();
            let handle = pool.try_schedule(async move {
                std::future::pending::<()>().await;
                drop(bad);
            });
            let handle = handle.unwrap();
            if started {
                settle().await;
            }
            handle.abort();
            assert_eq!(message(soon(handle).await.unwrap_err()), BOOM);
        }
        assert_eq!(law(&pool).panicked, 5);
        whole(&pool).await;
    });
}

#[test]
fn in_the_destructor_of_an_output_nobody_takes() {
    multi(2, async {
        let pool = Pool::new(1);
        for suspends in [false, true] {
            // Detached before the end.
            let bad = bomb();
            let job = async move {
                if suspends {
                    tokio::task::yield_now().await;
                }
                bad
            };
            pool.schedule(job).await.unwrap().detach();
            soon(pool.wait_idle()).await;
            // Detached after it.
            let bad = bomb();
            let handle = pool.schedule(async move { bad }).await.unwrap();
            eventually(|| handle.is_finished()).await;
            handle.detach();
        }
        assert_eq!(law(&pool).completed, 4);
        whole(&pool).await;
    });
}

#[test]
fn in_the_destructor_of_an_outcome_its_group_leaves_behind() {
    multi(2, async {
        let pool = Pool::new(2);
        // The last job takes the group along, and the outcomes in it.
        let group = pool.group();
        group.detach();
        let (bad, gate) = (bomb(), Gate::new());
        let last = gate.wait();
        group.schedule(async move { Some(bad) }).await.unwrap();
        group
            .schedule(async move {
                last.await;
                None
            })
            .await
            .unwrap();
        eventually(|| group.len() == 1).await;
        drop(group);
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!(law(&pool).completed, 2);
        assert!(!pool.is_closed(), "a destructor took the pool down");
        whole(&pool).await;
    });
}

/// A payload that panics in turn when it is dropped.
#[test]
fn in_the_destructor_of_a_payload() {
    multi(2, async {
        let pool = Pool::new(1);
        let throw = || {
            let bad = bomb();
            async move { std::panic::resume_unwind(Box::new(bad)) }
        };
        pool.schedule(async move { throw().await })
            .await
            .map(|handle: millpond::JobHandle<()>| handle.detach())
            .unwrap();
        soon(pool.wait_idle()).await;
        let handle = pool.schedule(async move { throw().await }).await.unwrap();
        let error = soon(handle).await.unwrap_err();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error))).unwrap_err();
        // In the caller.
        let gate = Gate::new();
        let held = pool.try_schedule(gate.wait()).unwrap();
        let handle = pool.try_go(async move { throw().await }).await.unwrap();
        let error = handle.await.unwrap_err();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error))).unwrap_err();
        gate.open();
        held.await.unwrap();
        assert_eq!(law(&pool).panicked, 3);
        whole(&pool).await;
    });
}

#[test]
fn in_caller_in_poll_and_destructor() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let handle = pool.try_go(async { silent_panic(BOOM) }).await.unwrap();
        assert!(handle.is_finished());
        assert_eq!(message(handle.await.unwrap_err()), BOOM);
        let bad = bomb();
        let job = async move {
            std::future::pending::<()>().await;
            drop(bad);
        };
        let mut going = Box::pin(pool.try_go(job));
        assert!(poll(&mut going).is_pending());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(going))).unwrap_err();
        let status = law(&pool);
        assert_eq!((status.in_caller, status.panicked + status.cancelled), (0, 2));
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_thousand_panics_leave_the_workers_alone() {
    multi(2, async {
        let pool = Pool::builder().size(3).queue(3).build().unwrap();
        for n in 0..1_000 {
            let job = async move {
                if n % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                silent_panic(BOOM);
            };
            drop(soon(pool.schedule(job)).await.unwrap());
        }
        whole(&pool).await;
        assert_eq!(law(&pool).panicked, 1_000);
    });
}
