//! The one way of a job into the pool.
//!
//! A verb of [`Pool`](crate::Pool), of [`Group`](crate::Group) or of a layer makes a
//! [`Submission`]: the job and the sink of its output. The verbs without a wait are the methods of
//! this type. The waiting ones, [`schedule`](super::schedule) and [`try_go`](super::try_go), hold a
//! submission or make one at their first poll. The head of [`submit`](super) has the stages and the
//! invariants.
//!
//! No lock of the pool is held here, except inside [`PendingJob`]: the limiter calls that with a
//! lock of its own. Those methods therefore run no code of the job.

use std::future::Future;
use std::ops::Deref;
use std::task::{Context, Poll};

use crate::error::{SubmitError, SubmitErrorKind};
use crate::pool::Pool;
use crate::pool::context::may_run_in_caller;
use crate::pool::job::{self, AdmittedJob, JobGroup, Meta, NewJob, OutputSink, Runnable, SlotKind};
use crate::pool::limiter::counts::ReleaseReason;
use crate::pool::limiter::measured::CallerKey;
use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::limiter::{AcquireOutcome, Offer, OnFull, PendingJob};
use crate::pool::options::{JobOptions, Requirements};
use crate::pool::scheduler::shared::Shared;
use crate::pool::submit::caller_runs::CallerRunsJob;
use crate::trace::Place;

/// How a submission refers to its pool: by a reference, or by a handle that keeps the pool open.
///
/// The clone of a reference costs nothing, so the borrowing verbs do not pay for the owning ones.
pub(crate) trait PoolRef: Deref<Target = Shared> + Clone {}

impl<C: Deref<Target = Shared> + Clone> PoolRef for C {}

/// The handle of the owning futures.
#[derive(Clone)]
pub(crate) struct OwnedPool(pub(super) Pool);

impl Deref for OwnedPool {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        self.0.shared()
    }
}

/// A job on its way into the pool, with the sink of its output.
pub(crate) struct Submission<C: PoolRef, F: Future, S> {
    // Words of their own, and no enum: a value of two words that was just written is slow to move.
    /// The job, until it is admitted or taken back.
    new_job: Option<NewJob<F, S>>,
    /// The admitted job, until its handle is taken.
    admitted: Option<AdmittedJob<F, S>>,
    /// The admitted job's index in its group.
    index: usize,
    /// Present until the job is admitted, or runs in its caller.
    sink: Option<S>,
    // Declared last: the job is dropped before a future that owns its pool lets go of the pool.
    pub(super) shared: C,
}

impl<C: PoolRef, F: Future, S> Drop for Submission<C, F, S> {
    // Inlined, so that a submission that has done its work costs two tests.
    #[inline(always)]
    fn drop(&mut self) {
        if self.new_job.is_some() || self.admitted.is_some() {
            drop_jobs(self.new_job.take(), self.admitted.take());
        }
    }
}

#[cold]
fn drop_jobs<F: Future, S>(new_job: Option<NewJob<F, S>>, admitted: Option<AdmittedJob<F, S>>) {
    drop((new_job, admitted));
}

/// What `try_go` makes of a job.
pub(crate) enum Submitted<C: Deref<Target = Shared>, F: Future, S: OutputSink<F::Output>> {
    /// The pool has the job; this is its handle.
    Pool(S::Handle),
    /// The caller is to poll this job.
    Caller(CallerRunsJob<C, F, S>),
}

impl<C, F, S> Submission<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    #[track_caller]
    #[inline(always)]
    pub(crate) fn new(shared: C, job: F, sink: S) -> Self {
        Self::with(shared, job, sink, Place::caller(), None)
    }

    /// As [`new`](Self::new), with options, for a future that was made at `place`. Without options the
    /// job has those of its group.
    ///
    /// The job goes to its cell at once: it is moved once, and a future that waits stays small.
    #[track_caller]
    #[inline(always)]
    pub(crate) fn with(
        shared: C,
        job: F,
        sink: S,
        place: Place,
        options: Option<&JobOptions>,
    ) -> Self {
        shared.ensure_runtime();
        let options = options.or_else(|| sink.group().and_then(JobGroup::options));
        let meta = Meta::new(shared.config.propagate_span, place, options, sink.label());
        let new_job = job::allocate_job(job, meta, shared.id());
        Self { new_job: Some(new_job), admitted: None, index: 0, sink: Some(sink), shared }
    }

    /// Admits the job, or gives the job back at once. A full pool refuses without an allocation.
    #[inline]
    pub(crate) fn try_schedule(
        shared: C,
        job: F,
        sink: S,
        place: Place,
        options: Option<&JobOptions>,
    ) -> Result<S::Handle, SubmitError<F>> {
        let decides_alone =
            |group: &dyn JobGroup| group.quota().is_none() && group.refusal().is_none();
        shared.ensure_runtime();
        if sink.group().is_none_or(decides_alone) && shared.limiter.refuse_if_full() {
            shared.log_refused(SubmitErrorKind::Full);
            return Err(SubmitError::new(SubmitErrorKind::Full, job));
        }
        Self::with(shared, job, sink, place, options).submit(OnFull::Refuse)
    }

    /// Admits the job beyond the size if the pool is full, up to the pool's overflow limit.
    #[inline]
    pub(crate) fn schedule_always(self) -> Result<S::Handle, SubmitError<F>> {
        let limit = self.shared.overflow_limit();
        self.submit(OnFull::Overflow { limit })
    }

    /// Admits the job, or commits the job to the wait list.
    #[inline]
    pub(crate) fn anyway_go(mut self) -> Result<S::Handle, SubmitError<F>> {
        let outcome = self.admit(OnFull::Commit);
        self.conclude(outcome)
    }

    /// Admits the job, or returns it as a future that the caller polls. Where such jobs are nested too
    /// deeply, commits the job to the wait list instead.
    #[inline]
    pub(crate) fn try_go<D: Deref<Target = Shared>>(
        mut self,
        shared: D,
    ) -> Result<Submitted<D, F, S>, SubmitError<F>> {
        let on_full = if may_run_in_caller() { OnFull::RunInCaller } else { OnFull::Commit };
        match self.admit(on_full) {
            AcquireOutcome::RunInCaller(key) => {
                Ok(Submitted::Caller(self.take_in_caller(shared, key)))
            }
            AcquireOutcome::Refused(kind) => Err(self.take_refused(kind)),
            _ => Ok(Submitted::Pool(self.take_handle())),
        }
    }

    /// Spends a reserved slot on the job. If the job is refused, the slot is released all the same.
    #[inline]
    pub(crate) fn submit_reserved(mut self) -> Result<S::Handle, SubmitError<F>> {
        let (shared, quota) = (self.shared.clone(), self.quota());
        let outcome = match self.sink_refusal() {
            Some(kind) => {
                shared.release_slot(quota, ReleaseReason::Unused);
                AcquireOutcome::Refused(kind)
            }
            None => shared.submit_reserved(&mut self, quota),
        };
        self.conclude(outcome)
    }

    #[inline]
    fn submit(mut self, on_full: OnFull<'_>) -> Result<S::Handle, SubmitError<F>> {
        let outcome = self.admit(on_full);
        self.conclude(outcome)
    }

    /// Turns the outcome of a verb without a wait into the verb's result.
    #[inline]
    fn conclude(&mut self, outcome: AcquireOutcome) -> Result<S::Handle, SubmitError<F>> {
        match outcome {
            AcquireOutcome::Refused(kind) => Err(self.take_refused(kind)),
            _ => Ok(self.take_handle()),
        }
    }

    /// Offers the job to the limiter (P1), unless the group takes no more jobs already (P2).
    #[inline]
    pub(super) fn admit(&mut self, on_full: OnFull<'_>) -> AcquireOutcome {
        if let Some(kind) = self.sink_refusal() {
            return AcquireOutcome::Refused(kind);
        }
        let (shared, quota) = (self.shared.clone(), self.quota());
        shared.admit(self, quota, on_full)
    }

    fn sink_refusal(&self) -> Option<SubmitErrorKind> {
        self.sink.as_ref().and_then(S::group).and_then(JobGroup::refusal)
    }

    fn quota(&self) -> Option<usize> {
        self.sink.as_ref().and_then(S::group).and_then(JobGroup::quota)
    }

    /// Returns the refusal with the job.
    pub(super) fn take_refused(&mut self, kind: SubmitErrorKind) -> SubmitError<F> {
        SubmitError::new(kind, self.take_job())
    }

    /// Returns the job after a refusal.
    fn take_job(&mut self) -> F {
        match (self.new_job.take(), self.admitted.take()) {
            (Some(new_job), _) => new_job.take_back(),
            (None, Some(admitted)) => admitted.take_back(),
            (None, None) => unreachable!("a refused job is still here"),
        }
    }

    /// Returns the handle after an admission.
    #[inline(always)]
    pub(super) fn take_handle(&mut self) -> S::Handle {
        let admitted = self.admitted.take().expect("an admitted job has a join handle");
        S::handle(admitted.join, self.index)
    }

    /// Waits until the admitted job has left the wait list. Returns whether the job was given back.
    pub(super) fn poll_started(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let admitted = self.admitted.as_mut().expect("a job that waits for its start is admitted");
        admitted.poll_started(cx).map(|()| admitted.join.job().is_given_back())
    }

    /// Takes the admitted job out of the wait list, because its time is over. Returns whether the job is
    /// back; otherwise it has left the wait list before.
    pub(super) fn time_out(&mut self) -> bool {
        self.admitted.as_ref().is_some_and(|admitted| admitted.join.job().time_out())
    }

    /// Returns the job for its caller to run. The limiter has counted the job as `in_caller`, and
    /// the sink has admitted it.
    pub(super) fn take_in_caller<D: Deref<Target = Shared>>(
        &mut self,
        shared: D,
        key: CallerKey,
    ) -> CallerRunsJob<D, F, S> {
        let new_job = self.new_job.take().expect("a job without admission is here");
        let sink = self.sink.take().expect("a job without admission keeps its sink");
        CallerRunsJob::new(shared, new_job, sink, key)
    }
}

impl<C: PoolRef, F: Future, S> Submission<C, F, S> {
    /// Aborts the admitted job, unless it is taken out of the wait list or given back.
    #[cfg(feature = "tower")]
    pub(super) fn abort_started(&mut self) {
        if !self.withdraw() {
            if let Some(admitted) = &self.admitted {
                admitted.join.job().abort();
            }
        }
    }

    /// Takes the admitted job out of the wait list, because its submitter goes away. A job that has
    /// started goes on. Returns whether the job was given back before.
    pub(super) fn withdraw(&mut self) -> bool {
        let Some(admitted) = &self.admitted else { return false };
        admitted.join.job().withdraw();
        admitted.join.job().is_given_back()
    }
}

impl<C, F, S> PendingJob for Submission<C, F, S>
where
    C: PoolRef,
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    fn offer(&self) -> Offer<'_> {
        let new_job = self.new_job.as_ref().expect("a job on offer is here");
        let sink = self.sink.as_ref();
        let is_request = sink.is_some_and(S::is_request);
        Offer {
            group: sink.and_then(S::group),
            label: sink.and_then(S::label),
            requirements: Requirements { is_request, ..new_job.requirements() },
        }
    }

    // Inlined: as a call it costs a tiny job some 3 % more instructions.
    #[inline(always)]
    fn admit(&mut self, slot_kind: SlotKind) -> Result<Runnable, SubmitErrorKind> {
        let (Some(new_job), Some(sink)) = (&self.new_job, &mut self.sink) else {
            unreachable!("the limiter admits a job once");
        };
        self.index = new_job.enter(sink)?;
        let (Some(new_job), Some(sink)) = (self.new_job.take(), self.sink.take()) else {
            unreachable!("the job and its sink were here just now");
        };
        let (job, admitted) = new_job.admit(sink, slot_kind);
        self.admitted = Some(admitted);
        Ok(job)
    }

    fn admit_waiting(
        &mut self,
        slot_kind: SlotKind,
        waiter_key: WaiterKey,
    ) -> Result<Runnable, SubmitErrorKind> {
        if let Some(new_job) = &self.new_job {
            new_job.enter_wait_list(&|| self.shared.arc(), waiter_key);
        }
        PendingJob::admit(self, slot_kind)
    }

    fn admit_in_caller(&mut self) -> Result<(), SubmitErrorKind> {
        let sink = self.sink.as_mut().expect("a job without admission keeps its sink");
        sink.on_admit(None).map(|_| ())
    }
}
