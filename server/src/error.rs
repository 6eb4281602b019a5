//! [`StartError`]: why a server could not be started.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

use millpond::ConfigError;

/// Why a server could not be started. After an error nothing of the server runs.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use millpond_server::{Server, StartError};
/// use tokio_util::codec::LinesCodec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
/// let builder = Server::builder().listen("127.0.0.1:0").max_connections(0);
/// let error = builder.codec(LinesCodec::new()).serve(echo).unwrap_err();
/// assert_eq!(error.to_string(), "`max_connections` cannot be 0: accepted is a number from 1");
/// let StartError::Config(error) = error else { unreachable!() };
/// assert_eq!(error.field(), "max_connections");
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting has a value that is not allowed. The error names the setting, the value and the
    /// accepted values.
    Config(ConfigError),
    /// A listener could not be bound.
    Listen {
        /// The address, as it was given.
        listen: String,
        /// The error of the system.
        error: io::Error,
    },
    /// A file that a configuration names cannot be used.
    File {
        /// The key of the file, with its path: `servers[0].tls.key`.
        setting: String,
        /// The path of the file.
        file: PathBuf,
        /// The error of reading or parsing the file.
        error: Box<dyn Error + Send + Sync>,
    },
    /// The system gave no epoll, or no equivalent, for the event-driven mode.
    Reactor(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Listen { listen, error } => write!(f, "cannot listen at {listen}: {error}"),
            Self::File { setting, file, error } => {
                write!(f, "cannot use {} as `{setting}`: {error}", file.display())
            }
            Self::Reactor(error) => write!(f, "cannot watch connections: {error}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::File { error, .. } => Some(error.as_ref()),
            Self::Listen { error, .. } | Self::Reactor(error) => Some(error),
        }
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
