//! Slots without jobs: kept ahead of one that is to come, or beyond the end of one that was.

use std::task::Waker;

use crate::pool::job::SlotKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::{List, Told};
use crate::pool::limiter::{Admission, CLOSED, Offer, Verdict};
use crate::pool::scheduler::shard::{Kept, ShardId};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::failpoint;

impl Admission {
    /// Keeps a slot for a job that comes later. With nobody to `wake`, refuses if there is none.
    #[inline]
    pub(crate) fn reserve(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        wake: Option<(&Waker, usize)>,
    ) -> Verdict {
        if quota.is_none() {
            if wake.is_none() && self.turns_away() {
                return Verdict::Full;
            }
            let mut shard = self.shards[shard_id].lock();
            if shard.free > 0 && self.attention.load(Relaxed) & CLOSED == 0 {
                shard.free -= 1;
                shard.tally.submitted += 1;
                shard.tally.reserved += 1;
                return Verdict::Reserved;
            }
        }
        self.reserve_slow(shard_id, quota, wake)
    }

    #[cold]
    fn reserve_slow(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        wake: Option<(&Waker, usize)>,
    ) -> Verdict {
        // Dropped outside of the lock: wakers are the user's.
        let mut wake = wake.map(|(waker, pool)| (Some(waker.clone()), pool));
        let mut state = self.desk();
        state.tally.submitted += 1;
        if state.has(CLOSED) {
            state.tally.refused += 1;
            return Verdict::Closed;
        }
        let within_share = state.is_within_share(quota);
        if within_share && self.take_slot(&mut state, shard_id) {
            state.hold(quota);
            state.tally.reserved += 1;
            return Verdict::Reserved;
        }
        let Some((waker, pool)) = &mut wake else {
            state.tally.refused += 1;
            return Verdict::Full;
        };
        let list = match quota {
            Some(quota) if !within_share => List::Quota(quota),
            _ => List::Main,
        };
        state.stand_caller(list, quota, within_share, waker, *pool, true)
    }

    /// A caller in line who was told to come takes the slot that is kept for it.
    pub(crate) fn collect(&self, ticket: usize, deferred: &mut DeferredWakes) -> Verdict {
        let mut state = self.desk();
        let verdict = match state.line.caller(ticket).told {
            Told::Wait | Told::Place => return Verdict::Waiting(ticket),
            Told::Slot => {
                state.granted -= 1;
                state.tally.reserved += 1;
                Verdict::Reserved
            }
            told => {
                state.tally.refused += 1;
                if told == Told::Closed { Verdict::Closed } else { Verdict::Deadlock }
            }
        };
        state.line.dismiss(ticket);
        self.look_for_idle(&mut state, deferred);
        verdict
    }

    /// The job for which a slot was kept. If the pool was closed meanwhile, it stays on offer.
    #[inline]
    pub(crate) fn redeem(
        &self,
        shard_id: ShardId,
        offer: &mut impl Offer,
        quota: Option<usize>,
    ) -> Verdict {
        offer.prepare();
        let mut shard = self.shards[shard_id].lock();
        if self.attention.load(Relaxed) & CLOSED != 0 {
            return Verdict::Closed;
        }
        shard.tally.redeemed += 1;
        shard.tally.started += 1;
        let call = shard.push(offer.admit(SlotKind::for_quota(quota)));
        Verdict::Started { call, depth: shard.ready.len() }
    }

    /// Gives back a slot that was kept without a job.
    pub(crate) fn free(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        kept: Kept,
        deferred: &mut DeferredWakes,
    ) {
        if quota.is_none() {
            let mut shard = self.shards[shard_id].lock();
            // The end of what was held may be the end of a pool that was closed.
            let alone = !self.needs_desk() || failpoint("release without recheck");
            if alone && (kept != Kept::Held || !self.is_closed()) {
                shard.tally.free(kept);
                shard.free += 1;
                return;
            }
        }
        let mut state = self.desk();
        state.tally.free(kept);
        self.hand_on(&mut state, shard_id, deferred);
        self.release_share(&mut state, shard_id, quota, deferred);
        self.look_for_idle(&mut state, deferred);
    }
}
