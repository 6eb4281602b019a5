//! The kinds of single values.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::de::value::{Error, StrDeserializer};

use crate::config::kind::{Kind, Scalar};
use crate::{Mode, SlowReader};

pub(crate) struct Text;

impl Kind for Text {
    type Value = String;
    const ACCEPTED: &'static str = "a text";

    fn scalar(written: Scalar<'_>) -> Option<String> {
        let Scalar::Text(text) = written else { return None };
        Some(text.into())
    }
}

pub(crate) struct File;

impl Kind for File {
    type Value = PathBuf;
    const ACCEPTED: &'static str = "the path of a file";

    fn scalar(written: Scalar<'_>) -> Option<PathBuf> {
        Text::scalar(written).map(PathBuf::from)
    }
}

pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;
    const ACCEPTED: &'static str = "true or false";

    fn scalar(written: Scalar<'_>) -> Option<bool> {
        let Scalar::Flag(flag) = written else { return None };
        Some(flag)
    }
}

pub(crate) struct Count;

impl Kind for Count {
    type Value = usize;
    const ACCEPTED: &'static str = "a whole number";

    fn scalar(written: Scalar<'_>) -> Option<usize> {
        let Scalar::Number(number) = written else { return None };
        number.try_into().ok()
    }
}

pub(crate) struct Backlog;

impl Kind for Backlog {
    type Value = u32;
    const ACCEPTED: &'static str = "a whole number up to 4294967295";

    fn scalar(written: Scalar<'_>) -> Option<u32> {
        Count::scalar(written)?.try_into().ok()
    }
}

pub(crate) struct PerPeer;

impl Kind for PerPeer {
    type Value = Option<usize>;
    const ACCEPTED: &'static str = "a whole number, or \"unlimited\"";

    fn scalar(written: Scalar<'_>) -> Option<Option<usize>> {
        match written {
            Scalar::Text("unlimited") => Some(None),
            written => Count::scalar(written).map(Some),
        }
    }
}

pub(crate) struct Bytes;

impl Kind for Bytes {
    type Value = usize;
    const ACCEPTED: &'static str = "a number of bytes, or a text such as \"64KiB\" or \"1MiB\"";

    fn scalar(written: Scalar<'_>) -> Option<usize> {
        let Scalar::Text(text) = written else { return Count::scalar(written) };
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let unit = match unit.trim_start() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<usize>().ok()?.checked_mul(unit)
    }
}

/// Numbers without a unit are refused: they would be seconds to some and milliseconds to others.
pub(crate) struct Period;

impl Kind for Period {
    type Value = Duration;
    const ACCEPTED: &'static str = "a text with units such as \"10s\" or \"5m 30s\"";

    fn scalar(written: Scalar<'_>) -> Option<Duration> {
        let Scalar::Text(text) = written else { return None };
        humantime::parse_duration(text).ok()
    }
}

pub(crate) struct Deadline;

impl Kind for Deadline {
    type Value = Option<Duration>;
    const ACCEPTED: &'static str = "a text with units such as \"10s\" or \"5m 30s\", or \"never\"";

    fn scalar(written: Scalar<'_>) -> Option<Option<Duration>> {
        match written {
            Scalar::Text("never") => Some(None),
            written => Period::scalar(written).map(Some),
        }
    }
}

impl Kind for Mode {
    type Value = Self;
    const ACCEPTED: &'static str = "\"dedicated\" or \"event-driven\"";

    fn scalar(written: Scalar<'_>) -> Option<Self> {
        named(written)
    }
}

impl Kind for SlowReader {
    type Value = Self;
    const ACCEPTED: &'static str = "\"wait\" or \"close\"";

    fn scalar(written: Scalar<'_>) -> Option<Self> {
        named(written)
    }
}

fn named<T: DeserializeOwned>(written: Scalar<'_>) -> Option<T> {
    let Scalar::Text(text) = written else { return None };
    T::deserialize(StrDeserializer::<Error>::new(text)).ok()
}
