//! What a server counts: [`ServerStatus`] and [`ShutdownReport`].

use crate::close_reason::CloseReason;

/// What a server holds, and what it has done. From [`Server::status`](crate::Server::status).
///
/// The counts of connections belong to one moment, and at any moment
///
/// `accepted = refused_full + refused_per_ip + open + closed`.
///
/// `parked`, bytes, frames and turns are read listener by listener just afterwards, so `parked` may
/// differ from `open` by connections that came or went meanwhile. A turn is added when it ends.
/// The counts of what was done never fall.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use millpond_server::{CloseReason, Deadline, Server};
/// use tokio_util::codec::LinesCodec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
/// let server = Server::builder().listen("127.0.0.1:0").codec(LinesCodec::new()).serve(echo)?;
/// let status = server.status();
/// println!("{} of {} connections are at rest", status.parked, status.open);
/// let late = status.closed_for(CloseReason::Deadline(Deadline::Frame));
/// println!("{late} connections were too slow with a frame");
/// for (reason, count) in status.reasons() {
///     println!("{count}: {reason}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ServerStatus {
    /// The connections that came, refused ones included.
    pub accepted: u64,
    /// The connections that are open.
    pub open: usize,
    /// The open connections at rest: parked, or in the dedicated mode with a task that waits.
    pub parked: usize,
    /// The connections that were refused because
    /// [`max_connections`](crate::ServerBuilder::max_connections) were open.
    pub refused_full: u64,
    /// The connections that were refused because their address had
    /// [`max_connections_per_ip`](crate::ServerBuilder::max_connections_per_ip).
    pub refused_per_ip: u64,
    /// The errors of `accept`. The process may have too few descriptors, for example.
    pub accept_errors: u64,
    /// The connections that have ended, refused ones left out.
    pub closed: u64,
    /// The bytes read; with TLS, the decrypted ones.
    pub bytes_in: u64,
    /// The bytes written; with TLS, before their encryption.
    pub bytes_out: u64,
    /// The bytes that wait for peers to take them. The output of a running turn is left out.
    pub send_buffered: usize,
    /// The frames read; over HTTP, the requests.
    pub frames: u64,
    /// The turns of serving a connection.
    pub turns: u64,
    /// The connections with the state of an HTTP connection: those with a request under way.
    #[cfg(feature = "http")]
    pub http_states: usize,
    pub(crate) reasons: Vec<(CloseReason, u64)>,
}

impl ServerStatus {
    /// Returns how many connections have ended for `reason`.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        let found = self.reasons.iter().find(|(other, _)| *other == reason);
        found.map_or(0, |(_, count)| *count)
    }

    /// Returns the reasons for which connections have ended, each with its count, in no particular
    /// order. The counts add up to `closed`.
    pub fn reasons(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        self.reasons.iter().copied()
    }
}

/// What became of the connections in a [shutdown](crate::Server::shutdown).
///
/// Each connection that was open when the shutdown began is in exactly one of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "`still_open` and `aborted` tell whether the connections could finish"]
pub struct ShutdownReport {
    /// The connections that the server closed gracefully: idle ones, and those whose work finished.
    pub closed: u64,
    /// The connections that ended for other reasons meanwhile: their peers left, for example.
    pub others: u64,
    /// The connections that the deadline cut off.
    pub aborted: u64,
    /// The connections that are still open, because their user code does not return to the runtime.
    pub still_open: usize,
}
