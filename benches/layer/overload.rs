//! Overload: how much is served in time, and how fast.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::picture::{self, Series};
use crate::progress::Progress;
use crate::servers::{ARMS, CONNECTIONS, NAMES, QUEUE, Server, WORK};
use crate::{Args, median, table};

/// The offered load, as multiples of the capacity of the handler.
const LOADS: [f64; 6] = [0.5, 1.0, 1.4, 2.0, 5.0, 10.0];

/// A client gives up after this time.
const PATIENCE: Duration = Duration::from_millis(200);

/// The services that are compared.
const COMPARED: [usize; 8] = [0, 1, 4, 5, 6, 7, 2, 8];

/// Those of `COMPARED` in the picture.
const DRAWN: [usize; 4] = [0, 1, 2, 7];

fn capacity() -> f64 {
    CONNECTIONS as f64 / WORK.as_secs_f64()
}

#[derive(Clone, Copy)]
struct Figures {
    goodput: f64,
    /// The p99 of the served requests in ms; NaN if hardly any request was served.
    p99: f64,
    /// The peak memory of the server, in MB.
    memory: f64,
}

/// Takes one number out of the figures.
type Pick = fn(&Figures) -> f64;

pub fn run(args: &Args) -> (String, String) {
    let seconds = if args.quick { 0.2 } else { 4.0 };
    // More rounds of the same load add little, and three take minutes.
    let rounds = args.rounds.min(3);
    let mut progress = Progress::new(rounds * LOADS.len() * COMPARED.len());
    let mut all = vec![vec![Vec::new(); LOADS.len()]; COMPARED.len()];
    for _ in 0..rounds {
        for (at, load) in LOADS.iter().enumerate() {
            for (which, &arm) in COMPARED.iter().enumerate() {
                progress.step(format!("overload: {load} times, {}", NAMES[arm]));
                let server = Server::start(ARMS[arm]);
                let (goodput, p99) = load_from_afar(&server, load * capacity(), seconds);
                let p99 = if goodput < 0.01 * capacity() { f64::NAN } else { p99 };
                let memory = server.peak_memory();
                all[which][at].push(Figures { goodput, p99, memory });
            }
        }
    }
    drop(progress);
    let middle = |runs: &[Figures]| Figures {
        goodput: median(runs.iter().map(|run| run.goodput).collect()),
        p99: median(runs.iter().map(|run| run.p99).collect()),
        memory: median(runs.iter().map(|run| run.memory).collect()),
    };
    let all: Vec<Vec<Figures>> =
        all.iter().map(|loads| loads.iter().map(|runs| middle(runs)).collect()).collect();

    let mut text = format!(
        "\n## Overload\n\nA handler that needs one of {CONNECTIONS} connections for {} ms: {} requests/s are all it can \
         serve. An open\nload over loopback, from another process; a client goes away after {} ms. All layers \
         answer 503 to what they\nrefuse. Millpond has {CONNECTIONS} slots: `try_schedule` with {QUEUE} places in \
         its queue, and\n`schedule_within` without any setting of the pool. The adaptive limiters do not \
         know the number of connections.\n\n",
        WORK.as_millis(),
        capacity(),
        PATIENCE.as_millis(),
    );
    let head: Vec<String> = LOADS.iter().map(|load| format!("{load} x")).collect();
    let head: Vec<&str> = std::iter::once("").chain(head.iter().map(String::as_str)).collect();
    let figures: [(&str, Pick); 3] = [
        ("Requests served per second", |figures| figures.goodput),
        ("Their p99 in ms", |figures| figures.p99),
        ("Peak memory of the server in MB", |figures| figures.memory),
    ];
    for (title, figure) in figures {
        let row = |(&arm, loads): (&usize, &Vec<Figures>)| {
            let cell =
                |value: f64| if value.is_nan() { "–".into() } else { format!("{value:.0}") };
            let cells = loads.iter().map(|figures| cell(figure(figures)));
            std::iter::once(NAMES[arm].to_owned()).chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = COMPARED.iter().zip(&all).map(row).collect();
        text += &format!("{title}, by the offered load:\n\n{}\n", table(&head, &rows));
    }

    let series = |figure: Pick| -> Vec<Series> {
        let drawn = DRAWN.iter().map(|&at| Series {
            name: NAMES[COMPARED[at]].replace('`', ""),
            values: all[at].iter().map(figure).collect(),
        });
        drawn.collect()
    };
    let goodput = series(|figures| figures.goodput);
    let p99 = series(|figures| figures.p99);
    (text, picture::draw(&LOADS, &goodput, &p99, capacity(), PATIENCE.as_millis() as f64))
}

/// Loads a server from another process. Returns the goodput and the p99 in ms.
fn load_from_afar(server: &Server, rate: f64, seconds: f64) -> (f64, f64) {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--drive", &server.address.to_string(), &rate.to_string(), &seconds.to_string()])
        .output()
        .expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = || panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    let (Some(goodput), Some(p99)) = (numbers.next(), numbers.next()) else { problem() };
    (goodput, p99)
}

/// The client's process. It sends at a steady rate and does not wait for earlier responses.
pub fn drive(args: &[String]) {
    let rate: f64 = args[1].parse().expect("a rate");
    let seconds: f64 = args[2].parse().expect("seconds");
    let uri: hyper::Uri = format!("http://{}/work", args[0]).parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let histogram = Histogram::<u64>::new_with_bounds(1, 10_000_000, 3).expect("valid bounds");
        let served = Arc::new(std::sync::Mutex::new(histogram));
        let sent = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        // The first second warms up and fills the queues.
        let measured = start + Duration::from_secs_f64(seconds.min(1.0));
        let end = measured + Duration::from_secs_f64(seconds);
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while Instant::now() < end {
            tick.tick().await;
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            while sent.load(Ordering::Relaxed) < due {
                sent.fetch_add(1, Ordering::Relaxed);
                let request = client.get(uri.clone());
                let served = served.clone();
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let response = tokio::time::timeout(PATIENCE, async {
                        let response = request.await.ok()?;
                        let status = response.status();
                        response.into_body().collect().await.ok()?;
                        Some(status)
                    });
                    let ok = response.await.ok().flatten() == Some(StatusCode::OK);
                    if ok && begun >= measured {
                        let micros = begun.elapsed().as_micros() as u64;
                        served.lock().expect("no panic before").saturating_record(micros);
                    }
                });
            }
        }
        // Each request has a clone, and ends within its patience.
        while Arc::strong_count(&served) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let served = served.lock().expect("no panic before");
        let goodput = served.len() as f64 / seconds;
        println!("{goodput:.1} {:.3}", served.value_at_quantile(0.99) as f64 / 1_000.0);
    });
}
