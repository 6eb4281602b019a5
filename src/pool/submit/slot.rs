//! A reserved slot as a value.

use std::fmt;
use std::future::Future;

use crate::error::SubmitError;
use crate::pool::Pool;
use crate::pool::handle::JobHandle;
use crate::pool::submit::reserver::Reserver;
use crate::pool::with::PoolWith;

/// A slot without a job yet; from [`Pool::reserve`] and [`Pool::try_reserve`].
///
/// [`schedule`](Self::schedule) spends the slot on a job. Dropping a `Slot` gives the slot to the
/// next waiter. **No other job can use the slot meanwhile**, so hold it for a short time.
///
/// A slot counts as [`PoolStatus::reserved`](crate::PoolStatus::reserved). Idle pools and shutdowns
/// do not wait for it. After [`Pool::close`] it takes no job. A slot keeps its pool open.
///
/// [`Reserver`] does the same for a hand-written `poll_ready`. The model is tokio's
/// `OwnedSemaphorePermit`; unlike a permit, a slot is not held by the job's own code.
#[doc(alias = "OwnedSemaphorePermit")]
#[doc(alias = "permit")]
#[must_use = "dropping it gives the slot back"]
pub struct Slot(
    /// Has a slot (P5).
    Reserver,
);

impl Pool {
    /// Waits for a slot and reserves it for a job to come.
    ///
    /// Use it for code that must know of room before it takes or makes the job, such as a loop that
    /// pulls messages. The wait stands in the same list as the callers of
    /// [`schedule`](Self::schedule).
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::SubmitErrorKind::Closed) if the pool is closed, also while waiting.
    /// [`WouldDeadlock`](crate::SubmitErrorKind::WouldDeadlock) if the caller is a job of this pool,
    /// and every slot is held by a job that waits in the wait list.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the place in the wait list is given up. A slot that was granted
    /// passes to the next waiter.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(4);
    /// let mut messages = vec!["b", "a"];
    /// loop {
    ///     let slot = pool.reserve().await?; // take a message only when a job can work on it
    ///     let Some(message) = messages.pop() else { break };
    ///     slot.schedule(async move { message.len() })?;
    /// }
    /// assert_eq!(pool.status().reserved, 0); // the last slot was dropped
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "acquire_owned")]
    #[doc(alias = "permit")]
    pub async fn reserve(&self) -> Result<Slot, SubmitError> {
        self.reserve_owned().await
    }

    /// [`reserve`](Self::reserve) as a future that borrows nothing: it keeps a handle of the pool,
    /// so it can be spawned.
    ///
    /// # Errors
    ///
    /// Returns the errors of `reserve`.
    pub fn reserve_owned(
        &self,
    ) -> impl Future<Output = Result<Slot, SubmitError>> + Send + 'static + use<> {
        Slot::reserve(self.reserver())
    }

    /// Reserves a slot for a job to come, if a slot is free and the wait list is empty.
    ///
    /// # Errors
    ///
    /// As [`Pool::try_schedule`], without a job. A place in the
    /// queue is not enough.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let slot = pool.try_reserve()?;
    /// assert!(pool.try_reserve().is_err());
    /// assert_eq!(slot.schedule(async { 7 })?.await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_acquire_owned")]
    pub fn try_reserve(&self) -> Result<Slot, SubmitError> {
        Slot::try_reserve(self.reserver())
    }
}

impl PoolWith<'_> {
    /// [`Pool::reserve`] with options, which the job of the slot has, too.
    ///
    /// # Errors
    ///
    /// Those of `Pool::reserve`, and [`Expired`](crate::SubmitErrorKind::Expired).
    ///
    /// # Cancel safety
    ///
    /// As `Pool::reserve`.
    pub async fn reserve(&self) -> Result<Slot, SubmitError> {
        self.reserve_owned().await
    }

    /// [`Pool::reserve_owned`] with options, which the job of the slot has, too.
    ///
    /// # Errors
    ///
    /// Those of `Pool::reserve`, and [`Expired`](crate::SubmitErrorKind::Expired).
    pub fn reserve_owned(
        &self,
    ) -> impl Future<Output = Result<Slot, SubmitError>> + Send + 'static + use<> {
        Slot::reserve(self.reserver())
    }

    /// [`Pool::try_reserve`] with options, which the job of the slot has.
    ///
    /// # Errors
    ///
    /// Those of `Pool::try_reserve`.
    pub fn try_reserve(&self) -> Result<Slot, SubmitError> {
        Slot::try_reserve(self.reserver())
    }
}

impl Slot {
    /// Waits until the reserver has a slot.
    async fn reserve(mut reserver: Reserver) -> Result<Self, SubmitError> {
        reserver.reserve().await?;
        Ok(Self(reserver))
    }

    /// Takes a free slot by the reserver.
    fn try_reserve(mut reserver: Reserver) -> Result<Self, SubmitError> {
        reserver.try_reserve()?;
        Ok(Self(reserver))
    }

    /// Runs a job in this slot, at once.
    ///
    /// # Errors
    ///
    /// Returns the job if the pool was closed since. The slot is released then, too.
    #[track_caller]
    pub fn schedule<F>(mut self, job: F) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.schedule(job)
    }

    /// Returns the pool of this slot.
    pub fn pool(&self) -> &Pool {
        self.0.pool()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("pool", &self.pool().name()).finish_non_exhaustive()
    }
}
