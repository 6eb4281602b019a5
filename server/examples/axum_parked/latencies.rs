//! The latencies of the requests of the last seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// The number of seconds that are kept.
const SECONDS: usize = 5;

/// A histogram for each second. Clones share the histograms.
#[derive(Clone)]
pub struct Latencies(Arc<Mutex<[Histogram<u64>; SECONDS]>>);

impl Default for Latencies {
    fn default() -> Self {
        let second = || Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are valid");
        Self(Arc::new(Mutex::new(std::array::from_fn(|_| second()))))
    }
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        self.lock()[0].saturating_record(took.as_micros() as u64);
    }

    /// Starts the histogram of the next second, in place of the oldest.
    pub fn next_second(&self) {
        let mut seconds = self.lock();
        seconds.rotate_right(1);
        seconds[0].reset();
    }

    /// Returns the median and the 99th percentile in microseconds; `None` without any request.
    pub fn summary(&self) -> Option<[u64; 2]> {
        let seconds = self.lock();
        let mut all = seconds[0].clone();
        for second in &seconds[1..] {
            all += second;
        }
        (!all.is_empty()).then(|| [0.5, 0.99].map(|q| all.value_at_quantile(q)))
    }

    fn lock(&self) -> MutexGuard<'_, [Histogram<u64>; SECONDS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
