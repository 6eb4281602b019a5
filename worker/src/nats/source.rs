//! The source: pull requests, and what the server sends for them.
//!
//! [`Source`] has one subscription, to which all its pull requests are answered. `outstanding` is how
//! many messages they may still bring. A new request asks for the difference to the room, once the
//! difference is half of the room: so requests are few, and never ask for more than there is room.
//! The server may forget pull requests with the connection, and says so by its silence only. So
//! `outstanding` is 0 again after a reconnect, after two heartbeats that did not come, and when a request
//! ends and its end does not say how much it would still have brought. The server may also have kept them:
//! then the requests after them would bring more than there is room, and claims would age here. So these go
//! to another inbox, and the server drops requests to an inbox that is gone. A request that the server
//! refuses is an error, so that the worker pauses before the next.
//!
//! An error holds back no message of `ready`: its claim would age there while the worker pauses, and count as
//! a new one afterwards. So `next` returns the messages first, and the error with the next call.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, StatusCode, SubscribeError, Subscriber};
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, StreamExt};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, sleep_until};

use super::connect::Bounds;
use super::receipt::{Claimed, Link};
use super::settle::{Settler, connects};
use super::{Message, Options, connect};
use crate::error::ConnectError;
use crate::failpoint::failpoint;
use crate::receipt::Receipt;
use crate::source::SourceError;

/// How long the server keeps a pull request.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still has a pull request.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The most pull requests at a time. Each consumer has a bound for those of all its workers, too.
const REQUESTS: usize = 16;
/// How often the source looks whether the client has reconnected.
const LOOK: Duration = Duration::from_millis(250);
/// The longest pause between attempts to reconnect.
const RECONNECT: Duration = Duration::from_millis(500);

type Ready = (Message, Claimed);

/// A consumer of a JetStream stream. See the [module](crate::nats).
pub struct Source {
    link: Arc<Link>,
    consumer: PullConsumer,
    inbox: Subscriber,
    inbox_name: String,
    /// Inboxes of earlier requests, until they have ended.
    old: SelectAll<Subscriber>,
    /// How many messages the pull requests in the server may bring.
    outstanding: usize,
    bounds: Bounds,
    /// When the server was heard last.
    heard_at: Instant,
    /// How often the client was connected, as far as the source knows.
    connects: u64,
    /// Messages that the server handed out and `next` has not returned.
    ready: VecDeque<Ready>,
}

impl Source {
    /// Connects to a server, makes the consumer if there is none, and checks its settings.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which names the setting. Nothing was fetched then.
    pub async fn connect(url: &str, options: Options) -> Result<Self, ConnectError> {
        let pause = |attempt: usize| match attempt {
            0 | 1 => Duration::ZERO,
            _ => RECONNECT.min(Duration::from_millis(10) * (attempt as u32)),
        };
        let client = ConnectOptions::new().reconnect_delay_callback(pause).connect(url).await;
        let client = client.map_err(|error| ConnectError::unreachable(url, error))?;
        Self::with_client(client, options).await
    }

    /// [`connect`](Self::connect) with a client of yours, for credentials, TLS and several servers.
    /// Its pauses between attempts to reconnect are yours, too.
    ///
    /// # Errors
    ///
    /// Returns the errors of `connect`.
    pub async fn with_client(client: Client, options: Options) -> Result<Self, ConnectError> {
        let context = jetstream::new(client.clone());
        let consumer = connect::consumer(&context, &options).await?;
        let dead_letters = connect::dead_letters(&context, &options, &consumer).await?;
        let config = &consumer.cached_info().config;
        let (bounds, ack_wait) = (Bounds::of(config), config.ack_wait);
        let (inbox_name, inbox) = new_inbox(&client).await.map_err(|error| {
            let value = "a new one".to_owned();
            ConnectError::Refused { field: "inbox", value, error: error.into() }
        })?;
        let connects = connects(&client);
        let settlements = Settler::spawn(client.clone());
        let Options { stream, consumer: name, .. } = options;
        let link =
            Link { client, context, stream, consumer: name, dead_letters, ack_wait, settlements };
        Ok(Self {
            link: Arc::new(link),
            consumer,
            inbox,
            inbox_name,
            old: SelectAll::new(),
            outstanding: 0,
            bounds,
            heard_at: Instant::now(),
            connects,
            ready: VecDeque::new(),
        })
    }

    /// Returns the JetStream context, for streams and for publishing.
    pub fn context(&self) -> &Context {
        &self.link.context
    }

    /// Asks for what there is room for and was not asked for yet.
    async fn pull(&mut self, room: usize) -> Result<(), SourceError> {
        let room = room.min(self.bounds.batch.saturating_mul(REQUESTS));
        let mut missing = room.saturating_sub(self.outstanding);
        let is_little = missing == 0 || missing < room.div_ceil(2) && self.outstanding > 0;
        // What old inboxes still bring takes room, too.
        if is_little || !self.old.is_empty() {
            return Ok(());
        }
        if self.outstanding == 0 {
            self.heard_at = Instant::now();
        }
        while missing > 0 {
            let batch = missing.min(self.bounds.batch);
            missing -= batch;
            // Before the request: its future may be dropped when it was already sent.
            self.outstanding += batch;
            self.request(batch).await?;
        }
        Ok(())
    }

    async fn request(&self, batch: usize) -> Result<(), SourceError> {
        let expires = EXPIRES.min(self.bounds.expires);
        // The server refuses a heartbeat that is longer than half of the request.
        let idle_heartbeat = if HEARTBEAT * 2 <= expires { HEARTBEAT } else { Duration::ZERO };
        let batch =
            BatchConfig { batch, expires: Some(expires), idle_heartbeat, ..Default::default() };
        let inbox = self.inbox_name.clone().into();
        let sent = self.consumer.request_batch(batch, inbox).await;
        sent.map_err(|error| SourceError::Disconnected(error.into()))
    }

    /// Takes a message of the server: one of the stream, or a status of a pull request.
    fn take(&mut self, message: async_nats::Message) -> Result<(), Status> {
        self.heard_at = Instant::now();
        let Some(status) = message.status else {
            self.outstanding = self.outstanding.saturating_sub(1);
            self.ready.extend(ready(&self.link, message, self.connects));
            return Ok(());
        };
        // A request that was accepted and has ended: most say how much it would still have brought.
        let ended = |message: &async_nats::Message| {
            let headers = message.headers.as_ref()?;
            headers.get("Nats-Pending-Messages")?.as_str().parse::<usize>().ok()
        };
        match status {
            StatusCode::IDLE_HEARTBEAT => Ok(()),
            StatusCode::NO_RESPONDERS => Err(Status::NoAnswer),
            _ => match ended(&message) {
                Some(left) => {
                    self.outstanding = self.outstanding.saturating_sub(left);
                    Ok(())
                }
                None => Err(Status::of(status, message.description.as_deref())),
            },
        }
    }

    /// Waits for the server once. Fills `ready`, or not.
    async fn wait(&mut self) -> Result<(), SourceError> {
        let silent_at = self.heard_at + HEARTBEAT * 2;
        tokio::select! {
            biased;
            message = self.old.next(), if !self.old.is_empty() => match message {
                Some(message) => self.heard(message).await,
                // The last old inbox has ended: now there may be a request again.
                None => Ok(()),
            },
            message = self.inbox.next() => match message {
                Some(message) => self.heard(message).await,
                None => Err(SourceError::Closed("the client was closed".into())),
            },
            // While old inboxes end, nothing is asked for.
            () = sleep_until(silent_at), if self.outstanding > 0 => self.renew().await,
            () = sleep(LOOK) => self.look().await,
        }
    }

    /// Takes a message of the server, and what is here already.
    async fn heard(&mut self, message: async_nats::Message) -> Result<(), SourceError> {
        let mut taken = self.take(message);
        while let (Ok(()), Some(Some(message))) = (&taken, self.message().now_or_never()) {
            taken = self.take(message);
        }
        let text = match taken {
            Ok(()) => return Ok(()),
            Err(Status::Gone) => {
                return Err(SourceError::Closed("the consumer was deleted".into()));
            }
            // A status of a request that does not count any more.
            Err(_) if self.outstanding == 0 => return Ok(()),
            Err(Status::Moved) => return self.renew().await,
            Err(Status::NoAnswer) => "JetStream does not answer".to_owned(),
            Err(Status::Refused(status)) => format!("a pull request is refused: {status}"),
        };
        self.renew().await?;
        match self.ready.is_empty() {
            true => Err(self.why(text).await),
            false => Ok(()),
        }
    }

    /// The next message to an inbox. Cancel safe.
    async fn message(&mut self) -> Option<async_nats::Message> {
        tokio::select! {
            biased;
            Some(message) = self.old.next(), if !self.old.is_empty() => Some(message),
            message = self.inbox.next() => message,
        }
    }

    /// Begins with another inbox, as it is not known what the requests in the server would still bring.
    async fn renew(&mut self) -> Result<(), SourceError> {
        if self.outstanding == 0 || failpoint("old requests bring messages") {
            self.outstanding = 0;
            return Ok(());
        }
        let renewed = new_inbox(&self.link.client).await;
        let (name, inbox) = renewed.map_err(|error| SourceError::Disconnected(error.into()))?;
        self.old.push(mem::replace(&mut self.inbox, inbox));
        (self.inbox_name, self.outstanding) = (name, 0);
        self.drain_old().await;
        Ok(())
    }

    /// Ends the old inboxes after what is here already. The server drops their requests.
    async fn drain_old(&mut self) {
        for old in self.old.iter_mut() {
            // The client is closed: they have ended.
            let _ = old.drain().await;
        }
    }

    /// Looks whether the client has lost or renewed its connection.
    async fn look(&mut self) -> Result<(), SourceError> {
        self.link.settlements.check()?;
        let connects = connects(&self.link.client);
        if connects != self.connects {
            // What is here already came by the old connection: all of it, whatever budget the task has left.
            while let Some(Some(message)) = unconstrained(self.message()).now_or_never() {
                let _ = self.take(message);
            }
            self.renew().await?;
            self.connects = connects;
        }
        // Once more, as a future of `renew` may have been dropped.
        self.drain_old().await;
        match self.link.client.connection_state() {
            State::Connected => Ok(()),
            _ => Err(SourceError::Disconnected("the client reconnects".into())),
        }
    }

    /// Returns why there are no messages: the consumer is gone, or what `text` says. Takes up the bounds that
    /// the consumer has by now.
    async fn why(&mut self, text: String) -> SourceError {
        match self.consumer.get_info().await {
            Err(error) if connect::is_gone(&error) => return SourceError::Closed(error.into()),
            Err(_) => {}
            Ok(info) => self.bounds = Bounds::of(&info.config),
        }
        SourceError::Disconnected(text.into())
    }
}

async fn new_inbox(client: &Client) -> Result<(String, Subscriber), SubscribeError> {
    let name = client.new_inbox();
    let inbox = client.subscribe(name.clone()).await?;
    Ok((name, inbox))
}

/// What a status of the server means for the source.
enum Status {
    /// The consumer was deleted.
    Gone,
    /// No consumer heard the pull request: JetStream has not started yet, or the consumer is gone.
    NoAnswer,
    /// Another server has the consumer now. The requests are forgotten.
    Moved,
    /// The server does not take the pull request.
    Refused(String),
}

impl Status {
    fn of(status: StatusCode, text: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        match &*text.to_ascii_lowercase() {
            "consumer deleted" => Self::Gone,
            "leadership change" => Self::Moved,
            _ => Self::Refused(format!("{status} {text}")),
        }
    }
}

/// Makes a message and its claim. A message without a JetStream reply is none of the stream.
fn ready(link: &Arc<Link>, message: async_nats::Message, connects: u64) -> Option<Ready> {
    let message = jetstream::Message { message, context: link.context.clone() };
    let info = message.info().ok()?;
    let (sequence, deliveries) = (info.stream_sequence, info.delivered);
    let published = info.published.into();
    let async_nats::Message { subject, reply, payload, headers, .. } = message.message;
    let headers = headers.unwrap_or_default();
    let message = Message { subject: subject.to_string(), headers, payload, sequence };
    let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
    let claim = Claimed::new(link, reply?, message.clone(), (published, deliveries), connects);
    Some((message, claim))
}

impl crate::Source for Source {
    type Message = Message;
    type Receipt = Claimed;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Vec<Ready>, SourceError> {
        let mut asked = match self.ready.is_empty() {
            true => self.look().await,
            false => Ok(()),
        };
        while self.ready.is_empty() {
            asked?;
            self.pull(room.get()).await?;
            asked = self.wait().await;
        }
        let count = self.ready.len().min(room.get());
        Ok(self.ready.drain(..count).collect())
    }

    fn ack_wait(&self) -> Option<Duration> {
        Some(self.link.ack_wait)
    }

    async fn close(&mut self) {
        self.drain_old().await;
        // The subscription ends after what the server has sent until then.
        if self.inbox.drain().await.is_ok() {
            while let Some(message) = self.message().await {
                let _ = self.take(message);
            }
        }
        let ready = self.ready.drain(..);
        futures_util::future::join_all(ready.map(|(_, claim)| claim.nack(Duration::ZERO))).await;
    }

    fn system(&self) -> &'static str {
        "nats"
    }

    fn destination(&self) -> &str {
        &self.link.stream
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("stream", &self.link.stream)
            .field("consumer", &self.link.consumer)
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
