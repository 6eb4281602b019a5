//! What follows a poll: a job is kept as suspended, or its end is recorded, its slot released and
//! its output published.
//!
//! The callers: `worker` after each batch of polls, `wake` for the slots of a stalled worker,
//! `shared` for jobs that are withdrawn, `shutdown` and the drop of a worker for all that is left.
//!
//! Each step has two halves, because a worker takes one shard lock for the ends of its last batch
//! and for the jobs of its next batch:
//!
//! 1. **Under the shard lock**: [`Completions::record`], [`release_in_shard`]. The end is counted
//!    and the slot becomes free in the same critical section, so an idle pool has all its slots. If a
//!    flag of the limiter asks for it (`needs_slow_release`), nothing is counted here.
//! 2. **Without a lock**: [`Completions::finish`], [`finish`]. An end that was not counted goes
//!    through the limiter's state lock, which hands the slot to the first waiter. The output is
//!    published last, so a handle that resolves finds the slot released (W6).
//!
//! What must never happen: a job is dropped, an output is published or a waker is called under a
//! lock, or a slot is released before the job's destructor has run.

use std::sync::Arc;

use crate::pool::job::{End, Runnable, SlotKind, WithdrawReason};
use crate::pool::limiter::counts::LeaveReason;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::shard::{ShardGuard, ShardId, Since, Suspended};
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::worker_handle::{LOCAL_QUEUE_LEN, WorkerHandle};
use crate::pool::timings::{Clock, Moment};
use crate::sync::{failpoint, without};

/// What one poll left to be recorded under the next shard lock.
enum PollRecord {
    /// The job returned `Pending` for the first time.
    Suspended(Runnable, Since),
    Ended {
        job: Runnable,
        end: End,
        /// The end must go through the limiter's state lock. Known after the first half.
        release_slow: bool,
    },
}

/// What the polls of one batch left to be recorded. Owned by the worker.
pub(super) struct Completions {
    /// What the last poll left.
    record: Option<PollRecord>,
    /// When the job in `record` ended, if it was suspended before and its run is measured.
    ended: Option<Moment>,
    /// Those of the jobs with deferred releases that were suspended before: they are to leave `suspended`
    /// of their shards.
    suspended: Vec<Runnable>,
    /// The measured runs of jobs that ended in their first polls: nanoseconds and weights.
    runs: Vec<(u64, u32)>,
    /// How many slots of jobs that completed detached are to be released. Nothing observes their ends, so
    /// all of them wait for the batch's one shard lock.
    unreleased: usize,
}

impl Completions {
    pub(super) fn new() -> Self {
        let suspended = Vec::with_capacity(LOCAL_QUEUE_LEN);
        let runs = Vec::new();
        Self { record: None, ended: None, suspended, runs, unreleased: 0 }
    }

    /// Takes a job that completed. Returns whether the worker may go on with its batch: nothing
    /// observes the job's end, the job holds a plain slot, and the end is not measured.
    #[inline]
    pub(super) fn end(
        &mut self,
        handle: &WorkerHandle,
        job: Runnable,
        end: End,
        clock: &Clock,
    ) -> bool {
        let is_simple = end == End::Completed && job.has_simple_end() && job.is_detached();
        if is_simple && !without("deferred releases") {
            if job.suspended_key().is_some() {
                self.suspended.push(job);
            } else {
                drop(job);
            }
            handle.defer_release();
            return true;
        }
        if job.is_measured() {
            self.ended = end_of(&job, clock);
        }
        self.record = Some(PollRecord::Ended { job, end, release_slow: false });
        false
    }

    /// Takes a job that returned `Pending` for the first time.
    #[inline]
    pub(super) fn suspend(&mut self, job: Runnable, since: Since) {
        self.record = Some(PollRecord::Suspended(job, since));
    }

    /// Takes the measured run of a job that ended in its first poll: nanoseconds and weight.
    #[cold]
    pub(super) fn note_run(&mut self, run: (u64, u32), end: End) {
        // A job that was cancelled or late before its first poll has not run.
        if matches!(end, End::Completed | End::Panicked) {
            self.runs.push(run);
        }
    }

    #[cold]
    fn record_runs(&mut self, shard: &mut ShardGuard<'_>) {
        for (nanos, weight) in self.runs.drain(..) {
            shard.runs.record_nanos(nanos, u64::from(weight));
        }
    }

    /// Takes the deferred releases back from the handle. Called before the shard is locked.
    #[inline]
    pub(super) fn take_releases(&mut self, handle: &WorkerHandle) {
        self.unreleased = handle.take_deferred_releases();
    }

    /// Records the batch as far as the shard can. The first half of [`finish`](Self::finish).
    // Inlined: as a call it costs a tiny job some 5 % more instructions.
    #[inline(always)]
    pub(super) fn record(
        &mut self,
        shared: &Arc<Shared>,
        shard_id: ShardId,
        shard: &mut ShardGuard<'_>,
    ) {
        if !self.suspended.is_empty() {
            for job in &self.suspended {
                remove_suspended_here(shared, shard_id, shard, job, None);
            }
        }
        if !self.runs.is_empty() {
            self.record_runs(shard);
        }
        if self.unreleased > 0 && release_plain(shared, shard, self.unreleased) {
            self.unreleased = 0;
        }
        match &mut self.record {
            Some(PollRecord::Suspended(job, since)) => {
                add_suspended(shared, shard_id, shard, job, *since);
            }
            Some(PollRecord::Ended { job, end, release_slow }) => {
                *release_slow = release_in_shard(shared, shard_id, shard, job, *end, self.ended);
            }
            None => {}
        }
    }

    /// Drops the detached jobs that were suspended, after they have left `suspended` of all shards.
    #[inline(always)]
    fn drop_suspended(&mut self, shared: &Shared, shard_id: ShardId) {
        for job in self.suspended.drain(..) {
            remove_suspended_elsewhere(shared, shard_id, &job, None);
        }
    }

    /// Whether a slot goes through the limiter's state lock, and so perhaps to a waiter. Called between
    /// [`record`](Self::record) and [`finish`](Self::finish).
    #[inline]
    pub(super) fn passes_slots_on(&self) -> bool {
        self.unreleased > 0
            || matches!(self.record, Some(PollRecord::Ended { release_slow: true, .. }))
    }

    /// Completes what `record` began, after the shard lock is released. Returns whether jobs went to
    /// the shard's run queue: one that was woken before it was suspended, or waiters that started.
    // Inlined: as a call it costs a tiny job some 5 % more instructions.
    #[inline(always)]
    pub(super) fn finish(&mut self, shared: &Shared, shard_id: ShardId, comes_back: bool) -> bool {
        if !self.suspended.is_empty() {
            self.drop_suspended(shared, shard_id);
        }
        let started = self.unreleased > 0 && {
            let unreleased = std::mem::take(&mut self.unreleased);
            !failpoint("slots of detached jobs are lost")
                && release_to_waiters(shared, shard_id, unreleased, comes_back)
        };
        let pushed = match self.record.take() {
            Some(PollRecord::Ended { job, end, release_slow }) => {
                let ended = self.ended.take();
                finish(shared, shard_id, job, (end, ended), release_slow, comes_back)
            }
            Some(PollRecord::Suspended(job, _)) => {
                let woken = job.suspend().and_then(|job| shared.unblock(job));
                woken.is_some_and(|job| {
                    // The result of the push does not matter: this worker comes back to the shard.
                    let _ = shared.limiter.shard(shard_id).lock().push(job);
                    true
                })
            }
            None => false,
        };
        started || pushed
    }
}

/// Reads the clock at the end of a job whose run is measured and that was suspended.
#[inline]
fn end_of(job: &Runnable, clock: &Clock) -> Option<Moment> {
    job.is_measured().then(|| clock.now())
}

/// Gives a job that returned `Pending` for the first time a suspended key in this shard (W9).
#[inline]
fn add_suspended(
    shared: &Arc<Shared>,
    shard_id: ShardId,
    shard: &mut ShardGuard<'_>,
    job: &Runnable,
    since: Since,
) {
    debug_assert!(job.suspended_key().is_none());
    let key = shard.suspended.insert(Suspended::new(job.ptr(), since));
    let suspended_key = key * shared.limiter.shards().len() + shard_id;
    job.set_suspended_key(|| shared.clone(), suspended_key, since.at());
    // `cancel_all` sets the flag before it locks this shard. It finds the job in `suspended`, or
    // this check finds the flag.
    if shared.limiter.is_cancelling() {
        job.ptr().request_abort();
    }
}

/// Returns the shard and the key under which a job stands in `suspended`.
#[inline]
fn suspended_at(shared: &Shared, job: &Runnable) -> Option<(ShardId, usize)> {
    let shards = shared.limiter.shards().len();
    job.suspended_key().map(|key| (key % shards, key / shards))
}

#[inline]
fn remove_suspended_here(
    shared: &Shared,
    shard_id: ShardId,
    shard: &mut ShardGuard<'_>,
    job: &Runnable,
    ended: Option<Moment>,
) {
    if let Some((_, key)) =
        suspended_at(shared, job).filter(|(home_shard, _)| *home_shard == shard_id)
    {
        shard.remove_suspended(key, ended);
    }
}

#[inline(always)]
fn remove_suspended_elsewhere(
    shared: &Shared,
    shard_id: ShardId,
    job: &Runnable,
    ended: Option<Moment>,
) {
    if let Some((home_shard, key)) =
        suspended_at(shared, job).filter(|(home_shard, _)| *home_shard != shard_id)
    {
        shared.limiter.shard(home_shard).lock().remove_suspended(key, ended);
    }
}

/// Records the end of a job as far as its shard can. Returns whether the end must go through the
/// limiter's state lock.
#[inline]
fn release_in_shard(
    shared: &Shared,
    shard_id: ShardId,
    shard: &mut ShardGuard<'_>,
    job: &Runnable,
    end: End,
    ended: Option<Moment>,
) -> bool {
    remove_suspended_here(shared, shard_id, shard, job, ended);
    if job.keeps_slot() {
        shard.counters.end(end);
        shard.counters.ended += 1;
        shard.counters.held_slots += 1;
        return false;
    }
    if job.slot_kind() != SlotKind::Plain || shared.limiter.needs_slow_release() {
        return true;
    }
    shard.counters.end(end);
    shard.counters.ended += 1;
    shard.free_slots += 1;
    false
}

/// Counts jobs that completed with plain slots and frees the slots. Returns `false` if the slots
/// must go through the limiter's state lock instead.
#[inline]
fn release_plain(shared: &Shared, shard: &mut ShardGuard<'_>, slots: usize) -> bool {
    if shared.limiter.needs_slow_release() {
        return false;
    }
    shard.counters.completed += slots as u64;
    shard.counters.ended += slots as u64;
    shard.free_slots += slots;
    true
}

/// Brings the slots of jobs that completed to the first waiters. Returns whether one has started.
fn release_to_waiters(shared: &Shared, shard_id: ShardId, slots: usize, comes_back: bool) -> bool {
    let mut deferred = DeferredWakes::default();
    shared.limiter.release_completed(shard_id, slots, &mut deferred);
    shared.run_deferred_for(shard_id, deferred, comes_back)
}

/// Releases the deferred slots of a stalled worker (W5). Called by the stall monitor.
pub(super) fn release_deferred_of(shared: &Shared, handle: &WorkerHandle) {
    let shard_id = shared.current_shard();
    let slots = handle.steal_deferred_releases();
    let released = release_plain(shared, &mut shared.limiter.shard(shard_id).lock(), slots);
    if !released && slots > 0 {
        release_to_waiters(shared, shard_id, slots, false);
    }
}

/// Completes the end of a job that [`release_in_shard`] has seen: the second half. Returns whether a
/// waiter has started.
// Inlined, with its steps: as calls they cost a job with a handle some 5 % more instructions.
#[inline(always)]
fn finish(
    shared: &Shared,
    shard_id: ShardId,
    job: Runnable,
    (end, ended): (End, Option<Moment>),
    release_slow: bool,
    comes_back: bool,
) -> bool {
    remove_suspended_elsewhere(shared, shard_id, &job, ended);
    let (mut idle, mut started) = (false, false);
    if release_slow {
        (idle, started) = release_slowly(shared, shard_id, &job, end, comes_back);
    }
    publish(shared, job, end, idle);
    started
}

/// Brings an end to the limiter's state lock. Returns whether the pool is idle, and whether a waiter has
/// started.
fn release_slowly(
    shared: &Shared,
    shard_id: ShardId,
    job: &Runnable,
    end: End,
    comes_back: bool,
) -> (bool, bool) {
    let mut deferred = DeferredWakes::default();
    shared.limiter.release_slow(shard_id, job.slot_kind(), end, &mut deferred);
    let idle = std::mem::take(&mut deferred.idle);
    (idle, shared.run_deferred_for(shard_id, deferred, comes_back))
}

/// Reports a panic, publishes the output, and then notifies idle waiters: they must not see a job
/// that is still ending.
#[inline(always)]
fn publish(shared: &Shared, job: Runnable, end: End, idle: bool) {
    if end == End::Panicked {
        report_panic(shared, &job);
    }
    job.publish();
    if !failpoint("the last end is not announced") {
        shared.notify_idle(idle);
    }
}

#[cold]
fn report_panic(shared: &Shared, job: &Runnable) {
    if !failpoint("a panic is not reported") {
        job.with_panic(|panic, place| shared.report_panic(panic, place));
    }
}

/// Cancels an admitted job that the caller alone has.
pub(super) fn cancel(shared: &Shared, shard_id: ShardId, job: Runnable) {
    if job.is_blocked() {
        job.set_blocked(false);
        shared.limiter.unblock_to_cancel(&job);
    }
    let end = job.cancel();
    let ended = end_of(&job, &shared.clock);
    let mut shard = shared.limiter.shard(shard_id).lock();
    let release_slow = release_in_shard(shared, shard_id, &mut shard, &job, end, ended);
    drop(shard);
    finish(shared, shard_id, job, (end, ended), release_slow, false);
}

/// Ends a job that was taken out of the wait list.
pub(super) fn end_withdrawn(
    shared: &Shared,
    shard_id: ShardId,
    job: Runnable,
    reason: WithdrawReason,
) {
    let end = match reason {
        WithdrawReason::Abort | WithdrawReason::AbortWaiting => Ok(job.cancel()),
        WithdrawReason::SubmitterDropped => Err(LeaveReason::Dropped),
        WithdrawReason::TimedOut => Err(LeaveReason::TimedOut),
    };
    let mut deferred = DeferredWakes::default();
    shared.limiter.end_withdrawn(end, &mut deferred);
    let idle = std::mem::take(&mut deferred.idle);
    shared.run_deferred(shard_id, deferred);
    match end {
        Ok(end) => publish(shared, job, end, idle),
        Err(reason) => {
            match reason {
                LeaveReason::Dropped => job.discard(),
                LeaveReason::TimedOut => {
                    job.mark_given_back();
                    job.give_back();
                }
            }
            shared.notify_idle(idle);
        }
    }
}

/// Closes the pool and cancels all jobs within reach; see [`Limiter::cancel_all`]. A job that is
/// being polled is cancelled at the end of that poll.
///
/// A job that defers its abort goes back into a run queue, unless the runtime is gone: the job is
/// cancelled when its last deferral ends.
///
/// [`Limiter::cancel_all`]: crate::pool::limiter::Limiter::cancel_all
pub(in crate::pool) fn cancel_all(shared: &Shared, runtime_gone: bool) {
    let shard_id = shared.current_shard();
    let mut deferred = DeferredWakes::default();
    let cancelled = shared.limiter.cancel_all(shard_id, runtime_gone, &mut deferred);
    shared.run_deferred(shard_id, deferred);
    for job in cancelled.waiting {
        end_withdrawn(shared, shard_id, job, WithdrawReason::Abort);
    }
    for job in cancelled.admitted {
        if job.is_abort_deferred() && !runtime_gone && !failpoint("a shutdown cuts closures off") {
            shared.push_runnable(shard_id, job)
        } else {
            cancel(shared, shard_id, job)
        }
    }
}
