//! `tokio-metrics` around jobs: a `TaskMonitor` instruments the future, whatever polls it.
//!
//! The monitor sees each job as it would see a task: how often it was polled and for how long, and
//! how long it waited to be polled. The wait for a slot is in the time to the first poll.
//!
//! ```text
//! cargo run --release --example job_metrics
//! ```

use std::time::Duration;

use millpond::Pool;
use tokio_metrics::TaskMonitor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::new(2);
    let monitor = TaskMonitor::new();
    let group = pool.group();
    for _ in 0..8 {
        let job = async { tokio::time::sleep(Duration::from_millis(10)).await };
        group.anyway_go(monitor.instrument(job))?;
    }
    assert!(group.wait().await.is_success());

    let metrics = monitor.cumulative();
    println!("{} jobs instrumented, {} ended", metrics.instrumented_count, metrics.dropped_count);
    println!("{} polls", metrics.total_poll_count);
    let waited = metrics.mean_first_poll_delay() >= Duration::from_millis(10);
    println!("the wait for a slot shows in the delay of the first poll: {waited}");
    Ok(())
}
