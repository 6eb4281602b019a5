//! [`Pool::publish_metrics`]: a pool's counts for the facade `metrics`.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::group::GroupCounts;
use crate::histogram::Histogram;
use crate::pool::{Pool, PoolStatus};

impl Pool {
    /// Publishes the pool's counts to the recorder of this moment, under the pool's name.
    ///
    /// Call this before each reading: in the handler that renders the metrics, or in the loop that
    /// pushes them. The pool has no task for this and costs nothing between two calls. Without a
    /// recorder the call does nothing. Pools of one name overwrite each other.
    ///
    /// | metric | kind | labels |
    /// |---|---|---|
    /// | `millpond_slots` | gauge | `pool` |
    /// | `millpond_workers` | gauge | `pool`, `state`: `busy`, `idle` |
    /// | `millpond_jobs` | gauge | `pool`, `state`: `running`, `lent`, `queued`, `waiting`, `granted`, `reserved`, `overflow`, `in_caller` |
    /// | `millpond_held_slots` | gauge | `pool` |
    /// | `millpond_jobs_submitted_total` | counter | `pool` |
    /// | `millpond_jobs_total` | counter | `pool`, `end`: `completed`, `panicked`, `cancelled`, `expired`, `refused`, `withdrawn` |
    /// | `millpond_group_jobs_total` | counter | `pool`, `group`, `end`: `succeeded`, `failed`, `panicked`, `cancelled`, `expired`, `refused`; groups with a [name](crate::GroupBuilder::name) |
    /// | `millpond_layer_calls_total` | counter | `pool`, `layer`, `end`: as of groups; layers with a [name](crate::layer::PoolLayer::name) |
    /// | `millpond_oldest_wait_seconds` | gauge | `pool` |
    /// | `millpond_wait_seconds_bucket`, `_count`; `_sum` | counter; gauge | `pool`; the buckets have `le` |
    /// | `millpond_run_seconds_bucket`, `_count`; `_sum` | counter; gauge | `pool`; the buckets have `le` |
    ///
    /// The states and the ends add up: `millpond_jobs` of all states and `millpond_jobs_total` of all
    /// ends are `millpond_jobs_submitted_total` ([`PoolStatus`]).
    ///
    /// The last two are the [timings](Self::timings) as histograms in the form of Prometheus, for
    /// `histogram_quantile`. Their buckets are cumulative, so several readers do not disturb each other. A
    /// histogram of the facade would take each job as a value of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let prometheus = PrometheusBuilder::new().install_recorder()?;
    /// let pool = millpond::Pool::builder().size(4).name("thumbnails").build()?;
    /// let group = pool.group_builder().name("batch").build()?;
    /// group.schedule(async {}).await?;
    /// group.wait().await;
    ///
    /// pool.publish_metrics();
    /// let page = prometheus.render();
    /// assert!(page.contains(r#"millpond_jobs_total{pool="thumbnails",end="completed"} 1"#));
    /// assert!(page.contains(r#"{pool="thumbnails",group="batch",end="succeeded"} 1"#));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "prometheus")]
    pub fn publish_metrics(&self) {
        describe();
        publish(self.name(), &self.status());
        publish_groups(self.name(), self.group_counts());
        #[cfg(feature = "tower")]
        publish_layers(self.name(), self.layer_counts());
        let timings = self.timings();
        publish_histogram(&WAIT, self.name(), &timings.wait);
        publish_histogram(&RUN, self.name(), &timings.run);
    }
}

fn publish_groups(pool: &str, groups: Vec<GroupCounts>) {
    for group in groups {
        let GroupCounts { name, succeeded, failed, panicked, cancelled, expired, refused } = group;
        let counts = [succeeded, failed, panicked, cancelled, expired, refused];
        publish_ends("millpond_group_jobs_total", pool, ("group", &name), counts);
    }
}

#[cfg(feature = "tower")]
fn publish_layers(pool: &str, layers: Vec<crate::layer::LayerCounts>) {
    for layer in layers {
        let crate::layer::LayerCounts { name, succeeded, failed, panicked, .. } = layer;
        let counts = [succeeded, failed, panicked, layer.cancelled, layer.expired, layer.refused];
        publish_ends("millpond_layer_calls_total", pool, ("layer", &name), counts);
    }
}

/// Publishes how the jobs of a name ended. Each job has one end here: `failed` is without the others.
fn publish_ends(
    metric: &'static str,
    pool: &str,
    (kind, name): (&'static str, &str),
    counts: [u64; 6],
) {
    let [succeeded, failed, panicked, cancelled, expired, refused] = counts;
    let failed = failed.saturating_sub(panicked + cancelled + expired);
    for (end, jobs) in [
        ("succeeded", succeeded),
        ("failed", failed),
        ("panicked", panicked),
        ("cancelled", cancelled),
        ("expired", expired),
        ("refused", refused),
    ] {
        let labels = [("pool", pool.to_owned()), (kind, name.to_owned()), ("end", end.to_owned())];
        counter!(metric, &labels).absolute(jobs);
    }
}

/// The names of a histogram: its buckets, its count and its sum.
type Names = (&'static str, &'static str, &'static str);

const WAIT: Names =
    ("millpond_wait_seconds_bucket", "millpond_wait_seconds_count", "millpond_wait_seconds_sum");
const RUN: Names =
    ("millpond_run_seconds_bucket", "millpond_run_seconds_count", "millpond_run_seconds_sum");

/// The ends of the published buckets, in seconds: text and value.
const ENDS: [(&str, f64); 18] = [
    ("0.0001", 0.0001),
    ("0.00025", 0.00025),
    ("0.0005", 0.0005),
    ("0.001", 0.001),
    ("0.0025", 0.0025),
    ("0.005", 0.005),
    ("0.01", 0.01),
    ("0.025", 0.025),
    ("0.05", 0.05),
    ("0.1", 0.1),
    ("0.25", 0.25),
    ("0.5", 0.5),
    ("1", 1.0),
    ("2.5", 2.5),
    ("5", 5.0),
    ("10", 10.0),
    ("60", 60.0),
    ("+Inf", f64::INFINITY),
];

fn publish_histogram(names: &Names, pool: &str, histogram: &Histogram) {
    let &(bucket, count, sum) = names;
    // A bucket of the histogram counts where its middle is: 7 % is its width.
    let counts: Vec<_> =
        histogram.buckets().map(|(end, n)| (end.as_secs_f64() * 0.965, n)).collect();
    for (text, end) in ENDS {
        let below = counts.iter().filter(|(middle, _)| *middle <= end).map(|(_, n)| n).sum();
        counter!(bucket, &labels(pool, "le", text)).absolute(below);
    }
    counter!(count, "pool" => pool.to_owned()).absolute(histogram.count());
    gauge!(sum, "pool" => pool.to_owned()).set(histogram.sum());
}

fn publish(pool: &str, status: &PoolStatus) {
    let set = |name, value: usize| gauge!(name, "pool" => pool.to_owned()).set(value as f64);
    set("millpond_slots", status.size);
    set("millpond_held_slots", status.held_slots);
    let busy = status.workers.saturating_sub(status.idle);
    for (state, workers) in [("busy", busy), ("idle", status.idle)] {
        gauge!("millpond_workers", &labels(pool, "state", state)).set(workers as f64);
    }
    for (state, jobs) in [
        ("running", status.running),
        ("lent", status.lent),
        ("queued", status.queued),
        ("waiting", status.waiting),
        ("granted", status.granted),
        ("reserved", status.reserved),
        ("overflow", status.overflow),
        ("in_caller", status.in_caller),
    ] {
        gauge!("millpond_jobs", &labels(pool, "state", state)).set(jobs as f64);
    }
    for (end, jobs) in [
        ("completed", status.completed),
        ("panicked", status.panicked),
        ("cancelled", status.cancelled),
        ("expired", status.expired),
        ("refused", status.refused),
        ("withdrawn", status.withdrawn),
    ] {
        counter!("millpond_jobs_total", &labels(pool, "end", end)).absolute(jobs);
    }
    counter!("millpond_jobs_submitted_total", "pool" => pool.to_owned()).absolute(status.submitted);
    gauge!("millpond_oldest_wait_seconds", "pool" => pool.to_owned()).set(status.oldest_wait);
}

/// The labels of a metric of a pool that has a second label.
fn labels(pool: &str, key: &'static str, value: &str) -> [(&'static str, String); 2] {
    [("pool", pool.to_owned()), (key, value.to_owned())]
}

fn describe() {
    describe_gauge!("millpond_slots", Unit::Count, "How many jobs may hold a slot at once.");
    describe_gauge!("millpond_held_slots", Unit::Count, "Slots held beyond the end of their jobs.");
    describe_gauge!("millpond_workers", Unit::Count, "Tasks that run jobs.");
    describe_gauge!("millpond_jobs", Unit::Count, "Jobs in the pool, by state.");
    describe_counter!("millpond_jobs_submitted_total", Unit::Count, "Jobs that were submitted.");
    describe_counter!("millpond_group_jobs_total", Unit::Count, "Jobs of named groups, by end.");
    #[cfg(feature = "tower")]
    describe_counter!("millpond_layer_calls_total", Unit::Count, "Calls of named layers, by end.");
    describe_counter!("millpond_jobs_total", Unit::Count, "Jobs that have ended, by end.");
    for (names, text) in [
        (WAIT, "How long jobs waited for a slot."),
        (RUN, "How long jobs ran, suspensions included."),
    ] {
        let (bucket, count, sum) = names;
        describe_counter!(bucket, Unit::Count, text);
        describe_counter!(count, Unit::Count, text);
        describe_gauge!(sum, Unit::Seconds, text);
    }
    describe_gauge!(
        "millpond_oldest_wait_seconds",
        Unit::Seconds,
        "How long the first job in line waits."
    );
}
