//! Receipts: settlements that the server confirms.
//!
//! Each is a request to the reply subject of its message. The client has one subscription for all
//! replies and writes requests that are ready together as one. A request without an answer is sent
//! again: a settlement that was carried out twice does no harm. A server that was killed may have
//! forgotten that it had delivered a message. Then it never answers, and the message comes again.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::{Client, HeaderMap, Request, Subject};
use bytes::Bytes;
use futures_util::TryFutureExt;
use tokio::time::{Instant, sleep};

use super::Message;
use crate::failure::BoxError;
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(400);
/// How long a request is sent again to a server that is there.
const PATIENCE: Duration = Duration::from_millis(1200);
/// JetStream of a server that has just started does not answer yet.
const PAUSE: Duration = Duration::from_millis(100);

/// What all receipts of a source share.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) dead_letters: String,
    pub(crate) ack_wait: Duration,
}

impl Link {
    /// Sends until the server confirms.
    async fn confirm(&self, subject: &Subject, payload: Bytes) -> Result<(), ReceiptError> {
        self.again(|| {
            let request = Request::new().payload(payload.clone()).timeout(Some(ANSWER));
            self.client.send_request(subject.clone(), request)
        })
        .await
    }

    /// Publishes a dead letter until its stream confirms.
    async fn bury(&self, headers: HeaderMap, payload: Bytes) -> Result<(), ReceiptError> {
        self.again(|| {
            let (subject, headers) = (self.dead_letters.clone(), headers.clone());
            let publish = self.context.publish_with_headers(subject, headers, payload.clone());
            publish.and_then(IntoFuture::into_future)
        })
        .await
    }

    /// Calls until the result is `Ok`, at most for the ack wait, and at most for [`PATIENCE`] while the
    /// server is there.
    async fn again<T, E, F>(&self, call: impl Fn() -> F) -> Result<(), ReceiptError>
    where
        E: Into<BoxError>,
        F: Future<Output = Result<T, E>>,
    {
        let until = Instant::now() + self.ack_wait;
        let mut connected_since = None;
        loop {
            let Err(error) = call().await else { return Ok(()) };
            let now = Instant::now();
            connected_since = match self.client.connection_state() {
                State::Connected => connected_since.or(Some(now - ANSWER)),
                _ => None,
            };
            if now >= until || connected_since.is_some_and(|since| now >= since + PATIENCE) {
                return Err(ReceiptError::Unconfirmed(error.into()));
            }
            sleep(PAUSE).await;
        }
    }
}

/// The claim on a message of a JetStream consumer.
pub struct Claimed {
    link: Arc<Link>,
    reply: Subject,
    message: Message,
    deliveries: u32,
    settled: bool,
}

impl Claimed {
    pub(crate) fn new(link: &Arc<Link>, reply: Subject, message: Message, deliveries: u32) -> Self {
        Self { link: link.clone(), reply, message, deliveries, settled: false }
    }

    async fn settle(&mut self, payload: impl Into<Bytes>) -> Result<(), ReceiptError> {
        self.settled = true;
        self.link.confirm(&self.reply, payload.into()).await
    }
}

impl Receipt for Claimed {
    async fn ack(mut self) -> Result<(), ReceiptError> {
        self.settle("+ACK").await
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settle(nak(after)).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        let Link { stream, consumer, .. } = &*self.link;
        let Message { subject, payload, sequence, .. } = &self.message;
        let mut headers = self.message.headers.clone();
        // The server drops a second copy of a letter whose confirmation was lost.
        headers.insert("Nats-Msg-Id", format!("{stream}.{consumer}.{sequence}"));
        headers.insert("Millpond-Subject", &**subject);
        headers.insert("Millpond-Sequence", sequence.to_string());
        headers.insert("Millpond-Reason", one_line(&why.reason));
        headers.insert("Millpond-Deliveries", why.deliveries.to_string());
        headers.insert("Millpond-Place", why.place());
        self.link.bury(headers, payload.clone()).await?;
        self.settle(format!("+TERM {}", one_line(&why.reason))).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (client, reply) = (self.link.client.clone(), self.reply.clone());
        Box::pin(async move {
            let request = Request::new().payload(Bytes::from_static(b"+WPI"));
            match client.send_request(reply, request).await {
                Ok(_) => Ok(()),
                Err(error) => Err(ReceiptError::Unconfirmed(error.into())),
            }
        })
    }

    fn deliveries(&self) -> u32 {
        self.deliveries
    }

    fn id(&self) -> String {
        self.message.sequence.to_string()
    }

    fn trace_context(&self) -> Option<&str> {
        self.message.headers.get("traceparent").map(|value| value.as_str())
    }
}

fn nak(after: Duration) -> String {
    match after.as_nanos() {
        0 => "-NAK".to_owned(),
        nanos => format!("-NAK {{\"delay\": {nanos}}}"),
    }
}

/// Headers and reasons are single lines.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the ack wait gives the message back.
        let (false, Ok(runtime)) = (self.settled, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (client, reply) = (self.link.client.clone(), self.reply.clone());
        runtime.spawn(async move { client.publish(reply, nak(Duration::ZERO).into()).await });
    }
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("sequence", &self.message.sequence)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}
