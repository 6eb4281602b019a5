//! Pools: shared ones that have a name in the file, and ones of a single server.

use std::collections::BTreeMap;

use serde::de::{Error, MapAccess};

use crate::config::kind::{At, Kind, Scalar, join, refused};
use crate::config::table::{read, table, twice};
use crate::config::value::{Count, Period, Text};
use millpond::ConfigError;
use millpond::Pool;

table! {
    PoolKeys {
        size: Count,
        queue: Count,
        idle_timeout: Period,
        min_idle: Count,
        overflow_limit: Count,
        name: Text,
    }
}

impl PoolKeys {
    fn build(self, path: &str) -> Result<Pool, String> {
        let size = self.size.ok_or_else(|| format!("`{}` is missing", join(path, "size")))?;
        let mut builder = Pool::builder().size(size);
        if let Some(places) = self.queue {
            builder = builder.queue(places);
        }
        if let Some(timeout) = self.idle_timeout {
            builder = builder.idle_timeout(timeout);
        }
        if let Some(workers) = self.min_idle {
            builder = builder.min_idle(workers);
        }
        if let Some(jobs) = self.overflow_limit {
            builder = builder.overflow_limit(jobs);
        }
        // A shared pool has a name already.
        if let Some(name) = self.name.as_deref().or(path.strip_prefix("pools.")) {
            builder = builder.name(name);
        }
        builder.build().map_err(|error: ConfigError| {
            refused(&join(path, error.field()), error.value(), error.accepted())
        })
    }
}

/// Made while the file is read: what is wrong with it is located there, and a pool starts nothing
/// before its first job.
struct One;

impl Kind for One {
    type Value = Pool;
    const ACCEPTED: &'static str = "a table of settings";

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<Pool, A::Error> {
        let keys: PoolKeys = read(path, map)?;
        keys.build(path).map_err(A::Error::custom)
    }
}

pub(crate) struct Pools;

impl Kind for Pools {
    type Value = BTreeMap<String, Pool>;
    const ACCEPTED: &'static str = "a table of pools by their names";

    fn table<'de, A: MapAccess<'de>>(path: &str, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pools = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = join(path, &name);
            if pools.contains_key(&name) {
                return Err(twice(&path));
            }
            let pool = map.next_value_seed(At::<One>::new(&path))?;
            pools.insert(name, pool);
        }
        Ok(pools)
    }
}

/// A server's pool.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    Own(Pool),
    Shared(String),
}

impl Choice {
    pub(crate) fn among(self, pools: &BTreeMap<String, Pool>, path: &str) -> Result<Pool, String> {
        let name = match self {
            Self::Own(pool) => return Ok(pool),
            Self::Shared(name) => name,
        };
        pools.get(&name).cloned().ok_or_else(|| {
            let names: Vec<_> = pools.keys().map(String::as_str).collect();
            let names = match names.is_empty() {
                true => "none are there".into(),
                false => names.join(", "),
            };
            let accepted = format!("a table of settings, or the name of one of `pools` ({names})");
            refused(path, format!("{name:?}"), &accepted)
        })
    }
}

pub(crate) struct ServersPool;

impl Kind for ServersPool {
    type Value = Choice;
    const ACCEPTED: &'static str = "a table of settings, or the name of one of `pools`";

    fn scalar(written: Scalar<'_>) -> Option<Choice> {
        Text::scalar(written).map(Choice::Shared)
    }

    fn table<'de, A: MapAccess<'de>>(path: &str, map: A) -> Result<Choice, A::Error> {
        One::table(path, map).map(Choice::Own)
    }
}
