//! The forms of single values.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A value that is neither a list nor a table.
trait Scalar: Sized {
    const ACCEPTED: &'static str;

    fn text(_: &str) -> Option<Self> {
        None
    }

    fn number(_: u64) -> Option<Self> {
        None
    }

    fn flag(_: bool) -> Option<Self> {
        None
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::ACCEPTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::text(text).ok_or_else(|| E::custom(T::ACCEPTED))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::number(number).ok_or_else(|| E::custom(T::ACCEPTED))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
        T::flag(flag).ok_or_else(|| E::custom(T::ACCEPTED))
    }
}

/// Declares a value: its type inside, and what is accepted.
macro_rules! scalar {
    ($name:ident($inner:ty), $accepted:literal, $($method:item)+) => {
        #[derive(Debug, Clone)]
        pub(crate) struct $name(pub(crate) $inner);

        impl Scalar for $name {
            const ACCEPTED: &'static str = $accepted;
            $($method)+
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(ScalarVisitor(PhantomData))
            }
        }
    };
}

scalar! { Text(String), "a text",
    fn text(text: &str) -> Option<Self> {
        Some(Self(text.into()))
    }
}

scalar! { File(PathBuf), "the path of a file",
    fn text(text: &str) -> Option<Self> {
        Some(Self(text.into()))
    }
}

scalar! { Flag(bool), "true or false",
    fn flag(flag: bool) -> Option<Self> {
        Some(Self(flag))
    }
}

scalar! { Count(usize), "a whole number",
    fn number(number: u64) -> Option<Self> {
        number.try_into().ok().map(Self)
    }
}

scalar! { Number(u32), "a whole number up to 4294967295",
    fn number(number: u64) -> Option<Self> {
        number.try_into().ok().map(Self)
    }
}

/// A limit that need not be there.
#[derive(Debug, Clone)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

impl<T: TryFrom<u64>> Scalar for Limit<T> {
    const ACCEPTED: &'static str = match size_of::<T>() {
        4 => "a whole number up to 4294967295, or \"unlimited\"",
        _ => "a whole number, or \"unlimited\"",
    };

    fn text(text: &str) -> Option<Self> {
        (text == "unlimited").then_some(Self(None))
    }

    fn number(number: u64) -> Option<Self> {
        number.try_into().ok().map(|number| Self(Some(number)))
    }
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor(PhantomData))
    }
}

scalar! { Bytes(usize), "a number of bytes, or a text such as \"64KiB\" or \"1MiB\"",
    fn text(text: &str) -> Option<Self> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let unit = match unit.trim_start() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<usize>().ok()?.checked_mul(unit).map(Self)
    }
    fn number(number: u64) -> Option<Self> {
        number.try_into().ok().map(Self)
    }
}

scalar! { Bytes32(u32), "a number of bytes up to 4294967295, or a text such as \"64KiB\" or \"1MiB\"",
    fn text(text: &str) -> Option<Self> {
        Bytes::text(text).and_then(|Bytes(bytes)| bytes.try_into().ok()).map(Self)
    }
    fn number(number: u64) -> Option<Self> {
        number.try_into().ok().map(Self)
    }
}

// A number without a unit is refused: some would read it as seconds, others as milliseconds.
scalar! { Period(Duration), "a text with units such as \"10s\" or \"5m 30s\"",
    fn text(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok().map(Self)
    }
}

scalar! { Deadline(Option<Duration>),
    "a text with units such as \"10s\" or \"5m 30s\", or \"never\"",
    fn text(text: &str) -> Option<Self> {
        match text {
            "never" => Some(Self(None)),
            text => Period::text(text).map(|Period(period)| Self(Some(period))),
        }
    }
}
