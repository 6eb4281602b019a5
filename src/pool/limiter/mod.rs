//! The limiter: a counting semaphore with sharded slots, a wait list, quotas and counters.
//!
//! A pool of `size` has `size` slots, and a job needs a slot to run. This room alone counts slots,
//! places in the queue, waiters and parts of quotas. Its callers:
//!
//! * `pool::submit`, through `scheduler::shared`: [`admit`](Limiter::admit) and
//!   [`reserve`](Limiter::reserve), then [`poll_waiter`](Limiter::poll_waiter),
//!   [`submit_granted`](Limiter::submit_granted), [`take_granted`](Limiter::take_granted) or
//!   [`cancel_waiter`](Limiter::cancel_waiter) for a caller that waits.
//! * `scheduler::complete`: [`release_slow`](Limiter::release_slow) when a job ends,
//!   [`cancel_all`](Limiter::cancel_all) and [`end_withdrawn`](Limiter::end_withdrawn).
//! * `group`, through `scheduler::shared`: [`reject_group`](Limiter::reject_group).
//! * `pool::shutdown`, `scheduler::shared`, `scheduler::idle`: [`resize`](Limiter::resize),
//!   [`close`](Limiter::close), [`watch_idle`](Limiter::watch_idle), [`counts`](Limiter::counts).
//!
//! The room imports nothing from `scheduler`, `submit` or `group`.
//!
//! # Files
//! | file | content |
//! |---|---|
//! | `mod` | [`Limiter`] with its entry points |
//! | `flags` | the flag word, with its memory orderings |
//! | `shard` | [`Shard`]: free slots, run queue and suspended jobs of one thread |
//! | `state` | the state lock, and the steps under it |
//! | `wait_list` | lists, queue and quotas; the states of a waiter |
//! | `turns` | whose turn it is: priorities, and keys within a priority |
//! | `fair` | the turns of the keys of one priority |
//! | `waiters` | what a waiter does after it joined: looks, hands in its job, leaves |
//! | `expiry` | waiters whose deadline has passed |
//! | `overload` | when the pool is overloaded, and which callers are refused then |
//! | `lending` | waits inside the pool's own jobs: lent slots, and waits that could never end |
//! | `measured` | how long waiters waited; the jobs in their callers |
//! | `pause` | no slots for a while |
//! | `peaks` | the greatest numbers since the last look of each reader |
//! | `closing` | the end: what is refused, and what is taken out |
//! | `counts` | the counters, and the accounting law |
//! | `deferred_wakes` | wakers and jobs that are run after the locks |
//!
//! # Data and locks
//! * Each **shard lock** protects that shard's free slots, run queue, suspended jobs and counters.
//!   A submitter that finds a free slot in its own shard needs this lock alone. So does the end of
//!   a job while no flag asks for more. These are the fast paths.
//! * The **state lock** protects everything else: wait list, quotas, counts, and the right to write
//!   the flag word. Every other path takes the state lock first. These are the slow paths.
//! * The **flag word** tells the fast paths that they must not be taken: `NO_SLOTS`, `CLOSED`,
//!   `IDLE_WAITERS`, `CANCELLING`, `RUNTIME_GONE`, and the derived `FULL`.
//!
//! # The life of a slot
//! ```text
//!               admit, reserve
//!   ┌──────┐ ───────────────────▶ ┌───────────────────────────────────────┐
//!   │ free │                      │ taken: by a running job, reserved for │
//!   └──────┘        ┌───────────▶ │ a later job, or held after a job      │
//!      ▲            │             └───────────────────────────────────────┘
//!      │            │ the caller comes                │ release
//!      │        ┌─────────┐                           ▼
//!      │        │ granted │       1. A shrink is pending: the slot vanishes.
//!      │        └─────────┘ ◀──── 2. The head of the main list is a caller: granted to it.
//!      │                             The head is a job: the job starts with the slot.
//!      └───────────────────────── 3. No waiter stands in the main list: free.
//! ```
//!
//! A released slot goes to the first resuming job, else to the head of the main list. A job resumes
//! after it lent its slot (`lending`). The main list is first come, first served within a priority: the
//! jobs in the queue come first, then callers and committed jobs in one order. Where waiters have keys,
//! the keys take turns, and this order holds within each. No later submitter overtakes a waiter, because
//! no shard has a free slot while a waiter stands in the main list (L4, L5). A caller that is granted a
//! slot and then dropped releases the slot like an ended job, so the grant passes on to the next waiter.
//!
//! A shrink takes free slots at once. The rest are counted in `slots_to_remove`, and vanish as they
//! come back, before any waiter is served. A grow first cancels pending removals, then serves
//! waiters, then frees slots.
//!
//! A job of a quota needs a part of the quota before it may wait in the main list. Without a part,
//! its waiter stands in the quota's own list, and does not hold up the rest of the pool.
//!
//! # Why `NO_SLOTS` proves that no slot is free (L4)
//!
//! A submitter that finds its own shard empty takes the state lock. The submitter sets `NO_SLOTS`
//! first, and then looks through all shards under their locks. Consider any slot that comes back to
//! a shard meanwhile. The slot's releaser reads the flag under the lock of that shard:
//!
//! * If the releaser had the shard lock before the scan did, the scan sees the slot.
//! * If the releaser has the shard lock after the scan, the lock makes the flag visible to it. The
//!   releaser leaves the shard alone and brings the slot to the state lock.
//!
//! So an empty scan means that no slot is free, and none becomes free in a shard before `NO_SLOTS`
//! is cleared. Only the holder of the state lock clears the flag: when the scan finds a slot, or
//! when a slot comes back and the main list is empty. While the flag is set, a refusal costs one
//! load, and a waiter cannot miss a slot.
//!
//! The other flags use the same argument. Their setter stores the flag and then locks every shard:
//! to count (`IDLE_WAITERS`), to empty the shard (`CANCELLING`, `RUNTIME_GONE`), or for this
//! purpose alone (`CLOSED`). What a fast path did before that is seen by the setter. What comes
//! after sees the flag.
//!
//! # Invariants
//!
//! L1 and L2 hold always. The others hold whenever the locks of their data are free.
//!
//! * **L1, lock order.** The state lock comes before shard locks. A thread holds one shard lock at
//!   a time; only a snapshot under the state lock holds all of them. A group's lock comes last: a
//!   sink counts its job in while the job is admitted.
//! * **L2, no user code under a lock.** Wakers are cloned and dropped, and jobs are run, dropped
//!   and allocated, while no lock is held. [`DeferredWakes`] carries them out of the locks.
//! * **L3, slots.** Free slots + running + reserved + held + granted + paused =
//!   `size + slots_to_remove`. A job that lent its slot is not running: it is counted in `lent_jobs`.
//! * **L4, the flag.** While `NO_SLOTS` is set, no shard has a free slot.
//! * **L5, no overtaking.** While a waiter stands in the main list, or a job waits to resume,
//!   `NO_SLOTS` is set.
//! * **L6, order.** Slots go to resuming jobs, oldest first, then to the head of the main list: the oldest
//!   of the priority and the key whose turn it is (`turns`). A lent slot may pass by the head, and so may the
//!   newest caller under overload (`overload`). The first waiters of each priority, and no others, stand in
//!   the queue. New waiters join at the end of a list.
//! * **L7, waiters.** A caller's state changes under the state lock, along the arrows in
//!   `wait_list`. What a caller was granted is used by it or passed on when it is dropped.
//! * **L8, quotas.** At most `limit` parts of a quota are in use, and a waiter in the main list uses
//!   one. While a waiter stands in the quota's list, all parts are in use.
//! * **L9, accounting.** Every submitted job is in exactly one of the numbers that `counts` lists.
//! * **L10, waiting holders.** `holders` has exactly the jobs with a slot of this pool that are blocked
//!   or wait through a caller in state `Waiting`. A job whose slot a guard keeps is not blocked, but stands
//!   in `guarded`. While `holders` and `guarded` have all slots, no slot is granted and a waiter needs a
//!   slot, a blocked job lends; to a stranger only if no wait is unseen (`lending`). If no job can lend and
//!   none is guarded, one of their waits is refused.
//! * **L11, idle.** While `IDLE_WAITERS` is set, each end goes through the state lock. The end
//!   that leaves the pool idle marks its `DeferredWakes` idle.
//!
//! # Tests
//!
//! | invariant | held by |
//! |---|---|
//! | L1, L2 | `dropped_mid_wait::a_waker_may_call_back_when_it_is_dropped`, `panics_in_callbacks` |
//! | L3, L4, L5 | assertions at each snapshot in debug builds, so each test that reads a status; `resize`; loom: `a_returned_slot_is_found`, `a_reserved_slot_passes_on`, `a_held_slot_is_freed_once` |
//! | L6 | `full::the_queue_is_first_come_first_served`, `full::a_waiter_is_not_overtaken`, `priority`, `keys`; the tests in `wait_list` and `fair` |
//! | L7 | `dropped_mid_wait`, `closed`; the tests in `wait_list`; loom: `a_dropped_grant_passes_on`, `close_notifies_waiting_callers` |
//! | L8 | `quota` |
//! | L9 | `accounting_model`, `status` |
//! | L10 | `lending`, `lending_waits`, `nested`, `nested_shrinks`; loom: `a_lent_slot_comes_back`; the tests in `lending` |
//! | L11 | `lifecycle`, `closed`, `held_slots`, `pool_dropped` |
//!
//! Each loom model runs once more with a failpoint in this room switched on, and must then fail.

mod closing;
pub(crate) mod counts;
pub(crate) mod deferred_wakes;
mod expiry;
mod fair;
mod flags;
mod lending;
pub(crate) mod measured;
pub(crate) mod overload;
mod pause;
mod peaks;
pub(crate) mod shard;
mod state;
mod turns;
pub(crate) mod wait_list;
mod waiters;

use std::sync::Arc;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::error::SubmitErrorKind;
use crate::pool::context::{PoolId, current_of};
use crate::pool::job::{End, JobGroup, Runnable, SlotKind};
use crate::pool::limiter::counts::{Counts, ReleaseReason};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::flags::{CLOSED, Flags, IDLE_WAITERS, NO_SLOTS};
use crate::pool::limiter::measured::CallerKey;
use crate::pool::limiter::overload::TargetWait;
use crate::pool::limiter::shard::{Shard, ShardGuard, ShardId};
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::limiter::wait_list::{List, WaiterKey};
use crate::pool::options::Requirements;
use crate::pool::timings::{Clock, now};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Mutex, failpoint};

/// What happens to a job for which there is neither a slot nor room in the queue.
pub(crate) enum OnFull<'a> {
    Refuse,
    /// The caller keeps its job and waits in the wait list with this waker. Inside a job of the pool,
    /// the job waits in its place.
    Wait(&'a Waker),
    /// The job waits in the wait list without its caller.
    Commit,
    /// The caller runs the job itself.
    RunInCaller,
    /// The job runs beyond the size, unless `limit` jobs do so already.
    Overflow {
        limit: usize,
    },
}

/// What the limiter must know of a job on offer.
pub(crate) struct Offer<'a> {
    /// The group that the job belongs to.
    pub(crate) group: Option<&'a dyn JobGroup>,
    /// The name that stands with the job in [`Pool::jobs`](crate::Pool::jobs).
    pub(crate) label: Option<&'a Arc<str>>,
    /// What the job asks for.
    pub(crate) requirements: Requirements,
}

/// A job on offer. `submit::submission` implements it, so the limiter knows no job types.
pub(crate) trait PendingJob {
    /// Describes the job. Called before the job is handed over.
    fn offer(&self) -> Offer<'_>;

    /// Hands the job over, unless its group takes no more jobs. Called under the limiter's locks, so
    /// that no worker or abort can reach the job before it is counted. Takes no lock but the
    /// group's (L1). After an error, the job is still on offer.
    fn admit(&mut self, slot_kind: SlotKind) -> Result<Runnable, SubmitErrorKind>;

    /// Hands the job over to stand in the wait list under `waiter_key`. Called like `admit`.
    fn admit_waiting(
        &mut self,
        slot_kind: SlotKind,
        waiter_key: WaiterKey,
    ) -> Result<Runnable, SubmitErrorKind>;

    /// Counts the job in with its group, to run in its caller. Called like `admit`.
    fn admit_in_caller(&mut self) -> Result<(), SubmitErrorKind>;
}

/// What became of an offered job or a requested slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcquireOutcome {
    /// The job is in the shard's run queue of length `depth`, with a slot.
    Started {
        /// No worker would see the job, so the caller must wake one.
        needs_wake: bool,
        depth: usize,
    },
    /// As `Started`, but beyond the size.
    Overflow { needs_wake: bool, depth: usize },
    /// The job is in the queue, or is committed to the wait list.
    Enqueued,
    /// The caller waits under this key.
    Waiting(WaiterKey),
    /// The job waits in the wait list under this key, and its caller waits until the job starts.
    WaitingForStart(WaiterKey),
    /// The caller must run the job and then call [`Limiter::end_in_caller`] with this key.
    RunInCaller(CallerKey),
    /// A slot is reserved.
    Reserved,
    /// The job, or the caller without a job, gets nothing.
    Refused(SubmitErrorKind),
}

/// The semaphore of one pool. The head of this module describes its protocol.
pub(crate) struct Limiter {
    shards: Box<[CachePadded<Shard>]>,
    flags: Flags,
    /// Jobs that were refused without a lock. Each counts as submitted and as refused.
    fast_refusals: AtomicU64,
    /// How many jobs wait for their own pool; see [`may_be_stuck`](Limiter::may_be_stuck).
    blocked_jobs: AtomicUsize,
    pool: PoolId,
    state: Mutex<State>,
}

/// Puts a job with a slot in the run queue.
#[inline]
fn start(shard: &mut ShardGuard<'_>, job: Runnable) -> AcquireOutcome {
    let needs_wake = shard.push(job);
    AcquireOutcome::Started { needs_wake, depth: shard.run_queue.len() }
}

impl Limiter {
    pub(crate) fn new(
        pool: PoolId,
        shards: usize,
        size: usize,
        queue_capacity: usize,
        target_wait: TargetWait,
        clock: Clock,
    ) -> Self {
        let share = |shard: usize| size / shards + usize::from(shard < size % shards);
        Self {
            shards: (0..shards).map(|shard| CachePadded::new(Shard::new(share(shard)))).collect(),
            flags: Flags::new(),
            fast_refusals: AtomicU64::new(0),
            blocked_jobs: AtomicUsize::new(0),
            pool,
            state: Mutex::new(State::new(size, queue_capacity, target_wait, clock)),
        }
    }

    pub(crate) fn shards(&self) -> &[CachePadded<Shard>] {
        &self.shards
    }

    pub(crate) fn shard(&self, shard_id: ShardId) -> &Shard {
        &self.shards[shard_id]
    }

    fn lock_state(&self) -> StateGuard<'_> {
        StateGuard { limiter: self, state: self.state.lock() }
    }

    // ----- submits -----

    /// Offers a job. If the outcome is a refusal, `Waiting` or `RunInCaller`, the job stays on
    /// offer.
    #[inline]
    pub(crate) fn admit(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        // Without the lock the flags are a hint: the state lock decides for those that pass by.
        if quota.is_none() && !self.flags.is_set_in_lock(NO_SLOTS) {
            let mut shard = self.shards[shard_id].lock();
            if shard.free_slots > 0 && !self.flags.is_set_in_lock(CLOSED) {
                shard.counters.submitted += 1;
                let job = match pending.admit(SlotKind::Plain) {
                    Ok(job) => job,
                    Err(kind) => {
                        shard.counters.refused += 1;
                        return AcquireOutcome::Refused(kind);
                    }
                };
                shard.use_slot();
                shard.counters.started += 1;
                return start(&mut shard, job);
            }
        }
        self.admit_slow(shard_id, pending, quota, on_full)
    }

    /// Refuses a job without a lock if the pool is full, and counts the refusal. Returns whether
    /// the job was refused.
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        let full = self.flags.is_full();
        if full {
            // Relaxed, without a partner: `StateGuard::counts` only needs the sum.
            self.fast_refusals
                .fetch_add(u64::from(!failpoint("a refusal is not counted")), Relaxed);
        }
        full
    }

    #[cold]
    fn admit_slow(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
        on_full: OnFull<'_>,
    ) -> AcquireOutcome {
        let current = current_of(self.pool);
        let waits_itself = current.is_some_and(|job| !job.blocks);
        // Cloned before the lock and, if no wait takes it, dropped after the lock (L2).
        let mut waker = match on_full {
            OnFull::Wait(waker) if !waits_itself => Some(waker.clone()),
            _ => None,
        };
        // A job that will probably wait reads the clock before the lock, which others wait for.
        let may_wait = matches!(on_full, OnFull::Wait(_) | OnFull::Commit);
        let since = (may_wait && self.flags.is_set_in_lock(NO_SLOTS)).then(now);
        let since = || since.unwrap_or_else(now);
        let mut state = self.lock_state();
        state.counters.submitted += 1;
        if state.is_set(CLOSED) {
            return state.refuse(AcquireOutcome::Refused(self.closed_kind()));
        }
        let slot_kind = SlotKind::for_quota(quota);
        let list = state.wait_list.list_for(quota);
        if list == List::Main {
            if state.acquire_from_any_shard(shard_id) {
                let mut shard = self.shards[shard_id].lock();
                let job = match pending.admit(slot_kind) {
                    Ok(job) => job,
                    Err(kind) => {
                        drop(shard);
                        // A slot was free, so no waiter stands in the main list (L5).
                        state.add_free_slots(shard_id, 1);
                        return state.refuse(AcquireOutcome::Refused(kind));
                    }
                };
                state.acquire_quota(quota);
                state.counters.started += 1;
                return start(&mut shard, job);
            }
            if state.wait_list.has_queue_room() {
                let terms = (since(), current.is_some());
                return state.enqueue_job(list, pending, slot_kind, terms);
            }
        }
        match on_full {
            OnFull::Wait(_) if waits_itself => {
                state.enqueue_nested_job(list, pending, slot_kind, since())
            }
            OnFull::Wait(_) => {
                let offer = pending.offer();
                if let Some(kind) = state.shed_new(&offer.requirements) {
                    return state.refuse(AcquireOutcome::Refused(kind));
                }
                state.enter_line((offer.group, offer.label), |state| {
                    let terms = (&offer.requirements, since(), false);
                    state.enqueue_caller(list, quota, &mut waker, current, terms)
                })
            }
            OnFull::Commit => {
                state.enqueue_job(list, pending, slot_kind, (since(), current.is_some()))
            }
            OnFull::RunInCaller if !state.paused => match pending.admit_in_caller() {
                Ok(()) => {
                    let Offer { label, requirements, .. } = pending.offer();
                    let key = state.measured.start_in_caller(requirements, label.cloned());
                    state.note_peaks();
                    AcquireOutcome::RunInCaller(key)
                }
                Err(kind) => state.refuse(AcquireOutcome::Refused(kind)),
            },
            OnFull::Overflow { limit }
                if (state.overflow < limit || failpoint("overflow has no limit"))
                    && !state.paused =>
            {
                let mut shard = self.shards[shard_id].lock();
                let job = match pending.admit(SlotKind::Overflow) {
                    Ok(job) => job,
                    Err(kind) => {
                        drop(shard);
                        return state.refuse(AcquireOutcome::Refused(kind));
                    }
                };
                state.overflow += 1;
                state.counters.overflow_started += 1;
                state.note_peaks();
                let needs_wake = shard.push(job);
                AcquireOutcome::Overflow { needs_wake, depth: shard.run_queue.len() }
            }
            OnFull::Refuse => state.refuse(AcquireOutcome::Refused(list.full_kind())),
            OnFull::RunInCaller | OnFull::Overflow { .. } => {
                state.refuse(AcquireOutcome::Refused(SubmitErrorKind::Full))
            }
        }
    }

    // ----- slots without jobs -----

    /// Reserves a slot for a later job of the group. If none is free, the caller waits with `waker` on
    /// these requirements. Without one, the outcome is `Full`.
    #[inline]
    pub(crate) fn reserve(
        &self,
        shard_id: ShardId,
        group: Option<&dyn JobGroup>,
        waker: Option<&Waker>,
        requirements: Requirements,
    ) -> AcquireOutcome {
        let quota = group.and_then(JobGroup::quota);
        if quota.is_none() {
            if waker.is_none() && self.refuse_if_full() {
                return AcquireOutcome::Refused(SubmitErrorKind::Full);
            }
            let mut shard = self.shards[shard_id].lock();
            if shard.free_slots > 0 && !self.flags.is_set_in_lock(CLOSED) {
                shard.use_slot();
                shard.counters.submitted += 1;
                shard.counters.reserved += 1;
                return AcquireOutcome::Reserved;
            }
        }
        self.reserve_slow(shard_id, group, waker, requirements)
    }

    #[cold]
    fn reserve_slow(
        &self,
        shard_id: ShardId,
        group: Option<&dyn JobGroup>,
        waker: Option<&Waker>,
        requirements: Requirements,
    ) -> AcquireOutcome {
        let quota = group.and_then(JobGroup::quota);
        // Cloned before the lock and, if no wait takes it, dropped after the lock (L2).
        let mut waker = waker.cloned();
        let mut state = self.lock_state();
        state.counters.submitted += 1;
        if state.is_set(CLOSED) {
            return state.refuse(AcquireOutcome::Refused(self.closed_kind()));
        }
        let list = state.wait_list.list_for(quota);
        if list == List::Main && state.acquire_from_any_shard(shard_id) {
            state.acquire_quota(quota);
            state.counters.reserved += 1;
            return AcquireOutcome::Reserved;
        }
        match waker {
            Some(_) => match state.shed_new(&requirements) {
                Some(kind) => state.refuse(AcquireOutcome::Refused(kind)),
                None => state.enter_line((group, group.and_then(JobGroup::name)), |state| {
                    let (current, terms) = (current_of(self.pool), (&requirements, now(), true));
                    state.enqueue_caller(list, quota, &mut waker, current, terms)
                }),
            },
            None => state.refuse(AcquireOutcome::Refused(list.full_kind())),
        }
    }

    /// Starts a job in a reserved slot. If the pool or the group was closed meanwhile, the job stays
    /// on offer and the slot stays reserved.
    #[inline]
    pub(crate) fn submit_reserved(
        &self,
        shard_id: ShardId,
        pending: &mut impl PendingJob,
        quota: Option<usize>,
    ) -> AcquireOutcome {
        let mut shard = self.shards[shard_id].lock();
        if self.flags.is_set_in_lock(CLOSED) {
            return AcquireOutcome::Refused(self.closed_kind());
        }
        let job = match pending.admit(SlotKind::for_quota(quota)) {
            Ok(job) => job,
            Err(kind) => return AcquireOutcome::Refused(kind),
        };
        shard.counters.reservations_ended += 1;
        shard.counters.started += 1;
        start(&mut shard, job)
    }

    /// Releases a slot that is reserved, or held beyond the end of its job.
    pub(crate) fn release_slot(
        &self,
        shard_id: ShardId,
        quota: Option<usize>,
        reason: ReleaseReason,
        deferred: &mut DeferredWakes,
    ) {
        if quota.is_none() {
            let mut shard = self.shards[shard_id].lock();
            let fast = !self.needs_slow_release() || failpoint("release without recheck");
            // The last held slot of a closed pool leaves the pool idle, and the workers must hear
            // of that.
            if fast && (reason != ReleaseReason::Held || !self.is_closed()) {
                shard.counters.release(reason);
                shard.free_slots += 1;
                return;
            }
        }
        let mut state = self.lock_state();
        state.counters.release(reason);
        state.release(shard_id, quota, deferred);
        state.check_idle(deferred);
    }

    // ----- ends -----

    /// Counts the end of a job and passes its slot on. Called when the job's shard may not do so
    /// alone: the job has a quota or is in overflow, or
    /// [`needs_slow_release`](Self::needs_slow_release) holds.
    #[cold]
    pub(crate) fn release_slow(
        &self,
        shard_id: ShardId,
        slot_kind: SlotKind,
        end: End,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        state.counters.end(end);
        match slot_kind {
            SlotKind::Overflow => {
                state.overflow -= usize::from(!failpoint("an overflow job counts for ever"));
                state.counters.overflow_ended += 1;
            }
            SlotKind::Lent => {
                state.lent_jobs -= 1;
                state.counters.ended += 1;
            }
            SlotKind::Plain | SlotKind::Quota(_) => {
                state.counters.ended += 1;
                state.release(shard_id, slot_kind.quota(), deferred);
            }
        }
        state.check_idle(deferred);
    }

    /// Counts jobs that completed with plain slots, and passes their slots on.
    #[cold]
    pub(crate) fn release_completed(
        &self,
        shard_id: ShardId,
        slots: usize,
        deferred: &mut DeferredWakes,
    ) {
        let mut state = self.lock_state();
        state.counters.completed += slots as u64;
        state.counters.ended += slots as u64;
        for _ in 0..slots {
            state.release(shard_id, None, deferred);
        }
        state.check_idle(deferred);
    }

    /// Returns whether the end of a job must go through the state lock. Exact under a shard lock
    /// (L4), a hint otherwise.
    pub(crate) fn needs_slow_release(&self) -> bool {
        self.flags.is_set_in_lock(NO_SLOTS | IDLE_WAITERS)
    }

    // ----- settings and shutdown -----

    pub(crate) fn add_quota(&self, limit: usize) -> usize {
        self.state.lock().wait_list.add_quota(limit)
    }

    /// Removes a quota, at once or with the last slot that is in use under it.
    pub(crate) fn remove_quota(&self, key: usize) {
        self.state.lock().wait_list.remove_quota_when_unused(key);
    }

    /// Changes the number of slots, and returns the number before. Slots in use beyond the new
    /// number vanish when they come back.
    pub(crate) fn resize(
        &self,
        shard_id: ShardId,
        size: usize,
        deferred: &mut DeferredWakes,
    ) -> usize {
        let mut state = self.lock_state();
        let before = std::mem::replace(&mut state.size, size);
        if size < before {
            state.shrink(shard_id, before - size, deferred);
        } else {
            state.grow(shard_id, size - before, deferred);
        }
        before
    }

    // ----- counts -----

    /// Returns whether the pool is idle. If not, the end of the last job marks its
    /// [`DeferredWakes`] idle (L11).
    pub(crate) fn watch_idle(&self) -> bool {
        self.lock_state().watch_idle()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock_state().counts()
    }
}
