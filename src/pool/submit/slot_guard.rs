//! A slot that stays taken beyond the end of its job.

use std::fmt;
use std::sync::Arc;

use crate::pool::Pool;
use crate::pool::context;
use crate::pool::job::SlotHold;
use crate::pool::limiter::counts::ReleaseReason;
use crate::pool::scheduler::shared::Shared;

/// Keeps the slot of a job taken, also when the job has ended, until it is dropped; from
/// [`Pool::hold_slot`].
///
/// Dropped before the job ends, it changes nothing: the job keeps its slot to its end.
///
/// It does not keep the pool open. [`Pool::wait_idle`] and
/// [`Pool::shutdown`] wait for it; it cannot be cancelled, and counts as
/// [`still_running`](crate::ShutdownReport::still_running) then.
#[must_use = "dropping it gives the slot back when the job ends"]
pub struct SlotGuard {
    shared: Arc<Shared>,
    slot_hold: Arc<SlotHold>,
    quota: Option<usize>,
}

impl Pool {
    /// Called from within a job of this pool: keeps its slot taken beyond the job's end.
    ///
    /// For results that are still being worked on after the job has returned them: a response
    /// whose body is a stream, a file that is being read. Move what it returns into the result.
    ///
    /// `None` outside of the pool's jobs, in a job that runs beyond the size or in its caller, and
    /// from the second call in a job on.
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
    /// assert!(pool.try_schedule(async {}).is_err()); // the body is still there
    /// drop((body, slot));
    /// assert!(pool.try_schedule(async {}).is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_slot(&self) -> Option<SlotGuard> {
        let shared = self.shared();
        let current = context::current()
            .filter(|current| current.is_of(shared.id()) && !current.in_caller)?;
        let slot_hold = current.job.hold_slot()?;
        Some(SlotGuard {
            shared: shared.clone(),
            slot_hold,
            quota: current.job.slot_kind().quota(),
        })
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if self.slot_hold.release() {
            self.shared.release_slot(self.quota, ReleaseReason::Held);
        }
    }
}

impl fmt::Debug for SlotGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotGuard").field("pool", &self.shared.name()).finish_non_exhaustive()
    }
}
