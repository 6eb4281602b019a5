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
use std::task::Waker;

use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Events, ParkReason};
use crate::conn::timer_wheel::{NIL, Timer, TimerWheel};
use crate::settings::{NEVER, Ticks};
use crate::sync::failpoint;

/// The number of entries that the table allocates at once. Growth moves no entry.
const CHUNK: usize = 64;
/// An empty ready queue with a larger capacity is freed, so a rush of events occupies no memory
/// afterwards.
const MAX_EMPTY_CAPACITY: usize = 1024;

/// Names the entry of a connection. The generation tells the connection from those that use the
/// same entry earlier or later (C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

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
    /// Present exactly in `Parked` and `Ready`.
    parked_state: Option<T>,
}

/// What the table tells a turn that takes a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnInput {
    pub(crate) events: Events,
    pub(crate) park_reason: ParkReason,
    /// The deadline that has passed. The turn decides, because bytes may have come meanwhile (C5).
    pub(crate) expired: Option<Deadline>,
    pub(crate) close_requested: Option<CloseReason>,
    /// The connection had many turns in a short time.
    pub(crate) is_busy: bool,
}

/// The turns in a row after which a connection is busy.
const BUSY_STREAK: u8 = 4;
/// The ticks after which an idle connection gives up its task. The first has run in part.
#[cfg(feature = "http")]
const COOL_TICKS: u8 = 2;

impl TurnInput {
    /// Returns whether the turn may close the connection. Then the turn asks the socket itself
    /// first, because the known readiness may be out of date.
    pub(crate) fn forces_io(&self) -> bool {
        self.close_requested.is_some() || self.expired.is_some()
    }
}

/// The effect of a change on an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The connection has ended; nothing has changed.
    Gone,
    /// The entry keeps the events, and its phase has not become `Ready`.
    Noted,
    /// The entry has become ready. The caller wakes the part that serves the connection.
    Ready,
}

pub(crate) struct ConnTable<T> {
    chunks: Vec<Box<[ConnEntry<T>]>>,
    free: Vec<u32>,
    /// The ready entries without a task, in the order in which they became ready.
    ready: VecDeque<u32>,
    wheel: TimerWheel,
    open: usize,
    parked: usize,
}

/// The state that a connection stores in its entry while it waits.
pub(crate) trait ParkedState: Send + 'static {
    /// Returns the waker of the connection's task. That task takes the connection with
    /// [`ConnTable::take`] when it is ready. Without a task the entry goes to the ready queue, and a
    /// worker takes it with [`ConnTable::next_ready`].
    fn waker(&self) -> Option<&Waker>;
}

impl<T: ParkedState> ConnTable<T> {
    /// `horizon`: the shortest of all deadlines, in ticks.
    pub(crate) fn new(horizon: u32) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            wheel: TimerWheel::new(horizon),
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
        entry.permit = permit;
        let key = ConnKey { index, generation: entry.generation };
        if !entry.timer.is_linked() {
            self.link(index, self.wheel.horizon());
        }
        self.open += 1;
        key
    }

    /// Parks an active connection. With `ParkReason::Turn`, or if an event that the connection
    /// waits for has come already, the connection is ready at once.
    ///
    /// The deadline begins anew if the turn has `moved` it, or if the reason is a new one.
    /// Otherwise the deadline of the wait before goes on. `ParkReason::Turn` is not a new reason;
    /// with `moved` it ends the deadline.
    pub(crate) fn park(
        &mut self,
        key: ConnKey,
        parked_state: T,
        (park_reason, moved): (ParkReason, bool),
        ticks: &Ticks,
    ) -> Delivery {
        let now = self.wheel.now;
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        debug_assert_eq!(entry.phase, Phase::Active);
        entry.parked_state = Some(parked_state);
        let moved = moved && !failpoint("traffic extends no deadline");
        let is_new =
            entry.park_reason.wait() != park_reason.wait() && park_reason != ParkReason::Turn;
        if moved || is_new {
            entry.timer.deadline = ticks.end(park_reason, now);
        }
        if moved || park_reason != ParkReason::Turn {
            entry.park_reason = park_reason;
        }
        entry.phase = Phase::Parked;
        entry.parked_at = now as u8;
        let ready =
            park_reason.wakes_on(entry.events) && !failpoint("events before a park are lost");
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
            if self.request_close(key, reason) == Delivery::Ready {
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

    /// Takes a connection that is parked or ready. Returns `None` if it is active or has ended.
    /// Called by the connection's task, and before an entry is removed.
    pub(crate) fn take(&mut self, key: ConnKey) -> Option<(Option<T>, TurnInput)> {
        match self.find(key)?.phase {
            Phase::Parked => Some(self.activate(key.index)),
            Phase::Ready => {
                if self.entry(key.index).waker().is_none() {
                    self.ready.retain(|index| *index != key.index);
                }
                Some(self.activate(key.index))
            }
            _ => None,
        }
    }

    /// Returns the waker of the task of a connection that is parked or ready.
    pub(crate) fn waker(&mut self, key: ConnKey) -> Option<&Waker> {
        self.find(key)?.waker()
    }

    /// Returns whether the entry has one of `events`.
    pub(crate) fn has(&mut self, key: ConnKey, events: Events) -> bool {
        self.find(key).is_some_and(|entry| entry.events.any(events))
    }

    /// Removes those of `events` that the entry has, and returns them. Also returns
    /// `CLOSE_REQUESTED`, but leaves that for the next turn. Called for a suspended turn (C7).
    pub(crate) fn take_events(&mut self, key: ConnKey, events: Events) -> Events {
        let Some(entry) = self.find(key) else { return Events::NONE };
        let taken = entry.events.of(events | Events::CLOSE_REQUESTED);
        entry.events = entry.events.without(events);
        taken
    }

    /// Returns whether the connection has not ended.
    pub(crate) fn contains(&mut self, key: ConnKey) -> bool {
        self.find(key).is_some()
    }

    /// Returns the reason of the requested close, if there is such a request.
    #[cfg(feature = "http")]
    pub(crate) fn close_requested(&mut self, key: ConnKey) -> Option<CloseReason> {
        self.find(key)?.close_requested
    }

    /// Returns whether a connection is ready.
    pub(crate) fn is_ready(&mut self, key: ConnKey) -> bool {
        self.find(key).is_some_and(|entry| entry.phase == Phase::Ready)
    }

    /// Removes a connection. Its key finds nothing from now on. Returns the permit, and the state
    /// if the connection was parked. The caller drops the state after the unlock (C10).
    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<(PerIpPermit, Option<T>)> {
        let parked_state = self.take(key).and_then(|(parked_state, _)| parked_state);
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
    /// became ready.
    #[cfg(feature = "http")]
    pub(crate) fn cool(&mut self, mut each: impl FnMut(ConnKey)) {
        let now = self.wheel.now as u8;
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            let entry = self.entry(index);
            let is_idle = entry.phase == Phase::Parked && entry.park_reason == ParkReason::Warm;
            let is_cool = now.wrapping_sub(entry.parked_at) >= COOL_TICKS;
            if is_idle && is_cool && !failpoint("idle connections keep their tasks") {
                let key = ConnKey { index, generation: entry.generation };
                if self.deliver(key, Events::COOL) == Delivery::Ready {
                    each(key);
                }
            }
        }
    }

    /// Takes all connections that are parked or ready. Called by a kill (C8).
    pub(crate) fn drain_parked(&mut self) -> Vec<(ConnKey, T)> {
        self.ready.clear();
        let mut drained = Vec::new();
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            if matches!(self.entry(index).phase, Phase::Parked | Phase::Ready) {
                let generation = self.entry(index).generation;
                if let (Some(parked_state), _) = self.activate(index) {
                    drained.push((ConnKey { index, generation }, parked_state));
                }
            }
        }
        drained
    }

    /// Advances the time by a tick, and looks at the entries of that tick (C5). A parked connection
    /// whose deadline has come gets `EXPIRED`. Calls `each` with those that became ready.
    pub(crate) fn tick(&mut self, mut each: impl FnMut(ConnKey)) {
        let mut index = self.wheel.advance();
        let (now, horizon) = (self.wheel.now, self.wheel.horizon());
        while index != NIL {
            let entry = self.entry(index);
            let next = entry.timer.unlink();
            if entry.phase != Phase::Free {
                let left = entry.timer.ticks_left(now).unwrap_or(horizon);
                if left == 0 && entry.phase == Phase::Parked {
                    let key = ConnKey { index, generation: entry.generation };
                    let events = Events::CLOSE_REQUESTED | Events::EXPIRED;
                    if self.deliver(key, events) == Delivery::Ready {
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
        let entry = self.entry(index);
        entry.phase = Phase::Ready;
        if entry.waker().is_none() {
            self.ready.push_back(index);
        }
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
        let in_same_tick = entry.parked_at == now as u8;
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
            parked_state: None,
        }
    }
}

impl<T: ParkedState> ConnEntry<T> {
    fn waker(&self) -> Option<&Waker> {
        self.parked_state.as_ref()?.waker()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) fn entry_size<T>() -> usize {
    size_of::<ConnEntry<T>>()
}
