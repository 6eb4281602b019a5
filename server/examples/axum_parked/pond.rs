//! The figures of the page: connections, their cost, and the pool.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use millpond::{Histogram, Pool, Timings};
use millpond_server::http::Server;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Serve;
use crate::memory;

/// The period of the page's updates.
const TICK: Duration = Duration::from_millis(500);
/// The ticks of which waits and runs are shown: five seconds.
const TICKS: usize = 10;
/// The jobs that are shown.
const JOBS: usize = 20;

/// The state of the page. Clones share it.
#[derive(Clone)]
pub struct Pond(Arc<Inner>);

struct Inner {
    /// Set late: the server is made after the app, and the app has this.
    server: Arc<OnceLock<Server>>,
    pool: Pool,
    settings: Value,
    /// What the pool had timed at each of the last ticks.
    looks: Mutex<VecDeque<Timings>>,
    start: Instant,
    /// Heap and resident bytes before the first connection.
    before: OnceLock<[Option<usize>; 2]>,
    updates: watch::Sender<String>,
    ending: CancellationToken,
    /// WebSockets: after the upgrade they belong to the app, not to the server.
    sockets: TaskTracker,
}

impl Pond {
    pub fn new(
        server: Arc<OnceLock<Server>>,
        pool: Pool,
        settings: &Serve,
        max_connections: usize,
    ) -> Self {
        let mode = format!("{:?}", settings.mode);
        Self(Arc::new(Inner {
            server,
            pool,
            settings: json!({ "mode": mode, "max_connections": max_connections }),
            looks: Mutex::default(),
            start: Instant::now(),
            before: OnceLock::new(),
            updates: watch::Sender::default(),
            ending: CancellationToken::new(),
            sockets: TaskTracker::new(),
        }))
    }

    /// Cancelled when the app stops.
    pub fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// Starts the measurement: the page shows the growth since this call.
    pub fn start(&self) {
        // What the page itself keeps is not to count.
        (0..TICKS).for_each(|_| self.look());
        let _ = self.0.before.set([Some(memory::heap()), memory::resident()]);
        let pond = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                pond.look();
                // Without a page, nothing is to be computed.
                if pond.0.updates.receiver_count() > 0 {
                    pond.0.updates.send_replace(pond.status().to_string());
                }
            }
        });
    }

    /// Keeps what the pool has timed so far, for as long as the page needs it.
    fn look(&self) {
        let mut looks = self.0.looks.lock().expect("nothing panics in there");
        looks.truncate(TICKS - 1);
        looks.push_front(self.0.pool.timings());
    }

    /// Returns what the pool timed in the last seconds.
    fn lately(&self) -> Timings {
        let now = self.0.pool.timings();
        match self.0.looks.lock().expect("nothing panics in there").back() {
            Some(earlier) => now.since(earlier),
            None => now,
        }
    }

    pub fn sockets(&self) -> &TaskTracker {
        &self.0.sockets
    }

    /// Ends the event streams and the WebSockets, which have no end by themselves.
    pub async fn end(&self) {
        self.0.ending.cancel();
        self.0.sockets.close();
        self.0.sockets.wait().await;
    }

    pub fn status(&self) -> Value {
        let inner = &*self.0;
        let before = inner.before.get().copied().unwrap_or_default();
        let now = [Some(memory::heap()), memory::resident()];
        let [heap, resident] = [0, 1].map(|of| Some(now[of]?.saturating_sub(before[of]?)));
        let pool = inner.pool.status();
        let lately = self.lately();
        json!({
            "settings": inner.settings,
            "connections": inner.server.get().map(connections),
            "tasks": Handle::current().metrics().num_alive_tasks(),
            "growth": { "heap": heap, "resident": resident },
            "pool": pool,
            "wait": times(&lately.wait),
            "run": times(&lately.run),
            "jobs": inner.pool.jobs(JOBS),
            "layers": inner.pool.layer_counts(),
            "groups": inner.pool.group_counts(),
            // The sum so far: two readings give the share of a core.
            "cpu_us": memory::cpu() / 1_000,
            "uptime_us": inner.start.elapsed().as_micros() as u64,
        })
    }

    /// Streams the status, at once and with each update, until the app stops.
    pub fn events(&self) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
        let ending = self.0.ending.clone();
        let mut updates = self.0.updates.subscribe();
        self.0.updates.send_replace(self.status().to_string());
        updates.mark_changed();
        Sse::new(unfold((updates, ending), |(mut updates, ending)| async move {
            tokio::select! {
                () = ending.cancelled() => return None,
                changed = updates.changed() => changed.ok()?,
            }
            let event = Event::default().data(&*updates.borrow_and_update());
            Some((Ok(event), (updates, ending)))
        }))
    }
}

/// Seconds, or nothing if there were no jobs.
fn times(histogram: &Histogram) -> Option<Value> {
    let [p50, p99, max] =
        [histogram.p50(), histogram.p99(), histogram.max()].map(|t| t.as_secs_f64());
    (!histogram.is_empty()).then(|| json!({ "p50": p50, "p99": p99, "max": max }))
}

fn connections(server: &Server) -> Value {
    let status = server.status();
    json!({
        "open": status.open,
        "parked": status.parked,
        "http_states": status.http_states,
        "accepted": status.accepted,
        "turns": status.turns,
        "closed": status.reasons().map(|(why, count)| (why.to_string(), count)).collect::<BTreeMap<_, _>>(),
    })
}
