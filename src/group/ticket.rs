//! What a submit to a group returns.

use std::fmt;

use crate::pool::AbortHandle;

/// The job of a group, seen by its submitter: its index, and the right to abort the job.
///
/// The result comes through the group, as the [`Outcome`](crate::Outcome) of the same index. A
/// dropped ticket changes nothing.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(2);
/// let group = pool.group();
/// let slow = group.schedule(std::future::pending::<u32>()).await?;
/// let quick = group.schedule(async { 7 }).await?;
/// assert_eq!((slow.index(), quick.index()), (0, 1));
/// slow.abort();
/// group.wait().await;
/// let outcomes = group.take_outcomes();
/// assert!(outcomes[slow.index()].result.as_ref().unwrap_err().is_cancelled());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JobTicket {
    index: usize,
    job: AbortHandle,
}

impl JobTicket {
    pub(super) fn new(index: usize, job: AbortHandle) -> Self {
        Self { index, job }
    }

    /// The job's number in its group, from 0 in the order of admission. Indices never start again,
    /// whatever was waited for or taken.
    ///
    /// A job that waits in the wait list with its caller has no index yet. The calls of a tower
    /// layer in the group count, too.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Cancels the job; see [`JobHandle::abort`](crate::JobHandle::abort). Its outcome still comes.
    pub fn abort(&self) {
        self.job.abort();
    }

    /// Whether the job has completed, panicked or been cancelled.
    pub fn is_finished(&self) -> bool {
        self.job.is_finished()
    }

    /// Returns a handle that can abort the job.
    pub fn abort_handle(&self) -> AbortHandle {
        self.job.clone()
    }
}

impl fmt::Debug for JobTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobTicket")
            .field("index", &self.index)
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
