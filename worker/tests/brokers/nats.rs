//! NATS JetStream.

use std::time::Duration;

use millpond_worker::nats::client::jetstream::consumer::{AckPolicy, pull};
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

/// Each setting that contradicts the server's is named, before anything is fetched.
#[tokio::test]
async fn bad_input_is_named() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let url = broker.url();
    let made = Stream::new(&url, 0).await;
    let stream = made.context.get_stream("ORDERS0").await.unwrap();
    let base = pull::Config { ack_policy: AckPolicy::Explicit, ..Default::default() };
    let consumers = [
        ("fine", base.clone()),
        ("none", pull::Config { ack_policy: AckPolicy::None, ..base.clone() }),
        ("few", pull::Config { max_deliver: 3, ..base.clone() }),
        ("slow", pull::Config { backoff: vec![Duration::from_secs(1)], ..base.clone() }),
    ];
    for (name, config) in consumers {
        let config = pull::Config { durable_name: Some(name.to_owned()), ..config };
        stream.create_consumer(config).await.unwrap();
    }
    let options = |consumer: &str| Options::new("ORDERS0", consumer);
    let cases = [
        (Options::new("MISSING", "c"), "the broker refuses `stream` = MISSING"),
        (options("a.b"), "`consumer` cannot be \"a.b\": accepted is a name without"),
        (options("none"), "`ack_policy` cannot be None: accepted is `Explicit`"),
        (options("few"), "`max_deliver` cannot be 3: accepted is -1"),
        (options("slow"), "`backoff` cannot be [1s]: accepted is empty"),
        (options("fine").ack_wait(Duration::from_secs(7)), "`ack_wait` cannot be 7s"),
        (options("new").ack_wait(Duration::MAX), "`ack_wait` cannot be 18446744073709551615"),
        (
            options("new").ack_wait(Duration::ZERO),
            "`ack_wait` cannot be 0ns: accepted is a duration",
        ),
        (options("fine").dead_letters("a..b"), "`dead_letters` cannot be \"a..b\": accepted is"),
        (
            options("fine").dead_letters("orders0.dead"),
            "`dead_letters` cannot be orders0.dead: accepted",
        ),
        (options("fine").filter_subject("orders0.x"), "`filter_subjects` cannot be"),
    ];
    for (options, text) in cases {
        let error = Source::connect(&url, options).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    drop(broker);
    let error = Source::connect(&url, options("fine")).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach the broker {url}")), "{error}");
}

/// A dead letter carries what is needed to publish it again.
#[tokio::test]
async fn a_dead_letter_says_why() {
    use millpond_worker::{DeadReason, Receipt, Source as _};
    use testing::Broker as _;
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let mut source = stream.source().await;
    stream.publish(7).await;
    let batch = watchdog(Duration::from_secs(10), source.next(1.try_into().unwrap())).await;
    let (_, receipt) = batch.unwrap().pop().unwrap();
    receipt.dead(&DeadReason::new("not an order", 1)).await.unwrap();
    let dead = stream.context.get_stream("ORDERS0_thumbnailer_DEAD").await.unwrap();
    let letter = dead.get_last_raw_message_by_subject("dead.ORDERS0.thumbnailer").await.unwrap();
    let header = |name: &str| letter.headers.get(name).unwrap().as_str().to_owned();
    assert_eq!(header("Millpond-Reason"), "not an order");
    assert_eq!(
        (header("Millpond-Subject"), header("Millpond-Sequence")),
        ("orders0.new".into(), "1".into())
    );
    assert_eq!(letter.payload, "7");
}

/// The tasks of a source end with the runtime that connected it. Without them no ack would be confirmed.
#[test]
fn a_source_ends_with_its_runtime() {
    use testing::Broker as _;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let first = runtime();
    let source = first.block_on(async { Stream::new(&broker.url(), 0).await.source().await });
    drop(first);
    let run = millpond_worker::Worker::new(source, &millpond::Pool::new(1))
        .run(|_, _| async { Ok(()) }, tokio_util::sync::CancellationToken::new());
    let error = runtime().block_on(watchdog(Duration::from_secs(30), run)).unwrap_err();
    assert!(error.to_string().contains("has shut down"), "{error}");
}
