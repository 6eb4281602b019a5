//! The load, from a process of its own: the bench starts itself with `--drive`.
//!
//! The load is open: requests go out at random moments, whatever became of the earlier ones. The moments
//! are the same for each arm.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::process::Server;
use crate::servers::{CLASS, TENANT};

/// A client gives up after this time.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Requests at a steady rate on average, for a time.
#[derive(Debug, Clone)]
pub struct Stream {
    pub class: &'static str,
    /// Requests per second.
    pub rate: f64,
    /// Seconds from the start.
    pub from: f64,
    pub to: f64,
    /// The requests are those of tenants with numbers from the first one up to the second, at random.
    pub tenants: Option<(u64, u64)>,
}

impl Stream {
    pub fn new(rate: f64, from: f64, to: f64) -> Self {
        Self { class: "normal", rate, from, to, tenants: None }
    }
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub class: String,
    pub tenant: u64,
    /// Seconds from the start, of the request and until its end.
    pub at: f64,
    pub took: f64,
    pub served: bool,
}

/// Loads a server. A query of the server takes so many ms from each of these moments on.
pub fn drive_from_afar(server: &Server, streams: &[Stream], takes: &[(f64, u64)]) -> Vec<Seen> {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--drive", &server.address.to_string()]);
    for Stream { class, rate, from, to, tenants } in streams {
        let (low, high) = tenants.unwrap_or((0, 0));
        command.arg(format!("{class}:{rate}:{from}:{to}:{low}:{high}"));
    }
    command.args(takes.iter().map(|(at, ms)| format!("takes:{at}:{ms}")));
    let output = command.output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

fn parse(line: &str) -> Option<Seen> {
    let mut words = line.split_whitespace();
    Some(Seen {
        class: words.next()?.to_owned(),
        tenant: words.next()?.parse().ok()?,
        at: words.next()?.parse().ok()?,
        took: words.next()?.parse().ok()?,
        served: words.next()? == "served",
    })
}

/// What happens at a moment.
enum Act {
    Takes(u64),
    Request { class: String, tenant: Option<u64> },
}

/// The client's process.
pub fn drive(args: &[String]) {
    let mut random = Random::new();
    let mut acts: Vec<(f64, Act)> = Vec::new();
    for arg in &args[1..] {
        let fields: Vec<&str> = arg.split(':').collect();
        let number = |at: usize| -> f64 { fields[at].parse().expect("a number") };
        if fields[0] == "takes" {
            acts.push((number(1), Act::Takes(number(2) as u64)));
            continue;
        }
        let (rate, to, low, high) = (number(1), number(3), number(4) as u64, number(5) as u64);
        let mut at = number(2);
        loop {
            at -= (1.0 - random.part()).ln() / rate;
            if at >= to {
                break;
            }
            let tenant = (high > low).then(|| low + (random.part() * (high - low) as f64) as u64);
            acts.push((at, Act::Request { class: fields[0].to_owned(), tenant }));
        }
    }
    acts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let address = &args[0];
    for Seen { class, tenant, at, took, served } in
        runtime.expect("a runtime").block_on(play(address, acts))
    {
        let end = if served { "served" } else { "refused" };
        println!("{class} {tenant} {at:.4} {took:.5} {end}");
    }
}

type Http = Client<HttpConnector, Empty<Bytes>>;

async fn play(address: &str, acts: Vec<(f64, Act)>) -> Vec<Seen> {
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let start = Instant::now();
    let work: Uri = format!("http://{address}/work").parse().expect("an address");
    for (at, act) in acts {
        let due = start + Duration::from_secs_f64(at);
        tokio::time::sleep_until(due.into()).await;
        let (client, tell) = (client.clone(), tell.clone());
        match act {
            Act::Takes(ms) => {
                let uri = format!("http://{address}/takes/{ms}").parse().expect("an address");
                tokio::spawn(async move { client.get(uri).await.expect("the server hears") });
            }
            Act::Request { class, tenant } => {
                let mut request = Request::get(work.clone()).header(CLASS, &class);
                if let Some(tenant) = tenant {
                    request = request.header(TENANT, tenant);
                }
                let request = request.body(Empty::new()).expect("a request");
                tokio::spawn(async move {
                    // From the moment that was meant: a client that is late is part of the wait.
                    let response = tokio::time::timeout_at((due + PATIENCE).into(), async {
                        let response = client.request(request).await.ok()?;
                        let status = response.status();
                        response.into_body().collect().await.ok()?;
                        Some(status)
                    });
                    let served = response.await.ok().flatten() == Some(StatusCode::OK);
                    let (tenant, took) = (tenant.unwrap_or(0), due.elapsed().as_secs_f64());
                    let _ = tell.send(Seen { class, tenant, at, took, served });
                });
            }
        }
    }
    drop(tell);
    let mut seen = Vec::new();
    while let Some(end) = told.recv().await {
        seen.push(end);
    }
    seen
}

/// Pseudo-random numbers, repeatable.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    /// Returns a number from 0 up to 1.
    pub fn part(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
