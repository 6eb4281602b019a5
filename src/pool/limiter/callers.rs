//! The waiters: looking, coming when told, going away; and the jobs that wait there.

use std::task::Waker;

use crate::pool::job::{End, RawJob, Runnable, SlotKind};
use crate::pool::limiter::deadlock;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::wait_list::{
    CallerWaiter, List, Removed, Waiter, WaiterKey, WaiterState,
};
use crate::pool::limiter::{AcquireOutcome, CANCELLING, Limiter, PendingJob};
use crate::pool::scheduler::shard::ShardId;
use crate::sync::failpoint;

impl Limiter {
    /// What a caller in the wait list was told, or `Waiting` after its waker was renewed.
    pub(crate) fn poll_waiter(
        &self,
        waiter_key: WaiterKey,
        waker: &Waker,
        pool: usize,
    ) -> WaiterState {
        let kept =
            |caller: &CallerWaiter| caller.waker.as_ref().is_some_and(|old| old.will_wake(waker));
        let mut state = self.state.lock();
        state.set_waiting_job(waiter_key, deadlock::waiting_job(pool));
        let caller = state.wait_list.caller(waiter_key);
        if caller.state != WaiterState::Waiting || kept(caller) {
            return caller.state;
        }
        drop(state);
        let waker = Some(waker.clone());
        let mut state = self.state.lock();
        let caller = state.wait_list.caller(waiter_key);
        let waiter_state = caller.state;
        let old = match waiter_state {
            WaiterState::Waiting => std::mem::replace(&mut caller.waker, waker),
            _ => waker,
        };
        drop(state);
        drop(old);
        waiter_state
    }

    /// Whoever waited through a caller does not any more, though the caller keeps its place.
    pub(crate) fn clear_waiting_job(&self, waiter_key: WaiterKey) {
        self.state.lock().set_waiting_job(waiter_key, None);
    }

    /// A caller who was told to come hands in its job.
    pub(crate) fn submit_granted(
        &self,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        pending: &mut impl PendingJob,
        deferred: &mut DeferredWakes,
    ) -> AcquireOutcome {
        let mut state = self.lock_state();
        let quota = state.wait_list.node(waiter_key).quota;
        let slot_kind = SlotKind::for_quota(quota);
        let waiter_state = state.wait_list.caller(waiter_key).state;
        match waiter_state {
            WaiterState::SlotGranted if state.has(CANCELLING) => {
                // Too late: nothing starts any more.
                state.wait_list.remove_node(waiter_key);
                state.slots_granted -= 1;
                state.counters.refused += 1;
                self.release_to_next(&mut state, shard_id, deferred);
                self.release_quota(&mut state, shard_id, quota, deferred);
                self.check_idle(&mut state, deferred);
                AcquireOutcome::Closed
            }
            WaiterState::SlotGranted => {
                state.wait_list.remove_node(waiter_key);
                state.slots_granted -= 1;
                state.counters.started += 1;
                let mut shard = self.shards[shard_id].lock();
                let needs_wake = shard.push(pending.admit(slot_kind));
                AcquireOutcome::Started { needs_wake, depth: shard.run_queue.len() }
            }
            WaiterState::QueueGranted => {
                let job = pending.admit_waiting(slot_kind, waiter_key);
                state.wait_list.submit_granted(waiter_key, job);
                AcquireOutcome::Enqueued
            }
            WaiterState::Waiting => AcquireOutcome::Waiting(waiter_key),
            WaiterState::Closed | WaiterState::Deadlock => {
                state.wait_list.remove_node(waiter_key);
                state.counters.refused += 1;
                self.check_idle(&mut state, deferred);
                if waiter_state == WaiterState::Closed {
                    AcquireOutcome::Closed
                } else {
                    AcquireOutcome::Deadlock
                }
            }
        }
    }

    /// A caller in the wait list goes away with its job; what was kept for it passes on.
    pub(crate) fn cancel_waiter(
        &self,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        let waiter_state = state.wait_list.caller(waiter_key).state;
        let list = state.wait_list.list_of(waiter_key);
        if waiter_state == WaiterState::SlotGranted && failpoint("keep the grant") {
            return;
        }
        if list.is_some() {
            state.wait_list.unlink(waiter_key);
        }
        let mut node = state.wait_list.remove_node(waiter_key);
        if let Waiter::Caller(caller) = &mut node.waiter {
            if waiter_state == WaiterState::Waiting {
                state.remove_waiting_holder(caller.waiting_job);
            }
            caller.waker.take().into_iter().for_each(|waker| deferred.discard(waker));
        }
        state.counters.withdrawn += 1;
        if waiter_state == WaiterState::SlotGranted {
            state.slots_granted -= 1;
            self.release_to_next(&mut state, shard_id, deferred);
        }
        state.fill_queue(deferred);
        if waiter_state == WaiterState::SlotGranted || list == Some(List::Main) {
            self.release_quota(&mut state, shard_id, node.quota, deferred);
        } else if let Some(List::Quota(key)) = list {
            state.wait_list.remove_quota_if_unused(key);
        }
        self.check_idle(&mut state, deferred);
    }

    /// Takes a job that is to be aborted out of the wait list. It counts until `end_withdrawn`.
    pub(crate) fn withdraw(
        &self,
        shard_id: ShardId,
        job: RawJob,
        waiter_key: WaiterKey,
        deferred: &mut DeferredWakes,
    ) -> Option<Runnable> {
        let mut state = self.lock_state();
        let removed = state.wait_list.remove_job(waiter_key, job)?;
        Some(self.remove_for_cancel(&mut state, shard_id, removed, deferred))
    }

    /// A job in the wait list is about to be cancelled.
    pub(crate) fn remove_for_cancel(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        removed: Removed,
        deferred: &mut DeferredWakes,
    ) -> Runnable {
        state.cancelling += 1;
        removed.waker.into_iter().for_each(|waker| deferred.wake(waker));
        state.fill_queue(deferred);
        if removed.list == List::Main {
            self.release_quota(state, shard_id, removed.quota, deferred);
        }
        removed.job
    }

    /// See [`JobScheduler::await_start`](crate::pool::job::JobScheduler::await_start).
    pub(crate) fn await_start(&self, job: RawJob, waiter_key: WaiterKey, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let Some(place) = state.wait_list.start_waker(waiter_key, job) else { return false };
        let old = place.replace(waker);
        drop(state);
        drop(old);
        true
    }

    pub(crate) fn end_withdrawn(&self, end: End, deferred: &mut DeferredWakes) {
        let mut state = self.lock_state();
        state.cancelling -= 1;
        state.counters.end(end);
        self.check_idle(&mut state, deferred);
    }
}
