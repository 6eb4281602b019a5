//! A socket without wakers: the events of the connection table wake its owner.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{SendFlags, send};
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(feature = "http")]
use crate::accept::address::Address;
use crate::conn::events::Events;
use crate::conn::transport::Transport;

/// A non-blocking stream socket. A read or a write that would block returns `Pending` and registers
/// no waker. The inner epoll is edge-triggered, so the kernel reports the next change by itself.
#[derive(Debug)]
pub(crate) struct EdgeSocket {
    socket: Socket,
    is_unix: bool,
    /// A read has emptied the kernel's buffer. Reads return `Pending` without a system call until
    /// the next event says that bytes have come.
    drained: bool,
    /// The peer has ended its side or the connection broke. A short read does not empty the socket
    /// then: the end of the stream, or the error, is still to be read.
    closing: bool,
    /// The socket has taken bytes since this was last asked.
    made_progress: bool,
}

impl EdgeSocket {
    pub(crate) fn new(socket: Socket, is_unix: bool) -> Self {
        Self { socket, is_unix, drained: false, closing: false, made_progress: false }
    }

    /// Returns the socket, and whether it is a Unix socket.
    pub(crate) fn into_socket(self) -> (Socket, bool) {
        (self.socket, self.is_unix)
    }

    /// Notes the events that started a turn.
    pub(crate) fn on_ready(&mut self, events: Events) {
        if events.any(Events::CLOSING) {
            self.closing = true;
        }
        if events.any(Events::READABLE | Events::CLOSING | Events::CLOSE_REQUESTED) {
            self.drained = false;
        }
    }
}

impl AsRawFd for EdgeSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Transport for EdgeSocket {
    fn force_io(&mut self, forced: bool) {
        if forced {
            self.drained = false;
        }
    }

    #[cfg(feature = "http")]
    fn on_ready(&mut self, events: Events) {
        Self::on_ready(self, events);
    }

    fn made_progress(&mut self) -> bool {
        std::mem::take(&mut self.made_progress)
    }

    #[cfg(feature = "http")]
    const REGISTERS_WAKER: bool = false;

    #[cfg(feature = "http")]
    fn peer_addr(&self) -> io::Result<Address> {
        Address::of(self.socket.peer_addr()?)
    }
}

impl AsyncRead for EdgeSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.drained {
            return Poll::Pending;
        }
        let (wanted, before) = (buffer.remaining(), buffer.filled().len());
        let polled = read(&self.socket, buffer);
        let count = buffer.filled().len() - before;
        self.drained = match &polled {
            Poll::Pending => true,
            // Bytes that come after a short read cause a new event.
            Poll::Ready(Ok(())) => count < wanted && count > 0 && !self.closing,
            Poll::Ready(Err(_)) => false,
        };
        polled
    }
}

impl AsyncWrite for EdgeSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = write(&self.socket, bytes);
        self.made_progress |= matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(std::net::Shutdown::Write))
    }
}

/// Reads without blocking, and registers no waker.
pub(crate) fn read(socket: &Socket, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let unfilled = buffer.initialize_unfilled();
    match retry(|| io::Read::read(&mut &*socket, unfilled)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done.map(|count| buffer.advance(count))),
    }
}

/// Writes without blocking, and registers no waker. A closed peer causes an error, not `SIGPIPE`.
pub(crate) fn write(socket: &Socket, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match retry(|| Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// Repeats a call that a signal has interrupted.
fn retry<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
