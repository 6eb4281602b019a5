//! The end of one job of a group.

use crate::error::JobError;

/// The result of one job of a group, with the job's index.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<T> {
    /// The job's number in the group, from 0 in the order of admission. Indices never start again.
    pub index: usize,
    pub(crate) success: bool,
    /// The job's value, or why there is none.
    pub result: Result<T, JobError>,
}

impl<T> Outcome<T> {
    /// Whether the job returned a value, and that value is no failure by
    /// [`GroupBuilder::failure_when`](crate::GroupBuilder::failure_when).
    pub fn is_success(&self) -> bool {
        self.success
    }

    /// Returns the job's value.
    ///
    /// # Errors
    ///
    /// [`JobError`] if the job panicked or was cancelled.
    pub fn into_result(self) -> Result<T, JobError> {
        self.result
    }
}
