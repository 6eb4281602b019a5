//! Deadlock detection: the limiter refuses a wait for a slot that could never end.
//!
//! # The reasoning
//!
//! A job of the pool that waits for a slot of the same pool keeps its own slot meanwhile. A slot
//! comes free only when a job ends. If every slot belongs to such a waiting job, no slot ever comes
//! free, and all of them wait forever. The wait list can see this, because it knows all waits:
//!
//! * [`waiting_job`] names the job in which a caller waits: the job that this thread polls, if the
//!   job belongs to this pool and holds a slot. A job in overflow holds none.
//! * [`WaitingHolders`] has the callers in state `Waiting` of each such job. A job with several
//!   waits counts once (L10). A caller in another state does not count, because that caller can go
//!   on.
//! * The pool has `size + slots_to_remove` slots in existence. If a slot is granted and not taken
//!   yet, a caller is about to go on, so no deadlock exists. Otherwise the pool is stuck exactly
//!   if the waiting jobs are as many as the slots.
//!
//! A quota can be stuck by itself: all parts of its share belong to its own jobs, and each of them
//! waits in the quota's list. [`would_deadlock`] compares their number with the parts in use.
//!
//! # When the check runs
//!
//! A set of waiting jobs grows when a caller joins the wait list, and `StateGuard::enqueue_caller`
//! refuses the caller that would complete the set. The number of slots shrinks when a slot to remove
//! comes back, and [`break_deadlock`] then rejects the newest wait of the set. A caller whose future
//! moves to another job is followed by [`set_waiting_job`] at each poll.
//!
//! All of this runs under the state lock, in the slow paths only. The detection must never refuse a
//! wait that could end. The detection may miss a deadlock: [`OnDeadlock`] lists those cases.

use std::collections::{HashMap, HashSet};

use crate::pool::context::current;
use crate::pool::job::SlotKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::limiter::wait_list::{List, Waiter, WaiterKey, WaiterState};

/// What happens to a [`schedule`](crate::Pool::schedule) inside the pool's own jobs that could never
/// end.
///
/// A job that waits for a slot of its own pool keeps its slot meanwhile. Once such jobs hold every
/// slot, none of them can go on. The pool detects this, and the setting applies to the wait that
/// would complete the deadlock.
///
/// The calls [`try_go`](crate::Pool::try_go) and [`anyway_go`](crate::Pool::anyway_go) themselves
/// never wait for a slot.
///
/// # What is not detected
///
/// The pool sees waits for a slot by the job itself, not by a task that the job spawned. These
/// deadlocks have no call to `schedule` that could return the error, so they are not detected:
///
/// - a job awaits the handle, the start or the group of a job that is queued behind it;
/// - jobs of several quotas wait for each other;
/// - a job waits while it has a slot [reserved](crate::Pool::reserver) or
///   [held](crate::Pool::hold_slot) for another job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDeadlock {
    /// The submit fails with [`WouldDeadlock`](crate::SubmitErrorKind::WouldDeadlock).
    #[default]
    Error,
    /// The job runs in the job that submitted it, as with [`try_go`](crate::Pool::try_go).
    RunInCaller,
}

/// A job with a slot of a pool that waits for another slot of the same pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitingJob {
    id: usize,
    quota: Option<usize>,
}

/// Returns the job that this thread polls, if it holds a slot of `pool`.
pub(super) fn waiting_job(pool: usize) -> Option<WaitingJob> {
    let current = current().filter(|current| current.is_of(pool))?;
    let slot_kind = current.job.slot_kind();
    (slot_kind != SlotKind::Overflow)
        .then(|| WaitingJob { id: current.job.id(), quota: slot_kind.quota() })
}

/// The jobs with a slot that wait for another one, with the number of waits of each (L10).
#[derive(Default)]
pub(super) struct WaitingHolders(HashMap<usize, usize>);

impl WaitingHolders {
    pub(super) fn add(&mut self, waiting_job: Option<WaitingJob>) {
        if let Some(job) = waiting_job {
            *self.0.entry(job.id).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, waiting_job: Option<WaitingJob>) {
        let Some(job) = waiting_job else { return };
        if let Some(waits) = self.0.get_mut(&job.id) {
            *waits -= 1;
            if *waits == 0 {
                self.0.remove(&job.id);
            }
        }
    }

    /// Returns whether these jobs hold all of `slots`.
    fn hold_all(&self, slots: usize) -> bool {
        !self.0.is_empty() && self.0.len() >= slots
    }

    /// Returns whether these jobs and `job` hold all of `slots`.
    fn hold_all_with(&self, job: WaitingJob, slots: usize) -> bool {
        self.0.len() + usize::from(!self.0.contains_key(&job.id)) >= slots
    }
}

/// Returns whether a wait of `job` in `list` could never end. Called before the caller joins.
pub(super) fn would_deadlock(state: &State, list: List, job: WaitingJob) -> bool {
    if state.slots_granted == 0 && state.waiting_holders.hold_all_with(job, state.slots()) {
        return true;
    }
    let List::Quota(key) = list else { return false };
    if job.quota != Some(key) {
        return false;
    }
    let waiting = state.wait_list.callers(list).filter_map(|caller| caller.waiting_job);
    let members = waiting.filter(|other| other.quota == Some(key)).map(|other| other.id);
    let blocked: HashSet<_> = members.chain([job.id]).collect();
    blocked.len() >= state.wait_list.quota_in_use(key)
}

/// Notes that `waiting_job`, or no job, waits through the caller from now on.
pub(super) fn set_waiting_job(
    state: &mut State,
    waiter_key: WaiterKey,
    waiting_job: Option<WaitingJob>,
) {
    let caller = state.wait_list.caller(waiter_key);
    if caller.state == WaiterState::Waiting && caller.waiting_job != waiting_job {
        let before = std::mem::replace(&mut caller.waiting_job, waiting_job);
        state.waiting_holders.remove(before);
        state.waiting_holders.add(waiting_job);
    }
}

/// Rejects the newest wait of a job if the waiting jobs hold all slots. Called after a slot was
/// removed from the pool.
pub(super) fn break_deadlock(
    state: &mut StateGuard<'_>,
    shard_id: ShardId,
    deferred: &mut DeferredWakes,
) {
    if state.slots_granted > 0 || !state.waiting_holders.hold_all(state.slots()) {
        return;
    }
    let is_nested = |waiter: &Waiter| match waiter {
        Waiter::Caller(caller) => {
            caller.waiting_job.is_some() && caller.state == WaiterState::Waiting
        }
        Waiter::Job(..) => false,
    };
    let keys = state.wait_list.waiter_keys().into_iter().rev();
    let newest =
        keys.into_iter().find(|&key| state.wait_list.get_linked(key).is_some_and(is_nested));
    if let Some(waiter_key) = newest {
        state.reject_waiter(shard_id, waiter_key, WaiterState::Deadlock, deferred);
    }
}

#[cfg(test)]
mod tests {
    use super::{WaitingHolders, WaitingJob};

    #[test]
    fn a_job_counts_once_however_often_it_waits() {
        let [first, second] = [1, 2].map(|id| WaitingJob { id, quota: None });
        let mut holders = WaitingHolders::default();
        assert!(!holders.hold_all(0), "without a waiting job there is no deadlock");
        holders.add(Some(first));
        holders.add(Some(first));
        assert!(!holders.hold_all_with(first, 2));
        assert!(holders.hold_all_with(second, 2));
        holders.remove(Some(first));
        assert!(holders.hold_all(1));
        holders.remove(Some(first));
        assert!(!holders.hold_all(1));
    }
}
