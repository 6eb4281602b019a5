//! The socket as hyper sees it, and the means to take the socket back.
//!
//! Hyper owns its I/O object for as long as its connection lives. So hyper gets [`LentIo`], a handle; the
//! socket itself stands in [`LentState`], behind a mutex in [`Shared`]. A turn puts the socket there before
//! it polls hyper, and takes the socket out between requests. `conn.rs` and `http2.rs` make the
//! `Shared`, `serve_turn.rs` lends and accounts, hyper reads and writes.
//!
//! The mutex `lent` is held for one read, write or flush of the socket. No code of the user runs under it.
//! For HTTP/1 only the owner of hyper's state takes the lock (`H4`), so there is no contention.
//!
//! What must never happen: the socket leaves hyper before the end of a request (`H1`). `conn.rs` sees to that.

use std::any::Any;
use std::io;
use std::mem::{replace, take};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::buffers::poll_read_with;
use crate::conn::notifier::ConnNotifier;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::head;
use crate::http::progress::{ConnProgress, Entry, SocketWaiter, UNFLUSHED};
use crate::sync::{Mutex, MutexGuard, failpoint};

/// What hyper's handle of the socket and the connection's owner share.
pub(super) struct Shared<W> {
    pub(super) progress: Arc<ConnProgress>,
    /// The waker that turns poll hyper with. It wakes `progress`.
    pub(super) waker: Waker,
    lent: Mutex<LentState<W>>,
    /// The connection's entry and permit, after the connection was detached. Declared after the socket:
    /// the socket closes before the entry is free (`H8`).
    /// The WebSockets of an HTTP/2 connection are owners as well: each has a handler to tell of the end.
    entry: Mutex<Option<Arc<Entry>>>,
}

/// The lent socket and what went through it.
pub(super) struct LentState<W> {
    /// `Taken` while the socket is elsewhere.
    pub(super) io: MaybeTls<W>,
    /// Bytes that a turn has read before hyper had the socket. Hyper reads them first.
    first: Bytes,
    /// Hyper reads the first byte alone.
    in_parts: bool,
    /// Bytes that hyper has read from the socket.
    pub(super) read: u64,
    /// Bytes that hyper has written.
    pub(super) wrote: u64,
    /// How many calls have moved bytes, in either direction.
    pub(super) moves: u64,
    /// The peer has ended its side, or the connection broke.
    pub(super) is_ended: bool,
    /// How many bytes hyper may still read in this turn.
    pub(super) budget: usize,
    /// The budget was used up, and hyper wanted more.
    pub(super) is_spent: bool,
    /// The waker of the connection's task. The socket wakes that task itself, not through the progress.
    pub(super) task: Option<Waker>,
    /// The socket refused bytes in the last write, flush or shutdown.
    pub(super) is_blocked: bool,
    seen: BytesSeen,
    /// The count of requests at the last clean point.
    requests: u64,
    /// The bytes read, the bytes written and the requests that the counts of the server have.
    reported: (u64, u64, u64),
}

/// Bytes that were read before hyper had the socket.
pub(super) struct FirstBytes {
    pub(super) bytes: Bytes,
    /// The length of the head that the bytes begin with.
    pub(super) head: Option<usize>,
    /// The bytes have come in parts. Without a whole head hyper reads them in parts too, since hyper judges
    /// a head that comes in parts at its end.
    pub(super) in_parts: bool,
}

/// What went through hyper since the last clean point: a moment when hyper held no unused byte.
#[derive(Default)]
struct BytesSeen {
    /// Bytes that hyper was given.
    since: u64,
    /// The length of the head that these bytes begin with, if the first read had all of that head.
    head: Option<u64>,
}

impl BytesSeen {
    /// Counts bytes that hyper reads. The first of them after a clean point begin with a head.
    fn note(&mut self, bytes: &[u8]) {
        if self.since == 0 {
            self.head = head::end(bytes).map(|end| end as u64);
        }
        self.since += bytes.len() as u64;
    }
}

impl<W: Transport> Shared<W> {
    /// Lends the socket of a connection. `first` was read from the socket already.
    pub(super) fn new(
        (notifier, peer): (ConnNotifier, Option<Address>),
        io: MaybeTls<W>,
        first: FirstBytes,
    ) -> Arc<Self> {
        let progress = Arc::new(ConnProgress::new(notifier, peer));
        let waker = Waker::from(progress.clone());
        let (since, head) = (first.bytes.len() as u64, first.head.map(|head| head as u64));
        let lent = LentState {
            io,
            in_parts: first.in_parts && head.is_none(),
            first: first.bytes,
            read: 0,
            wrote: 0,
            moves: 0,
            is_ended: false,
            budget: 0,
            is_spent: false,
            task: None,
            is_blocked: false,
            seen: BytesSeen { since, head },
            requests: 0,
            reported: (0, 0, 0),
        };
        Arc::new(Self { progress, waker, lent: Mutex::new(lent), entry: Mutex::new(None) })
    }

    pub(super) fn lent(&self) -> MutexGuard<'_, LentState<W>> {
        self.lent.lock()
    }

    /// Returns whether hyper holds no unused byte for sure: all that hyper was given since the last such
    /// point is one whole request, a head and a body of the declared length. Called at rest.
    ///
    /// No socket leaves hyper for this answer alone: see `serve_turn.rs`, `has_skipped`.
    pub(super) fn is_clean(&self) -> bool {
        let mut lent = self.lent.lock();
        let whole = lent.seen.head.zip(self.progress.last_body());
        let whole = whole.and_then(|(head, body)| head.checked_add(body));
        let is_clean = match self.progress.requests() - lent.requests {
            0 => lent.seen.since == 0,
            1 => whole == Some(lent.seen.since),
            _ => false,
        };
        if is_clean {
            (lent.seen, lent.requests) = (BytesSeen::default(), self.progress.requests());
        }
        is_clean
    }

    /// Makes the owner of the lent socket the owner of the connection: after an upgrade, and for HTTP/2.
    pub(super) fn detach(&self, entry_guard: Box<dyn Any + Send>) {
        let entry = Arc::new(Mutex::new(entry_guard));
        *self.entry.lock() = Some(entry.clone());
        let mut lent = self.lent();
        // The turn has counted what came before.
        lent.reported = (lent.read, lent.wrote, self.progress.requests());
        drop(lent);
        self.progress.detach(&entry);
    }

    /// Adds what a detached connection has done since the last call to the counts of the server.
    pub(super) fn report(&self) {
        let requests = self.progress.requests();
        let mut lent = self.lent();
        let now = (lent.read, lent.wrote, requests);
        let before = replace(&mut lent.reported, now);
        drop(lent);
        if now != before {
            self.progress.count_traffic(now.0 - before.0, now.1 - before.1, now.2 - before.2);
        }
    }

    /// Reads and discards bytes until the peer has ended its side, or until the connection has read `most`
    /// bytes in all. Called when hyper is done with an HTTP/2 connection.
    ///
    /// A close with unread bytes would have the kernel reset the connection and drop bytes on their way to
    /// the peer.
    pub(super) fn poll_peer_closed(&self, cx: &mut Context<'_>, most: u64) -> Poll<()> {
        let mut lent = self.lent();
        let lent = &mut *lent;
        if let Some(transport) = lent.io.transport() {
            transport.force_io(!W::REGISTERS_WAKER);
        }
        while lent.read < most {
            let polled = poll_read_with(&mut lent.io, cx, usize::MAX, |_| {});
            lent.note_moves(matches!(polled, Poll::Ready(Ok(1..))));
            match ready!(polled) {
                Ok(count @ 1..) => lent.read += count as u64,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<W: Transport> LentState<W> {
    /// Takes the socket back.
    pub(super) fn take_io(&mut self) -> MaybeTls<W> {
        replace(&mut self.io, MaybeTls::Taken)
    }

    /// Takes the bytes that were read before hyper had the socket, and that hyper has not read.
    #[cfg(feature = "ws")]
    pub(super) fn take_first(&mut self) -> Bytes {
        take(&mut self.first)
    }

    /// Calls the socket. In a turn of a connection with a task, the socket is to wake that task.
    fn with_io<T>(
        &mut self,
        of_turn: bool,
        cx: &mut Context<'_>,
        call: impl FnOnce(Pin<&mut MaybeTls<W>>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { io, task, .. } = self;
        match task.as_ref().filter(|_| of_turn) {
            Some(task) => call(Pin::new(io), &mut Context::from_waker(task)),
            None => call(Pin::new(io), cx),
        }
    }

    /// Notes a call in which bytes may have moved. The transport knows whether the kernel took some: a TLS
    /// session also writes bytes of earlier calls.
    fn note_moves(&mut self, read: bool) {
        let wrote = self.io.transport().is_some_and(Transport::made_progress);
        self.moves += u64::from(wrote || read);
    }

    /// Notes the result of a write, flush or shutdown. Returns the result.
    fn note_write<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.note_moves(false);
        self.is_blocked = polled.is_pending();
        polled
    }
}

impl<W> Drop for Shared<W> {
    /// Counts what an upgraded connection has done. Its end is the peer's if the peer has ended its side.
    fn drop(&mut self) {
        if !self.progress.is_detached() {
            return;
        }
        let lent = self.lent.lock();
        let (now, before, is_ended) = ((lent.read, lent.wrote), lent.reported, lent.is_ended);
        drop(lent);
        if now != (before.0, before.1) {
            self.progress.count_traffic(now.0 - before.0, now.1 - before.1, 0);
        }
        if is_ended && self.progress.close_requested().is_none() {
            self.progress.close(CloseReason::Peer);
        }
    }
}

/// Hyper's handle of the lent socket.
pub(super) struct LentIo<W>(pub(super) Arc<Shared<W>>);

impl<W: Transport> LentIo<W> {
    /// Registers the waker of a caller that owns the connection: the user of an upgraded connection, or an
    /// HTTP/2 task. Such a caller has no budget, and learns here that the server has ended.
    ///
    /// A turn polls with `Shared::waker`. The table knows which events wake a turn, so a turn registers
    /// nothing. Returns whether the caller is a turn.
    fn register(
        &self,
        lent: &mut LentState<W>,
        waiter: SocketWaiter,
        waker: &Waker,
    ) -> io::Result<bool> {
        let Shared { progress, waker: own, .. } = &*self.0;
        if waker.will_wake(own) {
            return Ok(true);
        }
        // Also if the transport registers wakers itself: the transport does not know of the server's end.
        progress.register(waiter, waker);
        if progress.is_killed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(transport) = lent.io.transport() {
            transport.force_io(!W::REGISTERS_WAKER);
        }
        lent.budget = usize::MAX;
        Ok(false)
    }
}

impl<W: Transport> Read for LentIo<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        let lent = &mut *lent;
        if !lent.first.is_empty() {
            let most = if replace(&mut lent.in_parts, false) { 1 } else { lent.first.len() };
            let count = most.min(buffer.remaining());
            buffer.put_slice(&lent.first[..count]);
            lent.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let of_turn = self.register(lent, SocketWaiter::Reader, cx.waker())?;
        if lent.budget == 0 {
            lent.is_spent = true;
            return Poll::Pending;
        }
        let room = buffer.remaining();
        let mut seen = take(&mut lent.seen);
        let polled = lent.with_io(of_turn, cx, |io, cx| {
            poll_read_with(io.get_mut(), cx, room, |bytes| {
                buffer.put_slice(bytes);
                seen.note(bytes);
            })
        });
        lent.seen = seen;
        lent.note_moves(matches!(polled, Poll::Ready(Ok(1..))));
        lent.is_ended |= matches!(polled, Poll::Ready(Ok(0) | Err(_))) && room > 0;
        let count = ready!(polled)?;
        lent.read += count as u64;
        let is_budgeted = !failpoint("hyper reads without a budget");
        lent.budget = lent.budget.saturating_sub(if is_budgeted { count } else { 0 });
        Poll::Ready(Ok(()))
    }
}

impl<W: Transport> Write for LentIo<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut lent = self.0.lent();
        let of_turn = self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        // Also if the socket refuses the bytes: hyper holds them and has to flush.
        self.0.progress.set(UNFLUSHED);
        let polled = lent.with_io(of_turn, cx, |io, cx| io.poll_write(cx, bytes));
        let polled = lent.note_write(polled);
        if let Poll::Ready(Ok(count)) = &polled {
            lent.wrote += *count as u64;
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        let of_turn = self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let polled = lent.with_io(of_turn, cx, |io, cx| io.poll_flush(cx));
        let polled = lent.note_write(polled);
        if polled.is_ready() {
            self.0.progress.clear(UNFLUSHED);
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        let of_turn = self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let polled = lent.with_io(of_turn, cx, |io, cx| io.poll_shutdown(cx));
        lent.note_write(polled)
    }
}
