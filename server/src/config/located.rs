//! A deserializer that puts the path of a key into each error, where the error arises.
//!
//! `serde_path_to_error` keeps the path beside the error of the format. A `Deserialize` impl can only
//! join the two in a new error, and the new error has lost the line that the format knows. Here the
//! message has the path from the start, and the format adds the line on the way up.
//!
//! A value of a wrong form is refused in one way: `path` cannot be VALUE: accepted is EXPECTED. The
//! visitor's `expecting` says what is accepted. Errors that a `Deserialize` impl makes itself may name
//! keys of their table behind [`HERE`]; the path of the table is filled in for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::{Error as NoError, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::sync::failpoint;

/// Stands for the path of a table, and the dot before its keys, in the text of an error.
pub(crate) const HERE: char = '\0';

/// Reads a value; errors say the path from here.
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let is_told = Cell::new(false);
    let at = At { path: &Path::Root, is_told: &is_told };
    at.tell(T::deserialize(Outermost { from, at }))
}

/// The value of a table whose keys are read by `T`, for visitors that accept other forms besides.
pub(crate) fn table<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: A) -> Result<T, A::Error> {
    T::deserialize(Table(map))
}

enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a Path<'a>,
    /// The error on its way up has its path.
    is_told: &'a Cell<bool>,
}

impl<'a> At<'a> {
    fn with<'b>(self, path: &'b Path<'b>) -> At<'b>
    where
        'a: 'b,
    {
        At { path, is_told: self.is_told }
    }

    fn error<E: Error>(self, text: impl fmt::Display) -> E {
        self.is_told.set(true);
        E::custom(text)
    }

    fn named(self) -> String {
        match self.path {
            Path::Root => "this".into(),
            path => format!("`{path}`"),
        }
    }

    fn refuse<E: Error>(self, value: impl fmt::Display, accepted: &str) -> E {
        self.error(format_args!("{} cannot be {value}: accepted is {accepted}", self.named()))
    }

    /// Puts the path into an error that has none.
    fn tell<T, E: Error>(self, result: Result<T, E>) -> Result<T, E> {
        result.map_err(|error| {
            if self.is_told.get() {
                return error;
            }
            let text = error.to_string();
            let text = text.trim_end();
            if !text.contains(HERE) {
                // An error of the format, which knows its place best.
                return error;
            }
            let path = self.path.to_string();
            let table = if path.is_empty() { String::new() } else { format!("{path}.") };
            self.error(text.replace(&format!("{HERE}`"), &format!("{path}`")).replace(HERE, &table))
        })
    }
}

struct Accepted<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Accepted<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// The whole document, or the part of it that is flattened into another type.
struct Outermost<'a, D> {
    from: D,
    at: At<'a>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Outermost<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_any(Located { visitor, at: self.at })
    }

    // As a struct: only a struct has its keys told apart from others where it is flattened.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = Located { visitor: OnlyTable { visitor, keys }, at: self.at };
        self.from.deserialize_struct(name, keys, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// One value of the document.
struct Inner<'a, D> {
    from: D,
    at: At<'a>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Inner<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_any(Located { visitor, at: self.at })
    }

    // A key that is there has a value: `null` is none.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_any(OnlyTable { visitor, keys })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_any(OneOf { visitor, variants })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// Calls a visitor; where the visitor refuses, the error has the path and what is accepted.
struct Located<'a, V> {
    visitor: V,
    at: At<'a>,
}

impl<'de, V: Visitor<'de>> Located<'_, V> {
    fn scalar<E: Error>(
        self,
        written: impl fmt::Display,
        visit: impl FnOnce(V) -> Result<V::Value, NoError>,
    ) -> Result<V::Value, E> {
        let accepted = Accepted(&self.visitor).to_string();
        visit(self.visitor).map_err(|_| self.at.refuse(written, &accepted))
    }

    /// A visitor that takes no such value returns before it asks for an item.
    fn compound<E: Error>(
        self,
        written: &str,
        visit: impl FnOnce(V, &Cell<bool>) -> Result<V::Value, E>,
    ) -> Result<V::Value, E> {
        let (accepted, is_read) = (Accepted(&self.visitor).to_string(), Cell::new(false));
        visit(self.visitor, &is_read).map_err(|error| match is_read.get() {
            true => error,
            false => self.at.refuse(written, &accepted),
        })
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Located<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<V::Value, E> {
        self.scalar(flag, |visitor| visitor.visit_bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<V::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => self.scalar(number, |visitor| visitor.visit_i64(number)),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<V::Value, E> {
        self.scalar(number, |visitor| visitor.visit_u64(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<V::Value, E> {
        self.scalar(format!("{number:?}"), |visitor| visitor.visit_f64(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.scalar(format!("{text:?}"), |visitor| visitor.visit_str(text))
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.scalar("null", V::visit_unit)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.scalar("null", V::visit_none)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        let at = self.at;
        self.compound("a list", |visitor, is_read| {
            visitor.visit_seq(Items { items, next: 0, is_read, at })
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let (at, seen, key) = (self.at, RefCell::default(), RefCell::default());
        self.compound("a table", |visitor, is_read| {
            visitor.visit_map(Entries { map, seen, key, is_read, at })
        })
    }
}

struct Items<'a, A> {
    items: A,
    next: usize,
    is_read: &'a Cell<bool>,
    at: At<'a>,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.is_read.set(true);
        let path = Path::Item(self.at.path, self.next);
        self.next += 1;
        self.items.next_element_seed(Seed { seed, at: self.at.with(&path) })
    }
}

struct Entries<'a, A> {
    map: A,
    seen: RefCell<BTreeSet<String>>,
    /// The key whose value is read next.
    key: RefCell<String>,
    is_read: &'a Cell<bool>,
    at: At<'a>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.is_read.set(true);
        let (seen, key) = (&self.seen, &self.key);
        self.map.next_key_seed(Key { seed, seen, key, at: self.at })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let key = self.key.take();
        let path = Path::Key(self.at.path, &key);
        self.map.next_value_seed(Seed { seed, at: self.at.with(&path) })
    }
}

struct Seed<'a, S> {
    seed: S,
    at: At<'a>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.at.tell(self.seed.deserialize(Inner { from, at: self.at }))
    }
}

/// Reads a key, and remembers it for the path of its value.
struct Key<'a, S> {
    seed: S,
    seen: &'a RefCell<BTreeSet<String>>,
    key: &'a RefCell<String>,
    at: At<'a>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Key<'_, S> {
    type Value = S::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<S::Value, E> {
        let path = Path::Key(self.at.path, key);
        if !self.seen.borrow_mut().insert(key.to_owned()) {
            return Err(self.at.error(format_args!("`{path}` is given twice")));
        }
        key.clone_into(&mut self.key.borrow_mut());
        let key: StrDeserializer<'_, NoError> = key.into_deserializer();
        self.seed
            .deserialize(key)
            .map_err(|error| self.at.error(format_args!("there is no key `{path}`: {error}")))
    }
}

/// A table, and nothing else; its keys are known.
struct OnlyTable<V> {
    visitor: V,
    keys: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyTable<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Known { map, keys: self.keys })
    }
}

struct Table<A>(A);

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Table<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.0)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(Known { map: self.0, keys })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Refuses keys that the table does not have.
struct Known<A> {
    map: A,
    keys: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Known<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.map.next_key_seed(KnownKey { seed, keys: self.keys })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

struct KnownKey<S> {
    seed: S,
    keys: &'static [&'static str],
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for KnownKey<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        let key = String::deserialize(from)?;
        if !self.keys.contains(&&*key) && !failpoint("an unknown key is skipped") {
            return Err(D::Error::custom(format_args!("accepted are {}", self.keys.join(", "))));
        }
        let key: StrDeserializer<'_, D::Error> = key.as_str().into_deserializer();
        self.seed.deserialize(key)
    }
}

/// One of a few texts.
struct OneOf<V> {
    visitor: V,
    variants: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for OneOf<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, variant) in self.variants.iter().enumerate() {
            write!(f, "{}{variant:?}", if n == 0 { "" } else { " or " })?;
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        let text: StrDeserializer<'_, E> = text.into_deserializer();
        self.visitor.visit_enum(text)
    }
}
