//! The load: requests at a steady rate, whether or not the answers keep up.
//!
//! The client is a few lines of HTTP/1.1 on keep-alive connections. A complete client would take more
//! of the processor away from the service, and longer to build.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// No more requests than this are under way at once. The others count as unsent.
pub const MOST: usize = 2_000;

const REQUEST: &[u8] = b"GET /checksums HTTP/1.1\r\nhost: tour\r\n\r\n";
const OK: u16 = 200;

/// Connections to the service that are idle.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self { address, idle: Arc::default() }
    }

    /// Sends a request and returns the status of the answer.
    async fn ask(&self) -> io::Result<u16> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await?,
        };
        stream.write_all(REQUEST).await?;
        let mut answer = Vec::with_capacity(8 * 1024);
        let status = loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = complete(&answer) {
                break status;
            }
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(status)
    }
}

/// The status of an answer of which head and body have arrived.
fn complete(answer: &[u8]) -> Option<u16> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let length: usize = length.parse().ok()?;
    (answer.len() >= end + 4 + length).then_some(status)
}

/// Asks from a few clients, each one request after another; returns how many were answered.
pub async fn closed(address: SocketAddr, clients: usize, time: Duration) -> io::Result<usize> {
    let (client, end) = (Client::new(address), Instant::now() + time);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let client = client.clone();
        tasks.spawn(async move {
            let mut answered = 0;
            while Instant::now() < end {
                answered += usize::from(client.ask().await? == OK);
            }
            Ok::<_, io::Error>(answered)
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// What the clients have seen.
#[derive(Clone, Default)]
pub struct Seen {
    pub sent: u64,
    pub unsent: u64,
    pub answered: u64,
    pub refused: u64,
    pub gave_up: u64,
    latencies: Vec<Duration>,
}

impl Seen {
    /// The 99th percentile of the time that answers took.
    pub fn p99(&self) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, refused, gave_up, .. } = self;
        write!(f, "{answered:>5} answered {refused:>6} refused {gave_up:>6} gave up")?;
        write!(f, "  p99 {:>8.1?}", self.p99())
    }
}

/// What the clients have seen so far, shared with the live line.
#[derive(Clone, Default)]
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
    client: Client,
    per_second: f64,
    pub time: Duration,
    patience: Duration,
    seen: SoFar,
}

impl Load {
    pub fn new(address: SocketAddr, per_second: f64, time: Duration, patience: Duration) -> Self {
        Self { client: Client::new(address), per_second, time, patience, seen: SoFar::default() }
    }

    pub fn seen(&self) -> SoFar {
        self.seen.clone()
    }

    pub async fn run(self) {
        let start = Instant::now();
        let mut requests = JoinSet::new();
        let mut ticks = interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent = 0;
        while start.elapsed() < self.time {
            ticks.tick().await;
            while requests.try_join_next().is_some() {}
            let due = (start.elapsed().as_secs_f64() * self.per_second) as u64;
            for _ in sent..due {
                if requests.len() < MOST {
                    self.seen.note(|seen| seen.sent += 1);
                    requests.spawn(one(self.client.clone(), self.patience, self.seen()));
                } else {
                    self.seen.note(|seen| seen.unsent += 1);
                }
            }
            sent = due;
        }
        requests.join_all().await;
    }
}

async fn one(client: Client, patience: Duration, seen: SoFar) {
    let start = Instant::now();
    let answer = timeout(patience, client.ask()).await;
    let took = start.elapsed();
    seen.note(|seen| match answer {
        // A busy processor may wake the clock of this request late.
        Ok(Ok(OK)) if took <= patience => {
            seen.answered += 1;
            seen.latencies.push(took);
        }
        Ok(Ok(status)) if status != OK => seen.refused += 1,
        _ => seen.gave_up += 1,
    });
}
