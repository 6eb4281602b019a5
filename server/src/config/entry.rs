//! One server of a file.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess};

use crate::config::kind::{At, Kind, join, refused};
use crate::config::listens::{Listens, agreed};
use crate::config::pools::ServersPool;
use crate::config::table::{Table, read, table};
use crate::config::tls::Tls;
use crate::config::value::{Bytes, Count, Deadline, Flag, PerPeer, Period, Text};
use crate::config::web::Web;
#[cfg(feature = "http")]
use crate::http;
use crate::{Mode, Server, ServerBuilder, SlowReader, StartError};
use millpond::ConfigError;
use millpond::Pool;

table! {
    EntryKeys {
        name: Text,
        listen: Listens,
        mode: Mode,
        use_netpoll_mode: Flag,
        pool: ServersPool,
        max_connections: Count,
        max_connections_per_ip: PerPeer,
        overload_response: Text,
        first_byte_timeout: Deadline,
        handshake_timeout: Deadline,
        frame_timeout: Deadline,
        idle_timeout: Deadline,
        write_timeout: Deadline,
        drain_timeout: Period,
        max_frame_size: Bytes,
        read_budget_bytes: Bytes,
        read_budget_frames: Count,
        send_buffer: Bytes,
        send_buffer_total: Bytes,
        slow_reader: SlowReader,
        tls: Tls,
        http: Web,
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
    path: String,
    keys: EntryKeys,
    pool: Option<Pool>,
}

impl ServerEntry {
    /// Its name; if it has none, its place in the file, such as `servers[0]`.
    pub fn name(&self) -> &str {
        match &self.keys.name {
            Some(name) => name,
            None if self.path.is_empty() => "server",
            None => &self.path,
        }
    }

    /// How it holds connections, where a listener has no mode of its own.
    pub fn mode(&self) -> Mode {
        self.keys.mode.unwrap_or_default()
    }

    /// Where it listens, and how it holds the connections that come there, in the file's order.
    pub fn listens(&self) -> impl Iterator<Item = (&str, Mode)> + '_ {
        self.keys.listen.iter().flatten().map(|listen| {
            (listen.address.as_deref().unwrap_or_default(), listen.mode.unwrap_or(self.mode()))
        })
    }

    /// Its pool, if it is given one. Clones of an entry share it.
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
        let http::ServerBuilder { config } = self.web(http::Server::builder());
        let ServerBuilder { config, .. } = self.with_files(ServerBuilder { codec: (), config })?;
        Ok(http::ServerBuilder { config })
    }

    #[cfg(feature = "http")]
    fn web(&self, builder: http::ServerBuilder) -> http::ServerBuilder {
        let config = builder.config;
        let ServerBuilder { config, .. } = self.without_files(ServerBuilder { codec: (), config });
        let mut builder = http::ServerBuilder { config };
        let keys = self.keys.http.clone().unwrap_or_default();
        if let Some(timeout) = keys.body_timeout {
            builder = builder.body_timeout(timeout);
        }
        if let Some(told) = keys.connect_info {
            builder = builder.connect_info(told);
        }
        builder
    }

    fn with_files(&self, builder: ServerBuilder) -> Result<ServerBuilder, StartError> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.keys.tls {
            return Ok(builder.tls(tls.load(&join(&self.path, "tls"))?));
        }
        Ok(builder)
    }

    fn without_files(&self, mut builder: ServerBuilder) -> ServerBuilder {
        for listen in self.keys.listen.iter().flatten() {
            builder = builder.listen(listen.listen());
        }
        if let Some(pool) = &self.pool {
            builder = builder.pool(pool);
        }
        if let Some(answer) = &self.keys.overload_response {
            builder = builder.overload_response(answer.clone());
        }
        macro_rules! apply {
            ($($key:ident)*) => {
                $(if let Some(value) = self.keys.$key {
                    builder = builder.$key(value);
                })*
            };
        }
        apply!(mode max_connections max_connections_per_ip);
        apply!(first_byte_timeout handshake_timeout frame_timeout idle_timeout write_timeout);
        apply!(drain_timeout max_frame_size read_budget_bytes read_budget_frames send_buffer send_buffer_total slow_reader);
        builder
    }

    /// What can only be checked once all of a file has been read.
    pub(crate) fn settle(&mut self, pools: &BTreeMap<String, Pool>) -> Result<(), String> {
        if let Some(choice) = self.keys.pool.take() {
            self.pool = Some(choice.among(pools, &join(&self.path, "pool"))?);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        if self.keys.name.as_deref() == Some("") {
            let path = join(&self.path, "name");
            return Err(refused(&path, "empty", "one character or more"));
        }
        self.keys.mode = agreed(&self.path, self.keys.mode, self.keys.use_netpoll_mode)?;
        let checked = self.without_files(Server::builder()).config.check_all();
        #[cfg(feature = "http")]
        let checked = checked.and_then(|()| self.web(http::Server::builder()).config.check_all());
        checked.map_err(|error: ConfigError| {
            let table = match error.field() {
                "body_timeout" => "http.",
                _ => "",
            };
            let path = join(&self.path, &format!("{table}{}", error.field()));
            let none = if error.field() == "max_connections_per_ip" {
                "\"unlimited\""
            } else {
                "\"never\""
            };
            refused(&path, error.value(), &error.accepted().replace("`None`", none))
        })
    }
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerEntry")
            .field("name", &self.name())
            .field("pool", &self.pool)
            .field("keys", &self.keys)
            .finish()
    }
}

impl Kind for ServerEntry {
    type Value = Self;
    const ACCEPTED: &'static str = "a table with the settings of a server";

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<Self, A::Error> {
        let mut entry = Self { path: path.into(), keys: read(path, map)?, pool: None };
        entry.check().map_err(A::Error::custom)?;
        Ok(entry)
    }
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // As a struct: only those have their keys told apart from others when they are flattened.
        let mut entry =
            from.deserialize_struct("ServerEntry", EntryKeys::KEYS, At::<Self>::new(""))?;
        entry.settle(&BTreeMap::new()).map_err(D::Error::custom)?;
        Ok(entry)
    }
}
