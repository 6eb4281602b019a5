//! The handle of a running HTTP server: a [`crate::Server`] with HTTP's words.

use std::net::SocketAddr;
#[cfg(feature = "rustls")]
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Gauge, ServerBuilder};
use crate::status::{ServerStatus, ShutdownReport};

/// A running HTTP server; from [`Server::builder`].
///
/// Dropping the handle stops the server at once: the server accepts no more and closes all connections.
/// [`shutdown`](Self::shutdown) and [`wait`](Self::wait) let requests finish first.
#[doc(alias = "axum::serve")]
#[derive(Debug)]
pub struct Server {
    running: crate::Server,
    http_states: Gauge,
}

impl Server {
    /// Returns the settings of a new server, all at their defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    pub(super) fn new(running: crate::Server, http_states: Gauge) -> Self {
        Self { running, http_states }
    }

    /// Returns the TCP addresses of the listeners, in the order of the calls of `listen`, with the ports
    /// that the system chose. Unix sockets are left out.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.running.local_addrs()
    }

    /// Returns what the server holds and has done.
    ///
    /// `frames` counts requests. Those of HTTP/2, and their bytes, are added when no request is under way
    /// on their connection; the bytes of an upgraded connection when it ends. `http_states` counts connections with hyper's state, without
    /// upgraded ones. Connections that user code has upgraded, or that speak HTTP/2, count as open and
    /// never as parked. The messages of WebSockets of the feature `ws` count as `frames` too.
    pub fn status(&self) -> ServerStatus {
        let mut status = self.running.status();
        status.http_states = self.http_states.get();
        status
    }

    /// Replaces the TLS configuration for connections that are accepted from now on: a renewed certificate,
    /// for example. Open connections keep theirs.
    ///
    /// With the feature `serde`, `ServerEntry::tls` reads the files of a configuration again.
    ///
    /// # Errors
    ///
    /// The server was built without [`tls`](ServerBuilder::tls).
    #[cfg(feature = "rustls")]
    #[doc(alias = "certificate")]
    pub fn reload_tls(
        &self,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> Result<(), millpond::ConfigError> {
        self.running.reload_tls(config)
    }

    /// Serves until the [token](ServerBuilder::shutdown_token) is cancelled, then shuts down with the
    /// [drain timeout](ServerBuilder::drain_timeout). Returns as [`shutdown`](Self::shutdown) does. The
    /// shutdown also begins if the system no longer tells of the connections' events.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the token is cancelled changes nothing. If it is dropped later,
    /// connections close as they finish, and none is cut off.
    #[doc(alias = "serve")]
    #[doc(alias = "run")]
    pub async fn wait(&self) -> ShutdownReport {
        self.running.wait().await
    }

    /// Shuts down gracefully, within `deadline`. Returns what became of the connections.
    ///
    /// The server accepts no more. Idle connections close after the
    /// [`shutdown_grace`](ServerBuilder::shutdown_grace), in which requests that are on their way are
    /// answered. Other connections close when their requests are answered; that includes requests of which
    /// only a part has come. HTTP/2 peers are told
    /// to go away (GOAWAY), and their open streams finish. WebSockets of the feature `ws` are closed with
    /// the code 1001. Other upgraded connections belong to their users' code, and the server waits for
    /// it. After `deadline` the server closes what is left.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, connections still close as they finish, and none is cut off.
    #[doc(alias = "graceful")]
    #[doc(alias = "drain")]
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.running.shutdown(deadline).await
    }
}
