//! What a submitter holds of its job.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use crate::error::JobError;
use crate::pool::job::{JobArc, OutputSink, RawJoinHandle};

/// Owns the right to a job's outcome: a future of `Result<T, JobError>`.
///
/// Dropping it detaches: the job goes on, its result is dropped with the last abort handle. Use
/// [`abort_on_drop`](Self::abort_on_drop) for the opposite.
///
/// By the time the handle resolves, the job's destructor has run and its slot is free again: a
/// `try_schedule` right after finds it.
///
/// # Cancel safety
///
/// Polling it through `&mut` and giving up loses nothing.
///
/// # Panics
///
/// Polled again after it was ready.
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
#[must_use = "dropping a handle detaches its job; its result is lost"]
pub struct JobHandle<T>(Inner<T>);

enum Inner<T> {
    Pooled(RawJoinHandle<T>),
    /// Ran in its caller. The mutex is never locked: it makes the handle `Sync` for any `T`.
    Done(Mutex<Option<Result<T, JobError>>>),
}

impl<T> JobHandle<T> {
    /// Cancels the job: it is dropped where it last suspended, or before it starts.
    ///
    /// A job that is being polled is cancelled once that poll returns, unless it returned the
    /// result. The handle then resolves to [`JobError::Cancelled`], or to the result if that was
    /// there first.
    ///
    /// A [`blocking`](crate::blocking) closure that has started cannot be stopped: its job goes on
    /// until it has returned, keeps its slot until then, and if the job ends with it, the handle
    /// resolves to its value.
    pub fn abort(&self) {
        if let Inner::Pooled(join) = &self.0 {
            join.job().abort();
        }
    }

    /// A way to abort the job without holding the right to its outcome.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle(match &self.0 {
            Inner::Pooled(join) => Some(join.job().clone()),
            Inner::Done(_) => None,
        })
    }

    /// Whether the job has ended, whichever way. The handle then resolves at once.
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Inner::Pooled(join) => join.job().is_finished(),
            Inner::Done(_) => true,
        }
    }

    /// Makes the handle abort its job when it is dropped.
    pub fn abort_on_drop(self) -> AbortOnDropHandle<T> {
        AbortOnDropHandle(Some(self))
    }

    /// Lets the job go on by itself: `drop`, said aloud.
    pub fn detach(self) {}

    pub(crate) fn pooled(join: RawJoinHandle<T>) -> Self {
        Self(Inner::Pooled(join))
    }

    pub(crate) fn finished(outcome: Result<T, JobError>) -> Self {
        Self(Inner::Done(Mutex::new(Some(outcome))))
    }

    /// Waits until the job has left the wait list.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Inner::Pooled(join) => join.job().poll_started(cx),
            Inner::Done(_) => Poll::Ready(()),
        }
    }
}

impl<T> Future for JobHandle<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.0 {
            Inner::Pooled(join) => {
                // A loop that awaits one finished handle after the other must yield at times.
                let budget = ready!(tokio::task::coop::poll_proceed(cx));
                ready!(join.poll_done(cx));
                budget.made_progress();
                join.take()
            }
            Inner::Done(outcome) => {
                outcome.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
            }
        };
        Poll::Ready(outcome.expect("`JobHandle` polled after completion"))
    }
}

/// Keeps a job's outcome in its cell, for the handle.
pub(crate) struct StoreOutput;

impl<T: Send + 'static> OutputSink<T> for StoreOutput {
    const PUSHES: bool = false;

    type Handle = JobHandle<T>;

    #[inline]
    fn handle(join: RawJoinHandle<T>) -> JobHandle<T> {
        JobHandle::pooled(join)
    }

    fn finished_handle(self, outcome: Result<T, JobError>) -> JobHandle<T> {
        JobHandle::finished(outcome)
    }

    fn push_output(self, _: Result<T, JobError>) {}
}

// The outcome is moved out, never pinned.
impl<T> Unpin for JobHandle<T> {}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// Aborts a job, without a right to its outcome. Dropping it does nothing.
#[derive(Clone)]
pub struct AbortHandle(pub(crate) Option<JobArc>);

impl AbortHandle {
    pub(crate) fn new(job: JobArc) -> Self {
        Self(Some(job))
    }

    pub(crate) fn finished() -> Self {
        Self(None)
    }

    /// Cancels the job; see [`JobHandle::abort`].
    pub fn abort(&self) {
        if let Some(job) = &self.0 {
            job.abort();
        }
    }

    /// Whether the job has ended, whichever way.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JobArc::is_finished)
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// A [`JobHandle`] that aborts its job when it is dropped.
#[must_use = "dropping it aborts the job"]
#[derive(Debug)]
pub struct AbortOnDropHandle<T>(Option<JobHandle<T>>);

impl<T> AbortOnDropHandle<T> {
    /// Takes the aborting back.
    pub fn into_handle(mut self) -> JobHandle<T> {
        self.0.take().expect("taken only here and in drop")
    }

    /// Cancels the job now; see [`JobHandle::abort`].
    pub fn abort(&self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }

    /// Whether the job has ended, whichever way.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JobHandle::is_finished)
    }
}

impl<T> Future for AbortOnDropHandle<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.0.as_mut().expect("taken only by `into_handle` and in drop");
        Pin::new(handle).poll(cx)
    }
}

impl<T> Drop for AbortOnDropHandle<T> {
    fn drop(&mut self) {
        self.abort();
    }
}
