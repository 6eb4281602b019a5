//! Those in line: looking, coming when told, going away; and the jobs that wait there.

use std::task::Waker;

use crate::pool::job::{End, RawJob, Runnable, SlotKind};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::Desk;
use crate::pool::limiter::wait_list::{Caller, Entry, List, Removed, Told};
use crate::pool::limiter::{Admission, CANCELLING, Offer, Verdict};
use crate::pool::scheduler::context;
use crate::pool::scheduler::shard::ShardId;
use crate::sync::failpoint;

impl Admission {
    /// What a caller in line was told, or `Wait` after its waker was renewed.
    pub(crate) fn look(&self, ticket: usize, waker: &Waker, pool: usize) -> Told {
        let kept = |caller: &Caller| caller.waker.as_ref().is_some_and(|old| old.will_wake(waker));
        let mut state = self.state.lock();
        state.wait_within(ticket, context::within(pool));
        let caller = state.line.caller(ticket);
        if caller.told != Told::Wait || kept(caller) {
            return caller.told;
        }
        drop(state);
        let waker = Some(waker.clone());
        let mut state = self.state.lock();
        let caller = state.line.caller(ticket);
        let told = caller.told;
        let old = match told {
            Told::Wait => std::mem::replace(&mut caller.waker, waker),
            _ => waker,
        };
        drop(state);
        drop(old);
        told
    }

    /// Whoever waited through a caller does not any more, though the caller keeps its place.
    pub(crate) fn forget_within(&self, ticket: usize) {
        self.state.lock().wait_within(ticket, None);
    }

    /// A caller who was told to come hands in its job.
    pub(crate) fn hand_in(
        &self,
        shard_id: ShardId,
        ticket: usize,
        offer: &mut impl Offer,
        deferred: &mut DeferredWakes,
    ) -> Verdict {
        let mut state = self.desk();
        let quota = state.line.node(ticket).quota;
        let slot_kind = SlotKind::for_quota(quota);
        let told = state.line.caller(ticket).told;
        match told {
            Told::Slot if state.has(CANCELLING) => {
                // Too late: nothing starts any more.
                state.line.dismiss(ticket);
                state.granted -= 1;
                state.tally.refused += 1;
                self.hand_on(&mut state, shard_id, deferred);
                self.release_share(&mut state, shard_id, quota, deferred);
                self.look_for_idle(&mut state, deferred);
                Verdict::Closed
            }
            Told::Slot => {
                state.line.dismiss(ticket);
                state.granted -= 1;
                state.tally.started += 1;
                let mut shard = self.shards[shard_id].lock();
                let call = shard.push(offer.admit(slot_kind));
                Verdict::Started { call, depth: shard.ready.len() }
            }
            Told::Place => {
                let job = offer.admit_to_line(slot_kind, ticket);
                state.line.hand_in(ticket, job);
                Verdict::InLine
            }
            Told::Wait => Verdict::Waiting(ticket),
            Told::Closed | Told::Deadlock => {
                state.line.dismiss(ticket);
                state.tally.refused += 1;
                self.look_for_idle(&mut state, deferred);
                if told == Told::Closed { Verdict::Closed } else { Verdict::Deadlock }
            }
        }
    }

    /// A caller in line goes away with its job; what was kept for it passes on.
    pub(crate) fn leave(&self, shard_id: ShardId, ticket: usize, deferred: &mut DeferredWakes) {
        let mut state = self.desk();
        let told = state.line.caller(ticket).told;
        let list = state.line.list_of(ticket);
        if told == Told::Slot && failpoint("keep the grant") {
            return;
        }
        if list.is_some() {
            state.line.unlink(ticket);
        }
        let mut node = state.line.dismiss(ticket);
        if let Entry::Caller(caller) = &mut node.entry {
            if told == Told::Wait {
                state.unblock(caller.within);
            }
            caller.waker.take().into_iter().for_each(|waker| deferred.discard(waker));
        }
        state.tally.withdrawn += 1;
        if told == Told::Slot {
            state.granted -= 1;
            self.hand_on(&mut state, shard_id, deferred);
        }
        state.admit_all(deferred);
        if told == Told::Slot || list == Some(List::Main) {
            self.release_share(&mut state, shard_id, node.quota, deferred);
        } else if let Some(List::Quota(key)) = list {
            state.line.sweep_quota(key);
        }
        self.look_for_idle(&mut state, deferred);
    }

    /// Takes a job that is to be aborted out of the line. It counts until `end_withdrawn`.
    pub(crate) fn withdraw(
        &self,
        shard_id: ShardId,
        job: RawJob,
        ticket: usize,
        deferred: &mut DeferredWakes,
    ) -> Option<Runnable> {
        let mut state = self.desk();
        let removed = state.line.remove_job(ticket, job)?;
        Some(self.take_out(&mut state, shard_id, removed, deferred))
    }

    /// A job in line is about to be cancelled.
    pub(crate) fn take_out(
        &self,
        state: &mut Desk<'_>,
        shard_id: ShardId,
        removed: Removed,
        deferred: &mut DeferredWakes,
    ) -> Runnable {
        state.ending += 1;
        removed.waker.into_iter().for_each(|waker| deferred.wake(waker));
        state.admit_all(deferred);
        if removed.list == List::Main {
            self.release_share(state, shard_id, removed.quota, deferred);
        }
        removed.job
    }

    /// See [`JobScheduler::await_start`](crate::pool::limiter::cell::JobScheduler::await_start).
    pub(crate) fn await_start(&self, job: RawJob, ticket: usize, waker: &Waker) -> bool {
        let waker = waker.clone();
        let mut state = self.state.lock();
        let Some(place) = state.line.start_waker(ticket, job) else { return false };
        let old = place.replace(waker);
        drop(state);
        drop(old);
        true
    }

    pub(crate) fn end_withdrawn(&self, end: End, deferred: &mut DeferredWakes) {
        let mut state = self.desk();
        state.ending -= 1;
        state.tally.end(end);
        self.look_for_idle(&mut state, deferred);
    }
}
