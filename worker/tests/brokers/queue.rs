//! One queue of numbers on either broker, for tests that are the same for both.

use std::time::Duration;

use millpond_worker::{Backoff, Failure, Jobs, Report, Source, Worker, nats, redis};
use nats::client::jetstream::{self, Context, consumer::pull, stream};
use redis::client::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use crate::support::Kind;

/// How a worker of these tests is set up.
#[derive(Clone)]
pub struct Settings {
    pub kind: Kind,
    pub url: String,
    pub in_flight: usize,
    pub ack_wait: Duration,
    pub retry: Backoff,
    /// Messages with equal numbers modulo this are of one key.
    pub keys: Option<u32>,
}

impl Settings {
    pub fn new(kind: Kind, url: String, ack_wait: Duration) -> Self {
        let retry = Backoff::constant(Duration::from_millis(20)).attempts(10);
        Self { kind, url, in_flight: 64, ack_wait, retry, keys: None }
    }

    async fn redis(&self) -> redis::Source {
        let options = redis::Options::new("numbers", "worker").ack_wait(self.ack_wait);
        redis::Source::connect(&self.url, options).await.unwrap()
    }

    async fn nats(&self) -> nats::Source {
        let options = nats::Options::new("NUMBERS", "worker").ack_wait(self.ack_wait);
        nats::Source::connect(&self.url, options).await.unwrap()
    }

    /// Runs a worker. `code` gets the number of a message.
    pub async fn run<F, Fut>(&self, code: F, token: CancellationToken) -> Report
    where
        F: Fn(u32, Jobs) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        match self.kind {
            Kind::Redis => {
                let number = |message: &redis::Message| parse(message.get("number").unwrap());
                self.run_with(self.redis().await, number, code, token).await
            }
            Kind::Nats => {
                let number = |message: &nats::Message| parse(&message.payload);
                self.run_with(self.nats().await, number, code, token).await
            }
        }
    }

    async fn run_with<S, F, Fut>(
        &self,
        source: S,
        number: fn(&S::Message) -> u32,
        code: F,
        token: CancellationToken,
    ) -> Report
    where
        S: Source<Message: Clone>,
        F: Fn(u32, Jobs) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let worker = Worker::new(source, &millpond::Pool::new(32))
            .in_flight(self.in_flight)
            .retry(self.retry.clone());
        let worker = match self.keys {
            Some(keys) => worker.by_key(move |message| number(message) % keys),
            None => worker,
        };
        let report = worker.run(move |message, jobs| code(number(&message), jobs), token).await;
        let report = report.unwrap();
        assert!(report.adds_up(), "{report:?}");
        report
    }
}

fn parse(bytes: &[u8]) -> u32 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

/// The queue from outside: it publishes, and says what is left.
pub enum Queue {
    Redis(MultiplexedConnection),
    Nats(Context),
}

impl Queue {
    pub async fn new(kind: Kind, url: &str) -> Self {
        match kind {
            Kind::Redis => {
                let client = redis::client::Client::open(url).unwrap();
                let config = redis::client::AsyncConnectionConfig::new();
                let config = config.set_response_timeout(Some(Duration::from_secs(10)));
                let connect = client.get_multiplexed_async_connection_with_config(&config);
                let mut connection = connect.await.unwrap();
                let mut create = redis::client::cmd("XGROUP");
                create.arg("CREATE").arg("numbers").arg("worker").arg("0").arg("MKSTREAM");
                let _ = create.exec_async(&mut connection).await;
                Self::Redis(connection)
            }
            Kind::Nats => {
                let context = jetstream::new(nats::client::connect(url).await.unwrap());
                let subjects = vec!["numbers".to_owned()];
                let name = "NUMBERS".to_owned();
                let config = stream::Config { name, subjects, ..Default::default() };
                context.get_or_create_stream(config).await.unwrap();
                Self::Nats(context)
            }
        }
    }

    /// Publishes numbers, as one bundle.
    pub async fn publish_all(&mut self, numbers: std::ops::Range<u32>) {
        match self {
            Self::Redis(connection) => {
                let mut pipeline = redis::client::pipe();
                for number in numbers {
                    pipeline.cmd("XADD").arg("numbers").arg("*").arg("number").arg(number);
                }
                pipeline.exec_async(connection).await.unwrap();
            }
            Self::Nats(context) => {
                let mut acks = Vec::new();
                for number in numbers {
                    let ack = context.publish("numbers", number.to_string().into()).await;
                    acks.push(ack.unwrap().into_future());
                }
                for ack in acks {
                    ack.await.unwrap();
                }
            }
        }
    }

    /// How many messages are not acknowledged.
    pub async fn left(&mut self) -> u64 {
        match self {
            Self::Redis(connection) => {
                // Undelivered, pending, delayed.
                let script = "local group = redis.call('XINFO', 'GROUPS', 'numbers')[1]
                    local fields = {}
                    for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
                    return fields.lag + fields.pending + redis.call('ZCARD', 'numbers:worker:delayed')";
                let mut eval = redis::client::cmd("EVAL");
                eval.arg(script).arg(0).query_async(connection).await.unwrap()
            }
            Self::Nats(context) => {
                let stream = context.get_stream("NUMBERS").await.unwrap();
                let Ok(consumer) = stream.get_consumer::<pull::Config>("worker").await else {
                    return 1;
                };
                let info = consumer.get_info().await.unwrap();
                info.num_pending + info.num_ack_pending as u64
            }
        }
    }

    /// Waits until every message is acknowledged.
    pub async fn drained(&mut self) {
        while self.left().await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
