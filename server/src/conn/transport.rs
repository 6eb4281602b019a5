//! The byte stream of a connection: a socket, or a TLS session over a socket.
//!
//! [`Transport`] has two kinds of sockets: `edge_socket` without a task, `tokio_socket` with one.
//! [`MaybeTls`] is what turns read and write. The owner of an active connection has it (C1), and
//! no lock is needed. A parked connection of the event-driven mode has it in the entry.
//!
//! No call here waits: reads and writes return `Pending` if the socket would block. Application
//! bytes must never pass before the handshake is complete, or after the stream has moved: reads and
//! writes fail then.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, io};

#[cfg(feature = "http")]
use crate::accept::address::Address;
#[cfg(feature = "http")]
use crate::conn::events::Events;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The socket of a connection, in either mode.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Sets whether reads and writes ask the kernel even if the known readiness says that they
    /// would block. A turn that may close its connection forces the calls.
    fn force_io(&mut self, _forced: bool) {}

    /// Notes the readiness that the poller has reported.
    #[cfg(feature = "http")]
    fn on_ready(&mut self, _events: Events) {}

    /// Returns whether the socket has taken bytes since the last call. Only the socket can tell: a
    /// TLS session accepts bytes before the socket does, and writes bytes of its own.
    fn made_progress(&mut self) -> bool;

    /// Whether the owner of the socket polls its readiness between two turns. Then a read that was short
    /// needs no second one: bytes, or the end, that come later start a turn.
    const READINESS_IS_POLLED: bool = false;

    /// Whether a pending read or write registers the caller's waker. Otherwise the table delivers
    /// events.
    #[cfg(feature = "http")]
    const REGISTERS_WAKER: bool;

    /// Returns the address of the peer.
    #[cfg(feature = "http")]
    fn peer_addr(&self) -> io::Result<Address>;
}

pub(crate) enum MaybeTls<W> {
    Plain(W),
    /// The protocol has moved the stream out: hyper's connection or an upgraded connection has it.
    Taken,
    #[cfg(feature = "rustls")]
    Handshake(Box<tokio_rustls::Accept<W>>),
    /// Boxed, because a session is large and a plain connection must be small.
    #[cfg(feature = "rustls")]
    Tls(Box<tokio_rustls::server::TlsStream<W>>),
}

/// The TLS acceptor of a server, or none. The clones of all listeners share the acceptor, so a
/// replacement reaches them all.
#[derive(Clone, Default)]
pub(crate) struct TlsAccept {
    #[cfg(feature = "rustls")]
    acceptor: Option<std::sync::Arc<crate::sync::Mutex<tokio_rustls::TlsAcceptor>>>,
    /// The protocols that ALPN offers if a configuration offers none.
    #[cfg(feature = "rustls")]
    pub(crate) alpn: &'static [&'static [u8]],
}

impl fmt::Debug for TlsAccept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_plain() { "Plain" } else { "Tls" })
    }
}

impl TlsAccept {
    /// Puts the TLS handshake around a new connection's socket, if the listener has TLS.
    pub(crate) fn wrap<W: Transport>(&self, transport: W) -> MaybeTls<W> {
        #[cfg(feature = "rustls")]
        if let Some(acceptor) = &self.acceptor {
            let acceptor = acceptor.lock().clone();
            return MaybeTls::Handshake(Box::new(acceptor.accept(transport)));
        }
        MaybeTls::Plain(transport)
    }

    /// Sets the configuration of connections that are accepted from now on.
    #[cfg(feature = "rustls")]
    pub(crate) fn set(&mut self, config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>) {
        let acceptor = crate::sync::Mutex::new(self.with_alpn(config).into());
        self.acceptor = Some(std::sync::Arc::new(acceptor));
    }

    /// Replaces the configuration for all clones. Returns whether there was one.
    #[cfg(feature = "rustls")]
    pub(crate) fn replace(
        &self,
        config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> bool {
        let Some(acceptor) = &self.acceptor else { return false };
        let new = self.with_alpn(config).into();
        let old = std::mem::replace(&mut *acceptor.lock(), new);
        // After the unlock: the configuration may hold user code.
        drop(old);
        true
    }

    #[cfg(feature = "rustls")]
    fn with_alpn(
        &self,
        config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> std::sync::Arc<tokio_rustls::rustls::ServerConfig> {
        if self.alpn.is_empty() || !config.alpn_protocols.is_empty() {
            return config;
        }
        let mut config = (*config).clone();
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.into()
    }

    pub(crate) fn is_plain(&self) -> bool {
        #[cfg(feature = "rustls")]
        return self.acceptor.is_none();
        #[cfg(not(feature = "rustls"))]
        true
    }
}

impl<W: Transport> MaybeTls<W> {
    /// Advances the handshake. Ready when it is complete, and at once if there is none.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        #[cfg(feature = "rustls")]
        if let Self::Handshake(accept) = self {
            let session = std::task::ready!(Pin::new(accept.as_mut()).poll(cx))?;
            *self = Self::Tls(Box::new(session));
        }
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Returns the socket. Returns `None` after a handshake that failed, and while another owner
    /// has the stream.
    pub(crate) fn transport(&mut self) -> Option<&mut W> {
        match self {
            Self::Plain(transport) => Some(transport),
            Self::Taken => None,
            #[cfg(feature = "rustls")]
            Self::Handshake(accept) => accept.get_mut(),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Some(session.get_mut().0),
        }
    }
}

impl<W: Transport> AsyncRead for MaybeTls<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_read(cx, buffer),
            Self::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            #[cfg(feature = "rustls")]
            Self::Handshake(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Pin::new(session.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl<W: Transport> AsyncWrite for MaybeTls<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_write(cx, bytes),
            Self::Taken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            #[cfg(feature = "rustls")]
            Self::Handshake(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Pin::new(session.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_flush(cx),
            Self::Taken => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Handshake(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Pin::new(session.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_shutdown(cx),
            Self::Taken => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Handshake(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Pin::new(session.as_mut()).poll_shutdown(cx),
        }
    }
}
