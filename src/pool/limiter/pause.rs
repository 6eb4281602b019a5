//! A limiter that hands out no slots: the steps of `Limiter::pause` and `Limiter::resume`.
//!
//! A pause takes all free slots out of the shards and keeps them in `State::paused_slots`, with
//! `NO_SLOTS` set. So each slot that comes back goes through the state lock (L4), where
//! `StateGuard::add_free_slots` adds it to the others. A waiter of the main list is served by
//! `StateGuard::release_to_next` alone, which serves none while the limiter is paused. The jobs of a
//! quota list find no free slot, and join the main list.
//!
//! A slot that was granted to a caller before stays granted, and [`visible_state`] hides it: the caller
//! waits until `resume` wakes it. A job that has its slot already goes on, whether it has begun or not.
//!
//! A paused slot exists, and no job holds it. So a paused pool is stuck only if jobs that wait hold
//! all its slots, and then it would be stuck without the pause, too. A job that lent its slot has
//! started: it may take a paused slot, and must not wait for `resume`.

use crate::pool::job::Runnable;
use crate::pool::limiter::Limiter;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::{CLOSED, NO_SLOTS};
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::limiter::wait_list::{Waiter, WaiterKey, WaiterState};
use crate::sync::failpoint;

/// Takes all free slots. Returns `false` if the limiter is paused already, or closed.
pub(super) fn pause(state: &mut StateGuard<'_>) -> bool {
    if state.paused || state.is_set(CLOSED) {
        return false;
    }
    state.paused = true;
    // The flag goes first: no slot may come back to a shard behind the scan (L4).
    state.set(NO_SLOTS);
    let limiter = state.limiter;
    for shard in &limiter.shards {
        let mut shard = shard.lock();
        let free = shard.free_slots;
        shard.forget_slots(free, 0);
        state.paused_slots += free;
    }
    true
}

/// Returns the state of a caller as the caller sees it.
pub(super) fn visible_state(state: &mut State, waiter_key: WaiterKey) -> WaiterState {
    match state.wait_list.caller(waiter_key).state {
        WaiterState::SlotGranted if state.paused && !failpoint("a pause hides no grant") => {
            WaiterState::Waiting
        }
        visible => visible,
    }
}

/// Hands out the slots that the pause has kept. Returns `false` if the limiter is not paused.
pub(super) fn resume(
    state: &mut StateGuard<'_>,
    shard_id: ShardId,
    deferred: &mut DeferredWakes,
) -> bool {
    if !std::mem::take(&mut state.paused) {
        return false;
    }
    state.wait_list.take_granted_wakers().into_iter().for_each(|waker| deferred.wake(Some(waker)));
    let slots = std::mem::take(&mut state.paused_slots);
    state.add_slots(shard_id, slots, deferred);
    // Jobs that wait may hold all slots by now.
    state.lend_if_stuck(shard_id, deferred);
    true
}

/// Takes all jobs out of the wait list, oldest first. The caller must cancel them and call
/// `Limiter::end_withdrawn` for each.
pub(super) fn take_waiting_jobs(
    state: &mut StateGuard<'_>,
    shard_id: ShardId,
    deferred: &mut DeferredWakes,
) -> Vec<Runnable> {
    let mut jobs = Vec::new();
    // The newest first, and the main list last: a part of a quota that a removal sets free finds no
    // later job to start. A removal may still move up a caller, so each key is looked at again.
    for waiter_key in state.wait_list.waiter_keys().into_iter().rev() {
        let Some(Waiter::Job(job, _)) = state.wait_list.get_linked(waiter_key) else { continue };
        let job = job.ptr();
        if let Some(mut removed) = state.wait_list.remove_job(waiter_key, job) {
            state.remove_for_cancel(shard_id, &mut removed, deferred);
            jobs.push(removed.job);
        }
    }
    jobs.reverse();
    jobs
}

impl Limiter {
    /// Hands out no slots until `resume`. Returns whether this call has paused the limiter.
    pub(crate) fn pause(&self) -> bool {
        pause(&mut self.lock_state())
    }

    /// Hands out slots again. Returns whether the limiter was paused.
    pub(crate) fn resume(&self, shard_id: ShardId, deferred: &mut DeferredWakes) -> bool {
        resume(&mut self.lock_state(), shard_id, deferred)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state.lock().paused
    }
}
