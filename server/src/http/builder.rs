//! Settings of an HTTP server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::builder::{Config, shared_setters};
use crate::error::StartError;
use crate::framed::service::BoxError;
use crate::http::HttpProtocol;
use crate::http::body::RequestBody;
use crate::http::server::Server;
use crate::settings::Mode;

const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 0\r\n\r\n";

/// Settings of an HTTP server; from [`http::Server::builder`](crate::http::Server::builder).
///
/// Every limit and every deadline has a default, the same in both modes. A deadline that is set to
/// `None` does not hold; `0` is refused everywhere.
#[derive(Debug)]
#[must_use = "a builder does nothing until `serve`"]
pub struct ServerBuilder {
    pub(crate) config: Config,
}

impl ServerBuilder {
    pub(crate) fn new() -> Self {
        let mut config = Config::new();
        config.is_http = true;
        config.mode = Mode::EventDriven;
        config.overload_response = Some(Bytes::from_static(OVERLOAD));
        config.max_frame_size = 408 * 1024;
        config.deadlines.idle = Some(Duration::from_secs(75));
        config.deadlines.body = Some(Duration::from_secs(30));
        Self { config }
    }

    shared_setters! {
        mode: "Default [`Mode::EventDriven`](crate::Mode::EventDriven).",
        overload_response: "Default: a 503 with `Retry-After`."
    }

    /// For the head of a request, from its first byte to its last; then the answer is 408.
    /// Default 10 s.
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.frame = timeout.into();
        self
    }

    /// For how long a request's body, of which the service awaits more, may bring nothing; then the
    /// answer is 408, unless it has begun already. Default 30 s.
    pub fn body_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.body = timeout.into();
        self
    }

    /// For how long a connection may be idle between requests. A connection of HTTP/2 is idle while
    /// no byte moves and no stream is open. Default 75 s.
    #[doc(alias = "keep-alive")]
    #[doc(alias = "idle_timeout")]
    pub fn keep_alive_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.idle = timeout.into();
        self
    }

    /// The largest head of a request, in bytes; the answer to a larger one is 431. Default 408 KiB,
    /// as hyper's.
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.config.max_frame_size = bytes;
        self
    }

    /// Whether requests tell who the peer is: by its [`Address`](crate::Address) in their
    /// extensions and, with the feature `axum`, by `ConnectInfo<SocketAddr>`. It costs some
    /// allocations per request, and a system call each time that a connection is taken up. Default
    /// `true`.
    pub fn connect_info(mut self, enabled: bool) -> Self {
        self.config.connect_info = enabled;
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// Names a setting that is not allowed, or the listener that could not be bound.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn serve<S, B>(self, service: S) -> Result<Server, StartError>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let protocol = HttpProtocol::new(service, &self.config);
        let http_states = protocol.http_states.clone();
        Ok(Server::new(self.config.start(protocol)?, http_states))
    }
}
