//! The way from elsewhere to a connection, whoever holds it.

use std::sync::Arc;
#[cfg(feature = "http")]
use std::task::Waker;

use super::hub::Hub;
use super::lot::Key;
use super::reason::CloseReason;
use super::signal::Signal;

/// What takes signals for connections.
pub(super) trait Signals: Send + Sync {
    fn signal(&self, key: Key, signals: Signal);
    fn doom(&self, key: Key, reason: CloseReason);
    fn hub(&self) -> &Hub;

    /// Has signals to an active connection wake somebody else than its burst.
    #[cfg(feature = "http")]
    fn listen(&self, key: Key, waker: &Waker);

    #[cfg(feature = "http")]
    fn doom_of(&self, key: Key) -> Option<CloseReason>;
}

/// Reaches one connection; after its end it reaches nothing.
#[derive(Clone)]
pub(crate) struct Nudge {
    to: Arc<dyn Signals>,
    key: Key,
}

impl Nudge {
    pub(super) fn new(to: Arc<dyn Signals>, key: Key) -> Self {
        Self { to, key }
    }

    /// There is something to send.
    pub(super) fn push(&self) {
        self.to.signal(self.key, Signal::PUSHED);
    }

    pub(super) fn close(&self, reason: CloseReason) {
        self.to.doom(self.key, reason);
    }

    #[cfg(feature = "http")]
    pub(super) fn listen(&self, waker: &Waker) {
        self.to.listen(self.key, waker);
    }

    /// What it is to be closed for once nothing is under way on it.
    #[cfg(feature = "http")]
    pub(super) fn doom_of(&self) -> Option<CloseReason> {
        self.to.doom_of(self.key)
    }

    pub(super) fn hub(&self) -> &Hub {
        self.to.hub()
    }
}
