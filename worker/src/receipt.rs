//! [`Receipt`]: the claim on one message, which is settled once.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location};
use std::pin::Pin;
use std::time::Duration;
use std::{error, fmt};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use crate::failpoint::failpoint;
use crate::failure::BoxError;

/// The future of [`Receipt::extend`]. It borrows nothing, so one task extends many claims.
pub type Extend = Pin<Box<dyn Future<Output = Result<(), ReceiptError>> + Send>>;

/// The claim on one message. It is consumed by the settlement, so no message is settled twice.
///
/// **Dropped without a settlement, a receipt gives its message back**, like `nack` without a delay.
/// [`abandon`](Self::abandon) is the exception, for claims that are lost.
pub trait Receipt: Send + 'static {
    /// Acknowledges the message. Resolves when the broker has confirmed it.
    ///
    /// # Errors
    ///
    /// [`ReceiptError::Lost`] if the broker knows that the claim is another's;
    /// [`ReceiptError::Unconfirmed`] if no confirmation came.
    fn ack(self) -> impl Future<Output = Result<(), ReceiptError>> + Send;

    /// Acknowledges several messages of one source. Calls `answered` for each of them, once, with its
    /// place in `receipts` and with what `ack` would return. Resolves after the last answer.
    ///
    /// The worker acknowledges messages that succeed at about the same time by one call. By default that
    /// is one `ack` for each, all at once. A broker that acknowledges many messages by one command has a
    /// method of its own here.
    fn ack_all(
        receipts: Vec<Self>,
        mut answered: impl FnMut(usize, Result<(), ReceiptError>) + Send,
    ) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async move {
            let acks = receipts.into_iter().enumerate();
            let mut acks: FuturesUnordered<_> = acks
                .map(|(index, receipt)| async move {
                    (index, or_panicked(async { receipt.ack().await }).await)
                })
                .collect();
            while let Some((index, answer)) = acks.next().await {
                answered(index, answer);
            }
        }
    }

    /// Gives the message back, to be delivered again after a time.
    ///
    /// # Errors
    ///
    /// Returns the errors of `ack`.
    fn nack(self, after: Duration) -> impl Future<Output = Result<(), ReceiptError>> + Send;

    /// Moves the message to the dead letters. The message is there before its claim ends.
    ///
    /// # Errors
    ///
    /// Returns the errors of `ack`.
    fn dead(self, why: &DeadReason) -> impl Future<Output = Result<(), ReceiptError>> + Send;

    /// Drops a lost claim without a word to the broker.
    fn abandon(self);

    /// Asks for another ack wait from now on.
    ///
    /// The future fails with [`ReceiptError::Lost`] if the broker gave the message to another. A
    /// broker that cannot tell confirms every extension; then the worker's clock decides.
    fn extend(&self) -> Extend;

    /// Returns how often the broker has delivered the message, from 1.
    fn deliveries(&self) -> u32;

    /// Returns the broker's name of the message: `messaging.message.id` of OpenTelemetry.
    fn id(&self) -> String;

    /// Returns the header `traceparent` of the message.
    fn trace_context(&self) -> Option<&str> {
        None
    }
}

/// The error of a receipt that panicked.
pub(crate) fn panicked() -> ReceiptError {
    ReceiptError::Unconfirmed("the receipt panicked".into())
}

/// Makes an error of the panic of a settlement or an extension.
pub(crate) async fn or_panicked(
    settlement: impl Future<Output = Result<(), ReceiptError>>,
) -> Result<(), ReceiptError> {
    if failpoint("a panic of a receipt goes on") {
        return settlement.await;
    }
    let caught = AssertUnwindSafe(settlement).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(panicked()))
}

/// Why a message goes to the dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadReason {
    /// The text of the last failure.
    pub reason: String,
    /// How often the message was tried.
    pub deliveries: u32,
    /// The line of the code where the last failure arose. Panics have none.
    pub place: Option<&'static Location<'static>>,
}

impl DeadReason {
    /// Makes a reason, for tests of receipts.
    pub fn new(reason: impl Into<String>, deliveries: u32) -> Self {
        Self { reason: reason.into(), deliveries, place: None }
    }

    /// Returns the place as text: empty if there is none.
    pub fn place(&self) -> String {
        self.place.map(Location::to_string).unwrap_or_default()
    }
}

/// Why a settlement or an extension has not happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The claim was lost: the broker gave the message to another.
    Lost,
    /// No confirmation came, so the settlement may have happened or not.
    Unconfirmed(BoxError),
}

impl fmt::Display for ReceiptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the claim was lost: the broker gave the message to another"),
            Self::Unconfirmed(error) => write!(f, "the broker did not confirm: {error}"),
        }
    }
}

impl error::Error for ReceiptError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Unconfirmed(error) => Some(&**error),
            Self::Lost => None,
        }
    }
}
