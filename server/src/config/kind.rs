//! How the value of a key is read, and how one is refused: by the whole path of its key.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What a key takes. Whatever it does not say it takes is refused.
pub(crate) trait Kind {
    type Value;
    const ACCEPTED: &'static str;

    fn scalar(_: Scalar<'_>) -> Option<Self::Value> {
        None
    }

    fn list<'de, A: SeqAccess<'de>>(path: &str, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom(refused(path, "a list", Self::ACCEPTED)))
    }

    fn table<'de, A: MapAccess<'de>>(path: &str, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom(refused(path, "a table", Self::ACCEPTED)))
    }
}

/// A value that is neither a list nor a table, as it is written.
pub(crate) enum Scalar<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

pub(crate) fn refused(path: &str, value: impl fmt::Display, accepted: &str) -> String {
    let path = if path.is_empty() { "this".into() } else { format!("`{path}`") };
    format!("{path} cannot be {value}: accepted is {accepted}")
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

/// Reads a value of a kind. It is told where the value stands: errors that are made while it is
/// read say the path, and formats that know the line add that.
pub(crate) struct At<'a, K> {
    path: &'a str,
    kind: PhantomData<K>,
}

impl<'a, K> At<'a, K> {
    pub(crate) fn new(path: &'a str) -> Self {
        Self { path, kind: PhantomData }
    }
}

impl<K: Kind> At<'_, K> {
    fn refuse<T, E: Error>(&self, value: impl fmt::Display) -> Result<T, E> {
        Err(E::custom(refused(self.path, value, K::ACCEPTED)))
    }

    fn scalar<E: Error>(self, scalar: Scalar<'_>) -> Result<K::Value, E> {
        let written = scalar.to_string();
        K::scalar(scalar).map_or_else(|| self.refuse(written), Ok)
    }
}

impl<'de, K: Kind> DeserializeSeed<'de> for At<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<K::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, K: Kind> Visitor<'de> for At<'_, K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::ACCEPTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<K::Value, E> {
        self.scalar(Scalar::Text(text))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<K::Value, E> {
        self.scalar(Scalar::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<K::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => self.refuse(number),
        }
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<K::Value, E> {
        self.scalar(Scalar::Flag(flag))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<K::Value, E> {
        self.refuse(format!("{number:?}"))
    }

    fn visit_unit<E: Error>(self) -> Result<K::Value, E> {
        self.refuse("null")
    }

    fn visit_none<E: Error>(self) -> Result<K::Value, E> {
        self.refuse("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<K::Value, A::Error> {
        K::list(self.path, list)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<K::Value, A::Error> {
        K::table(self.path, table)
    }
}

/// Reads a list; the path of each item has its number.
pub(crate) fn each<'de, K: Kind, A: SeqAccess<'de>>(
    path: &str,
    mut list: A,
) -> Result<Vec<K::Value>, A::Error> {
    let mut items = Vec::new();
    loop {
        let path = format!("{path}[{}]", items.len());
        match list.next_element_seed(At::<K>::new(&path))? {
            Some(item) => items.push(item),
            None => return Ok(items),
        }
    }
}
