//! The ways into a pool for jobs of any type: straight in, or as guests of a group.
//!
//! A guest counts in its group as its own jobs do: in its length, for `wait`, under its quota, and
//! `cancel` reaches it. But it leaves no outcome there: its result goes to its handle.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::{Closed, JobError, TryScheduleError};
use crate::group::Group;
use crate::group::state::Members;
use crate::pool::{
    AcquireOutcome, CallerRunsJob, JobArc, JobHandle, Nested, OnFull, OutputSink, Pool,
    RawJoinHandle, Reserver, Shared, Submission,
};

#[derive(Clone)]
pub(crate) struct Door {
    pool: Pool,
    host: Option<HostHandle>,
}

#[derive(Clone)]
struct HostHandle {
    members: Arc<dyn Host>,
    /// A handle of the group: without one it would cancel its jobs.
    _group: Arc<dyn Any + Send + Sync>,
}

/// A job that runs in its caller.
pub(crate) type Here<F> = CallerRunsJob<Arc<Shared>, F, Guest>;

/// What became of a job that may run in its caller.
pub(crate) enum Entry<T, H> {
    In(JobHandle<T>),
    Here(H),
}

impl Door {
    pub(crate) fn to_pool(pool: &Pool) -> Self {
        Self { pool: pool.clone(), host: None }
    }

    /// `None` if the group belongs to another pool.
    pub(crate) fn through<T: Send + 'static>(&self, group: &Group<T>) -> Option<Self> {
        let same = Arc::ptr_eq(self.pool.shared(), group.pool.shared());
        let host = HostHandle { members: group.members.clone(), _group: Arc::new(group.clone()) };
        same.then(|| Self { pool: self.pool.clone(), host: Some(host) })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn reserver(&self) -> Reserver {
        let quota = self.host.as_ref().and_then(|host| host.members.quota());
        Reserver::new(self.pool.clone(), quota)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.pool.is_closed() || self.host.as_ref().is_some_and(|host| host.members.is_closed())
    }

    fn is_shut_to_guests(&self) -> bool {
        self.host.is_some() && self.is_closed()
    }

    /// Refuses a job at once, before it is made, if it is clear that there is no room for it.
    #[inline]
    pub(crate) fn refuse_if_full(&self) -> bool {
        self.host.is_none() && self.pool.shared().refuse_if_full()
    }

    /// Whether a job that would deadlock is to run in its caller.
    pub(crate) fn nests_inline(&self) -> bool {
        self.pool.shared().nested() == Nested::Inline
    }

    /// Runs a job in the slot reserved by a reserver of this door.
    pub(crate) fn submit_reserved<F>(
        &self,
        reserver: &mut Reserver,
        job: F,
    ) -> Result<JobHandle<F::Output>, Closed<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.is_shut_to_guests() {
            reserver.release();
            return Err(Closed(job));
        }
        reserver.submit_reserved(job, self.guest())
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

    pub(crate) fn try_go<F>(&self, job: F) -> Result<Entry<F::Output, Here<F>>, Closed<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.is_shut_to_guests() {
            return Err(Closed(job));
        }
        let mut submission = Submission::new(self.pool.shared(), job, self.guest());
        match submission.admit(OnFull::RunInCaller) {
            AcquireOutcome::RunInCaller => {
                Ok(Entry::Here(submission.take_in_caller(self.pool.shared().clone())))
            }
            AcquireOutcome::Closed => Err(Closed(submission.take_job())),
            _ => Ok(Entry::In(submission.take_handle())),
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
        if self.is_shut_to_guests() {
            return Err(TryScheduleError::Closed(job));
        }
        Submission::new(self.pool.shared(), job, self.guest()).submit(on_full)
    }

    fn guest(&self) -> Guest {
        Guest { host: self.host.as_ref().map(|host| host.members.clone()), index: None }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("pool", &self.pool)
            .field("group", &self.host.is_some())
            .finish_non_exhaustive()
    }
}

/// A group as its guests see it, whatever its own jobs return.
trait Host: Send + Sync {
    fn quota(&self) -> Option<usize>;
    fn is_closed(&self) -> bool;
    /// Counts a guest in.
    fn welcome(&self, job: Option<&JobArc>) -> usize;
    /// Counts it out.
    fn dismiss(&self, index: usize);
}

impl<T: Send + 'static> Host for Members<T> {
    fn quota(&self) -> Option<usize> {
        self.quota
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn welcome(&self, job: Option<&JobArc>) -> usize {
        self.add(job)
    }

    fn dismiss(&self, index: usize) {
        self.remove(index, None);
    }
}

/// Counts a job out of its group when that has ended.
pub(crate) struct Guest {
    host: Option<Arc<dyn Host>>,
    index: Option<usize>,
}

impl<R: Send + 'static> OutputSink<R> for Guest {
    const PUSHES: bool = false;
    const DROPPED_AT_END: bool = true;

    type Handle = JobHandle<R>;

    fn quota(&self) -> Option<usize> {
        self.host.as_ref().and_then(|host| host.quota())
    }

    fn on_admit(&mut self, job: Option<&JobArc>) {
        self.index = self.host.as_ref().map(|host| host.welcome(job));
    }

    fn handle(join: RawJoinHandle<R>) -> JobHandle<R> {
        JobHandle::pooled(join)
    }

    fn finished_handle(self, outcome: Result<R, JobError>) -> JobHandle<R> {
        JobHandle::finished(outcome)
    }

    fn push_output(self, _: Result<R, JobError>) {}
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let (Some(host), Some(index)) = (&self.host, self.index) {
            host.dismiss(index);
        }
    }
}
