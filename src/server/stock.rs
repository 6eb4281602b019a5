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

/// The buffers of one burst.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
}

pub(super) struct Stock(Mutex<Vec<Buffers>>);

impl Stock {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn lend(&self) -> Buffers {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut buffers: Buffers) {
        buffers.input.clear();
        buffers.output.clear();
        // Frames that live on may keep the memory; and what is left of a buffer may be small.
        let fits = |bytes: &mut BytesMut| {
            bytes.capacity() <= KEPT_BYTES && (bytes.capacity() >= 1024 || bytes.try_reclaim(1024))
        };
        if !fits(&mut buffers.input) {
            buffers.input = BytesMut::new();
        }
        if !fits(&mut buffers.output) {
            buffers.output = BytesMut::new();
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
    use tokio::io::AsyncRead;

    LANDING.with_borrow_mut(|landing| {
        let mut buffer = ReadBuf::new(landing);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}
