//! A source on Redis Streams, for Redis 6.2 and newer.
//!
//! A [`Source`] is a consumer of a consumer group, with a name that no other process has. Several
//! workers share a group. Messages are appended with `XADD`.
//!
//! | what | how |
//! |---|---|
//! | waiting | `XREADGROUP` blocks on a connection of its own; twice a second it looks after delays and orphans |
//! | ack | `XACK`, bundled: one pipeline holds what came in during the last |
//! | nack with a delay | the sorted set `STREAM:GROUP:delayed`; the message leaves the pending list |
//! | dead letter | the stream `STREAM:dead`, with the fields of the message and `millpond-*` fields |
//! | extension | `XCLAIM` with `JUSTID`, if the message is still this consumer's |
//! | orphans | what is pending for longer than the ack wait is claimed by any worker of the group |
//!
//! A message of more than 3,000 fields makes several dead letters, with the same `millpond-*` fields.
//!
//! In the key of the delays, `%25` stands for `%` in the name of the group, and `%3A` for `:`.
//!
//! Acknowledged messages stay in the stream, as other groups may need them. Bound the stream with
//! `MAXLEN` at `XADD`, or let [`Options::delete_acked`] delete them. Redis keeps what it has
//! acknowledged over a crash of its process if `appendonly` is on.
//!
//! # Examples
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use millpond_worker::{Worker, redis};
//!
//! let options = redis::Options::new("orders", "thumbnailer");
//! let source = redis::Source::connect("redis://127.0.0.1:6379", options).await?;
//! let pool = millpond::Pool::new(16);
//! let token = tokio_util::sync::CancellationToken::new();
//! let report = Worker::new(source, &pool)
//!     .run(
//!         |message, _group| async move {
//!             println!("{}: {:?}", message.id, message.get("order"));
//!             Ok(())
//!         },
//!         token,
//!     )
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod connect;
mod message;
mod scripts;
mod settle;
mod source;

use std::time::Duration;

/// The client that this module is built on.
pub use ::redis as client;
use millpond::ConfigError;

use crate::error::check_ack_wait;

pub use crate::redis::message::Message;
pub use crate::redis::settle::Claimed;
pub use crate::redis::source::Source;

/// Settings of a [`Source`].
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) stream: String,
    pub(crate) group: String,
    pub(crate) ack_wait: Duration,
    pub(crate) dead_letters: Option<String>,
    pub(crate) delete_acked: bool,
    pub(crate) create_stream: bool,
}

impl Options {
    /// The settings of a consumer group of a stream. A group that does not exist is made; it begins
    /// with the oldest message.
    pub fn new(stream: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            group: group.into(),
            ack_wait: Duration::from_secs(30),
            dead_letters: None,
            delete_acked: false,
            create_stream: false,
        }
    }

    /// Sets after which time another worker takes over a message that was neither settled nor
    /// extended: 100 ms to a day, 30 seconds by default. All workers of a group use the same.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = ack_wait;
        self
    }

    /// Sets the stream of the dead letters. By default it is `STREAM:dead`.
    pub fn dead_letters(mut self, stream: impl Into<String>) -> Self {
        self.dead_letters = Some(stream.into());
        self
    }

    /// Deletes messages that are acknowledged or dead. Only for a stream with one group.
    pub fn delete_acked(mut self) -> Self {
        self.delete_acked = true;
        self
    }

    /// Makes the stream if it does not exist. By default an unknown stream is an error.
    pub fn create_stream(mut self) -> Self {
        self.create_stream = true;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        let dead = self.dead_letters.as_ref().unwrap_or(&self.stream);
        let names = [("stream", &self.stream), ("group", &self.group), ("dead_letters", dead)];
        if let Some((field, _)) = names.iter().find(|(_, name)| name.is_empty()) {
            return Err(ConfigError::new(field, "empty", "a name"));
        }
        if self.dead_letters.as_ref() == Some(&self.stream) {
            let accepted = "another stream than that of the messages";
            return Err(ConfigError::new("dead_letters", &self.stream, accepted));
        }
        check_ack_wait(self.ack_wait)
    }
}

/// The keys and names that all commands of a source need.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) stream: String,
    pub(crate) group: String,
    /// This consumer: unique, also over hosts and restarts.
    pub(crate) consumer: String,
    pub(crate) delayed: String,
    pub(crate) dead: String,
    pub(crate) ack_wait: Duration,
    pub(crate) delete_acked: bool,
}

impl Names {
    fn new(options: &Options) -> Self {
        let Options { stream, group, .. } = options;
        let dead = options.dead_letters.clone().unwrap_or_else(|| format!("{stream}:dead"));
        Self {
            stream: stream.clone(),
            group: group.clone(),
            consumer: format!("millpond-{}-{:016x}", std::process::id(), random()),
            delayed: delayed(stream, group),
            dead,
            ack_wait: options.ack_wait,
            delete_acked: options.delete_acked,
        }
    }
}

/// Returns the key of the delays. The group has no colon in it: otherwise the stream `a:b` with the group
/// `c` had the key of the stream `a` with the group `b:c`.
fn delayed(stream: &str, group: &str) -> String {
    let group = group.replace('%', "%25").replace(':', "%3A");
    format!("{stream}:{group}:delayed")
}

/// A number that no other process has. The hasher's keys come from the system.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}
