//! A socket without wakers: its readiness comes as events.

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

/// A stream socket, not blocking, whose reads and writes never arm anything: where they would
/// block they are pending, and the next events of the table wake its owner.
#[derive(Debug)]
pub(crate) struct EdgeSocket {
    socket: Socket,
    /// All that had come was read: the next read need not ask the kernel before the next event.
    drained: bool,
    /// The end of the stream is near: a short read does not mean that nothing is left.
    closing: bool,
    made_progress: bool,
}

impl EdgeSocket {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, drained: false, closing: false, made_progress: false }
    }

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
            // The kernel tells of bytes that come after a short read by a new event.
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

/// Reads without waiting, and without anybody to be woken.
pub(crate) fn read(socket: &Socket, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let unfilled = buffer.initialize_unfilled();
    match retry(|| io::Read::read(&mut &*socket, unfilled)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done.map(|count| buffer.advance(count))),
    }
}

/// Writes without waiting, and without anybody to be woken.
pub(crate) fn write(socket: &Socket, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match retry(|| Ok(send(socket, bytes, SendFlags::NOSIGNAL)?)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

fn retry<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
