//! Slots without jobs: kept ahead of one that is to come, or beyond the end of one that was.

use std::task::Waker;

use crate::pool::job::SlotKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::{List, WaiterKey, WaiterState};
use crate::pool::limiter::{AcquireOutcome, CLOSED, Limiter, PendingJob};
use crate::pool::scheduler::shard::{ReleaseReason, ShardId};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::failpoint;

impl Limiter {
    /// Keeps a slot for a job that comes later. With nobody to `wake`, refuses if there is none.
    #[inline]
    pub(crate) fn reserve(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        wake: Option<(&Waker, usize)>,
    ) -> AcquireOutcome {
        if quota.is_none() {
            if wake.is_none() && self.refuse_if_full() {
                return AcquireOutcome::Full;
            }
            let mut shard = self.shards[shard_id].lock();
            if shard.free_slots > 0 && self.flags.load(Relaxed) & CLOSED == 0 {
                shard.free_slots -= 1;
                shard.counters.submitted += 1;
                shard.counters.reserved += 1;
                return AcquireOutcome::Reserved;
            }
        }
        self.reserve_slow(shard_id, quota, wake)
    }

    #[cold]
    fn reserve_slow(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        wake: Option<(&Waker, usize)>,
    ) -> AcquireOutcome {
        // Dropped outside of the lock: wakers are the user's.
        let mut wake = wake.map(|(waker, pool)| (Some(waker.clone()), pool));
        let mut state = self.lock_state();
        state.counters.submitted += 1;
        if state.has(CLOSED) {
            state.counters.refused += 1;
            return AcquireOutcome::Closed;
        }
        let in_quota = state.has_quota_left(quota);
        if in_quota && self.acquire_from_any_shard(&mut state, shard_id) {
            state.acquire_quota(quota);
            state.counters.reserved += 1;
            return AcquireOutcome::Reserved;
        }
        let Some((waker, pool)) = &mut wake else {
            state.counters.refused += 1;
            return AcquireOutcome::Full;
        };
        let list = match quota {
            Some(quota) if !in_quota => List::Quota(quota),
            _ => List::Main,
        };
        state.enqueue_caller(list, quota, in_quota, waker, *pool, true)
    }

    /// A caller in the wait list who was told to come takes the slot that is kept for it.
    pub(crate) fn take_granted(
        &self,
        waiter_key: WaiterKey,
        deferred: &mut DeferredWakes,
    ) -> AcquireOutcome {
        let mut state = self.lock_state();
        let outcome = match state.wait_list.caller(waiter_key).state {
            WaiterState::Waiting | WaiterState::QueueGranted => {
                return AcquireOutcome::Waiting(waiter_key);
            }
            WaiterState::SlotGranted => {
                state.slots_granted -= 1;
                state.counters.reserved += 1;
                AcquireOutcome::Reserved
            }
            waiter_state => {
                state.counters.refused += 1;
                if waiter_state == WaiterState::Closed {
                    AcquireOutcome::Closed
                } else {
                    AcquireOutcome::Deadlock
                }
            }
        };
        state.wait_list.remove_node(waiter_key);
        self.check_idle(&mut state, deferred);
        outcome
    }

    /// The job for which a slot was kept. If the pool was closed meanwhile, it stays on offer.
    #[inline]
    pub(crate) fn submit_reserved(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
    ) -> AcquireOutcome {
        pending.prepare();
        let mut shard = self.shards[shard_id].lock();
        if self.flags.load(Relaxed) & CLOSED != 0 {
            return AcquireOutcome::Closed;
        }
        shard.counters.reservations_ended += 1;
        shard.counters.started += 1;
        let needs_wake = shard.push(pending.admit(SlotKind::for_quota(quota)));
        AcquireOutcome::Started { needs_wake, depth: shard.run_queue.len() }
    }

    /// Gives back a slot that was kept without a job.
    pub(crate) fn release_slot(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        reason: ReleaseReason,
        deferred: &mut DeferredWakes,
    ) {
        if quota.is_none() {
            let mut shard = self.shards[shard_id].lock();
            // The end of what was held may be the end of a pool that was closed.
            let alone = !self.needs_slow_release() || failpoint("release without recheck");
            if alone && (reason != ReleaseReason::Held || !self.is_closed()) {
                shard.counters.release(reason);
                shard.free_slots += 1;
                return;
            }
        }
        let mut state = self.lock_state();
        state.counters.release(reason);
        self.release_to_next(&mut state, shard_id, deferred);
        self.release_quota(&mut state, shard_id, quota, deferred);
        self.check_idle(&mut state, deferred);
    }
}
