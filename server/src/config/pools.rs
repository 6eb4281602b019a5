//! Pools: shared ones that have a name in the file, and ones of a single server.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::config::located::{HERE, table};
use crate::config::refused;
use crate::config::values::{Count, Period, Text};
use millpond::{ConfigError, Pool};

#[derive(Default, Deserialize)]
#[serde(default, expecting = "a table of settings")]
struct Keys {
    size: Option<Count>,
    queue: Option<Count>,
    idle_timeout: Option<Period>,
    min_idle: Option<Count>,
    overflow_limit: Option<Count>,
    name: Option<Text>,
}

impl Keys {
    fn build<E: Error>(self, name: Option<&str>) -> Result<Pool, E> {
        let missing = || E::custom(format_args!("`{HERE}size` is missing"));
        let mut builder = Pool::builder().size(self.size.ok_or_else(missing)?.0);
        if let Some(Count(jobs)) = self.queue {
            builder = builder.queue(jobs);
        }
        if let Some(Period(timeout)) = self.idle_timeout {
            builder = builder.idle_timeout(timeout);
        }
        if let Some(Count(workers)) = self.min_idle {
            builder = builder.min_idle(workers);
        }
        if let Some(Count(jobs)) = self.overflow_limit {
            builder = builder.overflow_limit(jobs);
        }
        if let Some(name) = self.name.as_ref().map(|Text(name)| &**name).or(name) {
            builder = builder.name(name);
        }
        builder.build().map_err(|error: ConfigError| {
            let path = format!("{HERE}{}", error.field());
            E::custom(refused(&path, error.value(), error.accepted()))
        })
    }
}

/// The pools that servers may share, by their names. A pool is built where its table is read, so
/// that errors have their place; a pool starts nothing before its first job.
#[derive(Default)]
pub(crate) struct Pools(pub(crate) BTreeMap<String, Pool>);

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PoolsVisitor;

        impl<'de> Visitor<'de> for PoolsVisitor {
            type Value = Pools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of pools by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pools, A::Error> {
                let mut pools = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let pool = map.next_value_seed(Named(&name))?;
                    pools.insert(name, pool);
                }
                Ok(Pools(pools))
            }
        }

        from.deserialize_map(PoolsVisitor)
    }
}

/// Reads a pool that has this name unless its table says another.
struct Named<'a>(&'a str);

impl<'de> serde::de::DeserializeSeed<'de> for Named<'_> {
    type Value = Pool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Pool, D::Error> {
        Keys::deserialize(from)?.build(Some(self.0))
    }
}

/// The pool of a server.
#[derive(Clone)]
pub(crate) enum Choice {
    Own(Pool),
    Shared(String),
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = Choice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of settings, or the name of one of `pools`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Choice, E> {
                Ok(Choice::Shared(name.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice, A::Error> {
                table::<Keys, A>(map)?.build(None).map(Choice::Own)
            }
        }

        from.deserialize_any(ChoiceVisitor)
    }
}

impl Choice {
    /// Returns the pool, or an error that names the key at `path`.
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
