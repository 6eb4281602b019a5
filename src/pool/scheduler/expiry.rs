//! The task that tells waiters that their deadline has passed.
//!
//! A pool has at most one such task, and only while waiters with deadlines stand in the wait list. It sleeps
//! until the first of these deadlines, then takes the expired waiters out and ends them.
//!
//! [`Expiry`] says until when the task sleeps, `None` without a task. Its lock comes before the limiter's.
//! A submit that finds an earlier deadline in the wait list wakes the task or spawns it; the task ends under
//! the lock, after it found no deadline. So no deadline is missed.
//!
//! A runtime that shuts down drops the task, a dead one at its spawn. There may be no worker that tells of
//! the end, so the task does: the pool moves to the next runtime, with a new task there, or is closed.

use std::sync::{Arc, Weak};

use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::pool::job::WithdrawReason;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::scheduler::complete::end_withdrawn;
use crate::pool::scheduler::shared::Shared;
use crate::sync::{Mutex, failpoint};

/// When the task looks next, and how to wake it before.
pub(super) struct Expiry {
    sleeps_until: Mutex<Option<Instant>>,
    earlier: Arc<Notify>,
}

impl Expiry {
    pub(super) fn new() -> Self {
        Self { sleeps_until: Mutex::new(None), earlier: Arc::new(Notify::new()) }
    }
}

/// Makes sure that a task looks at the first deadline in the wait list. Called after a waiter joined.
pub(super) fn watch(shared: &Shared) {
    // Models have no time.
    if cfg!(millpond_loom) {
        return;
    }
    let Some(first) = shared.limiter.first_deadline() else { return };
    let mut sleeps_until = shared.expiry.sleeps_until.lock();
    let is_watched = match *sleeps_until {
        Some(at) if at <= first => return,
        Some(_) if failpoint("an earlier deadline wakes nothing") => return,
        before => before.is_some(),
    };
    *sleeps_until = Some(first);
    if is_watched {
        return shared.expiry.earlier.notify_one();
    }
    // A dead runtime drops the task at once, and the drop takes the lock.
    drop(sleeps_until);
    let runtime = shared.runtime();
    let task = Watch { shared: shared.weak(), runtime: runtime.id(), ended: false };
    drop(runtime.spawn(task.run(shared.expiry.earlier.clone())));
}

struct Watch {
    shared: Weak<Shared>,
    runtime: runtime::Id,
    ended: bool,
}

impl Watch {
    async fn run(mut self, earlier: Arc<Notify>) {
        while let Some(next) = self.look() {
            let _ = timeout_at(next, earlier.notified()).await;
        }
    }

    /// Ends what has expired. Returns when to look again, or `None` if the task is to end.
    fn look(&mut self) -> Option<Instant> {
        let shared = self.shared.upgrade()?;
        let shard_id = shared.current_shard();
        let mut deferred = DeferredWakes::default();
        let expired = shared.limiter.expire(shard_id, Instant::now(), &mut deferred);
        let idle = std::mem::take(&mut deferred.idle);
        shared.run_deferred(shard_id, deferred);
        for job in expired {
            end_withdrawn(&shared, shard_id, job, WithdrawReason::Abort);
        }
        shared.notify_idle(idle);
        let mut sleeps_until = shared.expiry.sleeps_until.lock();
        *sleeps_until = shared.limiter.first_deadline();
        self.ended = sleeps_until.is_none();
        *sleeps_until
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade().filter(|_| !self.ended) else { return };
        *shared.expiry.sleeps_until.lock() = None;
        if failpoint("the watch of deadlines tells of no end") {
            return;
        }
        shared.look_at_runtime();
        // A dead runtime would drop the next task as well.
        if shared.runtime().id() != self.runtime {
            watch(&shared);
        }
    }
}
