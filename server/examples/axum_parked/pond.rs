//! What the page shows: connections, what they cost, and the pool.

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

/// How often the page hears something.
const TICK: Duration = Duration::from_millis(500);

/// Clones are the same.
#[derive(Clone)]
pub struct Pond(Arc<Inner>);

struct Inner {
    /// Made after the app that it serves.
    server: Arc<OnceLock<Server>>,
    pool: Pool,
    settings: Value,
    latencies: Latencies,
    start: Instant,
    /// Heap and resident bytes before anybody came.
    before: OnceLock<[Option<usize>; 2]>,
    told: watch::Sender<String>,
    ending: CancellationToken,
    /// WebSockets, which are the app's own once they were upgraded.
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
            told: watch::Sender::default(),
            ending: CancellationToken::new(),
            sockets: TaskTracker::new(),
        }))
    }

    pub fn latencies(&self) -> &Latencies {
        &self.0.latencies
    }

    /// Done once the app stops.
    pub fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    /// From now on, what grows is due to connections.
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
                // Else the server would be busy with looking at itself.
                if pond.0.told.receiver_count() > 0 {
                    pond.0.told.send_replace(pond.status().to_string());
                }
            }
        });
    }

    pub fn sockets(&self) -> &TaskTracker {
        &self.0.sockets
    }

    /// Ends what has no end by itself.
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
            // Of all so far: whoever looks twice knows the share of a core.
            "cpu_us": memory::cpu() / 1_000,
            "uptime_us": inner.start.elapsed().as_micros() as u64,
        })
    }

    /// The status, at once and again and again until the app ends.
    pub fn events(&self) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
        let ending = self.0.ending.clone();
        let mut told = self.0.told.subscribe();
        self.0.told.send_replace(self.status().to_string());
        told.mark_changed();
        Sse::new(unfold((told, ending), |(mut told, ending)| async move {
            tokio::select! {
                () = ending.cancelled() => return None,
                changed = told.changed() => changed.ok()?,
            }
            let event = Event::default().data(&*told.borrow_and_update());
            Some((Ok(event), (told, ending)))
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
