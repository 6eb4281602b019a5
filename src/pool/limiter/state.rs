//! The lock of the wait list, and what is decided under it.

use std::task::Waker;

use crate::pool::job::SlotKind;
use crate::pool::limiter::deadlock::waiting_job;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::wait_list::{CallerWaiter, List, Waiter, WaiterKey, WaiterState};
use crate::pool::limiter::{AcquireOutcome, FULL, NO_SLOTS, PendingJob, State};
use crate::sync::MutexGuard;
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::{Relaxed, Release};

/// The state of the wait list, locked. Keeps `FULL` true to it.
pub(crate) struct StateGuard<'a> {
    pub(crate) state: MutexGuard<'a, State>,
    pub(crate) flags: &'a AtomicUsize,
}

impl StateGuard<'_> {
    pub(crate) fn has(&self, flag: usize) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    pub(crate) fn set(&self, flag: usize) {
        self.flags.store(self.flags.load(Relaxed) | flag, Release);
    }

    pub(crate) fn clear(&self, flag: usize) {
        self.flags.store(self.flags.load(Relaxed) & !flag, Release);
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        let full = self.has(NO_SLOTS) && !self.state.wait_list.has_queue_room();
        if full != self.has(FULL) {
            if full { self.set(FULL) } else { self.clear(FULL) }
        }
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

impl State {
    /// Whether a quota, if there is one, has a part left.
    pub(crate) fn has_quota_left(&self, quota: Option<usize>) -> bool {
        quota.is_none_or(|quota| {
            let quota = &self.wait_list.quotas[quota];
            quota.in_use < quota.limit
        })
    }

    pub(crate) fn acquire_quota(&mut self, quota: Option<usize>) {
        if let Some(quota) = quota {
            self.wait_list.quotas[quota].in_use += 1;
        }
    }

    /// Puts the job itself in the wait list.
    pub(crate) fn enqueue_job(
        &mut self,
        list: List,
        pending: &mut impl PendingJob,
        slot_kind: SlotKind,
    ) {
        let waiter_key = self.wait_list.next_key();
        let job = pending.admit_waiting(slot_kind, waiter_key);
        self.wait_list.push(list, slot_kind.quota(), Waiter::Job(job, None));
        // Callers before it have their places already: this may admit the job itself.
        let _ = self.wait_list.admit_next();
    }

    /// Puts a caller in the wait list, unless that would deadlock. A reserver has no job to
    /// leave in the queue.
    pub(crate) fn enqueue_caller(
        &mut self,
        list: List,
        quota: Option<usize>,
        in_quota: bool,
        waker: &mut Option<Waker>,
        pool: usize,
        is_reserver: bool,
    ) -> AcquireOutcome {
        let waiting_job = waiting_job(pool);
        if waiting_job.is_some_and(|waiting_job| self.would_deadlock(list, waiting_job)) {
            self.counters.refused += 1;
            return AcquireOutcome::Deadlock;
        }
        if in_quota {
            self.acquire_quota(quota);
        }
        self.add_waiting_holder(waiting_job);
        let caller = CallerWaiter {
            waker: waker.take(),
            waiting_job,
            state: WaiterState::Waiting,
            is_reserver,
        };
        let waiter_key = self.wait_list.push(list, quota, Waiter::Caller(caller));
        if is_reserver {
            // It stands in the queue if there is a place: nobody may overtake it there.
            let _ = self.wait_list.admit_next();
        }
        AcquireOutcome::Waiting(waiter_key)
    }

    /// Fills the places in the queue.
    pub(crate) fn fill_queue(&mut self, deferred: &mut DeferredWakes) {
        while let Some(waiter) = self.wait_list.admit_next() {
            let Waiter::Caller(caller) = waiter else { continue };
            if caller.is_reserver {
                continue;
            }
            caller.state = WaiterState::QueueGranted;
            let waiting_job = caller.waiting_job;
            caller.waker.take().into_iter().for_each(|waker| deferred.wake(waker));
            // It can hand its job in now, and go on.
            self.remove_waiting_holder(waiting_job);
        }
    }

    /// Gives a slot to somebody who has just been taken out of its list.
    pub(crate) fn grant(&mut self, waiter_key: WaiterKey, deferred: &mut DeferredWakes) {
        match &mut self.wait_list.node(waiter_key).waiter {
            Waiter::Job(..) => {
                self.counters.started += 1;
                if let Waiter::Job(job, waker) = self.wait_list.remove_node(waiter_key).waiter {
                    deferred.start(job);
                    waker.into_iter().for_each(|waker| deferred.wake(waker));
                }
            }
            Waiter::Caller(_) => {
                self.slots_granted += 1;
                self.notify_waiter(waiter_key, WaiterState::SlotGranted, deferred);
            }
        }
    }

    pub(crate) fn unlink_and_notify(
        &mut self,
        waiter_key: WaiterKey,
        waiter_state: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        self.wait_list.unlink(waiter_key);
        self.notify_waiter(waiter_key, waiter_state, deferred);
    }

    pub(crate) fn notify_waiter(
        &mut self,
        waiter_key: WaiterKey,
        waiter_state: WaiterState,
        deferred: &mut DeferredWakes,
    ) {
        let caller = self.wait_list.caller(waiter_key);
        let before = std::mem::replace(&mut caller.state, waiter_state);
        let waiting_job = caller.waiting_job;
        caller.waker.take().into_iter().for_each(|waker| deferred.wake(waker));
        if before == WaiterState::Waiting {
            self.remove_waiting_holder(waiting_job);
        }
    }
}
