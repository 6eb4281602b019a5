//! Receipts, and the task that sends settlements in bundles.
//!
//! The task sends one pipeline at a time, all acks of the bundle as one command. After a lost
//! connection the same pipeline is sent again, until the ack wait is over: a settlement that was
//! carried out twice does no harm.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, sleep};

use super::{Names, connect, scripts};
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::settlement::{BUNDLE, Requests, Settlement, Settlements};
use crate::trace::event;

type Request = Settlement<Command>;

/// A settlement of a message.
pub(crate) struct Command {
    action: Action,
    /// Whether it was sent on a connection that failed.
    again: bool,
}

enum Action {
    /// All acks of a bundle are one command.
    Ack(Arc<str>),
    Other(Cmd),
}

/// The task that settles.
pub(crate) struct Settler {
    client: Client,
    names: Arc<Names>,
    connection: Option<MultiplexedConnection>,
    requests: Requests<Command>,
}

/// The receipts' side of the task.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) names: Arc<Names>,
    settlements: Settlements<Command>,
}

impl Settler {
    pub(crate) fn spawn(
        client: Client,
        names: Arc<Names>,
        connection: MultiplexedConnection,
    ) -> Link {
        let (settlements, requests) = Settlements::channel();
        let link = Link { names: names.clone(), settlements };
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
                over.into_iter().for_each(|request| request.resolve(Err(unconfirmed(&error))));
                bundle = again;
                bundle.iter_mut().for_each(|request| request.what.again = true);
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
            match &request.what.action {
                Action::Ack(id) => ids.push(&**id),
                Action::Other(command) => drop(pipeline.add_command(command.clone())),
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
            let answer = match (&request.what.action, &mut acked) {
                (Action::Ack(_), Ok(acked)) => Ok(acked.next()),
                (Action::Ack(_), Err(error)) => Err(error.clone()),
                (Action::Other(_), _) => answers.next().transpose().map(|answer| match answer {
                    Some(Value::Int(number)) => Some(number),
                    _ => None,
                }),
            };
            resolve(request, answer);
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

fn resolve(request: Request, answer: RedisResult<Option<i64>>) {
    let again = request.what.again;
    request.resolve(match answer {
        Ok(Some(0)) if again => {
            let error = "the first attempt had no answer, and may have succeeded";
            Err(ReceiptError::Unconfirmed(error.into()))
        }
        Ok(Some(0)) => Err(ReceiptError::Lost),
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ReceiptError::Unconfirmed("some acks of the bundle were too late".into())),
        Err(error) => Err(unconfirmed(&error)),
    });
}

fn unconfirmed(error: &RedisError) -> ReceiptError {
    ReceiptError::Unconfirmed(error.clone().into())
}

impl Link {
    fn command(&self, action: Action) -> (Command, Instant) {
        (Command { action, again: false }, Instant::now() + self.names.ack_wait)
    }

    fn tell(&self, action: Action) {
        let (command, until) = self.command(action);
        self.settlements.tell(command, until);
    }

    /// Ends the command in which another connection blocks.
    pub(crate) fn unblock(&self, id: u64) {
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(id);
        self.tell(Action::Other(command));
    }

    async fn ask(&self, action: Action) -> Result<(), ReceiptError> {
        let (command, until) = self.command(action);
        self.settlements.ask(command, until).await
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
        self.link.ask(Action::Ack(self.id.clone())).await
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settled = true;
        let command = scripts::nack(&self.link.names, &self.id, self.deliveries, after);
        self.link.ask(Action::Other(command)).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(Action::Other(scripts::dead(&self.link.names, &self.id, why))).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (link, id) = (self.link.clone(), self.id.clone());
        Box::pin(async move { link.ask(Action::Other(scripts::extend(&link.names, &id))).await })
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
            self.link.tell(Action::Other(command));
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
