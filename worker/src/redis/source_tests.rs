//! The source against a Redis of its own.

use tokio::time::timeout;

use super::*;
use crate::Source as _;

#[path = "../../tests/support/mod.rs"]
mod support;

use support::{Broker, Kind, watchdog};

/// A drain ends the read that blocks in Redis. Here that read would block for an hour.
#[tokio::test]
async fn a_close_ends_the_read_at_once() {
    const HOUR: Duration = Duration::from_secs(3600);
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let options = Options::new("orders", "group").create_stream();
    let mut source = Source::connect(&broker.url(), options).await.unwrap();
    let mut connection = connect::open(&source.client, HOUR).await.unwrap();
    let id = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.unwrap();
    source.reader = Some(Reader { connection, id: Some(id) });
    source.sweep_at = Instant::now() + HOUR;
    let wait = timeout(Duration::from_millis(50), source.next(NonZeroUsize::MIN)).await;
    assert!(wait.is_err() && source.reading.is_some(), "a read blocks");
    watchdog(Duration::from_secs(60), source.close()).await;
    assert!(source.reading.is_none());
}
