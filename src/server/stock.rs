//! Buffers, lent for a burst.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use super::io::{Io, Wire};
use crate::sync::Mutex;

/// What one read may bring.
const READ: usize = 16 * 1024;
/// Larger ones are not kept.
const KEPT_BYTES: usize = 16 * 1024;
/// As many are kept; how many are lent at once is bounded by the bursts under way.
const KEPT: usize = 64;

thread_local! {
    /// Where reads go first: a read that would block has touched no other memory.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// What new ones hold: enough for it to be used again when most frames are small.
const NEW: usize = 4 * 1024;

/// The buffers of one burst.
pub(super) struct Buffers {
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
}

// Boxed, for the futures that hold some to be small.
#[allow(clippy::vec_box)]
pub(super) struct Stock(Mutex<Vec<Box<Buffers>>>);

impl Stock {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn lend(&self) -> Box<Buffers> {
        let new = || {
            let [input, output] = [(); 2].map(|()| BytesMut::with_capacity(NEW));
            Box::new(Buffers { input, output })
        };
        self.0.lock().pop().unwrap_or_else(new)
    }

    pub(super) fn give_back(&self, mut buffers: Box<Buffers>) {
        buffers.input.clear();
        buffers.output.clear();
        // Frames that live on keep the memory; and some is too much to be kept.
        let fits = |bytes: &mut BytesMut| bytes.try_reclaim(NEW) && bytes.capacity() <= KEPT_BYTES;
        if !fits(&mut buffers.input) || !fits(&mut buffers.output) {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() < KEPT {
            kept.push(buffers);
        }
    }
}

/// Reads once and appends what came. Gives how much that was: 0 at the end of the stream.
pub(super) fn poll_fill<W: Wire>(
    io: &mut Io<W>,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    poll_land(io, cx, READ, |bytes| input.extend_from_slice(bytes))
}

/// Reads once, up to `most` bytes, and has `take` take what came.
pub(super) fn poll_land<W: Wire>(
    io: &mut Io<W>,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    use tokio::io::AsyncRead;

    LANDING.with_borrow_mut(|landing| {
        let mut buffer = ReadBuf::new(&mut landing[..most.min(READ)]);
        match ready!(Pin::new(io).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // A session that was cut off has told all it had to tell.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}
