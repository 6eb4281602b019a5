//! The source: pull requests, and what the server sends for them.
//!
//! [`Source`] has one subscription, to which all its pull requests are answered. `outstanding` is how
//! many messages they may still bring. A new request asks for the difference to the room, once the
//! difference is half of the room: so requests are few, and never ask for more than there is room.
//! The server forgets pull requests with the connection, and says so by its silence only. So
//! `outstanding` is 0 again after a reconnect, and after two heartbeats that did not come.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::receipt::{Claimed, Link};
use super::settle::{Settler, connects};
use super::{Message, Options, connect};
use crate::error::ConnectError;
use crate::receipt::Receipt;
use crate::source::SourceError;

/// How long the server keeps a pull request.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still has a pull request.
const HEARTBEAT: Duration = Duration::from_secs(5);
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
    /// How many messages the pull requests in the server may bring.
    outstanding: usize,
    /// The most that a pull request may ask for.
    max_batch: usize,
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
        let max_batch = usize::try_from(config.max_batch).ok().filter(|max| *max > 0);
        let ack_wait = config.ack_wait;
        let inbox_name = client.new_inbox();
        let inbox = client.subscribe(inbox_name.clone()).await.map_err(|error| {
            let value = inbox_name.clone();
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
            outstanding: 0,
            max_batch: max_batch.unwrap_or(usize::MAX),
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
        let missing = room.saturating_sub(self.outstanding).min(self.max_batch);
        if missing == 0 || missing < room.div_ceil(2) && self.outstanding > 0 {
            return Ok(());
        }
        if self.outstanding == 0 {
            self.heard_at = Instant::now();
        }
        // Before the request: its future may be dropped when it was already sent.
        self.outstanding += missing;
        let batch = BatchConfig {
            batch: missing,
            expires: Some(EXPIRES),
            idle_heartbeat: HEARTBEAT,
            ..Default::default()
        };
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
        // A request has ended: 404, 408, and most of 409 say how much it would still have brought.
        let ended = |message: &async_nats::Message| {
            let headers = message.headers.as_ref()?;
            headers.get("Nats-Pending-Messages")?.as_str().parse::<usize>().ok()
        };
        match status {
            StatusCode::IDLE_HEARTBEAT => Ok(()),
            StatusCode::NO_RESPONDERS => {
                self.outstanding = 0;
                Err(Status::NoAnswer)
            }
            _ => {
                let left = ended(&message).unwrap_or(self.outstanding);
                self.outstanding = self.outstanding.saturating_sub(left);
                let text = message.description.as_deref().unwrap_or_default();
                match text.to_ascii_lowercase().contains("consumer deleted") {
                    true => Err(Status::Gone),
                    false => Ok(()),
                }
            }
        }
    }

    /// Waits for the server once. Fills `ready`, or not.
    async fn wait(&mut self) -> Result<(), SourceError> {
        let silent_at = self.heard_at + HEARTBEAT * 2;
        tokio::select! {
            biased;
            message = self.inbox.next() => {
                let gone = || SourceError::Closed("the client was closed".into());
                let mut taken = self.take(message.ok_or_else(gone)?);
                // What is here already comes along.
                while let (Ok(()), Some(Some(message))) = (&taken, self.inbox.next().now_or_never()) {
                    taken = self.take(message);
                }
                match taken {
                    Ok(()) => Ok(()),
                    Err(Status::Gone) => Err(SourceError::Closed("the consumer was deleted".into())),
                    Err(Status::NoAnswer) => Err(self.why_no_answer().await),
                }
            }
            () = sleep_until(silent_at) => {
                self.outstanding = 0;
                Ok(())
            }
            () = sleep(LOOK) => self.look(),
        }
    }

    /// Looks whether the client has lost or renewed its connection.
    fn look(&mut self) -> Result<(), SourceError> {
        self.link.settlements.check()?;
        let connects = connects(&self.link.client);
        if connects != self.connects {
            // What is here already came by the old connection.
            while let Some(Some(message)) = self.inbox.next().now_or_never() {
                let _ = self.take(message);
            }
            (self.connects, self.outstanding) = (connects, 0);
        }
        match self.link.client.connection_state() {
            State::Connected => Ok(()),
            _ => Err(SourceError::Disconnected("the client reconnects".into())),
        }
    }

    /// Nothing listens for pull requests: JetStream has not started yet, or the consumer is gone.
    async fn why_no_answer(&self) -> SourceError {
        match self.consumer.get_info().await {
            Err(error) if connect::is_gone(&error) => SourceError::Closed(error.into()),
            _ => SourceError::Disconnected("JetStream does not answer".into()),
        }
    }
}

/// What a status of the server means for the source.
enum Status {
    /// The consumer was deleted.
    Gone,
    /// No consumer heard the pull request.
    NoAnswer,
}

/// Makes a message and its claim. A message without a JetStream reply is none of the stream.
fn ready(link: &Arc<Link>, message: async_nats::Message, connects: u64) -> Option<Ready> {
    let message = jetstream::Message { message, context: link.context.clone() };
    let info = message.info().ok()?;
    let (sequence, deliveries) = (info.stream_sequence, info.delivered);
    let async_nats::Message { subject, reply, payload, headers, .. } = message.message;
    let headers = headers.unwrap_or_default();
    let message = Message { subject: subject.to_string(), headers, payload, sequence };
    let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
    let claim = Claimed::new(link, reply?, message.clone(), deliveries, connects);
    Some((message, claim))
}

impl crate::Source for Source {
    type Message = Message;
    type Receipt = Claimed;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Vec<Ready>, SourceError> {
        self.look()?;
        while self.ready.is_empty() {
            self.pull(room.get()).await?;
            self.wait().await?;
        }
        let count = self.ready.len().min(room.get());
        Ok(self.ready.drain(..count).collect())
    }

    fn ack_wait(&self) -> Option<Duration> {
        Some(self.link.ack_wait)
    }

    async fn close(&mut self) {
        // The subscription ends after what the server has sent until then.
        if self.inbox.drain().await.is_ok() {
            while let Some(message) = self.inbox.next().await {
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
