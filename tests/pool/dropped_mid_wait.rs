//! Any wait may be dropped at any await: it leaves no trace, and what was kept for it passes on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Poll, Wake, Waker};

use crate::support::*;
use millpond::{Pool, TryScheduleError};
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn an_unpolled_future_does_nothing() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let job = || {
            let inside = lives.enter();
            async move { drop(inside) }
        };
        let group = pool.group();
        drop(pool.schedule(job()));
        drop(pool.try_go(job()));
        drop(group.schedule(job()));
        drop(group.try_go(job()));
        assert_eq!((lives.total(), lives.now()), (4, 0));
        assert_eq!(quiet(&pool).submitted, 0);
    });
}

#[test]
fn a_dropped_waiter_never_runs_and_leaves_the_wait_list() {
    single(async {
        for queue in [0, 1] {
            let pool = Pool::builder().size(1).queue(queue).build().unwrap();
            let held = fill(&pool);
            let (lives, ran) = (Gauge::default(), Gauge::default());
            let mut waiters: Vec<_> = (0..5)
                .map(|_| {
                    let (inside, ran) = (lives.enter(), ran.clone());
                    Some(task::spawn(pool.schedule(async move {
                        drop(ran.enter());
                        drop(inside);
                    })))
                })
                .collect();
            for waiter in waiters.iter_mut().flatten() {
                assert_pending!(waiter.poll());
                assert_pending!(waiter.poll());
            }
            // The first, one in the middle, the last.
            for n in [0, 2, 4] {
                waiters[n] = None;
            }
            assert_eq!(lives.now(), 2);
            let status = law(&pool);
            assert_eq!((status.waiting, status.withdrawn), (2, 3));
            release(held).await;
            for waiter in waiters.iter_mut().flatten() {
                assert!(waiter.is_woken());
                let handle = assert_ready!(waiter.poll()).unwrap();
                soon(handle).await.unwrap();
            }
            assert_eq!((ran.total(), lives.now()), (2, 0));
            drop(waiters);
            whole(&pool).await;
        }
    });
}

fn woken<F>(waiters: &[task::Spawn<F>]) -> Vec<bool> {
    waiters.iter().map(task::Spawn::is_woken).collect()
}

#[test]
fn a_granted_slot_passes_on() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut waiters: Vec<_> =
            (0..4).map(|n| task::spawn(pool.schedule(async move { n }))).collect();
        waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
        held.release().await;
        assert_eq!(woken(&waiters), [true, false, false, false]);
        drop(waiters.remove(0));
        assert_eq!(woken(&waiters), [true, false, false], "passed to the next, and to it alone");
        drop(waiters.remove(0));
        assert_eq!(woken(&waiters), [true, false]);
        let handle = assert_ready!(waiters[0].poll()).unwrap();
        assert_eq!(soon(handle).await.unwrap(), 2);
        drop(waiters);
        assert_eq!(law(&pool).withdrawn, 3);
        whole(&pool).await;
    });
}

#[test]
fn a_granted_place_in_the_queue_passes_on() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let mut held = fill(&pool);
        let mut first = task::spawn(pool.schedule(async { 1 }));
        let mut second = task::spawn(pool.schedule(async { 2 }));
        assert_pending!(first.poll());
        assert_pending!(second.poll());
        held.remove(0).release().await; // the queued job runs, its place is kept for `first`
        assert!(first.is_woken() && !second.is_woken());
        assert!(matches!(pool.try_schedule(async {}), Err(TryScheduleError::Full(_))));
        drop(first);
        assert!(second.is_woken());
        let handle = assert_ready!(second.poll()).unwrap();
        assert_eq!(law(&pool).queued, 1);
        release(held).await;
        assert_eq!(soon(handle).await.unwrap(), 2);
        whole(&pool).await;
    });
}

#[test]
fn the_last_granted_waiter_gives_the_slot_back() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let mut waiter = task::spawn(pool.schedule(async {}));
        assert_pending!(waiter.poll());
        held.release().await;
        drop(waiter);
        soon(pool.try_schedule(async {}).unwrap()).await.unwrap();
        whole(&pool).await;
    });
}

/// Polls a future `polls` times, with a yield between them, then drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let mut future = future.as_mut();
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if polled.is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn every_future_dropped_after_k_polls() {
    single(async {
        for polls in 0..8 {
            for queue in [0, 1] {
                let pool = Pool::builder().size(1).queue(queue).build().unwrap();
                let lives = Gauge::default();
                let job = || {
                    let inside = lives.enter();
                    async move {
                        for _ in 0..3 {
                            tokio::task::yield_now().await;
                        }
                        drop(inside);
                    }
                };
                for full in [true, false] {
                    let group = pool.group_builder().quota(1).build().unwrap();
                    let held = if full { fill(&pool) } else { Vec::new() };
                    poll_and_drop(pool.schedule(job()), polls).await;
                    poll_and_drop(pool.try_go(job()), polls).await;
                    poll_and_drop(pool.anyway_go(job()).unwrap(), polls).await;
                    poll_and_drop(group.schedule(job()), polls).await;
                    poll_and_drop(group.try_go(job()), polls).await;
                    poll_and_drop(group.next(), polls).await;
                    poll_and_drop(group.wait(), polls).await;
                    poll_and_drop(pool.wait_idle(), polls).await;
                    if let Ok(handle) = pool.try_schedule(job()) {
                        poll_and_drop(handle, polls).await;
                    }
                    if let Ok(handle) = pool.schedule_always(job()) {
                        poll_and_drop(handle.abort_on_drop(), polls).await;
                    }
                    law(&pool);
                    release(held).await;
                    soon(group.wait()).await;
                }
                whole(&pool).await;
                assert_eq!(lives.now(), 0, "a job leaked after {polls} polls");
            }
        }
    });
}

#[test]
fn waiting_for_a_handle_may_be_given_up_and_taken_up_again() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let inside = gate.wait();
        let mut handle = pool.try_schedule(inside).unwrap();
        for _ in 0..3 {
            poll_and_drop(&mut handle, 2).await;
        }
        gate.open();
        soon(&mut handle).await.unwrap();
        whole(&pool).await;
    });
}

#[test]
fn a_storm_of_dropped_waiters_loses_no_slot() {
    multi(2, async {
        let pool = Pool::builder().size(2).queue(1).build().unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|seed| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut dice = Dice::new(seed + 1);
                    for _ in 0..2_000 {
                        let job = tokio::task::yield_now();
                        if dice.below(3) == 0 {
                            soon(pool.schedule(job)).await.unwrap().detach();
                        } else {
                            poll_and_drop(pool.schedule(job), dice.below(4) as usize).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        whole(&pool).await;
    });
}

/// A waker that looks at the pool when it is let go of, as one does that owns a task which does.
struct Nosy(Pool, Arc<AtomicBool>);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Nosy {
    fn drop(&mut self) {
        law(&self.0);
        self.1.store(true, SeqCst);
    }
}

#[test]
fn a_waker_may_call_back_when_it_is_dropped() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let dropped = Arc::new(AtomicBool::new(false));
        let nosy = Waker::from(Arc::new(Nosy(pool.clone(), dropped.clone())));
        let mut waiter = pool.schedule(async {});
        assert!(poll_for(&mut waiter, &nosy).is_pending());
        drop(nosy);
        assert!(!dropped.load(SeqCst), "the wait list keeps the waker");
        // Another waker takes its place.
        assert!(poll(&mut waiter).is_pending());
        assert!(dropped.load(SeqCst), "the old waker is gone");
        drop(waiter);
        held.release().await;
        whole(&pool).await;
    });
}
