//! Make thumbnails of pictures: each message is a picture, each size of it a job, and the message is
//! acknowledged once, when all its sizes are done.
//!
//! ```text
//! cargo run --release -p millpond-worker --example thumbnails
//! cargo run --release -p millpond-worker --all-features --example thumbnails -- redis://127.0.0.1
//! cargo run --release -p millpond-worker --all-features --example thumbnails -- nats://127.0.0.1
//! ```
//!
//! Without an address the broker is a queue in memory. Some pictures fail once and are tried again.
//! One is no picture and ends among the dead letters. Ctrl-C drains: what runs may end, the rest goes
//! back to the broker.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use millpond::Pool;
use millpond_worker::memory::Queue;
use millpond_worker::{Backoff, BoxError, Failure, Jobs, Report, Source, Worker};
use tokio_util::sync::CancellationToken;

const PICTURES: u32 = 400;
const SIZES: [usize; 4] = [256, 128, 64, 32];

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let report = match std::env::args().nth(1) {
        None => in_memory().await?,
        #[cfg(feature = "redis")]
        Some(url) if url.starts_with("redis://") => on_redis(&url).await?,
        #[cfg(feature = "nats")]
        Some(url) if url.starts_with("nats://") => on_nats(&url).await?,
        Some(other) => {
            let accepted = "redis://HOST or nats://HOST, with the feature of that name";
            return Err(format!("{other} is no broker: accepted is {accepted}").into());
        }
    };
    println!(
        "{} deliveries: {} acknowledged, {} given back for another attempt, {} dead letters,",
        report.fetched, report.acked, report.nacked, report.dead
    );
    println!("{} claims lost, {} unsettled.", report.lost, report.unsettled);
    let jobs = report.jobs;
    println!(
        "{} thumbnails made, {} failed, {} cancelled.",
        jobs.succeeded, jobs.failed, jobs.cancelled
    );
    Ok(())
}

/// Makes thumbnails until all pictures are acknowledged or dead, or until Ctrl-C.
async fn work<S: Source>(source: S, parse: fn(&S::Message) -> String) -> Result<Report, BoxError> {
    let pool = Pool::new(std::thread::available_parallelism()?.get());
    let (token, progress) = (CancellationToken::new(), progress_bar());
    let stop = token.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let (bar, stop) = (progress.clone(), token.clone());
    let report = Worker::new(source, &pool)
        .in_flight(16)
        .retry(
            Backoff::exponential(Duration::from_millis(100), Duration::from_secs(10)).attempts(5),
        )
        .run(
            move |message, jobs| {
                let (name, bar, stop) = (parse(&message), bar.clone(), stop.clone());
                async move {
                    let result = thumbnails(&name, &jobs, &bar).await;
                    // The last picture ends the example; a real worker goes on.
                    if result.as_ref().map_or_else(Failure::is_dead, |()| true) {
                        bar.inc(1);
                        if bar.position() == u64::from(PICTURES) {
                            stop.cancel();
                        }
                    }
                    result
                }
            },
            token,
        )
        .await?;
    progress.finish();
    Ok(report)
}

/// The code of a message: one job for each size. Returns when all are done, for the progress bar.
async fn thumbnails(name: &str, jobs: &Jobs, bar: &ProgressBar) -> Result<(), Failure> {
    let Some(number) = name.strip_prefix("picture-") else {
        return Err(Failure::dead(format!("{name} is no picture")));
    };
    let number: u32 = number.parse().map_err(Failure::dead)?;
    let mut random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), number) % 10;
    for size in SIZES {
        let fails = std::mem::replace(&mut random, 9) == 0;
        jobs.schedule(async move {
            if fails {
                return Err(Failure::new("the storage is busy"));
            }
            std::hint::black_box(scale(&render(number), size));
            Ok(())
        })
        .await?;
    }
    let report = jobs.wait().await;
    if !report.is_success() {
        bar.println(format!("{name} is tried again"));
        return Err(Failure::new("a size is missing"));
    }
    Ok(())
}

/// The pixels of a picture of 512 by 512.
fn render(number: u32) -> Vec<u8> {
    (0..512 * 512u32).map(|pixel| (pixel.wrapping_mul(number | 1) >> 7) as u8).collect()
}

/// Averages squares of pixels.
fn scale(pixels: &[u8], size: usize) -> Vec<u8> {
    let side = 512 / size;
    let average = |x: usize, y: usize| {
        let rows = (y * side..(y + 1) * side).map(|row| &pixels[row * 512 + x * side..][..side]);
        let sum: usize = rows.flatten().map(|pixel| usize::from(*pixel)).sum();
        (sum / (side * side)) as u8
    };
    (0..size * size).map(|pixel| average(pixel % size, pixel / size)).collect()
}

fn names() -> impl Iterator<Item = String> {
    let pictures = (1..PICTURES).map(|number| format!("picture-{number}"));
    pictures.chain(["holiday.txt".to_owned()])
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {per_sec}, {eta}");
    ProgressBar::new(u64::from(PICTURES)).with_style(style.expect("a valid template"))
}

async fn in_memory() -> Result<Report, BoxError> {
    let queue = Queue::new(Duration::from_secs(30));
    for name in names() {
        queue.publish(name);
    }
    let report = work(queue.source(), |message| message.value.clone()).await?;
    for letter in queue.dead_letters() {
        println!(
            "dead letter: {}, after {} deliveries, {}",
            letter.reason.reason,
            letter.reason.deliveries,
            letter.reason.place()
        );
    }
    Ok(report)
}

#[cfg(feature = "redis")]
async fn on_redis(url: &str) -> Result<Report, BoxError> {
    use millpond_worker::redis::{self, client};

    let mut connection = client::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut pipeline = client::pipe();
    for name in names() {
        pipeline.cmd("XADD").arg("pictures").arg("*").arg("name").arg(name);
    }
    pipeline.exec_async(&mut connection).await?;
    let options = redis::Options::new("pictures", "thumbnailer").delete_acked();
    let source = redis::Source::connect(url, options).await?;
    let name = |message: &redis::Message| {
        String::from_utf8_lossy(message.get("name").map_or(b"", |name| name)).into_owned()
    };
    work(source, name).await
}

#[cfg(feature = "nats")]
async fn on_nats(url: &str) -> Result<Report, BoxError> {
    use millpond_worker::nats::{self, client::jetstream};

    let context = jetstream::new(nats::client::connect(url).await?);
    let config = jetstream::stream::Config {
        name: "PICTURES".to_owned(),
        subjects: vec!["pictures".to_owned()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    context.get_or_create_stream(config).await?;
    for name in names() {
        context.publish("pictures", name.into()).await?.await?;
    }
    let options = nats::Options::new("PICTURES", "thumbnailer");
    let source = nats::Source::connect(url, options).await?;
    work(source, |message| String::from_utf8_lossy(&message.payload).into_owned()).await
}
