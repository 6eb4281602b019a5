//! The source: reads from the stream, and looks after delays and orphans.
//!
//! [`Source`] has a connection for its requests: a read, or the script that takes delayed messages and
//! orphans. While reads come back full, a second read follows the first at once, so Redis works on it
//! while the messages of the first are started. The requests stay in `reading` when the future of
//! `next` is dropped, so no reply is lost: the following `next` or `close` takes it up. Together they
//! ask for no more than `room`, so never more messages are claimed at once.
//!
//! The first read blocks in Redis until there is a message. The second does not: it must not keep the
//! connection from the next look after orphans.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;
use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, RedisError, RedisResult};
use tokio::time::Instant;

use super::message::Swept;
use super::settle::{Claimed, Link, Settler};
use super::{Message, Names, Options, connect, message, scripts};
use crate::error::ConnectError;
use crate::receipt::Receipt;
use crate::source::SourceError;

/// How often a worker looks for delays that are over and for orphans.
const SWEEP: Duration = Duration::from_millis(500);

type Reading = Pin<Box<dyn Future<Output = (usize, RedisResult<Swept>)> + Send>>;

/// A consumer of a group of a Redis stream. See the [module](crate::redis).
pub struct Source {
    client: Client,
    names: Arc<Names>,
    link: Link,
    /// `None` after an error.
    reader: Option<MultiplexedConnection>,
    /// The requests that are in Redis, at most two.
    reading: FuturesOrdered<Reading>,
    /// How many messages they may bring.
    outstanding: usize,
    /// Whether the last read brought all that it asked for, so that there are more.
    is_full: bool,
    /// Messages that Redis handed out and `next` has not returned.
    ready: VecDeque<(Message, Claimed)>,
    sweep_at: Instant,
}

impl Source {
    /// Connects to Redis, makes the group if there is none, and checks every setting and permission.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which names the setting. Nothing was fetched then.
    pub async fn connect(url: &str, options: Options) -> Result<Self, ConnectError> {
        options.check()?;
        let unreachable = |error: RedisError| ConnectError::Unreachable {
            url: url.to_owned(),
            error: error.into(),
        };
        let client = Client::open(url).map_err(unreachable)?;
        let names = Arc::new(Names::new(&options));
        let mut connection = connect::open(&client, Duration::ZERO).await.map_err(unreachable)?;
        let reader = connect::open(&client, SWEEP).await.map_err(unreachable)?;
        connect::prepare(&mut connection, &options, &names).await?;
        let link = Settler::spawn(client.clone(), names.clone(), connection);
        Ok(Self {
            client,
            names,
            link,
            reader: Some(reader),
            reading: FuturesOrdered::new(),
            outstanding: 0,
            is_full: false,
            ready: VecDeque::new(),
            sweep_at: Instant::now(),
        })
    }

    /// Returns the name of this consumer in its group.
    pub fn consumer(&self) -> &str {
        &self.names.consumer
    }

    /// Fills `ready` from Redis, once: by a request that is there, or by a new one.
    async fn fill(&mut self, room: usize) -> RedisResult<()> {
        let missing = room.saturating_sub(self.outstanding);
        if self.reading.is_empty() {
            let count = if self.is_full { missing.div_ceil(2) } else { missing };
            self.ask(count, true).await?;
        }
        let missing = room.saturating_sub(self.outstanding);
        let is_worth_it = missing >= (room / 4).max(1);
        if self.is_full && is_worth_it && self.reading.len() == 1 {
            self.ask(missing, false).await?;
        }
        self.take_reply().await
    }

    async fn take_reply(&mut self) -> RedisResult<()> {
        let Some((count, reply)) = self.reading.next().await else { return Ok(()) };
        self.outstanding -= count;
        let (next, found) = reply?;
        self.is_full = found.len() >= count;
        if let Ok(next) = u64::try_from(next) {
            self.sweep_at = self.sweep_at.min(Instant::now() + Duration::from_millis(next));
        }
        for (message, deliveries) in found {
            let claim = Claimed::new(&self.link, &message, deliveries);
            self.ready.push_back((message, claim));
        }
        Ok(())
    }

    /// Makes a sweep if it is time for one, or else a read. One that `blocks` waits for a message
    /// until the next sweep.
    async fn ask(&mut self, count: usize, blocks: bool) -> RedisResult<()> {
        let mut reader = match &self.reader {
            Some(reader) => reader.clone(),
            None => self.reader.insert(connect::open(&self.client, SWEEP).await?).clone(),
        };
        self.outstanding += count;
        let now = Instant::now();
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP.min(self.names.ack_wait / 4);
            let sweep = scripts::sweep(&self.names, count);
            self.reading.push_back(Box::pin(async move {
                let reply = sweep.query_async(&mut reader).await;
                let swept = |reply| message::from_sweep(reply).ok_or_else(|| unexpected("a sweep"));
                (count, reply.and_then(swept))
            }));
            return Ok(());
        }
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.names.group).arg(&self.names.consumer);
        read.arg("COUNT").arg(count);
        if blocks {
            // Rounded up, as 0 means for ever.
            read.arg("BLOCK").arg((self.sweep_at - now).as_millis() as u64 + 1);
        }
        read.arg("STREAMS").arg(&self.names.stream).arg(">");
        self.reading.push_back(Box::pin(async move {
            let reply = read.query_async(&mut reader).await.and_then(|reply| {
                let messages = message::from_read(reply).ok_or_else(|| unexpected("XREADGROUP"))?;
                Ok((-1, messages.into_iter().map(|message| (message, 1)).collect()))
            });
            (count, reply)
        }));
        Ok(())
    }

    /// Forgets a connection that failed, and what was asked on it.
    fn disconnect(&mut self) {
        self.reader = None;
        self.reading = FuturesOrdered::new();
        (self.outstanding, self.is_full) = (0, false);
    }
}

fn unexpected(command: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "unexpected reply", command.to_owned()))
}

impl crate::Source for Source {
    type Message = Message;
    type Receipt = Claimed;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Vec<(Message, Claimed)>, SourceError> {
        while self.ready.is_empty() {
            if let Err(error) = self.fill(room.get()).await {
                self.disconnect();
                return Err(match connect::is_final(&error) {
                    true => SourceError::Closed(error.into()),
                    false => SourceError::Disconnected(error.into()),
                });
            }
        }
        let count = self.ready.len().min(room.get());
        Ok(self.ready.drain(..count).collect())
    }

    fn ack_wait(&self) -> Option<Duration> {
        Some(self.names.ack_wait)
    }

    async fn close(&mut self) {
        // At most until the next sweep.
        while !self.reading.is_empty() {
            let _ = self.take_reply().await;
        }
        join_all(self.ready.drain(..).map(|(_, claim)| claim.nack(Duration::ZERO))).await;
    }

    fn system(&self) -> &'static str {
        "redis"
    }

    fn destination(&self) -> &str {
        &self.names.stream
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("names", &self.names).finish_non_exhaustive()
    }
}
