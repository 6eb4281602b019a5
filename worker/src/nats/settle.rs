//! The task that sends settlements in bundles, of which the server confirms the last.
//!
//! All settlements of a consumer go to one queue of the server. The server takes them out of it in the
//! order in which a connection brought them, and answers a request when it has carried it out. So one
//! answer confirms all that the same connection sent before. A bundle is publishes, and then a request.
//!
//! # Invariants
//!
//! - **N1, one connection.** A bundle counts as confirmed only if the client has had one connection
//!   from before its first publish until the answer. Otherwise publishes may be lost with a connection,
//!   and the request come with another. The client counts its connections.
//! - **N2, the newest is asked.** The server ignores, without an answer, a settlement of a message
//!   that it does not know to have delivered: a server does that which has lost its last moments in a
//!   crash. What it knows ends with a number. So the request is for the highest number of the bundle. The
//!   server answers give-backs and extensions in any case: the request is one of these only if the bundle
//!   has nothing else.
//! - **N3, old claims alone.** A claim from an earlier connection is confirmed by a request of its own,
//!   since the server may have forgotten it.
//! - **N4, a give-back is sent once, and soon.** The server carries a give-back out although another worker
//!   has the message by then: that one would lose its claim. So a give-back without an answer is not sent
//!   again, and none of a claim that has lasted for five sixths of the ack wait, from its begin or from the
//!   extension that was confirmed last. While the client reconnects none is sent, as the client would keep it
//!   until it has a connection. The message comes again after the ack wait. Tests:
//!   `a_give_back_is_sent_once`, `a_give_back_of_an_old_claim_is_not_sent`,
//!   `a_give_back_does_not_wait_for_a_connection`.
//!
//! What else a bundle does not confirm is sent again, each settlement by a request of its own: an ack, a
//! dead letter's end or an extension that was carried out twice does no harm.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Request, Subject};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::failpoint::failpoint;
use crate::failure::BoxError;
use crate::receipt::ReceiptError;
use crate::settlement::{BUNDLE, Requests, Settlement, Settlements};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(400);
/// How long a request is sent again to a server that is there.
const PATIENCE: Duration = Duration::from_millis(900);
/// JetStream of a server that has just started does not answer yet.
const PAUSE: Duration = Duration::from_millis(100);

/// A settlement of a message.
pub(crate) struct Signal {
    /// Where the server takes settlements of the message.
    pub(crate) reply: Subject,
    pub(crate) payload: Bytes,
    /// The number of the message in its stream.
    pub(crate) sequence: u64,
    /// Which connection of the client brought the message.
    pub(crate) connects: u64,
}

impl Signal {
    fn is_give_back(&self) -> bool {
        self.payload.starts_with(b"-NAK")
    }

    /// Whether the message ends: it is done, or among the dead letters.
    fn is_end(&self) -> bool {
        self.payload.starts_with(b"+ACK") || self.payload.starts_with(b"+TERM")
    }
}

pub(crate) type Answer = Result<(), ReceiptError>;

/// Returns how often the client was connected.
pub(crate) fn connects(client: &Client) -> u64 {
    // Relaxed suffices: the client's own number, which says nothing about other memory.
    client.statistics().connects.load(Ordering::Relaxed)
}

/// The task that settles.
pub(crate) struct Settler {
    client: Client,
    requests: Requests<Signal, Answer>,
}

impl Settler {
    pub(crate) fn spawn(client: Client) -> Settlements<Signal, Answer> {
        let (settlements, requests) = Settlements::channel();
        tokio::spawn(Self { client, requests }.run());
        settlements
    }

    async fn run(mut self) {
        let mut bundle = Vec::new();
        while self.requests.recv_many(&mut bundle, BUNDLE).await > 0 {
            let connects = connects(&self.client);
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            for settlement in bundle.drain(..) {
                match settlement.what.connects == connects {
                    _ if is_late(&self.client, &settlement, connects) => {
                        settlement.resolve(not_again())
                    }
                    true => together.push(settlement),
                    false if failpoint("old claims go along") => together.push(settlement),
                    false => alone.push(settlement),
                }
            }
            alone.into_iter().for_each(|settlement| self.confirm(settlement, connects));
            let confirmed = self.send(&together, connects).await
                && (self::connects(&self.client) == connects
                    || failpoint("a bundle outlives its connection"));
            for settlement in together {
                let again =
                    !settlement.what.is_give_back() || failpoint("a give-back is sent again");
                match confirmed {
                    true => settlement.resolve(Ok(())),
                    false if again => self.confirm(settlement, connects),
                    false => settlement.resolve(not_again()),
                }
            }
        }
    }

    /// Sends a bundle. Returns whether its last settlement, that of the newest message, was confirmed.
    async fn send(&self, bundle: &[Settlement<Signal, Answer>], connects: u64) -> bool {
        let newest = bundle.iter().enumerate().max_by_key(|(_, Settlement { what, .. })| {
            let oldest = failpoint("the oldest is asked");
            (what.is_end(), if oldest { u64::MAX - what.sequence } else { what.sequence })
        });
        let Some((newest, last)) = newest else { return true };
        for (index, settlement) in bundle.iter().enumerate() {
            if index == newest {
                continue;
            }
            // A publish waits for room in the client, and that for a connection.
            if is_late(&self.client, settlement, connects) {
                return false;
            }
            let what = &settlement.what;
            let published = self.client.publish(what.reply.clone(), what.payload.clone());
            if published.await.is_err() {
                return false;
            }
        }
        !is_late(&self.client, last, connects) && request(&self.client, &last.what).await.is_ok()
    }

    /// Sends a settlement in a request of its own until the server confirms: a give-back once (N4).
    fn confirm(&self, settlement: Settlement<Signal, Answer>, connects: u64) {
        let client = self.client.clone();
        tokio::spawn(async move {
            if is_late(&client, &settlement, connects) {
                return settlement.resolve(not_again());
            }
            let what = &settlement.what;
            let until = if what.is_give_back() { Instant::now() } else { settlement.until };
            let result = again(&client, until, || request(&client, what)).await;
            settlement.resolve(result);
        });
    }
}

/// Whether a settlement is a give-back that must not be sent any more (N4).
fn is_late(client: &Client, settlement: &Settlement<Signal, Answer>, connects: u64) -> bool {
    settlement.what.is_give_back()
        && !failpoint("a give-back waits for a connection")
        && (Instant::now() >= settlement.until
            || self::connects(client) != connects
            || client.connection_state() != State::Connected)
}

/// The answer for a give-back that the server did not confirm.
fn not_again() -> Answer {
    let error = "a give-back is sent once; the message comes again after the ack wait";
    Err(ReceiptError::Unconfirmed(error.into()))
}

async fn request(client: &Client, signal: &Signal) -> Result<(), async_nats::RequestError> {
    let request = Request::new().payload(signal.payload.clone()).timeout(Some(ANSWER));
    client.send_request(signal.reply.clone(), request).await.map(drop)
}

/// Calls once, and then again until the result is `Ok` or the time is over; at most for [`PATIENCE`]
/// while the server is there.
pub(crate) async fn again<T, E, F>(
    client: &Client,
    until: Instant,
    call: impl Fn() -> F,
) -> Result<(), ReceiptError>
where
    E: Into<BoxError>,
    F: Future<Output = Result<T, E>>,
{
    let mut connected_since = None;
    loop {
        let Err(error) = call().await else { return Ok(()) };
        let now = Instant::now();
        connected_since = match client.connection_state() {
            State::Connected => connected_since.or(Some(now - ANSWER)),
            _ => None,
        };
        if now >= until || connected_since.is_some_and(|since| now >= since + PATIENCE) {
            return Err(ReceiptError::Unconfirmed(error.into()));
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
