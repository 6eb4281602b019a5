//! NATS JetStream.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_worker::nats::client::jetstream::consumer::{AckPolicy, pull};
use millpond_worker::nats::client::jetstream::message::StreamMessage;
use millpond_worker::nats::client::jetstream::{self, Context, stream};
use millpond_worker::nats::{Claimed, Message, Options, Source, client};
use millpond_worker::testing::{self, Broker as _, conformance};
use millpond_worker::{DeadReason, Receipt, Source as _, SourceError};
use tokio::time::{sleep, timeout};

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
        ("lost", pull::Config { filter_subject: "payments.>".to_owned(), ..base.clone() }),
        ("part", pull::Config { filter_subject: "orders0.*.new".to_owned(), ..base.clone() }),
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
        (
            options("part").dead_letters("orders0.dead.new"),
            "`dead_letters` cannot be orders0.dead.new: accepted",
        ),
        (options("fine").filter_subject("orders0.x"), "`filter_subjects` cannot be"),
        (
            options("new").filter_subject("orders0.a").filter_subject("payments.a"),
            "`filter_subjects` cannot be payments.a, on a stream of orders0.>: accepted is a subject",
        ),
        (options("lost"), "`filter_subjects` cannot be payments.>, on a stream of orders0.>"),
    ];
    for (options, text) in cases {
        let error = Source::connect(&url, options).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    // A subject that the consumer does not take may be one of its stream.
    Source::connect(&url, options("part").dead_letters("orders0.dead")).await.unwrap();
    Source::connect(&url, options("fine")).await.unwrap();
    let error = Source::connect(&url, options("fine").dead_letters("letters")).await.unwrap_err();
    let text = "the broker refuses `dead_letters` = letters: the stream ORDERS0_fine_DEAD is there";
    assert!(error.to_string().starts_with(text), "{error}");
    drop(broker);
    let error = Source::connect(&url, options("fine")).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach the broker {url}")), "{error}");
    let with_token = url.replace("nats://", "nats://t0ken@");
    let error = Source::connect(&with_token, options("fine")).await.unwrap_err().to_string();
    assert!(error.contains("//...@") && !error.contains("t0ken"), "{error}");
}

/// Takes as many messages as there is room.
async fn take(source: &mut Source, room: usize) -> Vec<(Message, Claimed)> {
    let mut taken = Vec::new();
    while let Some(left) = NonZeroUsize::new(room - taken.len()) {
        let next = watchdog(Duration::from_secs(10), source.next(left));
        taken.extend(next.await.unwrap());
    }
    taken
}

/// Takes a message and makes it a dead letter. Returns the letter.
async fn bury(stream: &mut Stream, reason: &str) -> StreamMessage {
    let mut source = stream.source().await;
    let (_, receipt) = take(&mut source, 1).await.pop().unwrap();
    receipt.dead(&DeadReason::new(reason, 1)).await.unwrap();
    let dead = stream.context.get_stream("ORDERS0_thumbnailer_DEAD").await.unwrap();
    dead.get_last_raw_message_by_subject("dead.ORDERS0.thumbnailer").await.unwrap()
}

/// The server refuses a letter with a copy of these headers, or takes it for another's.
#[tokio::test]
async fn a_dead_letter_has_no_headers_of_the_server() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let mut headers = client::HeaderMap::new();
    headers.insert("Nats-Expected-Stream", "ORDERS0");
    headers.insert("Nats-Expected-Last-Sequence", "0");
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    headers.insert("Nats-Msg-Id", "seven");
    headers.insert("Customer", "first");
    let publish = stream.context.publish_with_headers("orders0.new", headers, "7".into());
    publish.await.unwrap().await.unwrap();
    let letter = bury(&mut stream, "no\nreason").await;
    let names = letter.headers.iter().map(|(name, _)| name.to_string());
    let of_server: Vec<_> = names.filter(|name| name.starts_with("Nats-")).collect();
    assert_eq!(of_server, ["Nats-Msg-Id"]);
    let header = |name: &str| letter.headers.get(name).unwrap().as_str();
    assert_eq!((header("Customer"), header("Millpond-Reason")), ("first", "no reason"));
}

/// Its numbers begin again: the server must not take the second letter for a copy of the first.
#[tokio::test]
async fn a_stream_that_is_made_anew_has_letters_of_its_own() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    for number in 1..=2 {
        let mut stream = Stream::new(&broker.url(), 0).await;
        stream.publish(number).await;
        assert_eq!(bury(&mut stream, "a test").await.payload, number.to_string());
        assert_eq!(stream.dead_letters().await, number as usize);
        stream.context.delete_stream("ORDERS0").await.unwrap();
    }
}

/// Not all has room beside large headers, and beside a large payload.
#[tokio::test]
async fn a_dead_letter_leaves_out_what_has_no_room() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let mut headers = client::HeaderMap::new();
    headers.insert("Customer", "first");
    headers.insert("Big", "b".repeat(30_000));
    headers.insert("Bigger", "b".repeat(35_000));
    let publish = stream.context.publish_with_headers("orders0.new", headers, "7".into());
    publish.await.unwrap().await.unwrap();
    let letter = bury(&mut stream, &"é".repeat(100_000)).await;
    let header = |name: &str| letter.headers.get(name).map(|value| value.as_str().len());
    assert_eq!(
        (header("Customer"), header("Big"), header("Bigger")),
        (Some(5), Some(30_000), None)
    );
    assert_eq!((header("Millpond-Reason"), &*letter.payload), (Some(4096), &b"7"[..]));

    // The largest message of the server is 1 MiB, with its headers.
    for spare in [0, 100] {
        let payload = vec![b'p'; (1 << 20) - spare];
        let publish = stream.context.publish("orders0.new", payload.clone().into());
        publish.await.unwrap().await.unwrap();
        let letter = bury(&mut stream, "a test").await;
        assert_eq!(letter.payload, payload);
        assert_eq!(letter.headers.get("Nats-Msg-Id").is_some(), spare > 0);
    }
}

/// Pull requests stay within the bounds of the consumer. New bounds are taken up, after a pause.
#[tokio::test]
async fn pull_requests_keep_the_bounds_of_the_consumer() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let mut config = pull::Config {
        durable_name: Some("thumbnailer".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_batch: 2,
        max_expires: Duration::from_secs(2),
        ..Default::default()
    };
    let made = stream.context.get_stream("ORDERS0").await.unwrap();
    made.create_consumer(config.clone()).await.unwrap();
    let mut source = stream.source().await;
    for number in 0..5 {
        stream.publish(number).await;
    }
    for (_, receipt) in take(&mut source, 5).await {
        receipt.ack().await.unwrap();
    }
    drop(source);
    let mut source = stream.source().await;
    config.max_batch = 1;
    made.update_consumer(config).await.unwrap();
    let next = source.next(10.try_into().unwrap());
    let error = watchdog(Duration::from_secs(10), next).await.unwrap_err();
    assert!(matches!(error, SourceError::Disconnected(_)), "{error:?}");
    assert!(error.to_string().contains("409 Exceeded MaxRequestBatch of 1"), "{error}");
    for number in 0..5 {
        stream.publish(number).await;
    }
    assert_eq!(take(&mut source, 5).await.len(), 5);
}

/// The server may still have the pull requests of the last connection. No more is claimed than has room.
#[tokio::test]
async fn a_new_connection_does_not_double_the_room() {
    let Some(broker) = Broker::start(Kind::Nats) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let client = client::connect(broker.url()).await.unwrap();
    let options = Options::new("ORDERS0", "thumbnailer");
    let mut source = Source::with_client(client.clone(), options).await.unwrap();
    let room = 10.try_into().unwrap();
    for connection in 1..=2 {
        // Waits in the server.
        let wait = timeout(Duration::from_millis(500), source.next(room)).await;
        assert!(wait.is_err(), "{wait:?}");
        if connection == 1 {
            client.force_reconnect().await.unwrap();
            while client.statistics().connects.load(Ordering::SeqCst) < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    for number in 0..30 {
        stream.publish(number).await;
    }
    let taken = take(&mut source, 10).await;
    // Time for the server to do what it must not.
    sleep(Duration::from_millis(200)).await;
    let made = stream.context.get_stream("ORDERS0").await.unwrap();
    let info = made.consumer_info("thumbnailer").await.unwrap();
    assert_eq!((taken.len(), info.num_ack_pending), (10, 10));
}

/// A dead letter carries what is needed to publish it again.
#[tokio::test]
async fn a_dead_letter_says_why() {
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
