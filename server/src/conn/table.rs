//! The connection table: an entry for each connection, with its phase, events and deadline.
//!
//! `ListenerConns` owns the table and guards it with the lock of `ListenerConns::state`. Every
//! method here runs under that lock. Callers are `listener_conns`, `parked/conn_worker` and
//! `parked/event_loop`; `conn/mod.rs` has the phases and which part calls which method.
//!
//! The table is a state machine without side effects. It does no I/O, reads no clock, calls no user
//! code and wakes no waker. Each change returns its effect as a [`Delivery`], and the caller wakes.
//! `table/tests.rs` checks the table against a model.
//!
//! An entry must never be in two phases, or in the ready queue twice; a key must never reach an
//! entry of a later connection. Indices of entries never move, so lists of indices need no update.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Waker;

use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::key::ConnKey;
use crate::conn::task_entry::{Shared, TaskEntry};
use crate::conn::timer_wheel::{NIL, Timer, TimerWheel};
use crate::conn::wait::{TurnInput, Wait};
use crate::conn::warm_list::Listed;
use crate::settings::{NEVER, Ticks};
use crate::sync::failpoint;

/// The number of entries that the table allocates at once. Growth moves no entry.
const CHUNK: usize = 64;
/// An empty ready queue with a larger capacity is freed, so a rush of events occupies no memory
/// afterwards.
const MAX_EMPTY_CAPACITY: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Belongs to no connection. The entry may still be in a list of the wheel.
    Free,
    /// A turn, a connection's task or a detached owner has the connection (C1).
    Active,
    /// The connection waits, and its events are no reason to serve it.
    Parked,
    /// The connection waits to be served.
    Ready,
    /// The connection has a task, which has the rest of the entry's state.
    Task,
}

struct ConnEntry<T> {
    /// Changes when the entry becomes free.
    generation: u32,
    /// Its deadline is that of the current or the last wait.
    timer: Timer,
    permit: PerIpPermit,
    phase: Phase,
    /// What the deadline belongs to. `ParkReason::Turn` leaves the reason before it, unless the
    /// turn has moved the deadline.
    park_reason: ParkReason,
    /// The events that no turn has taken yet (C3).
    events: Events,
    /// The reason of the requested close, until the entry is removed (C6).
    close_requested: Option<CloseReason>,
    /// The tick of the last park, in its lowest bits.
    parked_at: u8,
    /// How many turns in a row began in the tick in which the connection was parked before.
    streak: u8,
    /// Whether the connection is in the list of the warm ones. With a task that of the task counts.
    listed: Listed,
    /// Present exactly in `Parked`, `Ready` and `Task`.
    parked_state: Option<T>,
}

/// The turns in a row after which a connection is busy.
const BUSY_STREAK: u8 = 2;
/// The ticks after which an idle connection gives up its task. The first has run in part.
const COOL_TICKS: u8 = 2;

/// The effect of a change on an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The connection has ended; nothing has changed.
    Gone,
    /// The entry keeps the events, and its phase has not become `Ready`.
    Noted,
    /// The entry has become ready. The caller wakes the part that serves the connection.
    Ready,
    /// The connection has a task, which is to be woken.
    Task,
}

impl Delivery {
    /// Whether the change has made a connection ready, or has told a task.
    pub(crate) fn wakes(&self) -> bool {
        matches!(self, Self::Ready | Self::Task)
    }
}

pub(crate) struct ConnTable<T> {
    chunks: Vec<Box<[ConnEntry<T>]>>,
    free: Vec<u32>,
    /// The ready entries without a task, in the order in which they became ready.
    ready: VecDeque<u32>,
    wheel: TimerWheel,
    shared: Arc<Shared>,
    open: usize,
    parked: usize,
}

/// The state that a connection stores in its entry while it waits.
pub(crate) trait ParkedState: Send + 'static {
    /// Returns the state of the connection's task, if there is one.
    fn task(&self) -> Option<&Arc<TaskEntry>>;
}

impl<T: ParkedState> ConnTable<T> {
    /// `horizon`: the shortest of all deadlines, in ticks.
    pub(crate) fn new(horizon: u32) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            wheel: TimerWheel::new(horizon),
            shared: Arc::default(),
            open: 0,
            parked: 0,
        }
    }

    /// Returns the number of connections.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Returns the number of connections that are parked or ready.
    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// Inserts a new connection, in phase `Active`.
    pub(crate) fn insert(&mut self, permit: PerIpPermit) -> ConnKey {
        if self.free.is_empty() {
            let base = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push((0..CHUNK).map(|_| ConnEntry::free()).collect());
            self.free.extend((base..base + CHUNK as u32).rev());
        }
        let index = self.free.pop().expect("a chunk was added");
        let entry = self.entry(index);
        entry.phase = Phase::Active;
        entry.events = Events::NONE;
        entry.park_reason = ParkReason::FirstByte;
        entry.timer.deadline = NEVER;
        entry.close_requested = None;
        entry.streak = 0;
        entry.listed = Listed::default();
        entry.permit = permit;
        let key = ConnKey { index, generation: entry.generation };
        if !entry.timer.is_linked() {
            self.link(index, self.wheel.horizon());
        }
        self.open += 1;
        key
    }

    /// Parks an active connection. With `ParkReason::Turn`, or if an event that the connection
    /// waits for has come already, the connection is ready at once. [`Wait::next`] has the rule for
    /// the deadline.
    pub(crate) fn park(
        &mut self,
        key: ConnKey,
        parked_state: T,
        park_reason: (ParkReason, bool),
        ticks: &Ticks,
    ) -> Delivery {
        let now = self.wheel.now;
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        debug_assert_eq!(entry.phase, Phase::Active);
        entry.parked_state = Some(parked_state);
        entry.set_wait(entry.wait().next(park_reason, ticks, now));
        entry.phase = Phase::Parked;
        entry.parked_at = now as u8;
        let ready =
            park_reason.0.wakes_on(entry.events) && !failpoint("events before a park are lost");
        if entry.park_reason == ParkReason::Warm {
            let entry = &self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
            self.shared.warm.add(key, &entry.listed);
        }
        self.parked += 1;
        if ready {
            self.make_ready(key.index);
            return Delivery::Ready;
        }
        Delivery::Noted
    }

    /// Adds events to a connection's entry. Makes the connection ready if it is parked and waits
    /// for one of its events.
    pub(crate) fn deliver(&mut self, key: ConnKey, events: Events) -> Delivery {
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        if let Some(task) = entry.task() {
            task.deliver(events);
            return Delivery::Task;
        }
        entry.events = entry.events | events;
        if entry.phase == Phase::Parked && entry.park_reason.wakes_on(entry.events) {
            self.make_ready(key.index);
            return Delivery::Ready;
        }
        Delivery::Noted
    }

    /// Requests that the next turn closes the connection. The reason of the higher rank stays (C6).
    pub(crate) fn request_close(&mut self, key: ConnKey, reason: CloseReason) -> Delivery {
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        match entry.close_requested {
            Some(before)
                if before.rank() >= reason.rank()
                    && !failpoint("a weaker reason to close wins") => {}
            _ => entry.close_requested = Some(reason),
        }
        if let Some(task) = entry.task() {
            task.ask_to_close();
        }
        self.deliver(key, Events::CLOSE_REQUESTED)
    }

    /// Requests the close of all connections, and calls `each` with those that became ready.
    pub(crate) fn request_close_all(&mut self, reason: CloseReason, mut each: impl FnMut(ConnKey)) {
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            let entry = self.entry(index);
            if entry.phase == Phase::Free {
                continue;
            }
            let key = ConnKey { index, generation: entry.generation };
            if self.request_close(key, reason).wakes() {
                each(key);
            }
        }
    }

    /// Takes the connection that has been ready for longest.
    pub(crate) fn next_ready(&mut self) -> Option<(ConnKey, T, TurnInput)> {
        let index = self.ready.pop_front()?;
        if self.ready.is_empty() && self.ready.capacity() > MAX_EMPTY_CAPACITY {
            self.ready = VecDeque::new();
        }
        let key = ConnKey { index, generation: self.entry(index).generation };
        let (parked_state, input) = self.activate(index);
        Some((key, parked_state.expect("a ready entry has its parked state"), input))
    }

    /// Returns the length of the ready queue.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes the state of a connection, before its entry is removed.
    fn take(&mut self, key: ConnKey) -> Option<T> {
        match self.find(key)?.phase {
            Phase::Ready => self.ready.retain(|index| *index != key.index),
            Phase::Parked => {}
            _ => return self.find(key)?.parked_state.take(),
        }
        self.activate(key.index).0
    }

    /// Gives an active connection to its task: from now on the entry has the events and the deadline of
    /// [`TaskEntry`]. Returns `None` if the connection has ended.
    pub(crate) fn begin_task(
        &mut self,
        key: ConnKey,
        waker: Waker,
        state: impl FnOnce(Arc<TaskEntry>) -> T,
    ) -> Option<Arc<TaskEntry>> {
        let shared = self.shared.clone();
        let entry = self.find(key)?;
        let task = Arc::new(TaskEntry::new(key, waker, shared));
        task.begin(entry.wait(), entry.events, entry.close_requested.is_some());
        entry.listed.move_to(&task.listed);
        entry.phase = Phase::Task;
        entry.parked_state = Some(state(task.clone()));
        Some(task)
    }

    /// Takes a connection from its task, which runs no turn: the entry is active again.
    pub(crate) fn end_task(&mut self, key: ConnKey) {
        let Some(entry) = self.find(key) else { return };
        let Some(task) = entry.task() else { return };
        task.listed.move_to(&entry.listed);
        let (wait, events) = task.end();
        entry.set_wait(wait);
        entry.events = events;
        entry.phase = Phase::Active;
        entry.parked_state = None;
    }

    /// Returns the waker of the connection's task.
    pub(crate) fn waker(&mut self, key: ConnKey) -> Option<&Waker> {
        self.find(key)?.task().map(|task| &task.waker)
    }

    /// Returns whether the entry has one of `events`.
    pub(crate) fn has(&mut self, key: ConnKey, events: Events) -> bool {
        self.find(key).is_some_and(|entry| match entry.task() {
            Some(task) => task.has(events),
            None => entry.events.any(events),
        })
    }

    /// Removes those of `events` that the entry has, and returns them. Also returns
    /// `CLOSE_REQUESTED`, but leaves that for the next turn. Called for a suspended turn (C7).
    pub(crate) fn take_events(&mut self, key: ConnKey, events: Events) -> Events {
        let Some(entry) = self.find(key) else { return Events::NONE };
        if let Some(task) = entry.task() {
            return task.take_events(events);
        }
        let taken = entry.events.of(events | Events::CLOSE_REQUESTED);
        entry.events = entry.events.without(events);
        taken
    }

    /// Returns whether the connection has not ended.
    pub(crate) fn contains(&mut self, key: ConnKey) -> bool {
        self.find(key).is_some()
    }

    /// Returns the reason of the requested close, if there is such a request.
    pub(crate) fn close_requested(&mut self, key: ConnKey) -> Option<CloseReason> {
        self.find(key)?.close_requested
    }

    /// Removes a connection. Its key finds nothing from now on. Returns the permit, and the state
    /// if the connection was parked or has a task. The caller drops the state after the unlock (C10).
    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<(PerIpPermit, Option<T>)> {
        let parked_state = self.take(key);
        let entry = self.find(key)?;
        entry.phase = Phase::Free;
        entry.generation =
            entry.generation.wrapping_add(u32::from(!failpoint("an old key stays valid")));
        let permit = entry.permit;
        if !failpoint("entries are not reused") {
            self.free.push(key.index);
        }
        self.open -= 1;
        Some((permit, parked_state))
    }

    /// Tells the warm connections that have been idle for long enough. Calls `each` with those that
    /// became ready. One that is told is off the list; its turn lists it again, if need be.
    pub(crate) fn cool(&mut self, mut each: impl FnMut(ConnKey)) {
        let now = self.wheel.now as u8;
        let shared = self.shared.clone();
        for key in shared.warm.take() {
            let Some(entry) = self.find(key) else { continue };
            let is_warm = entry.phase == Phase::Parked && entry.park_reason == ParkReason::Warm;
            let listed = entry.task().map_or(&entry.listed, |task| &task.listed);
            // Before the look at the wait (L1).
            listed.clear();
            let idle = match entry.task() {
                Some(task) => task.idle_ticks(now),
                None => is_warm.then(|| now.wrapping_sub(entry.parked_at)),
            };
            let Some(idle) = idle else { continue };
            if idle < COOL_TICKS {
                shared.warm.add(key, listed);
            } else if !failpoint("idle connections keep their tasks")
                && self.deliver(key, Events::COOL).wakes()
            {
                each(key);
            }
        }
    }

    /// Takes all connections that are parked or ready, and the wakers of all tasks. Called by a kill
    /// (C8).
    pub(crate) fn drain_parked(&mut self) -> (Vec<(ConnKey, T)>, Vec<Waker>) {
        self.ready.clear();
        let (mut drained, mut wakers) = (Vec::new(), Vec::new());
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            wakers.extend(self.entry(index).task().map(|task| task.waker.clone()));
            if matches!(self.entry(index).phase, Phase::Parked | Phase::Ready) {
                let generation = self.entry(index).generation;
                if let (Some(parked_state), _) = self.activate(index) {
                    drained.push((ConnKey { index, generation }, parked_state));
                }
            }
        }
        (drained, wakers)
    }

    /// Advances the time by a tick, and looks at the entries of that tick (C5). A parked connection
    /// whose deadline has come gets `EXPIRED`. Calls `each` with those that became ready.
    pub(crate) fn tick(&mut self, mut each: impl FnMut(ConnKey)) {
        let mut index = self.wheel.advance();
        // Before an event tells of it: a task that takes the event reads the clock (N2).
        self.shared.clock.store(self.wheel.now, SeqCst);
        let (now, horizon) = (self.wheel.now, self.wheel.horizon());
        while index != NIL {
            let entry = self.entry(index);
            let next = entry.timer.unlink();
            if entry.phase != Phase::Free {
                let (left, waits) = match entry.task() {
                    Some(task) => task.ticks_left(now),
                    None => (entry.timer.ticks_left(now), entry.phase == Phase::Parked),
                };
                let left = left.unwrap_or(horizon);
                if left == 0 && waits {
                    let key = ConnKey { index, generation: entry.generation };
                    let events = Events::CLOSE_REQUESTED | Events::EXPIRED;
                    if self.deliver(key, events).wakes() {
                        each(key);
                    }
                }
                let late = u32::from(failpoint("the wheel looks a tick late"));
                self.link(index, (left + late).clamp(1, horizon));
            }
            index = next;
        }
    }

    /// Links an entry for a look after `ticks`.
    fn link(&mut self, index: u32, ticks: u32) {
        let entry = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        self.wheel.link(index, &mut entry.timer, ticks);
    }

    /// Changes a parked entry to `Ready`.
    fn make_ready(&mut self, index: u32) {
        self.entry(index).phase = Phase::Ready;
        self.ready.push_back(index);
    }

    /// Changes an entry that is parked or ready to `Active`. The caller keeps it out of the ready
    /// queue.
    fn activate(&mut self, index: u32) -> (Option<T>, TurnInput) {
        self.parked -= 1;
        let now = self.wheel.now;
        let entry = self.entry(index);
        entry.phase = Phase::Active;
        let events = std::mem::replace(&mut entry.events, Events::NONE);
        let (park_reason, close_requested) = (entry.park_reason.wait(), entry.close_requested);
        // The timer marks parked entries only. A connection that is ready or active at each look,
        // as with `ParkReason::Turn`, learns of its deadline here.
        let expired = events.any(Events::EXPIRED) || entry.timer.ticks_left(now) == Some(0);
        let expired = expired.then(|| park_reason.deadline());
        let events = events.without(Events::EXPIRED);
        let in_same_tick = entry.parked_at == now as u8 && !park_reason.is_new();
        entry.streak = if in_same_tick { (entry.streak + 1).min(BUSY_STREAK) } else { 0 };
        let is_busy = entry.streak == BUSY_STREAK;
        let input = TurnInput { events, park_reason, expired, close_requested, is_busy };
        (entry.parked_state.take(), input)
    }

    /// Returns the entry of a connection, or `None` if the connection has ended (C2).
    fn find(&mut self, key: ConnKey) -> Option<&mut ConnEntry<T>> {
        let chunk = self.chunks.get_mut(key.index as usize / CHUNK)?;
        let entry = &mut chunk[key.index as usize % CHUNK];
        (entry.generation == key.generation && entry.phase != Phase::Free).then_some(entry)
    }

    fn entry(&mut self, index: u32) -> &mut ConnEntry<T> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> ConnEntry<T> {
    fn free() -> Self {
        Self {
            generation: 0,
            timer: Timer::UNLINKED,
            permit: PerIpPermit::UNCOUNTED,
            phase: Phase::Free,
            park_reason: ParkReason::FirstByte,
            events: Events::NONE,
            close_requested: None,
            parked_at: 0,
            streak: 0,
            listed: Listed::default(),
            parked_state: None,
        }
    }
}

impl<T: ParkedState> ConnEntry<T> {
    /// Returns the state of the connection's task.
    fn task(&self) -> Option<&Arc<TaskEntry>> {
        if self.phase == Phase::Task { self.parked_state.as_ref()?.task() } else { None }
    }

    fn wait(&self) -> Wait {
        Wait { park_reason: self.park_reason, deadline: self.timer.deadline }
    }

    fn set_wait(&mut self, wait: Wait) {
        (self.park_reason, self.timer.deadline) = (wait.park_reason, wait.deadline);
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) fn entry_size<T>() -> usize {
    size_of::<ConnEntry<T>>()
}
