//! Receipts: settlements that the server confirms.

use std::fmt;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::TryFutureExt;
use tokio::time::Instant;

use super::settle::{Answer, Signal, again};
use super::{Message, letter};
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
    /// When the message was published.
    published: SystemTime,
    deliveries: u32,
    connects: u64,
    /// When the message came here, or when the extension that was confirmed last was asked for.
    pub(crate) begun_at: Arc<Mutex<Instant>>,
    settled: bool,
}

impl Claimed {
    /// `connects` tells which connection of the client brought the message.
    pub(crate) fn new(
        link: &Arc<Link>,
        reply: Subject,
        message: Message,
        (published, deliveries): (SystemTime, u32),
        connects: u64,
    ) -> Self {
        let (link, begun_at) = (link.clone(), Arc::new(Mutex::new(Instant::now())));
        Self { link, reply, message, published, deliveries, connects, begun_at, settled: false }
    }

    fn signal(&self, payload: impl Into<Bytes>) -> Signal {
        let (reply, payload) = (self.reply.clone(), payload.into());
        Signal { reply, payload, sequence: self.message.sequence, connects: self.connects }
    }

    /// Ends the message: it is done, or among the dead letters.
    async fn end(&mut self, payload: impl Into<Bytes>) -> Result<(), ReceiptError> {
        let until = Instant::now() + self.link.ack_wait;
        self.settle(payload, until).await
    }

    async fn settle(
        &mut self,
        payload: impl Into<Bytes>,
        until: Instant,
    ) -> Result<(), ReceiptError> {
        self.settled = true;
        let answer = self.link.settlements.ask(self.signal(payload), until).await;
        answer.unwrap_or_else(|| Err(shut_down()))
    }

    /// Until when a give-back may be sent: some time before the server gives the message to another.
    fn give_back_until(&self) -> Instant {
        let begun_at = *self.begun_at.lock().unwrap_or_else(PoisonError::into_inner);
        begun_at + self.link.ack_wait * 5 / 6
    }

    /// The name of the dead letter: the server drops a second copy of a letter whose confirmation was lost.
    /// A stream that was made anew has the same numbers, and other times.
    fn letter_id(&self) -> String {
        let Link { stream, consumer, .. } = &*self.link;
        let published = self.published.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{stream}.{consumer}.{}.{published}", self.message.sequence)
    }
}

impl Receipt for Claimed {
    async fn ack(mut self) -> Result<(), ReceiptError> {
        self.end("+ACK").await
    }

    async fn nack(mut self, after: Duration) -> Result<(), ReceiptError> {
        let until = self.give_back_until();
        self.settle(nak(after), until).await
    }

    async fn dead(mut self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.settled = true;
        let Link { client, context, dead_letters, .. } = &*self.link;
        let Message { subject, payload, sequence, .. } = &self.message;
        let reason = letter::reason(&why.reason);
        // The first are the last to be left out.
        let own = [
            ("Nats-Msg-Id", self.letter_id()),
            ("Millpond-Sequence", sequence.to_string()),
            ("Millpond-Deliveries", why.deliveries.to_string()),
            ("Millpond-Subject", subject.clone()),
            ("Millpond-Place", why.place()),
            ("Millpond-Reason", reason.clone()),
        ];
        let room = client.max_payload().saturating_sub(payload.len());
        let headers = letter::headers(&own, &self.message.headers, room);
        let publish = || {
            let (subject, headers) = (dead_letters.clone(), headers.clone());
            let publish = context.publish_with_headers(subject, headers, payload.clone());
            publish.and_then(IntoFuture::into_future)
        };
        let sent = again(client, Instant::now() + self.link.ack_wait, publish).await;
        sent.map_err(not_taken)?;
        self.end(format!("+TERM {reason}")).await
    }

    fn abandon(mut self) {
        self.settled = true;
    }

    fn extend(&self) -> Extend {
        let (settlements, signal) = (self.link.settlements.clone(), self.signal("+WPI"));
        let begun_at = self.begun_at.clone();
        // Without another attempt: the worker makes one in its next round.
        Box::pin(async move {
            let asked_at = Instant::now();
            let answer = settlements.ask(signal, asked_at).await;
            answer.unwrap_or_else(|| Err(shut_down()))?;
            *begun_at.lock().unwrap_or_else(PoisonError::into_inner) = asked_at;
            Ok(())
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

/// Makes the error of a dead letter that no stream has confirmed.
fn not_taken(error: ReceiptError) -> ReceiptError {
    match error {
        ReceiptError::Unconfirmed(error) => {
            ReceiptError::Unconfirmed(format!("no stream took the dead letter: {error}").into())
        }
        ReceiptError::Lost => ReceiptError::Lost,
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.settled {
            let (signal, until) = (self.signal(nak(Duration::ZERO)), self.give_back_until());
            self.link.settlements.tell(signal, until);
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
