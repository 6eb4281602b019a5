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
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::close_reason::CloseReason;
use crate::conn::buffers::{READ_SIZE, poll_read_with};
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::head;
use crate::http::progress::{ConnProgress, Entry, SocketWaiter, UNFLUSHED};
use crate::sync::{Mutex, MutexGuard, failpoint};

/// What hyper's handle of the socket and the connection's owner share.
pub(super) struct Shared<W> {
    pub(super) progress: Arc<ConnProgress>,
    is_tls: bool,
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
    head: HeadSeen,
}

/// The head that the bytes since the last clean point begin with.
#[derive(Default)]
enum HeadSeen {
    /// The first read did not have all of the head.
    #[default]
    Unknown,
    /// The length of the head.
    Ends(u64),
    /// The first read begins with `GET ` and ends with an empty line. Most requests come so, and need no
    /// search for the end of the head.
    Get,
}

impl BytesSeen {
    /// Counts bytes that hyper reads. The first of them after a clean point begin with a head.
    fn note(&mut self, bytes: &[u8]) {
        if self.since == 0 {
            self.head = match bytes.starts_with(b"GET ") && bytes.ends_with(b"\r\n\r\n") {
                true => HeadSeen::Get,
                false => HeadSeen::of(head::end(bytes)),
            };
        } else if matches!(self.head, HeadSeen::Get) && !failpoint("a GET hides what follows") {
            self.head = HeadSeen::Unknown;
        }
        self.since += bytes.len() as u64;
    }

    /// Returns whether the bytes are one request with a body of `body` bytes. Empty lines may follow: hyper
    /// skips those before the next head. Called when hyper has begun that request and no other, and has
    /// parsed what follows.
    fn is_request(&self, body: Option<u64>) -> bool {
        match (&self.head, body) {
            (HeadSeen::Ends(head), Some(body)) => head.checked_add(body) == Some(self.since),
            // Anything but empty lines in front of the last empty line would be a second request.
            (HeadSeen::Get, Some(0)) => true,
            _ => false,
        }
    }
}

impl HeadSeen {
    fn of(end: Option<usize>) -> Self {
        end.map_or(Self::Unknown, |end| Self::Ends(end as u64))
    }
}

impl<W: Transport> Shared<W> {
    /// Lends the socket of a connection. `first` was read from the socket already.
    pub(super) fn new(progress: ConnProgress, io: MaybeTls<W>, first: FirstBytes) -> Arc<Self> {
        let (progress, is_tls) = (Arc::new(progress), io.is_tls());
        let waker = Waker::from(progress.clone());
        let (since, head) = (first.bytes.len() as u64, HeadSeen::of(first.head));
        let lent = LentState {
            io,
            in_parts: first.in_parts && first.head.is_none(),
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
        let (lent, entry) = (Mutex::new(lent), Mutex::new(None));
        Arc::new(Self { progress, is_tls, waker, lent, entry })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(super) fn lent(&self) -> MutexGuard<'_, LentState<W>> {
        self.lent.lock()
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

    /// Returns whether hyper holds no unused byte for sure: all that hyper was given since the last such
    /// point is one whole request, a head and a body of the declared length. Empty lines behind a request
    /// without a body do not count. Called at rest.
    ///
    /// No socket leaves hyper for this answer alone: see `serve_turn.rs`, `has_skipped`.
    pub(super) fn is_clean(&mut self, progress: &ConnProgress) -> bool {
        let requests = progress.requests();
        let is_clean = match requests - self.requests {
            0 => self.seen.since == 0,
            1 => self.seen.is_request(progress.last_body()),
            _ => false,
        };
        if is_clean {
            (self.seen, self.requests) = (BytesSeen::default(), requests);
        }
        is_clean
    }

    /// Takes the bytes that were read before hyper had the socket, and that hyper has not read.
    #[cfg(feature = "ws")]
    pub(super) fn take_first(&mut self) -> Bytes {
        std::mem::take(&mut self.first)
    }

    /// Returns the socket, the waker that its calls are to register, and what to note of a read. In a turn
    /// of a connection with a task, the socket is to wake that task.
    fn parts<'a>(
        &'a mut self,
        of_turn: bool,
        cx: &'a Context<'_>,
    ) -> (Pin<&'a mut MaybeTls<W>>, Context<'a>, &'a mut BytesSeen) {
        let waker = self.task.as_ref().filter(|_| of_turn).unwrap_or(cx.waker());
        (Pin::new(&mut self.io), Context::from_waker(waker), &mut self.seen)
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
        if now != (before.0, before.1) && !failpoint("upgraded bytes are not counted") {
            self.progress.count_traffic(now.0 - before.0, now.1 - before.1, 0);
        }
        if is_ended && self.progress.close_requested().is_none() {
            self.progress.close(CloseReason::Peer);
        }
    }
}

/// Reads from a socket into hyper's own buffer, and notes the bytes.
struct NotedRead<'a, W> {
    io: Pin<&'a mut MaybeTls<W>>,
    seen: &'a mut BytesSeen,
}

impl<W: Transport> AsyncRead for NotedRead<'_, W> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, seen } = self.get_mut();
        ready!(io.as_mut().poll_read(cx, buffer))?;
        seen.note(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

/// Hyper's handle of the lent socket.
pub(super) struct LentIo<W>(pub(super) Arc<Shared<W>>);

impl<W: Transport> LentIo<W> {
    /// Registers the waker of a caller that owns the connection: the user of an upgraded connection, or an
    /// HTTP/2 task. Such a caller has no budget, and learns here that the server has ended, or that the
    /// connection is too old.
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
        if progress.is_cut_off() {
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
        let (room, since) = (buffer.remaining(), lent.seen.since);
        let is_direct = W::REGISTERS_WAKER && !self.0.is_tls && room <= READ_SIZE;
        let (io, mut cx, seen) = lent.parts(of_turn, cx);
        let polled = match is_direct {
            true => Pin::new(&mut TokioIo::new(NotedRead { io, seen })).poll_read(&mut cx, buffer),
            false => poll_read_with(io.get_mut(), &mut cx, room, |bytes| {
                buffer.put_slice(bytes);
                seen.note(bytes);
            })
            .map_ok(|_| ()),
        };
        if polled.is_pending() && !self.0.is_tls {
            return Poll::Pending;
        }
        let count = lent.seen.since - since;
        lent.note_moves(count > 0);
        lent.is_ended |= polled.is_ready() && count == 0 && room > 0;
        lent.read += count;
        let is_budgeted = !failpoint("hyper reads without a budget");
        lent.budget = lent.budget.saturating_sub(if is_budgeted { count as usize } else { 0 });
        polled
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
        let (io, mut cx, _) = lent.parts(of_turn, cx);
        let polled = io.poll_write(&mut cx, bytes);
        let polled = lent.note_write(polled);
        if let Poll::Ready(Ok(count)) = &polled {
            lent.wrote += *count as u64;
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has all that the socket took. Hyper flushes only behind its last byte.
        if !self.0.is_tls {
            self.0.progress.clear(UNFLUSHED);
            return Poll::Ready(Ok(()));
        }
        let mut lent = self.0.lent();
        let of_turn = self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let (io, mut cx, _) = lent.parts(of_turn, cx);
        let polled = io.poll_flush(&mut cx);
        let polled = lent.note_write(polled);
        if polled.is_ready() {
            self.0.progress.clear(UNFLUSHED);
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        let of_turn = self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let (io, mut cx, _) = lent.parts(of_turn, cx);
        let polled = io.poll_shutdown(&mut cx);
        lent.note_write(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_point_needs_one_request_and_no_more() {
        const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\n\r\n";
        let both = |head: &str, body: &str| format!("{head}{body}");
        let table: [(&[&str], Option<u64>, bool); 14] = [
            (&[GET], Some(0), true),
            (&[POST], Some(0), true),
            // Hyper skips empty lines before a head.
            (&[&both(GET, "\r\n")], Some(0), true),
            (&[&both(POST, "\r\n")], Some(0), false),
            (&[GET, "G"], Some(0), false),
            (&[GET, "\r\n\r\n"], Some(0), false),
            (&[&both(GET, "GET / HTTP/1.1\r\n")], Some(0), false),
            (&["GET / HTTP/1.1\r\n", "\r\n"], Some(0), false),
            (&[&both(POST, "ab")], Some(2), true),
            (&[POST, "a", "b"], Some(2), true),
            (&[POST, "abc"], Some(2), false),
            (&[POST], None, false),
            // A body may look like the end of a head.
            (&[&both(GET, "\r\n\r\n")], Some(4), false),
            (&[&both(GET, "\r\n\r\n"), "abcd"], Some(4), false),
        ];
        for (reads, body, is_request) in table {
            let mut seen = BytesSeen::default();
            reads.iter().for_each(|bytes| seen.note(bytes.as_bytes()));
            assert_eq!(seen.is_request(body), is_request, "{reads:?} {body:?}");
        }
    }
}
