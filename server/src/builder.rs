//! [`ServerBuilder`], and [`Config`]: the settings of both builders, with their defaults and checks.
//!
//! `http::ServerBuilder` has a `Config` too, with other defaults and with HTTP's names for some of the
//! settings. The macro `shared_setters` writes the setters that both have, so their docs cannot
//! differ. `config::ServerEntry` fills builders from a file, and calls [`Config::check_all`].
//!
//! [`Config::start`] is the only way to a server: it checks every setting, makes the pool of the
//! server if none was given, and calls `Server::start`. No setter checks, so the order of the calls
//! does not matter. A refused setting must be named as its setter is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, getrlimit};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::accept::listen::Listen;
use crate::conn::protocol::Protocol;
use crate::conn::transport::TlsAccept;
use crate::error::StartError;
use crate::framed::handler::{Handler, HandlerProtocol};
use crate::framed::service::{BoxError, ServiceProtocol};
use crate::server::Server;
use crate::settings::{Deadlines, Mode, Settings, SlowReader, Ticks};
use crate::trace::event;
use millpond::{ConfigError, Pool};

pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of a server, from [`Server::builder`].
///
/// Every limit and every deadline has a default, the same in both modes. Sizes are in bytes. A deadline
/// that is `None` does not run. [`serve`](Self::serve) and [`handle`](Self::handle) refuse `0` for each
/// setting but `warm_connections`.
///
/// A deadline is early by 2 ms at most, the precision of the timer. It is late by two ticks at most; a
/// tick is an eighth of the shortest deadline, from 10 ms to a second, or up to 30 ms where
/// the longest deadline is a year.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use millpond::Pool;
/// use millpond_server::{Listen, Mode, Server, SlowReader};
/// use tokio_util::codec::LinesCodec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder().size(256).name("turns").build()?;
/// let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
/// let server = Server::builder()
///     .listen("127.0.0.1:0")
///     .listen(Listen::from("127.0.0.1:0").mode(Mode::Dedicated))
///     .mode(Mode::EventDriven)
///     .pool(&pool)
///     .max_connections(10_000)
///     .max_connections_per_ip(100)
///     .overload_response("busy\n")
///     .frame_timeout(Duration::from_secs(5))
///     .idle_timeout(None)
///     .slow_reader(SlowReader::Close)
///     .codec(LinesCodec::new_with_max_length(1024))
///     .serve(echo)?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `serve` or `handle`"]
pub struct ServerBuilder<C = ()> {
    pub(crate) codec: C,
    pub(crate) config: Config,
}

/// All settings but the codec. Both builders have one.
#[derive(Debug)]
pub(crate) struct Config {
    /// Whether errors use HTTP's names, where the two builders name a setting differently.
    #[cfg(feature = "http")]
    pub(crate) is_http: bool,
    pub(crate) listens: Vec<Listen>,
    pub(crate) mode: Mode,
    pub(crate) pool: Option<Pool>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_connections_per_ip: Option<usize>,
    pub(crate) overload_response: Option<Bytes>,
    pub(crate) tls: TlsAccept,
    pub(crate) token: CancellationToken,
    pub(crate) drain: Duration,
    /// `http` alone sets it. `None`: idle connections close at once.
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_age_grace: Option<Duration>,
    pub(crate) deadlines: Deadlines,
    pub(crate) max_frame_size: usize,
    pub(crate) read_budget_bytes: usize,
    pub(crate) read_budget_frames: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_total: usize,
    pub(crate) slow_reader: SlowReader,
    #[cfg(feature = "http")]
    pub(crate) connect_info: bool,
    #[cfg(feature = "http")]
    pub(crate) half_close: bool,
    #[cfg(feature = "http")]
    pub(crate) max_requests: Option<u32>,
    #[cfg(feature = "http")]
    pub(crate) http2: crate::http::Http2,
    pub(crate) warm: usize,
}

/// The setters that both builders have. The calling files import `Duration`.
macro_rules! shared_setters {
    (mode: $mode:literal, overload_response: $overload:literal, tls: $tls:literal $(,)?) => {
        /// Adds a listener: an address such as `127.0.0.1:7000` or `unix:/run/echo.sock`, or a socket
        /// that is bound already; see [`Listen`](crate::Listen). At least one is needed.
        #[doc(alias = "bind")]
        pub fn listen(mut self, listen: impl crate::IntoListen) -> Self {
            self.config.listens.push(listen.into_listen());
            self
        }

        /// How the server holds its connections. A [`Listen`](crate::Listen) may have another mode.
        #[doc = $mode]
        pub fn mode(mut self, mode: crate::Mode) -> Self {
            self.config.mode = mode;
            self
        }

        /// The pool whose slots turns hold, one slot for each turn. The size of the pool bounds how
        /// many turns are under way. While the pool is full, connections wait first in, first out, and
        /// what their peers send stays in the kernel.
        ///
        /// Default: none. Turns then run in tasks of tokio, and nothing but `max_connections` bounds how
        /// many of them wait for their service.
        ///
        /// A turn whose service waits keeps its slot, but no thread. A service that submits jobs to the
        /// same pool and awaits them may lend its slot; see
        /// [`Pool::schedule`](millpond::Pool::schedule). When the pool is closed, connections close as they
        /// become ready, with [`CloseReason::PoolClosed`](crate::CloseReason::PoolClosed).
        #[doc(alias = "backpressure")]
        #[doc(alias = "concurrency limit")]
        pub fn pool(mut self, pool: &millpond::Pool) -> Self {
            self.config.pool = Some(pool.clone());
            self
        }

        /// How many connections may be open at once. Connections beyond get the
        /// [`overload_response`](Self::overload_response), and are closed.
        ///
        /// Default: half of the descriptors that the process may open (its soft limit at the start of
        /// the server), or 524,288 without such a limit. The other half is for files and for connections
        /// to other servers. [`raise_descriptor_limit`](crate::raise_descriptor_limit) raises the soft
        /// limit.
        ///
        /// While the limit refuses connections, an event at WARN says so every ten seconds at most (feature
        /// `tracing`). [`ServerStatus::refused_full`](crate::ServerStatus::refused_full) counts them.
        #[doc(alias = "connection limit")]
        #[doc(alias = "concurrency limit")]
        pub fn max_connections(mut self, connections: usize) -> Self {
            self.config.max_connections = Some(connections);
            self
        }

        /// How many connections may come from the same address: an IPv4 address, or an IPv6 network of
        /// 64 bits. `None`: no bound. Unix sockets have no bound.
        ///
        /// Default `None`: behind a proxy all connections have the same address. A server that clients
        /// reach directly should set a bound, so that no address can take all of
        /// [`max_connections`](Self::max_connections). Refusals leave events, as there.
        #[doc(alias = "connection limit")]
        #[doc(alias = "max_connections_per_peer")]
        pub fn max_connections_per_ip(mut self, connections: impl Into<Option<usize>>) -> Self {
            self.config.max_connections_per_ip = connections.into();
            self
        }

        /// What connections over a limit get before they are closed: the bytes of a whole response.
        ///
        /// A task writes the response, for up to a second. Each listener writes up to 128 of them at a
        /// time; further connections are closed without a response, and so is every one over TLS.
        ///
        #[doc = $overload]
        #[doc(alias = "load_shed")]
        pub fn overload_response(mut self, response: impl Into<bytes::Bytes>) -> Self {
            self.config.overload_response = Some(response.into());
            self
        }

        /// How long a new connection may take to send its first byte, from the accept. Over TLS the
        /// deadline runs once more, after the handshake. A handler that has sent a frame waits for no
        /// first byte.
        ///
        /// Default 10 s. `None`: the timeout between requests or frames runs from the accept.
        #[doc(alias = "slowloris")]
        pub fn first_byte_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.first_byte = timeout.into();
            self
        }

        /// How long the TLS handshake may take, from its first byte. Default 10 s.
        #[doc(alias = "slowloris")]
        pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.handshake = timeout.into();
            self
        }

        /// How long bytes may wait while the peer takes none of them. Each byte that the peer takes
        /// restarts the deadline. Default 30 s.
        #[doc(alias = "slow reader")]
        pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.write = timeout.into();
            self
        }

        /// How long `Server::wait` lets connections finish after its token was cancelled. Then the server
        /// cuts them off. Default 30 s.
        #[doc(alias = "graceful shutdown")]
        pub fn drain_timeout(mut self, timeout: Duration) -> Self {
            self.config.drain = timeout;
            self
        }

        /// How old a connection may become. Then the server closes it as a graceful shutdown would: work
        /// that is under way finishes first. Default `None`: any age.
        ///
        /// Clients that connect again spread over the servers behind a balancer. Connections that user
        /// code has upgraded belong to that code and may become older.
        pub fn max_connection_age(mut self, age: impl Into<Option<Duration>>) -> Self {
            self.config.max_age = age.into();
            self
        }

        /// How long work that is under way may go on after the
        /// [`max_connection_age`](Self::max_connection_age). Then the server cuts the connection off.
        /// Default `None`: until it finishes. Upgraded connections are cut off, too, and calls of user code
        /// are dropped. Without a greatest age, a grace is an error.
        pub fn max_connection_age_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
            self.config.max_age_grace = grace.into();
            self
        }

        /// How long a connection that the server closes may *linger*: the server has ended its side, and
        /// discards what the peer still sends, until the peer ends its side too. Default 1 s.
        ///
        /// A close while the peer sends would have the kernel reset the connection, and the peer could
        /// lose the last answer. Only connections whose peers have sent unserved bytes linger.
        #[doc(alias = "lingering_timeout")]
        pub fn linger_timeout(mut self, timeout: Duration) -> Self {
            self.config.deadlines.linger = timeout;
            self
        }

        /// A token whose cancellation stops the server: the server accepts no more at once, and
        /// `Server::wait` closes the connections while it is awaited.
        ///
        /// Several servers may share a token. Default: a token that nothing cancels.
        #[doc(alias = "graceful shutdown")]
        #[doc(alias = "with_graceful_shutdown")]
        pub fn shutdown_token(mut self, token: tokio_util::sync::CancellationToken) -> Self {
            self.config.token = token;
            self
        }

        /// How many bytes a turn reads before the turns of other connections come first. Default
        /// 64 KiB.
        ///
        /// A frame larger than the budget continues in the next turn.
        pub fn read_budget_bytes(mut self, bytes: usize) -> Self {
            self.config.read_budget_bytes = bytes;
            self
        }

        /// How many connections of a listener in the event-driven mode may have a task of their own while
        /// they are busy. Default 1,024; 0 for none.
        ///
        /// A turn costs less in such a task. A connection gets a task when it has many turns within a
        /// moment, and is parked again after some idle seconds. Connections over TLS get none, and so do
        /// those of a framed server with a pool.
        pub fn warm_connections(mut self, connections: usize) -> Self {
            self.config.warm = connections;
            self
        }

        /// Serves all connections over TLS, in either mode. An idle connection keeps its session, some
        /// kilobytes.
        ///
        /// The configuration brings the certificates, the demand for client certificates and the provider
        /// of cryptography. The example `tls` has a whole one.
        #[doc = $tls]
        /// `Server::reload_tls` replaces the configuration of a running server.
        #[cfg(feature = "rustls")]
        pub fn tls(mut self, config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
            self.config.tls.set(config);
            self
        }
    };
}
#[cfg(feature = "http")]
pub(crate) use shared_setters;

impl Config {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "http")]
            is_http: false,
            listens: Vec::new(),
            mode: Mode::default(),
            pool: None,
            max_connections: None,
            max_connections_per_ip: None,
            overload_response: None,
            tls: TlsAccept::default(),
            token: CancellationToken::new(),
            drain: Duration::from_secs(30),
            shutdown_grace: None,
            max_age: None,
            max_age_grace: None,
            deadlines: Deadlines::default(),
            max_frame_size: 1024 * 1024,
            read_budget_bytes: 64 * 1024,
            read_budget_frames: 256,
            send_buffer: 256 * 1024,
            send_buffer_total: 64 * 1024 * 1024,
            slow_reader: SlowReader::default(),
            #[cfg(feature = "http")]
            connect_info: true,
            #[cfg(feature = "http")]
            half_close: false,
            #[cfg(feature = "http")]
            max_requests: None,
            #[cfg(feature = "http")]
            http2: crate::http::Http2::default(),
            warm: 1024,
        }
    }
}

impl ServerBuilder {
    pub(crate) fn new() -> Self {
        Self { codec: (), config: Config::new() }
    }

    /// The codec that makes frames of bytes and bytes of frames. Each connection gets a clone, so a
    /// codec may have state.
    #[doc(alias = "Framed")]
    pub fn codec<C: Decoder + Clone>(self, codec: C) -> ServerBuilder<C> {
        ServerBuilder { codec, config: self.config }
    }
}

impl<C> ServerBuilder<C> {
    shared_setters! {
        mode: "Default [`Mode::Dedicated`](crate::Mode::Dedicated).",
        overload_response: "Default: none, connections are closed without a response.",
        tls: "",
    }

    /// How long a frame may take, from its first byte to its last, however its bytes trickle in. A
    /// frame has begun when the codec has taken bytes without making a frame of them. Default 10 s.
    #[doc(alias = "slowloris")]
    #[doc(alias = "read_timeout")]
    pub fn frame_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.frame = timeout.into();
        self
    }

    /// How long a connection may be open without a frame in either direction. Default 5 min.
    ///
    /// Before the server closes an idle connection, it reads once more.
    #[doc(alias = "keep-alive")]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.idle = timeout.into();
        self
    }

    /// The largest frame, in bytes as they arrive. A larger frame closes its connection, with
    /// [`CloseReason::FrameTooLarge`](crate::CloseReason::FrameTooLarge). Default 1 MiB.
    ///
    /// The codec may have a smaller limit of its own.
    #[doc(alias = "max_length")]
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.config.max_frame_size = bytes;
        self
    }

    /// How many frames a turn serves before the turns of other connections come first. Default 256.
    pub fn read_budget_frames(mut self, frames: usize) -> Self {
        self.config.read_budget_frames = frames;
        self
    }

    /// How many bytes may wait for one peer. A peer for which more wait is a slow reader; see
    /// [`slow_reader`](Self::slow_reader). Default 256 KiB.
    ///
    /// The frame of a handler that exceeds the bound is still accepted, whole. So is the answer of a
    /// service, with all of its frames.
    #[doc(alias = "backpressure")]
    #[doc(alias = "high watermark")]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.config.send_buffer = bytes;
        self
    }

    /// How many bytes may wait for all peers together. Default 64 MiB.
    ///
    /// Beyond the bound [`Connection::send`](crate::Connection::send) waits. A connection whose answers
    /// would exceed the bound is closed, with
    /// [`CloseReason::SlowReader`](crate::CloseReason::SlowReader).
    #[doc(alias = "backpressure")]
    pub fn send_buffer_total(mut self, bytes: usize) -> Self {
        self.config.send_buffer_total = bytes;
        self
    }

    /// What the server does about a slow reader. Default [`SlowReader::Wait`].
    pub fn slow_reader(mut self, policy: SlowReader) -> Self {
        self.config.slow_reader = policy;
        self
    }
}

impl<C: Decoder + Clone + Send + Sync + 'static> ServerBuilder<C> {
    /// Starts a server that answers each frame by a tower service. Returns the handle of the server,
    /// which accepts at once.
    ///
    /// A response is an iterator of frames: `Some(frame)`, `None`, `[one, two]`, a `Vec`. (A bare
    /// `Bytes` or `Vec<u8>` is an iterator of bytes.)
    ///
    /// The frames of a connection are served one after another, each when the service is ready. Each
    /// turn has a clone of the service, so the service must be `Sync` too;
    /// `tower::util::BoxCloneSyncService` boxes such a service. The service does not learn which
    /// connection a frame comes from; a [`Handler`] does. No deadline bounds the service; tower's
    /// `timeout` does.
    ///
    /// An error of the service closes its connection with
    /// [`CloseReason::Service`](crate::CloseReason::Service), a panic with
    /// [`CloseReason::Panicked`](crate::CloseReason::Panicked). The answers to earlier frames go out
    /// first. With the feature `tracing` the error is an event of the target `millpond`, at WARN.
    ///
    /// # Cancel safety
    ///
    /// The server drops the future of a call when the deadline of a shutdown passes, when the
    /// [`Server`] is dropped, or when the connection's `max_connection_age_grace` has passed. A peer that leaves cancels no call.
    ///
    /// # Errors
    ///
    /// [`StartError`] names the setting that is not allowed and the accepted values, or the listener
    /// that could not be bound.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[doc(alias = "axum::serve")]
    #[doc(alias = "start")]
    pub fn serve<S, R>(self, service: S) -> Result<Server, StartError>
    where
        C: Decoder<Item: Send, Error: Into<BoxError>>,
        C: Encoder<R::Item, Error: Into<BoxError>>,
        S: Service<C::Item, Response = R, Error: Into<BoxError>, Future: Send>,
        S: Clone + Send + Sync + 'static,
        R: IntoIterator + Send + 'static,
    {
        self.config.start(ServiceProtocol { codec: self.codec, service })
    }

    /// Starts a server around a [`Handler`], which may send at any time. Returns the handle of the
    /// server, which accepts at once.
    ///
    /// # Errors
    ///
    /// The errors of [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    #[doc(alias = "start")]
    #[doc(alias = "websocket")]
    pub fn handle<H: Handler>(self, handler: H) -> Result<Server, StartError>
    where
        C: Decoder<Item = H::In, Error: Into<BoxError>>,
        C: Encoder<H::Out, Error: Into<BoxError>>,
    {
        let Self { codec, config } = self;
        config.start(HandlerProtocol::<_, _>::new(handler, move || codec.clone()))
    }
}

#[cfg(feature = "serde")]
impl Config {
    /// Checks the settings as a start does, without a start.
    pub(crate) fn check_all(&self) -> Result<(), ConfigError> {
        self.check(self.max_connections.unwrap_or(1)).map(drop)
    }
}

impl<C> fmt::Debug for ServerBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Config {
    /// Checks the settings and starts a server with this protocol.
    pub(crate) fn start<P: Protocol>(self, protocol: P) -> Result<Server, StartError> {
        // Deadlines need the runtime's timer: without one this panics here, and not in a task later.
        drop(tokio::time::sleep(Duration::ZERO));
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20) as usize;
        let max_connections = self.max_connections.unwrap_or((descriptors / 2).max(1));
        let settings = self.check(max_connections)?;
        if max_connections >= descriptors {
            event!(
                WARN,
                max_connections,
                descriptors,
                "the process may not open as many descriptors as there may be connections"
            );
        }
        let limits = (max_connections, self.max_connections_per_ip);
        Server::start(&self, settings, limits, &Arc::new(protocol))
    }

    /// Returns the names of the settings of frames, as their builder has them.
    fn names(&self) -> [&'static str; 3] {
        #[cfg(feature = "http")]
        if self.is_http {
            return ["max_header_size", "header_read_timeout", "keep_alive_timeout"];
        }
        ["max_frame_size", "frame_timeout", "idle_timeout"]
    }

    /// Checks all settings. Returns what the server needs of them.
    fn check(&self, max: usize) -> Result<Settings, ConfigError> {
        let from_one = "a number from 1";
        let bytes = "one byte or more";
        let [max_size, frame_timeout, idle_timeout] = self.names();
        let numbers = [
            ("max_connections", max, from_one),
            (
                "max_connections_per_ip",
                self.max_connections_per_ip.unwrap_or(1),
                "a number from 1, or `None` for no bound",
            ),
            (max_size, self.max_frame_size, bytes),
            ("read_budget_bytes", self.read_budget_bytes, bytes),
            ("read_budget_frames", self.read_budget_frames, from_one),
            ("send_buffer", self.send_buffer, bytes),
            ("send_buffer_total", self.send_buffer_total, bytes),
        ];
        for (field, value, accepted) in numbers {
            if value == 0 {
                return Err(ConfigError::new(field, value, accepted));
            }
        }
        let deadlines = &self.deadlines;
        let durations = [
            ("first_byte_timeout", deadlines.first_byte),
            ("handshake_timeout", deadlines.handshake),
            (frame_timeout, deadlines.frame),
            (idle_timeout, deadlines.idle),
            ("body_timeout", deadlines.body),
            ("websocket_ping_interval", deadlines.message),
            ("write_timeout", deadlines.write),
            ("drain_timeout", Some(self.drain)),
            ("linger_timeout", Some(deadlines.linger)),
            ("shutdown_grace", self.shutdown_grace),
            ("max_connection_age", self.max_age),
            ("max_connection_age_grace", self.max_age_grace),
        ];
        for (field, value) in durations {
            if value.is_some_and(|value| value.is_zero() || value > YEAR) {
                let accepted = match field {
                    "drain_timeout" | "linger_timeout" => "more than zero and at most a year",
                    _ => "more than zero and at most a year, or `None` for no deadline",
                };
                return Err(ConfigError::new(field, format!("{:?}", value.unwrap()), accepted));
            }
        }
        if let (None, Some(grace)) = (self.max_age, self.max_age_grace) {
            let accepted = "`None` without a `max_connection_age`";
            return Err(ConfigError::new(
                "max_connection_age_grace",
                format!("{grace:?}"),
                accepted,
            ));
        }
        #[cfg(feature = "http")]
        {
            if self.max_requests == Some(0) {
                let accepted = "a number from 1, or `None` for no bound";
                return Err(ConfigError::new("max_requests_per_connection", 0, accepted));
            }
            self.http2.check()?;
        }
        for listen in &self.listens {
            listen.check()?;
        }
        if self.listens.is_empty() {
            return Err(ConfigError::new("listen", "empty", "one address or more"));
        }
        Ok(Settings {
            max_frame_size: self.max_frame_size,
            read_budget_bytes: self.read_budget_bytes,
            read_budget_frames: self.read_budget_frames,
            send_buffer: self.send_buffer,
            send_buffer_total: self.send_buffer_total,
            slow_reader: self.slow_reader,
            max_age: self.max_age,
            max_age_grace: self.max_age_grace,
            shutdown_grace: self.shutdown_grace.unwrap_or_default(),
            ticks: Ticks::new(deadlines),
        })
    }
}
