//! An axum app on one pool: each route has the verb that suits it.
//!
//! ```text
//! cargo run --release --features http-body --example axum_layer                    # 127.0.0.1:3000
//! cargo run --release --features http-body --example axum_layer -- --load 10       # and a load for 10 s
//! curl -i http://127.0.0.1:3000/now/20
//! ```
//!
//! A line shows each second what the pool does and how long requests take.

mod app;
mod live;
mod load;

use std::net::SocketAddr;
use std::time::Duration;

use millpond::Pool;
use tokio::net::TcpListener;

const USAGE: &str = "usage: axum_layer [--listen ADDRESS:PORT] [--size SLOTS] [--load SECONDS]";

struct Args {
    listen: SocketAddr,
    size: usize,
    load: Option<Duration>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let args = Args::parse().unwrap_or_else(|problem| {
        eprintln!("{problem}\n{USAGE}");
        std::process::exit(2);
    });
    let pool = Pool::builder().size(args.size).name("requests").build()?;
    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;
    println!("listening on {address}, {} slots", args.size);

    let latencies = live::Latencies::default();
    let line = tokio::spawn(live::show(pool.clone(), latencies.clone()));
    let app = app::app(&pool, latencies);
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        match args.load {
            Some(time) => load::run(address, args.size, time).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    });
    server.await?;
    line.abort();

    let report = pool.shutdown(Duration::from_secs(5)).await;
    let status = pool.status();
    println!(
        "\n{} calls: {} completed, {} refused, {} panicked, {} cancelled, {} withdrawn; {} left",
        status.submitted,
        status.completed,
        status.refused,
        status.panicked,
        status.cancelled,
        status.withdrawn,
        report.still_running
    );
    Ok(())
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { listen: ([127, 0, 0, 1], 3000).into(), size: 32, load: None };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |what: &str| format!("{name} {value}: expected {what}");
            match &*name {
                "--listen" => parsed.listen = value.parse().map_err(|_| wrong("an address"))?,
                "--size" => parsed.size = value.parse().map_err(|_| wrong("a number"))?,
                "--load" => {
                    let seconds = value.parse().map_err(|_| wrong("seconds, 1 to 600"))?;
                    if !(1..=600).contains(&seconds) {
                        return Err(wrong("seconds, 1 to 600"));
                    }
                    parsed.load = Some(Duration::from_secs(seconds));
                }
                _ => return Err(format!("there is no option {name}")),
            }
        }
        Ok(parsed)
    }
}
