//! The arms: each works off a stream of no-op messages with the same prefetch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millpond_worker::{Failure, Jobs, Source, Worker, nats, redis};
use nats::client::jetstream::{self, Context, consumer::pull, stream};
use redis::client::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use crate::IDLE;
use crate::support::Kind;

macro_rules! apalis {
    ($backend:expr, $one:expr, $token:expr) => {{
        use apalis::prelude::*;
        let one = Arc::new($one);
        let work = move |number: u64| {
            let one = one.clone();
            async move {
                one(number.to_string().as_bytes());
                Ok::<(), BoxDynError>(())
            }
        };
        let worker = WorkerBuilder::new("worker")
            .backend($backend)
            .concurrency(PREFETCH)
            .parallelize(tokio::spawn)
            .build(work);
        tokio::select! {
            result = worker.run() => result.unwrap(),
            () = $token.cancelled() => {}
        }
    }};
}

/// Messages at once, for each arm.
const PREFETCH: usize = 256;
const ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arm {
    BareRedis,
    MillpondRedis,
    ApalisRedis,
    BareNats,
    BareNatsUnconfirmed,
    MillpondNats,
    ApalisNats,
}

impl Arm {
    pub const ALL: [Self; 7] = [
        Self::BareRedis,
        Self::MillpondRedis,
        Self::ApalisRedis,
        Self::BareNats,
        Self::BareNatsUnconfirmed,
        Self::MillpondNats,
        Self::ApalisNats,
    ];

    pub fn kind(self) -> Kind {
        match self {
            Self::BareRedis | Self::MillpondRedis | Self::ApalisRedis => Kind::Redis,
            _ => Kind::Nats,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::BareRedis => "bare-redis",
            Self::MillpondRedis => "millpond-redis",
            Self::ApalisRedis => "apalis-redis",
            Self::BareNats => "bare-nats-confirmed",
            Self::BareNatsUnconfirmed => "bare-nats-unconfirmed",
            Self::MillpondNats => "millpond-nats",
            Self::ApalisNats => "apalis-nats",
        }
    }

    /// About a tenth of what millpond-worker does on this broker.
    pub fn tenth(self) -> u32 {
        match self.kind() {
            Kind::Redis => 8_000,
            Kind::Nats => 4_000,
        }
    }

    fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|arm| arm.name() == name).expect("the name of an arm")
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Counts messages, and ends an arm after the last.
#[derive(Clone)]
struct Count {
    done: Arc<AtomicU32>,
    total: u32,
    token: CancellationToken,
}

impl Count {
    fn new(total: u32) -> Self {
        let total = if total == 0 { u32::MAX } else { total };
        Self { done: Arc::default(), total, token: CancellationToken::new() }
    }

    fn one(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.total {
            self.token.cancel();
        }
    }
}

/// Works a stream off that another process has filled, and prints messages per second, processor time per message in
/// microseconds, and the peak of the memory in MB.
/// With 0 messages: works until it was idle, and prints messages and seconds.
pub fn measure(name: &str, url: &str, messages: u32) {
    let (arm, known) = (Arm::of(name), messages > 0);
    let runtime = runtime();
    runtime.block_on(async {
        if arm == Arm::ApalisNats {
            fill(arm, url, messages).await;
        }
        let count = Count::new(messages);
        let start = Instant::now();
        let watch = tokio::spawn(last_change(count.clone()));
        let cpu = cpu_seconds();
        run(arm, url, &count).await;
        if known {
            let rate = f64::from(messages) / start.elapsed().as_secs_f64();
            let cpu = (cpu_seconds() - cpu) * 1e6 / f64::from(messages);
            println!("{rate:.0} {cpu:.2} {:.0}", peak_memory());
        } else {
            let last = watch.await.unwrap();
            let done = count.done.load(Ordering::Relaxed);
            println!("{done} {}", (last - start).as_secs_f64());
        }
    });
    // apalis has no drain that is worth waiting for here.
    std::process::exit(0);
}

pub fn fill_only(name: &str, url: &str, messages: u32) {
    runtime().block_on(fill(Arm::of(name), url, messages));
}

/// Cancels the token when nothing was done for a while. Returns when the last message was done.
async fn last_change(count: Count) -> Instant {
    let (mut seen, mut last) = (0, Instant::now());
    while last.elapsed() < IDLE && !count.token.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let done = count.done.load(Ordering::Relaxed);
        if done != seen {
            (seen, last) = (done, Instant::now());
        }
    }
    if count.total == u32::MAX {
        count.token.cancel();
    }
    last
}

/// The processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// `VmHWM` in MB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

async fn redis_connection(url: &str) -> MultiplexedConnection {
    let config = redis::client::AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(60)));
    let client = redis::client::Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

async fn nats_context(url: &str) -> Context {
    let context = jetstream::new(nats::client::connect(url).await.unwrap());
    let config = stream::Config {
        name: "JOBS".to_owned(),
        subjects: vec!["jobs".to_owned()],
        ..Default::default()
    };
    context.get_or_create_stream(config).await.unwrap();
    context
}

async fn publish_redis(connection: &mut MultiplexedConnection, payloads: &[String]) {
    if payloads.is_empty() {
        return;
    }
    let mut pipeline = redis::client::pipe();
    for payload in payloads {
        pipeline.cmd("XADD").arg("jobs").arg("*").arg("p").arg(payload).ignore();
    }
    pipeline.exec_async(connection).await.unwrap();
}

async fn publish_nats(context: &Context, payloads: &[String]) {
    let mut acks = Vec::new();
    for payload in payloads {
        let ack = context.publish("jobs", payload.clone().into()).await.unwrap();
        acks.push(ack.into_future());
    }
    futures_util::future::join_all(acks).await;
}

async fn fill(arm: Arm, url: &str, messages: u32) {
    let payloads: Vec<String> = (0..messages).map(|number| number.to_string()).collect();
    match arm {
        Arm::ApalisRedis => {
            use apalis::prelude::TaskSink;
            let mut storage = apalis_redis(url).await;
            for number in 0..messages {
                storage.push(u64::from(number)).await.unwrap();
            }
        }
        Arm::ApalisNats => {
            use apalis::prelude::TaskSink;
            let mut backend = apalis_nats(url).await;
            for number in 0..messages {
                backend.push(u64::from(number)).await.unwrap();
            }
        }
        _ if arm.kind() == Kind::Redis => {
            let mut connection = redis_connection(url).await;
            for some in payloads.chunks(1_000) {
                publish_redis(&mut connection, some).await;
            }
        }
        _ => {
            let context = nats_context(url).await;
            for some in payloads.chunks(1_000) {
                publish_nats(&context, some).await;
            }
        }
    }
}

async fn run(arm: Arm, url: &str, count: &Count) {
    match arm {
        Arm::BareRedis => bare_redis(url, |_| count.one(), &count.token).await,
        Arm::BareNats => bare_nats(url, true, |_| count.one(), &count.token).await,
        Arm::BareNatsUnconfirmed => bare_nats(url, false, |_| count.one(), &count.token).await,
        Arm::MillpondRedis => {
            let counter = count.clone();
            millpond(redis_source(url).await, move |_| counter.one(), &count.token).await;
        }
        Arm::MillpondNats => {
            let counter = count.clone();
            millpond(nats_source(url).await, move |_| counter.one(), &count.token).await;
        }
        Arm::ApalisRedis => {
            let counter = count.clone();
            apalis!(apalis_redis(url).await, move |_: &[u8]| counter.one(), count.token);
        }
        Arm::ApalisNats => {
            let counter = count.clone();
            apalis!(apalis_nats(url).await, move |_: &[u8]| counter.one(), count.token);
        }
    }
}

/// What one writes by hand: read up to the prefetch, work, acknowledge all with one command.
async fn bare_redis(url: &str, one: impl Fn(&[u8]), token: &CancellationToken) {
    use redis::client::{Value, cmd, from_redis_value};
    let mut connection = redis_connection(url).await;
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg("jobs").arg("worker").arg("0").arg("MKSTREAM");
    create.exec_async(&mut connection).await.unwrap();
    type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
    while !token.is_cancelled() {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg("worker").arg("me").arg("COUNT").arg(PREFETCH).arg("BLOCK").arg(500);
        read.arg("STREAMS").arg("jobs").arg(">");
        let reply: Value = read.query_async(&mut connection).await.unwrap();
        if reply == Value::Nil {
            continue;
        }
        let streams: Vec<(String, Entries)> = from_redis_value(reply).unwrap();
        let mut ack = cmd("XACK");
        ack.arg("jobs").arg("worker");
        for (id, fields) in &streams[0].1 {
            one(&fields[0].1);
            ack.arg(id);
        }
        let _: u64 = ack.query_async(&mut connection).await.unwrap();
    }
}

/// What one writes by hand: the client's stream of messages; with acks that the server confirms, as
/// many at once as are prefetched.
async fn bare_nats(url: &str, confirmed: bool, one: impl Fn(&[u8]), token: &CancellationToken) {
    let context = nats_context(url).await;
    let stream = context.get_stream("JOBS").await.unwrap();
    let config = pull::Config {
        durable_name: Some("worker".to_owned()),
        max_ack_pending: -1,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let messages = consumer.stream().max_messages_per_batch(PREFETCH).messages().await.unwrap();
    let work = messages.for_each_concurrent(PREFETCH, |message| async {
        let message = message.unwrap();
        one(&message.payload);
        if confirmed {
            message.double_ack().await.unwrap();
        } else {
            message.ack().await.unwrap();
        }
    });
    tokio::select! {
        () = work => {}
        () = token.cancelled() => {}
    }
}

async fn redis_source(url: &str) -> redis::Source {
    let options = redis::Options::new("jobs", "worker").ack_wait(ACK_WAIT).create_stream();
    redis::Source::connect(url, options).await.unwrap()
}

async fn nats_source(url: &str) -> nats::Source {
    nats_context(url).await;
    let options = nats::Options::new("JOBS", "worker").ack_wait(ACK_WAIT);
    nats::Source::connect(url, options).await.unwrap()
}

trait Payload {
    fn payload(&self) -> &[u8];
}

impl Payload for redis::Message {
    fn payload(&self) -> &[u8] {
        &self.fields[0].1
    }
}

impl Payload for nats::Message {
    fn payload(&self) -> &[u8] {
        &self.payload
    }
}

async fn millpond<S>(
    source: S,
    one: impl Fn(&[u8]) + Send + Sync + 'static,
    token: &CancellationToken,
) where
    S: Source<Message: Payload>,
{
    let pool = millpond::Pool::new(PREFETCH);
    let code = move |message: S::Message, _: Jobs| {
        one(message.payload());
        async { Ok::<_, Failure>(()) }
    };
    let report =
        Worker::new(source, &pool).in_flight(PREFETCH).run(code, token.clone()).await.unwrap();
    assert_eq!(report.acked, report.fetched, "{report:?}");
}

async fn apalis_redis(
    url: &str,
) -> apalis_redis::RedisStorage<u64, apalis_redis::ConnectionManager> {
    let config = apalis_redis::Config::default().batch_size(PREFETCH);
    apalis_redis::RedisStorage::new(apalis_redis::connect(url).await.unwrap()).with_config(config)
}

async fn apalis_nats(
    url: &str,
) -> apalis_nats::NatsJetStream<u64, async_nats_apalis::jetstream::consumer::pull::Config> {
    let client = async_nats_apalis::connect(url).await.unwrap();
    let config = apalis_nats::Config::new("JOBS")
        .with_pull_consumer()
        .durable()
        .with_max_ack_pending(PREFETCH as i64);
    apalis_nats::NatsJetStream::new(client).with_config(config)
}

/// Publishes at a rate and prints the times from publish to start: p50, p99 and the highest, in ms.
pub fn latency(name: &str, url: &str, rate: u32) {
    const SECONDS: u32 = 8;
    let arm = Arm::of(name);
    let histogram = Arc::new(std::sync::Mutex::new(
        hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap(),
    ));
    let start = Instant::now();
    let times = histogram.clone();
    let one = move |payload: &[u8]| {
        let sent: u64 = std::str::from_utf8(payload).unwrap().parse().unwrap();
        let now = start.elapsed().as_micros() as u64;
        // The first second warms up.
        if sent > 1_000_000 {
            times.lock().unwrap().saturating_record(now.saturating_sub(sent).max(1));
        }
    };
    let runtime = runtime();
    runtime.block_on(async {
        let token = CancellationToken::new();
        let (stop, address) = (token.clone(), url.to_owned());
        let publisher = tokio::spawn(async move {
            publish_times(arm, &address, rate, start, SECONDS).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        });
        match arm {
            Arm::BareRedis => bare_redis(url, one, &token).await,
            Arm::BareNats => bare_nats(url, true, one, &token).await,
            Arm::BareNatsUnconfirmed => bare_nats(url, false, one, &token).await,
            Arm::MillpondRedis => millpond(redis_source(url).await, one, &token).await,
            Arm::MillpondNats => millpond(nats_source(url).await, one, &token).await,
            Arm::ApalisRedis => apalis!(apalis_redis(url).await, one, token),
            Arm::ApalisNats => apalis!(apalis_nats(url).await, one, token),
        }
        publisher.abort();
    });
    let times = histogram.lock().unwrap();
    let ms = |micros: u64| micros as f64 / 1_000.0;
    let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
    println!("{} {} {}", ms(p50), ms(p99), ms(times.max()));
    std::process::exit(0);
}

/// Publishes the time since `start` as payload, a few messages each millisecond.
async fn publish_times(arm: Arm, url: &str, rate: u32, start: Instant, seconds: u32) {
    use apalis::prelude::TaskSink;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut sent = 0;
    let mut next = move || {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        let now = start.elapsed().as_micros() as u64;
        let some = vec![now; due.saturating_sub(sent) as usize];
        sent = due;
        some
    };
    let texts = |times: Vec<u64>| times.iter().map(u64::to_string).collect::<Vec<_>>();
    let end = Duration::from_secs(u64::from(seconds));
    match arm {
        Arm::ApalisRedis => {
            let mut storage = apalis_redis(url).await;
            while start.elapsed() < end {
                tick.tick().await;
                for time in next() {
                    storage.push(time).await.unwrap();
                }
            }
        }
        Arm::ApalisNats => {
            let mut backend = apalis_nats(url).await;
            while start.elapsed() < end {
                tick.tick().await;
                for time in next() {
                    backend.push(time).await.unwrap();
                }
            }
        }
        _ if arm.kind() == Kind::Redis => {
            let mut connection = redis_connection(url).await;
            while start.elapsed() < end {
                tick.tick().await;
                publish_redis(&mut connection, &texts(next())).await;
            }
        }
        _ => {
            let context = nats_context(url).await;
            while start.elapsed() < end {
                tick.tick().await;
                publish_nats(&context, &texts(next())).await;
            }
        }
    }
}
