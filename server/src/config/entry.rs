//! One server of a file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::config::listens::{ListenKeys, Listens, agreed};
use crate::config::located::{self, HERE};
use crate::config::pools::Choice;
use crate::config::tls::Tls;
use crate::config::values::{Bytes, Bytes32, Count, Deadline, Flag, Limit, Number, Period, Text};
use crate::config::{refused, refused_setting};
#[cfg(feature = "http")]
use crate::http;
use crate::{Mode, Server, ServerBuilder, SlowReader, StartError};
use millpond::{ConfigError, Pool};

/// The keys of a server. All are `None` unless they were given, so that defaults stay where they
/// belong, at the builders.
#[derive(Clone, Default, Deserialize)]
#[serde(default, expecting = "a table with the settings of a server")]
struct Keys {
    name: Option<Text>,
    listen: Option<Listens>,
    mode: Option<Mode>,
    use_netpoll_mode: Option<Flag>,
    pool: Option<Choice>,
    max_connections: Option<Count>,
    max_connections_per_ip: Option<Limit<usize>>,
    overload_response: Option<Text>,
    first_byte_timeout: Option<Deadline>,
    handshake_timeout: Option<Deadline>,
    frame_timeout: Option<Deadline>,
    idle_timeout: Option<Deadline>,
    write_timeout: Option<Deadline>,
    drain_timeout: Option<Period>,
    linger_timeout: Option<Period>,
    max_connection_age: Option<Deadline>,
    max_connection_age_grace: Option<Deadline>,
    max_frame_size: Option<Bytes>,
    read_budget_bytes: Option<Bytes>,
    read_budget_frames: Option<Count>,
    warm_connections: Option<Count>,
    send_buffer: Option<Bytes>,
    send_buffer_total: Option<Bytes>,
    slow_reader: Option<SlowReader>,
    tls: Option<Tls>,
    http: Option<HttpKeys>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, expecting = "a table with the settings of HTTP")]
struct HttpKeys {
    header_read_timeout: Option<Deadline>,
    body_timeout: Option<Deadline>,
    keep_alive_timeout: Option<Deadline>,
    max_header_size: Option<Bytes>,
    shutdown_grace: Option<Deadline>,
    half_close: Option<Flag>,
    max_requests_per_connection: Option<Limit<u32>>,
    http2: Option<Http2Keys>,
    connect_info: Option<Flag>,
    websocket_ping_interval: Option<Deadline>,
}

/// The settings of `http::ServerBuilder` that the table `http` has.
const HTTP_FIELDS: [&str; 7] = [
    "max_requests_per_connection",
    "header_read_timeout",
    "body_timeout",
    "keep_alive_timeout",
    "max_header_size",
    "shutdown_grace",
    "websocket_ping_interval",
];

fn is_of_http(field: &str) -> bool {
    HTTP_FIELDS.contains(&field) || field.starts_with("http2.")
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, expecting = "a table with the settings of HTTP/2")]
struct Http2Keys {
    max_concurrent_streams: Option<Number>,
    initial_stream_window_size: Option<Bytes32>,
    initial_connection_window_size: Option<Bytes32>,
    adaptive_window: Option<Flag>,
    max_frame_size: Option<Bytes32>,
    max_header_list_size: Option<Bytes32>,
    max_send_buffer_size: Option<Bytes>,
    max_pending_accept_reset_streams: Option<Count>,
    max_local_error_reset_streams: Option<Count>,
    keep_alive_interval: Option<Deadline>,
    keep_alive_timeout: Option<Period>,
}

#[cfg(feature = "http")]
impl Http2Keys {
    fn settings(self) -> http::Http2 {
        let mut settings = http::Http2::new();
        macro_rules! apply {
            ($($key:ident)*) => {
                $(if let Some(value) = self.$key {
                    settings = settings.$key(value.0);
                })*
            };
        }
        apply!(max_concurrent_streams adaptive_window max_send_buffer_size);
        apply!(max_pending_accept_reset_streams max_local_error_reset_streams);
        apply!(keep_alive_interval keep_alive_timeout);
        apply!(initial_stream_window_size initial_connection_window_size);
        apply!(max_frame_size max_header_list_size);
        settings
    }
}

/// One server of a [`ServerConfig`](crate::config::ServerConfig). It can also be read on its own,
/// as a part of a larger configuration; its `pool` is a table then.
///
/// # Examples
///
/// ```
/// use millpond_server::{Mode, ServerEntry};
///
/// let entry: ServerEntry = toml::from_str(
///     r#"
///     listen = ["127.0.0.1:7000", { address = "[::1]:7000", backlog = 64 }]
///     mode = "event-driven"
///     idle_timeout = "never"
///     "#,
/// )?;
/// assert_eq!(entry.mode(), Mode::EventDriven);
/// let builder = entry.builder()?; // goes on with `.codec(..)` and `.serve(..)`
/// # let _ = builder;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct ServerEntry {
    /// Where the entry stands in the file; empty if the entry was read on its own.
    path: String,
    keys: Keys,
    pool: Option<Pool>,
}

impl ServerEntry {
    /// Its name; if it has none, its place in the file, such as `servers[0]`.
    pub fn name(&self) -> &str {
        match &self.keys.name {
            Some(Text(name)) => name,
            None if self.path.is_empty() => "server",
            None => &self.path,
        }
    }

    /// How the server holds connections, where a listener has no mode of its own. Without a mode
    /// in the file this is the default of [`Server::builder`].
    pub fn mode(&self) -> Mode {
        self.keys.mode.unwrap_or_default()
    }

    /// Where the server listens, and how it holds the connections that come there, in the file's
    /// order.
    pub fn listens(&self) -> impl Iterator<Item = (&str, Mode)> + '_ {
        self.listen_keys().map(|listen| (listen.address(), listen.mode().unwrap_or(self.mode())))
    }

    fn listen_keys(&self) -> impl Iterator<Item = &ListenKeys> {
        self.keys.listen.iter().flat_map(|Listens(listens)| listens)
    }

    /// The pool, if the file gives one. Clones of an entry share it.
    pub fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// A builder with these settings. What was not given has the builder's default.
    ///
    /// # Errors
    ///
    /// Names the file of a certificate or key that cannot be read or used: that is when they are
    /// read. All else was checked together with the entry.
    pub fn builder(&self) -> Result<ServerBuilder, StartError> {
        self.with_files(self.without_files(Server::builder()))
    }

    /// A builder for an HTTP server with these settings, those of its table `http` among them.
    ///
    /// # Errors
    ///
    /// As [`builder`](Self::builder).
    #[cfg(feature = "http")]
    pub fn http(&self) -> Result<http::ServerBuilder, StartError> {
        let http::ServerBuilder { config } = self.http_without_files(http::Server::builder());
        let ServerBuilder { config, .. } = self.with_files(ServerBuilder { codec: (), config })?;
        Ok(http::ServerBuilder { config })
    }

    #[cfg(feature = "http")]
    fn http_without_files(&self, builder: http::ServerBuilder) -> http::ServerBuilder {
        let config = builder.config;
        let ServerBuilder { config, .. } = self.without_files(ServerBuilder { codec: (), config });
        let mut builder = http::ServerBuilder { config };
        let keys = self.keys.http.clone().unwrap_or_default();
        macro_rules! apply {
            ($($key:ident)*) => {
                $(if let Some(value) = keys.$key {
                    builder = builder.$key(value.0);
                })*
            };
        }
        apply!(header_read_timeout body_timeout keep_alive_timeout max_header_size);
        apply!(shutdown_grace half_close connect_info max_requests_per_connection);
        #[cfg(feature = "ws")]
        {
            apply!(websocket_ping_interval);
        }
        if let Some(keys) = keys.http2 {
            builder = builder.http2(keys.settings());
        }
        builder
    }

    /// Reads the files of the table `tls`, and returns what they mean; `None` without that table. Each
    /// call reads the files again, so `Server::reload_tls` can be given a renewed certificate.
    ///
    /// # Errors
    ///
    /// As [`builder`](Self::builder).
    #[cfg(feature = "rustls")]
    #[doc(alias = "certificate")]
    pub fn tls(
        &self,
    ) -> Result<Option<std::sync::Arc<tokio_rustls::rustls::ServerConfig>>, StartError> {
        self.keys.tls.as_ref().map(|tls| tls.load(&self.path_of("tls"))).transpose()
    }

    fn with_files(&self, builder: ServerBuilder) -> Result<ServerBuilder, StartError> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls()? {
            return Ok(builder.tls(tls));
        }
        Ok(builder)
    }

    fn without_files(&self, mut builder: ServerBuilder) -> ServerBuilder {
        for keys in self.listen_keys() {
            builder = builder.listen(keys.listen());
        }
        if let Some(pool) = &self.pool {
            builder = builder.pool(pool);
        }
        if let Some(mode) = self.keys.mode {
            builder = builder.mode(mode);
        }
        if let Some(policy) = self.keys.slow_reader {
            builder = builder.slow_reader(policy);
        }
        macro_rules! apply {
            ($($key:ident)*) => {
                $(if let Some(value) = &self.keys.$key {
                    builder = builder.$key(value.0.clone());
                })*
            };
        }
        apply!(max_connections max_connections_per_ip overload_response);
        apply!(first_byte_timeout handshake_timeout frame_timeout idle_timeout write_timeout);
        apply!(drain_timeout linger_timeout max_connection_age max_connection_age_grace);
        apply!(max_frame_size read_budget_bytes read_budget_frames warm_connections);
        apply!(send_buffer send_buffer_total);
        builder
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// Finds the pool, once all of the file has been read.
    pub(crate) fn place(
        &mut self,
        path: String,
        pools: &BTreeMap<String, Pool>,
    ) -> Result<(), String> {
        self.path = path;
        if let Some(choice) = self.keys.pool.take() {
            self.pool = Some(choice.among(pools, &self.path_of("pool"))?);
        }
        Ok(())
    }

    /// Checks what the builder would refuse.
    fn check<E: Error>(&mut self) -> Result<(), E> {
        if self.name().is_empty() {
            let path = format!("{HERE}name");
            return Err(E::custom(refused(&path, "empty", "one character or more")));
        }
        if cfg!(not(feature = "http")) && self.keys.http.is_some() {
            return Err(E::custom(format_args!("`{HERE}http` takes the feature `http`")));
        }
        let is_of_ws = |keys: &HttpKeys| keys.websocket_ping_interval.is_some();
        if cfg!(not(feature = "ws")) && self.keys.http.as_ref().is_some_and(is_of_ws) {
            let key = "http.websocket_ping_interval";
            return Err(E::custom(format_args!("`{HERE}{key}` takes the feature `ws`")));
        }
        self.keys.mode = agreed(self.keys.mode, &self.keys.use_netpoll_mode)?;
        let checked = self.without_files(Server::builder()).config.check_all();
        #[cfg(feature = "http")]
        let checked = checked
            .and_then(|()| self.http_without_files(http::Server::builder()).config.check_all());
        checked.map_err(|error: ConfigError| {
            let table = if is_of_http(error.field()) { "http." } else { "" };
            let never = match error.field() {
                "max_connections_per_ip" | "max_requests_per_connection" => "\"unlimited\"",
                _ => "\"never\"",
            };
            refused_setting(format_args!("{table}{}", error.field()), &error, never)
        })
    }
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerEntry")
            .field("name", &self.name())
            .field("pool", &self.pool)
            .field("listens", &self.listens().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// An entry whose errors do not have their path yet, as a part of a file.
pub(crate) struct Part(pub(crate) ServerEntry);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let keys = Keys::deserialize(from)?;
        let mut entry = ServerEntry { keys, ..ServerEntry::default() };
        entry.check()?;
        Ok(Self(entry))
    }
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Part(mut entry) = located::deserialize(from)?;
        entry.place(String::new(), &BTreeMap::new()).map_err(D::Error::custom)?;
        Ok(entry)
    }
}
