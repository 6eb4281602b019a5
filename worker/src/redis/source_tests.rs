//! The source and its scripts against a Redis of its own.

use tokio::time::timeout;

use super::*;
use crate::Source as _;
use crate::support::{Broker, Kind, watchdog};

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

/// A give-back whose answer was lost is sent again. The message is claimed once more by then, also by this
/// consumer: that claim stays.
#[tokio::test]
async fn a_settlement_does_not_touch_a_later_claim() {
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let options = Options::new("orders", "group").create_stream();
    let mut source = Source::connect(&broker.url(), options).await.unwrap();
    let mut connection = connect::open(&source.client, Duration::ZERO).await.unwrap();
    let mut add = redis::cmd("XADD");
    add.arg("orders").arg("*").arg("number").arg(1).exec_async(&mut connection).await.unwrap();
    let one = NonZeroUsize::MIN;
    let next = source.next(one);
    let (message, first) = watchdog(SWEEP * 20, next).await.unwrap().pop().unwrap();
    let names = source.names.clone();
    let why = crate::DeadReason::new("a test", 1);
    let commands = |claim| {
        let nack = scripts::nack(&names, claim, Duration::ZERO);
        [nack, scripts::dead(&names, claim, &why), scripts::extend(&names, claim)]
    };
    first.nack(Duration::ZERO).await.unwrap();
    let next = source.next(one);
    let (_, second) = watchdog(SWEEP * 20, next).await.unwrap().pop().unwrap();
    assert_eq!(second.deliveries(), 2);
    for command in commands((&message.id, 1)) {
        assert_eq!(command.query_async::<i64>(&mut connection).await.unwrap(), 0, "{command:?}");
    }
    second.extend().await.unwrap();
    second.ack().await.unwrap();
}
