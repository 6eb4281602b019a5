//! Receipts, and the task that sends settlements in bundles.
//!
//! A [`Claimed`] sends its settlement to the task of [`Settler::run`] and waits for the answer. The
//! task sends one pipeline at a time. What comes in meanwhile goes with the next pipeline, all acks as one
//! command. So acks are bundled under load and never wait for a timer. After a lost connection the same pipeline is sent
//! again, until the ack wait is over: a settlement that was carried out twice does no harm.
//! The task ends when the source and all receipts are gone.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::{Names, connect, scripts};
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::trace::event;

/// The most commands of a pipeline.
const BUNDLE: usize = 1024;

/// What to do with one message, with the way back for its answer.
pub(crate) struct Request {
    what: What,
    /// After this time the answer is of no use.
    until: Instant,
    /// Whether the command was sent on a connection that failed.
    again: bool,
    answer: Option<oneshot::Sender<Result<(), ReceiptError>>>,
}

enum What {
    /// All acks of a bundle are one command.
    Ack(Arc<str>),
    Other(Cmd),
}

/// The task that settles.
pub(crate) struct Settler {
    client: Client,
    names: Arc<Names>,
    connection: Option<MultiplexedConnection>,
    requests: mpsc::UnboundedReceiver<Request>,
}

/// The receipts' side of the task. The channel is bounded by the claims that there are.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) names: Arc<Names>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Settler {
    pub(crate) fn spawn(
        client: Client,
        names: Arc<Names>,
        connection: MultiplexedConnection,
    ) -> Link {
        let (sender, requests) = mpsc::unbounded_channel();
        let link = Link { names: names.clone(), requests: sender };
        tokio::spawn(Self { client, names, connection: Some(connection), requests }.run());
        link
    }

    async fn run(mut self) {
        let mut bundle = Vec::new();
        while self.requests.recv_many(&mut bundle, BUNDLE).await > 0 {
            while let Err(error) = self.send(&mut bundle).await {
                self.connection = None;
                let now = Instant::now();
                let (again, over): (Vec<_>, Vec<_>) =
                    bundle.drain(..).partition(|request| request.until > now);
                over.into_iter().for_each(|request| request.fail(&error));
                bundle = again;
                bundle.iter_mut().for_each(|request| request.again = true);
                if bundle.is_empty() {
                    break;
                }
                event!(WARN, %error, "settlements wait for the broker");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Sends a bundle and gives out the answers. After an error the bundle is as before.
    async fn send(&mut self, bundle: &mut Vec<Request>) -> RedisResult<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect::open(&self.client, Duration::ZERO).await?),
        };
        let mut pipeline = Pipeline::new();
        let mut ids = Vec::new();
        for request in &*bundle {
            match &request.what {
                What::Ack(id) => ids.push(&**id),
                What::Other(command) => drop(pipeline.add_command(command.clone())),
            }
        }
        if !ids.is_empty() {
            pipeline.add_command(scripts::ack(&self.names, &ids));
        }
        let acks = ids.len();
        let answers: Vec<RedisResult<Value>> =
            pipeline.ignore_errors().query_async(connection).await?;
        if let Some(Err(error)) = answers.iter().find(|answer| is_passing(answer)) {
            return Err(error.clone());
        }
        let mut answers = answers.into_iter();
        let acked = if acks > 0 { answers.next_back() } else { None };
        let acked = acked.unwrap_or(Ok(Value::Nil));
        let mut acked = acked.map(|answer| each_ack(answer, acks).into_iter());
        for request in bundle.drain(..) {
            let answer = match (&request.what, &mut acked) {
                (What::Ack(_), Ok(acked)) => Ok(acked.next()),
                (What::Ack(_), Err(error)) => Err(error.clone()),
                (What::Other(_), _) => answers.next().transpose().map(|answer| match answer {
                    Some(Value::Int(number)) => Some(number),
                    _ => None,
                }),
            };
            request.answer(answer);
        }
        Ok(())
    }
}

/// Whether Redis will take the command again in a while: it loads its data, or changes its roles.
fn is_passing(answer: &RedisResult<Value>) -> bool {
    let codes = ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"];
    answer.as_ref().is_err_and(|error| error.code().is_some_and(|code| codes.contains(&code)))
}

/// Returns the answer for each ack of a bundle. `XACK` only tells how many there were: if some came
/// too late, nothing is known of any of them.
fn each_ack(answer: Value, acks: usize) -> Vec<i64> {
    let number = |value| if let Value::Int(number) = value { Some(number) } else { None };
    match answer {
        Value::Int(acked) if acked == acks as i64 => vec![1; acks],
        Value::Int(_) if acks == 1 => vec![0],
        Value::Array(answers) => answers.into_iter().filter_map(number).collect(),
        _ => Vec::new(),
    }
}

impl Request {
    fn answer(self, answer: RedisResult<Option<i64>>) {
        let answer = match answer {
            Ok(Some(0)) if self.again => {
                let error = "the first attempt had no answer, and may have succeeded";
                Err(ReceiptError::Unconfirmed(error.into()))
            }
            Ok(Some(0)) => Err(ReceiptError::Lost),
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(ReceiptError::Unconfirmed("some acks of the bundle were too late".into()))
            }
            Err(error) => return self.fail(&error),
        };
        if let Some(sender) = self.answer {
            // The receiver may be gone.
            let _ = sender.send(answer);
        }
    }

    fn fail(self, error: &RedisError) {
        if let Some(sender) = self.answer {
            let _ = sender.send(Err(ReceiptError::Unconfirmed(error.clone().into())));
        }
    }
}

impl Link {
    fn request(&self, what: What, answer: Option<oneshot::Sender<Result<(), ReceiptError>>>) {
        let until = Instant::now() + self.names.ack_wait;
        // The task lives as long as its senders; it is gone only with its runtime.
        let _ = self.requests.send(Request { what, until, again: false, answer });
    }

    async fn ask(&self, what: What) -> Result<(), ReceiptError> {
        let (sender, answer) = oneshot::channel();
        self.request(what, Some(sender));
        let gone = |_| Err(ReceiptError::Unconfirmed("the runtime has shut down".into()));
        answer.await.unwrap_or_else(gone)
    }
}

/// The claim on a message of a stream.
pub struct Claimed {
    link: Link,
    id: Arc<str>,
    deliveries: u32,
    traceparent: Option<String>,
    settled: bool,
}

impl Claimed {
    pub(crate) fn new(link: &Link, message: &super::Message, deliveries: u32) -> Self {
        let traceparent = message.get("traceparent");
        let traceparent = traceparent.map(|value| String::from_utf8_lossy(value).into_owned());
        let (link, id) = (link.clone(), Arc::from(&*message.id));
        Self { link, id, deliveries, traceparent, settled: false }
    }
}

impl Receipt for Claimed {
    async fn ack(mut self) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(What::Ack(self.id.clone())).await
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settled = true;
        let command = scripts::nack(&self.link.names, &self.id, self.deliveries, after);
        self.link.ask(What::Other(command)).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(What::Other(scripts::dead(&self.link.names, &self.id, why))).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (link, id) = (self.link.clone(), self.id.clone());
        Box::pin(async move { link.ask(What::Other(scripts::extend(&link.names, &id))).await })
    }

    fn deliveries(&self) -> u32 {
        self.deliveries
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn trace_context(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.settled {
            let names = &self.link.names;
            let command = scripts::nack(names, &self.id, self.deliveries, Duration::ZERO);
            self.link.request(What::Other(command), None);
        }
    }
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimed")
            .field("id", &self.id)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}
