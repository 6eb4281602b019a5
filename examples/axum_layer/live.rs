//! The live line.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use millpond::Pool;

/// The latencies of the requests since the last line, in microseconds.
#[derive(Clone)]
pub struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are valid");
        Self(Arc::new(Mutex::new(histogram)))
    }
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(took.as_micros() as u64);
    }

    /// Returns the number, the median and the 99th percentile since the last call.
    fn take(&self) -> (u64, Duration, Duration) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |q| Duration::from_micros(histogram.value_at_quantile(q));
        let taken = (histogram.len(), at(0.5), at(0.99));
        histogram.reset();
        taken
    }
}

/// Prints a line each second. On a terminal the line replaces the one before.
pub async fn show(pool: Pool, latencies: Latencies) {
    let (start, end) = if std::io::stdout().is_terminal() { ("\r\x1b[2K", "") } else { ("", "\n") };
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await;
    loop {
        seconds.tick().await;
        let status = pool.status();
        let (requests, p50, p99) = latencies.take();
        print!(
            "{start}running {:>3}  queued {:>3}  waiting {:>3}  overflow {:>3}  refused {:>7}  |  \
             {requests:>6} served/s  p50 {p50:>8.1?}  p99 {p99:>8.1?}{end}",
            status.running, status.queued, status.waiting, status.overflow, status.refused
        );
        // The server goes on when the pipe is closed.
        let _ = std::io::stdout().flush();
    }
}
