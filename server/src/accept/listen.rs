//! Listeners: what a server listens at, and the socket that it accepts from.
//!
//! [`Listen`] is the public description of a listener. `ServerBuilder` collects and checks the
//! descriptions, and `Server::start` binds them all before anything runs. [`Listener`] is the bound
//! socket; the accept loop of that listener owns it. [`async_fd`] registers a descriptor with
//! tokio: `Server::start` and the inner epoll in `parked/poller` call it.
//!
//! No lock is involved: a description is not shared, and a listener has one accept loop.
//! A listener must never block, because its accept loop runs on a thread of the runtime. A bind
//! must never remove a file but the socket file of a server that has ended. Between the bind and the
//! listen of a server, its file looks like that one. So the servers of a directory lock it meanwhile.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::accept::address::Address;
use crate::settings::Mode;
use crate::sync::failpoint;
use millpond::ConfigError;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a bind waits for the lock of a directory. A bind holds the lock for microseconds, so after
/// this time another program has it.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The address that a server listens at, with the options of that listener.
///
/// A `Listen` is made from a text (`127.0.0.1:7000`, `[::1]:7000`, `localhost:7000`,
/// `unix:/run/echo.sock`), from an address, from a pair of a host and a port, or from a bound
/// listener. The host is an IP address or a name. That listener may be one of the standard library or
/// of tokio. The server resolves a name when it starts, which blocks the
/// thread. It binds the first of the name's addresses that can be bound.
///
/// # Examples
///
/// ```
/// use millpond_server::{Listen, Mode};
///
/// let listen = Listen::from("127.0.0.1:7000").mode(Mode::EventDriven).reuse_port(true);
/// let on_all_interfaces = Listen::from(("::", 7000));
/// # let _ = (listen, on_all_interfaces);
/// ```
#[derive(Debug)]
#[must_use = "a `Listen` does nothing until a server that has it starts"]
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

    /// Listens at a Unix socket. The server replaces a socket file that no process listens at. Any
    /// other file at that path is an error when the server starts. Of several servers that start at a
    /// path at once, one listens and the others get that error. The socket file stays after the server
    /// has ended.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(Target::Unix(path.as_ref().to_owned()))
    }

    /// Sets the mode of this listener's connections. Default: the server's mode.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the most connections that wait in the kernel to be accepted: from 1, up to the limit of
    /// the kernel. Default 1,024.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets `SO_REUSEPORT`: several sockets may listen at the same port, and the kernel spreads the
    /// connections over them. With this option a process may have several accept loops for a port.
    /// Default `false`; TCP only.
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// Sets `TCP_NODELAY` for the connections. Default `true`; TCP only.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets `SO_KEEPALIVE`: after this time without traffic the kernel probes the peer. The kernel
    /// repeats the probe after each quarter of that time, but not more often than every second.
    /// `None` turns probes off. Accepted: 1 s to a day. Default 60 s; TCP only.
    pub fn keepalive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.keepalive = after.into();
        self
    }

    /// Checks the options. Called when the server is built, before anything is bound.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.backlog == 0 {
            return Err(ConfigError::new("backlog", 0, "a number from 1"));
        }
        if matches!(&self.target, Target::Unix(path) if path.as_os_str().is_empty()) {
            return Err(ConfigError::new("listen", "unix:", "a path after `unix:`"));
        }
        let second = Duration::from_secs(1);
        if let Some(after) = self.keepalive.filter(|after| *after < second || *after > DAY) {
            let accepted = "from 1 s to a day, or `None` for no probes";
            return Err(ConfigError::new("keepalive", format!("{after:?}"), accepted));
        }
        Ok(())
    }

    /// Binds the address and listens. The options are set on the listener: connections inherit
    /// them, which saves system calls for each connection.
    pub(crate) fn bind(&self) -> io::Result<Listener> {
        let socket = match &self.target {
            Target::Tcp(address) => self.bind_first(address)?,
            Target::Unix(path) => self.bind_unix(path)?,
            Target::Bound(Err(error)) => {
                return Err(io::Error::new(error.kind(), error.to_string()));
            }
            Target::Bound(Ok(socket)) => {
                let socket = socket.try_clone()?;
                if socket.local_addr()?.as_socket().is_some() {
                    self.set_options(&socket)?;
                }
                socket
            }
        };
        Listener::new(socket)
    }

    /// Binds the first address of a name that can be bound. Returns the last error if there is
    /// none.
    fn bind_first(&self, address: &str) -> io::Result<Socket> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address");
        for address in address.to_socket_addrs()? {
            match self.bind_tcp(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        self.set_options(&socket)?;
        socket.bind(&address.into())?;
        self.listen(&socket)?;
        Ok(socket)
    }

    fn bind_unix(&self, path: &Path) -> io::Result<Socket> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let _locked = lock_directory_of(path);
        if let Err(error) = socket.bind(&address) {
            if error.kind() != io::ErrorKind::AddrInUse || !is_stale_socket(path, &address)? {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        self.listen(&socket)?;
        Ok(socket)
    }

    fn listen(&self, socket: &Socket) -> io::Result<()> {
        socket.listen(self.backlog.min(i32::MAX as u32) as i32)
    }

    fn set_options(&self, socket: &Socket) -> io::Result<()> {
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

/// Returns whether `path` is a socket file that no process listens at. A server that has ended
/// leaves such a file.
fn is_stale_socket(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(false);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // While the queue of the listener is full, a connect that blocks would wait for an accept.
    socket.set_nonblocking(!failpoint("a full queue delays a start"))?;
    let connected = socket.connect(address);
    Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// Locks the directory of a socket file against the other servers that start there. Returns `None` if
/// the directory cannot be locked, or if another program holds the lock for longer than [`LOCK_WAIT`].
fn lock_directory_of(path: &Path) -> Option<File> {
    if failpoint("socket files have no lock") {
        return None;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    let start = Instant::now();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return None,
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
/// Implemented for texts, for [`SocketAddr`], for pairs of a host and a port, and for the listeners of
/// std and tokio. Implement it for a type of your own that knows where to listen.
#[diagnostic::on_unimplemented(
    message = "a server cannot listen at `{Self}`",
    label = "neither an address nor a listener",
    note = "give a text such as \"127.0.0.1:7000\" or \"unix:/run/echo.sock\", a `SocketAddr`, a \
            pair such as (\"::\", 7000), a `TcpListener` or `UnixListener` of std or tokio, or a `Listen`"
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
into_listen!(&str, String, SocketAddr, (IpAddr, u16), (&str, u16));
into_listen!((Ipv4Addr, u16), (Ipv6Addr, u16), ([u8; 4], u16));
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

macro_rules! from_ip_and_port {
    ($($ip:ty),+) => {$(
        impl From<($ip, u16)> for Listen {
            fn from(address: ($ip, u16)) -> Self {
                SocketAddr::from(address).into()
            }
        }
    )+};
}

from_ip_and_port!(IpAddr, Ipv4Addr, Ipv6Addr, [u8; 4]);

/// The host is an IP address, in brackets or not, or a name.
impl From<(&str, u16)> for Listen {
    fn from((host, port): (&str, u16)) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => (ip, port).into(),
            Err(_) => Self::new(Target::Tcp(format!("{host}:{port}"))),
        }
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

/// A bound listener that does not block.
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

    /// Accepts a connection. Its socket does not block either: mio sees to that.
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

    /// Returns the TCP address, with the port that the kernel chose for port 0. Returns `None` for
    /// a Unix socket.
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

/// Registers `inner` with tokio's I/O driver for reading. `inner` must return the same open
/// descriptor for all its life, as every owner of a descriptor does.
// The replacement of the deprecated constructor is unsafe, because it demands that promise. This
// crate denies unsafe code.
#[allow(deprecated)]
pub(crate) fn async_fd<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn of_servers_that_start_at_once_one_listens() {
        let name = format!("millpond-{}-at-once", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let (listen, barrier) = (Listen::unix(&path), Barrier::new(4));
        let bind = || {
            barrier.wait();
            listen.bind().map_err(|error| error.kind())
        };
        for round in 0..300 {
            // In each other round a server that has ended has left its file.
            let left = round % 2 == 0;
            left.then(|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap()));
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let refused = bound.iter().filter(|bound| {
                bound.as_ref().is_err_and(|kind| *kind == io::ErrorKind::AddrInUse)
            });
            assert_eq!(refused.count(), 3, "round {round}: {bound:?}");
            // The file is that of the server that listens.
            drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
            drop(bound);
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
