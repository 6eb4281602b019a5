//! Buffers, lent for a burst.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use crate::conn::transport::{Io, Wire};
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
pub(crate) struct Buffers {
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
}

pub(crate) struct Stock(Mutex<Kept>);

// Boxed, for the futures that hold some to be small.
#[allow(clippy::vec_box)]
#[derive(Default)]
struct Kept {
    buffers: Vec<Box<Buffers>>,
    lent: usize,
}

impl Stock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Kept::default()))
    }

    /// New ones beyond as many as are kept have no room but for what comes: so many bursts at a time
    /// are most likely ones that wait.
    pub(crate) fn lend(&self) -> Lent<'_> {
        let mut kept = self.0.lock();
        kept.lent += 1;
        let many = kept.lent > KEPT;
        let known = kept.buffers.pop();
        drop(kept);
        let room = if many { 0 } else { NEW };
        let new = || {
            let [input, output] = [(); 2].map(|()| BytesMut::with_capacity(room));
            Box::new(Buffers { input, output })
        };
        Lent { stock: self, buffers: Some(known.unwrap_or_else(new)) }
    }
}

/// Back in the stock when this is dropped.
pub(crate) struct Lent<'a> {
    stock: &'a Stock,
    /// None as it is dropped.
    buffers: Option<Box<Buffers>>,
}

impl Deref for Lent<'_> {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.buffers.as_deref().expect("lent until it is dropped")
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.buffers.as_deref_mut().expect("lent until it is dropped")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(mut buffers) = self.buffers.take() else { return };
        buffers.input.clear();
        buffers.output.clear();
        // Frames that live on keep the memory; and some is too much to be kept.
        let fits = |bytes: &mut BytesMut| bytes.try_reclaim(NEW) && bytes.capacity() <= KEPT_BYTES;
        let fits = fits(&mut buffers.input) && fits(&mut buffers.output);
        let mut kept = self.stock.0.lock();
        kept.lent -= 1;
        if fits && kept.buffers.len() < KEPT {
            kept.buffers.push(buffers);
        }
    }
}

/// Reads once and appends what came. Gives how much that was: 0 at the end of the stream.
pub(crate) fn poll_fill<W: Wire>(
    io: &mut Io<W>,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    poll_land(io, cx, READ, |bytes| input.extend_from_slice(bytes))
}

/// Reads once, up to `most` bytes, and has `take` take what came.
pub(crate) fn poll_land<W: Wire>(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_bursts_hold_at_a_time_is_small() {
        let stock = Stock::new();
        let room = |lent: &Lent<'_>| [lent.input.capacity(), lent.output.capacity()];
        for _ in 0..3 {
            let mut lent: Vec<_> = (0..KEPT + 2).map(|_| stock.lend()).collect();
            assert!(lent[..KEPT].iter().all(|lent| room(lent) == [NEW, NEW]));
            assert!(lent[KEPT..].iter().all(|lent| room(lent) == [0, 0]));
            lent.iter_mut().for_each(|lent| lent.input.extend_from_slice(b"some"));
        }
        let kept = stock.0.lock();
        assert_eq!((kept.buffers.len(), kept.lent), (KEPT, 0));
        assert!(kept.buffers.iter().all(|buffers| buffers.input.is_empty()));
    }
}
