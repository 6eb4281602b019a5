//! Random verbs against a model: the numbers are exact whenever nothing moves.
#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;

use millpond::{AbortHandle, JobError, JobHandle, Pool, Schedule, ScheduleError, TryScheduleError};
use proptest::prelude::*;
use support::*;
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy)]
enum Act {
    Schedule,
    TrySchedule,
    Always,
    TryGo,
    Anyway,
    /// The job of that number returns, panics, is aborted, loses its handle.
    Finish(usize),
    Panic(usize),
    Abort(usize),
    Detach(usize),
    /// The waiting caller of that number goes away.
    GiveUp(usize),
    Resize(usize),
    Close,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Slot,
    Overflow,
    /// In line, with its job handed over or still with its caller.
    Line,
    Caller,
}

/// A job that has not ended.
struct Live {
    id: usize,
    place: Place,
    /// Makes it return, or panic.
    end: oneshot::Sender<bool>,
    handle: Option<JobHandle<usize>>,
    abort: Option<AbortHandle>,
}

/// What the pool's numbers should be; the line is in `live`, in order.
#[derive(Default)]
struct Model {
    size: usize,
    queue: usize,
    closed: bool,
    live: Vec<Live>,
    line: VecDeque<usize>,
    submitted: u64,
    refused: u64,
    withdrawn: u64,
    completed: u64,
    panicked: u64,
    cancelled: u64,
}

impl Model {
    fn count(&self, place: Place) -> usize {
        self.live.iter().filter(|live| live.place == place).count()
    }

    fn has_slot(&self) -> bool {
        self.count(Place::Slot) < self.size && self.line.is_empty()
    }

    fn has_place(&self) -> bool {
        self.line.len() < self.queue
    }

    fn get(&mut self, id: usize) -> &mut Live {
        self.live.iter_mut().find(|live| live.id == id).unwrap()
    }

    /// Lets the oldest in line in, as long as slots are free. Callers with a place or a slot
    /// hand their jobs in.
    fn advance(&mut self) {
        while self.count(Place::Slot) < self.size {
            let Some(id) = self.line.pop_front() else { break };
            self.get(id).place = Place::Slot;
        }
        for id in self.line.iter().copied().take(self.queue).collect::<Vec<_>>() {
            self.get(id).place = Place::Line;
        }
    }

    fn remove(&mut self, id: usize) -> Live {
        self.line.retain(|other| *other != id);
        let at = self.live.iter().position(|live| live.id == id).unwrap();
        self.live.remove(at)
    }

    #[track_caller]
    fn compare(&self, pool: &Pool, after: &Act) {
        let status = law(pool);
        let callers = self.count(Place::Caller);
        let queued = self.line.len().min(self.queue);
        let expected = (self.size, self.count(Place::Slot), queued, self.line.len() - queued);
        assert_eq!(
            (status.size, status.running, status.queued, status.waiting),
            expected,
            "size, running, queued, waiting ({callers} callers) after {after:?}: {status:?}"
        );
        assert_eq!(
            (status.overflow, status.submitted, status.refused, status.withdrawn),
            (self.count(Place::Overflow), self.submitted, self.refused, self.withdrawn),
            "overflow, submitted, refused, withdrawn after {after:?}"
        );
        assert_eq!(
            (status.completed, status.panicked, status.cancelled),
            (self.completed, self.panicked, self.cancelled),
            "completed, panicked, cancelled after {after:?}"
        );
    }
}

type Waiter<'a> = (usize, Schedule<'a, futures_util::future::BoxFuture<'static, usize>>);

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
                            let closed = matches!(error, TryScheduleError::Closed(_));
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
                            assert_eq!(law(&pool).inline, 1);
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
                            std::task::Poll::Ready(Err(ScheduleError::Closed(_)))
                        ));
                        model.remove(id);
                        model.refused += 1;
                    }
                }
            }
        }
        model.advance();
        // Callers who were let in come at once, as they are woken in order.
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

impl Model {
    fn enter(&mut self, live: Live) {
        if matches!(live.place, Place::Line | Place::Caller) {
            self.line.push_back(live.id);
        }
        self.live.push(live);
    }
}

async fn settle_few() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_numbers_are_those_of_the_model() {
    watched(|| {
        let config =
            ProptestConfig { cases: 1_500, failure_persistence: None, ..Default::default() };
        proptest!(config, |(size in 1..4usize, queue in 0..3usize, acts in acts())| {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
            runtime.block_on(play(size, queue, acts));
        });
    });
}
