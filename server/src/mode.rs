//! How connections are held.

use std::fmt;
use std::str::FromStr;

use millpond::ConfigError;

/// How a server holds its connections. What it does with them is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[doc(alias = "use_netpoll_mode")]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Mode {
    /// A task for each connection. It has no buffer while it waits.
    #[default]
    Dedicated,
    /// An idle connection is *parked*: it has no task, no buffer and no timer until bytes arrive,
    /// and is served as a job on the pool then. For many connections that are mostly idle.
    #[doc(alias = "netpoll")]
    #[doc(alias = "epoll")]
    EventDriven,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dedicated => "dedicated",
            Self::EventDriven => "event-driven",
        })
    }
}

impl FromStr for Mode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "dedicated" => Ok(Self::Dedicated),
            "event-driven" => Ok(Self::EventDriven),
            _ => Err(ConfigError::new("mode", text, "`dedicated` or `event-driven`")),
        }
    }
}
