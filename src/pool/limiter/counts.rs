//! Counting everything, at one moment.

use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::state::Desk;
use crate::pool::limiter::{Admission, CLOSED, WATCHED};
use crate::pool::scheduler::shard::Tally;
use crate::sync::atomic::Ordering::Relaxed;

/// Everything there is to count, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Census {
    pub(crate) size: usize,
    pub(crate) places: usize,
    pub(crate) queued: usize,
    pub(crate) waiting: usize,
    pub(crate) reserving: usize,
    pub(crate) running: usize,
    pub(crate) overflow: usize,
    pub(crate) inline: usize,
    pub(crate) reserved: usize,
    pub(crate) held: usize,
    pub(crate) jobs: Tally,
}

impl Census {
    pub(crate) fn is_idle(&self) -> bool {
        // Those who come for a slot alone may never look again: nobody waits for them.
        let waiting = self.waiting - self.reserving;
        self.queued + waiting + self.running + self.overflow + self.inline + self.held == 0
    }
}

impl Admission {
    /// Whether nothing is left; if something is, whoever ends it will say so through `deferred`.
    pub(crate) fn watch_idle(&self) -> bool {
        let state = self.desk();
        state.set(WATCHED);
        // A job that ends from here on sees the flag under its shard's lock, and one that ended
        // before is counted.
        let idle = self.count(&state).is_idle();
        if idle {
            state.clear(WATCHED);
        }
        idle
    }

    pub(crate) fn look_for_idle(&self, state: &mut Desk<'_>, deferred: &mut DeferredWakes) {
        if state.has(WATCHED | CLOSED) && self.count(state).is_idle() {
            state.clear(WATCHED);
            deferred.idle = true;
        }
    }

    pub(crate) fn census(&self) -> Census {
        self.count(&self.desk())
    }

    fn count(&self, state: &Desk<'_>) -> Census {
        let turned_away = self.turned_away.load(Relaxed);
        let mut jobs = state.tally;
        // All at once: a job may end in one shard while the next is being read.
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        shards.iter().for_each(|shard| jobs.add(&shard.tally));
        jobs.submitted += turned_away;
        jobs.refused += turned_away;
        Census {
            size: state.size,
            places: state.places,
            queued: state.line.queued(),
            waiting: state.line.waiting(),
            reserving: state.line.reserving(),
            running: (jobs.started - jobs.ended) as usize,
            overflow: (jobs.overflow_started - jobs.overflow_ended) as usize,
            inline: state.inline + state.ending,
            reserved: (jobs.reserved - jobs.redeemed) as usize,
            held: (jobs.held - jobs.let_go) as usize,
            jobs,
        }
    }
}
