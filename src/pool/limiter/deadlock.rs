//! Deadlock detection: a wait for a slot that could never end is refused.

use std::collections::HashSet;

use crate::pool::job::SlotKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::wait_list::{List, Waiter, WaiterKey, WaiterState};
use crate::pool::limiter::{Limiter, State};
use crate::pool::scheduler::context::current;
use crate::pool::scheduler::shard::ShardId;

/// What happens to a `schedule` from within the pool's own jobs that could never end.
///
/// A job that waits for a slot of the pool it runs on keeps its own meanwhile. Once every slot is
/// held by such a job, none of them can go on. Millpond notices the last of them: the one whose
/// waiting would close the circle. The calls of `try_go` and `anyway_go` themselves wait for nothing.
///
/// What is noticed is a wait in the wait list by the job itself, not by a task it spawned. A job that awaits the handle, the start or the group of
/// another job that is queued behind it, and jobs of several quotas that wait for each other, are
/// not: there no submit could fail. Nor is a job that has a slot [reserved](crate::Pool::reserver)
/// or [held](crate::Pool::hold_slot) for another while it waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDeadlock {
    /// The submit fails with [`ScheduleError::WouldDeadlock`](crate::ScheduleError).
    #[default]
    Error,
    /// The job runs in the job that submitted it, as with [`try_go`](crate::Pool::try_go).
    RunInCaller,
}

/// A slot-holding job of a pool that asks the same pool for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingJob {
    pub(crate) job: usize,
    pub(crate) quota: Option<usize>,
}

/// The job of this very pool that is asking, if it holds a slot.
pub(crate) fn waiting_job(pool: usize) -> Option<WaitingJob> {
    let current = current().filter(|current| current.is_of(pool))?;
    let slot_kind = current.job.slot_kind();
    (slot_kind != SlotKind::Overflow)
        .then(|| WaitingJob { job: current.job.id(), quota: slot_kind.quota() })
}

impl State {
    /// A caller in the wait list is waited through by this job from now on, or by none.
    pub(crate) fn set_waiting_job(
        &mut self,
        waiter_key: WaiterKey,
        waiting_job: Option<WaitingJob>,
    ) {
        let caller = self.wait_list.caller(waiter_key);
        if caller.state == WaiterState::Waiting && caller.waiting_job != waiting_job {
            let before = std::mem::replace(&mut caller.waiting_job, waiting_job);
            self.remove_waiting_holder(before);
            self.add_waiting_holder(waiting_job);
        }
    }

    pub(crate) fn add_waiting_holder(&mut self, waiting_job: Option<WaitingJob>) {
        if let Some(WaitingJob { job, .. }) = waiting_job {
            *self.waiting_holders.entry(job).or_default() += 1;
        }
    }

    pub(crate) fn remove_waiting_holder(&mut self, waiting_job: Option<WaitingJob>) {
        let Some(WaitingJob { job, .. }) = waiting_job else { return };
        if let Some(callers) = self.waiting_holders.get_mut(&job) {
            *callers -= 1;
            if *callers == 0 {
                self.waiting_holders.remove(&job);
            }
        }
    }

    /// Whether nobody would be left to give a slot back if this job waited as well.
    pub(crate) fn would_deadlock(&mut self, list: List, waiting_job: WaitingJob) -> bool {
        let others = self.waiting_holders.len()
            - usize::from(self.waiting_holders.contains_key(&waiting_job.job));
        if self.slots_granted == 0 && others + 1 >= self.size + self.slots_to_remove {
            return true;
        }
        // Within a quota the same holds for its share alone.
        let List::Quota(key) = list else { return false };
        if waiting_job.quota != Some(key) {
            return false;
        }
        let others = self.wait_list.callers(list).filter_map(|caller| caller.waiting_job);
        let members = others.filter(|other| other.quota == Some(key)).map(|other| other.job);
        let blocked: HashSet<_> = members.chain([waiting_job.job]).collect();
        blocked.len() >= self.wait_list.quotas[key].in_use
    }
}

impl Limiter {
    /// After slots vanished: tells the newest of the jobs that wait on each other.
    pub(crate) fn break_deadlock(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) {
        if state.waiting_holders.is_empty()
            || state.slots_granted > 0
            || state.waiting_holders.len() < state.size + state.slots_to_remove
        {
            return;
        }
        let newest = state.wait_list.waiter_keys().into_iter().rev().find(
            |&waiter_key| matches!(&state.wait_list.node(waiter_key).waiter, Waiter::Caller(caller) if caller.waiting_job.is_some()),
        );
        if let Some(waiter_key) = newest {
            self.reject_waiter(state, shard_id, waiter_key, WaiterState::Deadlock, deferred);
        }
    }
}
