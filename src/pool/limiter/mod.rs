//! Who may come in: the only place that counts slots, queue places and the waiters.
//!
//! # Slots
//!
//! A pool of `size` has `size` slots. Each is at any time one of: free in some shard, held by a
//! job, or kept for a caller who was told to come. Taking and giving back a slot normally costs
//! the one lock of the caller's own shard, which it needs anyway to queue the job.
//!
//! # Congestion
//!
//! A caller who finds its shard empty takes the lock of the wait list, sets `NO_SLOTS` and looks
//! through all shards. The flag is read under the shard's own lock by everybody who gives a slot
//! back; so a slot that came back before the look is seen by it, and one that comes back after it
//! is brought to the wait list instead. `NO_SLOTS` under the wait list's lock therefore proves that no slot
//! is free, and a refusal costs one load. Whoever brings a slot to the wait list hands it to the oldest
//! there; only when nobody is left does it go to a shard again, and the flag is taken down.
//!
//! Locks are taken in the order wait list, shard; never two shards at once; and nothing that belongs
//! to a user (wakers, jobs) is run or dropped under any of them: see [`DeferredWakes`].
//!
//! # Fairness
//!
//! Strictly first come, first served: nobody overtakes a waiter, and a slot kept for a
//! caller who goes away is handed to the next.

mod callers;
mod counts;
pub(crate) mod deadlock;
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
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::wait_list::{List, WaitList, WaiterKey};
use crate::pool::scheduler::shard::{Counters, Shard, ShardId};
use crate::sync::atomic::Ordering::{Acquire, Relaxed};
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, failpoint};

/// No slot is free in any shard.
const NO_SLOTS: usize = 1;
/// `NO_SLOTS`, and the queue has no place either.
const FULL: usize = 1 << 5;
/// Nothing new comes in.
const CLOSED: usize = 1 << 1;
/// Somebody waits for the pool to be idle.
const IDLE_WAITERS: usize = 1 << 2;
/// Suspended jobs are to be cancelled instead of kept.
const CANCELLING: usize = 1 << 3;
/// The runtime is gone: nobody is left to run anything.
const RUNTIME_GONE: usize = 1 << 4;

/// What is to be done with a job for which there is neither a slot nor a place in the queue.
pub(crate) enum OnFull<'a> {
    Refuse,
    /// The caller waits in the wait list with its job.
    Wait {
        waker: &'a Waker,
        pool: usize,
    },
    /// The job waits in the wait list by itself.
    Commit,
    /// The job runs in its caller.
    RunInCaller,
    /// The job runs beyond the size, if no more than this many do.
    Overflow {
        limit: usize,
    },
}

/// A job on offer.
pub(crate) trait PendingJob {
    /// Puts the job where it can be admitted from, before any lock is taken.
    fn prepare(&mut self);

    /// Gives the job up. Called under the locks of the limiter, so that nobody can run it, or look
    /// for it, before it is accounted for.
    fn admit(&mut self, slot_kind: SlotKind) -> Runnable;

    /// Gives the job up to stand in the wait list under `waiter_key`.
    fn admit_waiting(&mut self, slot_kind: SlotKind, waiter_key: WaiterKey) -> Runnable;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcquireOutcome {
    /// Ready to run in the shard; a worker must be called if `call`.
    Started {
        needs_wake: bool,
        depth: usize,
    },
    /// The same, beyond the size.
    Overflow {
        needs_wake: bool,
        depth: usize,
    },
    /// In the queue, or committed to the wait list.
    Enqueued,
    /// The caller waits under this key.
    Waiting(WaiterKey),
    /// The caller is to run it, and to tell [`Limiter::end_in_caller`].
    RunInCaller,
    /// A slot is kept for it.
    Reserved,
    Full,
    Closed,
    Deadlock,
}

pub(crate) struct Limiter {
    shards: Box<[CachePadded<Shard>]>,
    /// Flags; written under the lock of `state` only.
    flags: AtomicUsize,
    /// Jobs refused without taking a lock.
    fast_refusals: AtomicU64,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) wait_list: WaitList,
    size: usize,
    queue_capacity: usize,
    /// Slots that are to vanish when they come back: the pool was made smaller.
    slots_to_remove: usize,
    /// Slots kept for callers who were told to come.
    slots_granted: usize,
    overflow: usize,
    /// Jobs that run in their callers.
    in_caller: usize,
    /// Jobs that were taken out of the wait list and are being cancelled.
    cancelling: usize,
    /// The slot-holding jobs that wait in the wait list, with how many callers each.
    waiting_holders: HashMap<usize, usize>,
    /// Running totals of what does not happen in a shard.
    counters: Counters,
}

impl Limiter {
    pub(crate) fn new(shards: usize, size: usize, queue_capacity: usize) -> Self {
        let share = |shard: usize| size / shards + usize::from(shard < size % shards);
        Self {
            shards: (0..shards).map(|shard| CachePadded::new(Shard::new(share(shard)))).collect(),
            flags: AtomicUsize::new(0),
            fast_refusals: AtomicU64::new(0),
            state: Mutex::new(State {
                wait_list: WaitList::new(queue_capacity),
                size,
                queue_capacity,
                slots_to_remove: 0,
                slots_granted: 0,
                overflow: 0,
                in_caller: 0,
                cancelling: 0,
                waiting_holders: HashMap::new(),
                counters: Counters::default(),
            }),
        }
    }

    pub(crate) fn shards(&self) -> &[CachePadded<Shard>] {
        &self.shards
    }

    pub(crate) fn shard(&self, shard_id: ShardId) -> &Shard {
        &self.shards[shard_id]
    }

    /// Offers a job. Refusals and outcomes to wait leave it on offer.
    #[inline]
    pub(crate) fn admit(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        if matches!(on_full, OnFull::Refuse) && quota.is_none() && self.refuse_if_full() {
            return AcquireOutcome::Full;
        }
        pending.prepare();
        if quota.is_none() {
            let mut shard = self.shards[shard_id].lock();
            if shard.free_slots > 0 && self.flags.load(Relaxed) & CLOSED == 0 {
                shard.free_slots -= 1;
                shard.counters.submitted += 1;
                shard.counters.started += 1;
                let needs_wake = shard.push(pending.admit(SlotKind::for_quota(quota)));
                return AcquireOutcome::Started { needs_wake, depth: shard.run_queue.len() };
            }
        }
        self.admit_slow(shard_id, pending, quota, on_full)
    }

    /// Refuses a job at once if the pool is full: nobody has to queue up behind a lock for that.
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        let full = self.flags.load(Acquire) & (FULL | CLOSED) == FULL;
        if full {
            self.fast_refusals.fetch_add(1, Relaxed);
        }
        full
    }

    #[cold]
    fn admit_slow(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        // Wakers are the user's: cloned and dropped outside of the lock.
        let mut waker = match on_full {
            OnFull::Wait { waker, .. } => Some(waker.clone()),
            _ => None,
        };
        let mut state = self.lock_state();
        state.counters.submitted += 1;
        if self.flags.load(Relaxed) & CLOSED != 0 {
            state.counters.refused += 1;
            return AcquireOutcome::Closed;
        }
        let slot_kind = SlotKind::for_quota(quota);
        let in_quota = state.has_quota_left(quota);
        if in_quota {
            if self.acquire_from_any_shard(&mut state, shard_id) {
                state.acquire_quota(quota);
                state.counters.started += 1;
                let mut shard = self.shards[shard_id].lock();
                let needs_wake = shard.push(pending.admit(slot_kind));
                return AcquireOutcome::Started { needs_wake, depth: shard.run_queue.len() };
            }
            if state.wait_list.has_queue_room() {
                state.acquire_quota(quota);
                state.enqueue_job(List::Main, pending, slot_kind);
                return AcquireOutcome::Enqueued;
            }
        }
        let list = match quota {
            Some(quota) if !in_quota => List::Quota(quota),
            _ => List::Main,
        };
        match on_full {
            OnFull::Refuse => {
                state.counters.refused += 1;
                AcquireOutcome::Full
            }
            OnFull::RunInCaller => {
                state.in_caller += 1;
                AcquireOutcome::RunInCaller
            }
            OnFull::Commit => {
                if in_quota {
                    state.acquire_quota(quota);
                }
                state.enqueue_job(list, pending, slot_kind);
                AcquireOutcome::Enqueued
            }
            OnFull::Overflow { limit } if state.overflow < limit => {
                state.overflow += 1;
                state.counters.overflow_started += 1;
                let mut shard = self.shards[shard_id].lock();
                let needs_wake = shard.push(pending.admit(SlotKind::Overflow));
                AcquireOutcome::Overflow { needs_wake, depth: shard.run_queue.len() }
            }
            OnFull::Overflow { .. } => {
                state.counters.refused += 1;
                AcquireOutcome::Full
            }
            OnFull::Wait { pool, .. } => {
                state.enqueue_caller(list, quota, in_quota, &mut waker, pool, false)
            }
        }
    }

    fn lock_state(&self) -> StateGuard<'_> {
        StateGuard { state: self.state.lock(), flags: &self.flags }
    }

    fn has(&self, flag: usize) -> bool {
        self.flags.load(Acquire) & flag != 0
    }

    /// Takes a slot from whichever shard has one, and brings what else that shard can spare to
    /// the caller's.
    fn acquire_from_any_shard(&self, state: &mut StateGuard<'_>, shard_id: ShardId) -> bool {
        if state.has(NO_SLOTS) {
            return false;
        }
        if !failpoint("scan before the flag") {
            state.set(NO_SLOTS);
        }
        for shard in (0..self.shards.len())
            .map(|offset| &self.shards[(shard_id + offset) % self.shards.len()])
        {
            let mut victim = shard.lock();
            let taken = victim.free_slots.div_ceil(2);
            if taken > 0 {
                victim.free_slots -= taken;
                drop(victim);
                state.clear(NO_SLOTS);
                self.shards[shard_id].lock().free_slots += taken - 1;
                return true;
            }
        }
        false
    }

    /// Hands a slot to the oldest waiter, or back to a shard.
    fn release_to_next(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) {
        if state.slots_to_remove > 0 {
            state.slots_to_remove -= 1;
            self.break_deadlock(state, shard_id, deferred);
            return;
        }
        let Some(waiter_key) = state.wait_list.head(List::Main) else {
            self.shards[shard_id].lock().free_slots += 1;
            state.clear(NO_SLOTS);
            return;
        };
        state.wait_list.unlink(waiter_key);
        state.grant(waiter_key, deferred);
        state.fill_queue(deferred);
    }

    /// Accounts for an ended job whose worker could not do it in its shard alone.
    #[cold]
    pub(crate) fn release_slow(
        &self,
        shard_id: ShardId,
        slot_kind: SlotKind,
        end: End,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        state.counters.end(end);
        if slot_kind == SlotKind::Overflow {
            state.overflow -= 1;
            state.counters.overflow_ended += 1;
        } else {
            state.counters.ended += 1;
            self.release_to_next(&mut state, shard_id, deferred);
        }
        self.release_quota(&mut state, shard_id, slot_kind.quota(), deferred);
        self.check_idle(&mut state, deferred);
    }

    /// Gives back a part of a quota, and lets the next who waits for it into the main list.
    fn release_quota(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        let Some(key) = quota else { return };
        state.wait_list.quotas[key].in_use -= 1;
        self.promote_quota_waiters(state, shard_id, key, deferred);
        state.wait_list.remove_quota_if_unused(key);
    }

    fn promote_quota_waiters(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        key: usize,
        deferred: &mut DeferredWakes,
    ) {
        while state.wait_list.quotas[key].in_use < state.wait_list.quotas[key].limit {
            let Some(waiter_key) = state.wait_list.head(List::Quota(key)) else { return };
            state.wait_list.unlink(waiter_key);
            state.wait_list.quotas[key].in_use += 1;
            if self.acquire_from_any_shard(state, shard_id) {
                state.grant(waiter_key, deferred);
            } else {
                state.wait_list.link(List::Main, waiter_key);
                state.fill_queue(deferred);
            }
        }
    }

    /// A job that was refused, and counted so, is run in its caller after all.
    pub(crate) fn run_refused_in_caller(&self) {
        let mut state = self.state.lock();
        state.counters.refused -= 1;
        state.in_caller += 1;
    }

    /// A job that was run in its caller is over.
    pub(crate) fn end_in_caller(&self, end: End, deferred: &mut DeferredWakes) {
        let mut state = self.lock_state();
        state.in_caller -= 1;
        state.counters.end(end);
        self.check_idle(&mut state, deferred);
    }

    pub(crate) fn add_quota(&self, limit: usize) -> usize {
        self.state.lock().wait_list.add_quota(limit)
    }

    /// Forgets a quota, at once or with the last slot that is reserved or held under it.
    pub(crate) fn remove_quota(&self, key: usize) {
        self.state.lock().wait_list.remove_quota_when_unused(key);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    pub(crate) fn is_runtime_gone(&self) -> bool {
        self.has(RUNTIME_GONE)
    }

    /// Whether a suspended job is to be cancelled instead of kept. Exact under a shard's lock.
    pub(crate) fn is_cancelling(&self) -> bool {
        self.has(CANCELLING)
    }

    /// Whether the end of a job has to be told to the wait list. Exact under a shard's lock.
    pub(crate) fn needs_slow_release(&self) -> bool {
        self.flags.load(Relaxed) & (NO_SLOTS | IDLE_WAITERS) != 0
    }
}
