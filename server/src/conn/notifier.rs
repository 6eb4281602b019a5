//! The way from elsewhere to a connection, whoever holds it.

use std::sync::Arc;
#[cfg(feature = "http")]
use std::task::Waker;

use crate::close_reason::CloseReason;
use crate::conn::events::Signal;
use crate::conn::server_state::Hub;
use crate::conn::table::Key;

/// What takes signals for connections.
pub(crate) trait Signals: Send + Sync {
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
    pub(crate) fn new(to: Arc<dyn Signals>, key: Key) -> Self {
        Self { to, key }
    }

    /// There is something to send.
    pub(crate) fn push(&self) {
        self.to.signal(self.key, Signal::PUSHED);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.to.doom(self.key, reason);
    }

    #[cfg(feature = "http")]
    pub(crate) fn listen(&self, waker: &Waker) {
        self.to.listen(self.key, waker);
    }

    /// What it is to be closed for once nothing is under way on it.
    #[cfg(feature = "http")]
    pub(crate) fn doom_of(&self) -> Option<CloseReason> {
        self.to.doom_of(self.key)
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.to.hub()
    }
}
