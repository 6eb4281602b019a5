//! A job on its way into the pool.

use std::future::Future;
use std::ops::Deref;

use crate::error::TryScheduleError;
use crate::pool::job::{self, NewJob, OutputSink, RawJoinHandle, Runnable, SlotKind};
use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::limiter::{AcquireOutcome, OnFull, PendingJob};
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::trace::JobSpan;

/// A job on its way into the pool.
pub(crate) struct Submission<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    pub(super) shared: &'a Shared,
    job: Stage<F, S>,
    sink: Option<S>,
}

enum Stage<F: Future, S> {
    Future(F),
    Allocated(NewJob<F, S>),
    Admitted(RawJoinHandle<F::Output>),
    Taken,
}

impl<'a, F, S> Submission<'a, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline]
    pub(crate) fn new(shared: &'a Shared, job: F, sink: S) -> Self {
        shared.ensure_runtime();
        Self { shared, job: Stage::Future(job), sink: Some(sink) }
    }

    /// A submission whose job is in its cell from the start.
    #[track_caller]
    #[inline]
    pub(super) fn allocated(shared: &'a Shared, job: F, sink: S) -> Self {
        shared.ensure_runtime();
        let span = JobSpan::current(shared.config.propagate_span);
        Self { shared, job: Stage::Allocated(job::allocate_job(job, span)), sink: Some(sink) }
    }

    #[inline]
    pub(crate) fn admit(&mut self, on_full: OnFull<'_>) -> AcquireOutcome {
        let shared = self.shared;
        let quota = self.sink.as_ref().and_then(S::quota);
        shared.admit(self, quota, on_full)
    }

    /// For a caller that does not wait: admits the job, or gives it back.
    #[inline]
    pub(crate) fn submit(mut self, on_full: OnFull<'_>) -> Result<S::Handle, TryScheduleError<F>> {
        match self.admit(on_full) {
            AcquireOutcome::Full => Err(TryScheduleError::Full(self.take_job())),
            AcquireOutcome::Closed => Err(TryScheduleError::Closed(self.take_job())),
            _ => Ok(self.take_handle()),
        }
    }

    /// Hands the job in for a slot that was kept for it.
    #[inline]
    pub(crate) fn submit_reserved(&mut self) -> AcquireOutcome {
        let shared = self.shared;
        let quota = self.sink.as_ref().and_then(S::quota);
        shared.submit_reserved(self, quota)
    }

    /// The job of a refused one.
    pub(crate) fn take_job(&mut self) -> F {
        match std::mem::replace(&mut self.job, Stage::Taken) {
            Stage::Future(job) => job,
            Stage::Allocated(new_job) => new_job.take_back(),
            Stage::Admitted(_) | Stage::Taken => unreachable!("a refused job is still here"),
        }
    }

    #[inline]
    pub(crate) fn take_handle(&mut self) -> S::Handle {
        match std::mem::replace(&mut self.job, Stage::Taken) {
            Stage::Admitted(join) => S::handle(join),
            _ => unreachable!("an admitted job has one"),
        }
    }

    /// The job, to be run here.
    pub(crate) fn take_in_caller<C: Deref<Target = Shared>>(
        &mut self,
        shared: C,
    ) -> CallerRunsJob<C, F, S> {
        let sink = self.sink.take().expect("the job was not admitted");
        CallerRunsJob::new(shared, self.take_job(), sink)
    }
}

impl<F, S> PendingJob for Submission<'_, F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[inline]
    fn prepare(&mut self) {
        if let Stage::Future(_) = &self.job {
            let span = JobSpan::current(self.shared.config.propagate_span);
            self.job = Stage::Allocated(job::allocate_job(self.take_job(), span));
        }
    }

    #[inline]
    fn admit(&mut self, slot_kind: SlotKind) -> Runnable {
        let (Stage::Allocated(new_job), Some(sink)) =
            (std::mem::replace(&mut self.job, Stage::Taken), self.sink.take())
        else {
            unreachable!("a job is prepared before, and admitted once");
        };
        let (job, join) = new_job.admit(sink, slot_kind);
        self.job = Stage::Admitted(join);
        job
    }

    fn admit_waiting(&mut self, slot_kind: SlotKind, waiter_key: WaiterKey) -> Runnable {
        if let Stage::Allocated(new_job) = &self.job {
            new_job.enter_wait_list(|| self.shared.arc(), waiter_key);
        }
        PendingJob::admit(self, slot_kind)
    }
}
