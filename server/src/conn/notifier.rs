//! Handles that wake a connection, in either mode.

use std::sync::Arc;
#[cfg(feature = "http")]
use std::task::Waker;

use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::server_state::ServerState;
use crate::conn::table::ConnKey;

/// Delivers events to connections.
pub(crate) trait Notify: Send + Sync {
    fn deliver(&self, key: ConnKey, events: Events);
    fn request_close(&self, key: ConnKey, reason: CloseReason);
    fn server(&self) -> &ServerState;

    /// Registers a waker, which events of a detached connection wake.
    #[cfg(feature = "http")]
    fn register(&self, key: ConnKey, waker: &Waker);

    #[cfg(feature = "http")]
    fn close_requested(&self, key: ConnKey) -> Option<CloseReason>;
}

/// Reaches one connection; after its end it reaches nothing.
#[derive(Clone)]
pub(crate) struct ConnNotifier {
    to: Arc<dyn Notify>,
    key: ConnKey,
}

impl ConnNotifier {
    pub(crate) fn new(to: Arc<dyn Notify>, key: ConnKey) -> Self {
        Self { to, key }
    }

    /// There is something to send.
    pub(crate) fn push(&self) {
        self.to.deliver(self.key, Events::PUSHED);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.to.request_close(self.key, reason);
    }

    #[cfg(feature = "http")]
    pub(crate) fn register(&self, waker: &Waker) {
        self.to.register(self.key, waker);
    }

    /// What it is to be closed for once nothing is under way on it.
    #[cfg(feature = "http")]
    pub(crate) fn close_requested(&self) -> Option<CloseReason> {
        self.to.close_requested(self.key)
    }

    pub(crate) fn server(&self) -> &ServerState {
        self.to.server()
    }
}
