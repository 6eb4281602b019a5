//! Changes to the whole pool: another size, no more jobs, no jobs at all.

use crate::pool::job::Runnable;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::Desk;
use crate::pool::limiter::wait_list::{Entry, List, Told};
use crate::pool::limiter::{Admission, CANCELLING, CLOSED, CONGESTED, DEAD};
use crate::pool::scheduler::shard::ShardId;
use crate::sync::failpoint;

/// The jobs that were reached by [`Admission::cancel_all`], to be ended by the caller.
#[derive(Default)]
pub(crate) struct Cancelled {
    pub(crate) in_line: Vec<Runnable>,
    pub(crate) admitted: Vec<Runnable>,
}

impl Admission {
    /// Changes the number of slots. Those in use vanish as they come back.
    pub(crate) fn resize(
        &self,
        shard_id: ShardId,
        size: usize,
        deferred: &mut DeferredWakes,
    ) -> usize {
        let mut state = self.desk();
        let before = std::mem::replace(&mut state.size, size);
        if size < before {
            let mut excess = before - size;
            let mut left = 0;
            state.set(CONGESTED);
            for shard in &self.shards {
                let mut shard = shard.lock();
                let taken = shard.free.min(excess);
                shard.free -= taken;
                excess -= taken;
                left += shard.free;
            }
            state.debt += excess;
            if left > 0 {
                state.clear(CONGESTED);
            } else {
                self.break_deadlock(&mut state, shard_id, deferred);
            }
        } else {
            let mut fresh = size - before;
            let paid = fresh.min(state.debt);
            state.debt -= paid;
            fresh -= paid;
            while fresh > 0 && !state.line.is_empty() {
                self.hand_on(&mut state, shard_id, deferred);
                fresh -= 1;
            }
            if fresh > 0 {
                self.shards[shard_id].lock().free += fresh;
                state.clear(CONGESTED);
            }
        }
        before
    }

    /// Lets nothing more in. Callers in line are told; committed jobs stay. `false` if it was
    /// closed already.
    pub(crate) fn close(&self, shard_id: ShardId, deferred: &mut DeferredWakes) -> bool {
        let mut state = self.desk();
        if state.has(CLOSED) {
            return false;
        }
        state.set(CLOSED);
        // In each shard's lock the flag is seen from now on.
        for shard in &self.shards {
            drop(shard.lock());
        }
        for ticket in state.line.tickets() {
            if failpoint("close without notifying") {
                break;
            }
            // Sending one away may have called up another.
            if let Some(Entry::Caller(_)) = state.line.standing(ticket) {
                self.send_away(&mut state, shard_id, ticket, Told::Closed, deferred);
            }
        }
        true
    }

    /// Takes a caller out of the line and tells it why.
    pub(crate) fn send_away(
        &self,
        state: &mut Desk<'_>,
        shard_id: ShardId,
        ticket: usize,
        told: Told,
        deferred: &mut DeferredWakes,
    ) {
        let list = state.line.list_of(ticket);
        state.tell(ticket, told, deferred);
        state.admit_all(deferred);
        if list == Some(List::Main) {
            let quota = state.line.node(ticket).quota;
            self.release_share(state, shard_id, quota, deferred);
        } else if let Some(List::Quota(key)) = list {
            state.line.sweep_quota(key);
        }
    }

    /// After slots vanished: tells the newest of the jobs that wait on each other.
    pub(crate) fn break_deadlock(
        &self,
        state: &mut Desk<'_>,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) {
        if state.blocked.is_empty()
            || state.granted > 0
            || state.blocked.len() < state.size + state.debt
        {
            return;
        }
        let newest = state.line.tickets().into_iter().rev().find(
            |&ticket| matches!(&state.line.node(ticket).entry, Entry::Caller(caller) if caller.within.is_some()),
        );
        if let Some(ticket) = newest {
            self.send_away(state, shard_id, ticket, Told::Deadlock, deferred);
        }
    }

    /// Cancels whatever can be reached: jobs in line and in the queues of the shards come back,
    /// suspended ones too. Jobs that are being polled are cancelled when that returns.
    pub(crate) fn cancel_all(
        &self,
        shard_id: ShardId,
        dead: bool,
        deferred: &mut DeferredWakes,
    ) -> Cancelled {
        self.close(shard_id, deferred);
        let mut state = self.desk();
        state.set(if dead { CANCELLING | DEAD } else { CANCELLING });
        let mut cancelled = Cancelled::default();
        for ticket in state.line.tickets() {
            // Taking one out may have called up another.
            let Some(Entry::Job(job, _)) = state.line.standing(ticket) else { continue };
            let job = job.ptr();
            if let Some(removed) = state.line.remove_job(ticket, job) {
                let job = self.take_out(&mut state, shard_id, removed, deferred);
                cancelled.in_line.push(job);
            }
        }
        drop(state);
        for shard in &self.shards {
            let mut shard = shard.lock();
            cancelled.admitted.extend(shard.take(true));
            let aborted = shard.seated.iter().filter_map(|(_, job)| job.request_abort());
            cancelled.admitted.extend(aborted);
        }
        cancelled
    }
}
