//! A server's settings, checked where they are put together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, getrlimit};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::Server;
use crate::accept::listen::Listen;
use crate::conn::protocol::Protocol;
use crate::conn::transport::TlsAccept;
use crate::error::StartError;
use crate::framed::handler::{Handler, HandlerProtocol};
use crate::framed::service::{BoxError, ServiceProtocol};
use crate::settings::Mode;
use crate::settings::{Deadlines, Settings, SlowReader, Ticks};
use crate::trace::event;
use millpond::ConfigError;
use millpond::Pool;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Of a server's own pool, where none was given: how many turns may be under way at once.
pub(crate) const OWN_POOL: usize = 1024;

/// Settings of a server; from [`Server::builder`].
///
/// Every limit and every deadline has a default, the same in both modes. A deadline that is set to
/// `None` does not hold; `0` is refused everywhere.
#[must_use = "a builder does nothing until `serve` or `handle`"]
pub struct ServerBuilder<C = ()> {
    pub(crate) codec: C,
    pub(crate) config: Config,
}

/// All settings but the codec, of both builders.
#[derive(Debug)]
pub(crate) struct Config {
    /// How errors name the settings that differ between the builders.
    #[cfg(feature = "http")]
    pub(crate) is_http: bool,
    pub(crate) listens: Vec<Listen>,
    pub(crate) mode: Mode,
    pub(crate) pool: Option<Pool>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_connections_per_ip: Option<Option<usize>>,
    pub(crate) overload_response: Option<Bytes>,
    pub(crate) tls: TlsAccept,
    pub(crate) token: CancellationToken,
    pub(crate) drain: Duration,
    pub(crate) deadlines: Deadlines,
    pub(crate) max_frame_size: usize,
    pub(crate) read_budget_bytes: usize,
    pub(crate) read_budget_frames: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_total: usize,
    pub(crate) slow_reader: SlowReader,
    #[cfg(feature = "http")]
    pub(crate) connect_info: bool,
}

/// The settings that both builders have. The callers import `Duration`.
macro_rules! shared_setters {
    (mode: $mode:literal, overload_response: $overload:literal) => {
        /// Where to listen; see [`Listen`](crate::Listen). May be called several times. There is no
        /// default.
        pub fn listen(mut self, listen: impl crate::IntoListen) -> Self {
            self.config.listens.push(listen.into_listen());
            self
        }

        /// How connections are held. A [`Listen`](crate::Listen) may have a mode of its own.
        #[doc = $mode]
        pub fn mode(mut self, mode: crate::Mode) -> Self {
            self.config.mode = mode;
            self
        }

        /// The pool in whose slots turns run, one at a time in each: its size bounds how many are
        /// under way, and while it is full, what peers send stays in the kernel.
        ///
        /// Default: in the event-driven mode a pool of its own with 1,024 slots. In the dedicated
        /// mode none: the connections' tasks run their turns themselves.
        ///
        /// A turn whose service waits holds a slot meanwhile, and no thread. A service that submits
        /// jobs to the same pool and awaits them may lend its slot, see
        /// [`Pool::schedule`](millpond::Pool::schedule).
        pub fn pool(mut self, pool: &millpond::Pool) -> Self {
            self.config.pool = Some(pool.clone());
            self
        }

        /// How many connections may be open at once. Default: half of the descriptors that the
        /// process may open (the soft limit when the server starts), or 524,288 where there is no
        /// limit.
        #[doc(alias = "concurrency limit")]
        pub fn max_connections(mut self, connections: usize) -> Self {
            self.config.max_connections = Some(connections);
            self
        }

        /// How many connections one peer may have: an IPv4 address, or an IPv6 network of 64 bits.
        /// Default: half of [`max_connections`](Self::max_connections), so that nobody takes all of
        /// them. `None`: no bound, for servers behind a proxy, or for a load test from one address.
        /// Unix sockets have none.
        pub fn max_connections_per_ip(mut self, connections: impl Into<Option<usize>>) -> Self {
            self.config.max_connections_per_ip = Some(connections.into());
            self
        }

        /// What connections over a limit get, as the bytes of a whole response, before they are
        /// closed. It is written in a task of its own, for a second and to 128 at a time for each
        /// listener at most, and never over TLS.
        #[doc = $overload]
        pub fn overload_response(mut self, response: impl Into<bytes::Bytes>) -> Self {
            self.config.overload_response = Some(response.into());
            self
        }

        /// From the accept to the first byte; over TLS also from the end of the handshake. A
        /// handler that has sent something does not expect any. `None`: the timeout between
        /// requests, or frames, runs from the accept. Default 10 s.
        pub fn first_byte_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.first_byte = timeout.into();
            self
        }

        /// For the TLS handshake, from its first byte. Default 10 s.
        pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.handshake = timeout.into();
            self
        }

        /// For how long bytes may wait without the peer taking any of them. Default 30 s.
        pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.deadlines.write = timeout.into();
            self
        }

        /// For how long `Server::wait` lets connections finish once it was told to stop. Default
        /// 30 s.
        pub fn drain_timeout(mut self, timeout: Duration) -> Self {
            self.config.drain = timeout;
            self
        }

        /// When it is cancelled nothing more is accepted. Connections are closed by `Server::wait`,
        /// which must be awaited, or by dropping the server.
        pub fn shutdown_token(mut self, token: tokio_util::sync::CancellationToken) -> Self {
            self.config.token = token;
            self
        }

        /// How much is read from one connection before the others have their turn. Default 64 KiB.
        pub fn read_budget_bytes(mut self, bytes: usize) -> Self {
            self.config.read_budget_bytes = bytes;
            self
        }

        /// Has all connections use TLS, in either mode. An idle connection keeps its session, some
        /// kilobytes.
        #[cfg(feature = "rustls")]
        pub fn tls(mut self, config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
            self.config.tls.acceptor = Some(config.into());
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
            deadlines: Deadlines::default(),
            max_frame_size: 1024 * 1024,
            read_budget_bytes: 64 * 1024,
            read_budget_frames: 256,
            send_buffer: 256 * 1024,
            send_buffer_total: 64 * 1024 * 1024,
            slow_reader: SlowReader::default(),
            #[cfg(feature = "http")]
            connect_info: true,
        }
    }
}

impl ServerBuilder {
    pub(crate) fn new() -> Self {
        Self { codec: (), config: Config::new() }
    }

    /// What makes frames of bytes and bytes of frames. Each connection gets a clone.
    pub fn codec<C: Decoder + Clone>(self, codec: C) -> ServerBuilder<C> {
        ServerBuilder { codec, config: self.config }
    }
}

impl<C> ServerBuilder<C> {
    shared_setters! {
        mode: "Default [`Mode::Dedicated`](crate::Mode::Dedicated).",
        overload_response: "Default: they are closed without one."
    }

    /// From a frame's first byte to its last, however they trickle in. A codec that takes bytes
    /// and makes no frame of them has begun one. Default 10 s.
    pub fn frame_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.frame = timeout.into();
        self
    }

    /// For how long a connection may be open without a frame in either direction. Default 5 min.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlines.idle = timeout.into();
        self
    }

    /// The largest frame, in bytes as they arrive. Default 1 MiB. A codec may be stricter.
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.config.max_frame_size = bytes;
        self
    }

    /// How many frames of one connection are served before the others have their turn. Default
    /// 256.
    pub fn read_budget_frames(mut self, frames: usize) -> Self {
        self.config.read_budget_frames = frames;
        self
    }

    /// How many bytes may wait for one peer to take them, and one frame of a handler more, or one
    /// answer of a service, however many frames it has. Beyond that it is a slow reader. Default
    /// 256 KiB.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.config.send_buffer = bytes;
        self
    }

    /// How many bytes may wait for all peers together. Sends wait then; a connection whose answers
    /// would go beyond is closed as a slow reader. Default 64 MiB.
    pub fn send_buffer_total(mut self, bytes: usize) -> Self {
        self.config.send_buffer_total = bytes;
        self
    }

    /// What becomes of slow readers. Default [`SlowReader::Wait`].
    pub fn slow_reader(mut self, policy: SlowReader) -> Self {
        self.config.slow_reader = policy;
        self
    }
}

impl<C: Decoder + Clone + Send + Sync + 'static> ServerBuilder<C> {
    /// Starts a server that answers each frame by a tower service. What the service returns is
    /// written frame by frame: `Some(frame)`, `None`, `[one, two]`, a `Vec`, any iterator of
    /// frames. (A bare `Bytes` or `Vec<u8>` is an iterator of bytes.)
    ///
    /// The frames of a connection are served one after another, each when the service is ready. The
    /// service is cloned for each turn, so it must be `Sync`, too: box it by
    /// `tower::util::BoxCloneSyncService`. It does not learn which connection a frame is from; a
    /// [`Handler`] does. No deadline bounds it: use tower's `timeout`. It is dropped where a
    /// shutdown's deadline has passed.
    ///
    /// An error closes the connection with [`CloseReason::Service`](crate::CloseReason::Service),
    /// answers to earlier frames go out before; so does a panic. The error is an event of the
    /// target `millpond` (feature `tracing`), at the level WARN.
    ///
    /// # Errors
    ///
    /// Names a setting that is not allowed, or the listener that could not be bound.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
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

    /// Starts a server around a [`Handler`], which may send at any time.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// As [`serve`](Self::serve).
    pub fn handle<H: Handler>(self, handler: H) -> Result<Server, StartError>
    where
        C: Decoder<Item = H::In, Error: Into<BoxError>>,
        C: Encoder<H::Out, Error: Into<BoxError>>,
    {
        self.config.start(HandlerProtocol { codec: self.codec, handler: Arc::new(handler) })
    }
}

#[cfg(feature = "serde")]
impl Config {
    /// What a start would find wrong, without a start.
    pub(crate) fn check_all(&self) -> Result<(), ConfigError> {
        let per_ip = self.max_connections_per_ip.unwrap_or_default();
        self.check(self.max_connections.unwrap_or(1), per_ip).map(drop)
    }
}

impl<C> fmt::Debug for ServerBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Config {
    pub(crate) fn start<P: Protocol>(self, protocol: P) -> Result<Server, StartError> {
        // Panics without timers, which deadlines need.
        drop(tokio::time::sleep(Duration::ZERO));
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20) as usize;
        let max_connections = self.max_connections.unwrap_or((descriptors / 2).max(1));
        let max_connections_per_ip =
            self.max_connections_per_ip.unwrap_or(Some(max_connections.div_ceil(2)));
        let settings = self.check(max_connections, max_connections_per_ip)?;
        if max_connections >= descriptors {
            event!(
                WARN,
                max_connections,
                descriptors,
                "the process may not open as many descriptors as there may be connections"
            );
        }
        let pool = match self.pool.clone() {
            Some(pool) => pool,
            None => Pool::builder().size(OWN_POOL).name("server").build()?,
        };
        Server::start(
            self,
            settings,
            (max_connections, max_connections_per_ip),
            pool,
            Arc::new(protocol),
        )
    }

    /// How the builder calls the settings of frames, which are heads for HTTP.
    fn names(&self) -> [&'static str; 3] {
        #[cfg(feature = "http")]
        if self.is_http {
            return ["max_header_size", "header_read_timeout", "keep_alive_timeout"];
        }
        ["max_frame_size", "frame_timeout", "idle_timeout"]
    }

    fn check(
        &self,
        max: usize,
        max_connections_per_ip: Option<usize>,
    ) -> Result<Settings, ConfigError> {
        let from_one = "a number from 1";
        let bytes = "one byte or more";
        let [max_size, frame_timeout, idle_timeout] = self.names();
        let numbers = [
            ("max_connections", max, from_one),
            (
                "max_connections_per_ip",
                max_connections_per_ip.unwrap_or(1),
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
            ("write_timeout", deadlines.write),
            ("drain_timeout", Some(self.drain)),
        ];
        for (field, value) in durations {
            if value.is_some_and(|value| value.is_zero() || value > YEAR) {
                let accepted = match field {
                    "drain_timeout" => "more than zero and at most a year",
                    _ => "more than zero and at most a year, or `None` for no deadline",
                };
                return Err(ConfigError::new(field, format!("{:?}", value.unwrap()), accepted));
            }
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
            ticks: Ticks::new(deadlines),
        })
    }
}
