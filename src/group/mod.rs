//! Groups: jobs that share a pool with other jobs and are waited for together.
//!
//! A group is a [`GroupState`] behind an `Arc`, and no task. Its verbs are those of the pool with
//! another [sink](crate::pool::OutputSink): [`MemberSink`] counts the job in at its admission and
//! passes the outcome to the group at the job's end. The calls of a tower layer count in a group as
//! members without outcomes.
//!
//! | file | content |
//! |---|---|
//! | `builder`, `outcome`, `report`, `ticket` | settings; the end of one job, of all jobs; a submit's result |
//! | `counts` | the ends of the jobs of named groups, by name |
//! | `state` | what jobs and handles share, under one mutex |
//! | `submit` | the futures of `schedule` and `try_go` |
//! | `wait` | the futures of `wait`, `try_join` and `next` |
//! | `stream` | the outcomes as a stream |
//! | `map` | inputs to outcomes: a group with one feeder and one reader |
//! | `member` | jobs of the tower layer |
//!
//! # The life of a job in its group
//!
//! ```text
//!              on_admit            inspect           push_output, finished_handle, Drop
//!   (waiting) ─────────▶ running ─────────▶ judged ───────────────────────────────────▶ ended ──▶ taken
//!                                              └── a member, no reader, or outcomes are discarded ──▶ counted
//! ```
//!
//! # One verdict, and outcomes for one reader
//!
//! The verdict is shared, and outcomes are given out once. Counts and the first failure stay in the
//! group, so each `wait` and each `try_join` tells the same, whatever other waiters took. The
//! outcomes go to the reader that asks first. So no reader may conclude from an empty list of
//! outcomes that all jobs succeeded, and none has to.
//!
//! # Invariants
//!
//! - **G1, admission first.** A job enters `running` inside the pool's admission, before a worker
//!   can run the job. So no job ends before it was counted in, and indices have the order of
//!   admission. A caller in the wait list has submitted nothing yet, and the group does not count
//!   it. Tests: `values_come_in_the_order_of_submission_and_next_in_that_of_completion`,
//!   `every_verb`.
//! - **G2, out once.** Each job in `running` leaves it once, by its sink: with an outcome, or as a
//!   member without one. The sink's `Drop` covers jobs that end by no other way. Tests:
//!   `failures_are_told_apart`, `many_submit_while_many_take`.
//! - **G3, the last reader.** Without a handle and a stream the group keeps no outcome. The last of
//!   them cancels the jobs, unless the group was detached. Sinks are no handles, so a job does not
//!   keep its group alive. Tests: `the_last_handle_takes_the_jobs_along`,
//!   `dropped_within_its_own_job`, `a_stream_outlives_the_handles`.
//! - **G4, no lost wake-up.** A waiter checks its event under the mutex that the end of a job
//!   takes. Each change of the state wakes all waiters whose event has happened. Test: the model
//!   `a_group_sees_its_last_job` (loom).
//! - **G5, no user code and no call of the pool under the mutex.** The pool calls
//!   [`GroupState::add`] under its own lock, so the opposite order would deadlock. Test:
//!   `a_job_may_submit_to_its_own_group`.
//! - **G6, no job after the close.** [`GroupState::add`] refuses in the critical section that would
//!   count the job in. A caller asks under the limiter's lock before it joins the wait list, and the
//!   close rejects the callers there afterwards. So each submit is admitted before the close, or
//!   gets its job back at once. Tests: `close_gives_callers_in_line_their_jobs_back`,
//!   `nothing_starts_after_close_and_wait`.
//! - **G7, failed before the slot.** A failure fails the group before the slot of the failed job is
//!   released, and marks all waiting jobs as aborted in the same critical section. So no job of a
//!   failed group starts in that slot, or in the slots of the jobs that are cancelled. Test:
//!   `only_what_ran_already_goes_on_after_a_failure`.

mod builder;
mod counts;
mod map;
#[cfg(feature = "tower")]
mod member;
mod outcome;
mod report;
mod state;
mod stream;
mod submit;
mod ticket;
mod wait;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::SubmitError;
pub use crate::group::builder::GroupBuilder;
pub use crate::group::counts::GroupCounts;
pub use crate::group::map::{Iter, Map};
#[cfg(feature = "tower")]
pub(crate) use crate::group::member::{GroupHandle, MemberGuard};
pub use crate::group::outcome::Outcome;
pub use crate::group::report::{GroupError, GroupReport};
use crate::group::state::{GroupConfig, GroupState, MemberSink};
pub use crate::group::stream::Outcomes;
pub use crate::group::submit::{
    GroupSchedule, GroupScheduleOwned, GroupScheduleWithin, GroupTryGo, GroupTryGoOwned,
};
pub use crate::group::ticket::JobTicket;
pub use crate::group::wait::{Next, TryJoin, Wait};
use crate::pool::{Pool, PoolWith, Shared, Submission};
use crate::trace::Place;

/// Jobs of one pool that belong together: submitted through `&self`, waited for as one, each with
/// its result.
///
/// A group costs no task. It waits for its own jobs alone; other jobs of the pool do not matter.
///
/// **The verdict is shared, outcomes are given out once.** [`wait`](Self::wait) returns a
/// [`GroupReport`] that every waiter sees alike: it says whether all jobs of the group succeeded,
/// from its start on. The outcome of a job goes to the reader that takes it first:
/// [`outcomes`](Self::outcomes), [`next`](Self::next), [`try_join`](Self::try_join) or
/// [`take_outcomes`](Self::take_outcomes). Decide by the report or by `try_join`, never by a list of
/// outcomes that another reader may have emptied. Use a new group for each message or request.
///
/// The group keeps an outcome until it is taken. A group that lives long is read with `outcomes`, or
/// built with [`discard_outcomes`](GroupBuilder::discard_outcomes).
///
/// Clones are handles of the same group. **Dropping the last handle cancels the jobs that are
/// left**, unless [`detach`](Self::detach) was called or a stream of outcomes is left. A group keeps
/// its pool open.
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
/// let report = group.wait().await;
/// let acknowledged = report.is_success(); // the same for each waiter
/// assert!(acknowledged);
/// assert_eq!(group.take_outcomes()[2].result.as_deref().unwrap(), "C");
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
pub struct Group<T> {
    state: Arc<GroupState<T>>,
    // Keeps the pool open. The jobs hold `state` alone, so they do not.
    pool: Pool,
    name: Arc<str>,
}

impl Pool {
    /// Makes a group for jobs of this pool that return a `T`.
    #[doc(alias = "JoinSet")]
    pub fn group<T: Send + 'static>(&self) -> Group<T> {
        let name = self.shared().config.name.clone();
        Group::new(self.clone(), None, GroupConfig::default(), name)
    }

    /// Starts a group with settings: a quota, a name, what counts as a failure, what a failure does.
    pub fn group_builder<T: Send + 'static>(&self) -> GroupBuilder<T> {
        GroupBuilder::new(self.clone())
    }
}

impl PoolWith<'_> {
    /// [`Pool::group`], with these options for all jobs of the group.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millpond::{JobOptions, Pool, Priority};
    ///
    /// let pool = Pool::new(4);
    /// let reports = pool.with(JobOptions::new().priority(Priority::Background)).group();
    /// for month in 1..=12u32 {
    ///     reports.schedule(async move { month }).await?;
    /// }
    /// assert_eq!(reports.try_join().await?.len(), 12);
    /// # Ok(())
    /// # }
    /// ```
    pub fn group<T: Send + 'static>(&self) -> Group<T> {
        self.group_builder().build().expect("a group without a quota")
    }

    /// [`Pool::group_builder`], with these options for all jobs of the group.
    pub fn group_builder<T: Send + 'static>(&self) -> GroupBuilder<T> {
        let (pool, options) = self.parts();
        pool.group_builder().options(options.clone())
    }
}

impl<T: Send + 'static> Group<T> {
    fn new(pool: Pool, quota: Option<usize>, config: GroupConfig<T>, name: Arc<str>) -> Self {
        let shared = pool.shared().clone();
        let quota = quota.map(|limit| shared.add_quota(limit));
        Self { state: Arc::new(GroupState::new(shared, quota, config)), pool, name }
    }

    /// Runs a job of the group; waits in the wait list if the pool or the group's quota is full.
    /// See [`Pool::schedule`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule`]; also [`GroupClosed`](crate::SubmitErrorKind::GroupClosed) once the
    /// group is closed, and [`GroupFailed`](crate::SubmitErrorKind::GroupFailed) after a failure
    /// under [`cancel_on_failure`](GroupBuilder::cancel_on_failure). Both reach a caller that stands
    /// in the wait list, at once.
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

    /// [`schedule`](Self::schedule) as a future that borrows nothing: it keeps a handle of the group,
    /// so it can be spawned.
    ///
    /// # Errors
    ///
    /// Returns the errors of `schedule`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let group = millpond::Pool::new(2).group();
    /// tokio::spawn(group.schedule_owned(async { 7 })).await??;
    /// assert!(group.wait().await.is_success());
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn schedule_owned<F>(&self, job: F) -> GroupScheduleOwned<F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupScheduleOwned::new(self.clone(), job)
    }

    /// [`schedule`](Self::schedule) with a limit for the wait; see [`Pool::schedule_within`].
    ///
    /// # Errors
    ///
    /// Those of `schedule`, and [`TimedOut`](crate::SubmitErrorKind::TimedOut) if there was no room in the
    /// pool, or in the group's quota, within the limit.
    #[track_caller]
    pub fn schedule_within<F>(&self, limit: Duration, job: F) -> GroupScheduleWithin<'_, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupScheduleWithin::new(&self.state, limit, job)
    }

    /// Runs a job of the group, or refuses it at once. See [`Pool::try_schedule`].
    ///
    /// # Errors
    ///
    /// As [`Pool::try_schedule`]; also [`GroupFull`](crate::SubmitErrorKind::GroupFull) if the group's
    /// quota is used up, [`GroupClosed`](crate::SubmitErrorKind::GroupClosed) and
    /// [`GroupFailed`](crate::SubmitErrorKind::GroupFailed).
    #[track_caller]
    pub fn try_schedule<F>(&self, job: F) -> Result<JobTicket, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (shared, sink) = (&*self.state.shared, MemberSink::new(&self.state));
        let submitted = Submission::try_schedule(shared, job, sink, Place::caller(), None);
        self.state.count_refusal(&submitted);
        submitted
    }

    /// Runs a job of the group, beyond the size if the pool is full. The quota does not apply. See
    /// [`Pool::schedule_always`].
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule_always`]; also
    /// [`GroupClosed`](crate::SubmitErrorKind::GroupClosed) and
    /// [`GroupFailed`](crate::SubmitErrorKind::GroupFailed).
    #[track_caller]
    pub fn schedule_always<F>(&self, job: F) -> Result<JobTicket, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let submitted = self.submission(job).schedule_always();
        self.state.count_refusal(&submitted);
        submitted
    }

    /// Runs a job of the group, in the caller if the pool or the quota is full. See
    /// [`Pool::try_go`].
    ///
    /// # Errors
    ///
    /// Returns the job if the pool or the group is closed, or if the group has failed.
    #[track_caller]
    pub fn try_go<F>(&self, job: F) -> GroupTryGo<'_, F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupTryGo::new(&self.state, job)
    }

    /// [`try_go`](Self::try_go) as a future that borrows nothing: it keeps a handle of the group, so
    /// it can be spawned.
    ///
    /// # Errors
    ///
    /// Returns the errors of `try_go`.
    #[track_caller]
    pub fn try_go_owned<F>(&self, job: F) -> GroupTryGoOwned<F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        GroupTryGoOwned::new(self.clone(), job)
    }

    /// Commits a job of the group; the job runs in its turn. See [`Pool::anyway_go`].
    ///
    /// # Errors
    ///
    /// Returns the job if the pool or the group is closed, or if the group has failed.
    #[track_caller]
    pub fn anyway_go<F>(&self, job: F) -> Result<JobTicket, SubmitError<F>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let submitted = self.submission(job).anyway_go();
        self.state.count_refusal(&submitted);
        submitted
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

    /// Waits for the end of every job of the group. Returns a report of all jobs since the group was
    /// made, and takes no outcome.
    ///
    /// The wait includes jobs that are submitted meanwhile. Callers in the wait list do not count,
    /// because they have submitted nothing yet. A group without jobs is ready at once. The group
    /// stays usable. After [`close`](Self::close), no job of the group starts behind the wait.
    ///
    /// Any number of tasks may wait. Each gets the same report.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn wait(&self) -> Wait<'_, T> {
        Wait::new(&self.state, false)
    }

    /// Like [`wait`](Self::wait), but the first failure cancels the jobs that are left. A failure from
    /// before the wait counts, too.
    ///
    /// This cancels the jobs that the group has at that moment, once. It does not stop a feeder beside
    /// it: a caller in the wait list and later submits still run, and the wait includes them. To stop
    /// the feeder as well, build the group with
    /// [`cancel_on_failure`](GroupBuilder::cancel_on_failure) and call `wait`.
    pub fn wait_or_cancel_on_failure(&self) -> Wait<'_, T> {
        Wait::new(&self.state, true)
    }

    /// Waits for every job and returns their values in the order of submission; or, if a job of the
    /// group failed, the outcome that failed **first in time**.
    ///
    /// A failure cancels the jobs that are left, like
    /// [`wait_or_cancel_on_failure`](Self::wait_or_cancel_on_failure). The result comes when all jobs
    /// have ended. The error never is a cancellation that another failure caused. The other outcomes
    /// stay in the group.
    ///
    /// A feeder beside it goes on: the jobs that it submits meanwhile run, and the result waits for
    /// them, too. To stop the feeder as well, build the group with
    /// [`cancel_on_failure`](GroupBuilder::cancel_on_failure).
    ///
    /// An `Ok` says that no job of the group failed, from its start on and whatever other readers
    /// took. Each value is given out once: the list has those that no other reader took. So let one
    /// task join.
    ///
    /// # Errors
    ///
    /// [`GroupError`], with the index and the result of the first failure.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no outcome.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(4);
    /// let group = pool.group();
    /// for n in 0..10u32 {
    ///     group.schedule(async move { n * n }).await?;
    /// }
    /// let squares = group.try_join().await?;
    /// assert_eq!(squares[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "join_all")]
    #[doc(alias = "try_join_all")]
    pub fn try_join(&self) -> TryJoin<'_, T> {
        TryJoin::new(&self.state)
    }

    /// Waits for the end of any job and takes its outcome, in the order of completion.
    ///
    /// Returns `None` when no job is running and every outcome was taken, like
    /// `JoinSet::join_next`. Jobs that are submitted later have outcomes again. So a reader that
    /// starts before its feeder gets `None` at once: use [`outcomes`](Self::outcomes) there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no outcome.
    #[doc(alias = "join_next")]
    pub fn next(&self) -> Next<'_, T> {
        Next::new(&self.state)
    }

    /// Returns the outcomes as a stream, in the order of completion.
    ///
    /// The stream is pending while the group is empty and open. It ends when the group is closed, or
    /// has failed, or has no handle left, and every outcome was taken. So one task can feed the group
    /// and another can read it:
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(4);
    /// let group = pool.group();
    /// let mut outcomes = group.outcomes();
    /// let feeder = tokio::spawn(async move {
    ///     for n in 0..100u64 {
    ///         group.schedule(async move { n }).await.expect("the group is open");
    ///     }
    ///     // The last handle of the group is dropped here. With clones left, call `close`.
    /// });
    /// let mut sum = 0;
    /// while let Some(outcome) = outcomes.next().await {
    ///     sum += outcome.into_result()?;
    /// }
    /// feeder.await?;
    /// assert_eq!(sum, 4_950);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "Stream")]
    pub fn outcomes(&self) -> Outcomes<T> {
        Outcomes::new(&self.state, &self.pool)
    }

    /// Takes the outcomes that are there, in the order of submission. Does not wait.
    ///
    /// After a [`wait`](Self::wait) of the only reader these are the outcomes of all jobs. If another
    /// reader takes outcomes too, the list may be empty although jobs failed. So let the report say
    /// whether all succeeded.
    pub fn take_outcomes(&self) -> Vec<Outcome<T>> {
        self.state.take_outcomes()
    }

    /// Returns how the jobs have ended so far, without waiting.
    pub fn report(&self) -> GroupReport {
        self.state.report()
    }

    /// Cancels the jobs that the group has now. Their outcomes still come, and the group takes new
    /// jobs. Under [`cancel_on_failure`](GroupBuilder::cancel_on_failure), this does not fail the
    /// group.
    ///
    /// A job that [`try_go`](Self::try_go) runs in its caller is not cancelled. Dropping that
    /// future cancels it.
    #[doc(alias = "abort_all")]
    pub fn cancel(&self) {
        self.state.cancel();
    }

    /// Cancels the jobs of the group that have no slot yet: those in the queue, and those that were
    /// committed by [`anyway_go`](Self::anyway_go). Returns how many. Jobs that run go on.
    ///
    /// Callers in the wait list own their jobs, so they keep both their jobs and their places;
    /// [`close`](Self::close) gives those jobs back. See [`Pool::cancel_waiting`].
    pub fn cancel_waiting(&self) -> usize {
        self.state.cancel_waiting()
    }

    /// Closes the group: it takes no more jobs. The pool stays open.
    ///
    /// Callers in the wait list get their jobs back at once, with
    /// [`SubmitErrorKind::GroupClosed`](crate::SubmitErrorKind::GroupClosed). Jobs that were admitted
    /// run, also those that are queued or committed; [`cancel_waiting`](Self::cancel_waiting) takes
    /// them out. After `close` and `wait`, no job of the group starts.
    pub fn close(&self) {
        self.state.close();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.state.is_closed()
    }

    /// Whether a failure has stopped the group; see
    /// [`cancel_on_failure`](GroupBuilder::cancel_on_failure).
    pub fn is_failed(&self) -> bool {
        self.state.is_failed()
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

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        self.state.add_handle();
        Self { state: self.state.clone(), pool: self.pool.clone(), name: self.name.clone() }
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        self.state.drop_handle();
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("running", &self.state.running())
            .field("closed", &self.state.is_closed())
            .finish_non_exhaustive()
    }
}
