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
        Self::Unreachable { url: without_secrets(url), error: error.into() }
    }
}

/// Returns an address without its password, its token and its query.
#[cfg(any(feature = "nats", feature = "redis"))]
fn without_secrets(url: &str) -> String {
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (start, rest) = match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    match place.rsplit_once('@') {
        // The password may have a question mark, or the query an `@`.
        _ if query.contains('@') => format!("{start}..."),
        None => format!("{start}{place}"),
        Some((user, host)) => {
            // A name alone is a token of NATS, and as secret as a password. So is one before a second address.
            let name = user.split_once(':').map(|(name, _)| name);
            let name = name.filter(|name| !name.contains('@'));
            let user = name.map(|name| format!("{name}:")).unwrap_or_default();
            format!("{start}{user}...@{host}")
        }
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

#[cfg(all(test, any(feature = "nats", feature = "redis")))]
mod tests {
    use super::ConnectError;

    #[test]
    fn an_address_is_told_without_its_secrets() {
        let addresses = [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://s3cret@127.0.0.1:4222", "nats://...@127.0.0.1:4222"),
            ("nats://name:s3cret@127.0.0.1:4222", "nats://name:...@127.0.0.1:4222"),
            ("s3cret@127.0.0.1:4222", "...@127.0.0.1:4222"),
            ("name:s3cret@127.0.0.1:4222", "name:...@127.0.0.1:4222"),
            ("s3cret@one,nats://s3cret@two", "...@two"),
            ("nats://s3cret@one,nats://name:s3cret@two", "nats://...@two"),
            ("unix:///run/redis.sock?db=1&pass=s3cret", "unix:///run/redis.sock"),
            ("unix:///run/redis.sock?user=name&pass=x@s3cret", "unix://..."),
            ("redis://name:s3cret?s3cret@127.0.0.1", "redis://..."),
        ];
        for (address, told) in addresses {
            let error = ConnectError::unreachable(address, "a test").to_string();
            assert_eq!(error, format!("cannot reach the broker {told}: a test"), "{address}");
        }
    }
}
