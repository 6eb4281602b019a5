//! Settlements on their way from the receipts of a source to its task that sends them in bundles.
//!
//! While one bundle waits for its answer, settlements gather for the next. So bundles grow with the
//! load, and no settlement waits for a timer. The task ends when the source and all receipts are gone.

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::receipt::ReceiptError;

/// The most settlements of a bundle.
pub(crate) const BUNDLE: usize = 1024;

/// What to do with one message, with the way back for its answer.
pub(crate) struct Settlement<W> {
    pub(crate) what: W,
    /// After this time the answer is of no use.
    pub(crate) until: Instant,
    answer: Option<oneshot::Sender<Result<(), ReceiptError>>>,
}

impl<W> Settlement<W> {
    pub(crate) fn resolve(self, result: Result<(), ReceiptError>) {
        if let Some(answer) = self.answer {
            // The receiver may be gone.
            let _ = answer.send(result);
        }
    }
}

/// The receipts' side. The channel is bounded by the claims that there are.
pub(crate) struct Settlements<W>(mpsc::UnboundedSender<Settlement<W>>);

/// The task's side.
pub(crate) type Requests<W> = mpsc::UnboundedReceiver<Settlement<W>>;

impl<W> Settlements<W> {
    pub(crate) fn channel() -> (Self, Requests<W>) {
        let (sender, requests) = mpsc::unbounded_channel();
        (Self(sender), requests)
    }

    /// Sends without an answer.
    pub(crate) fn tell(&self, what: W, until: Instant) {
        self.send(Settlement { what, until, answer: None });
    }

    /// Sends and waits for the answer.
    pub(crate) async fn ask(&self, what: W, until: Instant) -> Result<(), ReceiptError> {
        let (sender, answer) = oneshot::channel();
        self.send(Settlement { what, until, answer: Some(sender) });
        let gone = |_| Err(ReceiptError::Unconfirmed("the runtime has shut down".into()));
        answer.await.unwrap_or_else(gone)
    }

    fn send(&self, settlement: Settlement<W>) {
        // The task lives as long as its senders; it is gone only with its runtime.
        let _ = self.0.send(settlement);
    }
}

impl<W> Clone for Settlements<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
