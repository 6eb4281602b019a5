//! Groups: jobs that share a pool with others and are waited for together.

mod builder;
mod outcome;
mod state;
mod submit;
#[cfg(feature = "tower")]
mod submitter;
mod wait;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::{ClosedError, TryScheduleError};
pub use crate::group::builder::GroupBuilder;
pub use crate::group::outcome::Outcome;
use crate::group::state::{FailureWhen, GroupState, MemberSink};
pub use crate::group::submit::{GroupSchedule, GroupTryGo};
#[cfg(feature = "tower")]
pub(crate) use crate::group::submitter::{CallerRuns, Submitted, Submitter};
pub use crate::group::wait::{Next, Wait};
use crate::pool::{AbortHandle, AcquireOutcome, OnFull, Pool, Submission};

/// Jobs of one pool that belong together: submitted through `&self` from anywhere, waited for
/// as one, each with its result.
///
/// A group costs no task. It waits for its own jobs alone, however many others share the pool.
/// The outcomes of ended jobs are kept until [`next`](Self::next) or [`wait`](Self::wait) takes
/// them, so a group that runs for long should be read with `next`.
///
/// Clones are handles of the same group. **When the last is dropped, what is left of its jobs is
/// cancelled**, unless [`detach`](Self::detach) was called. A group keeps its pool open.
///
/// # Examples
///
/// Take a message, fan out, wait for all, acknowledge:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(4);
/// let group = pool.group();
/// for part in ["a", "b", "c"] {
///     group.schedule(async move { part.to_uppercase() }).await?;
/// }
/// let outcomes = group.wait().await;
/// let acknowledged = outcomes.iter().all(|outcome| outcome.is_success());
/// assert!(acknowledged);
/// assert_eq!(outcomes[2].result.as_deref().unwrap(), "C");
/// # Ok(())
/// # }
/// ```
///
/// # Comparison to `JoinSet`
///
/// A `JoinSet` bounds nothing and is submitted to through `&mut self` by one owner; its results
/// come in completion order. A group has the bound and the verbs of its pool, is shared by
/// cloning, and gives its results in either order.
#[doc(alias = "JoinSet")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "scope")]
#[doc(alias = "nursery")]
#[doc(alias = "WaitGroup")]
pub struct Group<T: Send + 'static> {
    state: Arc<GroupState<T>>,
    // Keeps the pool open; the jobs themselves must not.
    pool: Pool,
    name: Arc<str>,
}

impl Pool {
    /// A group of jobs on this pool, all of which return a `T`.
    #[doc(alias = "JoinSet")]
    pub fn group<T: Send + 'static>(&self) -> Group<T> {
        Group::new(self.clone(), None, None, Arc::from(self.name()))
    }

    /// A group with settings of its own: a quota, a name, what counts as a failure.
    pub fn group_builder<T: Send + 'static>(&self) -> GroupBuilder<T> {
        GroupBuilder::new(self.clone())
    }
}

impl<T: Send + 'static> Group<T> {
    fn new(
        pool: Pool,
        quota: Option<usize>,
        failure_when: Option<FailureWhen<T>>,
        name: Arc<str>,
    ) -> Self {
        let shared = pool.shared().clone();
        let quota = quota.map(|limit| shared.add_quota(limit));
        Self { state: Arc::new(GroupState::new(shared, quota, failure_when)), pool, name }
    }

    /// Runs a job of the group; waits in the wait list if the pool or the group's quota is full. See
    /// [`Pool::schedule`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule`]; also [`ScheduleError::Closed`](crate::ScheduleError::Closed) if the
    /// group was closed before the first poll.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, the job never runs and the group does not count it.
    #[doc(alias = "spawn")]
    #[track_caller]
    pub fn schedule<F>(&self, job: F) -> GroupSchedule<'_, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupSchedule::new(&self.state, job)
    }

    /// Runs a job of the group, or refuses it at once. See [`Pool::try_schedule`].
    ///
    /// # Errors
    ///
    /// As [`Pool::try_schedule`], for the pool or the group's quota.
    #[track_caller]
    pub fn try_schedule<F>(&self, job: F) -> Result<AbortHandle, TryScheduleError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.submit(job, OnFull::Refuse)
    }

    /// Runs a job of the group, beyond the size if need be. See [`Pool::schedule_always`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule_always`].
    #[track_caller]
    pub fn schedule_always<F>(&self, job: F) -> Result<AbortHandle, TryScheduleError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.submit(job, OnFull::Overflow { limit: self.pool.shared().overflow_limit() })
    }

    #[track_caller]
    fn submit<F>(&self, job: F, on_full: OnFull<'_>) -> Result<AbortHandle, TryScheduleError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if self.state.is_closed() {
            return Err(TryScheduleError::Closed(job));
        }
        self.submission(job).submit(on_full)
    }

    /// Runs a job of the group, in the caller if the pool or the quota is full. See
    /// [`Pool::try_go`].
    ///
    /// # Errors
    ///
    /// [`ClosedError`], with the job.
    #[track_caller]
    pub fn try_go<F>(&self, job: F) -> GroupTryGo<'_, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupTryGo::new(&self.state, job)
    }

    /// Commits a job of the group now; it runs in its turn. See [`Pool::anyway_go`].
    ///
    /// # Errors
    ///
    /// [`ClosedError`], with the job.
    #[track_caller]
    pub fn anyway_go<F>(&self, job: F) -> Result<AbortHandle, ClosedError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if self.state.is_closed() {
            return Err(ClosedError(job));
        }
        let mut submission = self.submission(job);
        match submission.admit(OnFull::Commit) {
            AcquireOutcome::Closed => Err(ClosedError(submission.take_job())),
            _ => Ok(submission.take_handle()),
        }
    }

    #[track_caller]
    fn submission<F>(&self, job: F) -> Submission<'_, F, MemberSink<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        Submission::new(&self.state.shared, job, MemberSink::new(&self.state))
    }

    /// Waits for the end of every job of the group, and takes the outcomes that `next` has not
    /// taken, in the order of submission.
    ///
    /// Jobs submitted while it waits are waited for as well. Callers still in the wait list are not: they
    /// have submitted nothing yet. On a group without jobs it is ready at once. The group can be
    /// used again afterwards.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub fn wait(&self) -> Wait<'_, T> {
        Wait::new(&self.state, false)
    }

    /// Like [`wait`](Self::wait), but cancels the rest at the first failure.
    pub fn wait_or_cancel_on_failure(&self) -> Wait<'_, T> {
        Wait::new(&self.state, true)
    }

    /// Waits for the end of any job and takes its outcome, in the order of completion. `None`
    /// when no job is running and every outcome was taken: also for the moment, if more are to be
    /// submitted.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    #[doc(alias = "join_next")]
    pub fn next(&self) -> Next<'_, T> {
        Next::new(&self.state)
    }

    /// Cancels the jobs the group has now. Their outcomes still come, and new ones may be
    /// submitted.
    ///
    /// A job that [`try_go`](Self::try_go) runs in its caller is the caller's: it is cancelled by
    /// dropping that future, not from here.
    #[doc(alias = "abort_all")]
    pub fn cancel(&self) {
        self.state.cancel();
    }

    /// Lets no more jobs into the group. The pool and the group's own jobs go on; so do callers
    /// who are in the wait list already.
    pub fn close(&self) {
        self.state.close();
    }

    /// Whether the group was closed.
    pub fn is_closed(&self) -> bool {
        self.state.is_closed()
    }

    /// Has the jobs go on when the last handle of the group is dropped.
    pub fn detach(&self) {
        self.state.detach();
    }

    /// How many jobs have not ended.
    pub fn len(&self) -> usize {
        self.state.running()
    }

    /// Whether every job has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name it was given, or its pool's.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T: Send + 'static> Clone for Group<T> {
    fn clone(&self) -> Self {
        self.state.add_handle();
        Self { state: self.state.clone(), pool: self.pool.clone(), name: self.name.clone() }
    }
}

impl<T: Send + 'static> Drop for Group<T> {
    fn drop(&mut self) {
        self.state.drop_handle();
    }
}

impl<T: Send + 'static> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name())
            .field("running", &self.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
