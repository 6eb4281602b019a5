//! How the jobs of named groups ended, summed up by name: [`Pool::group_counts`].
//!
//! The state of the group counts the ends. The verbs count the jobs that they give back.

use std::sync::Arc;

use crate::group::outcome::Outcome;
use crate::group::report::GroupReport;
use crate::pool::{Counters, Pool, add_counts};

/// How the jobs of all groups of one name have ended so far; from [`Pool::group_counts`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GroupCounts {
    /// The name by [`GroupBuilder::name`](crate::GroupBuilder::name).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::pool::serialize_name"))]
    pub name: Arc<str>,
    /// Jobs that returned a value that is no failure.
    pub succeeded: u64,
    /// Jobs that failed: panics, cancellations, expired ones, and values that are failures by
    /// [`GroupBuilder::failure_when`](crate::GroupBuilder::failure_when).
    pub failed: u64,
    /// How many of `failed` panicked.
    pub panicked: u64,
    /// How many of `failed` were cancelled.
    pub cancelled: u64,
    /// How many of `failed` had a deadline that passed.
    pub expired: u64,
    /// Jobs that a verb of the group gave back, for whatever reason. They are in none of the other counts, and
    /// in no [`GroupReport`].
    pub refused: u64,
}

/// What the pool's table of names calls groups.
pub(super) const KIND: &str = "group";

/// Counts the end of a job for the name of its group.
pub(super) fn count<T>(counters: &Counters, outcome: &Outcome<T>) {
    let mut one = GroupReport::default();
    one.count(outcome);
    add_counts(counters, [one.succeeded, one.failed, one.panicked, one.cancelled, one.expired, 0]);
}

/// Counts a job that was given back.
pub(super) fn count_refused(counters: &Counters) {
    add_counts(counters, [0, 0, 0, 0, 0, 1]);
}

impl Pool {
    /// Returns how the jobs of named groups have ended, for each name, in the order in which the names
    /// came. Groups that are gone count as well.
    ///
    /// Names should be few, such as those of kinds of work, and not those of requests: the first 64 have
    /// counts of their own, and all later ones share `other`. Groups without a name cost nothing and count
    /// nowhere. The numbers of a name do not belong to one moment. Calls of a tower layer leave no outcomes
    /// in their group, so they do not count here; `layer_counts` has those of layers with a name.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(2);
    /// for page in 0..3 {
    ///     let group = pool.group_builder().name("thumbnails").build()?;
    ///     group.schedule(async move { page }).await?;
    ///     group.wait().await;
    /// }
    /// let counts = &pool.group_counts()[0];
    /// assert_eq!((&*counts.name, counts.succeeded, counts.failed), ("thumbnails", 3, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn group_counts(&self) -> Vec<GroupCounts> {
        let named = |(name, counts)| {
            let [succeeded, failed, panicked, cancelled, expired, refused] = counts;
            GroupCounts { name, succeeded, failed, panicked, cancelled, expired, refused }
        };
        self.shared().names.counts(KIND).into_iter().map(named).collect()
    }
}
