//! Buffers, taken from a pool for one turn.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use crate::conn::transport::{MaybeTls, Transport};
use crate::sync::Mutex;

/// What one read may bring.
const READ: usize = 16 * 1024;
/// Larger ones are not kept.
const KEPT_BYTES: usize = 16 * 1024;
/// As many are kept; how many are in use is bounded by the turns under way.
const KEPT: usize = 64;

thread_local! {
    /// Where reads go first: a read that would block has touched no other memory.
    static READ_BUF: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// What new ones hold: enough for it to be used again when most frames are small.
const NEW: usize = 4 * 1024;

/// The buffers of one turn.
pub(crate) struct Buffers {
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
}

pub(crate) struct BufferPool(Mutex<FreeBuffers>);

// Boxed, for the futures that hold some to be small.
#[allow(clippy::vec_box)]
#[derive(Default)]
struct FreeBuffers {
    buffers: Vec<Box<Buffers>>,
    in_use: usize,
}

impl BufferPool {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(FreeBuffers::default()))
    }

    /// New ones beyond as many as are kept have no room but for what comes: so many turns at a time
    /// are most likely ones that wait.
    pub(crate) fn get(&self) -> PooledBuffers<'_> {
        let mut kept = self.0.lock();
        kept.in_use += 1;
        let many = kept.in_use > KEPT;
        let known = kept.buffers.pop();
        drop(kept);
        let room = if many { 0 } else { NEW };
        let new = || {
            let [input, output] = [(); 2].map(|()| BytesMut::with_capacity(room));
            Box::new(Buffers { input, output })
        };
        PooledBuffers { buffer_pool: self, buffers: Some(known.unwrap_or_else(new)) }
    }
}

/// Back in the pool when this is dropped.
pub(crate) struct PooledBuffers<'a> {
    buffer_pool: &'a BufferPool,
    /// None as it is dropped.
    buffers: Option<Box<Buffers>>,
}

impl Deref for PooledBuffers<'_> {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.buffers.as_deref().expect("present until it is dropped")
    }
}

impl DerefMut for PooledBuffers<'_> {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.buffers.as_deref_mut().expect("present until it is dropped")
    }
}

impl Drop for PooledBuffers<'_> {
    fn drop(&mut self) {
        let Some(mut buffers) = self.buffers.take() else { return };
        buffers.input.clear();
        buffers.output.clear();
        // Frames that live on keep the memory; and some is too much to be kept.
        let fits = |bytes: &mut BytesMut| bytes.try_reclaim(NEW) && bytes.capacity() <= KEPT_BYTES;
        let fits = fits(&mut buffers.input) && fits(&mut buffers.output);
        let mut kept = self.buffer_pool.0.lock();
        kept.in_use -= 1;
        if fits && kept.buffers.len() < KEPT {
            kept.buffers.push(buffers);
        }
    }
}

/// Reads once and appends what came. Gives how much that was: 0 at the end of the stream.
pub(crate) fn poll_fill<W: Transport>(
    io: &mut MaybeTls<W>,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    poll_read_with(io, cx, READ, |bytes| input.extend_from_slice(bytes))
}

/// Reads once, up to `most` bytes, and has `take` take what came.
pub(crate) fn poll_read_with<W: Transport>(
    io: &mut MaybeTls<W>,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    use tokio::io::AsyncRead;

    READ_BUF.with_borrow_mut(|read_buf| {
        let mut buffer = ReadBuf::new(&mut read_buf[..most.min(READ)]);
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
    fn what_many_turns_hold_at_a_time_is_small() {
        let buffer_pool = BufferPool::new();
        let room = |pooled: &PooledBuffers<'_>| [pooled.input.capacity(), pooled.output.capacity()];
        for _ in 0..3 {
            let mut pooled: Vec<_> = (0..KEPT + 2).map(|_| buffer_pool.get()).collect();
            assert!(pooled[..KEPT].iter().all(|pooled| room(pooled) == [NEW, NEW]));
            assert!(pooled[KEPT..].iter().all(|pooled| room(pooled) == [0, 0]));
            pooled.iter_mut().for_each(|pooled| pooled.input.extend_from_slice(b"some"));
        }
        let kept = buffer_pool.0.lock();
        assert_eq!((kept.buffers.len(), kept.in_use), (KEPT, 0));
        assert!(kept.buffers.iter().all(|buffers| buffers.input.is_empty()));
    }
}
