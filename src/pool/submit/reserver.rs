//! Slots reserved ahead of their jobs.

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::{Context, Poll};

use crate::error::{ClosedError, ScheduleError, TryScheduleError};
use crate::pool::Pool;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::OutputSink;
use crate::pool::limiter::AcquireOutcome;
use crate::pool::limiter::counts::ReleaseReason;
use crate::pool::limiter::wait_list::{WaiterKey, WaiterState};
use crate::pool::submit::submission::Submission;

/// Reserves a slot first, and takes the job later; from [`Pool::reserver`].
///
/// For code that must know that there is room before it has, or makes, the job: a `poll_ready`, a
/// loop that pulls messages only when it can work on them.
///
/// It reserves at most one slot at a time. **A reserved slot is taken from everybody else**: hold
/// it for as short as you can. It is given back by [`release`](Self::release) and by dropping the
/// reserver; a clone has none of its own. Places in the pool's queue cannot be reserved: it waits
/// for a slot, in the same wait list as the callers of [`Pool::schedule`] and the jobs in the queue, of
/// whose places it takes one meanwhile.
///
/// In the pool's [`PoolStatus`](crate::PoolStatus) a reserved slot is [`reserved`](crate::PoolStatus::reserved).
/// The pool is idle, and its shutdown complete, without regard to it and to reservers in the wait list; after [`Pool::close`] it is of
/// no use any more. A reserver keeps its pool open.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(4);
/// let mut reserver = pool.reserver();
/// let mut messages = vec!["b", "a"];
/// loop {
///     reserver.reserve().await?; // take a message only when it can be worked on
///     let Some(message) = messages.pop() else { break };
///     reserver.schedule(async move { message.len() })?;
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "PollSemaphore")]
#[doc(alias = "acquire")]
#[doc(alias = "permit")]
pub struct Reserver {
    pool: Pool,
    quota: Option<usize>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    /// In the wait list under this key.
    Waiting(WaiterKey),
    Reserved,
}

impl Pool {
    /// Reserves slots ahead of their jobs.
    pub fn reserver(&self) -> Reserver {
        Reserver::new(self.clone(), None)
    }
}

impl Reserver {
    pub(crate) fn new(pool: Pool, quota: Option<usize>) -> Self {
        Self { pool, quota, state: State::Nothing }
    }

    /// Waits in the wait list for a slot. At once ready if one is reserved already.
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule`], without a job.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the reserver keeps its place in the wait list: go on with another call, or give it up by
    /// [`release`](Self::release).
    pub async fn reserve(&mut self) -> Result<(), ScheduleError<()>> {
        let wait = Wait(self);
        poll_fn(|cx| wait.0.poll_reserve(cx)).await
    }

    /// [`reserve`](Self::reserve) for hand-written futures. The task polled last is woken.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    pub fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ScheduleError<()>>> {
        let shared = self.pool.shared();
        let outcome = match self.state {
            State::Reserved => return Poll::Ready(Ok(())),
            State::Nothing => {
                shared.ensure_runtime();
                shared.reserve(self.quota, Some(cx))
            }
            State::Waiting(waiter_key) => {
                match shared.limiter.poll_waiter(waiter_key, cx.waker(), shared.id()) {
                    WaiterState::Waiting => return Poll::Pending,
                    _ => shared.take_granted(waiter_key),
                }
            }
        };
        self.state = State::Nothing;
        Poll::Ready(match outcome {
            AcquireOutcome::Waiting(waiter_key) => {
                self.state = State::Waiting(waiter_key);
                return Poll::Pending;
            }
            AcquireOutcome::Closed => Err(ScheduleError::Closed(())),
            AcquireOutcome::Deadlock => Err(ScheduleError::WouldDeadlock(())),
            _ => {
                self.state = State::Reserved;
                Ok(())
            }
        })
    }

    /// Reserves a slot if one is free and nobody waits for it. Gives up a place in the wait list.
    ///
    /// # Errors
    ///
    /// As [`Pool::try_schedule`], without a job.
    pub fn try_reserve(&mut self) -> Result<(), TryScheduleError<()>> {
        let shared = self.pool.shared();
        shared.ensure_runtime();
        if let State::Waiting(waiter_key) = self.state {
            // It may have been told to come.
            match shared.take_granted(waiter_key) {
                AcquireOutcome::Waiting(_) => shared.cancel_waiter(waiter_key),
                AcquireOutcome::Reserved => self.state = State::Reserved,
                _ => {}
            }
        }
        if self.state == State::Reserved {
            return Ok(());
        }
        self.state = State::Nothing;
        match shared.reserve(self.quota, None) {
            AcquireOutcome::Closed => Err(TryScheduleError::Closed(())),
            AcquireOutcome::Reserved => {
                self.state = State::Reserved;
                Ok(())
            }
            _ => Err(TryScheduleError::Full(())),
        }
    }

    /// Whether a slot is reserved.
    pub fn is_reserved(&self) -> bool {
        self.state == State::Reserved
    }

    /// Runs a job in the reserved slot.
    ///
    /// # Errors
    ///
    /// [`ClosedError`], with the job, if the pool was closed since.
    ///
    /// # Panics
    ///
    /// If no slot is reserved.
    #[track_caller]
    pub fn schedule<F>(&mut self, job: F) -> Result<JobHandle<F::Output>, ClosedError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.submit_reserved(job, StoreOutput)
    }

    #[track_caller]
    pub(crate) fn submit_reserved<F, S>(
        &mut self,
        job: F,
        sink: S,
    ) -> Result<S::Handle, ClosedError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        S: OutputSink<F::Output>,
    {
        assert!(self.is_reserved(), "a slot must be reserved before its job is submitted");
        debug_assert!(sink.quota() == self.quota);
        let mut submission = Submission::new(self.pool.shared(), job, sink);
        let outcome = submission.submit_reserved();
        self.state = State::Nothing;
        match outcome {
            AcquireOutcome::Closed => Err(ClosedError(submission.take_job())),
            _ => Ok(submission.take_handle()),
        }
    }

    /// Gives back the slot, or the place in the wait list.
    #[doc(alias = "disarm")]
    pub fn release(&mut self) {
        let shared = self.pool.shared();
        match std::mem::replace(&mut self.state, State::Nothing) {
            State::Nothing => {}
            State::Waiting(waiter_key) => shared.cancel_waiter(waiter_key),
            State::Reserved => shared.release_slot(self.quota, ReleaseReason::Unused),
        }
    }
}

/// A wait by [`Reserver::reserve`]. Given up, nobody waits through the reserver any more.
struct Wait<'a>(&'a mut Reserver);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let State::Waiting(waiter_key) = self.0.state {
            self.0.pool.shared().limiter.clear_waiting_job(waiter_key);
        }
    }
}

impl Clone for Reserver {
    /// Another reserver for the same pool, with nothing reserved.
    fn clone(&self) -> Self {
        Self::new(self.pool.clone(), self.quota)
    }
}

impl Drop for Reserver {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Reserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserver").field("reserved", &self.is_reserved()).finish_non_exhaustive()
    }
}
