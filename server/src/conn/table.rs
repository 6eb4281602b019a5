//! The lot: one record for each connection, who holds it, and when its deadline is.
//!
//! A record is in one of four phases. `Free`; `Active`, its content in the hands of one burst (or
//! of its task); `Parked`, the content at rest here; `Ready`, parked with a reason to be served,
//! in a list, first in, first out. Whatever happens to a connection is a [`Signal`]. It makes a
//! parked record ready, and stays with an active one until that is parked again, which then is
//! ready at once. So no connection is served twice at a time, and none is forgotten.
//!
//! Keys carry a generation: one that outlived its record finds nothing. Nothing here does I/O or
//! reads a clock; time is told by [`Lot::tick`].
//!
//! Deadlines stand in a wheel of lists through the records. Activity moves a deadline by a store,
//! without a change of lists: each record is looked at again after at most `horizon` ticks, which
//! is no longer than the shortest deadline, and relinked by what it then says.

use std::collections::VecDeque;

use crate::accept::per_ip::Visit;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::events::{Signal, Wait};
use crate::settings::{NEVER, Ticks};

const CHUNK: usize = 64;
/// Room for more is given back when nobody is ready.
const MANY_READY: usize = 1024;
const NIL: u32 = u32::MAX;

/// A connection's record, as long as it is that connection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
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

struct Record<T> {
    generation: u32,
    /// The tick of its deadline.
    at: u32,
    wheel_next: u32,
    visit: Visit,
    phase: Phase,
    /// Whether it stands in the wheel; it may do so while it is free.
    linked: bool,
    wait: Wait,
    signals: Signal,
    doom: Option<CloseReason>,
    content: Option<T>,
}

/// What a burst is told when it takes a connection up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) signals: Signal,
    pub(crate) wait: Wait,
    /// Bytes may have come meanwhile: the burst is told once, and decides.
    pub(crate) late: Option<Deadline>,
    pub(crate) doom: Option<CloseReason>,
}

impl Order {
    /// Whether it may be closed: then the socket itself is asked first, whatever others have told
    /// of it.
    pub(crate) fn asks(&self) -> bool {
        self.doom.is_some() || self.late.is_some()
    }
}

/// What came of a signal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signalled {
    /// The record is no more.
    Gone,
    /// It stays as it is; what it holds remembers the signal.
    Noted,
    /// It has become ready.
    Ready,
}

pub(crate) struct Lot<T> {
    chunks: Vec<Box<[Record<T>]>>,
    free: Vec<u32>,
    /// In the order in which they became so; not kept where each is taken by its key.
    ready: VecDeque<u32>,
    listed: bool,
    wheel: Vec<u32>,
    horizon: u32,
    now: u32,
    open: usize,
    parked: usize,
}

impl<T> Lot<T> {
    /// `horizon`: how many ticks the shortest of all deadlines has. `listed`: whether those that are
    /// ready are served by [`next_ready`](Self::next_ready), or else each by a task of its own.
    pub(crate) fn new(horizon: u32, listed: bool) -> Self {
        let horizon = horizon.clamp(1, 4096);
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            listed,
            wheel: vec![NIL; horizon as usize + 1],
            horizon,
            now: 0,
            open: 0,
            parked: 0,
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Parked or ready: nobody works for them.
    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// A new record, active.
    pub(crate) fn claim(&mut self, visit: Visit) -> Key {
        if self.free.is_empty() {
            let base = (self.chunks.len() * CHUNK) as u32;
            self.chunks.push((0..CHUNK).map(|_| Record::free()).collect());
            self.free.extend((base..base + CHUNK as u32).rev());
        }
        let index = self.free.pop().expect("a chunk was added");
        let record = self.record(index);
        record.phase = Phase::Active;
        record.signals = Signal::NONE;
        record.wait = Wait::FirstByte;
        record.at = NEVER;
        record.doom = None;
        record.visit = visit;
        let key = Key { index, generation: record.generation };
        if !record.linked {
            self.link(index, self.now.wrapping_add(self.horizon));
        }
        self.open += 1;
        key
    }

    /// Puts an active connection to rest. If it has been signalled, or waits for its turn, it is
    /// ready at once. Its deadline begins anew if it waits for something else than before, or if
    /// it has `moved`; a turn that has not moved it leaves it what it waited for.
    pub(crate) fn park(
        &mut self,
        key: Key,
        content: T,
        (wait, moved): (Wait, bool),
        ticks: &Ticks,
    ) -> Signalled {
        let now = self.now;
        let Some(record) = self.find(key) else { return Signalled::Gone };
        debug_assert_eq!(record.phase, Phase::Active);
        record.content = Some(content);
        if moved || record.wait != wait && wait != Wait::Turn {
            record.at = ticks.end(wait, now);
            record.wait = wait;
        }
        record.phase = Phase::Parked;
        let ready = wait.heeds(record.signals);
        self.parked += 1;
        if ready {
            self.make_ready(key.index);
            return Signalled::Ready;
        }
        Signalled::Noted
    }

    pub(crate) fn signal(&mut self, key: Key, signals: Signal) -> Signalled {
        let Some(record) = self.find(key) else { return Signalled::Gone };
        record.signals = record.signals | signals;
        if record.phase == Phase::Parked && record.wait.heeds(record.signals) {
            self.make_ready(key.index);
            return Signalled::Ready;
        }
        Signalled::Noted
    }

    /// Has the connection closed for `reason` as soon as somebody works for it.
    pub(crate) fn doom(&mut self, key: Key, reason: CloseReason) -> Signalled {
        let Some(record) = self.find(key) else { return Signalled::Gone };
        match record.doom {
            Some(before) if before.rank() >= reason.rank() => {}
            _ => record.doom = Some(reason),
        }
        self.signal(key, Signal::DOOM)
    }

    /// Dooms all there are, and calls `each` with those that became ready.
    pub(crate) fn doom_all(&mut self, reason: CloseReason, mut each: impl FnMut(Key)) {
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            let record = self.record(index);
            if record.phase == Phase::Free {
                continue;
            }
            let key = Key { index, generation: record.generation };
            if self.doom(key, reason) == Signalled::Ready {
                each(key);
            }
        }
    }

    /// The connection that has been ready for longest; it is active now.
    pub(crate) fn next_ready(&mut self) -> Option<(Key, T, Order)> {
        let index = self.ready.pop_front()?;
        if self.ready.is_empty() && self.ready.capacity() > MANY_READY {
            self.ready = VecDeque::new();
        }
        let key = Key { index, generation: self.record(index).generation };
        let (content, order) = self.activate(index);
        Some((key, content.expect("a ready record has its content"), order))
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes up a connection by its key, as the one task that serves it does.
    pub(crate) fn take(&mut self, key: Key) -> Option<(Option<T>, Order)> {
        match self.find(key)?.phase {
            Phase::Parked => Some(self.activate(key.index)),
            Phase::Ready => {
                if self.listed {
                    self.ready.retain(|index| *index != key.index);
                }
                Some(self.activate(key.index))
            }
            _ => None,
        }
    }

    /// The parked content, to be woken by those that use [`take`](Self::take).
    pub(crate) fn content(&mut self, key: Key) -> Option<&mut T> {
        self.find(key)?.content.as_mut()
    }

    /// Whether one of `signals` has come to an active connection.
    pub(crate) fn has(&mut self, key: Key, signals: Signal) -> bool {
        self.find(key).is_some_and(|record| record.signals.any(signals))
    }

    /// Which of `signals` have come to an active connection; they are done with then. Also tells
    /// whether it was doomed since it was taken up.
    pub(crate) fn heed(&mut self, key: Key, signals: Signal) -> Signal {
        let Some(record) = self.find(key) else { return Signal::NONE };
        let heeded = record.signals.of(signals | Signal::DOOM);
        record.signals = record.signals.without(signals);
        heeded
    }

    #[cfg(feature = "http")]
    pub(crate) fn doom_of(&mut self, key: Key) -> Option<CloseReason> {
        self.find(key)?.doom
    }

    /// Whether a connection is ready; it can be taken up then.
    pub(crate) fn is_marked(&mut self, key: Key) -> bool {
        self.find(key).is_some_and(|record| record.phase == Phase::Ready)
    }

    /// Ends a record; its key is void from now on. Gives the content, too, of one that is parked.
    pub(crate) fn release(&mut self, key: Key) -> Option<(Visit, Option<T>)> {
        let content = self.take(key).and_then(|(content, _)| content);
        let record = self.find(key)?;
        record.phase = Phase::Free;
        record.generation = record.generation.wrapping_add(1);
        let visit = record.visit;
        self.free.push(key.index);
        self.open -= 1;
        Some((visit, content))
    }

    /// Takes out all that is parked, for an end without ceremony.
    pub(crate) fn evict(&mut self) -> Vec<(Key, T)> {
        self.ready.clear();
        let mut evicted = Vec::new();
        for index in 0..(self.chunks.len() * CHUNK) as u32 {
            if matches!(self.record(index).phase, Phase::Parked | Phase::Ready) {
                let generation = self.record(index).generation;
                if let (Some(content), _) = self.activate(index) {
                    evicted.push((Key { index, generation }, content));
                }
            }
        }
        evicted
    }

    /// One tick on: dooms the parked connections whose deadline has come, and calls `each` with
    /// those that became ready.
    pub(crate) fn tick(&mut self, mut each: impl FnMut(Key)) {
        self.now = self.now.wrapping_add(1);
        let now = self.now;
        let bucket = now as usize % self.wheel.len();
        let mut index = std::mem::replace(&mut self.wheel[bucket], NIL);
        while index != NIL {
            let horizon = self.horizon;
            let record = self.record(index);
            let next = record.wheel_next;
            record.linked = false;
            if record.phase != Phase::Free {
                let left = left(record.at, now).unwrap_or(horizon);
                if left == 0 && record.phase == Phase::Parked {
                    let key = Key { index, generation: record.generation };
                    if self.signal(key, Signal::DOOM | Signal::LATE) == Signalled::Ready {
                        each(key);
                    }
                }
                self.link(index, now.wrapping_add(left.clamp(1, horizon)));
            }
            index = next;
        }
    }

    fn link(&mut self, index: u32, at: u32) {
        let bucket = at as usize % self.wheel.len();
        let next = std::mem::replace(&mut self.wheel[bucket], index);
        let record = self.record(index);
        record.wheel_next = next;
        record.linked = true;
    }

    fn make_ready(&mut self, index: u32) {
        self.record(index).phase = Phase::Ready;
        if self.listed {
            self.ready.push_back(index);
        }
    }

    fn activate(&mut self, index: u32) -> (Option<T>, Order) {
        self.parked -= 1;
        let now = self.now;
        let record = self.record(index);
        record.phase = Phase::Active;
        let signals = std::mem::replace(&mut record.signals, Signal::NONE);
        let (wait, doom) = (record.wait, record.doom);
        // One that always has another turn is never parked when the clock looks.
        let late = signals.any(Signal::LATE) || left(record.at, now) == Some(0);
        let late = late.then(|| wait.deadline());
        let signals = signals.without(Signal::LATE);
        (record.content.take(), Order { signals, wait, late, doom })
    }

    fn find(&mut self, key: Key) -> Option<&mut Record<T>> {
        let chunk = self.chunks.get_mut(key.index as usize / CHUNK)?;
        let record = &mut chunk[key.index as usize % CHUNK];
        (record.generation == key.generation && record.phase != Phase::Free).then_some(record)
    }

    fn record(&mut self, index: u32) -> &mut Record<T> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

/// How many ticks are left of a deadline. They wrap; none is half of the range away.
fn left(at: u32, now: u32) -> Option<u32> {
    let left = at.wrapping_sub(now);
    (at != NEVER).then_some(if left > NEVER / 2 { 0 } else { left })
}

impl<T> Record<T> {
    fn free() -> Self {
        Self {
            generation: 0,
            at: NEVER,
            wheel_next: NIL,
            visit: Visit::UNCOUNTED,
            phase: Phase::Free,
            linked: false,
            wait: Wait::FirstByte,
            signals: Signal::NONE,
            doom: None,
            content: None,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) fn record_size<T>() -> usize {
    size_of::<Record<T>>()
}
