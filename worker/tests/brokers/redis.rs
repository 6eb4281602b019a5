//! Redis Streams.

use std::time::Duration;

use millpond_worker::redis::client::{self as redis, aio::MultiplexedConnection};
use millpond_worker::redis::{Message, Options, Source};
use millpond_worker::testing::{self, conformance};

use crate::support::{Broker, Kind, watchdog};

const ACK_WAIT: Duration = Duration::from_millis(900);

/// A stream of its own for each check.
struct Stream {
    url: String,
    name: String,
    connection: MultiplexedConnection,
}

impl Stream {
    async fn new(url: &str, number: usize) -> Self {
        let client = redis::Client::open(url).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { url: url.to_owned(), name: format!("orders{number}"), connection }
    }
}

impl testing::Broker for Stream {
    type Source = Source;

    async fn source(&mut self) -> Source {
        let options = Options::new(&self.name, "thumbnailer").ack_wait(ACK_WAIT).create_stream();
        Source::connect(&self.url, options).await.unwrap()
    }

    async fn publish(&mut self, number: u32) {
        let mut add = redis::cmd("XADD");
        add.arg(&self.name).arg("*").arg("number").arg(number);
        add.exec_async(&mut self.connection).await.unwrap();
    }

    fn number(&self, message: &Message) -> u32 {
        std::str::from_utf8(message.get("number").unwrap()).unwrap().parse().unwrap()
    }

    async fn dead_letters(&mut self) -> usize {
        let mut len = redis::cmd("XLEN");
        len.arg(format!("{}:dead", self.name)).query_async(&mut self.connection).await.unwrap()
    }
}

#[tokio::test]
async fn conforms() {
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let (url, mut number) = (broker.url(), 0);
    let checks = conformance(async || {
        number += 1;
        Stream::new(&url, number).await
    });
    watchdog(Duration::from_secs(120), checks).await;
}
