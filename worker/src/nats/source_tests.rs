//! The source against a server of its own.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::Source as _;
use crate::support::{Broker, Kind, watchdog};

const LIMIT: Duration = Duration::from_secs(60);
const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// Makes a source whose request for `room` messages waits in the server.
async fn asked(broker: &Broker, room: usize) -> Source {
    let context = jetstream::new(async_nats::connect(broker.url()).await.unwrap());
    let (name, subjects) = ("ORDERS".to_owned(), vec!["orders".to_owned()]);
    let config = jetstream::stream::Config { name, subjects, ..Default::default() };
    context.create_stream(config).await.unwrap();
    let mut source = Source::connect(&broker.url(), Options::new("ORDERS", "c")).await.unwrap();
    let wait = timeout(Duration::from_millis(200), source.next(room.try_into().unwrap())).await;
    assert!(wait.is_err() && source.outstanding == room, "{wait:?}");
    source
}

/// Publishes messages, which come to the inbox of the source.
async fn publish(source: &Source, count: usize) {
    for _ in 0..count {
        source.context().publish("orders", "7".into()).await.unwrap().await.unwrap();
    }
    // The last answer comes behind the messages.
    while source.consumer.get_info().await.unwrap().num_ack_pending < count {
        sleep(Duration::from_millis(5)).await;
    }
    source.consumer.get_info().await.unwrap();
}

/// Sends a status to the inbox of the source, as a server does.
async fn status(broker: &Broker, source: &Source, status: &str) {
    let address = broker.url().replace("nats://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (head, inbox) = (format!("NATS/1.0 {status}\r\n\r\n"), &source.inbox_name);
    let size = head.len();
    let connect = r#"CONNECT {"verbose":false,"headers":true}"#;
    let lines = format!("{connect}\r\nHPUB {inbox} {size} {size}\r\n{head}\r\nPING\r\n");
    stream.write_all(lines.as_bytes()).await.unwrap();
    let (mut seen, mut some) = (String::new(), [0; 4096]);
    while !seen.contains("PONG") {
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0 && !seen.contains("-ERR"), "{seen}");
        seen.push_str(&String::from_utf8_lossy(&some[..count]));
    }
    // This answer comes behind the status.
    source.consumer.get_info().await.unwrap();
}

/// The worker would pause, and start them later as if they had just been claimed.
#[tokio::test]
async fn messages_do_not_wait_behind_a_status() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut source = asked(&broker, 10).await;
    publish(&source, 3).await;
    status(&broker, &source, "409 Server Shutdown").await;
    let next = watchdog(LIMIT, source.next(10.try_into().unwrap())).await;
    assert_eq!(next.unwrap().len(), 3);
}

/// The same while the client has no connection.
#[tokio::test]
async fn messages_do_not_wait_for_a_connection() {
    let Some(mut broker) = Broker::start(Kind::Nats) else { return };
    let mut source = asked(&broker, 10).await;
    publish(&source, 3).await;
    watchdog(LIMIT, source.next(ONE)).await.unwrap();
    broker.kill();
    while source.link.client.connection_state() == State::Connected {
        sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..2 {
        assert_eq!(watchdog(LIMIT, source.next(ONE)).await.unwrap().len(), 1);
    }
    let next = watchdog(LIMIT, source.next(ONE)).await;
    assert!(matches!(next, Err(SourceError::Disconnected(_))), "{next:?}");
}

/// N3: the claims that are here already are of the old connection. A task may poll 128 times in a row.
#[tokio::test]
async fn all_that_is_here_came_by_the_old_connection() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut source = asked(&broker, 1000).await;
    publish(&source, 300).await;
    let before = source.connects;
    source.link.client.force_reconnect().await.unwrap();
    while connects(&source.link.client) == before {
        sleep(Duration::from_millis(5)).await;
    }
    let next = watchdog(LIMIT, source.next(1000.try_into().unwrap())).await;
    assert_eq!((next.unwrap().len(), source.connects), (300, before + 1));
}

/// Otherwise the source would ask for nothing until it looks whether the client has reconnected.
#[tokio::test]
async fn the_end_of_an_old_inbox_ends_the_wait() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut source = asked(&broker, 10).await;
    source.renew().await.unwrap();
    assert_eq!((source.old.len(), source.outstanding), (1, 0));
    let wait = async {
        // Each is shorter than the time between two looks.
        while source.wait().now_or_never().is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    watchdog(LIMIT, wait).await;
    assert!(source.old.is_empty());
}

/// Several requests, where the consumer allows small ones alone.
#[tokio::test]
async fn a_pull_asks_for_all_the_room() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut source = asked(&broker, 1).await;
    source.bounds.batch = 3;
    source.pull(10).await.unwrap();
    assert_eq!(source.outstanding, 10);
    source.pull(1000).await.unwrap();
    assert_eq!(source.outstanding, 3 * REQUESTS);
    publish(&source, 3 * REQUESTS).await;
}
