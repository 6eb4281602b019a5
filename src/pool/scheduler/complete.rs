//! What becomes of a job after a poll: kept as suspended until it is woken, or its end, accounted for and told.

use crate::error::JobPanic;
use crate::panic::catch_panic;
use crate::pool::job::{End, Runnable, SlotKind};
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::shard::{ShardGuard, ShardId};
use crate::pool::scheduler::idle::WorkerHandle;
use crate::pool::scheduler::shared::Shared;
use crate::pool::scheduler::worker::PollRecord;
use crate::trace::event;

impl Shared {
    /// Gives a job that returned `Pending` for the first time a suspended key in this shard.
    pub(crate) fn add_suspended(
        &self,
        shard_id: ShardId,
        shard: &mut ShardGuard<'_>,
        job: &Runnable,
    ) {
        if job.suspended_key().is_none() {
            let key = shard.suspended.insert(job.ptr());
            job.set_suspended_key(|| self.arc(), key * self.limiter.shards().len() + shard_id);
        }
        if self.limiter.is_cancelling() {
            job.ptr().request_abort();
        }
    }

    /// Where a suspended job sits: shard and key.
    fn suspended_at(&self, job: &Runnable) -> Option<(ShardId, usize)> {
        let shards = self.limiter.shards().len();
        job.suspended_key().map(|place| (place % shards, place / shards))
    }

    /// Accounts for an ended job as far as its shard can. `true` if the wait list must hear of it.
    pub(crate) fn release_in_shard(
        &self,
        shard_id: ShardId,
        shard: &mut ShardGuard<'_>,
        job: &Runnable,
        end: End,
    ) -> bool {
        let slot_kind = job.slot_kind();
        if let Some((home_shard, key)) = self.suspended_at(job) {
            if home_shard == shard_id {
                shard.suspended.remove(key);
            }
        }
        if job.keeps_slot() {
            shard.counters.end(end);
            shard.counters.ended += 1;
            shard.counters.held_slots += 1;
            return false;
        }
        // Written down together with the slot's return, be it here or at the wait list: an idle pool has
        // all its slots.
        if slot_kind != SlotKind::Plain || self.limiter.needs_slow_release() {
            return true;
        }
        shard.counters.end(end);
        shard.counters.ended += 1;
        shard.free_slots += 1;
        false
    }

    /// Writes down what became of a polled job, as far as its shard can.
    pub(crate) fn record_locked(
        &self,
        shard_id: ShardId,
        shard: &mut ShardGuard<'_>,
        mut record: PollRecord,
    ) -> PollRecord {
        match &mut record {
            PollRecord::Suspended(job) => self.add_suspended(shard_id, shard, job),
            PollRecord::Ended { job, end, release_slow } => {
                *release_slow = self.release_in_shard(shard_id, shard, job, *end)
            }
        }
        record
    }

    /// The rest of that, after the shard's lock was released. `true` if the job was put back into
    /// the shard.
    pub(crate) fn after_unlock(&self, shard_id: ShardId, record: PollRecord) -> bool {
        match record {
            PollRecord::Ended { job, end, release_slow } => {
                self.finish(shard_id, job, end, release_slow)
            }
            PollRecord::Suspended(job) => {
                if let Some(job) = job.suspend() {
                    // Whatever the push says: the worker comes back to the shard.
                    let _ = self.limiter.shard(shard_id).lock().push(job);
                    return true;
                }
            }
        }
        false
    }

    /// Accounts for jobs that completed detached. The slots of `unreleased` of them are still to be
    /// given back; returns how many of those are to be brought to the wait list.
    pub(crate) fn release_detached(
        &self,
        shard_id: ShardId,
        shard: &mut ShardGuard<'_>,
        jobs: &[Runnable],
        unreleased: usize,
    ) -> usize {
        let suspended = jobs.iter().filter_map(|job| self.suspended_at(job));
        for (_, key) in suspended.filter(|(home_shard, _)| *home_shard == shard_id) {
            shard.suspended.remove(key);
        }
        if self.limiter.needs_slow_release() {
            return unreleased;
        }
        shard.counters.completed += unreleased as u64;
        shard.counters.ended += unreleased as u64;
        shard.free_slots += unreleased;
        0
    }

    /// Takes detached jobs out of the suspended slabs of other shards, and lets go of them.
    pub(crate) fn drop_detached(&self, shard_id: ShardId, jobs: &mut Vec<Runnable>) {
        for job in jobs.drain(..) {
            self.remove_suspended_elsewhere(shard_id, &job);
        }
    }

    fn remove_suspended_elsewhere(&self, shard_id: ShardId, job: &Runnable) {
        if let Some((home_shard, key)) =
            self.suspended_at(job).filter(|(home_shard, _)| *home_shard != shard_id)
        {
            self.limiter.shard(home_shard).lock().suspended.remove(key);
        }
    }

    pub(crate) fn release_to_waiters(&self, shard_id: ShardId, slots: usize) {
        if slots > 0 {
            let mut deferred = DeferredWakes::default();
            for _ in 0..slots {
                self.limiter.release_slow(shard_id, SlotKind::Plain, End::Completed, &mut deferred);
            }
            self.run_deferred(shard_id, deferred);
        }
    }

    /// Gives the slots of detached jobs back for a worker that is held up.
    pub(crate) fn release_deferred_of(&self, handle: &WorkerHandle) {
        let shard_id = self.current_shard();
        let deferred_releases = handle.steal_deferred_releases();
        let mut shard = self.limiter.shard(shard_id).lock();
        let slots = self.release_detached(shard_id, &mut shard, &[], deferred_releases);
        drop(shard);
        self.release_to_waiters(shard_id, slots);
    }

    /// The rest of it, after the shard's lock was released.
    pub(crate) fn finish(&self, shard_id: ShardId, job: Runnable, end: End, slow: bool) {
        self.remove_suspended_elsewhere(shard_id, &job);
        let mut idle = false;
        if slow {
            let mut deferred = DeferredWakes::default();
            self.limiter.release_slow(shard_id, job.slot_kind(), end, &mut deferred);
            // Told last: then there is nothing left to be seen of the job.
            idle = std::mem::take(&mut deferred.idle);
            self.run_deferred(shard_id, deferred);
        }
        self.publish(job, end, idle);
    }

    /// Tells of the end of a job that is accounted for.
    fn publish(&self, job: Runnable, end: End, idle: bool) {
        if end == End::Panicked {
            job.with_panic(|panic| self.report_panic(panic));
        }
        job.publish();
        self.notify_idle(idle);
    }

    #[cold]
    pub(crate) fn report_panic(&self, panic: &JobPanic) {
        event!(ERROR, pool = &*self.config.name, message = panic.message(), "job panicked");
        if let Some(on_panic) = &self.config.on_panic {
            catch_panic(|| on_panic(panic));
        }
    }

    /// Ends a job that is in nobody else's hands.
    pub(crate) fn cancel(&self, shard_id: ShardId, job: Runnable) {
        let end = job.cancel();
        let mut shard = self.limiter.shard(shard_id).lock();
        let slow = self.release_in_shard(shard_id, &mut shard, &job, end);
        drop(shard);
        self.finish(shard_id, job, end, slow);
    }

    /// Cancels what is left, wherever it is; see [`Limiter::cancel_all`].
    pub(crate) fn cancel_all(&self, runtime_gone: bool) {
        let shard_id = self.current_shard();
        let mut deferred = DeferredWakes::default();
        let cancelled = self.limiter.cancel_all(shard_id, runtime_gone, &mut deferred);
        self.run_deferred(shard_id, deferred);
        for job in cancelled.waiting {
            self.end_withdrawn(shard_id, job);
        }
        for job in cancelled.admitted {
            if job.is_abort_deferred() && !runtime_gone {
                self.push_runnable(shard_id, job)
            } else {
                self.cancel(shard_id, job)
            }
        }
    }

    pub(crate) fn end_withdrawn(&self, shard_id: ShardId, job: Runnable) {
        let end = job.cancel();
        let mut deferred = DeferredWakes::default();
        self.limiter.end_withdrawn(end, &mut deferred);
        let idle = std::mem::take(&mut deferred.idle);
        self.run_deferred(shard_id, deferred);
        self.publish(job, end, idle);
    }
}
