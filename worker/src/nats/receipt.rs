//! Receipts: settlements that the server confirms.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::TryFutureExt;
use tokio::time::Instant;

use super::Message;
use super::settle::{Answer, Signal, again};
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::settlement::{Settlements, shut_down};

/// What all receipts of a source share.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) dead_letters: String,
    pub(crate) ack_wait: Duration,
    pub(crate) settlements: Settlements<Signal, Answer>,
}

/// The claim on a message of a JetStream consumer.
pub struct Claimed {
    link: Arc<Link>,
    reply: Subject,
    message: Message,
    deliveries: u32,
    connects: u64,
    settled: bool,
}

impl Claimed {
    /// `connects` tells which connection of the client brought the message.
    pub(crate) fn new(
        link: &Arc<Link>,
        reply: Subject,
        message: Message,
        deliveries: u32,
        connects: u64,
    ) -> Self {
        Self { link: link.clone(), reply, message, deliveries, connects, settled: false }
    }

    fn signal(&self, payload: impl Into<Bytes>) -> Signal {
        let (reply, payload) = (self.reply.clone(), payload.into());
        Signal { reply, payload, sequence: self.message.sequence, connects: self.connects }
    }

    async fn settle(&mut self, payload: impl Into<Bytes>) -> Result<(), ReceiptError> {
        self.settled = true;
        let until = Instant::now() + self.link.ack_wait;
        let answer = self.link.settlements.ask(self.signal(payload), until).await;
        answer.unwrap_or_else(|| Err(shut_down()))
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
        let Link { client, context, stream, consumer, dead_letters, .. } = &*self.link;
        let Message { subject, payload, sequence, .. } = &self.message;
        let mut headers = self.message.headers.clone();
        // The server drops a second copy of a letter whose confirmation was lost.
        headers.insert("Nats-Msg-Id", format!("{stream}.{consumer}.{sequence}"));
        headers.insert("Millpond-Subject", &**subject);
        headers.insert("Millpond-Sequence", sequence.to_string());
        headers.insert("Millpond-Reason", one_line(&why.reason));
        headers.insert("Millpond-Deliveries", why.deliveries.to_string());
        headers.insert("Millpond-Place", why.place());
        let publish = || {
            let (subject, headers) = (dead_letters.clone(), headers.clone());
            let publish = context.publish_with_headers(subject, headers, payload.clone());
            publish.and_then(IntoFuture::into_future)
        };
        again(client, Instant::now() + self.link.ack_wait, publish).await?;
        self.settle(format!("+TERM {}", one_line(&why.reason))).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (settlements, signal) = (self.link.settlements.clone(), self.signal("+WPI"));
        // Without another attempt: the worker makes one in its next round.
        Box::pin(async move {
            let answer = settlements.ask(signal, Instant::now()).await;
            answer.unwrap_or_else(|| Err(shut_down()))
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
        if !self.settled {
            let until = Instant::now() + self.link.ack_wait;
            self.link.settlements.tell(self.signal(nak(Duration::ZERO)), until);
        }
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
