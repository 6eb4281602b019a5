//! Settlements on their way from the receipts of a source to its task that sends them in bundles.
//!
//! While one bundle waits for its answer, settlements gather for the next. So bundles grow with the
//! load, and no settlement waits for a timer. The task ends when the source and all receipts are gone.

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::receipt::ReceiptError;
use crate::source::SourceError;

/// The most settlements of a bundle.
pub(crate) const BUNDLE: usize = 1024;

/// What to do with a message, or with several, and the way back for the answer `A`.
pub(crate) struct Settlement<W, A> {
    pub(crate) what: W,
    /// After this time the answer is of no use.
    pub(crate) until: Instant,
    answer: Option<oneshot::Sender<A>>,
}

impl<W, A> Settlement<W, A> {
    pub(crate) fn resolve(self, answer: A) {
        if let Some(sender) = self.answer {
            // The receiver may be gone.
            let _ = sender.send(answer);
        }
    }
}

/// The receipts' side. The channel is bounded by the claims that there are.
pub(crate) struct Settlements<W, A>(mpsc::UnboundedSender<Settlement<W, A>>);

/// The task's side.
pub(crate) type Requests<W, A> = mpsc::UnboundedReceiver<Settlement<W, A>>;

impl<W, A> Settlements<W, A> {
    pub(crate) fn channel() -> (Self, Requests<W, A>) {
        let (sender, requests) = mpsc::unbounded_channel();
        (Self(sender), requests)
    }

    /// Sends without an answer.
    pub(crate) fn tell(&self, what: W, until: Instant) {
        self.send(Settlement { what, until, answer: None });
    }

    /// Sends and waits for the answer. Returns `None` if the runtime has shut down.
    pub(crate) async fn ask(&self, what: W, until: Instant) -> Option<A> {
        let (sender, answer) = oneshot::channel();
        self.send(Settlement { what, until, answer: Some(sender) });
        answer.await.ok()
    }

    /// Fails if there is no task that settles, so that what is fetched could never be acknowledged.
    pub(crate) fn check(&self) -> Result<(), SourceError> {
        match self.0.is_closed() {
            true => Err(SourceError::Closed("the runtime that connected it has shut down".into())),
            false => Ok(()),
        }
    }

    fn send(&self, settlement: Settlement<W, A>) {
        // The task lives as long as its senders; it is gone only with its runtime.
        let _ = self.0.send(settlement);
    }
}

impl<W, A> Clone for Settlements<W, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The error of a settlement without a task that sends it.
pub(crate) fn shut_down() -> ReceiptError {
    ReceiptError::Unconfirmed("the runtime has shut down".into())
}
