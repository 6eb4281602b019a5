//! What a waiter does after it joined the wait list: it looks, hands in its job, or leaves.
//!
//! The callers are the futures of `pool::submit`, through `scheduler::shared`. A caller owns its key until
//! one of these steps forgets the caller (L7). All steps run under the state lock; wakers are cloned and
//! dropped outside of it (L2).

use std::task::Waker;

use crate::pool::context::current_of;
use crate::pool::job::{End, RawJob, Runnable, SlotKind};
use crate::pool::limiter::counts::LeaveReason;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::CANCELLING;
use crate::pool::limiter::lending::{set_waiting_job, waiting_job};
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::wait_list::{CallerWaiter, Waiter, WaiterKey, WaiterState};
use crate::pool::limiter::{AcquireOutcome, Limiter, PendingJob, pause, start};
use crate::sync::failpoint;

impl Limiter {
    /// Returns the state of a waiting caller. If the state is `Waiting`, `waker` is woken at the
    /// next change. A pause hides a granted slot.
    pub(crate) fn poll_waiter(&self, waiter_key: WaiterKey, waker: &Waker) -> WaiterState {
        let wakes =
            |caller: &CallerWaiter| caller.waker.as_ref().is_some_and(|old| old.will_wake(waker));
        let mut state = self.state.lock();
        set_waiting_job(&mut state, waiter_key, current_of(self.pool).and_then(waiting_job));
        let waiter_state = pause::visible_state(&mut state, waiter_key);
        let is_known = wakes(state.wait_list.caller(waiter_key));
        if waiter_state != WaiterState::Waiting || is_known {
            return waiter_state;
        }
        drop(state);
        // The clone is user code (L2). The state may change meanwhile, so it is read again.
        let waker = Some(waker.clone());
        let mut state = self.state.lock();
        let waiter_state = pause::visible_state(&mut state, waiter_key);
        let caller = state.wait_list.caller(waiter_key);
        let unused = match waiter_state {
            WaiterState::Waiting if failpoint("the first waker of a waiter stays") => waker,
            WaiterState::Waiting => std::mem::replace(&mut caller.waker, waker),
            _ => waker,
        };
        drop(state);
        drop(unused);
        waiter_state
    }

    /// Notes that no job waits through the caller any more, although the caller keeps its place.
    /// Called when the future of a [`Reserver`](crate::Reserver) is dropped.
    pub(crate) fn clear_waiting_job(&self, waiter_key: WaiterKey) {
        set_waiting_job(&mut self.state.lock(), waiter_key, None);
    }

    /// Hands in the job of a caller, according to the caller's state. The caller is gone
    /// afterwards, unless the outcome is `Waiting`. If the outcome is a refusal, the job stays on
    /// offer.
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
        match pause::visible_state(&mut state, waiter_key) {
            WaiterState::SlotGranted => {
                let since = state.wait_list.node(waiter_key).since;
                state.wait_list.forget_caller(waiter_key);
                state.slots_granted -= 1;
                if state.is_set(CANCELLING) {
                    // `cancel_all` has emptied the shards already, so no job may start.
                    state.release(shard_id, quota, deferred);
                    let outcome = state.refuse(AcquireOutcome::Refused(self.closed_kind()));
                    state.check_idle(deferred);
                    return outcome;
                }
                let mut shard = self.shards[shard_id].lock();
                match pending.admit(slot_kind) {
                    Ok(job) => {
                        state.counters.started += 1;
                        state.measured.note_start(&job, since);
                        start(&mut shard, job)
                    }
                    Err(kind) => {
                        drop(shard);
                        state.release(shard_id, quota, deferred);
                        let outcome = state.refuse(AcquireOutcome::Refused(kind));
                        state.check_idle(deferred);
                        outcome
                    }
                }
            }
            WaiterState::QueueGranted => match pending.admit_waiting(slot_kind, waiter_key) {
                Ok(job) => {
                    state.wait_list.submit_granted(waiter_key, job);
                    AcquireOutcome::Enqueued
                }
                Err(kind) => {
                    // `reject_group` has not come yet. This caller does not wait for it.
                    let rejected = WaiterState::Rejected(kind);
                    state.reject_waiter(shard_id, waiter_key, rejected, deferred);
                    let outcome = state.remove_rejected(waiter_key, self.closed_kind());
                    state.check_idle(deferred);
                    outcome
                }
            },
            WaiterState::Waiting => AcquireOutcome::Waiting(waiter_key),
            WaiterState::Closed | WaiterState::Deadlock | WaiterState::Rejected(_) => {
                let outcome = state.remove_rejected(waiter_key, self.closed_kind());
                state.check_idle(deferred);
                outcome
            }
        }
    }

    /// Takes the slot that was granted to a reserver. The caller is gone afterwards, unless the
    /// outcome is `Waiting`.
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
                state.wait_list.forget_caller(waiter_key);
                state.slots_granted -= 1;
                state.counters.reserved += 1;
                state.measured.note_waited();
                AcquireOutcome::Reserved
            }
            WaiterState::Closed | WaiterState::Deadlock | WaiterState::Rejected(_) => {
                state.remove_rejected(waiter_key, self.closed_kind())
            }
        };
        state.check_idle(deferred);
        outcome
    }

    /// Forgets a caller that is dropped, and passes on what the caller was granted (L7).
    pub(crate) fn cancel_waiter(
        &self,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        reason: LeaveReason,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        let waiter_state = state.wait_list.caller(waiter_key).state;
        if waiter_state == WaiterState::SlotGranted && failpoint("keep the grant") {
            return;
        }
        let list = state.wait_list.list_of(waiter_key).map(|_| state.wait_list.unlink(waiter_key));
        let quota = state.wait_list.node(waiter_key).quota;
        if let Waiter::Caller(caller) = state.wait_list.remove(waiter_key) {
            if waiter_state == WaiterState::Waiting {
                state.holders.remove_caller(caller.waiting_job);
            }
            deferred.discard(caller.waker);
        }
        state.counters.leave(reason);
        if waiter_state == WaiterState::SlotGranted {
            state.slots_granted -= 1;
            state.release(shard_id, quota, deferred);
        } else if let Some(list) = list.filter(|_| !failpoint("no move up behind a caller")) {
            state.move_up(shard_id, list, quota, deferred);
        }
        state.check_idle(deferred);
    }

    // ----- jobs in the wait list -----

    /// Leaves a waker with a waiting job, to be woken when the job leaves the wait list. Returns
    /// `false` if the job has left already. See `JobScheduler::await_start`.
    pub(crate) fn await_start(&self, job: RawJob, waiter_key: WaiterKey, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let Some(place) = state.wait_list.start_waker(waiter_key, job) else { return false };
        let old = place.replace(waker);
        drop(state);
        drop(old);
        true
    }

    /// Takes a job out of the wait list; one that has started and waits to resume, only with `started`.
    /// Returns `None` if the job has left already. The caller must end the job. If it has not started, the
    /// caller must also call [`end_withdrawn`](Self::end_withdrawn).
    pub(crate) fn withdraw(
        &self,
        shard_id: ShardId,
        job: RawJob,
        waiter_key: WaiterKey,
        started: bool,
        deferred: &mut DeferredWakes,
    ) -> Option<Runnable> {
        let mut state = self.lock_state();
        if !started && state.wait_list.is_resuming(waiter_key, job) {
            return None;
        }
        let mut removed = state.wait_list.remove_job(waiter_key, job)?;
        state.remove_for_cancel(shard_id, &mut removed, deferred);
        Some(removed.job)
    }

    /// Counts the end of a job that left the wait list, or why its submitter has it no more there.
    pub(crate) fn end_withdrawn(
        &self,
        end: Result<End, LeaveReason>,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        state.cancelling -= 1;
        match end {
            Ok(end) => state.counters.end(end),
            Err(reason) => state.counters.leave(reason),
        }
        if !failpoint("no idle check after a withdrawal") {
            state.check_idle(deferred);
        }
    }
}
