//! Order by key on real brokers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millpond_worker::{Backoff, Failure};
use tokio_util::sync::CancellationToken;

use crate::queue::{Queue, Settings};
use crate::support::{Broker, Kind, watchdog};

const KEYS: u32 = 50;

/// One worker, and one message in 50 fails once: no message of a key before an earlier one.
async fn no_inversion(kind: Kind) {
    let Some(broker) = Broker::start(kind) else { return };
    let count =
        std::env::var("MILLPOND_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let mut queue = Queue::new(kind, &broker.url()).await;
    for start in (0..count).step_by(1_000) {
        queue.publish_all(start..count.min(start + 1_000)).await;
    }
    let mut settings = Settings::new(kind, broker.url(), Duration::from_secs(30));
    settings.keys = Some(KEYS);
    settings.in_flight = 256;
    settings.retry = Backoff::constant(Duration::from_millis(1));
    let last: Arc<Mutex<HashMap<u32, u32>>> = Arc::default();
    let token = CancellationToken::new();
    let run = settings.run(
        move |number, _| {
            let previous = last.lock().unwrap().insert(number % KEYS, number);
            assert!(previous.is_none_or(|previous| previous <= number), "{number}: {previous:?}");
            async move {
                match number % 50 == 7 && previous != Some(number) {
                    true => Err(Failure::new("once")),
                    false => Ok(()),
                }
            }
        },
        token.clone(),
    );
    let drained = async {
        queue.drained().await;
        token.cancel();
    };
    let both = async { tokio::join!(run, drained) };
    let (report, ()) = watchdog(Duration::from_secs(600), both).await;
    assert_eq!((report.acked, report.dead), (u64::from(count), 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    no_inversion(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats() {
    no_inversion(Kind::Nats).await;
}
