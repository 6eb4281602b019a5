//! The figures of the page: connections, their cost, and the pool.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use millpond::Pool;
use millpond_server::http::Server;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Serve;
use crate::latencies::Latencies;
use crate::memory;

/// The period of the page's updates.
const TICK: Duration = Duration::from_millis(500);

/// The state of the page. Clones share it.
#[derive(Clone)]
pub struct Pond(Arc<Inner>);

struct Inner {
    /// Set late: the server is made after the app, and the app has this.
    server: Arc<OnceLock<Server>>,
    pool: Pool,
    settings: Value,
    latencies: Latencies,
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
            latencies: Latencies::default(),
            start: Instant::now(),
            before: OnceLock::new(),
            updates: watch::Sender::default(),
            ending: CancellationToken::new(),
            sockets: TaskTracker::new(),
        }))
    }

    pub fn latencies(&self) -> &Latencies {
        &self.0.latencies
    }

    /// Cancelled when the app stops.
    pub fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// Starts the measurement: the page shows the growth since this call.
    pub fn start(&self) {
        let _ = self.0.before.set([Some(memory::heap()), memory::resident()]);
        let pond = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            for tick in 0_u64.. {
                ticks.tick().await;
                if tick % 2 == 0 {
                    pond.latencies().next_second();
                }
                // Without a page, nothing is to be computed.
                if pond.0.updates.receiver_count() > 0 {
                    pond.0.updates.send_replace(pond.status().to_string());
                }
            }
        });
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
        let [p50, p99] = inner.latencies.summary().map_or([None; 2], |both| both.map(Some));
        json!({
            "settings": inner.settings,
            "connections": inner.server.get().map(connections),
            "tasks": Handle::current().metrics().num_alive_tasks(),
            "growth": { "heap": heap, "resident": resident },
            "pool": {
                "size": pool.size,
                "running": pool.running,
                "queued": pool.queued,
                "held": pool.held_slots,
                "refused": pool.refused,
                "completed": pool.completed,
            },
            "latency_us": { "p50": p50, "p99": p99 },
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

fn connections(server: &Server) -> Value {
    let status = server.status();
    json!({
        "open": status.open,
        "parked": status.parked,
        "http_states": status.http_states,
        "accepted": status.accepted,
        "turns": status.turns,
    })
}
