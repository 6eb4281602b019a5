//! The socket as hyper sees it, with the right to take it back.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use crate::accept::address::Address;
use crate::conn::buffers::poll_read_with;
use crate::conn::notifier::ConnNotifier;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::head;
use crate::http::progress::{ConnProgress, SocketWaiter, UNFLUSHED};
use crate::sync::{Mutex, MutexGuard};

/// What may be read and written for a request, for hyper's buffers to be as they were.
const SMALL_READ: u64 = 16 * 1024;
const SMALL_WRITE: u64 = 64 * 1024;

pub(crate) struct Shared<W> {
    pub(crate) progress: Arc<ConnProgress>,
    /// The waker that turns poll hyper with.
    pub(crate) waker: Waker,
    lent: Mutex<LentState<W>>,
    /// The connection's entry and permit, once it was detached. Behind the socket: that is
    /// closed first.
    entry_guard: Mutex<Option<Box<dyn Any + Send>>>,
}

pub(crate) struct LentState<W> {
    pub(crate) io: MaybeTls<W>,
    /// What was read before hyper was there.
    pub(crate) first: Bytes,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
    /// How often bytes have moved, in either direction.
    pub(crate) moves: u64,
    /// The peer has ended its side, or the connection broke.
    pub(crate) is_ended: bool,
    /// What may be read before others have their turn.
    pub(crate) budget: usize,
    /// It was not enough.
    pub(crate) is_spent: bool,
    /// The peer does not take what is written.
    pub(crate) is_blocked: bool,
    seen: BytesSeen,
    /// How many requests there had been when hyper had no bytes left over.
    requests: u64,
}

/// Bytes that were read before hyper was there, and how long the head is that they begin with.
pub(crate) type FirstBytes = (Bytes, Option<usize>);

/// What hyper was given since it had no bytes left over.
#[derive(Default)]
struct BytesSeen {
    since: u64,
    /// How long the head is that these begin with, if they came with its end.
    head: Option<u64>,
    /// How much it has written since.
    wrote: u64,
}

impl BytesSeen {
    fn note(&mut self, bytes: &[u8]) {
        if self.since == 0 {
            self.head = head::end(bytes).map(|end| end as u64);
        }
        self.since += bytes.len() as u64;
    }
}

impl<W: Transport> Shared<W> {
    /// Of no connection yet.
    pub(crate) fn new() -> Arc<Self> {
        let progress = Arc::new(ConnProgress::new());
        let waker = Waker::from(progress.clone());
        let lent = LentState {
            io: MaybeTls::Taken,
            first: Bytes::new(),
            read: 0,
            wrote: 0,
            moves: 0,
            is_ended: false,
            budget: 0,
            is_spent: false,
            is_blocked: false,
            seen: BytesSeen::default(),
            requests: 0,
        };
        Arc::new(Self { progress, waker, lent: Mutex::new(lent), entry_guard: Mutex::new(None) })
    }

    /// For a connection of which was read already what `first` is, with a head of so many bytes.
    pub(crate) fn bind(
        &self,
        target: (ConnNotifier, Option<Address>),
        io: MaybeTls<W>,
        first: FirstBytes,
    ) {
        self.progress.bind(target.0, target.1);
        let mut lent = self.lent.lock();
        let (bytes, head) = first;
        lent.seen =
            BytesSeen { since: bytes.len() as u64, head: head.map(|head| head as u64), wrote: 0 };
        (lent.io, lent.first, lent.requests, lent.is_ended) = (io, bytes, 0, false);
    }

    pub(crate) fn lent(&self) -> MutexGuard<'_, LentState<W>> {
        self.lent.lock()
    }

    /// Takes the socket away if hyper, which is idle, has no byte left over for sure: all it was
    /// given was one whole request, and no large one.
    pub(crate) fn take_io_if_clean(&self) -> Option<MaybeTls<W>> {
        let mut lent = self.lent.lock();
        let (head, body) = (lent.seen.head, self.progress.last_body());
        let whole = head.zip(body).and_then(|(head, body)| head.checked_add(body));
        let is_small = lent.seen.since <= SMALL_READ && lent.seen.wrote <= SMALL_WRITE;
        let clean = match self.progress.requests() - lent.requests {
            0 => lent.seen.since == 0,
            requests => requests == 1 && whole == Some(lent.seen.since),
        };
        (clean && is_small).then(|| {
            (lent.seen, lent.requests) = (BytesSeen::default(), self.progress.requests());
            std::mem::replace(&mut lent.io, MaybeTls::Taken)
        })
    }

    /// The owner of the lent socket owns the connection from now on.
    pub(crate) fn detach(&self, entry_guard: Box<dyn Any + Send>) {
        *self.entry_guard.lock() = Some(entry_guard);
        self.progress.detach();
    }

    /// Reads and throws away what comes, until the peer has ended its side or `most` bytes were read
    /// in all. Unread bytes would have the kernel reset the connection, and drop what the peer has
    /// not taken yet.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>, most: u64) -> Poll<()> {
        let mut lent = self.lent();
        let lent = &mut *lent;
        if let Some(transport) = lent.io.transport() {
            transport.force_io(!W::REGISTERS_WAKER);
        }
        while lent.read < most {
            let polled = poll_read_with(&mut lent.io, cx, usize::MAX, |_| {});
            lent.note(matches!(polled, Poll::Ready(Ok(1..))));
            match ready!(polled) {
                Ok(count @ 1..) => lent.read += count as u64,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<W: Transport> LentState<W> {
    /// Notes a call in which bytes may have moved. The socket tells whether it has taken some: a TLS
    /// session writes bytes of earlier calls, too.
    fn note(&mut self, read: bool) {
        let took = self.io.transport().is_some_and(W::made_progress);
        self.moves += u64::from(took || read);
    }
}

/// The socket as it is lent to hyper.
pub(crate) struct LentIo<W>(pub(crate) Arc<Shared<W>>);

impl<W: Transport> LentIo<W> {
    /// Registers a waker other than that of a turn; its owner asks the socket itself.
    fn register(
        &self,
        lent: &mut LentState<W>,
        who: SocketWaiter,
        waker: &Waker,
    ) -> io::Result<()> {
        let Shared { progress, waker: own, .. } = &*self.0;
        if waker.will_wake(own) {
            return Ok(());
        }
        // Also where the socket wakes them: it does not tell of the server's end.
        progress.register(who, waker);
        if progress.is_killed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(transport) = lent.io.transport() {
            transport.force_io(!W::REGISTERS_WAKER);
        }
        lent.budget = usize::MAX;
        Ok(())
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
            let count = lent.first.len().min(buffer.remaining());
            buffer.put_slice(&lent.first[..count]);
            lent.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        self.register(lent, SocketWaiter::Reader, cx.waker())?;
        if lent.budget == 0 {
            lent.is_spent = true;
            return Poll::Pending;
        }
        let room = buffer.remaining();
        let polled = poll_read_with(&mut lent.io, cx, room, |bytes| {
            buffer.put_slice(bytes);
            lent.seen.note(bytes);
        });
        lent.note(matches!(polled, Poll::Ready(Ok(1..))));
        lent.is_ended |= matches!(polled, Poll::Ready(Ok(0) | Err(_))) && room > 0;
        let count = ready!(polled)?;
        lent.read += count as u64;
        lent.budget = lent.budget.saturating_sub(count);
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
        self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        self.0.progress.set(UNFLUSHED);
        let polled = Pin::new(&mut lent.io).poll_write(cx, bytes);
        lent.note(false);
        lent.is_blocked = polled.is_pending();
        if let Poll::Ready(Ok(count)) = &polled {
            lent.wrote += *count as u64;
            lent.seen.wrote += *count as u64;
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let polled = Pin::new(&mut lent.io).poll_flush(cx);
        lent.note(false);
        lent.is_blocked = polled.is_pending();
        if polled.is_ready() {
            self.0.progress.clear(UNFLUSHED);
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        self.register(&mut lent, SocketWaiter::Writer, cx.waker())?;
        let polled = Pin::new(&mut lent.io).poll_shutdown(cx);
        lent.note(false);
        lent.is_blocked = polled.is_pending();
        polled
    }
}
