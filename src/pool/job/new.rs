//! A job that is allocated and not admitted yet.

use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::{JobError, SubmitErrorKind};
use crate::pool::context::{NO_POOL, PoolId};
use crate::pool::job::join::RawJoinHandle;
use crate::pool::job::meta::Meta;
use crate::pool::job::raw::Cell;
use crate::pool::job::refs::{JobArc, RawJob, Runnable};
use crate::pool::job::{JobScheduler, OutputSink, SlotKind};
use crate::pool::options::{Deadline, Requirements};
use crate::sync::failpoint;
use crate::trace::Place;

/// A job in a cell of its own that no other owner has. The submitter can still take the future out
/// again.
pub(crate) struct NewJob<F, S> {
    /// Stands for both references of a new cell: the token and the join handle (S6).
    job: RawJob,
    types: PhantomData<fn(F, S)>,
}

/// The join handle of an admitted job, with the types of its cell.
pub(crate) struct AdmittedJob<F: Future, S> {
    pub(crate) join: RawJoinHandle<F::Output>,
    types: PhantomData<fn(F, S)>,
}

/// Moves a future into a cell. The future is to run on the pool `pool`.
#[inline]
pub(crate) fn allocate_job<F, S>(future: F, meta: Meta, pool: PoolId) -> NewJob<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    NewJob { job: RawJob(Cell::<F, S>::allocate(future, meta, pool)), types: PhantomData }
}

/// Makes the join handle of a job that ran in its caller and has ended. The output gets a cell, so that
/// all handles are alike.
pub(crate) fn finished_job<T, S>(output: Result<T, JobError>, sink: S) -> RawJoinHandle<T>
where
    T: Send + 'static,
    S: OutputSink<T>,
{
    let meta = Meta::new(false, Place::caller(), None, None);
    let new_job = allocate_job::<_, S>(std::future::pending::<T>(), meta, NO_POOL);
    // SAFETY: `new_job` has the token (S2), and a `Pending` needs no drop.
    unsafe { new_job.cell().finish_unpolled(output) };
    let (token, admitted) = new_job.admit(sink, SlotKind::Overflow);
    token.publish();
    admitted.join
}

impl<F, S> NewJob<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    /// Makes this a waiting job. Called before the job can be found in the wait list.
    pub(crate) fn enter_wait_list(
        &self,
        scheduler: &dyn Fn() -> Arc<dyn JobScheduler>,
        waiter_key: usize,
    ) {
        self.job.enter_wait_list(scheduler, waiter_key);
    }

    /// Counts the job in with its sink, which may refuse the job. Called right before `admit`.
    #[inline]
    pub(crate) fn enter(&self, sink: &mut S) -> Result<usize, SubmitErrorKind> {
        // A reference that is not counted: the cell has its own for as long (S6).
        sink.on_admit(Some(&ManuallyDrop::new(JobArc(self.job))))
    }

    /// Admits the job. Returns the token for the pool and the join handle for the submitter.
    #[inline]
    pub(crate) fn admit(self, sink: S, slot_kind: SlotKind) -> (Runnable, AdmittedJob<F, S>) {
        // A new cell says `Plain`, so that the common kind costs no store.
        if slot_kind != SlotKind::Plain {
            self.job.set_slot_kind(slot_kind);
        }
        if S::DROPPED_AT_END {
            // SAFETY: `self` has the token of the job, which is not complete (S2).
            unsafe { self.cell().set_sink(sink) };
        }
        let job = ManuallyDrop::new(self).job;
        // SAFETY: the cell was made for this output (S7), and this is its one join handle (S10).
        let join = unsafe { RawJoinHandle::new(JobArc(job)) };
        (Runnable(job), AdmittedJob { join, types: PhantomData })
    }

    /// What the limiter must know of the job.
    pub(crate) fn requirements(&self) -> Requirements {
        self.job.header().meta.requirements()
    }

    /// The job's deadline.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.job.header().meta.own_deadline()
    }

    /// Where the job was submitted.
    pub(crate) fn place(&self) -> Place {
        self.job.header().meta.place()
    }

    /// Takes the future out of the cell and frees the cell. Called when the job is refused.
    pub(crate) fn take_back(self) -> F {
        // SAFETY: `self` has the token (S2), and a job that was not admitted was never polled (S3).
        unsafe { self.cell().take_future() }
    }

    fn cell(&self) -> &Cell<F, S> {
        // SAFETY: `allocate_job` made the cell for these types (S7), and `self` owns it (S6).
        unsafe { Cell::from_header(self.job.0) }
    }
}

impl<F, S> Drop for NewJob<F, S> {
    fn drop(&mut self) {
        // SAFETY: a job that was not admitted has the two references that `self` stands for (S6).
        unsafe { self.job.free() };
    }
}

impl<F, S> AdmittedJob<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    /// Waits until the job has left the wait list: it starts, or it was given back.
    pub(crate) fn poll_started(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.join.job().poll_started(cx));
        if self.join.job().is_given_back() && !failpoint("taken back before it is given back") {
            // The thread that refuses the job still holds the future.
            return self.join.poll_done(cx);
        }
        Poll::Ready(())
    }

    /// Takes the future of a job that was given back.
    ///
    /// # Panics
    ///
    /// If the job was not given back.
    pub(crate) fn take_back(self) -> F {
        let job = self.join.job();
        assert!(job.is_given_back() && job.is_finished(), "a job that may run is not taken back");
        // SAFETY: `allocate_job` made the cell for these types (S7), and the join handle keeps it (S6).
        // The job is complete, and it left the wait list without a poll.
        unsafe { Cell::<F, S>::from_header(job.0.0).take_future() }
    }
}
