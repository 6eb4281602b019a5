//! NATS JetStream.

use std::time::Duration;

use millpond_worker::nats::client::jetstream::{self, Context, stream};
use millpond_worker::nats::{Message, Options, Source, client};
use millpond_worker::testing::{self, conformance};

use crate::support::{Broker, Kind, watchdog};

const ACK_WAIT: Duration = Duration::from_millis(900);

/// A stream of its own for each check.
struct Stream {
    url: String,
    name: String,
    context: Context,
}

impl Stream {
    async fn new(url: &str, number: usize) -> Self {
        let context = jetstream::new(client::connect(url).await.unwrap());
        let name = format!("ORDERS{number}");
        let subjects = vec![format!("orders{number}.>")];
        let config = stream::Config { name: name.clone(), subjects, ..Default::default() };
        context.create_stream(config).await.unwrap();
        Self { url: url.to_owned(), name, context }
    }
}

impl testing::Broker for Stream {
    type Source = Source;

    async fn source(&mut self) -> Source {
        let options = Options::new(&self.name, "thumbnailer").ack_wait(ACK_WAIT);
        Source::connect(&self.url, options).await.unwrap()
    }

    async fn publish(&mut self, number: u32) {
        let subject = format!("{}.new", self.name.to_lowercase());
        self.context.publish(subject, number.to_string().into()).await.unwrap().await.unwrap();
    }

    fn number(&self, message: &Message) -> u32 {
        std::str::from_utf8(&message.payload).unwrap().parse().unwrap()
    }

    async fn dead_letters(&mut self) -> usize {
        let dead =
            self.context.get_stream(format!("{}_thumbnailer_DEAD", self.name)).await.unwrap();
        dead.cached_info().state.messages as usize
    }
}

#[tokio::test]
async fn conforms() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let (url, mut number) = (broker.url(), 0);
    let checks = conformance(async || {
        number += 1;
        Stream::new(&url, number).await
    });
    watchdog(Duration::from_secs(120), checks).await;
}
