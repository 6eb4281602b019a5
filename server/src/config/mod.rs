//! Servers described by a configuration file.

mod entry;
mod kind;
mod listens;
mod pools;
mod table;
mod tls;
mod value;
mod web;

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess};

pub use crate::config::entry::ServerEntry;

use crate::config::kind::{At, Kind, each, refused};
use crate::config::pools::Pools;
use crate::config::table::{Table, read, table};
use crate::{ServerBuilder, StartError};
use millpond::Pool;

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
/// | `max_frame_size` | a size |
/// | `read_budget_bytes` | a size |
/// | `read_budget_frames` | a number |
/// | `send_buffer` | a size |
/// | `send_buffer_total` | a size |
/// | `slow_reader` | `"wait"` or `"close"` |
/// | `http` | a table with `body_timeout` (a duration, or `"never"`) and `connect_info` (a truth value), for [`ServerEntry::http`]. Takes the feature `http` |
/// | `tls` | a table with `certificate` and `key`: files in PEM form, a path from the working directory on. Takes the feature `rustls` |
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

table! {
    ConfigKeys {
        servers: Servers,
        pools: Pools,
    }
}

pub(crate) struct Servers;

impl Kind for Servers {
    type Value = Vec<ServerEntry>;
    const ACCEPTED: &'static str = "a list of tables";

    fn list<'de, A: SeqAccess<'de>>(path: &str, list: A) -> Result<Self::Value, A::Error> {
        each::<ServerEntry, A>(path, list)
    }
}

impl Kind for ServerConfig {
    type Value = Self;
    const ACCEPTED: &'static str = "a table with `servers`";

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<Self, A::Error> {
        let keys: ConfigKeys = read(path, map)?;
        let (mut servers, pools) =
            (keys.servers.unwrap_or_default(), keys.pools.unwrap_or_default());
        for server in &mut servers {
            server.settle(&pools).map_err(A::Error::custom)?;
        }
        for (n, server) in servers.iter().enumerate() {
            if servers[..n].iter().any(|other| other.name() == server.name()) {
                let (path, name) = (format!("servers[{n}].name"), format!("{:?}", server.name()));
                let accepted = "a name that no other server has";
                return Err(A::Error::custom(refused(&path, name, accepted)));
            }
        }
        Ok(Self { servers, pools })
    }
}

impl<'de> Deserialize<'de> for ServerConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // As a struct: only those have their keys told apart from others when they are flattened.
        from.deserialize_struct("ServerConfig", ConfigKeys::KEYS, At::<Self>::new(""))
    }
}
