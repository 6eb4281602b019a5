//! What a connection reads from and writes to: the bare transport, or a TLS session over it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, io};

#[cfg(feature = "http")]
use crate::accept::address::Address;
#[cfg(feature = "http")]
use crate::conn::events::Events;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream over sockets, in either mode.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether reads and writes ask the kernel, whatever readiness is known.
    fn force_io(&mut self, _forced: bool) {}

    /// Notes the readiness that the reactor has reported.
    #[cfg(feature = "http")]
    fn on_ready(&mut self, _events: Events) {}

    /// Whether the socket has taken bytes since this was last asked. A TLS session writes on its
    /// own, and what it was given has not gone out yet.
    fn made_progress(&mut self) -> bool;

    /// Whether a read or a write that is pending wakes its caller. Else its events do.
    #[cfg(feature = "http")]
    const REGISTERS_WAKER: bool;

    /// The other end.
    #[cfg(feature = "http")]
    fn peer_addr(&self) -> io::Result<Address>;
}

pub(crate) enum MaybeTls<W> {
    Plain(W),
    /// In other hands.
    #[cfg(feature = "http")]
    Taken,
    #[cfg(feature = "rustls")]
    Handshake(Box<tokio_rustls::Accept<W>>),
    /// Boxed: a session is large, and plain connections should be small.
    #[cfg(feature = "rustls")]
    Tls(Box<tokio_rustls::server::TlsStream<W>>),
}

/// How connections are secured.
#[derive(Clone, Default)]
pub(crate) struct TlsAccept {
    #[cfg(feature = "rustls")]
    pub(crate) acceptor: Option<tokio_rustls::TlsAcceptor>,
}

impl fmt::Debug for TlsAccept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_plain() { "Plain" } else { "Tls" })
    }
}

impl TlsAccept {
    pub(crate) fn wrap<W: Transport>(&self, transport: W) -> MaybeTls<W> {
        #[cfg(feature = "rustls")]
        if let Some(acceptor) = &self.acceptor {
            return MaybeTls::Handshake(Box::new(acceptor.accept(transport)));
        }
        MaybeTls::Plain(transport)
    }

    pub(crate) fn is_plain(&self) -> bool {
        #[cfg(feature = "rustls")]
        return self.acceptor.is_none();
        #[cfg(not(feature = "rustls"))]
        true
    }
}

impl<W: Transport> MaybeTls<W> {
    /// Goes on with the handshake, where there is one.
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

    /// The transport; none after a handshake that failed.
    pub(crate) fn transport(&mut self) -> Option<&mut W> {
        match self {
            Self::Plain(transport) => Some(transport),
            #[cfg(feature = "http")]
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
            #[cfg(feature = "http")]
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
            #[cfg(feature = "http")]
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
            #[cfg(feature = "http")]
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
            #[cfg(feature = "http")]
            Self::Taken => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Handshake(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "rustls")]
            Self::Tls(session) => Pin::new(session.as_mut()).poll_shutdown(cx),
        }
    }
}
