//! The greatest numbers of a period: [`Pool::peak_reader`].
//!
//! The limiter keeps marks for each reader under its state lock, and raises them where a number grows. So
//! readers do not disturb each other, and a pool without readers keeps no marks. The slots in use grow
//! without that lock: `limiter::peaks` says how their mark is found.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::pool::{Pool, Shared};

/// How many readers a pool may have at once.
pub(crate) const MAX_READERS: usize = 16;

/// The greatest numbers between two looks of a [`PeakReader`].
///
/// Each number is that of its own moment, so they do not add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Peaks {
    /// Slots in use at once, as [`PoolStatus::used_slots`](crate::PoolStatus::used_slots) counts them:
    /// running jobs, reserved and held slots. An upper bound: exact while all jobs start and end on one thread
    /// of the runtime. Otherwise a slot that another thread gave back may count twice, up to the size.
    pub used_slots: usize,
    /// Jobs and callers that waited at once, in the queue and in the wait list. Exact.
    pub waiting: usize,
    /// Jobs that ran beyond the size at once. Exact.
    pub overflow: usize,
    /// Jobs that ran in their callers at once. Exact.
    pub in_caller: usize,
    /// The longest wait that ended with a slot and was [measured](crate::Timings), or the oldest wait at the
    /// time of a look.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::histogram::seconds"))]
    pub longest_wait: Duration,
}

/// Reads the [`Peaks`] of a pool, from look to look; from [`Pool::peak_reader`].
///
/// A reader keeps no pool open, and reads the peaks of a closed one.
pub struct PeakReader {
    shared: Arc<Shared>,
    key: usize,
}

impl Pool {
    /// Returns a new reader of the pool's peaks. Its first period begins now.
    ///
    /// Each reader has its own periods. While readers exist, a job that has to wait costs a comparison for
    /// each of them. A job that gets a slot at once costs nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the pool has 16 readers already.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = millpond::Pool::builder().size(4).queue(4).build()?;
    /// let mut reader = pool.peak_reader()?;
    /// for _ in 0..6 {
    ///     drop(pool.try_schedule(async {})?);
    /// }
    /// pool.wait_idle().await;
    /// let peaks = reader.take();
    /// assert_eq!((peaks.used_slots, peaks.waiting), (4, 2));
    /// assert_eq!(reader.take().used_slots, 0); // since the last look
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "high_water_mark")]
    pub fn peak_reader(&self) -> Result<PeakReader, ConfigError> {
        let shared = self.shared().clone();
        let key = shared.limiter.add_peak_reader().ok_or_else(|| {
            ConfigError::new("peak_reader", MAX_READERS + 1, "at most 16 readers at once")
        })?;
        Ok(PeakReader { shared, key })
    }
}

impl PeakReader {
    /// Returns the peaks since the last look of this reader, and begins its next period with the present
    /// numbers.
    pub fn take(&mut self) -> Peaks {
        self.shared.limiter.take_peaks(self.key)
    }
}

impl Drop for PeakReader {
    fn drop(&mut self) {
        self.shared.limiter.remove_peak_reader(self.key);
    }
}

impl fmt::Debug for PeakReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeakReader").field("pool", &self.shared.name()).finish_non_exhaustive()
    }
}
