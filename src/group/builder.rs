//! The settings of a group.

use std::fmt;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::group::Group;
use crate::group::state::GroupConfig;
use crate::pool::{JobOptions, Pool};

/// Settings of a group; from [`Pool::group_builder`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(8);
/// let tenant = pool
///     .group_builder()
///     .quota(2)
///     .failure_when(|result: &Result<(), String>| result.is_err())
///     .build()?;
/// tenant.schedule(async { Err("no such row".to_owned()) }).await?;
/// assert!(!tenant.wait().await.is_success());
/// # Ok(())
/// # }
/// ```
///
/// A clone has the same settings: a template for groups that are made often.
#[must_use = "a builder does nothing until `build`"]
pub struct GroupBuilder<T> {
    pool: Pool,
    quota: Option<usize>,
    config: GroupConfig<T>,
}

impl<T: Send + 'static> GroupBuilder<T> {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, quota: None, config: GroupConfig::default() }
    }

    /// Limits how many of the group's jobs may run or be queued at once: 1 to 4,294,967,295.
    ///
    /// At the limit the verbs treat the pool as full for this group. Overflow jobs do not count. By
    /// default there is no quota.
    pub fn quota(mut self, jobs: usize) -> Self {
        self.quota = Some(jobs);
        self
    }

    /// Sets which values count as failures, besides panics and cancellations. A panic of the
    /// closure counts as a failure.
    pub fn failure_when(mut self, failed: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.config.failure_when = Some(Arc::new(failed));
        self
    }

    /// Stops the group at its first failure: a panic, a value by [`failure_when`](Self::failure_when),
    /// or an abort of a single job.
    ///
    /// The failure cancels all other jobs of the group. From then on each submit gets its job back
    /// with [`SubmitErrorKind::GroupFailed`](crate::SubmitErrorKind::GroupFailed), also a caller that
    /// stands in the wait list. So a feeder stops by itself. The group is failed before the failed
    /// job gives up its slot: only jobs that ran already go on, up to their next await.
    ///
    /// A failed group stays failed. A cancellation by [`Group::cancel`] or
    /// [`Group::cancel_waiting`] does not fail the group. [`Group::try_join`] returns the failure.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millpond::SubmitErrorKind;
    ///
    /// let pool = millpond::Pool::new(2);
    /// let group = pool
    ///     .group_builder()
    ///     .failure_when(|line: &Result<u32, String>| line.is_err())
    ///     .cancel_on_failure()
    ///     .build()?;
    /// for n in 0..1_000 {
    ///     let job = async move { if n == 3 { Err("line 3".to_owned()) } else { Ok(n) } };
    ///     if let Err(refused) = group.schedule(job).await {
    ///         assert_eq!(refused.kind(), SubmitErrorKind::GroupFailed);
    ///         break;
    ///     }
    /// }
    /// assert_eq!(group.try_join().await.unwrap_err().index(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "errgroup")]
    #[doc(alias = "fail_fast")]
    pub fn cancel_on_failure(mut self) -> Self {
        self.config.cancel_on_failure = true;
        self
    }

    /// Drops each outcome at the end of its job. For groups that live as long as a server.
    ///
    /// [`Group::report`] and [`Group::wait`] count all ends, and the group keeps no memory per ended
    /// job. Values are lost: `next`, `outcomes` and `take_outcomes` give none, and a successful
    /// [`Group::try_join`] gives an empty list. The outcome that failed first is kept for
    /// `try_join`.
    pub fn discard_outcomes(mut self) -> Self {
        self.config.discard_outcomes = true;
        self
    }

    /// Sets the options of the group's jobs: a priority, a key, a deadline. By default a job has none.
    ///
    /// Calls of a tower layer in this group have them, too, unless the layer sets
    /// [options](crate::layer::PoolLayer::options) by request.
    pub fn options(mut self, options: JobOptions) -> Self {
        self.config.options = Some(options);
        self
    }

    /// Sets the group's name in `Debug`, in [`Pool::jobs`] and in [`Pool::group_counts`]. By default it is
    /// the pool's in `Debug`, and none elsewhere. Each job of a named group keeps a reference to the name:
    /// that is one small allocation more per job.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Makes the group.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the quota is out of its range.
    pub fn build(self) -> Result<Group<T>, ConfigError> {
        if let Some(jobs) = self.quota {
            if jobs == 0 || jobs > u32::MAX as usize {
                return Err(ConfigError::new("quota", jobs, "a number from 1 to 4294967295"));
            }
        }
        let name =
            self.config.name.clone().unwrap_or_else(|| self.pool.shared().config.name.clone());
        Ok(Group::new(self.pool, self.quota, self.config, name))
    }
}

impl<T> Clone for GroupBuilder<T> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), quota: self.quota, config: self.config.clone() }
    }
}

impl<T> fmt::Debug for GroupBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("name", &self.config.name)
            .field("quota", &self.quota)
            .field("cancel_on_failure", &self.config.cancel_on_failure)
            .field("discard_outcomes", &self.config.discard_outcomes)
            .field("options", &self.config.options)
            .finish_non_exhaustive()
    }
}
