//! [`Pool::publish_metrics`]: a pool's counts for the facade `metrics`.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

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
    /// | `millpond_oldest_wait_seconds` | gauge | `pool` |
    ///
    /// The states and the ends add up: `millpond_jobs` of all states and `millpond_jobs_total` of all
    /// ends are `millpond_jobs_submitted_total` ([`PoolStatus`]).
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
    /// pool.schedule(async {}).await?.await?;
    ///
    /// pool.publish_metrics();
    /// let page = prometheus.render();
    /// assert!(page.contains(r#"millpond_jobs_total{pool="thumbnails",end="completed"} 1"#));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "prometheus")]
    pub fn publish_metrics(&self) {
        describe();
        publish(self.name(), &self.status());
    }
}

fn publish(pool: &str, status: &PoolStatus) {
    let set = |name, value: usize| gauge!(name, "pool" => pool.to_owned()).set(value as f64);
    set("millpond_slots", status.size);
    set("millpond_held_slots", status.held_slots);
    let busy = status.workers.saturating_sub(status.idle);
    for (state, workers) in [("busy", busy), ("idle", status.idle)] {
        let labels = [("pool", pool.to_owned()), ("state", state.to_owned())];
        gauge!("millpond_workers", &labels).set(workers as f64);
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
        let labels = [("pool", pool.to_owned()), ("state", state.to_owned())];
        gauge!("millpond_jobs", &labels).set(jobs as f64);
    }
    for (end, jobs) in [
        ("completed", status.completed),
        ("panicked", status.panicked),
        ("cancelled", status.cancelled),
        ("expired", status.expired),
        ("refused", status.refused),
        ("withdrawn", status.withdrawn),
    ] {
        let labels = [("pool", pool.to_owned()), ("end", end.to_owned())];
        counter!("millpond_jobs_total", &labels).absolute(jobs);
    }
    counter!("millpond_jobs_submitted_total", "pool" => pool.to_owned()).absolute(status.submitted);
    gauge!("millpond_oldest_wait_seconds", "pool" => pool.to_owned()).set(status.oldest_wait);
}

fn describe() {
    describe_gauge!("millpond_slots", Unit::Count, "How many jobs may hold a slot at once.");
    describe_gauge!("millpond_held_slots", Unit::Count, "Slots held beyond the end of their jobs.");
    describe_gauge!("millpond_workers", Unit::Count, "Tasks that run jobs.");
    describe_gauge!("millpond_jobs", Unit::Count, "Jobs in the pool, by state.");
    describe_counter!("millpond_jobs_submitted_total", Unit::Count, "Jobs that were submitted.");
    describe_counter!("millpond_jobs_total", Unit::Count, "Jobs that have ended, by end.");
    describe_gauge!(
        "millpond_oldest_wait_seconds",
        Unit::Seconds,
        "How long the first job in line waits."
    );
}
