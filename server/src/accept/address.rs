//! The address of a peer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address of the peer of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix socket. Clients of Unix sockets have no address.
    Unix,
}

impl Address {
    #[cfg(feature = "http")]
    pub(crate) fn of(address: socket2::SockAddr) -> std::io::Result<Self> {
        match address.as_socket() {
            Some(address) => Ok(Self::Tcp(address)),
            None => Ok(Self::Unix),
        }
    }

    /// Returns the IP address, or `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
