//! A tour of the pool: an axum service under a load that it can serve, and under one that it cannot.
//!
//! ```text
//! cargo run --release --example tour
//! cargo run --release --example tour -- --stay   # and keep the service up afterwards
//! ```
//!
//! The service hashes the source files of the checkout. Each request is a job behind the layer, and
//! fans out into a group with one job per file. A load of its own comes at 0.5 to 10 times what the
//! service can do. At the end the same load meets the same service without a pool.
//!
//! All sockets are on the loopback interface. `--step MILLISECONDS` shortens or prolongs the steps.

mod load;
mod service;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::load::{Load, MOST, Seen};
use crate::service::{Bounded, Files, unbounded};

/// How long a client waits for its answer before it gives up.
const PATIENCE: Duration = Duration::from_millis(500);
const FACTORS: [f64; 5] = [0.5, 1.0, 2.0, 5.0, 10.0];

type Error = Box<dyn std::error::Error + Send + Sync>;

struct Args {
    stay: bool,
    step: Duration,
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { stay: false, step: Duration::from_millis(1500) };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            match &*name {
                "--stay" => parsed.stay = true,
                "--step" => {
                    let value = args.next().and_then(|value| value.parse().ok());
                    let value = value.filter(|ms| (100..=10_000).contains(ms));
                    parsed.step = value
                        .map(Duration::from_millis)
                        .ok_or("--step: expected milliseconds, 100 to 10000")?;
                }
                _ => return Err(format!("there is no option {name}")),
            }
        }
        Ok(parsed)
    }
}

fn main() -> Result<(), Error> {
    let Args { stay, step } = Args::parse().unwrap_or_else(|problem| {
        eprintln!("{problem}\nusage: tour [--stay] [--step MILLISECONDS]");
        std::process::exit(2);
    });
    let files = Files::of_the_checkout()?;
    let (runtime, bounded) = (Runtime::new()?, Bounded::new(files.clone())?);
    let address = runtime.block_on(serve(bounded.router()))?;
    let (count, size) = (files.len(), files.bytes() / 1024);
    println!("a service at {address} hashes {count} files, {size} KiB, for each request");

    let capacity = capacity(address)?;
    println!("its capacity is some {capacity:.0} requests a second; now the load:");
    let mut steps = Vec::new();
    for factor in FACTORS {
        let load = Load::new(address, factor * capacity, step, PATIENCE);
        let live = || bounded.live();
        steps.push(watched(load, &format!("{factor:>4} x"), live)?);
    }
    runtime.block_on(bounded.idle());

    let bare = Runtime::new()?;
    let (router, jobs) = unbounded(files);
    let bare_address = bare.block_on(serve(router))?;
    let top = FACTORS[FACTORS.len() - 1];
    let load = Load::new(bare_address, top * capacity, step, PATIENCE);
    let live = || format!("{:>5} jobs at most", jobs.most());
    let without = watched(load, &format!("{top:>4} x without a pool:"), live)?;
    bare.shutdown_background();

    let (calm, most) = (&steps[0], &steps[steps.len() - 1]);
    let per_second = |seen: &Seen| seen.answered as f64 / step.as_secs_f64();
    println!(
        "\n1. At {} times its capacity the service answered {:.0} % of the requests, p99 {:.1?}.",
        FACTORS[0],
        100.0 * calm.answered as f64 / calm.sent.max(1) as f64,
        calm.p99()
    );
    println!(
        "2. At {top} times it answered {:.0} a second, p99 {:.1?}.",
        per_second(most),
        most.p99()
    );
    println!(
        "3. It refused {} requests of that step with a 503 at once; {} clients gave up after \
         {PATIENCE:?}.",
        most.refused, most.gave_up
    );
    println!("4. {}", bounded.account());
    println!(
        "5. Without the pool the same load got {:.0} answers a second, p99 {:.1?}: {} clients gave up, \
         {} more found {MOST} requests under way and sent nothing, {} jobs at most were there at once.",
        per_second(&without),
        without.p99(),
        without.gave_up,
        without.unsent,
        jobs.most()
    );

    if stay {
        println!("\ncurl http://{address}/checksums\n\nCtrl-C ends the service.");
        runtime.block_on(tokio::signal::ctrl_c())?;
    }
    runtime.shutdown_background();
    Ok(())
}

async fn serve(router: Router) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Measures how many requests a second the service answers when more come than it can serve.
fn capacity(address: SocketAddr) -> Result<f64, Error> {
    // Clients that wait for their answers warm the service up, and find out roughly. They leave it
    // idle at times, so that the real capacity is higher.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let time = Duration::from_millis(500);
    let roughly = runtime.block_on(load::closed(address, 4, time))? as f64 / time.as_secs_f64();
    let time = Duration::from_millis(1500);
    let load = Load::new(address, (3.0 * roughly).max(10.0), time, PATIENCE);
    let seen = load.seen();
    runtime.block_on(load.run());
    match seen.now().answered {
        0 => Err("the service answers nothing".into()),
        answered => Ok(answered as f64 / time.as_secs_f64()),
    }
}

/// Runs a load on a thread of its own. On a terminal the line of the step is rewritten meanwhile;
/// elsewhere the line is printed once, with what `live` said last while the load came.
fn watched(load: Load, step: &str, live: impl Fn() -> String) -> Result<Seen, Error> {
    let (so_far, end) = (load.seen(), Instant::now() + load.time);
    let client = thread::spawn(move || -> std::io::Result<()> {
        Builder::new_current_thread().enable_all().build()?.block_on(load.run());
        Ok(())
    });
    let is_terminal = std::io::stdout().is_terminal();
    let mut last = live();
    while !client.is_finished() {
        thread::sleep(Duration::from_millis(50));
        if Instant::now() < end {
            last = live();
        }
        if is_terminal {
            print!("\r\x1b[2K{step} {last}  {}", so_far.now());
            // A closed pipe does not stop the tour.
            let _ = std::io::stdout().flush();
        }
    }
    client.join().map_err(|_| "the load panicked")??;
    let seen = so_far.now();
    let start = if is_terminal { "\r\x1b[2K" } else { "" };
    println!("{start}{step} {last}  {seen}");
    Ok(seen)
}
