//! Waiters whose deadline has passed: each leaves the wait list, and is told at once.
//!
//! The wait list orders the deadlines of its waiters. A task of the scheduler (`scheduler::expiry`) sleeps
//! until the first one and calls [`Limiter::expire`]. A caller, and a job whose submitter still waits for
//! the start, get the job back. Any other job ends as expired.

use tokio::time::Instant;

use crate::error::SubmitErrorKind;
use crate::pool::job::Runnable;
use crate::pool::limiter::Limiter;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::DEADLINES;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::wait_list::{Waiter, WaiterState};
use crate::sync::failpoint;

impl Limiter {
    /// Returns whether a waiter has a deadline. Exact for a caller that has just joined: its own store
    /// or a later one is what it reads.
    #[inline]
    pub(crate) fn has_deadlines(&self) -> bool {
        self.flags.is_set(DEADLINES) && !failpoint("a deadline sets no flag")
    }

    /// Returns the first deadline of a waiter.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.state.lock().wait_list.first_deadline()
    }

    /// Takes the waiters out of the wait list whose deadline has passed. The caller must end the returned
    /// jobs and call [`end_withdrawn`](Self::end_withdrawn) for each.
    pub(crate) fn expire(
        &self,
        shard_id: ShardId,
        now: Instant,
        deferred: &mut DeferredWakes,
    ) -> Vec<Runnable> {
        let rejected = WaiterState::Rejected(SubmitErrorKind::Expired);
        let mut jobs = Vec::new();
        let mut state = self.lock_state();
        while let Some(waiter_key) = state.wait_list.first_expired(now) {
            let node = state.wait_list.node(waiter_key);
            match &node.waiter {
                Waiter::Caller(_) => {
                    state.reject_waiter(shard_id, waiter_key, rejected, deferred);
                }
                Waiter::Job(..) if node.submitter.is_some() => {
                    state.give_job_back(shard_id, waiter_key, rejected, deferred);
                }
                Waiter::Job(job, _) => {
                    let job = job.ptr();
                    let removed = state.wait_list.remove_job(waiter_key, job);
                    let mut removed = removed.expect("the job stands under its key");
                    state.remove_for_cancel(shard_id, &mut removed, deferred);
                    removed.job.mark_expired();
                    jobs.push(removed.job);
                }
                Waiter::None => unreachable!("a waiter with a deadline stands in a list"),
            }
        }
        state.check_idle(deferred);
        jobs
    }
}
