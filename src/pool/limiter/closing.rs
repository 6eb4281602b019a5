//! The end of a limiter, and of a group's admission: what is refused, and what is taken out.
//!
//! Three things close a limiter: its owner (`close`), the deadline of a shutdown, and the end of its
//! runtime (`cancel_all`). The flag `CLOSED_BY_OWNER` tells the first two from the last: a limiter that
//! its runtime alone has closed may open again in another runtime (`reopen`). `reject_group` does for
//! the callers of one group what `close` does for all.
//!
//! A rejected caller gets its job back. So does a job of the pool whose job waits in its place. Any
//! other job in the wait list is committed: a close leaves it there, and `cancel_all` takes it out. No
//! job may start after `cancel_all` has passed its shard (L4).

use crate::error::SubmitErrorKind;
use crate::pool::job::Runnable;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::{CANCELLING, CLOSED, CLOSED_BY_OWNER, RUNTIME_GONE};
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::wait_list::{CallerWaiter, Waiter, WaiterKey, WaiterState};
use crate::pool::limiter::{Limiter, pause};
use crate::sync::failpoint;

/// The jobs that [`Limiter::cancel_all`] took out.
pub(crate) struct Cancelled {
    /// Jobs from the wait list, to end by [`Limiter::end_withdrawn`].
    pub(crate) waiting: Vec<Runnable>,
    /// Jobs with a slot or in overflow.
    pub(crate) admitted: Vec<Runnable>,
}

/// Takes jobs of some groups out of the wait list whose submitters wait for the start. A rejected caller
/// takes the place of each, and its submitter gets the job back.
fn give_back_jobs(
    state: &mut StateGuard<'_>,
    shard_id: ShardId,
    is_of: impl Fn(usize) -> bool,
    rejected: WaiterState,
    deferred: &mut DeferredWakes,
) {
    // The newest first, and the main list last: a part of a quota that a job sets free then starts no
    // job that is about to be given back.
    for waiter_key in state.wait_list.waiter_keys().into_iter().rev() {
        if state.wait_list.get_linked(waiter_key).is_none()
            || !state.wait_list.node(waiter_key).submitter.is_some_and(&is_of)
            || failpoint("a nested submit keeps its place")
        {
            continue;
        }
        state.give_job_back(shard_id, waiter_key, rejected, deferred);
    }
}

impl StateGuard<'_> {
    /// Takes a job whose submitter waits for the start out of the wait list. A rejected caller takes its
    /// place, and the submitter gets the job back.
    pub(super) fn give_job_back(
        &mut self,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        rejected: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        let list = self.wait_list.unlink(waiter_key);
        let node = self.wait_list.node(waiter_key);
        let (quota, caller) = (node.quota, CallerWaiter::rejected(rejected));
        if let Waiter::Job(job, waker) = std::mem::replace(&mut node.waiter, caller) {
            job.mark_given_back();
            deferred.give_back(job, waker);
        }
        self.move_up(shard_id, list, quota, deferred);
    }
}

impl Limiter {
    /// Closes the limiter: rejects callers in the wait list and everything new. Jobs in the wait
    /// list stay. Returns `false` if the owner closed the limiter already.
    pub(crate) fn close(&self, shard_id: ShardId, deferred: &mut DeferredWakes) -> bool {
        let mut state = self.lock_state();
        let first = !state.is_set(CLOSED_BY_OWNER);
        state.set(CLOSED_BY_OWNER);
        self.refuse_all(&mut state, shard_id, deferred);
        first
    }

    /// Rejects callers in the wait list and everything new, unless the limiter is closed already.
    fn refuse_all(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) {
        if state.is_set(CLOSED) {
            return;
        }
        state.set(CLOSED);
        // After this, no fast path in any shard admits a job (L4).
        for shard in &self.shards {
            drop(shard.lock());
        }
        give_back_jobs(state, shard_id, |_| true, WaiterState::Closed, deferred);
        for waiter_key in state.wait_list.waiter_keys() {
            if failpoint("close without notifying") {
                break;
            }
            // A rejection may move up a later waiter of this list, so each is looked at again.
            if let Some(Waiter::Caller(_)) = state.wait_list.get_linked(waiter_key) {
                state.reject_waiter(shard_id, waiter_key, WaiterState::Closed, deferred);
            }
        }
        // Jobs in the wait list still run, so a closed limiter is never paused.
        pause::resume(state, shard_id, deferred);
    }

    /// Opens a limiter that was closed by the end of its runtime alone. Returns `false` if the owner
    /// closed the limiter, or if a job is left.
    pub(crate) fn reopen(&self) -> bool {
        let state = self.lock_state();
        let counts = state.counts();
        let jobs =
            counts.running + counts.lent + counts.overflow + counts.in_caller + counts.queued;
        if state.is_set(CLOSED_BY_OWNER) || jobs > 0 {
            return false;
        }
        for shard in &self.shards {
            // The workers of the old runtime are gone. A push must find a new one (W2).
            shard.lock().has_worker = false;
        }
        state.clear(CLOSED | CANCELLING | RUNTIME_GONE);
        true
    }

    /// Rejects the callers of one group in the wait list. Called when the group takes no more jobs;
    /// from then on, `enter_line` lets no caller of the group in.
    pub(crate) fn reject_group(
        &self,
        shard_id: ShardId,
        tag: usize,
        kind: SubmitErrorKind,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        let rejected = WaiterState::Rejected(kind);
        give_back_jobs(&mut state, shard_id, |group| group == tag, rejected, deferred);
        for waiter_key in state.wait_list.waiter_keys() {
            // A rejection may move up a later waiter of this list, so each is looked at again.
            match state.wait_list.get_linked(waiter_key) {
                Some(Waiter::Caller(caller)) if caller.group == tag => {}
                _ => continue,
            }
            state.reject_waiter(shard_id, waiter_key, rejected, deferred);
        }
    }

    /// Takes all jobs out of the wait list, oldest first. The caller must cancel them and call
    /// [`end_withdrawn`](Self::end_withdrawn) for each.
    pub(crate) fn take_waiting_jobs(
        &self,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) -> Vec<Runnable> {
        pause::take_waiting_jobs(&mut self.lock_state(), shard_id, deferred)
    }

    /// Closes the limiter and takes out all jobs that no worker polls. The caller must cancel
    /// them. Jobs that are being polled are cancelled when their poll returns.
    pub(crate) fn cancel_all(
        &self,
        shard_id: ShardId,
        runtime_gone: bool,
        deferred: &mut DeferredWakes,
    ) -> Cancelled {
        let mut state = self.lock_state();
        self.refuse_all(&mut state, shard_id, deferred);
        state.set(if runtime_gone { CANCELLING | RUNTIME_GONE } else { CANCELLING });
        let waiting = pause::take_waiting_jobs(&mut state, shard_id, deferred);
        let mut cancelled = Cancelled { waiting, admitted: Vec::new() };
        for waiter_key in state.wait_list.resuming_keys() {
            // A removal may start another of these jobs, so each is looked at again.
            let Some(Waiter::Job(job, _)) = state.wait_list.get_linked(waiter_key) else {
                continue;
            };
            let job = job.ptr();
            if let Some(mut removed) = state.wait_list.remove_job(waiter_key, job) {
                state.remove_for_cancel(shard_id, &mut removed, deferred);
                cancelled.admitted.push(removed.job);
            }
        }
        drop(state);
        for shard in &self.shards {
            let mut shard = shard.lock();
            cancelled.admitted.extend(shard.take(true));
            let aborted = shard.suspended.iter().filter_map(|(_, entry)| entry.job.request_abort());
            cancelled
                .admitted
                .extend(aborted.filter(|_| !failpoint("suspended jobs are forgotten")));
        }
        cancelled
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.flags.is_set(CLOSED)
    }

    /// Returns why a job of this quota has no room: the quota is used up, or the pool is full.
    #[cfg(feature = "tower")]
    pub(crate) fn full_kind(&self, quota: Option<usize>) -> SubmitErrorKind {
        self.state.lock().wait_list.list_for(quota).full_kind()
    }

    /// Returns why a closed limiter refuses. One that its owner did not close was closed by the end
    /// of its runtime, and may be open again by now.
    pub(crate) fn closed_kind(&self) -> SubmitErrorKind {
        if self.flags.is_set(CLOSED_BY_OWNER) {
            SubmitErrorKind::Closed
        } else {
            SubmitErrorKind::RuntimeGone
        }
    }

    pub(crate) fn is_runtime_gone(&self) -> bool {
        self.flags.is_set(RUNTIME_GONE)
    }

    /// Returns whether a suspended job must be cancelled instead of kept. Exact under a shard lock
    /// (L4).
    pub(crate) fn is_cancelling(&self) -> bool {
        self.flags.is_set(CANCELLING)
    }
}
