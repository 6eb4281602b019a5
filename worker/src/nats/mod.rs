//! A source on NATS JetStream, for nats-server 2.10 and newer.
//!
//! A [`Source`] pulls from a durable consumer of a stream. Several workers share a consumer.
//!
//! | what | how |
//! |---|---|
//! | waiting | a pull request that the server keeps for 30 s; it asks for as much as there is room for |
//! | ack | `+ACK`, confirmed: what came in during the last bundle goes together, with one reply |
//! | nack with a delay | `-NAK` with a delay, confirmed likewise, and sent once: without an answer the message comes again after the ack wait |
//! | dead letter | published to a stream and confirmed, then `+TERM`, confirmed |
//! | extension | `+WPI`, confirmed. The server does not tell whose claim it is: the worker's clock does |
//! | orphans | the server delivers again after the ack wait |
//!
//! The consumer must have explicit acknowledgements, no limit of deliveries and no backoff of its own.
//! Otherwise the server would drop messages by itself.
//!
//! A dead letter has the payload and the headers of its message, and says why it is dead in headers that
//! begin with `Millpond-`. Headers that begin with `Nats-` are left out, as the server interprets them. So
//! are the longest others, if all have no room in what the server takes.
//!
//! # Examples
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use millpond_worker::{Worker, nats};
//!
//! let options = nats::Options::new("ORDERS", "thumbnailer");
//! let source = nats::Source::connect("nats://127.0.0.1:4222", options).await?;
//! let pool = millpond::Pool::new(16);
//! let token = tokio_util::sync::CancellationToken::new();
//! let report = Worker::new(source, &pool)
//!     .run(
//!         |message, _group| async move {
//!             println!("{}: {} bytes", message.subject, message.payload.len());
//!             Ok(())
//!         },
//!         token,
//!     )
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod connect;
mod letter;
mod receipt;
mod settle;
mod source;

use std::time::Duration;

/// The client that this module is built on.
pub use async_nats as client;
use bytes::Bytes;

pub use crate::nats::receipt::Claimed;
pub use crate::nats::source::Source;

/// Settings of a [`Source`].
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) ack_wait: Option<Duration>,
    pub(crate) dead_letters: Option<String>,
}

impl Options {
    /// The settings of a consumer of a stream. A consumer that does not exist is made; it begins with
    /// the oldest message.
    pub fn new(stream: impl Into<String>, consumer: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            consumer: consumer.into(),
            filter_subjects: Vec::new(),
            ack_wait: None,
            dead_letters: None,
        }
    }

    /// Adds a subject of the stream that the consumer is for. By default it is for all.
    pub fn filter_subject(mut self, subject: impl Into<String>) -> Self {
        self.filter_subjects.push(subject.into());
        self
    }

    /// Sets after which time the server delivers a message again that was neither settled nor
    /// extended: 100 ms to a day. By default the consumer's own ack wait, and 30 seconds for a new one.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = Some(ack_wait);
        self
    }

    /// Sets the subject of the dead letters. By default it is `dead.STREAM.CONSUMER`. If no stream
    /// takes the subject, the stream `STREAM_CONSUMER_DEAD` is made for it.
    pub fn dead_letters(mut self, subject: impl Into<String>) -> Self {
        self.dead_letters = Some(subject.into());
        self
    }
}

/// A message of a JetStream stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Message {
    /// The subject that the message was published to.
    pub subject: String,
    /// The headers.
    pub headers: client::HeaderMap,
    /// The payload.
    pub payload: Bytes,
    /// The number of the message in its stream. Unique there, so it serves as an idempotency key.
    pub sequence: u64,
}

impl Message {
    /// Returns the header `key`, or without one the subject, for
    /// [`Worker::by_key`](crate::Worker::by_key).
    pub fn key(&self) -> String {
        match self.headers.get("key") {
            Some(key) => key.as_str().to_owned(),
            None => self.subject.clone(),
        }
    }
}
