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

/// Each setting that Redis refuses is named, before anything is fetched.
#[tokio::test]
async fn bad_input_is_named() {
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let url = broker.url();
    let client = redis::Client::open(&*url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let setup = redis::pipe()
        .cmd("SET")
        .arg("text")
        .arg("x")
        .cmd("XADD")
        .arg("orders")
        .arg("*")
        .arg("n")
        .arg("1")
        .cmd("ACL")
        .arg("SETUSER")
        .arg("reader")
        .arg("on")
        .arg(">secret")
        .arg("~*")
        .arg("+xreadgroup")
        .arg("+exists")
        .arg("+xgroup")
        .exec_async(&mut connection)
        .await;
    setup.unwrap();
    let options = |stream: &str| Options::new(stream, "group");
    let limited = url.replace("redis://", "redis://reader:secret@");
    let cases = [
        (
            &url,
            options("missing"),
            "the broker refuses `stream` = missing: there is no such stream",
        ),
        (&url, options("text"), "the broker refuses `stream` = text: \"WRONGTYPE\""),
        (&url, options(""), "`stream` cannot be empty: accepted is a name"),
        (&url, options("orders").ack_wait(Duration::from_millis(1)), "`ack_wait` cannot be 1ms"),
        (
            &url,
            options("orders").ack_wait(Duration::MAX),
            "`ack_wait` cannot be 18446744073709551615",
        ),
        (
            &url,
            options("orders").dead_letters(""),
            "`dead_letters` cannot be empty: accepted is a name",
        ),
        (
            &url,
            options("orders").dead_letters("orders"),
            "`dead_letters` cannot be orders: accepted",
        ),
        (&url, options("orders").dead_letters("text"), "the broker refuses `dead_letters` = text"),
        (&limited, options("orders"), "the broker refuses `group` = group: NoPerm"),
    ];
    for (url, options, text) in cases {
        let error = Source::connect(url, options).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    drop(broker);
    let error = Source::connect(&limited, options("orders")).await.unwrap_err().to_string();
    assert!(error.contains("//reader:...@") && !error.contains("secret"), "{error}");
    let error = Source::connect(&url, options("orders")).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach the broker {url}")), "{error}");
}

/// The tasks of a source end with the runtime that connected it. Without them no ack would be confirmed.
#[test]
fn a_source_ends_with_its_runtime() {
    use testing::Broker as _;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let first = runtime();
    let source = first.block_on(async { Stream::new(&broker.url(), 0).await.source().await });
    drop(first);
    let run = millpond_worker::Worker::new(source, &millpond::Pool::new(1))
        .run(|_, _| async { Ok(()) }, tokio_util::sync::CancellationToken::new());
    let error = runtime().block_on(watchdog(Duration::from_secs(30), run)).unwrap_err();
    assert!(error.to_string().contains("has shut down"), "{error}");
}

/// Streams and groups whose names are equal once they are joined have delays of their own.
#[tokio::test]
async fn groups_share_no_delays() {
    use millpond_worker::{Receipt, Source as _};
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let url = broker.url();
    let one = std::num::NonZeroUsize::MIN;
    let source = async |stream: &str, group: &str| {
        let options = Options::new(stream, group).ack_wait(ACK_WAIT).create_stream();
        Source::connect(&url, options).await.unwrap()
    };
    for names in [["a:b", "c", "a", "b:c"], ["d", "%3A", "d", ":"], ["e", "%253A", "e", "%3A"]] {
        let [stream, group, other_stream, other_group] = names;
        let mut first = source(stream, group).await;
        let mut other = source(other_stream, other_group).await;
        let client = redis::Client::open(&*url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut add = redis::cmd("XADD");
        add.arg(stream).arg("*").arg("number").arg(1).exec_async(&mut connection).await.unwrap();
        let (_, receipt) = first.next(one).await.unwrap().pop().unwrap();
        receipt.nack(Duration::ZERO).await.unwrap();
        // The other's sweep takes what is due there.
        let taken = tokio::time::timeout(ACK_WAIT, other.next(one)).await;
        if stream != other_stream {
            assert!(taken.is_err(), "{names:?}");
        }
        let next = watchdog(Duration::from_secs(30), first.next(one));
        assert_eq!(next.await.unwrap()[0].1.deliveries(), 2, "{names:?}");
    }
}

/// A call of Lua takes fewer than 8,000 arguments.
#[tokio::test]
async fn a_message_of_many_fields_makes_several_dead_letters() {
    use millpond_worker::{DeadReason, Receipt, Source as _};
    use testing::Broker as _;
    let Some(broker) = Broker::start(Kind::Redis) else { return };
    let mut stream = Stream::new(&broker.url(), 0).await;
    let mut source = stream.source().await;
    let mut add = redis::cmd("XADD");
    add.arg("orders0").arg("*");
    for number in 0..7000 {
        add.arg(number).arg("value");
    }
    let id: String = add.query_async(&mut stream.connection).await.unwrap();
    let next = watchdog(Duration::from_secs(30), source.next(std::num::NonZeroUsize::MIN));
    let (_, receipt) = next.await.unwrap().pop().unwrap();
    receipt.dead(&DeadReason::new("a test", 1)).await.unwrap();
    let mut range = redis::cmd("XRANGE");
    range.arg("orders0:dead").arg("-").arg("+");
    let letters: Vec<(String, Vec<String>)> =
        range.query_async(&mut stream.connection).await.unwrap();
    let sizes: Vec<_> = letters.iter().map(|(_, fields)| fields.len() / 2 - 4).collect();
    assert_eq!(sizes, [3000, 3000, 1000]);
    for (_, fields) in letters {
        assert!(fields.ends_with(&["millpond-place".to_owned(), String::new()]));
        assert!(fields.contains(&id));
    }
}
