//! How one job of a group ended.

use crate::error::JobError;

/// One job's end, with its place in the group.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<T> {
    /// Which job of the group it was, counted from 0 in the order of submission.
    pub index: usize,
    pub(crate) success: bool,
    /// What it returned, or how it ended instead.
    pub result: Result<T, JobError>,
}

impl<T> Outcome<T> {
    /// Whether the job counts as a success: it returned a value, and
    /// [`GroupBuilder::failure_when`](crate::GroupBuilder::failure_when), if set, does not call
    /// that a failure.
    pub fn is_success(&self) -> bool {
        self.success
    }

    /// The job's value, or how it ended instead.
    ///
    /// # Errors
    ///
    /// A panic or a cancellation.
    pub fn into_result(self) -> Result<T, JobError> {
        self.result
    }
}
