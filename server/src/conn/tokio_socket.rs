//! A TCP or Unix socket, registered with tokio.

use std::io;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

#[cfg(feature = "http")]
use crate::accept::address::Address;
use crate::conn::edge_socket;
use crate::conn::transport::Transport;

/// A socket registered with tokio: reads and writes that would block register the task's waker.
pub(crate) struct TokioSocket {
    stream: Stream,
    /// Reads and writes that tokio calls pending try the socket itself. tokio learns of readiness
    /// late, and never of a send buffer with little room. So a turn that may close its connection
    /// forces the calls.
    forced: bool,
    /// The socket has taken bytes since this was last asked.
    made_progress: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl TokioSocket {
    pub(crate) fn new(socket: Socket, is_unix: bool) -> io::Result<Self> {
        let stream = match is_unix {
            false => Stream::Tcp(TcpStream::from_std(socket.into())?),
            true => Stream::Unix(UnixStream::from_std(socket.into())?),
        };
        Ok(Self { stream, forced: false, made_progress: false })
    }

    /// Ends the registration with tokio. Returns the socket, and whether it is a Unix socket.
    pub(crate) fn into_socket(self) -> io::Result<(Socket, bool)> {
        Ok(match self.stream {
            Stream::Tcp(stream) => (stream.into_std()?.into(), false),
            Stream::Unix(stream) => (stream.into_std()?.into(), true),
        })
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    fn sock_ref(&self) -> SockRef<'_> {
        match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
        }
    }
}

impl Transport for TokioSocket {
    const READINESS_IS_POLLED: bool = true;

    fn force_io(&mut self, forced: bool) {
        self.forced = forced;
    }

    fn made_progress(&mut self) -> bool {
        take(&mut self.made_progress)
    }

    #[cfg(feature = "http")]
    const REGISTERS_WAKER: bool = true;

    #[cfg(feature = "http")]
    fn peer_addr(&self) -> io::Result<Address> {
        Address::of(self.sock_ref().peer_addr()?)
    }
}

impl AsyncRead for TokioSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if this.forced && polled.is_pending() {
            return edge_socket::read(&this.sock_ref(), buffer);
        }
        polled
    }
}

impl AsyncWrite for TokioSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if this.forced && polled.is_pending() {
            polled = edge_socket::write(&this.sock_ref(), bytes);
        }
        this.made_progress |= matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
