//! The state of a limiter under its lock, and the steps that its entry points are made of.
//!
//! [`State`] is what the state lock protects. [`StateGuard`] is the locked state together with the
//! limiter's shards and flag word. `Limiter::lock_state` makes the guard; the entry points in the
//! parent module call the steps here.
//!
//! * A step runs under the state lock. It may lock shards one after another, and holds two at once
//!   only in `counts` (L1).
//! * A step may leave the invariants broken halfway, for example with a slot in no place (L3). Each
//!   public step restores them before it returns.
//! * A step never wakes or drops a waker and never runs a job. It hands them to [`DeferredWakes`],
//!   or returns them (L2).
//! * The guard derives `FULL` and `DEADLINES` when it is dropped, so that no step has to care for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use crate::error::SubmitErrorKind;
use crate::pool::context::Current;
use crate::pool::job::{JobGroup, SlotKind};
use crate::pool::limiter::counts::{Counters, Counts};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::{CLOSED, DEADLINES, FULL, IDLE_WAITERS, NO_SLOTS};
use crate::pool::limiter::lending::{Guarded, Holders, waiting_job, would_deadlock};
use crate::pool::limiter::measured::Measured;
use crate::pool::limiter::overload::{Overload, TargetWait};
use crate::pool::limiter::shard::{ShardGuard, ShardId};
use crate::pool::limiter::wait_list::{
    CallerWaiter, List, NO_GROUP, RemovedJob, WaitList, Waiter, WaiterKey, WaiterState,
};
use crate::pool::limiter::{AcquireOutcome, Limiter, PendingJob};
use crate::pool::options::Requirements;
use crate::pool::timings::Clock;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{MutexGuard, failpoint};

pub(super) struct State {
    pub(super) wait_list: WaitList,
    pub(super) size: usize,
    /// Slots beyond `size` that vanish when they come back, because the pool was made smaller.
    pub(super) slots_to_remove: usize,
    /// No slot is handed out; see `pause`.
    pub(super) paused: bool,
    /// Slots that would be free if the limiter was not paused.
    pub(super) paused_slots: usize,
    /// Slots kept for callers in state `SlotGranted`.
    pub(super) slots_granted: usize,
    /// Jobs that run beyond the size.
    pub(super) overflow: usize,
    /// Jobs that left the wait list and are being cancelled.
    pub(super) cancelling: usize,
    /// The jobs that hold a slot and wait for this pool.
    pub(super) holders: Holders,
    /// The jobs that would be blocked, but for slot guards that keep their slots.
    pub(super) guarded: HashMap<usize, Guarded>,
    /// The jobs that lent their slot and were not woken since, with their quotas.
    pub(super) lent: HashMap<usize, Option<usize>>,
    /// All jobs that lent their slot: `lent`, the resuming ones, and those that are being cancelled.
    pub(super) lent_jobs: usize,
    /// Whether the limiter is overloaded.
    pub(super) overload: Overload,
    /// How long waiters waited, and the jobs that run in their callers.
    pub(super) measured: Measured,
    /// Totals of what does not happen in a shard.
    pub(super) counters: Counters,
}

impl State {
    pub(super) fn new(
        size: usize,
        queue_capacity: usize,
        target_wait: TargetWait,
        clock: Clock,
    ) -> Self {
        Self {
            wait_list: WaitList::new(queue_capacity),
            size,
            slots_to_remove: 0,
            paused: false,
            paused_slots: 0,
            slots_granted: 0,
            overflow: 0,
            cancelling: 0,
            holders: Holders::default(),
            guarded: HashMap::new(),
            lent: HashMap::new(),
            lent_jobs: 0,
            overload: Overload::new(target_wait),
            measured: Measured::new(clock),
            counters: Counters::default(),
        }
    }

    /// Returns the number of slots in existence (L3).
    pub(super) fn slots(&self) -> usize {
        self.size + self.slots_to_remove
    }

    pub(super) fn refuse(&mut self, outcome: AcquireOutcome) -> AcquireOutcome {
        self.counters.refused += 1;
        outcome
    }

    pub(super) fn acquire_quota(&mut self, quota: Option<usize>) {
        if let Some(key) = quota {
            self.wait_list.acquire_quota(key);
        }
    }

    /// Puts the job itself in the wait list.
    pub(super) fn enqueue_job(
        &mut self,
        list: List,
        pending: &mut dyn PendingJob,
        slot_kind: SlotKind,
        (since, is_nested): (Instant, bool),
    ) -> AcquireOutcome {
        let requirements = pending.offer().requirements;
        let job = match pending.admit_waiting(slot_kind, self.wait_list.next_key()) {
            Ok(job) => job,
            Err(kind) => return self.refuse(AcquireOutcome::Refused(kind)),
        };
        if list == List::Main {
            self.acquire_quota(slot_kind.quota());
        }
        self.wait_list.push(
            list,
            slot_kind.quota(),
            Waiter::Job(job, None),
            (&requirements, since),
            is_nested,
        );
        self.note_peaks();
        // Waiters before this one have their places already, so the step can only admit the job.
        let _ = self.wait_list.enter_queue();
        AcquireOutcome::Enqueued
    }

    /// Puts the job of a caller that is a job of the pool in the wait list. The caller waits for the
    /// start, and until then a close gives the job back.
    pub(super) fn enqueue_nested_job(
        &mut self,
        list: List,
        pending: &mut dyn PendingJob,
        slot_kind: SlotKind,
        since: Instant,
    ) -> AcquireOutcome {
        let group = pending.offer().group;
        if let Some(kind) = group.and_then(JobGroup::enter_line) {
            return self.refuse(AcquireOutcome::Refused(kind));
        }
        let (tag, waiter_key) = (group.map_or(NO_GROUP, JobGroup::tag), self.wait_list.next_key());
        match self.enqueue_job(list, pending, slot_kind, (since, true)) {
            AcquireOutcome::Enqueued => {
                self.wait_list.node(waiter_key).submitter = Some(tag);
                AcquireOutcome::WaitingForStart(waiter_key)
            }
            refused => refused,
        }
    }

    /// Puts a caller of `group` in the wait list by `enqueue`, unless the group takes no more jobs.
    pub(super) fn enter_line(
        &mut self,
        (group, label): (Option<&dyn JobGroup>, Option<&Arc<str>>),
        enqueue: impl FnOnce(&mut Self) -> AcquireOutcome,
    ) -> AcquireOutcome {
        if let Some(kind) = group.and_then(JobGroup::enter_line) {
            return self.refuse(AcquireOutcome::Refused(kind));
        }
        let outcome = enqueue(self);
        if let AcquireOutcome::Waiting(waiter_key) = outcome {
            if group.is_some() || label.is_some() {
                let caller = self.wait_list.caller(waiter_key);
                caller.group = group.map_or(NO_GROUP, JobGroup::tag);
                caller.label = label.cloned();
            }
        }
        outcome
    }

    /// Puts a caller in the wait list and takes `waker`, unless the wait would deadlock. `current` is
    /// the job of this pool that the thread polls.
    pub(super) fn enqueue_caller(
        &mut self,
        list: List,
        quota: Option<usize>,
        waker: &mut Option<Waker>,
        current: Option<Current>,
        (requirements, since, is_reserver): (&Requirements, Instant, bool),
    ) -> AcquireOutcome {
        let waiting_job = current.and_then(waiting_job);
        if waiting_job.is_some_and(|job| would_deadlock(self, list, job)) {
            return self.refuse(AcquireOutcome::Refused(SubmitErrorKind::WouldDeadlock));
        }
        if list == List::Main {
            self.acquire_quota(quota);
        }
        self.holders.add_caller(waiting_job);
        let caller = CallerWaiter {
            waker: waker.take(),
            waiting_job,
            state: WaiterState::Waiting,
            group: NO_GROUP,
            label: None,
            is_reserver,
        };
        let waiter = Waiter::Caller(caller);
        let waiter_key =
            self.wait_list.push(list, quota, waiter, (requirements, since), current.is_some());
        self.note_peaks();
        if is_reserver {
            // A reserver has nothing to leave in the queue, but keeps later waiters behind it.
            let _ = self.wait_list.enter_queue();
        }
        AcquireOutcome::Waiting(waiter_key)
    }

    /// Gives free places in the queue to the waiters behind it.
    pub(super) fn fill_queue(&mut self, deferred: &mut DeferredWakes) {
        while let Some(waiter_key) = self.wait_list.enter_queue() {
            if let Waiter::Caller(CallerWaiter { is_reserver: false, .. }) =
                self.wait_list.node(waiter_key).waiter
            {
                self.notify_waiter(waiter_key, WaiterState::QueueGranted, deferred);
            }
        }
    }

    /// Gives a slot to a waiter that has just left its list: a job starts, a caller is notified.
    pub(super) fn grant(&mut self, waiter_key: WaiterKey, deferred: &mut DeferredWakes) {
        let node = self.wait_list.node(waiter_key);
        let (since, resumes) = (node.since, node.resumes);
        if resumes.is_none() {
            self.measured.note_grant(since);
        }
        if let Waiter::Caller(caller) = &mut node.waiter {
            self.slots_granted += 1;
            notify_caller(&mut self.holders, caller, WaiterState::SlotGranted, deferred);
            return;
        }
        if let Waiter::Job(job, waker) = self.wait_list.remove(waiter_key) {
            if resumes.is_some() {
                self.lent_jobs -= 1;
                job.set_history(resumes);
            } else {
                self.counters.started += 1;
                self.measured.note_start(&job, since);
            }
            deferred.start(job);
            deferred.wake(waker.filter(|_| !failpoint("a start wakes nothing")));
        }
    }

    /// Moves a caller to its next state. Once a caller is not `Waiting`, its job does not wait.
    fn notify_waiter(
        &mut self,
        waiter_key: WaiterKey,
        next: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        let caller = self.wait_list.caller(waiter_key);
        notify_caller(&mut self.holders, caller, next, deferred);
    }

    /// Forgets a caller that was rejected, and returns why; `closed` is why the limiter is closed. The
    /// caller counts as refused.
    pub(super) fn remove_rejected(
        &mut self,
        waiter_key: WaiterKey,
        closed: SubmitErrorKind,
    ) -> AcquireOutcome {
        let outcome = match self.wait_list.caller(waiter_key).state {
            WaiterState::Closed => AcquireOutcome::Refused(closed),
            WaiterState::Rejected(kind) => AcquireOutcome::Refused(kind),
            _ => AcquireOutcome::Refused(SubmitErrorKind::WouldDeadlock),
        };
        self.wait_list.forget_caller(waiter_key);
        self.refuse(outcome)
    }
}

#[inline]
fn notify_caller(
    holders: &mut Holders,
    caller: &mut CallerWaiter,
    next: WaiterState,
    deferred: &mut DeferredWakes,
) {
    if caller.state == WaiterState::Waiting {
        holders.remove_caller(caller.waiting_job);
    }
    deferred.wake(caller.advance(next));
}

/// The locked state, with the parts of the limiter that its steps need.
pub(super) struct StateGuard<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) state: MutexGuard<'a, State>,
}

impl StateGuard<'_> {
    pub(super) fn is_set(&self, flags: usize) -> bool {
        self.limiter.flags.is_set_in_lock(flags)
    }

    pub(super) fn set(&self, flags: usize) {
        self.limiter.flags.set(flags);
    }

    pub(super) fn clear(&self, flags: usize) {
        self.limiter.flags.clear(flags);
    }

    // ----- slots -----

    /// Takes a slot from any shard that has one. Half of that shard's free slots move along to
    /// `shard_id`, so that the next submitters there need no state lock. Returns `false` if no
    /// shard has a free slot; then `NO_SLOTS` proves it (L4).
    pub(super) fn acquire_from_any_shard(&mut self, shard_id: ShardId) -> bool {
        if self.is_set(NO_SLOTS) {
            return false;
        }
        // The flag goes first: a slot that comes back to a shard after the scan passed it is
        // brought to the state lock instead.
        if !failpoint("scan before the flag") {
            self.set(NO_SLOTS);
        }
        let shards = &self.limiter.shards;
        for offset in 0..shards.len() {
            let mut victim = shards[(shard_id + offset) % shards.len()].lock();
            let taken = victim.free_slots.div_ceil(2);
            let visible = offset == 0 || !failpoint("slots of other shards are not seen");
            if taken > 0 && visible {
                let unused = victim.move_out(taken);
                drop(victim);
                self.clear(NO_SLOTS);
                shards[shard_id].lock().move_in(taken - 1, unused);
                return true;
            }
        }
        false
    }

    pub(super) fn add_free_slots(&mut self, shard_id: ShardId, slots: usize) {
        if self.paused {
            self.paused_slots += slots;
            self.limiter.shards[shard_id].lock().forget_slots(0, slots);
            return;
        }
        self.limiter.shards[shard_id].lock().free_slots += slots;
        self.clear(NO_SLOTS);
    }

    /// Passes on a slot and a part of a quota that a job or caller leaves.
    pub(super) fn release(
        &mut self,
        shard_id: ShardId,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        self.release_to_next(shard_id, deferred);
        self.release_quota(shard_id, quota, deferred);
    }

    /// Passes on a slot: to a pending shrink, else to the first waiter of the main list, else to
    /// the shard `shard_id`.
    fn release_to_next(&mut self, shard_id: ShardId, deferred: &mut DeferredWakes) {
        if self.slots_to_remove > 0 {
            self.slots_to_remove -= 1;
            self.limiter.shards[shard_id].lock().forget_slots(0, 1);
            self.lend_if_stuck(shard_id, deferred);
        } else if let Some(waiter_key) = self.next_to_serve(shard_id, deferred) {
            self.wait_list.note_turn(waiter_key);
            self.wait_list.unlink(waiter_key);
            self.grant(waiter_key, deferred);
            if !failpoint("the queue is not filled") {
                self.fill_queue(deferred);
            }
        } else {
            self.add_free_slots(shard_id, 1);
        }
    }

    /// Returns the waiter that gets the next slot.
    pub(super) fn first_to_serve(&self) -> Option<WaiterKey> {
        // A job that lent its slot has started: it goes on while the limiter is paused.
        let resuming = self.wait_list.head(List::Resuming);
        resuming.or_else(|| if self.paused { None } else { self.wait_list.head(List::Main) })
    }

    /// Releases a part of a quota. The first waiter for that quota receives the part: it starts if
    /// a slot is free, and joins the main list otherwise.
    pub(super) fn release_quota(
        &mut self,
        shard_id: ShardId,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        let Some(key) = quota else { return };
        let Some(waiter_key) = self.wait_list.release_quota(key) else { return };
        if self.acquire_from_any_shard(shard_id) {
            self.grant(waiter_key, deferred);
        } else if self.wait_list.node(waiter_key).resumes.is_some() {
            self.wait_list.link(List::Resuming, waiter_key);
        } else {
            self.wait_list.link(List::Main, waiter_key);
            self.fill_queue(deferred);
        }
    }

    /// Adds slots to the pool. They cancel pending removals, then serve waiters, then lie free.
    pub(super) fn grow(&mut self, shard_id: ShardId, by: usize, deferred: &mut DeferredWakes) {
        let kept = by.min(self.slots_to_remove);
        self.slots_to_remove -= kept;
        self.add_slots(shard_id, by - kept, deferred);
    }

    /// Serves waiters with slots that no job had. The rest lies free.
    pub(super) fn add_slots(
        &mut self,
        shard_id: ShardId,
        mut added: usize,
        deferred: &mut DeferredWakes,
    ) {
        while added > 0 && !self.wait_list.is_empty() && !failpoint("a grow serves no waiter") {
            self.release_to_next(shard_id, deferred);
            added -= 1;
        }
        if added > 0 {
            self.add_free_slots(shard_id, added);
            // No job has needed them.
            self.limiter.shards[shard_id].lock().move_in(0, added as isize);
        }
    }

    /// Removes slots from the pool: free ones at once, the others when they come back.
    pub(super) fn shrink(&mut self, shard_id: ShardId, by: usize, deferred: &mut DeferredWakes) {
        let (mut excess, mut free) = (by, 0);
        // As in `acquire_from_any_shard`: no slot may come back behind the scan (L4).
        self.set(NO_SLOTS);
        for shard in &self.limiter.shards {
            let mut shard = shard.lock();
            let removed = shard.free_slots.min(excess);
            shard.forget_slots(removed, 0);
            excess -= removed;
            free += shard.free_slots;
        }
        let removed = self.paused_slots.min(excess);
        self.paused_slots -= removed;
        let left = if failpoint("slots in use survive a shrink") { 0 } else { excess - removed };
        self.slots_to_remove += left;
        if free > 0 {
            self.clear(NO_SLOTS);
        } else {
            self.lend_if_stuck(shard_id, deferred);
        }
    }

    // ----- waiters that leave -----

    /// Lets the waiters behind one that left `list` without a slot move up.
    pub(super) fn move_up(
        &mut self,
        shard_id: ShardId,
        list: List,
        quota: Option<usize>,
        deferred: &mut DeferredWakes,
    ) {
        self.fill_queue(deferred);
        // A waiter of a quota list has no part of the quota yet (L8).
        if list.has_parts() {
            self.release_quota(shard_id, quota, deferred);
        }
    }

    /// Takes a caller out of the wait list and tells the caller why.
    pub(super) fn reject_waiter(
        &mut self,
        shard_id: ShardId,
        waiter_key: WaiterKey,
        reason: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        let list = self.wait_list.unlink(waiter_key);
        let quota = self.wait_list.node(waiter_key).quota;
        self.notify_waiter(waiter_key, reason, deferred);
        self.move_up(shard_id, list, quota, deferred);
    }

    /// Counts a job that left the wait list to be cancelled, and lets the others move up. The job
    /// counts until `Limiter::end_withdrawn`.
    pub(super) fn remove_for_cancel(
        &mut self,
        shard_id: ShardId,
        removed: &mut RemovedJob,
        deferred: &mut DeferredWakes,
    ) {
        if removed.list.is_resuming() {
            // The job has started, and ends without a slot.
            removed.job.ptr().set_slot_kind(SlotKind::Lent);
        } else {
            self.cancelling += 1;
        }
        deferred.wake(removed.waker.take());
        self.move_up(shard_id, removed.list, removed.quota, deferred);
    }

    // ----- counts -----

    /// Marks the pool idle in `deferred` if it is idle and a caller may wait for that (L11). Each
    /// entry point that may end the last job calls this step last.
    pub(super) fn check_idle(&mut self, deferred: &mut DeferredWakes) {
        if self.is_set(IDLE_WAITERS | CLOSED) && self.counts().is_idle() {
            self.clear(IDLE_WAITERS);
            deferred.idle = true;
        }
    }

    /// Returns whether the pool is idle. If not, sets `IDLE_WAITERS`, so that the end of the last
    /// job marks the pool idle.
    pub(super) fn watch_idle(&mut self) -> bool {
        // The flag goes first (L4): a job that ends after its shard was counted goes through the
        // state lock, and a job that ended before is counted.
        if !failpoint("idle waiters set no flag") {
            self.set(IDLE_WAITERS);
        }
        let idle = self.counts().is_idle();
        if idle {
            self.clear(IDLE_WAITERS);
        }
        idle
    }

    /// Takes a snapshot of all numbers, under all locks at once.
    pub(super) fn counts(&self) -> Counts {
        // Relaxed, without a partner: the counter is a sum of its own, on both sides of the law.
        let fast_refusals = self.limiter.fast_refusals.load(Relaxed);
        let mut jobs = self.counters;
        let shards: Vec<_> = self.limiter.shards.iter().map(|shard| shard.lock()).collect();
        shards.iter().for_each(|shard| jobs.add(&shard.counters));
        jobs.submitted += fast_refusals;
        jobs.refused += fast_refusals;
        let counts = Counts {
            size: self.size,
            queue_capacity: self.wait_list.queue_capacity(),
            queued: self.wait_list.queued_jobs(),
            waiting: self.wait_list.waiting() - self.slots_granted,
            granted: self.slots_granted,
            waiting_reservers: self.wait_list.waiting_reservers(),
            running: (jobs.started - jobs.ended) as usize - self.lent_jobs,
            lent: self.lent_jobs,
            overflow: (jobs.overflow_started - jobs.overflow_ended) as usize,
            in_caller: self.in_caller() + self.cancelling,
            reserved: (jobs.reserved - jobs.reservations_ended) as usize,
            held_slots: (jobs.held_slots - jobs.held_released) as usize,
            paused: self.paused,
            oldest_since: self.wait_list.oldest_since(),
            expected_wait: self.expected_wait(),
            jobs,
        };
        if cfg!(debug_assertions) {
            let free: usize = shards.iter().map(|shard| shard.free_slots).sum();
            let is_bound = |shard: &ShardGuard<'_>| shard.unused_slots <= shard.free_slots as isize;
            assert!(shards.iter().all(is_bound), "more unused slots than free ones");
            self.assert_slots(free, &counts);
        }
        counts
    }

    /// Checks L3, L4 and L5 in debug builds.
    fn assert_slots(&self, free: usize, counts: &Counts) {
        let taken = counts.running + counts.reserved + counts.held_slots + self.slots_granted;
        assert_eq!(free + taken + self.paused_slots, self.slots(), "L3: {counts:?}");
        assert!(free == 0 || !self.is_set(NO_SLOTS), "L4: {free} slots are free");
        assert!(self.wait_list.is_empty() || self.is_set(NO_SLOTS), "L5: {counts:?}");
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        let full = self.is_set(NO_SLOTS) && !self.wait_list.has_queue_room();
        let full = if full { FULL } else { 0 };
        let deadlines = if self.wait_list.has_deadlines() { DEADLINES } else { 0 };
        self.limiter.flags.derive(FULL | DEADLINES, full | deadlines);
    }
}

impl std::ops::Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}
