//! Groups: jobs that share a pool with other jobs and are waited for together.
//!
//! A group is a [`GroupState`] behind an `Arc`, and no task. Its verbs are those of the pool with
//! another [sink](crate::pool::OutputSink): [`MemberSink`] counts the job in at its admission and
//! passes the outcome to the group at the job's end. The calls of a tower layer count in a group as
//! members without outcomes.
//!
//! | file | content |
//! |---|---|
//! | `builder`, `outcome` | settings; the end of one job |
//! | `state` | what jobs and handles share, under one mutex |
//! | `submit` | the futures of `schedule` and `try_go` |
//! | `wait` | the futures of `wait` and `next` |
//! | `member` | jobs of the tower layer |
//!
//! # The life of a job in its group
//!
//! ```text
//!                on_admit              push_output, finished_handle, Drop        next, wait
//!   (waiting) ─────────────▶ running ────────────────────────────────────▶ ended ──────────▶ taken
//!                                    └── a member, or no handle is left ──▶ (no outcome)
//! ```
//!
//! # Invariants
//!
//! - **G1, admission first.** A job enters `running` inside the pool's admission, before a worker
//!   can run the job. So no job ends before it was counted in, and indices have the order of
//!   admission. A caller in the wait list has submitted nothing yet, and the group does not count
//!   it. Tests: `wait_is_in_the_order_of_submission_and_next_in_that_of_completion`, `every_verb`.
//! - **G2, out once.** Each job in `running` leaves it once, by its sink: with an outcome, or as a
//!   member without one. The sink's `Drop` covers jobs that end by no other way. Tests:
//!   `failures_are_told_apart`, `many_submit_while_many_take`.
//! - **G3, the last handle.** Without a handle the group keeps no outcome. The last handle cancels
//!   the jobs, unless the group was detached. Sinks are no handles, so a job does not keep its
//!   group alive. Tests: `the_last_handle_takes_the_jobs_along`, `dropped_within_its_own_job`.
//! - **G4, no lost wake-up.** A waiter checks its event under the mutex that the end of a job
//!   takes. Each end wakes all waiters whose event has happened. Test: the model
//!   `a_group_sees_its_last_job` (loom).
//! - **G5, no user code and no call of the pool under the mutex.** The pool calls
//!   [`GroupState::add`] under its own lock, so the opposite order would deadlock. Test:
//!   `a_job_may_submit_to_its_own_group`.

mod builder;
#[cfg(feature = "tower")]
mod member;
mod outcome;
mod state;
mod submit;
mod wait;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::SubmitError;
pub use crate::group::builder::GroupBuilder;
#[cfg(feature = "tower")]
pub(crate) use crate::group::member::{GroupHandle, MemberGuard};
pub use crate::group::outcome::Outcome;
use crate::group::state::{FailureWhen, GroupState, MemberSink};
pub use crate::group::submit::{GroupSchedule, GroupTryGo};
pub use crate::group::wait::{Next, Wait};
use crate::pool::{AbortHandle, Pool, Shared, Submission};

/// Jobs of one pool that belong together: submitted through `&self`, waited for as one, each with
/// its result.
///
/// A group costs no task. It waits for its own jobs alone; other jobs of the pool do not matter.
/// The group keeps the outcome of an ended job until [`next`](Self::next) or [`wait`](Self::wait)
/// takes it. Read a group that lives long with `next`, because untaken outcomes use memory.
///
/// Clones are handles of the same group. **Dropping the last handle cancels the jobs that are
/// left**, unless [`detach`](Self::detach) was called. A group keeps its pool open.
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
/// A `JoinSet` has no bound, one owner with `&mut self`, and results in the order of completion. A
/// group has the bound and the verbs of its pool. Clones share it, and its results come in either
/// order.
#[doc(alias = "JoinSet")]
#[doc(alias = "buffer_unordered")]
#[doc(alias = "TaskTracker")]
#[doc(alias = "scope")]
#[doc(alias = "nursery")]
#[doc(alias = "WaitGroup")]
pub struct Group<T: Send + 'static> {
    state: Arc<GroupState<T>>,
    // Keeps the pool open. The jobs hold `state` alone, so they do not.
    pool: Pool,
    name: Arc<str>,
}

impl Pool {
    /// Makes a group for jobs of this pool that return a `T`.
    #[doc(alias = "JoinSet")]
    pub fn group<T: Send + 'static>(&self) -> Group<T> {
        Group::new(self.clone(), None, None, Arc::from(self.name()))
    }

    /// Starts a group with settings: a quota, a name, what counts as a failure.
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

    /// Runs a job of the group; waits in the wait list if the pool or the group's quota is full.
    /// See [`Pool::schedule`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule`]; also
    /// [`GroupClosed`](crate::SubmitErrorKind::GroupClosed) if the group was closed before the job
    /// entered the wait list.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the job never runs, and the group does not
    /// count it.
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
    /// As [`Pool::try_schedule`], for the pool or the group's quota; also
    /// [`GroupClosed`](crate::SubmitErrorKind::GroupClosed).
    #[track_caller]
    pub fn try_schedule<F>(&self, job: F) -> Result<AbortHandle, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.submission(job).try_schedule()
    }

    /// Runs a job of the group, beyond the size if the pool is full. The quota does not apply. See
    /// [`Pool::schedule_always`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule_always`]; also
    /// [`GroupClosed`](crate::SubmitErrorKind::GroupClosed).
    #[track_caller]
    pub fn schedule_always<F>(&self, job: F) -> Result<AbortHandle, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.submission(job).schedule_always()
    }

    /// Runs a job of the group, in the caller if the pool or the quota is full. See
    /// [`Pool::try_go`].
    ///
    /// # Errors
    ///
    /// Returns the job if the pool or the group is closed.
    #[track_caller]
    pub fn try_go<F>(&self, job: F) -> GroupTryGo<'_, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupTryGo::new(&self.state, job)
    }

    /// Commits a job of the group; the job runs in its turn. See [`Pool::anyway_go`].
    ///
    /// # Errors
    ///
    /// Returns the job if the pool or the group is closed.
    #[track_caller]
    pub fn anyway_go<F>(&self, job: F) -> Result<AbortHandle, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.submission(job).anyway_go()
    }

    /// Whether this is a group of `pool`.
    #[cfg(feature = "tower")]
    pub(crate) fn is_of(&self, pool: &Pool) -> bool {
        Arc::ptr_eq(self.pool.shared(), pool.shared())
    }

    #[track_caller]
    fn submission<F>(&self, job: F) -> Submission<&Shared, F, MemberSink<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        Submission::new(&*self.state.shared, job, MemberSink::new(&self.state))
    }

    /// Waits for the end of every job of the group. Takes the outcomes that `next` has not taken,
    /// in the order of submission.
    ///
    /// The wait includes jobs that are submitted meanwhile. Callers in the wait list do not count,
    /// because they have submitted nothing yet. A group without jobs is ready at once. The group
    /// stays usable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no outcome.
    pub fn wait(&self) -> Wait<'_, T> {
        Wait::new(&self.state, false)
    }

    /// Like [`wait`](Self::wait), but the first failure cancels the jobs that are left.
    pub fn wait_or_cancel_on_failure(&self) -> Wait<'_, T> {
        Wait::new(&self.state, true)
    }

    /// Waits for the end of any job and takes its outcome, in the order of completion.
    ///
    /// Returns `None` when no job is running and every outcome was taken. Jobs that are submitted
    /// later have outcomes again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no outcome.
    #[doc(alias = "join_next")]
    pub fn next(&self) -> Next<'_, T> {
        Next::new(&self.state)
    }

    /// Cancels the jobs that the group has now. Their outcomes still come, and the group takes new
    /// jobs.
    ///
    /// A job that [`try_go`](Self::try_go) runs in its caller is not cancelled. Dropping that
    /// future cancels it.
    #[doc(alias = "abort_all")]
    pub fn cancel(&self) {
        self.state.cancel();
    }

    /// Closes the group: it takes no more jobs. The pool, the group's jobs and callers that are
    /// already in the wait list go on.
    pub fn close(&self) {
        self.state.close();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.state.is_closed()
    }

    /// Lets the jobs go on when the last handle of the group is dropped.
    pub fn detach(&self) {
        self.state.detach();
    }

    /// Returns the number of jobs that have not ended.
    pub fn len(&self) -> usize {
        self.state.running()
    }

    /// Whether every job has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the name of the group; by default that of its pool.
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
