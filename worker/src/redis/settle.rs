//! Receipts, and the task that sends settlements in bundles.
//!
//! The task sends one pipeline at a time, all acks of the bundle as one command. After a lost
//! connection the same pipeline is sent again, until the ack wait is over: an ack that was carried out
//! twice does no harm, and the scripts of the other settlements do not touch a later claim.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, sleep};

use super::{Names, connect, scripts};
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::settlement::{BUNDLE, Requests, Settlement, Settlements, shut_down};
use crate::trace::event;

type Request = Settlement<Command, Answers>;

/// The answer for each message of a command.
type Answers = Vec<Result<(), ReceiptError>>;

/// A settlement of a message, or of several.
pub(crate) struct Command {
    action: Action,
    /// Whether it was sent on a connection that failed.
    again: bool,
}

enum Action {
    /// All acks of a bundle are one command.
    Acks(Vec<String>),
    Other(Cmd),
}

/// The task that settles.
pub(crate) struct Settler {
    client: Client,
    names: Arc<Names>,
    connection: Option<MultiplexedConnection>,
    requests: Requests<Command, Answers>,
}

/// The receipts' side of the task.
pub(crate) struct Link {
    pub(crate) names: Arc<Names>,
    pub(crate) settlements: Settlements<Command, Answers>,
}

impl Settler {
    pub(crate) fn spawn(
        client: Client,
        names: Arc<Names>,
        connection: MultiplexedConnection,
    ) -> Arc<Link> {
        let (settlements, requests) = Settlements::channel();
        let link = Arc::new(Link { names: names.clone(), settlements });
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
                over.into_iter().for_each(|request| {
                    let answers = (0..request.what.messages()).map(|_| Err(unconfirmed(&error)));
                    let answers = answers.collect();
                    request.resolve(answers);
                });
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
                Action::Acks(some) => ids.extend(some.iter().map(String::as_str)),
                Action::Other(command) => drop(pipeline.add_command(command.clone())),
            }
        }
        let others = pipeline.len();
        for some in ids.chunks(BUNDLE) {
            pipeline.add_command(scripts::ack(&self.names, some));
        }
        let mut answers: Vec<RedisResult<Value>> =
            pipeline.ignore_errors().query_async(connection).await?;
        if let Some(Err(error)) = answers.iter().find(|answer| is_passing(answer)) {
            return Err(error.clone());
        }
        let sizes: Vec<usize> = ids.chunks(BUNDLE).map(<[_]>::len).collect();
        let acked = answers.split_off(others.min(answers.len())).into_iter();
        let mut acked = acked.zip(sizes).flat_map(|(answer, size)| each_ack(answer, size));
        let mut answers = answers.into_iter();
        for request in bundle.drain(..) {
            let again = request.what.again;
            let answers = match &request.what.action {
                Action::Acks(ids) => ids.iter().map(|_| result(acked.next(), again)).collect(),
                Action::Other(_) => vec![result(answers.next(), again)],
            };
            request.resolve(answers);
        }
        Ok(())
    }
}

impl Command {
    fn messages(&self) -> usize {
        match &self.action {
            Action::Acks(ids) => ids.len(),
            Action::Other(_) => 1,
        }
    }
}

/// Whether Redis will take the command again in a while: it loads its data, or changes its roles.
fn is_passing(answer: &RedisResult<Value>) -> bool {
    let codes = ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"];
    answer.as_ref().is_err_and(|error| error.code().is_some_and(|code| codes.contains(&code)))
}

/// Returns the answer for each of some acks. `XACK` only tells how many there were: if some came
/// too late, nothing is known of any of them.
fn each_ack(answer: RedisResult<Value>, acks: usize) -> impl Iterator<Item = RedisResult<Value>> {
    (0..acks).map(move |index| match &answer {
        Ok(Value::Int(acked)) if *acked == acks as i64 => Ok(Value::Int(1)),
        Ok(Value::Int(_)) if acks == 1 => Ok(Value::Int(0)),
        Ok(Value::Array(answers)) => Ok(answers.get(index).cloned().unwrap_or(Value::Nil)),
        Ok(_) => Ok(Value::Nil),
        Err(error) => Err(error.clone()),
    })
}

/// What the answer to a command says of its message. 0: another worker has it.
fn result(answer: Option<RedisResult<Value>>, again: bool) -> Result<(), ReceiptError> {
    match answer {
        Some(Ok(Value::Int(0))) if again => {
            let error = "the first attempt had no answer, and may have succeeded";
            Err(ReceiptError::Unconfirmed(error.into()))
        }
        Some(Ok(Value::Int(0))) => Err(ReceiptError::Lost),
        Some(Ok(Value::Int(_))) => Ok(()),
        Some(Err(error)) => Err(unconfirmed(&error)),
        _ => Err(ReceiptError::Unconfirmed("some acks of the bundle were too late".into())),
    }
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

    async fn ask_all(&self, action: Action) -> Answers {
        let (command, until) = self.command(action);
        let messages = command.messages();
        let answers = self.settlements.ask(command, until).await;
        answers.unwrap_or_else(|| (0..messages).map(|_| Err(shut_down())).collect())
    }

    /// Sends a command for one message.
    async fn ask(&self, action: Action) -> Result<(), ReceiptError> {
        let answer = self.ask_all(action).await.pop();
        answer.expect("a command has an answer for each of its messages")
    }
}

/// The claim on a message of a stream.
pub struct Claimed {
    link: Arc<Link>,
    id: String,
    deliveries: u32,
    traceparent: Option<String>,
    settled: bool,
}

impl Claimed {
    pub(crate) fn new(link: &Arc<Link>, message: &super::Message, deliveries: u32) -> Self {
        let traceparent = message.get("traceparent");
        let traceparent = traceparent.map(|value| String::from_utf8_lossy(value).into_owned());
        let (link, id) = (link.clone(), message.id.clone());
        Self { link, id, deliveries, traceparent, settled: false }
    }

    fn claim(&self) -> scripts::Claim<'_> {
        (&self.id, self.deliveries)
    }
}

impl Receipt for Claimed {
    async fn ack(mut self) -> Result<(), ReceiptError> {
        self.settled = true;
        let id = mem::take(&mut self.id);
        self.link.ask(Action::Acks(vec![id])).await
    }

    async fn ack_all(
        mut receipts: Vec<Self>,
        mut answered: impl FnMut(usize, Result<(), ReceiptError>) + Send,
    ) {
        let Some(link) = receipts.first().map(|receipt| receipt.link.clone()) else { return };
        let ids = receipts.iter_mut().map(|receipt| {
            receipt.settled = true;
            mem::take(&mut receipt.id)
        });
        let ids = ids.collect();
        for (index, answer) in link.ask_all(Action::Acks(ids)).await.into_iter().enumerate() {
            answered(index, answer);
        }
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settled = true;
        let command = scripts::nack(&self.link.names, self.claim(), after);
        self.link.ask(Action::Other(command)).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(Action::Other(scripts::dead(&self.link.names, self.claim(), why))).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (link, id, deliveries) = (self.link.clone(), self.id.clone(), self.deliveries);
        Box::pin(async move {
            let command = scripts::extend(&link.names, (&id, deliveries));
            link.ask(Action::Other(command)).await
        })
    }

    fn deliveries(&self) -> u32 {
        self.deliveries
    }

    fn id(&self) -> String {
        self.id.clone()
    }

    fn trace_context(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.settled {
            let command = scripts::nack(&self.link.names, self.claim(), Duration::ZERO);
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
