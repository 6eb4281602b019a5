//! The source: reads from the stream, and looks after delays and orphans.
//!
//! [`Source`] has a connection for reads that block. At most one request is in Redis: a read, or the
//! script that takes delayed messages and orphans. The request stays in `reading` when the future of
//! `next` is dropped, so no reply is lost: the following `next` or `close` takes it up. There is only
//! one, so never more than `room` messages are claimed at once.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::message::Found;
use super::settle::{Claimed, Link, Settler};
use super::{Message, Names, Options, connect, message, scripts};
use crate::error::ConnectError;
use crate::failpoint::failpoint;
use crate::receipt::Receipt;
use crate::source::SourceError;

/// How often a worker looks for delays that are over and for orphans.
const SWEEP: Duration = Duration::from_millis(500);

type Reading = Pin<Box<dyn Future<Output = RedisResult<Found>> + Send>>;

/// The connection for reads, and its number in Redis if that may be asked for.
struct Reader {
    connection: MultiplexedConnection,
    id: Option<u64>,
}

impl Reader {
    async fn open(client: &Client) -> RedisResult<Self> {
        let mut connection = connect::open(client, SWEEP).await?;
        let id = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.ok();
        Ok(Self { connection, id })
    }
}

/// A consumer of a group of a Redis stream. See the [module](crate::redis).
pub struct Source {
    client: Client,
    names: Arc<Names>,
    link: Arc<Link>,
    /// `None` after an error.
    reader: Option<Reader>,
    /// The request that is in Redis.
    reading: Option<Reading>,
    /// Messages that Redis handed out and `next` has not returned.
    ready: VecDeque<(Message, Claimed)>,
    sweep_at: Instant,
    /// The most room that there was.
    most_room: usize,
}

impl Source {
    /// Connects to Redis, makes the group if there is none, and checks every setting and permission.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which names the setting. Nothing was fetched then.
    pub async fn connect(url: &str, options: Options) -> Result<Self, ConnectError> {
        options.check()?;
        let unreachable = |error: RedisError| ConnectError::unreachable(url, error);
        let client = Client::open(url).map_err(unreachable)?;
        let names = Arc::new(Names::new(&options));
        let mut connection = connect::open(&client, Duration::ZERO).await.map_err(unreachable)?;
        let reader = Reader::open(&client).await.map_err(unreachable)?;
        connect::prepare(&mut connection, &options, &names).await?;
        let link = Settler::spawn(client.clone(), names.clone(), connection);
        Ok(Self {
            client,
            names,
            link,
            reader: Some(reader),
            reading: None,
            ready: VecDeque::new(),
            sweep_at: Instant::now(),
            most_room: 0,
        })
    }

    /// Returns the name of this consumer in its group.
    pub fn consumer(&self) -> &str {
        &self.names.consumer
    }

    /// Fills `ready` from Redis, once: by the request that is there, or by a new one.
    async fn fill(&mut self, room: usize) -> RedisResult<()> {
        if self.reading.is_none() {
            let reader = match &self.reader {
                Some(reader) => reader,
                None => self.reader.insert(Reader::open(&self.client).await?),
            };
            let connection = reader.connection.clone();
            self.reading = Some(self.request(connection, room));
        }
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let reply = reading.await;
        self.reading = None;
        let (next, found) = reply?;
        if let Ok(next) = u64::try_from(next) {
            self.sweep_at = self.sweep_at.min(Instant::now() + Duration::from_millis(next));
        }
        self.ready.extend(found.into_iter().map(|(message, deliveries)| {
            let claim = Claimed::new(&self.link, &message, deliveries);
            (message, claim)
        }));
        Ok(())
    }

    /// Makes a sweep if it is time for one, or else a read that blocks until the next.
    fn request(&mut self, mut reader: MultiplexedConnection, room: usize) -> Reading {
        let now = Instant::now();
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP.min(self.names.ack_wait / 4);
            let sweep = scripts::sweep(&self.names, room);
            return Box::pin(async move {
                let reply = ask(&mut reader, &sweep).await?;
                message::from_sweep(reply).ok_or_else(|| unexpected("a sweep"))
            });
        }
        // Half, so that Redis reads while the other half is worked on and acknowledged.
        self.most_room = self.most_room.max(room);
        let count = room.min(self.most_room.div_ceil(2));
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.names.group).arg(&self.names.consumer);
        // Rounded up, as 0 means for ever.
        let block = (self.sweep_at - now).as_millis() as u64 + 1;
        read.arg("COUNT").arg(count).arg("BLOCK").arg(block);
        read.arg("STREAMS").arg(&self.names.stream).arg(">");
        Box::pin(async move {
            let reply = ask(&mut reader, &read).await?;
            message::from_read(reply).ok_or_else(|| unexpected("XREADGROUP"))
        })
    }
}

/// Sends a command and returns the reply. `query_async` would look for an error in each part of it.
async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    match connection.req_packed_command(command).await? {
        Value::ServerError(error) => Err(error.into()),
        reply => Ok(reply),
    }
}

fn unexpected(command: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "unexpected reply", command.to_owned()))
}

impl crate::Source for Source {
    type Message = Message;
    type Receipt = Claimed;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Vec<(Message, Claimed)>, SourceError> {
        self.link.settlements.check()?;
        while self.ready.is_empty() {
            if let Err(error) = self.fill(room.get()).await {
                self.reader = None;
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
        if self.reading.is_some() {
            // The read ends at once; where that is not permitted, with the next sweep.
            if let Some(Reader { id: Some(id), .. }) = &self.reader {
                if !failpoint("a drain waits for its read") {
                    self.link.unblock(*id);
                }
            }
            let _ = self.fill(1).await;
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

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
