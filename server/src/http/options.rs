//! What can be set for HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::builder::{Builder, Config};
use crate::error::StartError;
use crate::framed::service::BoxError;
use crate::http::HttpProtocol;
use crate::http::body::RequestBody;
use crate::http::server::Server;

const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 0\r\n\r\n";

/// In a codec's place, for [`Builder`]s of HTTP servers; from
/// [`http::Server::builder`](crate::http::Server::builder).
#[derive(Debug)]
pub struct Http(());

impl Builder<Http> {
    pub(crate) fn http() -> Self {
        let mut config = Config::new();
        config.on_overload = Some(Bytes::from_static(OVERLOAD));
        config.max_frame = 408 * 1024;
        config.deadlines.idle = Some(Duration::from_secs(75));
        config.deadlines.body = Some(Duration::from_secs(30));
        Self { codec: Http(()), config }
    }

    /// For the head of a request, from its first byte to its last; then the answer is 408. Another
    /// name of [`frame_timeout`](Self::frame_timeout). Default 10 s.
    pub fn header_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.frame_timeout(timeout)
    }

    /// For how long a request's body, of which somebody waits for more, may bring nothing; then the
    /// answer is 408, unless it has begun already. Default 30 s.
    pub fn body_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.body = timeout.into();
        self
    }

    /// For how long a connection may be idle between requests. Another name of
    /// [`idle_timeout`](Self::idle_timeout). Default 75 s.
    pub fn keep_alive_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout(timeout)
    }

    /// The largest head of a request, in bytes; the answer to a larger one is 431. Another name of
    /// [`max_frame`](Self::max_frame). Default 408 KiB, as hyper's.
    pub fn max_head(self, bytes: usize) -> Self {
        self.max_frame(bytes)
    }

    /// Whether requests tell who the peer is: by its [`Address`](crate::Address) in their
    /// extensions and, with the feature `axum`, by `ConnectInfo<SocketAddr>`. It costs some
    /// allocations per request, and a system call each time that a connection is taken up. Default
    /// `true`.
    pub fn connect_info(mut self, told: bool) -> Self {
        self.config.connect_info = told;
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
