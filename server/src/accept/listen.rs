//! Where a server listens.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::accept::address::Address;
use crate::settings::Mode;
use millpond::ConfigError;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where a server listens, and how. Made of a text (`127.0.0.1:7000`, `[::1]:7000`,
/// `localhost:7000`, `unix:/run/echo.sock`), an address, or a listener that is bound already. A
/// name is looked up when the server starts, which blocks, and the first address that can be bound
/// is used.
///
/// # Examples
///
/// ```
/// use millpond_server::{Listen, Mode};
///
/// let listen = Listen::from("127.0.0.1:7000").mode(Mode::EventDriven).reuse_port(true);
/// # let _ = listen;
/// ```
#[derive(Debug)]
#[must_use = "it listens once it is given to a server that is started"]
pub struct Listen {
    target: Target,
    pub(crate) mode: Option<Mode>,
    backlog: u32,
    reuse_port: bool,
    nodelay: bool,
    keepalive: Option<Duration>,
}

#[derive(Debug)]
enum Target {
    Tcp(String),
    Unix(PathBuf),
    /// The error of a conversion, which the start reports.
    Bound(io::Result<Socket>),
}

impl Listen {
    fn new(target: Target) -> Self {
        Self {
            target,
            mode: None,
            backlog: 1024,
            reuse_port: false,
            nodelay: true,
            keepalive: Some(Duration::from_secs(60)),
        }
    }

    /// At a Unix socket. A socket file that nobody listens at any more is replaced; any other file
    /// is an error. The file stays when the server has ended.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(Target::Unix(path.as_ref().to_owned()))
    }

    /// The mode of the connections that come this way. Default: the server's.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// How many connections the kernel holds that were not accepted yet: from 1, up to its own
    /// limit. Default 1,024.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// `SO_REUSEPORT`: others may listen at the same port, and the kernel spreads the connections.
    /// Also the way to several acceptors in one process. Default `false`; TCP only.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// `TCP_NODELAY` for the connections. Default `true`; TCP only.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// After how long without traffic the kernel asks whether the peer is still there
    /// (`SO_KEEPALIVE`), and then every quarter of that, in seconds; `None` for never. Default
    /// 60 s; TCP only.
    pub fn keepalive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.keepalive = after.into();
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.backlog == 0 {
            return Err(ConfigError::new("backlog", 0, "a number from 1"));
        }
        if matches!(&self.target, Target::Unix(path) if path.as_os_str().is_empty()) {
            return Err(ConfigError::new("listen", "unix:", "a path after `unix:`"));
        }
        let second = Duration::from_secs(1);
        if let Some(after) = self.keepalive.filter(|after| *after < second || *after > DAY) {
            let accepted = "from 1 s to a day, or `None` for never";
            return Err(ConfigError::new("keepalive", format!("{after:?}"), accepted));
        }
        Ok(())
    }

    /// Options are set on the listener: the connections inherit them, which saves calls for each.
    pub(crate) fn bind(&self) -> io::Result<Listener> {
        match &self.target {
            Target::Tcp(address) => {
                let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address");
                for address in address.to_socket_addrs()? {
                    match self.bind_tcp(address) {
                        Ok(socket) => return Listener::new(socket),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Target::Unix(path) => {
                let address = socket2::SockAddr::unix(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                if let Err(error) = socket.bind(&address) {
                    let is_socket = |path| {
                        std::fs::symlink_metadata(path)
                            .is_ok_and(|metadata| metadata.file_type().is_socket())
                    };
                    let stale = error.kind() == io::ErrorKind::AddrInUse
                        && is_socket(path)
                        && Socket::new(Domain::UNIX, Type::STREAM, None)?
                            .connect(&address)
                            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                    if !stale {
                        return Err(error);
                    }
                    std::fs::remove_file(path)?;
                    socket.bind(&address)?;
                }
                socket.listen(self.backlog.min(i32::MAX as u32) as i32)?;
                Listener::new(socket)
            }
            Target::Bound(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
            Target::Bound(Ok(socket)) => {
                let socket = socket.try_clone()?;
                if socket.local_addr()?.as_socket().is_some() {
                    self.options(&socket)?;
                }
                Listener::new(socket)
            }
        }
    }

    fn bind_tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        self.options(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(self.backlog.min(i32::MAX as u32) as i32)?;
        Ok(socket)
    }

    fn options(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        match self.keepalive {
            None => socket.set_keepalive(false),
            Some(after) => {
                let second = Duration::from_secs(1);
                let keepalive = TcpKeepalive::new().with_time(after);
                socket.set_tcp_keepalive(&keepalive.with_interval((after / 4).max(second)))
            }
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tcp(address) => f.write_str(address),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Bound(_) => f.write_str("a bound listener"),
        }
    }
}

/// What a server can listen at: a [`Listen`] or what converts into one.
///
/// Implemented for texts, for [`SocketAddr`], and for the listeners of std and tokio. Implement it for
/// a type of your own that knows where to listen.
#[diagnostic::on_unimplemented(
    message = "a server cannot listen at `{Self}`",
    label = "neither an address nor a listener",
    note = "give a text such as \"127.0.0.1:7000\" or \"unix:/run/echo.sock\", a `SocketAddr`, a \
            `TcpListener` or `UnixListener` of std or tokio, or a `Listen`"
)]
pub trait IntoListen {
    /// Converts into a [`Listen`].
    fn into_listen(self) -> Listen;
}

impl IntoListen for Listen {
    fn into_listen(self) -> Listen {
        self
    }
}

macro_rules! into_listen {
    ($($from:ty),+) => {$(
        impl IntoListen for $from {
            fn into_listen(self) -> Listen {
                self.into()
            }
        }
    )+};
}

// A blanket over `Into<Listen>` would put an error about `From` in place of the message above.
into_listen!(&str, String, SocketAddr);
into_listen!(std::net::TcpListener, std::os::unix::net::UnixListener);
into_listen!(tokio::net::TcpListener, tokio::net::UnixListener);

impl From<&str> for Listen {
    fn from(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::unix(path),
            None => Self::new(Target::Tcp(text.to_owned())),
        }
    }
}

impl From<String> for Listen {
    fn from(text: String) -> Self {
        Self::from(&*text)
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::new(Target::Tcp(address.to_string()))
    }
}

impl From<std::net::TcpListener> for Listen {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::new(Target::Bound(Ok(listener.into())))
    }
}

impl From<std::os::unix::net::UnixListener> for Listen {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self::new(Target::Bound(Ok(listener.into())))
    }
}

impl From<tokio::net::TcpListener> for Listen {
    fn from(listener: tokio::net::TcpListener) -> Self {
        Self::new(Target::Bound(listener.into_std().map(Socket::from)))
    }
}

impl From<tokio::net::UnixListener> for Listen {
    fn from(listener: tokio::net::UnixListener) -> Self {
        Self::new(Target::Bound(listener.into_std().map(Socket::from)))
    }
}

/// A listener that does not block.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

impl Listener {
    fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(match socket.local_addr()?.as_socket() {
            Some(_) => Self::Tcp(mio::net::TcpListener::from_std(socket.into())),
            None => Self::Unix(mio::net::UnixListener::from_std(socket.into())),
        })
    }

    /// A connection, which does not block either.
    pub(crate) fn accept(&self) -> io::Result<(Socket, Address)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                (Socket::from(OwnedFd::from(stream)), Address::Tcp(address))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                (Socket::from(OwnedFd::from(stream)), Address::Unix)
            }
        })
    }

    /// The TCP address, with the port that was chosen.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let Self::Tcp(listener) = self else { return None };
        SockRef::from(listener).local_addr().ok()?.as_socket()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }
}
