//! Why a server could not be started.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

use millpond::ConfigError;

/// Why a server could not be started. Nothing of it runs then.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting has a value that is not allowed.
    Config(ConfigError),
    /// A listener could not be bound.
    Listen {
        /// Where it was to listen.
        listen: String,
        /// What the system said.
        error: io::Error,
    },
    /// A file that a configuration names cannot be used.
    File {
        /// The key that names it, with its path: `servers[0].tls.key`.
        setting: String,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: Box<dyn Error + Send + Sync>,
    },
    /// The system has no epoll, or whatever stands for it, to give.
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
