//! The verbs for jobs with options: a view of a pool.

use std::future::Future;
use std::time::Duration;

use crate::error::SubmitError;
use crate::pool::Pool;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::options::JobOptions;
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::schedule::{AnywayGo, Schedule, ScheduleOwned};
use crate::pool::submit::submission::Submission;
use crate::pool::submit::try_go::{TryGo, TryGoOwned};
use crate::pool::submit::within::ScheduleWithin;
use crate::trace::Place;

/// A pool whose verbs submit jobs with options; from [`Pool::with`].
///
/// Each verb does what the pool's verb of that name does. It may refuse a job for one reason more:
/// [`Expired`](crate::SubmitErrorKind::Expired), after the deadline.
#[derive(Debug, Clone)]
#[must_use = "a view submits nothing by itself"]
pub struct PoolWith<'a> {
    pool: &'a Pool,
    options: JobOptions,
}

impl Pool {
    /// Returns a view of this pool whose verbs submit jobs with options: a priority, a key, a deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millpond::{JobOptions, Pool, Priority};
    ///
    /// let pool = Pool::new(4);
    /// let reports = pool.with(JobOptions::new().priority(Priority::Background));
    /// let handle = reports.schedule(async { "done" }).await?;
    /// assert_eq!(handle.await?, "done");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "priority")]
    #[doc(alias = "deadline")]
    pub fn with(&self, options: JobOptions) -> PoolWith<'_> {
        PoolWith { pool: self, options }
    }
}

impl<'a> PoolWith<'a> {
    /// [`Pool::schedule`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::schedule`, and [`Expired`](crate::SubmitErrorKind::Expired).
    #[track_caller]
    pub fn schedule<F>(&self, job: F) -> Schedule<'a, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Schedule::with(self.pool.shared(), job, &self.options)
    }

    /// [`Pool::schedule_within`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::schedule_within`, and [`Expired`](crate::SubmitErrorKind::Expired).
    #[track_caller]
    pub fn schedule_within<F>(&self, limit: Duration, job: F) -> ScheduleWithin<'a, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        ScheduleWithin::with(self.pool.shared(), limit, job, &self.options)
    }

    /// [`Pool::schedule_owned`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::schedule_owned`, and [`Expired`](crate::SubmitErrorKind::Expired).
    #[track_caller]
    pub fn schedule_owned<F>(&self, job: F) -> ScheduleOwned<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        ScheduleOwned::with(self.pool.clone(), job, &self.options)
    }

    /// [`Pool::try_schedule`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::try_schedule`.
    #[track_caller]
    pub fn try_schedule<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (shared, options) = (&**self.pool.shared(), Some(&self.options));
        Submission::try_schedule(shared, job, StoreOutput, Place::caller(), options)
    }

    /// [`Pool::schedule_always`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::schedule_always`.
    #[track_caller]
    pub fn schedule_always<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submission(job).schedule_always()
    }

    /// [`Pool::try_go`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::try_go`.
    #[track_caller]
    pub fn try_go<F>(&self, job: F) -> TryGo<'a, F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        TryGo::with(self.pool.shared(), job, &self.options)
    }

    /// [`Pool::try_go_owned`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::try_go_owned`.
    #[track_caller]
    pub fn try_go_owned<F>(&self, job: F) -> TryGoOwned<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        TryGoOwned::with(self.pool.clone(), job, &self.options)
    }

    /// [`Pool::anyway_go`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::anyway_go`.
    #[track_caller]
    pub fn anyway_go<F>(&self, job: F) -> Result<AnywayGo<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submission(job).anyway_go().map(AnywayGo::new)
    }

    /// [`Pool::blocking_schedule`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::blocking_schedule`, and [`Expired`](crate::SubmitErrorKind::Expired).
    ///
    /// # Panics
    ///
    /// Panics where `Pool::blocking_schedule` panics.
    #[track_caller]
    pub fn blocking_schedule<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.pool.shared().block_on("blocking_schedule", self.schedule(job))
    }

    /// [`Pool::blocking_anyway_go`] with options.
    ///
    /// # Errors
    ///
    /// Those of `Pool::blocking_anyway_go`.
    ///
    /// # Panics
    ///
    /// Panics where `Pool::blocking_schedule` panics.
    #[track_caller]
    pub fn blocking_anyway_go<F>(&self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let shared = self.pool.shared();
        shared.assert_may_block("blocking_anyway_go");
        let committed = self.anyway_go(job)?;
        Ok(shared.block_on("blocking_anyway_go", committed))
    }

    pub(crate) fn parts(&self) -> (&Pool, &JobOptions) {
        (self.pool, &self.options)
    }

    #[track_caller]
    fn submission<F>(&self, job: F) -> Submission<&'a Shared, F, StoreOutput>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (shared, place) = (&**self.pool.shared(), Place::caller());
        Submission::with(shared, job, StoreOutput, place, Some(&self.options))
    }
}
