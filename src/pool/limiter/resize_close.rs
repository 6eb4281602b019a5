//! Changes to the whole pool: another size, no more jobs, no jobs at all.

use crate::pool::job::Runnable;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::wait_list::{List, Waiter, WaiterKey, WaiterState};
use crate::pool::limiter::{CANCELLING, CLOSED, Limiter, NO_SLOTS, RUNTIME_GONE};
use crate::pool::scheduler::shard::ShardId;
use crate::sync::failpoint;

/// The jobs that were reached by [`Limiter::cancel_all`], to be ended by the caller.
#[derive(Default)]
pub(crate) struct Cancelled {
    pub(crate) waiting: Vec<Runnable>,
    pub(crate) admitted: Vec<Runnable>,
}

impl Limiter {
    /// Changes the number of slots. Those in use vanish as they come back.
    pub(crate) fn resize(
        &self,
        shard_id: ShardId,
        size: usize,
        deferred: &mut DeferredWakes,
    ) -> usize {
        let mut state = self.lock_state();
        let before = std::mem::replace(&mut state.size, size);
        if size < before {
            let mut excess = before - size;
            let mut left = 0;
            state.set(NO_SLOTS);
            for shard in &self.shards {
                let mut shard = shard.lock();
                let taken = shard.free_slots.min(excess);
                shard.free_slots -= taken;
                excess -= taken;
                left += shard.free_slots;
            }
            state.slots_to_remove += excess;
            if left > 0 {
                state.clear(NO_SLOTS);
            } else {
                self.break_deadlock(&mut state, shard_id, deferred);
            }
        } else {
            let mut fresh = size - before;
            let paid = fresh.min(state.slots_to_remove);
            state.slots_to_remove -= paid;
            fresh -= paid;
            while fresh > 0 && !state.wait_list.is_empty() {
                self.release_to_next(&mut state, shard_id, deferred);
                fresh -= 1;
            }
            if fresh > 0 {
                self.shards[shard_id].lock().free_slots += fresh;
                state.clear(NO_SLOTS);
            }
        }
        before
    }

    /// Lets nothing more in. Callers in the wait list are told; committed jobs stay. `false` if it was
    /// closed already.
    pub(crate) fn close(&self, shard_id: ShardId, deferred: &mut DeferredWakes) -> bool {
        let mut state = self.lock_state();
        if state.has(CLOSED) {
            return false;
        }
        state.set(CLOSED);
        // In each shard's lock the flag is seen from now on.
        for shard in &self.shards {
            drop(shard.lock());
        }
        for waiter_key in state.wait_list.waiter_keys() {
            if failpoint("close without notifying") {
                break;
            }
            // Sending one away may have called up another.
            if let Some(Waiter::Caller(_)) = state.wait_list.get_linked(waiter_key) {
                self.reject_waiter(&mut state, shard_id, waiter_key, WaiterState::Closed, deferred);
            }
        }
        true
    }

    /// Takes a caller out of the wait list and tells it why.
    pub(crate) fn reject_waiter(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        waiter_state: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        let list = state.wait_list.list_of(waiter_key);
        state.unlink_and_notify(waiter_key, waiter_state, deferred);
        state.fill_queue(deferred);
        if list == Some(List::Main) {
            let quota = state.wait_list.node(waiter_key).quota;
            self.release_quota(state, shard_id, quota, deferred);
        } else if let Some(List::Quota(key)) = list {
            state.wait_list.remove_quota_if_unused(key);
        }
    }

    /// Cancels whatever can be reached: jobs in the wait list and in the queues of the shards come back,
    /// suspended ones too. Jobs that are being polled are cancelled when that returns.
    pub(crate) fn cancel_all(
        &self,
        shard_id: ShardId,
        runtime_gone: bool,
        deferred: &mut DeferredWakes,
    ) -> Cancelled {
        self.close(shard_id, deferred);
        let mut state = self.lock_state();
        state.set(if runtime_gone { CANCELLING | RUNTIME_GONE } else { CANCELLING });
        let mut cancelled = Cancelled::default();
        for waiter_key in state.wait_list.waiter_keys() {
            // Taking one out may have called up another.
            let Some(Waiter::Job(job, _)) = state.wait_list.get_linked(waiter_key) else {
                continue;
            };
            let job = job.ptr();
            if let Some(removed) = state.wait_list.remove_job(waiter_key, job) {
                let job = self.remove_for_cancel(&mut state, shard_id, removed, deferred);
                cancelled.waiting.push(job);
            }
        }
        drop(state);
        for shard in &self.shards {
            let mut shard = shard.lock();
            cancelled.admitted.extend(shard.take(true));
            let aborted = shard.suspended.iter().filter_map(|(_, job)| job.request_abort());
            cancelled.admitted.extend(aborted);
        }
        cancelled
    }
}
