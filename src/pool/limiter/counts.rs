//! Counting everything, at one moment.

use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::StateGuard;
use crate::pool::limiter::{CLOSED, IDLE_WAITERS, Limiter};
use crate::pool::scheduler::shard::Counters;
use crate::sync::atomic::Ordering::Relaxed;

/// Everything there is to count, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) size: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) queued: usize,
    pub(crate) waiting: usize,
    pub(crate) waiting_reservers: usize,
    pub(crate) running: usize,
    pub(crate) overflow: usize,
    pub(crate) in_caller: usize,
    pub(crate) reserved: usize,
    pub(crate) held_slots: usize,
    pub(crate) jobs: Counters,
}

impl Counts {
    pub(crate) fn is_idle(&self) -> bool {
        // Those who come for a slot alone may never look again: nobody waits for them.
        let waiting = self.waiting - self.waiting_reservers;
        self.queued + waiting + self.running + self.overflow + self.in_caller + self.held_slots == 0
    }
}

impl Limiter {
    /// Whether nothing is left; if something is, whoever ends it will say so through `deferred`.
    pub(crate) fn watch_idle(&self) -> bool {
        let state = self.lock_state();
        state.set(IDLE_WAITERS);
        // A job that ends from here on sees the flag under its shard's lock, and one that ended
        // before is counted.
        let idle = self.count(&state).is_idle();
        if idle {
            state.clear(IDLE_WAITERS);
        }
        idle
    }

    pub(crate) fn check_idle(&self, state: &mut StateGuard<'_>, deferred: &mut DeferredWakes) {
        if state.has(IDLE_WAITERS | CLOSED) && self.count(state).is_idle() {
            state.clear(IDLE_WAITERS);
            deferred.idle = true;
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.count(&self.lock_state())
    }

    fn count(&self, state: &StateGuard<'_>) -> Counts {
        let fast_refusals = self.fast_refusals.load(Relaxed);
        let mut jobs = state.counters;
        // All at once: a job may end in one shard while the next is being read.
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        shards.iter().for_each(|shard| jobs.add(&shard.counters));
        jobs.submitted += fast_refusals;
        jobs.refused += fast_refusals;
        Counts {
            size: state.size,
            queue_capacity: state.queue_capacity,
            queued: state.wait_list.queued(),
            waiting: state.wait_list.waiting(),
            waiting_reservers: state.wait_list.waiting_reservers(),
            running: (jobs.started - jobs.ended) as usize,
            overflow: (jobs.overflow_started - jobs.overflow_ended) as usize,
            in_caller: state.in_caller + state.cancelling,
            reserved: (jobs.reserved - jobs.reservations_ended) as usize,
            held_slots: (jobs.held_slots - jobs.held_released) as usize,
            jobs,
        }
    }
}
