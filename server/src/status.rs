//! What a server counts.

use crate::close_reason::CloseReason;

/// What a server holds, and what it has done, at one moment or nearly so.
///
/// `accepted = refused_full + refused_per_ip + open + closed`, at any moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Connections that came, refused ones included.
    pub accepted: u64,
    /// Connections that are open.
    pub open: usize,
    /// Of these, how many nobody works for: parked, or in the dedicated mode with a task that
    /// waits.
    pub parked: usize,
    /// Refused, since [`max_connections`](crate::ServerBuilder::max_connections) were open.
    pub refused_full: u64,
    /// Refused, since their peer had its [quota](crate::ServerBuilder::max_connections_per_ip).
    pub refused_per_ip: u64,
    /// Errors of `accept`, such as for want of descriptors.
    pub accept_errors: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes read, without the overhead of TLS.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Bytes that wait for peers to take them, outside of turns.
    pub send_buffered: usize,
    /// Frames read.
    pub frames: u64,
    /// Turns of serving a connection.
    pub turns: u64,
    /// Connections with the state of an HTTP connection: those under way.
    #[cfg(feature = "http")]
    pub http_states: usize,
    pub(crate) reasons: Vec<(CloseReason, u64)>,
}

impl ServerStatus {
    /// How many connections have ended for a reason, such as
    /// [`CloseReason::Deadline`].
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        let found = self.reasons.iter().find(|(other, _)| *other == reason);
        found.map_or(0, |(_, count)| *count)
    }

    /// Why connections have ended, and how many for each reason.
    pub fn reasons(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        self.reasons.iter().copied()
    }
}

/// How a [shutdown](crate::Server::shutdown) went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "`still_open` and `aborted` tell whether the connections could finish"]
pub struct ShutdownReport {
    /// Closed when nothing was under way on them, or not any more.
    pub closed: u64,
    /// Closed for other reasons meanwhile: by their peers, say.
    pub others: u64,
    /// Cut off by the deadline.
    pub aborted: u64,
    /// Still open: their user code does not return to the runtime.
    pub still_open: usize,
}
