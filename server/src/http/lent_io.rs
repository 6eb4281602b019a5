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
use crate::conn::buffers::poll_land;
use crate::conn::notifier::Nudge;
use crate::conn::transport::{Io, Wire};
use crate::http::head;
use crate::http::progress::{Flow, Listener, UNFLUSHED};
use crate::sync::{Mutex, MutexGuard};

/// What may be read and written for a request, for hyper's buffers to be as they were.
const SMALL_READ: u64 = 16 * 1024;
const SMALL_WRITE: u64 = 64 * 1024;

pub(crate) struct Shared<W> {
    pub(crate) flow: Arc<Flow>,
    /// What bursts poll hyper with.
    pub(crate) waker: Waker,
    lent: Mutex<Lent<W>>,
    /// The connection's record and place, once it was left to others. Behind the socket: that is
    /// closed first.
    keeper: Mutex<Option<Box<dyn Any + Send>>>,
}

pub(crate) struct Lent<W> {
    pub(crate) io: Io<W>,
    /// What was read before hyper was there.
    pub(crate) first: Bytes,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
    /// What may be read before others have their turn.
    pub(crate) budget: usize,
    /// It was not enough.
    pub(crate) is_spent: bool,
    /// The peer does not take what is written.
    pub(crate) is_blocked: bool,
    /// The end of hyper's state is not the connection's.
    pub(crate) keeps: bool,
    given: Given,
    /// How many requests there had been when hyper had no bytes left over.
    requests: u64,
}

/// Bytes that were read before hyper was there, and how long the head is that they begin with.
pub(crate) type First = (Bytes, Option<usize>);

/// What hyper was given since it had no bytes left over.
#[derive(Default)]
struct Given {
    since: u64,
    /// How long the head is that these begin with, if they came with its end.
    head: Option<u64>,
    /// How much it has written since.
    wrote: u64,
}

impl Given {
    fn note(&mut self, bytes: &[u8]) {
        if self.since == 0 {
            self.head = head::end(bytes).map(|end| end as u64);
        }
        self.since += bytes.len() as u64;
    }
}

impl<W: Wire> Shared<W> {
    /// Of no connection yet.
    pub(crate) fn new() -> Arc<Self> {
        let flow = Arc::new(Flow::new());
        let waker = Waker::from(flow.clone());
        let lent = Lent {
            io: Io::Lent,
            first: Bytes::new(),
            read: 0,
            wrote: 0,
            budget: 0,
            is_spent: false,
            is_blocked: false,
            keeps: false,
            given: Given::default(),
            requests: 0,
        };
        Arc::new(Self { flow, waker, lent: Mutex::new(lent), keeper: Mutex::new(None) })
    }

    /// For a connection of which was read already what `first` is, with a head of so many bytes.
    pub(crate) fn attach(&self, to: (Nudge, Option<Address>), io: Io<W>, first: First) {
        self.flow.attach(to.0, to.1);
        let mut lent = self.lent.lock();
        let (bytes, head) = first;
        lent.given =
            Given { since: bytes.len() as u64, head: head.map(|head| head as u64), wrote: 0 };
        (lent.io, lent.first, lent.requests) = (io, bytes, 0);
    }

    pub(crate) fn lent(&self) -> MutexGuard<'_, Lent<W>> {
        self.lent.lock()
    }

    /// Takes the socket away if hyper, which is idle, has no byte left over for sure: all it was
    /// given was one whole request, and no large one.
    pub(crate) fn take_clean(&self) -> Option<Io<W>> {
        let mut lent = self.lent.lock();
        let (head, body) = (lent.given.head, self.flow.last_body());
        let whole = head.zip(body).and_then(|(head, body)| head.checked_add(body));
        let is_small = lent.given.since <= SMALL_READ && lent.given.wrote <= SMALL_WRITE;
        let clean = match self.flow.requests() - lent.requests {
            0 => lent.given.since == 0,
            requests => requests == 1 && whole == Some(lent.given.since),
        };
        (clean && is_small).then(|| {
            (lent.given, lent.requests) = (Given::default(), self.flow.requests());
            std::mem::replace(&mut lent.io, Io::Lent)
        })
    }

    /// Whoever has the loan has the connection from now on.
    pub(crate) fn leave(&self, keeper: Box<dyn Any + Send>) {
        *self.keeper.lock() = Some(keeper);
        self.flow.leave();
    }
}

/// Hyper's end of it.
pub(crate) struct Loan<W>(pub(crate) Arc<Shared<W>>);

impl<W: Wire> Loan<W> {
    /// Has somebody else than a burst be woken, who must look at the socket itself.
    fn listen(&self, lent: &mut Lent<W>, who: Listener, waker: &Waker) -> io::Result<()> {
        let Shared { flow, waker: own, .. } = &*self.0;
        if waker.will_wake(own) {
            return Ok(());
        }
        // Also where the socket wakes them: it does not tell of the server's end.
        flow.listen(who, waker);
        if flow.is_killed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(wire) = lent.io.wire() {
            wire.ask(!W::ARMS);
        }
        lent.budget = usize::MAX;
        Ok(())
    }
}

impl<W: Wire> Read for Loan<W> {
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
        self.listen(lent, Listener::Reader, cx.waker())?;
        if lent.budget == 0 {
            lent.is_spent = true;
            return Poll::Pending;
        }
        let room = buffer.remaining();
        let count = ready!(poll_land(&mut lent.io, cx, room, |bytes| {
            buffer.put_slice(bytes);
            lent.given.note(bytes);
        }))?;
        lent.read += count as u64;
        lent.budget = lent.budget.saturating_sub(count);
        Poll::Ready(Ok(()))
    }
}

impl<W: Wire> Write for Loan<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut lent = self.0.lent();
        self.listen(&mut lent, Listener::Writer, cx.waker())?;
        self.0.flow.set(UNFLUSHED);
        let polled = Pin::new(&mut lent.io).poll_write(cx, bytes);
        lent.is_blocked = polled.is_pending();
        if let Poll::Ready(Ok(count)) = &polled {
            lent.wrote += *count as u64;
            lent.given.wrote += *count as u64;
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        self.listen(&mut lent, Listener::Writer, cx.waker())?;
        let polled = Pin::new(&mut lent.io).poll_flush(cx);
        lent.is_blocked = polled.is_pending();
        if polled.is_ready() {
            self.0.flow.clear(UNFLUSHED);
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lent = self.0.lent();
        if lent.keeps {
            return Poll::Ready(Ok(()));
        }
        self.listen(&mut lent, Listener::Writer, cx.waker())?;
        let polled = Pin::new(&mut lent.io).poll_shutdown(cx);
        lent.is_blocked = polled.is_pending();
        polled
    }
}
