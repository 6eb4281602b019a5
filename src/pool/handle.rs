//! What a submitter keeps of its job: the handle, and ways to abort.
//!
//! The verbs of `pool/submit` and the layer return these types. A [`JobHandle`] owns the right to the
//! output; the cell in `pool/job` keeps the output itself. The output of a job that ran in its caller
//! gets a cell at the end.
//! No lock is taken here. A handle must resolve only after the job's destructor ran and its slot is
//! free: `Runnable::publish` is the last step of a job for that reason.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{JobError, SubmitErrorKind};
use crate::pool::job::{JobArc, OutputSink, RawJoinHandle, finished_job};

/// The right to a job's output: a future of `Result<T, JobError>`.
///
/// A dropped handle detaches its job. The job continues, and its output is dropped with the last
/// abort handle. [`abort_on_drop`](Self::abort_on_drop) does the opposite.
///
/// When the handle resolves, the job's destructor has run and the job's slot is free. A
/// `try_schedule` right after that finds the slot.
///
/// # Errors
///
/// [`JobError::Cancelled`] if the job was aborted, or if its pool, group or runtime was shut down.
/// [`JobError::Panicked`] if the job panicked.
///
/// # Cancel safety
///
/// A `&mut JobHandle` may be awaited and dropped any number of times. The output stays with the job.
///
/// # Panics
///
/// A poll after the handle was ready panics.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(2);
/// let handle = pool.schedule(async { 6 * 7 }).await?;
/// assert_eq!(handle.await?, 42);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "JoinHandle")]
#[must_use = "dropping a handle detaches its job; its output is lost"]
pub struct JobHandle<T>(
    /// `None` once the output was taken.
    Option<RawJoinHandle<T>>,
);

impl<T> JobHandle<T> {
    /// Cancels the job: the job is dropped where it last suspended, or before it starts.
    ///
    /// A job that is being polled is cancelled once that poll returns, unless the poll returned the
    /// output. The handle then resolves to [`JobError::Cancelled`], or to the output if the job
    /// ended first.
    ///
    /// A [`blocking`](crate::blocking) closure that has started cannot be stopped. Its job keeps
    /// the slot until the closure has returned. If the job ends with the closure, the handle
    /// resolves to the closure's value.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let handle = pool.schedule(std::future::pending::<()>()).await?;
    /// handle.abort();
    /// assert!(handle.await.unwrap_err().is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    pub fn abort(&self) {
        if let Some(join) = &self.0 {
            join.job().abort();
        }
    }

    /// Returns a handle that can abort the job, without the right to the output.
    pub fn abort_handle(&self) -> AbortHandle {
        match &self.0 {
            Some(join) => AbortHandle::new(join.job().clone()),
            None => AbortHandle::finished(),
        }
    }

    /// Whether the job has completed, panicked or been cancelled. The handle then resolves at once.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(|join| join.job().is_finished())
    }

    /// Turns the handle into one that aborts its job when dropped.
    pub fn abort_on_drop(self) -> AbortOnDropHandle<T> {
        AbortOnDropHandle(Some(self))
    }

    /// Drops the handle and lets the job continue. Same as `drop`, but states the intent.
    pub fn detach(self) {}

    pub(crate) fn pooled(join: RawJoinHandle<T>) -> Self {
        Self(Some(join))
    }

    /// The handle of a job that ran in its caller and has ended.
    pub(crate) fn finished(output: Result<T, JobError>) -> Self
    where
        T: Send + 'static,
    {
        Self(Some(finished_job(output, StoreOutput)))
    }

    /// Waits until the job has left the wait list. Called by `AnywayGo`.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_ref().map_or(Poll::Ready(()), |join| join.job().poll_started(cx))
    }
}

impl<T> Future for JobHandle<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A loop that awaits many finished handles would never yield without a budget.
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let join = self.0.as_mut().expect("`JobHandle` polled after completion");
        ready!(join.poll_done(cx));
        let output = join.take();
        // The cell is not needed any more, even if the handle is kept.
        if let Some(join) = self.0.take() {
            join.release_taken();
        }
        budget.made_progress();
        Poll::Ready(output.expect("a complete job has its output until the handle takes it"))
    }
}

/// The sink that leaves the output in the job's cell, for a [`JobHandle`].
pub(crate) struct StoreOutput;

impl<T: Send + 'static> OutputSink<T> for StoreOutput {
    const PUSHES: bool = false;

    type Handle = JobHandle<T>;

    #[inline]
    fn on_admit(&mut self, _: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        Ok(0)
    }

    #[inline]
    fn handle(join: RawJoinHandle<T>, _: usize) -> JobHandle<T> {
        JobHandle::pooled(join)
    }

    fn finished_handle(self, output: Result<T, JobError>) -> JobHandle<T> {
        JobHandle::finished(output)
    }

    fn push_output(self, _: Result<T, JobError>) {}
}

// The output is moved out and never pinned.
impl<T> Unpin for JobHandle<T> {}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// Can abort a job, without the right to the job's output; from [`JobHandle::abort_handle`].
///
/// A dropped abort handle neither aborts nor detaches the job. An abort handle does not keep the
/// output: once the [`JobHandle`] is dropped and the job has ended, the output is dropped.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(1);
/// let handle = pool.schedule(std::future::pending::<()>()).await?;
/// let abort = handle.abort_handle();
/// tokio::spawn(async move { abort.abort() });
/// assert!(handle.await.unwrap_err().is_cancelled());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AbortHandle(Option<JobArc>);

impl AbortHandle {
    pub(crate) fn new(job: JobArc) -> Self {
        Self(Some(job))
    }

    /// The handle of a job that ran in its caller and has ended.
    pub(crate) fn finished() -> Self {
        Self(None)
    }

    /// Cancels the job; see [`JobHandle::abort`].
    pub fn abort(&self) {
        if let Some(job) = &self.0 {
            job.abort();
        }
    }

    /// Whether the job has completed, panicked or been cancelled.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JobArc::is_finished)
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// A [`JobHandle`] that aborts its job when dropped; from [`JobHandle::abort_on_drop`].
///
/// # Cancel safety
///
/// A `&mut AbortOnDropHandle` may be awaited and dropped any number of times. The drop of the handle
/// itself aborts the job.
///
/// # Panics
///
/// A poll after the handle was ready panics.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(1);
/// let handle = pool.schedule(std::future::pending::<()>()).await?;
/// let abort = handle.abort_handle();
/// drop(handle.abort_on_drop());
/// pool.wait_idle().await;
/// assert!(abort.is_finished());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it aborts the job"]
#[derive(Debug)]
pub struct AbortOnDropHandle<T>(Option<JobHandle<T>>);

impl<T> AbortOnDropHandle<T> {
    /// Turns this back into a handle whose drop detaches the job.
    pub fn into_handle(mut self) -> JobHandle<T> {
        self.0.take().expect("`into_handle` consumes the handle")
    }

    /// Cancels the job now; see [`JobHandle::abort`].
    pub fn abort(&self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }

    /// Whether the job has completed, panicked or been cancelled.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JobHandle::is_finished)
    }
}

impl<T> Future for AbortOnDropHandle<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.0.as_mut().expect("`into_handle` consumes the handle");
        Pin::new(handle).poll(cx)
    }
}

impl<T> Drop for AbortOnDropHandle<T> {
    fn drop(&mut self) {
        self.abort();
    }
}
