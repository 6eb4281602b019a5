//! The settings of an HTTP server. `Config` (`crate::builder`) holds and checks the values.

use std::time::Duration;

use bytes::Bytes;

use crate::builder::{Config, shared_setters};
use crate::error::StartError;
use crate::http::http2_settings::Http2;
use crate::http::into_service::IntoHttpService;
use crate::http::server::Server;
use crate::http::{HYPER_BUFFER, HttpProtocol};
use crate::settings::Mode;

const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 0\r\n\r\n";

/// The settings of an HTTP server, from [`http::Server::builder`](crate::http::Server::builder).
///
/// Every limit and every deadline has a default, the same in both modes. Sizes are in bytes. A deadline that
/// is `None` does not run. [`serve`](Self::serve) refuses `0` for each setting but `warm_connections`.
///
/// A deadline is early by 2 ms at most, and late by two ticks at most. A tick is an eighth of the shortest
/// deadline, from 10 ms to a second; it is up to 30 ms where the longest deadline is a year.
///
/// ```
/// use std::time::Duration;
///
/// use axum::Router;
/// use millpond_server::http::Server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder()
///     .listen("127.0.0.1:0")
///     .max_connections(10_000)
///     .header_read_timeout(Duration::from_secs(5))
///     .body_timeout(None)
///     .serve(Router::new())?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `serve`"]
pub struct ServerBuilder {
    pub(crate) config: Config,
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        let mut config = Config::new();
        config.is_http = true;
        config.mode = Mode::EventDriven;
        config.overload_response = Some(Bytes::from_static(OVERLOAD));
        config.max_frame_size = HYPER_BUFFER;
        config.deadlines.idle = Some(Duration::from_secs(75));
        config.deadlines.body = Some(Duration::from_secs(30));
        #[cfg(feature = "ws")]
        {
            config.deadlines.message = Some(Duration::from_secs(30));
        }
        #[cfg(feature = "rustls")]
        {
            config.tls.alpn = &[b"h2", b"http/1.1"];
        }
        config.shutdown_grace = Some(Duration::from_millis(500));
        Self { config }
    }

    shared_setters! {
        mode: "Default [`Mode::EventDriven`](crate::Mode::EventDriven).",
        overload_response: "Default: a 503 with `Retry-After`.",
        tls: "If it names no ALPN protocols, the server offers `h2` and `http/1.1`.",
    }

    /// How long the head of a request may take, from its first byte to its last. Then the server answers
    /// 408 and closes. Default 10 s.
    ///
    /// Before the first request [`first_byte_timeout`](Self::first_byte_timeout) runs until the first byte.
    /// HTTP/2 has no such deadline.
    #[doc(alias = "slowloris")]
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.frame = timeout.into();
        self
    }

    /// How long a peer may send nothing of a request body that user code waits for. Each byte restarts the
    /// deadline. Then the server answers 408, unless a response has begun, and closes. Default 30 s.
    ///
    /// The deadline does not run while user code leaves the body unread;
    /// [`RequestBody`](crate::http::RequestBody) tells what that means for a body that another task reads.
    /// Over HTTP/2 the body fails with an error of the kind [`TimedOut`](std::io::ErrorKind::TimedOut), and
    /// the connection goes on.
    pub fn body_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.body = timeout.into();
        self
    }

    /// How long a connection may be idle between requests. Then the server closes it. Default 75 s.
    ///
    /// An HTTP/2 connection is idle while no byte moves, none waits to be sent, and no stream is open. The
    /// server then tells the peer to go away (GOAWAY) and closes.
    #[doc(alias = "keep-alive")]
    #[doc(alias = "idle_timeout")]
    pub fn keep_alive_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.idle = timeout.into();
        self
    }

    /// How long a parked WebSocket may be silent before the server sends a ping. If the peer sends nothing
    /// within the same time again, not even the pong, its connection is closed, with
    /// [`Deadline::Idle`](crate::Deadline::Idle). Default 30 s. `None`: no pings, and no bound.
    ///
    /// Proxies close connections that are silent for about a minute; pings keep them open.
    #[cfg(feature = "ws")]
    #[doc(alias = "keep-alive")]
    pub fn websocket_ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.message = interval.into();
        self
    }

    /// How long an idle connection stays open after a shutdown has begun, so that a request on its way to
    /// the server is still answered. Default 500 ms. `None`: idle connections close at once.
    ///
    /// During a shutdown each answer says `connection: close`, so a client that has got such an answer
    /// sends its next request elsewhere. A client whose last answer came before the shutdown may have sent
    /// another request already: that request is answered if it arrives within the grace. The grace of a
    /// connection begins anew after such an old answer has been sent to its end. Connections that wait in
    /// the kernel's queue when the shutdown begins are accepted, and have the grace, too. The grace is at
    /// most half of the deadline of the shutdown.
    ///
    /// HTTP/2 has no need of a grace: a first GOAWAY asks the client to open no more streams, and the
    /// second one comes when all streams that were on their way have arrived.
    #[doc(alias = "graceful shutdown")]
    pub fn shutdown_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.config.shutdown_grace = grace.into();
        self
    }

    /// How many requests a connection may have. The answer to the last one says `connection: close`; over
    /// HTTP/2 the server tells the peer to go away. Default `None`: any number.
    #[doc(alias = "keepalive_requests")]
    pub fn max_requests_per_connection(mut self, requests: impl Into<Option<u32>>) -> Self {
        self.config.max_requests = requests.into();
        self
    }

    /// The settings of HTTP/2. Default: those of hyper.
    pub fn http2(mut self, settings: Http2) -> Self {
        self.config.http2 = settings;
        self
    }

    /// Whether a client that ends its side of the connection still gets its answers, as `printf ... | nc -N`
    /// expects. Default `false`, as in hyper and `axum::serve`: the end of the client's side cancels the
    /// request that is under way, since most such clients have left.
    ///
    /// With `true` the service runs to its end also for clients that have left; a write of the answer finds
    /// that out. HTTP/1 only; HTTP/2 ends each stream on its own.
    #[doc(alias = "nc -N")]
    pub fn half_close(mut self, enabled: bool) -> Self {
        self.config.half_close = enabled;
        self
    }

    /// The largest head of a request, in bytes. The server answers a larger head with 431 and closes.
    /// Default 408 KiB, as hyper's.
    ///
    /// Up to 4 KiB of a partial head take only their own memory. A longer head takes hyper's buffers. Hyper has
    /// one setting for both directions: it also keeps up to so many bytes of responses that a peer does not
    /// take, for each such connection.
    #[doc(alias = "max_buf_size")]
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.config.max_frame_size = bytes;
        self
    }

    /// Whether requests carry the peer's address: an [`Address`](crate::Address) in their extensions and,
    /// with the feature `axum` and over TCP, a `ConnectInfo<SocketAddr>`. Default `true`.
    ///
    /// The address costs some allocations per request, and at times a system call.
    #[doc(alias = "into_make_service_with_connect_info")]
    pub fn connect_info(mut self, enabled: bool) -> Self {
        self.config.connect_info = enabled;
        self
    }

    /// Starts the server, which accepts at once. Returns its handle.
    ///
    /// Each request gets a clone of `service`; an `axum::Router` fits, and so do its make services. See
    /// [`IntoHttpService`]. Requests of HTTP/1 run as turns, in
    /// slots of the pool if the server has one. Requests of HTTP/2 run as tasks.
    ///
    /// If the service panics, or fails, its connection closes without a response; over HTTP/2, its stream
    /// does.
    ///
    /// # Errors
    ///
    /// [`StartError`] names the setting that is not allowed and the accepted values, or the listener that
    /// could not be bound.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn serve<S, Form>(mut self, service: S) -> Result<Server, StartError>
    where
        S: IntoHttpService<Form>,
    {
        self.config.connect_info |= S::NEEDS_PEER;
        let protocol = HttpProtocol::new(service.into_http_service(), &self.config);
        let http_states = protocol.http_states.clone();
        Ok(Server::new(self.config.start(protocol)?, http_states))
    }
}
