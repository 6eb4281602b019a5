//! A group's settings.

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

    /// How many of the group's jobs may be in the pool at once, running or in its queue: 1 to
    /// 4,294,967,295. Beyond that the verbs do for this group what they do when the pool is full;
    /// overflow is not held to it. By default there is no quota but the pool's size.
    pub fn quota(mut self, jobs: usize) -> Self {
        self.quota = Some(jobs);
        self
    }

    /// Which values count as failures, besides panics and cancellations. A panic of the closure
    /// itself counts as one.
    pub fn failure_when(mut self, failed: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.failure_when = Some(Arc::new(failed));
        self
    }

    /// The group's name in `Debug`. Default: the pool's.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Makes the group.
    ///
    /// # Errors
    ///
    /// If the quota is out of its range.
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
