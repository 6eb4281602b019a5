//! An HTTP server that runs.

use std::net::SocketAddr;
use std::time::Duration;

use crate::http::{Gauge, ServerBuilder};
use crate::status::{ServerStatus, ShutdownReport};

/// A running HTTP server; from [`Server::builder`].
///
/// Dropping it stops it at once: it accepts no more, and closes all connections.
/// [`shutdown`](Self::shutdown) and [`wait`](Self::wait) let them finish.
#[derive(Debug)]
pub struct Server {
    running: crate::Server,
    http_states: Gauge,
}

impl Server {
    /// Settings for a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    pub(crate) fn new(running: crate::Server, http_states: Gauge) -> Self {
        Self { running, http_states }
    }

    /// The TCP addresses it listens at, in the order of the calls of `listen`, with the ports that
    /// were chosen. Unix sockets are left out.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.running.local_addrs()
    }

    /// What it holds and has done. Its frames are requests of HTTP/1; connections that were
    /// upgraded, or speak HTTP/2, are open and never parked.
    pub fn status(&self) -> ServerStatus {
        let mut status = self.running.status();
        status.http_states = self.http_states.get();
        status
    }

    /// As [`crate::Server::wait`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before the token is cancelled, nothing has happened. Dropped later, connections
    /// close as they finish, and none is cut off.
    #[doc(alias = "serve")]
    #[doc(alias = "run")]
    pub async fn wait(&self) -> ShutdownReport {
        self.running.wait().await
    }

    /// Accepts no more; closes idle connections at once, and the others once what is under way on
    /// them has finished: requests, of which a part has come, too, and their responses. HTTP/2
    /// connections are told to go away; upgraded ones are their owners'. After `deadline` closes
    /// what is left.
    ///
    /// # Cancel safety
    ///
    /// Dropped, connections go on to close as they finish; none is cut off.
    #[doc(alias = "graceful")]
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.running.shutdown(deadline).await
    }
}
