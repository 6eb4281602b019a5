//! The end of a pool: close, wait, cancel what is left.

use std::time::Duration;

use crate::pool::scheduler::shared::Shared;
use crate::trace::event;

/// What became of the jobs a pool had when it was shut down; from
/// [`Pool::shutdown`](crate::Pool::shutdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Jobs that returned a value since the shutdown began.
    pub completed: u64,
    /// Jobs that panicked since then.
    pub panicked: u64,
    /// Jobs that were cancelled, most of them at the deadline.
    pub cancelled: u64,
    /// Jobs that could not be cancelled: still being polled, or blocking closures that have not
    /// returned. They keep their slots until they do. And slots that are held beyond their jobs.
    pub still_running: usize,
}

impl ShutdownReport {
    /// Whether every job ended by itself.
    pub fn is_clean(&self) -> bool {
        self.cancelled == 0 && self.still_running == 0
    }
}

/// Jobs that are being polled at the deadline have this long to return.
const GRACE: Duration = Duration::from_millis(50);

impl Shared {
    pub(crate) async fn wait_idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle_notify.notified());
            // Enlisted before the look, so that an end in between is not missed.
            idle.as_mut().enable();
            if self.limiter.watch_idle() {
                // Whoever ended the last job may find the watch taken down now.
                self.idle_notify.notify_waiters();
                return;
            }
            idle.await;
        }
    }

    pub(crate) async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let before = self.limiter.counts().jobs;
        self.close();
        if tokio::time::timeout(deadline, self.wait_idle()).await.is_err() {
            self.cancel_all(false);
            let _ = tokio::time::timeout(GRACE, self.wait_idle()).await;
        }
        let after = self.limiter.counts();
        let report = ShutdownReport {
            completed: after.jobs.completed - before.completed,
            panicked: after.jobs.panicked - before.panicked,
            cancelled: after.jobs.cancelled - before.cancelled,
            still_running: after.running + after.overflow + after.in_caller + after.held_slots,
        };
        event!(INFO, pool = &*self.config.name, ?report, "pool shut down");
        report
    }
}
