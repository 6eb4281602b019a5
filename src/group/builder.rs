//! The settings of a group.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::group::Group;
use crate::group::state::FailureWhen;
use crate::pool::Pool;

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
/// assert!(!tenant.wait().await[0].is_success());
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct GroupBuilder<T> {
    pool: Pool,
    quota: Option<usize>,
    failure_when: Option<FailureWhen<T>>,
    name: Option<Arc<str>>,
    output: PhantomData<fn() -> T>,
}

impl<T: Send + 'static> GroupBuilder<T> {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, quota: None, failure_when: None, name: None, output: PhantomData }
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
        self.failure_when = Some(Arc::new(failed));
        self
    }

    /// Sets the group's name in `Debug`. By default it is the pool's.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
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
        let name = self.name.unwrap_or_else(|| Arc::from(self.pool.name()));
        Ok(Group::new(self.pool, self.quota, self.failure_when, name))
    }
}

impl<T> fmt::Debug for GroupBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("name", &self.name)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}
