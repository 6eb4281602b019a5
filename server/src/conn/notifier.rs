//! The handle that reaches one connection from outside of its turns, in either mode.

use std::sync::Arc;
#[cfg(feature = "http")]
use std::task::Waker;

use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::key::ConnKey;
use crate::conn::server_state::ServerState;

/// The operations of `ListenerConns` that a notifier needs, without the types of mode and protocol.
pub(crate) trait Notify: Send + Sync {
    /// Adds events to a connection's entry, and wakes what they make ready or interest.
    fn deliver(&self, key: ConnKey, events: Events);

    /// Requests the close of a connection, and wakes like `deliver`.
    fn request_close(&self, key: ConnKey, reason: CloseReason);

    fn server(&self) -> &ServerState;

    /// Returns a number that no other table of the process has.
    #[cfg(feature = "http")]
    fn id(&self) -> u64;

    /// Stores the waker of a detached connection: its events wake that waker from now on.
    #[cfg(feature = "http")]
    fn register(&self, key: ConnKey, waker: &Waker);

    /// Counts a request of a connection. Returns the count.
    #[cfg(feature = "http")]
    fn count_request(&self, key: ConnKey) -> u32;

    /// Returns the reason of the requested close, if there is such a request.
    #[cfg(feature = "http")]
    fn close_requested(&self, key: ConnKey) -> Option<CloseReason>;
}

/// Reaches one connection, at any time and from any thread. After the connection's end a notifier
/// has no effect, because its key is out of date (C2).
#[derive(Clone)]
pub(crate) struct ConnNotifier {
    to: Arc<dyn Notify>,
    key: ConnKey,
}

impl ConnNotifier {
    pub(crate) fn new(to: Arc<dyn Notify>, key: ConnKey) -> Self {
        Self { to, key }
    }

    /// Tells the connection that server code has something for it.
    pub(crate) fn push(&self) {
        self.to.deliver(self.key, Events::PUSHED);
    }

    /// Requests the close of the connection. The next turn performs it.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.to.request_close(self.key, reason);
    }

    /// Stores the waker of the connection, which must be detached.
    #[cfg(feature = "http")]
    pub(crate) fn register(&self, waker: &Waker) {
        self.to.register(self.key, waker);
    }

    /// Counts a request of the connection. Returns the count, over all of the connection's life.
    #[cfg(feature = "http")]
    pub(crate) fn count_request(&self) -> u32 {
        self.to.count_request(self.key)
    }

    /// Returns the reason of the requested close, if there is such a request.
    #[cfg(feature = "http")]
    pub(crate) fn close_requested(&self) -> Option<CloseReason> {
        self.to.close_requested(self.key)
    }

    pub(crate) fn server(&self) -> &ServerState {
        self.to.server()
    }

    /// Returns what no other connection of the process has, whichever server it belongs to.
    #[cfg(feature = "http")]
    pub(crate) fn id(&self) -> (u64, ConnKey) {
        (self.to.id(), self.key)
    }
}
