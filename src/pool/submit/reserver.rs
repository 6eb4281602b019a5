//! Slots before their jobs, polled: for a hand-written `poll_ready`.
//!
//! A [`Reserver`] moves between the states of the head of [`submit`](super). [`Slot`] is the same
//! as a value for code that awaits. The tower layer keeps a reserver in each service and in each
//! call that waits.
//!
//! No lock is held here. `Reserver::state` is the one owner of its place or slot (P3, P5), so each
//! change of the state comes with the call that takes or releases what the state owned.
//!
//! [`Slot`]: super::slot::Slot

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::pool::Pool;
use crate::pool::handle::{JobHandle, StoreOutput};
use crate::pool::job::{JobGroup, OutputSink};
use crate::pool::limiter::AcquireOutcome;
use crate::pool::limiter::counts::{LeaveReason, ReleaseReason};
use crate::pool::limiter::wait_list::{WaiterKey, WaiterState};
use crate::pool::options::{JobOptions, Requirements};
use crate::pool::submit::submission::Submission;
use crate::pool::with::PoolWith;
use crate::trace::Place;

/// Reserves a slot first and takes the job later; from [`Pool::reserver`].
///
/// Use it for a `poll_ready` or another hand-written future. In other code, [`Pool::reserve`]
/// returns the slot as a [`Slot`](crate::Slot).
///
/// A reserver has one slot at most. **No other job can use a reserved slot**, so hold it for a
/// short time. [`release`](Self::release) gives the slot back, and so does dropping the reserver. A
/// clone has no slot of its own.
///
/// **Poll a waiting reserver, release it or drop it.** A slot that was granted stays with the
/// reserver until its next poll, also if the future of [`reserve`](Self::reserve) was dropped.
///
/// A waiting reserver stands in the same list as the callers of [`Pool::schedule`] and the queued
/// jobs. While it waits it uses one place of the queue. A place alone cannot be reserved.
///
/// A reserved slot counts as [`PoolStatus::reserved`](crate::PoolStatus::reserved). Idle pools and
/// shutdowns do not wait for reservers. After [`Pool::close`] a reserver gets no slot, and a slot
/// that it has takes no job. A reserver keeps its pool open.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::future::poll_fn;
///
/// let pool = millpond::Pool::new(4);
/// let mut reserver = pool.reserver();
/// poll_fn(|cx| reserver.poll_reserve(cx)).await?;
/// let handle = reserver.schedule(async { 7 })?;
/// assert_eq!(handle.await?, 7);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "PollSemaphore")]
#[doc(alias = "acquire")]
#[doc(alias = "permit")]
#[must_use = "a reserver does nothing until it reserves; dropping it gives its slot back"]
pub struct Reserver {
    pool: Pool,
    group: Option<Arc<dyn JobGroup>>,
    /// The options of its jobs, unless they are those of the group.
    options: Option<JobOptions>,
    /// What the reserver asks for.
    requirements: Requirements,
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
    /// Makes a [`Reserver`], which has no slot yet.
    pub fn reserver(&self) -> Reserver {
        Reserver::new(self.clone(), None)
    }
}

impl PoolWith<'_> {
    /// Makes a [`Reserver`] that waits with these options and gives them to its jobs.
    ///
    /// Its wait ends at the [deadline](JobOptions::deadline) with
    /// [`Expired`](SubmitErrorKind::Expired). The reserver inherits no deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millpond::{JobOptions, Pool, Priority};
    ///
    /// let pool = Pool::new(4);
    /// let mut reserver = pool.with(JobOptions::new().priority(Priority::High)).reserver();
    /// reserver.reserve().await?;
    /// assert_eq!(reserver.schedule(async { 7 })?.await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserver(&self) -> Reserver {
        let (pool, options) = self.parts();
        let deadline = options.resolve(None).map(|deadline| deadline.at);
        let requirements = Requirements { deadline, name: None, ..options.requirements() };
        let options = Some(options.clone());
        Reserver { pool: pool.clone(), group: None, options, requirements, state: State::Nothing }
    }
}

impl Reserver {
    pub(crate) fn new(pool: Pool, group: Option<Arc<dyn JobGroup>>) -> Self {
        let options = group.as_ref().and_then(|group| group.options());
        let requirements = options.map(JobOptions::requirements).unwrap_or_default();
        // A reserver is no job, so it has no job's name.
        let requirements = Requirements { name: None, ..requirements };
        Self { pool, group, options: None, requirements, state: State::Nothing }
    }

    fn quota(&self) -> Option<usize> {
        self.group.as_ref().and_then(|group| group.quota())
    }

    /// Waits in the wait list for a slot. Ready at once if the reserver has a slot.
    ///
    /// # Errors
    ///
    /// As [`Pool::schedule`], without a job.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the reserver keeps its place in the wait list. The next call goes
    /// on with that place; [`release`](Self::release) gives the place up.
    pub async fn reserve(&mut self) -> Result<(), SubmitError> {
        let wait = Wait(self);
        poll_fn(|cx| wait.0.poll_reserve(cx)).await
    }

    /// [`reserve`](Self::reserve) with a limit for the wait, from the first poll on. A limit of zero does
    /// not wait.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), and [`TimedOut`](SubmitErrorKind::TimedOut) if no slot came within
    /// the limit. The reserver gives its place up then.
    ///
    /// # Cancel safety
    ///
    /// As [`reserve`](Self::reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use millpond::{Pool, SubmitErrorKind};
    ///
    /// let pool = Pool::new(1);
    /// let slot = pool.reserve().await?;
    /// let refused = pool.reserver().reserve_within(Duration::from_millis(1)).await.unwrap_err();
    /// assert_eq!(refused.kind(), SubmitErrorKind::TimedOut);
    /// # drop(slot);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reserve_within(&mut self, limit: Duration) -> Result<(), SubmitError> {
        match tokio::time::timeout(limit, self.reserve()).await {
            Ok(reserved) => reserved,
            Err(_) => {
                self.leave(LeaveReason::TimedOut);
                Err(SubmitError::new(SubmitErrorKind::TimedOut, ()))
            }
        }
    }

    /// Polls [`reserve`](Self::reserve), for hand-written futures. The task of the last poll is
    /// woken.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    pub fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SubmitError>> {
        if self.state == State::Reserved {
            return Poll::Ready(Ok(()));
        }
        // Without budget the reserver keeps its place, and the slot that it was granted.
        let budget = ready!(coop::poll_proceed(cx));
        let reserved = self.poll_reserve_now(cx);
        if reserved.is_ready() {
            budget.made_progress();
        }
        reserved
    }

    /// Polls [`reserve`](Self::reserve) without tokio's budget: `Pending` means that no slot is free.
    pub(crate) fn poll_reserve_now(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SubmitError>> {
        let shared = self.pool.shared();
        let outcome = match self.state {
            State::Reserved => return Poll::Ready(Ok(())),
            State::Nothing => {
                shared.ensure_runtime();
                shared.reserve(self.group.as_deref(), Some(cx), self.requirements)
            }
            State::Waiting(waiter_key) => {
                match shared.limiter.poll_waiter(waiter_key, cx.waker()) {
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
            AcquireOutcome::Refused(kind) => Err(SubmitError::new(kind, ())),
            _ => {
                self.state = State::Reserved;
                Ok(())
            }
        })
    }

    /// Reserves a slot if a slot is free and the wait list is empty. Gives up a place in the wait
    /// list.
    ///
    /// # Errors
    ///
    /// As [`Pool::try_schedule`], without a job.
    pub fn try_reserve(&mut self) -> Result<(), SubmitError> {
        let shared = self.pool.shared();
        shared.ensure_runtime();
        if let State::Waiting(waiter_key) = self.state {
            // A slot may have been granted since the last poll.
            match shared.take_granted(waiter_key) {
                AcquireOutcome::Waiting(_) => {
                    shared.cancel_waiter(waiter_key, LeaveReason::Dropped);
                }
                AcquireOutcome::Reserved => self.state = State::Reserved,
                _ => {}
            }
        }
        if self.state == State::Reserved {
            return Ok(());
        }
        self.state = State::Nothing;
        match shared.reserve(self.group.as_deref(), None, self.requirements) {
            AcquireOutcome::Reserved => {
                self.state = State::Reserved;
                Ok(())
            }
            AcquireOutcome::Refused(kind) => Err(SubmitError::new(kind, ())),
            _ => unreachable!("a reserver that does not wait has two outcomes"),
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
    /// Returns the job if the pool was closed since. The slot is released then, too.
    ///
    /// # Panics
    ///
    /// If no slot is reserved.
    #[track_caller]
    pub fn schedule<F>(&mut self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let options = self.options.clone();
        self.submit(job, StoreOutput, Place::caller(), options.as_ref())
    }

    /// Spends the slot on a job with any sink. The sink must have the reserver's quota.
    pub(crate) fn submit<F, S>(
        &mut self,
        job: F,
        sink: S,
        place: Place,
        options: Option<&JobOptions>,
    ) -> Result<S::Handle, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        S: OutputSink<F::Output>,
    {
        assert!(self.is_reserved(), "a slot must be reserved before its job is submitted");
        debug_assert!(sink.group().and_then(JobGroup::quota) == self.quota());
        let shared = &**self.pool.shared();
        let submitted = Submission::with(shared, job, sink, place, options).submit_reserved();
        self.state = State::Nothing;
        submitted
    }

    /// Gives back the slot, or the place in the wait list.
    #[doc(alias = "disarm")]
    pub fn release(&mut self) {
        self.leave(LeaveReason::Dropped);
    }

    fn leave(&mut self, reason: LeaveReason) {
        let shared = self.pool.shared();
        match std::mem::replace(&mut self.state, State::Nothing) {
            State::Nothing => {}
            State::Waiting(waiter_key) => shared.cancel_waiter(waiter_key, reason),
            State::Reserved => shared.release_slot(self.quota(), ReleaseReason::Unused),
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// A wait by [`Reserver::reserve`]. When the future is dropped, the job around it waits no longer,
/// and deadlock detection must not count that job.
struct Wait<'a>(&'a mut Reserver);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let State::Waiting(waiter_key) = self.0.state {
            self.0.pool.shared().limiter.clear_waiting_job(waiter_key);
        }
    }
}

impl Clone for Reserver {
    /// Makes another reserver of the same pool, without a slot.
    fn clone(&self) -> Self {
        let (pool, group, options) = (self.pool.clone(), self.group.clone(), self.options.clone());
        Self { pool, group, options, requirements: self.requirements, state: State::Nothing }
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
