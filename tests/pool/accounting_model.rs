//! Random verbs against a model: the numbers are exact whenever nothing moves.

use crate::support::model::{Act, Live, Model, Place};
use crate::support::*;
use millpond::future::Schedule;
use millpond::{JobError, Pool, SubmitErrorKind};
use proptest::prelude::*;
use tokio::sync::oneshot;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => Just(Act::Schedule),
        3 => Just(Act::TrySchedule),
        2 => Just(Act::Always),
        2 => Just(Act::TryGo),
        3 => Just(Act::Anyway),
        6 => (0..8usize).prop_map(Act::Finish),
        2 => (0..8usize).prop_map(Act::Panic),
        3 => (0..8usize).prop_map(Act::Abort),
        2 => (0..8usize).prop_map(Act::Detach),
        2 => (0..8usize).prop_map(Act::GiveUp),
        2 => (1..5usize).prop_map(Act::Resize),
        1 => Just(Act::Close),
    ];
    proptest::collection::vec(act, 1..60)
}

type Waiter<'a> = (usize, Schedule<'a, futures_util::future::BoxFuture<'static, usize>>);

#[allow(clippy::too_many_lines, reason = "one arm for each act of the model")]
async fn play(size: usize, queue: usize, acts: Vec<Act>) {
    let pool = Pool::builder().size(size).queue(queue).build().unwrap();
    let mut model = Model { size, queue, ..Model::default() };
    let mut waiters: Vec<Waiter<'_>> = Vec::new();
    let lives = Gauge::default();
    for (id, act) in acts.into_iter().enumerate() {
        {
            let (end, ended) = oneshot::channel();
            let inside = lives.enter();
            let job: futures_util::future::BoxFuture<'static, usize> = Box::pin(async move {
                let _inside = inside;
                if ended.await.unwrap_or(false) {
                    silent_panic("as told");
                }
                id
            });
            let place = if model.has_slot() { Place::Slot } else { Place::Line };
            let room = model.has_slot() || model.has_place();
            let mut live = Live { id, place, end, handle: None, abort: None };
            match act {
                Act::Schedule => {
                    model.submitted += 1;
                    let mut waiter = pool.schedule(job);
                    match poll(&mut waiter) {
                        _ if model.closed => model.refused += 1,
                        std::task::Poll::Ready(handle) => {
                            assert!(room);
                            live.handle = Some(handle.unwrap());
                            model.enter(live);
                        }
                        std::task::Poll::Pending => {
                            assert!(!room);
                            live.place = Place::Caller;
                            model.enter(live);
                            waiters.push((id, waiter));
                        }
                    }
                }
                Act::TrySchedule | Act::Always => {
                    model.submitted += 1;
                    let always = matches!(act, Act::Always);
                    let result =
                        if always { pool.schedule_always(job) } else { pool.try_schedule(job) };
                    match result {
                        Ok(handle) => {
                            assert!(!model.closed && (room || always));
                            live.handle = Some(handle);
                            if !room {
                                live.place = Place::Overflow;
                            }
                            model.enter(live);
                        }
                        Err(error) => {
                            let closed = error.kind() == SubmitErrorKind::Closed;
                            assert_eq!(closed, model.closed);
                            assert!(closed || (!room && !always));
                            model.refused += 1;
                        }
                    }
                }
                Act::TryGo => {
                    model.submitted += 1;
                    let mut going = Box::pin(pool.try_go(job));
                    match poll(&mut going) {
                        std::task::Poll::Ready(Ok(handle)) => {
                            assert!(room && !model.closed);
                            live.handle = Some(handle);
                            model.enter(live);
                        }
                        std::task::Poll::Ready(Err(_)) => {
                            assert!(model.closed);
                            model.refused += 1;
                        }
                        std::task::Poll::Pending => {
                            assert!(!room && !model.closed);
                            assert_eq!(law(&pool).in_caller, 1);
                            if id % 3 == 0 {
                                drop(going);
                                model.cancelled += 1;
                            } else {
                                live.end.send(id % 3 == 1).unwrap();
                                let outcome = going.await.unwrap().await;
                                assert_eq!(outcome.is_err(), id % 3 == 1);
                                *(if id % 3 == 1 {
                                    &mut model.panicked
                                } else {
                                    &mut model.completed
                                }) += 1;
                            }
                        }
                    }
                }
                Act::Anyway => {
                    model.submitted += 1;
                    match pool.anyway_go(job) {
                        Ok(going) => {
                            live.handle = Some(going.into_handle());
                            model.enter(live);
                        }
                        Err(_) => {
                            assert!(model.closed);
                            model.refused += 1;
                        }
                    }
                }
                Act::Finish(n) | Act::Panic(n) => {
                    let panics = matches!(act, Act::Panic(_));
                    let runs: Vec<_> = model
                        .live
                        .iter()
                        .filter(|live| matches!(live.place, Place::Slot | Place::Overflow))
                        .map(|live| live.id)
                        .collect();
                    if let Some(&id) = runs.get(n) {
                        let live = model.remove(id);
                        live.end.send(panics).unwrap();
                        settle_few().await;
                        *(if panics { &mut model.panicked } else { &mut model.completed }) += 1;
                        match live.handle.map(|handle| poll(&mut { handle })) {
                            None => {}
                            Some(std::task::Poll::Ready(Ok(value))) => {
                                assert!(!panics && value == id)
                            }
                            Some(std::task::Poll::Ready(Err(error))) => {
                                assert!(panics && error.is_panic())
                            }
                            Some(std::task::Poll::Pending) => {
                                panic!("a finished job's handle waits")
                            }
                        }
                    }
                }
                Act::Abort(n) => {
                    let held: Vec<_> = model
                        .live
                        .iter()
                        .filter(|live| live.place != Place::Caller)
                        .map(|live| live.id)
                        .collect();
                    if let Some(&id) = held.get(n) {
                        let live = model.remove(id);
                        match (&live.handle, &live.abort) {
                            (Some(handle), _) => handle.abort(),
                            (None, Some(abort)) => abort.abort(),
                            (None, None) => unreachable!(),
                        }
                        settle_few().await;
                        model.cancelled += 1;
                        if let Some(handle) = live.handle {
                            assert!(matches!(soon(handle).await, Err(JobError::Cancelled)));
                        }
                    }
                }
                Act::Detach(n) => {
                    if let Some(live) = model.live.get_mut(n) {
                        if let Some(handle) = live.handle.take() {
                            live.abort = Some(handle.abort_handle());
                        }
                    }
                }
                Act::GiveUp(n) => {
                    if n < waiters.len() {
                        let (id, waiter) = waiters.remove(n);
                        drop(waiter);
                        model.remove(id);
                        model.withdrawn += 1;
                    }
                }
                Act::Resize(size) => {
                    pool.resize(size).unwrap();
                    model.size = size;
                }
                Act::Close => {
                    pool.close();
                    model.closed = true;
                    for (id, mut waiter) in waiters.drain(..) {
                        let told = poll(&mut waiter);
                        assert!(matches!(
                            told,
                            std::task::Poll::Ready(Err(error)) if error.kind() == SubmitErrorKind::Closed
                        ));
                        model.remove(id);
                        model.refused += 1;
                    }
                }
            }
        }
        model.advance();
        // Admitted callers come at once, as they are woken in order.
        let mut still = Vec::new();
        for (id, mut waiter) in waiters {
            match poll(&mut waiter) {
                std::task::Poll::Ready(handle) => {
                    assert_ne!(model.get(id).place, Place::Caller, "out of turn");
                    model.get(id).handle = Some(handle.unwrap());
                }
                std::task::Poll::Pending => {
                    assert_eq!(model.get(id).place, Place::Caller, "its turn was missed");
                    still.push((id, waiter));
                }
            }
        }
        waiters = still;
        settle_few().await;
        model.compare(&pool, &act);
        assert_eq!(lives.now(), model.live.len(), "futures alive after {act:?}");
    }
    drop(waiters);
    pool.close();
    for live in model.live {
        let _ = live.end.send(false);
    }
    soon(pool.wait_idle()).await;
    quiet(&pool);
    assert_eq!(lives.now(), 0);
}

async fn settle_few() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_numbers_are_those_of_the_model() {
    // Some seconds alone, many times that beside a load.
    watched_for(std::time::Duration::from_secs(150), || {
        let config =
            ProptestConfig { cases: 1_500, failure_persistence: None, ..Default::default() };
        proptest!(config, |(size in 1..4usize, queue in 0..3usize, acts in acts())| {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
            runtime.block_on(play(size, queue, acts));
        });
    });
}
