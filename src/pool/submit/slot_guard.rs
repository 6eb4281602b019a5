//! A slot that stays taken beyond the end of its job.

use std::fmt;
use std::sync::Arc;

use crate::pool::Pool;
use crate::pool::context::{self, Current};
use crate::pool::job::SlotHold;
use crate::pool::limiter::counts::ReleaseReason;
use crate::pool::scheduler::shared::Shared;

/// Keeps the slot of a job taken beyond the job's end; from [`Pool::hold_slot`].
///
/// The slot is free when the job has ended and the guard is dropped, in either order. The drop of a guard
/// whose job still lives takes a lock of the pool.
///
/// A guard does not keep the pool open. [`Pool::wait_idle`] and [`Pool::shutdown`] wait for guards.
/// A shutdown cannot cancel them, so at the deadline a guard counts as
/// [`still_running`](crate::ShutdownReport::still_running).
#[must_use = "dropping it gives the slot back when the job ends"]
pub struct SlotGuard {
    shared: Arc<Shared>,
    slot_hold: Arc<SlotHold>,
    /// The job, unless it has ended and another one has the number by now.
    job_id: usize,
    quota: Option<usize>,
}

impl Pool {
    /// Keeps the slot of the current job taken beyond the job's end. Call it inside a job of this
    /// pool.
    ///
    /// Use it for results that are still in use after the job has returned them: a response whose
    /// body is a stream, a file that is being read. Move the guard into the result.
    ///
    /// Returns `None` outside of this pool's jobs, in a job beyond the size or in its caller, in a
    /// closure of [`blocking`](crate::blocking), and from the second call in the same job on.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let inside = pool.clone();
    /// let handle = pool.schedule(async move { ("body", inside.hold_slot()) }).await?;
    /// let (body, slot) = handle.await?;
    /// assert!(pool.try_schedule(async {}).is_err()); // the body still exists
    /// drop((body, slot));
    /// assert!(pool.try_schedule(async {}).is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "dropping the guard gives the slot back when the job ends"]
    pub fn hold_slot(&self) -> Option<SlotGuard> {
        let shared = self.shared();
        let current = context::current_of(shared.id()).filter(Current::is_innermost)?;
        let slot_hold = current.job.hold_slot()?;
        Some(SlotGuard {
            shared: shared.clone(),
            slot_hold,
            job_id: current.job.id(),
            quota: current.job.slot_kind().quota(),
        })
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if self.slot_hold.release() {
            self.shared.release_slot(self.quota, ReleaseReason::Held);
        } else {
            self.shared.end_guard(self.job_id, &self.slot_hold);
        }
    }
}

impl fmt::Debug for SlotGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotGuard").field("pool", &self.shared.name()).finish_non_exhaustive()
    }
}
