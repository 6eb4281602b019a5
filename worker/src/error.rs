//! [`WorkerError`] and [`ConnectError`]: why a worker ended, and why a source could not be made.

use std::error::Error;
use std::fmt;
#[cfg(any(feature = "nats", feature = "redis"))]
use std::time::Duration;

use millpond::ConfigError;

use crate::failure::BoxError;
use crate::report::Report;
use crate::source::SourceError;

/// Why a worker did not run until its token was cancelled; from [`Worker::run`](crate::Worker::run).
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerError {
    /// A setting has a value that is not allowed. Nothing was fetched.
    Config(ConfigError),
    /// The source is closed: its stream is gone, or a permission is missing. What ran was drained.
    Source {
        /// The error of the source.
        error: SourceError,
        /// What became of the messages until then.
        report: Report,
    },
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Source { error, .. } => error.fmt(f),
        }
    }
}

impl Error for WorkerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The text is that of the error itself.
            Self::Config(error) => error.source(),
            Self::Source { error, .. } => Some(error),
        }
    }
}

impl From<ConfigError> for WorkerError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// Checks the ack wait of a source on a broker.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(crate) fn check_ack_wait(ack_wait: Duration) -> Result<(), ConfigError> {
    if (Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60)).contains(&ack_wait) {
        return Ok(());
    }
    let accepted = "a duration of 100 ms to 24 hours";
    Err(ConfigError::new("ack_wait", format!("{ack_wait:?}"), accepted))
}

/// Why a source could not be made. Nothing was fetched.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting has a value that is not allowed, or that contradicts the broker's.
    Config(ConfigError),
    /// The broker cannot be reached.
    Unreachable {
        /// The address, without its password.
        url: String,
        /// The error of the client.
        error: BoxError,
    },
    /// The broker refused what a setting asks for: there is no such stream, or no permission.
    Refused {
        /// The name of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// The answer of the broker.
        error: BoxError,
    },
}

impl ConnectError {
    /// Makes the error of a broker that cannot be reached. Logs must not tell the password of the address.
    #[cfg(any(feature = "nats", feature = "redis"))]
    pub(crate) fn unreachable(url: &str, error: impl Into<BoxError>) -> Self {
        let hidden = || {
            let (scheme, rest) = url.split_once("://")?;
            let (user, host) = rest.rsplit_once('@')?;
            // A name alone is a token of NATS, and as secret as a password.
            let user = user.split_once(':').map(|(user, _)| format!("{user}:")).unwrap_or_default();
            Some(format!("{scheme}://{user}...@{host}"))
        };
        let url = hidden().unwrap_or_else(|| url.to_owned());
        Self::Unreachable { url, error: error.into() }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Unreachable { url, error } => write!(f, "cannot reach the broker {url}: {error}"),
            Self::Refused { field, value, error } => {
                write!(f, "the broker refuses `{field}` = {value}: {error}")
            }
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The text is that of the error itself.
            Self::Config(error) => error.source(),
            Self::Unreachable { error, .. } | Self::Refused { error, .. } => Some(&**error),
        }
    }
}

impl From<ConfigError> for ConnectError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
