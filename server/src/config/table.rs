//! Tables of keys, each of which is known, and given once.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::config::kind::join;

pub(crate) trait Table: Default {
    const KEYS: &'static [&'static str];

    fn set<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        path: &str,
        map: &mut A,
    ) -> Result<(), A::Error>;
}

/// Declares a table: its keys, and what each takes. All are `None` unless they were given, so that
/// defaults stay where they belong, at the builders.
macro_rules! table {
    ($name:ident { $($key:ident: $kind:ty,)* }) => {
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $name {
            $(pub(crate) $key: Option<<$kind as $crate::config::kind::Kind>::Value>,)*
        }

        impl $crate::config::table::Table for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn set<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                path: &str,
                map: &mut A,
            ) -> Result<(), A::Error> {
                match key {
                    $(stringify!($key) => {
                        if self.$key.is_some() {
                            return Err($crate::config::table::twice(path));
                        }
                        let at = $crate::config::kind::At::<$kind>::new(path);
                        self.$key = Some(map.next_value_seed(at)?);
                        Ok(())
                    })*
                    _ => Err($crate::config::table::unknown(path, Self::KEYS)),
                }
            }
        }
    };
}

pub(crate) use table;

pub(crate) fn read<'de, T: Table, A: MapAccess<'de>>(
    path: &str,
    mut map: A,
) -> Result<T, A::Error> {
    let mut table = T::default();
    while let Some(key) = map.next_key_seed(Key { path, keys: T::KEYS })? {
        table.set(key, &join(path, key), &mut map)?;
    }
    Ok(table)
}

pub(crate) fn twice<E: Error>(path: &str) -> E {
    E::custom(format_args!("`{path}` is given twice"))
}

pub(crate) fn unknown<E: Error>(path: &str, keys: &[&str]) -> E {
    E::custom(format_args!("there is no key `{path}`: accepted are {}", keys.join(", ")))
}

/// Checks a key where it is read, for the error to be located at the key.
struct Key<'a> {
    path: &'a str,
    keys: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<&'static str, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<&'static str, E> {
        let known = self.keys.iter().find(|known| **known == key);
        known.copied().ok_or_else(|| unknown(&join(self.path, key), self.keys))
    }
}
