//! Servers described by a configuration file.

mod entry;
mod listens;
mod located;
mod pools;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

pub use crate::config::entry::ServerEntry;

use crate::config::entry::Part;
use crate::config::located::HERE;
use crate::config::pools::Pools;
use crate::{ServerBuilder, StartError};
use millpond::{ConfigError, Pool};

/// Servers described by a configuration: TOML, JSON, or another format that serde knows and that
/// says what is a text and what is a number.
///
/// The file says where and how to listen; codec and service are the program's.
///
/// ```
/// use std::convert::Infallible;
///
/// use millpond_server::{Mode, ServerConfig};
/// use tokio_util::codec::LinesCodec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config: ServerConfig = toml::from_str(
///     r#"
///     [pools.turns]
///     size = 256
///
///     [[servers]]
///     name = "few"
///     listen = "127.0.0.1:0"
///
///     [[servers]]
///     name = "many"
///     listen = { address = "127.0.0.1:0", backlog = 4096 }
///     mode = "event-driven"
///     pool = "turns"
///     idle_timeout = "1h"
///     max_frame_size = "64KiB"
///     "#,
/// )?;
/// let echo = tower::service_fn(|line: String| async move { Ok::<_, Infallible>(Some(line)) });
/// let mut servers = Vec::new();
/// for (name, builder) in config.builders()? {
///     let server = builder.codec(LinesCodec::new()).serve(echo)?;
///     println!("{name} listens at {:?}", server.local_addrs());
///     servers.push(server);
/// }
/// assert_eq!(config.servers()[1].mode(), Mode::EventDriven);
/// # Ok(())
/// # }
/// ```
///
/// # Keys
///
/// At the top:
///
/// | key | value |
/// |---|---|
/// | `servers` | a list of tables, see below; none by default |
/// | `pools` | a table of pools, which servers may share: `[pools.NAME]`; none by default |
///
/// Of a server. What is not given has the default of [`ServerBuilder`]'s method of the same name.
///
/// | key | value |
/// |---|---|
/// | `name` | a text, for the program's use; the path `servers[N]` by default |
/// | `listen` | an address, a table, or a list of these. Required |
/// | `mode` | `"dedicated"` or `"event-driven"` |
/// | `use_netpoll_mode` | `true` stands for event-driven, `false` for dedicated |
/// | `pool` | a table, or the name of one of `pools` |
/// | `max_connections` | a number |
/// | `max_connections_per_ip` | a number, or `"unlimited"` |
/// | `overload_response` | a text, with the line ending that the protocol wants |
/// | `first_byte_timeout` | a duration, or `"never"` |
/// | `handshake_timeout` | a duration, or `"never"` |
/// | `frame_timeout` | a duration, or `"never"` |
/// | `idle_timeout` | a duration, or `"never"` |
/// | `write_timeout` | a duration, or `"never"` |
/// | `drain_timeout` | a duration |
/// | `linger_timeout` | a duration |
/// | `max_connection_age` | a duration, or `"never"` |
/// | `max_connection_age_grace` | a duration, or `"never"` |
/// | `max_frame_size` | a size |
/// | `read_budget_bytes` | a size |
/// | `read_budget_frames` | a number |
/// | `warm_connections` | a number; 0 for none |
/// | `send_buffer` | a size |
/// | `send_buffer_total` | a size |
/// | `slow_reader` | `"wait"` or `"close"` |
/// | `http` | a table, see below, for [`ServerEntry::http`]. Takes the feature `http` |
/// | `tls` | a table, see below. Takes the feature `rustls` |
///
/// Of the table `http`; see `http::ServerBuilder` for the defaults. Without a key of its own here, HTTP
/// takes `frame_timeout` as `header_read_timeout`, `idle_timeout` as `keep_alive_timeout` and
/// `max_frame_size` as `max_header_size`.
///
/// | key | value |
/// |---|---|
/// | `header_read_timeout` | a duration, or `"never"` |
/// | `body_timeout` | a duration, or `"never"` |
/// | `keep_alive_timeout` | a duration, or `"never"` |
/// | `max_header_size` | a size |
/// | `shutdown_grace` | a duration, or `"never"` for no grace |
/// | `half_close` | `true` or `false` |
/// | `max_requests_per_connection` | a number, or `"unlimited"` |
/// | `http2` | a table, see below |
/// | `connect_info` | `true` or `false` |
/// | `websocket_ping_interval` | a duration, or `"never"`. Takes the feature `ws` |
///
/// Of the table `http2` in `http`; see `http::Http2` for the defaults.
///
/// | key | value |
/// |---|---|
/// | `max_concurrent_streams` | a number |
/// | `initial_stream_window_size` | a size |
/// | `initial_connection_window_size` | a size |
/// | `adaptive_window` | `true` or `false` |
/// | `max_frame_size` | a size |
/// | `max_header_list_size` | a size |
/// | `max_send_buffer_size` | a size |
/// | `max_pending_accept_reset_streams` | a number |
/// | `max_local_error_reset_streams` | a number |
/// | `keep_alive_interval` | a duration, or `"never"` |
/// | `keep_alive_timeout` | a duration |
///
/// Of the table `tls`. The files are in PEM form, their paths go from the working directory on.
/// [`ServerEntry::tls`] reads them again.
///
/// | key | value |
/// |---|---|
/// | `certificate` | the file of the certificate and of its issuers. Required |
/// | `key` | the file of the private key. Required |
/// | `client_ca` | the file of the issuers whose client certificates are accepted |
/// | `client_auth` | `"required"` (default with `client_ca`) or `"optional"` |
///
/// Of a table in `listen`; see [`Listen`](crate::Listen) for the defaults.
///
/// | key | value |
/// |---|---|
/// | `address` | `127.0.0.1:7000`, `[::1]:7000`, `localhost:7000` or `unix:/run/echo.sock`. Required |
/// | `mode` | as for the server, which it overrides |
/// | `use_netpoll_mode` | as for the server |
/// | `backlog` | a number |
/// | `reuse_port` | `true` or `false` |
/// | `nodelay` | `true` or `false` |
/// | `keepalive` | a duration, or `"never"` |
///
/// Of a pool; see [`PoolBuilder`](millpond::PoolBuilder) for the defaults.
///
/// | key | value |
/// |---|---|
/// | `size` | a number. Required |
/// | `queue` | a number |
/// | `idle_timeout` | a duration |
/// | `min_idle` | a number |
/// | `overflow_limit` | a number |
/// | `target_wait` | a duration, or `"never"` to refuse no caller for its wait |
/// | `slow_job` | a duration, or `"never"` |
/// | `propagate_span` | `true` or `false` |
/// | `name` | a text; for one of `pools` its name there by default |
///
/// A **duration** is a text with units: `"250ms"`, `"10s"`, `"5m 30s"`, `"1h"`. A **size** is a
/// number of bytes or a text: `"512B"`, `"64KiB"`, `"1MiB"`, `"2GiB"`.
///
/// # Errors
///
/// Keys that are unknown or given twice, values of the wrong form, and settings that the builder
/// would refuse are errors of deserializing, which name the key by its path:
/// ``there is no key `servers[1].frame_timout` ``. Formats that know the line say it too. Whether
/// certificates can be used shows in [`builders`](Self::builders), and whether a listener can be
/// bound at the start.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    servers: Vec<ServerEntry>,
    pools: BTreeMap<String, Pool>,
}

impl ServerConfig {
    /// The servers, in the file's order.
    pub fn servers(&self) -> &[ServerEntry] {
        &self.servers
    }

    /// The shared pools and their names. Clones of a configuration share them too.
    pub fn pools(&self) -> impl Iterator<Item = (&str, &Pool)> + '_ {
        self.pools.iter().map(|(name, pool)| (&**name, pool))
    }

    /// A builder for each server, with its name, in the file's order.
    ///
    /// # Errors
    ///
    /// As [`ServerEntry::builder`].
    pub fn builders(&self) -> Result<Vec<(&str, ServerBuilder)>, StartError> {
        self.servers.iter().map(|entry| Ok((entry.name(), entry.builder()?))).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, expecting = "a table with `servers`")]
struct Keys {
    servers: Option<Servers>,
    pools: Option<Pools>,
}

#[derive(Default)]
struct Servers(Vec<Part>);

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ServersVisitor;

        impl<'de> Visitor<'de> for ServersVisitor {
            type Value = Servers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tables")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Servers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Servers)
            }
        }

        from.deserialize_seq(ServersVisitor)
    }
}

impl<'de> Deserialize<'de> for ServerConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let keys: Keys = located::deserialize(from)?;
        let Pools(pools) = keys.pools.unwrap_or_default();
        let mut servers: Vec<ServerEntry> = Vec::new();
        for (n, Part(mut server)) in keys.servers.unwrap_or_default().0.into_iter().enumerate() {
            let path = format!("servers[{n}]");
            server.place(path.clone(), &pools).map_err(D::Error::custom)?;
            if servers.iter().any(|other| other.name() == server.name()) {
                let (path, name) = (format!("{path}.name"), format!("{:?}", server.name()));
                let accepted = "a name that no other server has";
                return Err(D::Error::custom(refused(&path, name, accepted)));
            }
            servers.push(server);
        }
        Ok(Self { servers, pools })
    }
}

/// Makes the error of a setting that a builder refuses. `never` is what a file has in place of `None`.
fn refused_setting<E: Error>(key: impl fmt::Display, error: &ConfigError, never: &str) -> E {
    let accepted = error.accepted().replace("`None`", never);
    E::custom(refused(&format!("{HERE}{key}"), error.value(), &accepted))
}

fn refused(path: &str, value: impl fmt::Display, accepted: &str) -> String {
    format!("`{path}` cannot be {value}: accepted is {accepted}")
}
