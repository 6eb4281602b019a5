//! A pool that hands out no slots for a while, and the jobs that it has not started.

use crate::pool::Pool;

impl Pool {
    /// Hands out no more slots until [`resume`](Self::resume). No job is given a slot, and all else
    /// goes on.
    ///
    /// What has a slot by then goes on: jobs that were started, also those that have not begun yet;
    /// slots that are reserved or held; and jobs in their callers. A caller in the wait list that was
    /// granted a slot and has not taken it waits for `resume`. Meanwhile the verbs see a full pool:
    /// `schedule` and `reserve` wait, the queue fills, `anyway_go` commits. `try_schedule` refuses once the queue
    /// is full. [`schedule_always`](Self::schedule_always) and [`try_go`](Self::try_go) would start
    /// a job without a slot, so both refuse with
    /// [`SubmitErrorKind::Full`](crate::SubmitErrorKind::Full).
    ///
    /// [`wait_idle`](Self::wait_idle) waits for queued and committed jobs, so it waits for
    /// `resume`. [`close`](Self::close), [`shutdown`](Self::shutdown) and the drop of the last
    /// clone **resume the pool**: what was admitted runs to its end.
    /// [`cancel_waiting`](Self::cancel_waiting) before them prevents that. A closed pool cannot be
    /// paused. [`PoolStatus::paused`](crate::PoolStatus::paused) tells.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::builder().size(2).queue(8).build()?;
    /// pool.pause();
    /// let job = pool.try_schedule(async { 7 })?; // queued
    /// assert!(pool.status().paused);
    /// assert_eq!((pool.status().running, pool.status().queued), (0, 1));
    /// pool.resume();
    /// assert_eq!(job.await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "suspend")]
    pub fn pause(&self) {
        self.shared().pause();
    }

    /// Hands out slots again, oldest waiter first. Does nothing if the pool is not paused.
    pub fn resume(&self) {
        self.shared().resume();
    }

    /// Whether the pool is paused.
    pub fn is_paused(&self) -> bool {
        self.shared().limiter.is_paused()
    }

    /// Cancels the jobs that have no slot yet: those in the queue, and those that were committed by
    /// [`anyway_go`](Self::anyway_go). Returns how many.
    ///
    /// Jobs that run go on. Callers in the wait list own their jobs, so they keep both their jobs
    /// and their places; [`close`](Self::close) gives those jobs back. But what a job of this pool
    /// submits stands in the wait list itself, and is cancelled. See
    /// [`Group::cancel_waiting`](crate::Group::cancel_waiting) for the jobs of one group.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::new(1);
    /// let running = pool.anyway_go(async { 1 })?.into_handle();
    /// let waiting = pool.anyway_go(async { 2 })?.into_handle();
    /// assert_eq!(pool.cancel_waiting(), 1);
    /// assert!(waiting.await.unwrap_err().is_cancelled());
    /// assert_eq!(running.await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "clear")]
    #[doc(alias = "drain")]
    pub fn cancel_waiting(&self) -> usize {
        self.shared().cancel_waiting()
    }
}
