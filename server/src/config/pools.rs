//! Pools: shared ones that have a name in the file, and ones of a single server.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::config::located::{HERE, table};
use crate::config::values::{Count, Deadline, Flag, Period, Text};
use crate::config::{refused, refused_setting};
use millpond::{Pool, PoolBuilder};

#[derive(Default, Deserialize)]
#[serde(default, expecting = "a table of settings")]
struct Keys {
    size: Option<Count>,
    queue: Option<Count>,
    idle_timeout: Option<Period>,
    min_idle: Option<Count>,
    overflow_limit: Option<Count>,
    target_wait: Option<Deadline>,
    slow_job: Option<Deadline>,
    propagate_span: Option<Flag>,
    name: Option<Text>,
}

impl Keys {
    fn builder<E: Error>(self, name: Option<&str>) -> Result<PoolBuilder, E> {
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
        if let Some(Deadline(target)) = self.target_wait {
            builder = builder.target_wait(target);
        }
        if let Some(Deadline(limit)) = self.slow_job {
            builder = builder.slow_job(limit);
        }
        if let Some(Flag(propagates)) = self.propagate_span {
            builder = builder.propagate_span(propagates);
        }
        if let Some(name) = self.name.as_ref().map(|Text(name)| &**name).or(name) {
            builder = builder.name(name);
        }
        Ok(builder)
    }

    fn build<E: Error>(self, name: Option<&str>) -> Result<Pool, E> {
        let built = self.builder(name)?.build();
        built.map_err(|error| refused_setting(error.field(), &error, "\"never\""))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_key_is_what_the_builder_is_told() {
        let second = Duration::from_secs(1);
        let builder = || Pool::builder().size(1);
        let cases = [
            ("", builder()),
            (r#", "queue": 2"#, builder().queue(2)),
            (r#", "idle_timeout": "1s""#, builder().idle_timeout(second)),
            (r#", "min_idle": 0"#, builder().min_idle(0)),
            (r#", "overflow_limit": 2"#, builder().overflow_limit(2)),
            (r#", "target_wait": "1s""#, builder().target_wait(second)),
            (r#", "target_wait": "never""#, builder().target_wait(None)),
            (r#", "slow_job": "1s""#, builder().slow_job(second)),
            (r#", "slow_job": "never""#, builder().slow_job(None)),
            (r#", "propagate_span": false"#, builder().propagate_span(false)),
            (r#", "name": "a""#, builder().name("a")),
        ];
        for (text, expected) in cases {
            let keys: Keys = serde_json::from_str(&format!(r#"{{"size": 1{text}}}"#)).unwrap();
            let told = keys.builder::<serde_json::Error>(None).unwrap();
            assert_eq!(format!("{told:?}"), format!("{expected:?}"), "{text}");
        }
    }
}
