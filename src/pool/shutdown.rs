//! The end of a pool: wait for its jobs, cancel what is left at the deadline, report.

use std::time::Duration;

use crate::pool::Pool;
use crate::pool::scheduler::complete::cancel_all;
use crate::pool::scheduler::shared::Shared;
use crate::trace::event;

/// What became of the jobs of a pool that was shut down; from [`Pool::shutdown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "`still_running` and `cancelled` tell whether the jobs could finish"]
pub struct ShutdownReport {
    /// Jobs that returned a value since the shutdown began.
    pub completed: u64,
    /// Jobs that panicked since the shutdown began.
    pub panicked: u64,
    /// Jobs that were cancelled since the shutdown began, most of them at the deadline.
    pub cancelled: u64,
    /// Jobs that could not be cancelled, and slots that are held beyond their jobs.
    ///
    /// Such a job is still being polled, or is a blocking closure that has not returned. The job
    /// keeps its slot until then.
    pub still_running: usize,
}

impl ShutdownReport {
    /// Returns whether every job ended by itself.
    pub fn is_clean(&self) -> bool {
        self.cancelled == 0 && self.still_running == 0
    }
}

/// How long a job that is being polled at the deadline has to return.
const GRACE: Duration = Duration::from_millis(50);

impl Pool {
    /// Waits until no job runs, is queued or waits.
    ///
    /// The next submit ends that state, so the result lasts only on a closed pool.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    #[doc(alias = "join")]
    pub async fn wait_idle(&self) {
        wait_idle(self.shared()).await;
    }

    /// Closes the pool, waits for its jobs up to `deadline`, then cancels what is left.
    ///
    /// A job that is being polled at the deadline has 50 ms more to return. The [`ShutdownReport`]
    /// counts what cannot be cancelled even then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the pool stays closed and no job is cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let pool = millpond::Pool::new(2);
    /// let quick = pool.schedule(async { "bye" }).await?;
    /// let stuck = pool.schedule(std::future::pending::<()>()).await?;
    /// let report = pool.shutdown(Duration::from_secs(5)).await;
    /// assert_eq!((report.completed, report.cancelled, report.still_running), (1, 1, 0));
    /// assert_eq!(quick.await?, "bye");
    /// assert!(stuck.await.unwrap_err().is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "graceful")]
    #[doc(alias = "drain")]
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let shared = self.shared();
        let before = shared.limiter.counts().jobs;
        shared.close();
        if tokio::time::timeout(deadline, wait_idle(shared)).await.is_err() {
            cancel_all(shared, false);
            let _ = tokio::time::timeout(GRACE, wait_idle(shared)).await;
        }
        let after = shared.limiter.counts();
        let report = ShutdownReport {
            completed: after.jobs.completed - before.completed,
            panicked: after.jobs.panicked - before.panicked,
            cancelled: after.jobs.cancelled - before.cancelled,
            still_running: after.running
                + after.lent
                + after.overflow
                + after.in_caller
                + after.held_slots,
        };
        event!(INFO, pool = self.name(), ?report, "pool shut down");
        report
    }
}

async fn wait_idle(shared: &Shared) {
    loop {
        let mut idle = std::pin::pin!(shared.idle_notify.notified());
        // Registered before the check, so that an end between the check and the await is seen.
        idle.as_mut().enable();
        if shared.limiter.watch_idle() {
            // This check cleared the flag that makes ends notify. Other waiters may rely on it.
            shared.idle_notify.notify_waiters();
            // A loop that waits for an idle pool must yield to the other tasks of its thread.
            tokio::task::coop::consume_budget().await;
            return;
        }
        idle.await;
    }
}
