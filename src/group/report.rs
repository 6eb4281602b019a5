//! What became of the jobs of a group: the report that every waiter sees, and the error of
//! `try_join`.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::error::JobError;
use crate::group::outcome::Outcome;

/// How the jobs of a group have ended so far; from [`Group::wait`](crate::Group::wait) and
/// [`Group::report`](crate::Group::report).
///
/// The numbers belong to one moment and count from the start of the group. They do not depend on
/// other waiters, or on outcomes that were taken. So a report may decide whether a message is
/// acknowledged. Calls of a tower layer count in `unfinished` alone.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(2);
/// let group = pool.group();
/// group.schedule(async { 1 }).await?;
/// group.schedule(async { panic!("no input") }).await?;
/// let report = group.wait().await;
/// assert!(!report.is_success());
/// assert_eq!((report.succeeded, report.failed, report.panicked), (1, 1, 1));
/// assert_eq!(report.first_failure, Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GroupReport {
    /// Jobs that have not ended. 0 in the report of a wait.
    pub unfinished: usize,
    /// Jobs that returned a value that is no failure.
    pub succeeded: u64,
    /// Jobs that failed: panics, cancellations, and values that are failures by
    /// [`GroupBuilder::failure_when`](crate::GroupBuilder::failure_when).
    pub failed: u64,
    /// How many of `failed` panicked.
    pub panicked: u64,
    /// How many of `failed` were cancelled.
    pub cancelled: u64,
    /// How many of `failed` had a deadline that passed.
    pub expired: u64,
    /// The index of the job that failed first in time.
    pub first_failure: Option<usize>,
}

impl GroupReport {
    /// Whether every job of the group has ended, and none failed.
    ///
    /// A group without jobs is a success. A submit that was refused is no job: its error says so.
    pub fn is_success(&self) -> bool {
        self.unfinished == 0 && self.failed == 0
    }

    /// Counts the end of a job.
    pub(super) fn count<T>(&mut self, outcome: &Outcome<T>) {
        if outcome.is_success() {
            self.succeeded += 1;
            return;
        }
        self.failed += 1;
        match &outcome.result {
            Ok(_) => {}
            Err(JobError::Cancelled) => self.cancelled += 1,
            Err(JobError::Panicked(_)) => self.panicked += 1,
            Err(JobError::Expired) => self.expired += 1,
        }
    }
}

/// Why [`Group::try_join`](crate::Group::try_join) has no values: the outcome of the job that failed
/// first in time.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(2);
/// let group = pool
///     .group_builder()
///     .failure_when(|result: &Result<u32, String>| result.is_err())
///     .build()?;
/// group.schedule(std::future::pending()).await?;
/// group.schedule(async { Err("no such row".to_owned()) }).await?;
/// let error = group.try_join().await.unwrap_err();
/// assert_eq!(error.index(), 1); // and not the job that was cancelled because of it
/// assert_eq!(error.into_result().unwrap().unwrap(), Err("no such row".to_owned()));
/// # Ok(())
/// # }
/// ```
pub struct GroupError<T> {
    index: usize,
    cause: Cause<T>,
}

enum Cause<T> {
    Job(JobError),
    // An error has to be `Sync`, and a value need not be. The mutex adds that, and is never locked.
    Value(Mutex<T>),
    /// The outcome was taken before.
    Taken,
}

impl<T> GroupError<T> {
    pub(super) fn new(index: usize, outcome: Option<Outcome<T>>) -> Self {
        let cause = match outcome.map(Outcome::into_result) {
            Some(Ok(value)) => Cause::Value(Mutex::new(value)),
            Some(Err(error)) => Cause::Job(error),
            None => Cause::Taken,
        };
        Self { index, cause }
    }

    /// The index of the job that failed first.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the panic or the cancellation. `None` for a value that counts as a failure, and if
    /// the outcome was taken before.
    pub fn job_error(&self) -> Option<&JobError> {
        match &self.cause {
            Cause::Job(error) => Some(error),
            Cause::Value(_) | Cause::Taken => None,
        }
    }

    /// Returns the result of the job that failed first. `None` if that outcome was taken before, by
    /// another `try_join`, by `next` or by a stream.
    pub fn into_result(self) -> Option<Result<T, JobError>> {
        match self.cause {
            Cause::Job(error) => Some(Err(error)),
            Cause::Value(value) => {
                Some(Ok(value.into_inner().unwrap_or_else(PoisonError::into_inner)))
            }
            Cause::Taken => None,
        }
    }
}

impl<T> fmt::Debug for GroupError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupError")
            .field("index", &self.index)
            .field("job_error", &self.job_error())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for GroupError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Job(_) => write!(f, "job {} of the group failed", self.index),
            Cause::Value(_) => write!(f, "job {} of the group returned a failure", self.index),
            Cause::Taken => {
                write!(f, "job {} of the group failed; its outcome was taken before", self.index)
            }
        }
    }
}

impl<T> Error for GroupError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.job_error().map(|error| error as _)
    }
}
