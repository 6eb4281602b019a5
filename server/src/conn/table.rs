//! The connection table: one entry for each connection, its phase, and its deadline.
//!
//! An entry is in one of four phases. `Free`; `Active`, its parked state owned by one turn (or by
//! its task); `Parked`, the parked state stored here; `Ready`, parked with a reason to be served,
//! in a list, first in, first out. Whatever happens to a connection is a set of [`Events`]. They
//! make a parked entry ready, and stay with an active one until that is parked again, which then is
//! ready at once. So no connection is served twice at a time, and none is forgotten.
//!
//! Keys carry a generation: one that outlived its entry finds nothing. Nothing here does I/O or
//! reads a clock; time is told by [`ConnTable::tick`].

use std::collections::VecDeque;

use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Events, ParkReason};
use crate::conn::timer_wheel::{NIL, Timer, TimerWheel};
use crate::settings::{NEVER, Ticks};

const CHUNK: usize = 64;
/// Room for more is given back when the queue is empty.
const MANY_READY: usize = 1024;

/// A connection's entry, as long as it is that connection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Active,
    Parked,
    Ready,
}

struct ConnEntry<T> {
    generation: u32,
    timer: Timer,
    permit: PerIpPermit,
    phase: Phase,
    park_reason: ParkReason,
    events: Events,
    close_requested: Option<CloseReason>,
    parked_state: Option<T>,
}

/// What a turn is told when it takes a connection up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnInput {
    pub(crate) events: Events,
    pub(crate) park_reason: ParkReason,
    /// Bytes may have come meanwhile: the turn is told once, and decides.
    pub(crate) expired: Option<Deadline>,
    pub(crate) close_requested: Option<CloseReason>,
}

impl TurnInput {
    /// Whether it may be closed: then the socket itself is asked first, whatever others have told
    /// of it.
    pub(crate) fn forces_io(&self) -> bool {
        self.close_requested.is_some() || self.expired.is_some()
    }
}

/// The effect of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The entry is no more.
    Gone,
    /// It stays as it is; what it holds remembers the events.
    Noted,
    /// It has become ready.
    Ready,
}

pub(crate) struct ConnTable<T> {
    chunks: Vec<Box<[ConnEntry<T>]>>,
    free: Vec<u32>,
    /// In the order in which they became so; not kept where each is taken by its key.
    ready: VecDeque<u32>,
    uses_ready_queue: bool,
    wheel: TimerWheel,
    open: usize,
    parked: usize,
}

impl<T> ConnTable<T> {
    /// `horizon`: how many ticks the shortest of all deadlines has. `uses_ready_queue`: whether
    /// those that are ready are served by [`next_ready`](Self::next_ready), or else each by a task
    /// of its own.
    pub(crate) fn new(horizon: u32, uses_ready_queue: bool) -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            uses_ready_queue,
            wheel: TimerWheel::new(horizon),
            open: 0,
            parked: 0,
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Parked or ready: no turn is under way.
    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// A new entry, active.
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
        entry.permit = permit;
        let key = ConnKey { index, generation: entry.generation };
        if !entry.timer.is_linked() {
            self.link(index, self.wheel.horizon());
        }
        self.open += 1;
        key
    }

    /// Puts an active connection to rest. If events have come, or waits for its turn, it is
    /// ready at once. Its deadline begins anew if it waits for something else than before, or if
    /// it has `moved`; a turn that has not moved it leaves it what it waited for.
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
        if moved || entry.park_reason != park_reason && park_reason != ParkReason::Turn {
            entry.timer.deadline = ticks.end(park_reason, now);
            entry.park_reason = park_reason;
        }
        entry.phase = Phase::Parked;
        let ready = park_reason.wakes_on(entry.events);
        self.parked += 1;
        if ready {
            self.make_ready(key.index);
            return Delivery::Ready;
        }
        Delivery::Noted
    }

    pub(crate) fn deliver(&mut self, key: ConnKey, events: Events) -> Delivery {
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        entry.events = entry.events | events;
        if entry.phase == Phase::Parked && entry.park_reason.wakes_on(entry.events) {
            self.make_ready(key.index);
            return Delivery::Ready;
        }
        Delivery::Noted
    }

    /// Has the connection closed for `reason` in its next turn.
    pub(crate) fn request_close(&mut self, key: ConnKey, reason: CloseReason) -> Delivery {
        let Some(entry) = self.find(key) else { return Delivery::Gone };
        match entry.close_requested {
            Some(before) if before.rank() >= reason.rank() => {}
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

    /// The connection that has been ready for longest; it is active now.
    pub(crate) fn next_ready(&mut self) -> Option<(ConnKey, T, TurnInput)> {
        let index = self.ready.pop_front()?;
        if self.ready.is_empty() && self.ready.capacity() > MANY_READY {
            self.ready = VecDeque::new();
        }
        let key = ConnKey { index, generation: self.entry(index).generation };
        let (parked_state, input) = self.activate(index);
        Some((key, parked_state.expect("a ready record has its content"), input))
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes up a connection by its key, as the one task that serves it does.
    pub(crate) fn take(&mut self, key: ConnKey) -> Option<(Option<T>, TurnInput)> {
        match self.find(key)?.phase {
            Phase::Parked => Some(self.activate(key.index)),
            Phase::Ready => {
                if self.uses_ready_queue {
                    self.ready.retain(|index| *index != key.index);
                }
                Some(self.activate(key.index))
            }
            _ => None,
        }
    }

    /// The parked state, to be woken by those that use [`take`](Self::take).
    pub(crate) fn parked_state(&mut self, key: ConnKey) -> Option<&mut T> {
        self.find(key)?.parked_state.as_mut()
    }

    /// Whether one of `events` has come to an active connection.
    pub(crate) fn has(&mut self, key: ConnKey, events: Events) -> bool {
        self.find(key).is_some_and(|entry| entry.events.any(events))
    }

    /// Which of `events` have come to an active connection; they are done with then. Also tells
    /// whether its close was requested since it was taken up.
    pub(crate) fn take_events(&mut self, key: ConnKey, events: Events) -> Events {
        let Some(entry) = self.find(key) else { return Events::NONE };
        let taken = entry.events.of(events | Events::CLOSE_REQUESTED);
        entry.events = entry.events.without(events);
        taken
    }

    #[cfg(feature = "http")]
    pub(crate) fn close_requested(&mut self, key: ConnKey) -> Option<CloseReason> {
        self.find(key)?.close_requested
    }

    /// Whether a connection is ready; it can be taken up then.
    pub(crate) fn is_ready(&mut self, key: ConnKey) -> bool {
        self.find(key).is_some_and(|entry| entry.phase == Phase::Ready)
    }

    /// Ends an entry; its key is void from now on. Returns the parked state, too, of one that is
    /// parked.
    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<(PerIpPermit, Option<T>)> {
        let parked_state = self.take(key).and_then(|(parked_state, _)| parked_state);
        let entry = self.find(key)?;
        entry.phase = Phase::Free;
        entry.generation = entry.generation.wrapping_add(1);
        let permit = entry.permit;
        self.free.push(key.index);
        self.open -= 1;
        Some((permit, parked_state))
    }

    /// Takes all parked connections out.
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

    /// Advances the time by a tick: requests the close of parked connections whose deadline has
    /// come, and calls `each` with those that became ready.
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
                self.link(index, left.clamp(1, horizon));
            }
            index = next;
        }
    }

    /// Has the wheel look at an entry after so many ticks.
    fn link(&mut self, index: u32, ticks: u32) {
        let entry = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        self.wheel.link(index, &mut entry.timer, ticks);
    }

    fn make_ready(&mut self, index: u32) {
        self.entry(index).phase = Phase::Ready;
        if self.uses_ready_queue {
            self.ready.push_back(index);
        }
    }

    fn activate(&mut self, index: u32) -> (Option<T>, TurnInput) {
        self.parked -= 1;
        let now = self.wheel.now;
        let entry = self.entry(index);
        entry.phase = Phase::Active;
        let events = std::mem::replace(&mut entry.events, Events::NONE);
        let (park_reason, close_requested) = (entry.park_reason, entry.close_requested);
        // One that always has another turn is never parked when the clock looks.
        let expired = events.any(Events::EXPIRED) || entry.timer.ticks_left(now) == Some(0);
        let expired = expired.then(|| park_reason.deadline());
        let events = events.without(Events::EXPIRED);
        (entry.parked_state.take(), TurnInput { events, park_reason, expired, close_requested })
    }

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
            parked_state: None,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) fn entry_size<T>() -> usize {
    size_of::<ConnEntry<T>>()
}
