//! The load: requests at a steady rate, whether or not the answers keep up.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, Uri};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// No more requests than this are under way at once; further ones are not sent.
const MOST: usize = 2_000;

type Http = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MOST).build_http()
}

async fn ask(client: &Http, uri: Uri) -> Option<StatusCode> {
    let response = client.get(uri).await.ok()?;
    let status = response.status();
    response.into_body().collect().await.ok()?;
    Some(status)
}

fn uri(address: SocketAddr) -> Uri {
    format!("http://{address}/checksums").parse().expect("an address makes a valid URI")
}

/// Asks from a few clients, each one request after another; returns how many were answered.
pub async fn closed(
    address: SocketAddr,
    clients: usize,
    time: Duration,
) -> Result<usize, super::Error> {
    let (client, end) = (client(), Instant::now() + time);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let client = client.clone();
        tasks.spawn(async move {
            let mut answered = 0;
            while Instant::now() < end {
                match ask(&client, uri(address)).await {
                    Some(StatusCode::OK) => answered += 1,
                    Some(_) => {}
                    None => break,
                }
            }
            answered
        });
    }
    let answered = tasks.join_all().await.into_iter().sum();
    if answered == 0 { Err("the service answers nothing".into()) } else { Ok(answered) }
}

/// What the clients have seen.
#[derive(Clone)]
pub struct Seen {
    pub sent: u64,
    pub answered: u64,
    pub refused: u64,
    pub gave_up: u64,
    /// Of the answers, in microseconds.
    latencies: Histogram<u64>,
}

impl Seen {
    pub fn p99(&self) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(0.99))
    }

    pub fn per_second(&self, time: Duration) -> f64 {
        self.answered as f64 / time.as_secs_f64()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, gave_up) = (self.answered, self.gave_up);
        write!(f, "{answered:>6} answered  {gave_up:>6} gave up  p99 {:>8.1?}", self.p99())
    }
}

/// What the clients have seen so far, shared with those who watch.
#[derive(Clone)]
pub struct SoFar(Arc<Mutex<Seen>>);

impl SoFar {
    pub fn now(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Requests at a steady rate for a while.
pub struct Load {
    address: SocketAddr,
    per_second: f64,
    time: Duration,
    patience: Duration,
    seen: SoFar,
}

impl Load {
    pub fn new(address: SocketAddr, per_second: f64, time: Duration, patience: Duration) -> Self {
        let latencies = Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are valid");
        let seen = Seen { sent: 0, answered: 0, refused: 0, gave_up: 0, latencies };
        Self { address, per_second, time, patience, seen: SoFar(Arc::new(Mutex::new(seen))) }
    }

    pub fn seen(&self) -> SoFar {
        self.seen.clone()
    }

    pub async fn run(self) {
        let (client, start) = (client(), Instant::now());
        let mut requests = JoinSet::new();
        let mut ticks = interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut due = 0;
        while start.elapsed() < self.time {
            ticks.tick().await;
            let now = (start.elapsed().as_secs_f64() * self.per_second) as u64;
            for _ in due..now {
                if requests.len() < MOST {
                    requests.spawn(one(client.clone(), self.address, self.patience, self.seen()));
                }
            }
            due = now;
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }
}

async fn one(client: Http, address: SocketAddr, patience: Duration, seen: SoFar) {
    seen.note(|seen| seen.sent += 1);
    let start = Instant::now();
    let answer = timeout(patience, ask(&client, uri(address))).await;
    let took = start.elapsed().as_micros() as u64;
    seen.note(|seen| match answer {
        Ok(Some(StatusCode::OK)) => {
            seen.answered += 1;
            seen.latencies.saturating_record(took);
        }
        Ok(Some(_)) => seen.refused += 1,
        Ok(None) | Err(_) => seen.gave_up += 1,
    });
}
