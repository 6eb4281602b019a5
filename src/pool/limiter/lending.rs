//! Waits inside the pool's own jobs: lending of slots, and the waits that could never end.
//!
//! # The problem
//!
//! A job may wait for its own pool: for the end of another job, for a group, or for room. The job
//! keeps its slot meanwhile. If every slot belongs to such a job, the jobs that they wait for never
//! receive a slot, and the pool stands still.
//!
//! # Lending
//!
//! A job waits from the first poll that finds a wait for the pool pending, until the job ends: the
//! suspension after each later poll counts as a wait, too. A future such as `FuturesUnordered` polls only
//! the children that were woken, so a poll may not come by a wait that goes on. A job whose last poll found
//! no wait, an *unseen* one, may as well wait for I/O. So its slot counts for waiters from inside the pool
//! alone: jobs that resume, and those that jobs of the pool submitted. Otherwise jobs that wait for I/O would
//! let strangers in without end. A job that awaits a stranger so may thus stand still.
//!
//! The pool is *stuck* when every slot belongs to a job that waits, and a waiter stands in the wait
//! list. Then the slot of one of these jobs goes to the waiter ([`StateGuard::lend_if_stuck`]). A lent
//! slot is lent for good: it goes on like any other when its new job ends. The *lender* must receive a
//! slot again before it is polled again.
//!
//! ```text
//!            the poll returns Pending,       the pool is stuck            woken
//!   running ──────────────────────▶ blocked ──────────────────▶ lent ───────────▶ resuming
//!      ▲  ▲     a wait was noted       │                                             │
//!      │  └────────────────────────────┘ woken                                       │
//!      └─────────────────────────────────────────────────────────────────────────────┘
//!                            a slot (and a part of its quota) is free
//! ```
//!
//! * **blocked**: the job is in [`Holders`], with its slot. The job's `BLOCKED` bit makes the scheduler
//!   ask [`Limiter::unblock`] when the job is woken, before it goes to a run queue.
//!   A job whose slot guard lives keeps its slot. It is in `State::guarded`, counts as waiting for the other
//!   jobs, and is blocked from the drop of the guard on.
//! * **lent**: the job is in `State::lent` and holds nothing.
//! * **resuming**: the job stands in the wait list, in a list of its own before all waiters. An abort
//!   takes it out there.
//!
//! A slot is lent to the first of these that exists: a resuming job; the oldest waiter that a job of
//! this pool submitted; the oldest waiter, if no wait is unseen. Jobs from outside thus do not grow in number
//! because jobs inside wait for their children. Within a quota, its first waiter is served.
//!
//! Where the pool is not stuck, nothing is lent. From its first wait on, a job pays the state lock twice per
//! suspension.
//!
//! # Waits that cannot lend
//!
//! A job keeps its slot while it waits through a *caller*: a [`Reserver`](crate::Reserver), or a thread
//! that blocks. A reserved slot serves nothing until that very job goes on, so the job would wait for
//! its own slot. Such waits are counted in [`Holders`] as well, and if they alone hold every slot, the
//! wait that completes the set is refused ([`would_deadlock`]). When a slot vanishes in a shrink, the
//! newest such wait is rejected. A quota can be stuck by itself in both ways.
//!
//! The wait of a closure counts for its job while the job awaits the closure. A job that is blocked has given
//! up the closure's future, and the wait is a stranger's from then on. If the job ends instead, the wait
//! still counts for it until the caller is polled again.
//!
//! All of this runs under the state lock, in slow paths only. A wait that could end must never be
//! refused.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::pool::context::Current;
use crate::pool::job::{RawJob, Runnable, SlotHold, SlotKind};
use crate::pool::limiter::Limiter;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::CANCELLING;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::limiter::wait_list::{List, Waiter, WaiterKey, WaiterState};
use crate::pool::options::Requirements;
use crate::pool::timings::now;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::failpoint;

/// A job with a slot of this pool that waits for this pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitingJob {
    id: usize,
    quota: Option<usize>,
    /// A closure of the job waits, and not the job itself.
    in_closure: bool,
}

/// A job that waits for its own pool, and whose slot a guard keeps.
pub(super) struct Guarded {
    waiting_job: WaitingJob,
    /// The id of the handshake with the guard: a job of the same id may have another one later.
    slot_hold: usize,
    is_seen: bool,
}

/// Returns the job that a thread polls, or whose closure it runs, if the job holds a slot. Behind a closure
/// that nothing awaits any more, the job may lend its slot, and end.
pub(super) fn waiting_job(current: Current) -> Option<WaitingJob> {
    let slot_kind = current.job.slot_kind();
    let has_slot = !matches!(slot_kind, SlotKind::Overflow | SlotKind::Lent);
    let waits = current.is_polled_here() || current.job.is_abort_deferred();
    (waits && has_slot && !current.job.is_complete()).then(|| WaitingJob {
        id: current.job.id(),
        quota: slot_kind.quota(),
        in_closure: !current.is_polled_here(),
    })
}

/// The jobs that hold a slot and wait for their own pool (L10).
#[derive(Default)]
pub(super) struct Holders {
    jobs: BTreeMap<usize, Holder>,
    /// How many of them are blocked by a wait that their last poll did not find.
    unseen: usize,
}

#[derive(Default)]
struct Holder {
    quota: Option<usize>,
    /// Callers in state `Waiting` through which the job waits.
    callers: usize,
    /// The job is blocked: suspended, and about to be if its poll has not returned yet.
    blocked: bool,
    /// The job is blocked, and its last poll found no wait.
    is_unseen: bool,
}

impl Holders {
    fn entry(&mut self, job: WaitingJob) -> &mut Holder {
        self.jobs.entry(job.id).or_insert(Holder { quota: job.quota, ..Holder::default() })
    }

    pub(super) fn add_caller(&mut self, job: Option<WaitingJob>) {
        if let Some(job) = job {
            self.entry(job).callers += 1;
        }
    }

    pub(super) fn remove_caller(&mut self, job: Option<WaitingJob>) {
        let Some(job) = job else { return };
        if let Some(holder) = self.jobs.get_mut(&job.id) {
            holder.callers -= 1;
            if holder.callers == 0 && !holder.blocked {
                self.jobs.remove(&job.id);
            }
        }
    }

    /// Blocks a job. Returns whether the job also waits through callers.
    fn block(&mut self, job: WaitingJob, is_seen: bool) -> bool {
        let holder = self.entry(job);
        holder.blocked = true;
        holder.is_unseen = !is_seen;
        let has_callers = holder.callers > 0;
        self.unseen += usize::from(!is_seen);
        has_callers
    }

    /// Removes the block of a job. Returns whether the job had one, and so has its slot.
    fn unblock(&mut self, id: usize) -> bool {
        let Some(holder) = self.jobs.get_mut(&id).filter(|holder| holder.blocked) else {
            return false;
        };
        holder.blocked = false;
        self.unseen -= usize::from(std::mem::take(&mut holder.is_unseen));
        if holder.callers == 0 {
            self.jobs.remove(&id);
        }
        true
    }

    /// Returns whether these jobs and `kept` others hold all of `slots`.
    fn hold_all(&self, kept: usize, slots: usize) -> bool {
        !self.jobs.is_empty() && self.jobs.len() + kept >= slots
    }

    /// Returns whether these jobs and `job` hold all of `slots`.
    fn hold_all_with(&self, job: WaitingJob, slots: usize) -> bool {
        self.jobs.len() + usize::from(!self.jobs.contains_key(&job.id)) >= slots
    }

    fn of_quota(&self, key: usize) -> usize {
        self.jobs.values().filter(|holder| holder.quota == Some(key)).count()
    }

    /// Returns a job that may lend its slot, of this quota if one is given.
    fn lender(&self, quota: Option<usize>) -> Option<WaitingJob> {
        let lends = |holder: &Holder| {
            holder.blocked && holder.callers == 0 && (quota.is_none() || holder.quota == quota)
        };
        let (&id, holder) = self.jobs.iter().find(|(_, holder)| lends(holder))?;
        Some(WaitingJob { id, quota: holder.quota, in_closure: false })
    }
}

/// Returns whether a wait of `job` through a caller in `list` could never end. Called before the
/// caller joins.
pub(super) fn would_deadlock(state: &State, list: List, job: WaitingJob) -> bool {
    if state.slots_granted == 0
        && state.holders.hold_all_with(job, state.slots())
        && state.holders.lender(None).is_none()
    {
        return true;
    }
    let List::Quota(key) = list else { return false };
    if job.quota != Some(key) || state.holders.lender(Some(key)).is_some() {
        return false;
    }
    let waiting = state.wait_list.callers(list).filter_map(|caller| caller.waiting_job);
    let members = waiting.filter(|other| other.quota == Some(key)).map(|other| other.id);
    let waiting: HashSet<_> = members.chain([job.id]).collect();
    waiting.len() >= state.wait_list.quota_in_use(key)
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
        state.holders.remove_caller(before);
        state.holders.add_caller(waiting_job);
    }
}

impl Limiter {
    /// Notes that a job waits for its own pool, and whether its last poll found the wait. Called by the
    /// job's worker, before the job is suspended. A job with a slot guard lends only after the guard's drop.
    #[cold]
    pub(crate) fn block(
        &self,
        shard_id: ShardId,
        (job, is_seen): (RawJob, bool),
        slot_hold: Option<Arc<SlotHold>>,
        deferred: &mut DeferredWakes,
    ) {
        let (id, quota) = (job.id(), job.slot_kind().quota());
        let waiting_job = WaitingJob { id, quota, in_closure: false };
        let mut state = self.lock_state();
        // Under the lock: a guard that is dropped after this look finds the entry.
        if let Some(slot_hold) = slot_hold.filter(|slot_hold| slot_hold.is_kept()) {
            let guarded = Guarded { waiting_job, slot_hold: slot_hold.id(), is_seen };
            state.guarded.insert(id, guarded);
            // The other jobs may have waited for this one alone.
            return state.lend(shard_id, quota, deferred);
        }
        self.block_in(&mut state, shard_id, (waiting_job, is_seen), deferred);
    }

    /// Blocks the job of a slot guard that was dropped, if the job waits for its own pool.
    #[cold]
    pub(crate) fn end_guard(
        &self,
        shard_id: ShardId,
        job_id: usize,
        slot_hold: &Arc<SlotHold>,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        let is_own = |guarded: &&Guarded| guarded.slot_hold == slot_hold.id();
        let Some(guarded) = state.guarded.get(&job_id).filter(is_own) else { return };
        let waiting_job = (guarded.waiting_job, guarded.is_seen);
        state.guarded.remove(&job_id);
        self.block_in(&mut state, shard_id, waiting_job, deferred);
    }

    fn block_in(
        &self,
        state: &mut StateGuard<'_>,
        shard_id: ShardId,
        (job, is_seen): (WaitingJob, bool),
        deferred: &mut DeferredWakes,
    ) {
        if state.holders.block(job, is_seen) {
            state.forget_closures(job);
        }
        self.set_blocked_jobs(state);
        state.lend(shard_id, job.quota, deferred);
    }

    /// Ends the wait of a blocked job. Returns the job if it has a slot or is to be cancelled. If its
    /// slot was lent and none is free, the job stays here and is started later.
    #[cold]
    pub(crate) fn unblock(
        &self,
        shard_id: ShardId,
        job: Runnable,
        deferred: &mut DeferredWakes,
    ) -> Option<Runnable> {
        let mut state = self.lock_state();
        let has_slot = state.unblock(job.ptr().id()) || failpoint("a lender needs no slot");
        self.set_blocked_jobs(&state);
        if has_slot {
            return Some(job);
        }
        let quota = state.lent.remove(&job.ptr().id()).expect("a blocked job is blocked or lent");
        if state.is_set(CANCELLING) {
            // `cancel_all` has emptied the lists already.
            let _ = job.ptr().request_abort();
        }
        if job.is_abort_due() {
            job.ptr().set_slot_kind(SlotKind::Lent);
            return Some(job);
        }
        let resumed = state.resume(shard_id, quota, job);
        if resumed.is_none() {
            state.lend(shard_id, quota, deferred);
        }
        resumed
    }

    /// Ends the wait of a blocked job that is about to be cancelled without a poll.
    #[cold]
    pub(crate) fn unblock_to_cancel(&self, job: &Runnable) {
        let mut state = self.lock_state();
        if !state.unblock(job.ptr().id()) {
            state.lent.remove(&job.ptr().id());
            job.ptr().set_slot_kind(SlotKind::Lent);
        }
        self.set_blocked_jobs(&state);
    }

    fn set_blocked_jobs(&self, state: &State) {
        // Relaxed: see `may_be_stuck`.
        self.blocked_jobs.store(state.holders.jobs.len(), Relaxed);
    }

    /// Returns whether the pool may be stuck. Called after a waiter joined the wait list.
    #[inline]
    pub(crate) fn may_be_stuck(&self) -> bool {
        // Relaxed: the state lock is the partner. A job that was blocked before the waiter joined is
        // seen here. A job that is blocked later finds the waiter itself.
        self.blocked_jobs.load(Relaxed) > 0
    }

    /// Lends a slot if the pool is stuck, or lends within the quota.
    #[cold]
    pub(crate) fn lend(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        self.lock_state().lend(shard_id, quota, deferred);
    }
}

impl State {
    /// Removes the block of a job. Returns whether the job has its slot: it was blocked or guarded.
    fn unblock(&mut self, id: usize) -> bool {
        self.holders.unblock(id) || self.guarded.remove(&id).is_some()
    }

    /// Notes that the closures of a blocked job wait for themselves: the job has given up their futures.
    #[cold]
    fn forget_closures(&mut self, job: WaitingJob) {
        let closure = Some(WaitingJob { in_closure: true, ..job });
        for waiter_key in self.wait_list.waiter_keys() {
            let is_closure = matches!(
                self.wait_list.get_linked(waiter_key),
                Some(Waiter::Caller(caller)) if caller.waiting_job == closure
            );
            if is_closure && !failpoint("a closure left behind waits for its job") {
                set_waiting_job(self, waiter_key, None);
            }
        }
    }

    /// Returns how many jobs, of this quota if one is given, wait and cannot lend because of a slot guard.
    fn kept_slots(&self, quota: Option<usize>) -> usize {
        let guarded = self.guarded.values().map(|guarded| guarded.waiting_job);
        let is_counted = |job: &WaitingJob| {
            (quota.is_none() || job.quota == quota) && !self.holders.jobs.contains_key(&job.id)
        };
        guarded.filter(|job| is_counted(job) && !failpoint("a guarded job is not waiting")).count()
    }

    /// Returns whether jobs that wait hold all slots.
    fn is_held_up(&self) -> bool {
        // The sum is cheap, and a bound.
        self.slots_granted == 0
            && self.holders.hold_all(self.guarded.len(), self.slots())
            && self.holders.hold_all(self.kept_slots(None), self.slots())
    }
}

impl StateGuard<'_> {
    /// Lends a slot if the pool is stuck, and a part of the quota if the quota is stuck.
    fn lend(&mut self, shard_id: ShardId, quota: Option<usize>, deferred: &mut DeferredWakes) {
        self.lend_if_stuck(shard_id, deferred);
        if let Some(key) = quota {
            self.lend_if_quota_stuck(shard_id, key, deferred);
        }
    }

    /// Lends the slots of jobs that wait while all slots belong to such jobs and a waiter is there. If
    /// none of them may lend, rejects the newest wait through a caller. The drop of a slot guard may come,
    /// so that nothing is rejected while a job is guarded.
    pub(super) fn lend_if_stuck(&mut self, shard_id: ShardId, deferred: &mut DeferredWakes) {
        let mut has_rejected = false;
        while self.is_held_up() && self.first_to_serve().is_some() && !failpoint("never lend") {
            let Some(lender) = self.holders.lender(None) else {
                // The job of a rejected wait goes on, or may lend now.
                if has_rejected || self.kept_slots(None) > 0 {
                    return;
                }
                self.break_deadlock(shard_id, deferred);
                has_rejected = true;
                continue;
            };
            let Some(waiter_key) = self.next_to_lend_to() else { return };
            self.take_slot_of(lender);
            self.wait_list.unlink(waiter_key);
            self.grant(waiter_key, deferred);
            self.fill_queue(deferred);
            self.release_quota(shard_id, lender.quota, deferred);
        }
    }

    /// Returns the waiter that receives the next lent slot, while one stands in a list.
    fn next_to_lend_to(&self) -> Option<WaiterKey> {
        let nested =
            || self.wait_list.oldest_nested().filter(|_| !failpoint("lend to strangers first"));
        let is_unseen = |guarded: &Guarded| !guarded.is_seen;
        let takes_strangers = || self.holders.unseen == 0 && !self.guarded.values().any(is_unseen);
        let stranger = || {
            let lends = takes_strangers() || failpoint("waits for I/O let strangers in");
            self.wait_list.head(List::Main).filter(|_| lends)
        };
        self.wait_list.head(List::Resuming).or_else(nested).or_else(stranger)
    }

    /// Lends a slot with a part of a quota, if all parts belong to jobs that wait and a waiter needs
    /// one.
    fn lend_if_quota_stuck(&mut self, shard_id: ShardId, key: usize, deferred: &mut DeferredWakes) {
        while self.wait_list.has_quota_waiter(key)
            && self.holders.of_quota(key) + self.kept_slots(Some(key))
                >= self.wait_list.quota_in_use(key)
        {
            let Some(lender) = self.holders.lender(Some(key)) else { return };
            self.take_slot_of(lender);
            self.release(shard_id, lender.quota, deferred);
        }
    }

    /// Takes the slot of a blocked job. The caller passes the slot on.
    fn take_slot_of(&mut self, lender: WaitingJob) {
        self.holders.unblock(lender.id);
        self.limiter.set_blocked_jobs(&self.state);
        self.lent.insert(lender.id, lender.quota);
        self.lent_jobs += 1;
    }

    /// Gives a lender its slot back. Returns the job if there is a slot for it; otherwise the job waits
    /// in a list.
    fn resume(
        &mut self,
        shard_id: ShardId,
        quota: Option<usize>,
        job: Runnable,
    ) -> Option<Runnable> {
        let list = match quota {
            Some(key) if !self.wait_list.has_quota_room(key) => List::ResumingInQuota(key),
            _ => {
                self.acquire_quota(quota);
                let is_paused_slot = self.paused_slots > 0;
                self.paused_slots -= usize::from(is_paused_slot);
                if is_paused_slot || self.acquire_from_any_shard(shard_id) {
                    self.lent_jobs -= 1;
                    return Some(job);
                }
                List::Resuming
            }
        };
        let history = job.wait_again(self.wait_list.next_key());
        let (waiter, terms) = (Waiter::Job(job, None), (&Requirements::default(), now()));
        let waiter_key = self.wait_list.push(list, quota, waiter, terms, false);
        self.wait_list.node(waiter_key).resumes = Some(history);
        None
    }

    /// Rejects the newest wait through a caller, because such waits hold all slots.
    fn break_deadlock(&mut self, shard_id: ShardId, deferred: &mut DeferredWakes) {
        let is_nested = |waiter: &Waiter| match waiter {
            Waiter::Caller(caller) => {
                caller.waiting_job.is_some() && caller.state == WaiterState::Waiting
            }
            Waiter::Job(..) | Waiter::None => false,
        };
        let keys = self.wait_list.waiter_keys().into_iter().rev();
        let newest =
            keys.into_iter().find(|&key| self.wait_list.get_linked(key).is_some_and(is_nested));
        if let Some(waiter_key) = newest {
            self.reject_waiter(shard_id, waiter_key, WaiterState::Deadlock, deferred);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holders, WaitingJob};

    fn jobs() -> [WaitingJob; 2] {
        [1, 2].map(|id| WaitingJob { id, quota: None, in_closure: false })
    }

    #[test]
    fn a_job_counts_once_however_often_it_waits() {
        let [first, second] = jobs();
        let mut holders = Holders::default();
        assert!(!holders.hold_all(0, 0), "without a waiting job there is no deadlock");
        holders.add_caller(Some(first));
        holders.add_caller(Some(first));
        assert!(!holders.hold_all_with(first, 2));
        assert!(holders.hold_all_with(second, 2));
        holders.remove_caller(Some(first));
        assert!(holders.hold_all(0, 1));
        holders.remove_caller(Some(first));
        assert!(!holders.hold_all(0, 1));
    }

    #[test]
    fn a_job_that_waits_through_a_caller_does_not_lend() {
        let [first, second] = jobs();
        let mut holders = Holders::default();
        assert!(!holders.block(first, true));
        holders.add_caller(Some(first));
        assert_eq!(holders.lender(None), None);
        assert!(!holders.block(second, false));
        assert_eq!(holders.lender(None), Some(second));
        holders.remove_caller(Some(first));
        assert_eq!(holders.lender(None), Some(first));
        assert!(holders.unblock(first.id));
        assert!(!holders.unblock(first.id), "a block ends once");
        assert!(holders.hold_all(0, 1));
    }
}
