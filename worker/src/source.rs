//! [`Source`]: where messages come from.

use std::future::Future;
use std::num::NonZeroUsize;
use std::time::Duration;
use std::{error, fmt};

use crate::failure::BoxError;
use crate::receipt::Receipt;

/// Messages with their receipts, oldest first.
pub type Batch<S> = Vec<(<S as Source>::Message, <S as Source>::Receipt)>;

/// Where a [`Worker`](crate::Worker) gets its messages: a consumer of a broker.
///
/// A source claims messages. The broker gives a claimed message to nothing else until the claim is
/// settled by its [`Receipt`], or until the ack wait is over. The page
/// [`guide::sources`](crate::guide::sources) shows how to write a source;
/// [`testing::conformance`](crate::testing::conformance) tells whether it is right.
pub trait Source: Send + 'static {
    /// A message.
    type Message: Send + 'static;
    /// The claim on a message.
    type Receipt: Receipt;

    /// Waits in the broker until there is a message; returns at least one and at most `room`.
    ///
    /// # Errors
    ///
    /// [`SourceError::Disconnected`] makes the worker call again, after a pause that grows to half a
    /// second. [`SourceError::Closed`] ends the worker.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped loses no message. What the broker hands out for it comes with the
    /// next call, or is given back by [`close`](Self::close).
    fn next(
        &mut self,
        room: NonZeroUsize,
    ) -> impl Future<Output = Result<Batch<Self>, SourceError>> + Send
    where
        Self: Sized;

    /// Returns after which time the broker takes a claim away that was neither settled nor extended.
    /// `None` if claims last as long as their connection.
    fn ack_wait(&self) -> Option<Duration>;

    /// Gives back what was handed out and not returned by `next`, without waiting for the ack wait.
    /// The worker calls it once, when it fetches no more. Receipts stay usable.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns `messaging.system` of OpenTelemetry, for spans.
    fn system(&self) -> &'static str;

    /// Returns `messaging.destination.name` of OpenTelemetry, for spans.
    fn destination(&self) -> &str;
}

/// Why a source has no messages.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// The broker cannot be reached, or does not answer. The worker asks again.
    Disconnected(BoxError),
    /// The stream or the consumer is gone, or the permission is missing. Asking again is in vain.
    Closed(BoxError),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(error) => write!(f, "the broker does not answer: {error}"),
            Self::Closed(error) => write!(f, "the source is closed: {error}"),
        }
    }
}

impl error::Error for SourceError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Disconnected(error) | Self::Closed(error) => Some(&**error),
        }
    }
}
