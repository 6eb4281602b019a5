//! The ways into a pool for jobs of any type: straight in, or as members of a group.
//!
//! A member counts in its group as its own jobs do: in its length, for `wait`, under its quota, and
//! `cancel` reaches it. But it leaves no outcome there: its result goes to its handle.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::{ClosedError, JobError, TryScheduleError};
use crate::group::Group;
use crate::group::state::GroupState;
use crate::pool::{
    AcquireOutcome, CallerRunsJob, JobArc, JobHandle, OnDeadlock, OnFull, OutputSink, Pool,
    RawJoinHandle, Reserver, Shared, Submission,
};

#[derive(Clone)]
pub(crate) struct Submitter {
    pool: Pool,
    group: Option<GroupHandle>,
}

#[derive(Clone)]
struct GroupHandle {
    state: Arc<dyn AnyGroup>,
    /// A handle of the group: without one it would cancel its jobs.
    _handle: Arc<dyn Any + Send + Sync>,
}

/// A job that runs in its caller.
pub(crate) type CallerRuns<F> = CallerRunsJob<Arc<Shared>, F, MemberGuard>;

/// What became of a job that may run in its caller.
pub(crate) enum Submitted<T, H> {
    Pool(JobHandle<T>),
    Caller(H),
}

impl Submitter {
    pub(crate) fn for_pool(pool: &Pool) -> Self {
        Self { pool: pool.clone(), group: None }
    }

    /// `None` if the group belongs to another pool.
    pub(crate) fn for_group<T: Send + 'static>(&self, group: &Group<T>) -> Option<Self> {
        let same = Arc::ptr_eq(self.pool.shared(), group.pool.shared());
        let handle = GroupHandle { state: group.state.clone(), _handle: Arc::new(group.clone()) };
        same.then(|| Self { pool: self.pool.clone(), group: Some(handle) })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn reserver(&self) -> Reserver {
        let quota = self.group.as_ref().and_then(|group| group.state.quota());
        Reserver::new(self.pool.clone(), quota)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.pool.is_closed() || self.group.as_ref().is_some_and(|group| group.state.is_closed())
    }

    fn is_group_closed(&self) -> bool {
        self.group.is_some() && self.is_closed()
    }

    /// Refuses a job at once, before it is made, if it is clear that there is no room for it.
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        self.group.is_none() && self.pool.shared().refuse_if_full()
    }

    /// Whether a job that would deadlock is to run in its caller.
    pub(crate) fn deadlock_runs_in_caller(&self) -> bool {
        self.pool.shared().on_deadlock() == OnDeadlock::RunInCaller
    }

    /// Runs a job in the slot reserved by a reserver of this door.
    pub(crate) fn submit_reserved<F>(
        &self,
        reserver: &mut Reserver,
        job: F,
    ) -> Result<JobHandle<F::Output>, ClosedError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.is_group_closed() {
            reserver.release();
            return Err(ClosedError(job));
        }
        reserver.submit_reserved(job, self.member())
    }

    pub(crate) fn try_schedule<F>(
        &self,
        job: F,
    ) -> Result<JobHandle<F::Output>, TryScheduleError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submit(job, OnFull::Refuse)
    }

    pub(crate) fn schedule_always<F>(
        &self,
        job: F,
    ) -> Result<JobHandle<F::Output>, TryScheduleError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submit(job, OnFull::Overflow { limit: self.pool.shared().overflow_limit() })
    }

    pub(crate) fn anyway_go<F>(&self, job: F) -> Result<JobHandle<F::Output>, TryScheduleError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submit(job, OnFull::Commit)
    }

    pub(crate) fn try_go<F>(
        &self,
        job: F,
    ) -> Result<Submitted<F::Output, CallerRuns<F>>, ClosedError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.is_group_closed() {
            return Err(ClosedError(job));
        }
        let mut submission = Submission::new(self.pool.shared(), job, self.member());
        match submission.admit(OnFull::RunInCaller) {
            AcquireOutcome::RunInCaller => {
                Ok(Submitted::Caller(submission.take_in_caller(self.pool.shared().clone())))
            }
            AcquireOutcome::Closed => Err(ClosedError(submission.take_job())),
            _ => Ok(Submitted::Pool(submission.take_handle())),
        }
    }

    fn submit<F>(
        &self,
        job: F,
        on_full: OnFull<'_>,
    ) -> Result<JobHandle<F::Output>, TryScheduleError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.is_group_closed() {
            return Err(TryScheduleError::Closed(job));
        }
        Submission::new(self.pool.shared(), job, self.member()).submit(on_full)
    }

    fn member(&self) -> MemberGuard {
        MemberGuard { group: self.group.as_ref().map(|group| group.state.clone()), index: None }
    }
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter")
            .field("pool", &self.pool)
            .field("group", &self.group.is_some())
            .finish_non_exhaustive()
    }
}

/// A group as its members see it, whatever its own jobs return.
trait AnyGroup: Send + Sync {
    fn quota(&self) -> Option<usize>;
    fn is_closed(&self) -> bool;
    /// Counts a member in.
    fn join(&self, job: Option<&JobArc>) -> usize;
    /// Counts it out.
    fn leave(&self, index: usize);
}

impl<T: Send + 'static> AnyGroup for GroupState<T> {
    fn quota(&self) -> Option<usize> {
        self.quota
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn join(&self, job: Option<&JobArc>) -> usize {
        self.add(job)
    }

    fn leave(&self, index: usize) {
        self.remove(index, None);
    }
}

/// Counts a job out of its group when that has ended.
pub(crate) struct MemberGuard {
    group: Option<Arc<dyn AnyGroup>>,
    index: Option<usize>,
}

impl<R: Send + 'static> OutputSink<R> for MemberGuard {
    const PUSHES: bool = false;
    const DROPPED_AT_END: bool = true;

    type Handle = JobHandle<R>;

    fn quota(&self) -> Option<usize> {
        self.group.as_ref().and_then(|group| group.quota())
    }

    fn on_admit(&mut self, job: Option<&JobArc>) {
        self.index = self.group.as_ref().map(|group| group.join(job));
    }

    fn handle(join: RawJoinHandle<R>) -> JobHandle<R> {
        JobHandle::pooled(join)
    }

    fn finished_handle(self, outcome: Result<R, JobError>) -> JobHandle<R> {
        JobHandle::finished(outcome)
    }

    fn push_output(self, _: Result<R, JobError>) {}
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        if let (Some(group), Some(index)) = (&self.group, self.index) {
            group.leave(index);
        }
    }
}
