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

mod load;
mod service;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::load::{Load, Seen};
use crate::service::{Bounded, Files, unbounded};

/// How long a client waits for its answer before it gives up.
const PATIENCE: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_secs(2);
const FACTORS: [f64; 5] = [0.5, 1.0, 2.0, 5.0, 10.0];

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let stay = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--stay") => true,
        Some(other) => {
            eprintln!("unknown option {other}\nusage: tour [--stay]");
            std::process::exit(2);
        }
    };
    let files = Files::of_the_checkout()?;
    let (runtime, bounded) = (Runtime::new()?, Bounded::new(files.clone())?);
    let address = runtime.block_on(serve(bounded.router()))?;
    println!(
        "a service at {address} hashes {} files, {} KiB, for each request",
        files.len(),
        files.bytes() / 1024
    );

    let capacity = capacity(address)?;
    println!("its capacity is some {capacity:.0} requests a second; now the load:");
    let mut steps = Vec::new();
    for factor in FACTORS {
        let before = bounded.refused();
        let seen = watched(Load::new(address, factor * capacity, STEP, PATIENCE), |seen| {
            line(&format!("{factor:>4} x  {}", bounded.live(before, seen)))
        })?;
        println!();
        steps.push(seen);
    }
    runtime.block_on(bounded.idle());

    let bare = Runtime::new()?;
    let (router, under_way) = unbounded(files.clone());
    let bare_address = bare.block_on(serve(router))?;
    let top = FACTORS[FACTORS.len() - 1];
    let without = watched(Load::new(bare_address, top * capacity, STEP, PATIENCE), |seen| {
        line(&format!("{top:>4} x  without a pool: {:>6} jobs under way  {seen}", under_way.now()))
    })?;
    let left = under_way.now();
    bare.shutdown_background();
    println!("\n");

    let (calm, most) = (&steps[0], &steps[steps.len() - 1]);
    println!(
        "1. At {} times its capacity the service answered {:.0} % of the requests, p99 {:.1?}.",
        FACTORS[0],
        100.0 * calm.answered as f64 / calm.sent.max(1) as f64,
        calm.p99()
    );
    println!(
        "2. At {top} times it answered {:.0} a second within {PATIENCE:?} ({:.0} % of its capacity), \
         p99 {:.1?}.",
        most.per_second(STEP),
        100.0 * most.per_second(STEP) / capacity,
        most.p99()
    );
    println!(
        "3. It refused the rest, {} requests, with a 503 at once; {} clients gave up.",
        most.refused, most.gave_up
    );
    println!("4. {}", bounded.account());
    println!(
        "5. Without the pool, at the same load: {:.0} answers a second in time, {} clients gave up, \
         and {left} jobs were left under way.",
        without.per_second(STEP),
        without.gave_up
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

/// Measures how many requests a second the service answers to clients that ask one after another.
fn capacity(address: SocketAddr) -> Result<f64, Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // The first half second warms the service up.
    runtime.block_on(load::closed(address, 8, Duration::from_millis(500)))?;
    let time = Duration::from_millis(1500);
    let answered = runtime.block_on(load::closed(address, 8, time))?;
    Ok((answered as f64 / time.as_secs_f64()).max(1.0))
}

/// Runs a load on a thread of its own and shows what happens meanwhile.
fn watched(load: Load, show: impl Fn(&Seen)) -> Result<Seen, Error> {
    let so_far = load.seen();
    let client = thread::spawn(move || -> std::io::Result<()> {
        Builder::new_current_thread().enable_all().build()?.block_on(load.run());
        Ok(())
    });
    let is_terminal = std::io::stdout().is_terminal();
    while !client.is_finished() {
        thread::sleep(Duration::from_millis(100));
        if is_terminal {
            show(&so_far.now());
        }
    }
    client.join().map_err(|_| "the load panicked")??;
    let seen = so_far.now();
    show(&seen);
    Ok(seen)
}

/// Replaces the line on a terminal; elsewhere this is the only one of its step.
fn line(text: &str) {
    let start = if std::io::stdout().is_terminal() { "\r\x1b[2K" } else { "" };
    print!("{start}{text}");
    // A closed pipe does not stop the tour.
    let _ = std::io::stdout().flush();
}
