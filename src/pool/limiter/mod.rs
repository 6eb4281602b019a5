//! Who may come in: the only place that counts slots, queue places and those in line.
//!
//! # Slots
//!
//! A pool of `size` has `size` slots. Each is at any time one of: free in some shard, held by a
//! job, or kept for a caller who was told to come. Taking and giving back a slot normally costs
//! the one lock of the caller's own shard, which it needs anyway to queue the job.
//!
//! # Congestion
//!
//! A caller who finds its shard empty takes the lock of the line, sets `CONGESTED` and looks
//! through all shards. The flag is read under the shard's own lock by everybody who gives a slot
//! back; so a slot that came back before the look is seen by it, and one that comes back after it
//! is brought to the line instead. `CONGESTED` under the line's lock therefore proves that no slot
//! is free, and a refusal costs one load. Whoever brings a slot to the line hands it to the oldest
//! there; only when nobody is left does it go to a shard again, and the flag is taken down.
//!
//! Locks are taken in the order line, shard; never two shards at once; and nothing that belongs
//! to a user (wakers, jobs) is run or dropped under any of them: see [`DeferredWakes`].
//!
//! # Fairness
//!
//! Strictly first come, first served: nobody overtakes somebody in line, and a slot kept for a
//! caller who goes away is handed to the next.

mod callers;
mod counts;
pub(crate) mod deferred_wakes;
mod reserve;
mod resize_close;
mod state;
pub(crate) mod wait_list;

use std::collections::HashMap;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::pool::job::{End, Runnable, SlotKind};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::Desk;
use crate::pool::limiter::wait_list::{Line, List};
use crate::pool::scheduler::shard::{Shard, ShardId, Tally};
use crate::sync::atomic::Ordering::{Acquire, Relaxed};
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, failpoint};

/// No slot is free in any shard.
const CONGESTED: usize = 1;
/// `CONGESTED`, and the queue has no place either.
const FULL: usize = 1 << 5;
/// Nothing new comes in.
const CLOSED: usize = 1 << 1;
/// Somebody waits for the pool to be idle.
const WATCHED: usize = 1 << 2;
/// Suspended jobs are to be cancelled instead of kept.
const CANCELLING: usize = 1 << 3;
/// The runtime is gone: nobody is left to run anything.
const DEAD: usize = 1 << 4;

/// What is to be done with a job for which there is neither a slot nor a place in the queue.
pub(crate) enum OnFull<'a> {
    Refuse,
    /// The caller waits in line with its job.
    Wait {
        waker: &'a Waker,
        pool: usize,
    },
    /// The job waits in line by itself.
    Commit,
    /// The job runs in its caller.
    Inline,
    /// The job runs beyond the size, if no more than this many do.
    Overflow {
        limit: usize,
    },
}

/// A job on offer.
pub(crate) trait Offer {
    /// Puts the job where it can be admitted from, before any lock is taken.
    fn prepare(&mut self);

    /// Gives the job up. Called under the locks of admission, so that nobody can run it, or look
    /// for it, before it is accounted for.
    fn admit(&mut self, slot_kind: SlotKind) -> Runnable;

    /// Gives the job up to stand in line under `ticket`.
    fn admit_to_line(&mut self, slot_kind: SlotKind, ticket: usize) -> Runnable;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ready to run in the shard; a worker must be called if `call`.
    Started {
        call: bool,
        depth: usize,
    },
    /// The same, beyond the size.
    Overflow {
        call: bool,
        depth: usize,
    },
    /// In the queue, or committed to the line.
    InLine,
    /// The caller waits under this ticket.
    Waiting(usize),
    /// The caller is to run it, and to tell [`Admission::end_inline`].
    Inline,
    /// A slot is kept for it.
    Reserved,
    Full,
    Closed,
    Deadlock,
}

pub(crate) struct Admission {
    shards: Box<[CachePadded<Shard>]>,
    /// Flags; written under the lock of `state` only.
    attention: AtomicUsize,
    /// Jobs refused without taking a lock.
    turned_away: AtomicU64,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) line: Line,
    size: usize,
    places: usize,
    /// Slots that are to vanish when they come back: the pool was made smaller.
    debt: usize,
    /// Slots kept for callers who were told to come.
    granted: usize,
    overflow: usize,
    /// Jobs that run in their callers.
    inline: usize,
    /// Jobs that were taken out of the line and are being cancelled.
    ending: usize,
    /// The slot-holding jobs that wait in line, with how many callers each.
    blocked: HashMap<usize, usize>,
    /// Running totals of what does not happen in a shard.
    tally: Tally,
}

impl Admission {
    pub(crate) fn new(shards: usize, size: usize, places: usize) -> Self {
        let share = |shard: usize| size / shards + usize::from(shard < size % shards);
        Self {
            shards: (0..shards).map(|shard| CachePadded::new(Shard::new(share(shard)))).collect(),
            attention: AtomicUsize::new(0),
            turned_away: AtomicU64::new(0),
            state: Mutex::new(State {
                line: Line::new(places),
                size,
                places,
                debt: 0,
                granted: 0,
                overflow: 0,
                inline: 0,
                ending: 0,
                blocked: HashMap::new(),
                tally: Tally::default(),
            }),
        }
    }

    pub(crate) fn shards(&self) -> &[CachePadded<Shard>] {
        &self.shards
    }

    pub(crate) fn shard(&self, shard_id: ShardId) -> &Shard {
        &self.shards[shard_id]
    }

    /// Offers a job. Refusals and verdicts to wait leave it on offer.
    #[inline]
    pub(crate) fn admit(
        &self,
        shard_id: ShardId,
        offer: &mut impl Offer,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> Verdict {
        if matches!(on_full, OnFull::Refuse) && quota.is_none() && self.turns_away() {
            return Verdict::Full;
        }
        offer.prepare();
        if quota.is_none() {
            let mut shard = self.shards[shard_id].lock();
            if shard.free > 0 && self.attention.load(Relaxed) & CLOSED == 0 {
                shard.free -= 1;
                shard.tally.submitted += 1;
                shard.tally.started += 1;
                let call = shard.push(offer.admit(SlotKind::for_quota(quota)));
                return Verdict::Started { call, depth: shard.ready.len() };
            }
        }
        self.admit_slow(shard_id, offer, quota, on_full)
    }

    /// Refuses a job at once if the pool is full: nobody has to queue up behind a lock for that.
    #[inline]
    pub(crate) fn turns_away(&self) -> bool {
        let full = self.attention.load(Acquire) & (FULL | CLOSED) == FULL;
        if full {
            self.turned_away.fetch_add(1, Relaxed);
        }
        full
    }

    #[cold]
    fn admit_slow(
        &self,
        shard_id: ShardId,
        offer: &mut impl Offer,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> Verdict {
        // Wakers are the user's: cloned and dropped outside of the lock.
        let mut waker = match on_full {
            OnFull::Wait { waker, .. } => Some(waker.clone()),
            _ => None,
        };
        let mut state = self.desk();
        state.tally.submitted += 1;
        if self.attention.load(Relaxed) & CLOSED != 0 {
            state.tally.refused += 1;
            return Verdict::Closed;
        }
        let slot_kind = SlotKind::for_quota(quota);
        let within_share = state.is_within_share(quota);
        if within_share {
            if self.take_slot(&mut state, shard_id) {
                state.hold(quota);
                state.tally.started += 1;
                let mut shard = self.shards[shard_id].lock();
                let call = shard.push(offer.admit(slot_kind));
                return Verdict::Started { call, depth: shard.ready.len() };
            }
            if state.line.has_place() {
                state.hold(quota);
                state.stand(List::Main, offer, slot_kind);
                return Verdict::InLine;
            }
        }
        let list = match quota {
            Some(quota) if !within_share => List::Quota(quota),
            _ => List::Main,
        };
        match on_full {
            OnFull::Refuse => {
                state.tally.refused += 1;
                Verdict::Full
            }
            OnFull::Inline => {
                state.inline += 1;
                Verdict::Inline
            }
            OnFull::Commit => {
                if within_share {
                    state.hold(quota);
                }
                state.stand(list, offer, slot_kind);
                Verdict::InLine
            }
            OnFull::Overflow { limit } if state.overflow < limit => {
                state.overflow += 1;
                state.tally.overflow_started += 1;
                let mut shard = self.shards[shard_id].lock();
                let call = shard.push(offer.admit(SlotKind::Overflow));
                Verdict::Overflow { call, depth: shard.ready.len() }
            }
            OnFull::Overflow { .. } => {
                state.tally.refused += 1;
                Verdict::Full
            }
            OnFull::Wait { pool, .. } => {
                state.stand_caller(list, quota, within_share, &mut waker, pool, false)
            }
        }
    }

    fn desk(&self) -> Desk<'_> {
        Desk { state: self.state.lock(), attention: &self.attention }
    }

    fn has(&self, flag: usize) -> bool {
        self.attention.load(Acquire) & flag != 0
    }

    /// Takes a slot from whichever shard has one, and brings what else that shard can spare to
    /// the caller's.
    fn take_slot(&self, state: &mut Desk<'_>, shard_id: ShardId) -> bool {
        if state.has(CONGESTED) {
            return false;
        }
        if !failpoint("scan before the flag") {
            state.set(CONGESTED);
        }
        for shard in (0..self.shards.len())
            .map(|offset| &self.shards[(shard_id + offset) % self.shards.len()])
        {
            let mut victim = shard.lock();
            let taken = victim.free.div_ceil(2);
            if taken > 0 {
                victim.free -= taken;
                drop(victim);
                state.clear(CONGESTED);
                self.shards[shard_id].lock().free += taken - 1;
                return true;
            }
        }
        false
    }

    /// Hands a slot to the oldest in line, or back to a shard.
    fn hand_on(&self, state: &mut Desk<'_>, shard_id: ShardId, deferred: &mut DeferredWakes) {
        if state.debt > 0 {
            state.debt -= 1;
            self.break_deadlock(state, shard_id, deferred);
            return;
        }
        let Some(ticket) = state.line.head(List::Main) else {
            self.shards[shard_id].lock().free += 1;
            state.clear(CONGESTED);
            return;
        };
        state.line.unlink(ticket);
        state.take_in(ticket, deferred);
        state.admit_all(deferred);
    }

    /// Accounts for an ended job whose worker could not do it in its shard alone.
    #[cold]
    pub(crate) fn settle_slow(
        &self,
        shard_id: ShardId,
        slot_kind: SlotKind,
        end: End,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.desk();
        state.tally.end(end);
        if slot_kind == SlotKind::Overflow {
            state.overflow -= 1;
            state.tally.overflow_ended += 1;
        } else {
            state.tally.ended += 1;
            self.hand_on(&mut state, shard_id, deferred);
        }
        self.release_share(&mut state, shard_id, slot_kind.quota(), deferred);
        self.look_for_idle(&mut state, deferred);
    }

    /// Gives back a part of a quota, and lets the next who waits for it into the main line.
    fn release_share(
        &self,
        state: &mut Desk<'_>,
        shard_id: ShardId,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        let Some(key) = quota else { return };
        state.line.quotas[key].held -= 1;
        self.call_up(state, shard_id, key, deferred);
        state.line.sweep_quota(key);
    }

    fn call_up(
        &self,
        state: &mut Desk<'_>,
        shard_id: ShardId,
        key: usize,
        deferred: &mut DeferredWakes,
    ) {
        while state.line.quotas[key].held < state.line.quotas[key].limit {
            let Some(ticket) = state.line.head(List::Quota(key)) else { return };
            state.line.unlink(ticket);
            state.line.quotas[key].held += 1;
            if self.take_slot(state, shard_id) {
                state.take_in(ticket, deferred);
            } else {
                state.line.link(List::Main, ticket);
                state.admit_all(deferred);
            }
        }
    }

    /// A job that was refused, and counted so, is run in its caller after all.
    pub(crate) fn inline_after_all(&self) {
        let mut state = self.state.lock();
        state.tally.refused -= 1;
        state.inline += 1;
    }

    /// A job that was run in its caller is over.
    pub(crate) fn end_inline(&self, end: End, deferred: &mut DeferredWakes) {
        let mut state = self.desk();
        state.inline -= 1;
        state.tally.end(end);
        self.look_for_idle(&mut state, deferred);
    }

    pub(crate) fn add_quota(&self, limit: usize) -> usize {
        self.state.lock().line.add_quota(limit)
    }

    /// Forgets a quota, at once or with the last slot that is reserved or held under it.
    pub(crate) fn remove_quota(&self, key: usize) {
        self.state.lock().line.orphan_quota(key);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.has(DEAD)
    }

    /// Whether a suspended job is to be cancelled instead of kept. Exact under a shard's lock.
    pub(crate) fn is_cancelling(&self) -> bool {
        self.has(CANCELLING)
    }

    /// Whether the end of a job has to be told to the line. Exact under a shard's lock.
    pub(crate) fn needs_desk(&self) -> bool {
        self.attention.load(Relaxed) & (CONGESTED | WATCHED) != 0
    }
}
