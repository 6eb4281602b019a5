//! Receipts, and the task that sends settlements in bundles.
//!
//! A [`Claimed`] sends its settlement to the task of [`Settler::run`] and waits for the answer. The
//! task sends one pipeline at a time. What comes in meanwhile goes with the next pipeline, so acks are
//! bundled under load and never wait for a timer. After a lost connection the same pipeline is sent
//! again, until the ack wait is over: a settlement that was carried out twice does no harm.
//! The task ends when the source and all receipts are gone.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::{Names, connect, scripts};
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::trace::event;

/// The most commands of a pipeline.
const BUNDLE: usize = 1024;

/// A command about one message, with the way back for its answer.
pub(crate) struct Request {
    command: Cmd,
    /// After this time the answer is of no use.
    until: Instant,
    /// Whether the command was sent on a connection that failed.
    again: bool,
    answer: Option<oneshot::Sender<Result<(), ReceiptError>>>,
}

/// The task that settles.
pub(crate) struct Settler {
    client: Client,
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
        tokio::spawn(Self { client, connection: Some(connection), requests }.run());
        Link { names, requests: sender }
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
        let mut pipeline = Pipeline::with_capacity(bundle.len() * 2);
        for request in &*bundle {
            pipeline.add_command(request.command.clone());
        }
        let answers: Vec<RedisResult<i64>> =
            pipeline.ignore_errors().query_async(connection).await?;
        for (request, answer) in bundle.drain(..).zip(answers) {
            request.answer(answer);
        }
        Ok(())
    }
}

impl Request {
    fn answer(self, answer: RedisResult<i64>) {
        let answer = match answer {
            Ok(0) if self.again => {
                let error = "the first attempt had no answer, and may have succeeded";
                Err(ReceiptError::Unconfirmed(error.into()))
            }
            Ok(0) => Err(ReceiptError::Lost),
            Ok(_) => Ok(()),
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
    fn request(&self, command: Cmd, answer: Option<oneshot::Sender<Result<(), ReceiptError>>>) {
        let until = Instant::now() + self.names.ack_wait;
        // The task lives as long as its senders; it is gone only with its runtime.
        let _ = self.requests.send(Request { command, until, again: false, answer });
    }

    async fn ask(&self, command: Cmd) -> Result<(), ReceiptError> {
        let (sender, answer) = oneshot::channel();
        self.request(command, Some(sender));
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
        self.link.ask(scripts::ack(&self.link.names, &self.id)).await
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(scripts::nack(&self.link.names, &self.id, self.deliveries, after)).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.ask(scripts::dead(&self.link.names, &self.id, why)).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (link, id) = (self.link.clone(), self.id.clone());
        Box::pin(async move { link.ask(scripts::extend(&link.names, &id)).await })
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
            self.link.request(command, None);
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
