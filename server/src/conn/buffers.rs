//! Buffers: a pool of them for turns, and reads through a buffer of the thread.
//!
//! Owns the memory that turns read into and write from. `framed/serve` takes a pair of buffers for
//! a turn; `linger`, `framed` and `http` read with [`poll_fill`] and [`poll_read_with`]. The pool
//! belongs to `ServerState`. Its lock covers the list of free buffers only: nothing is allocated,
//! read or written under the lock. Each thread keeps one pair beside the pools, so a turn that waits for
//! nothing takes no lock.
//!
//! An idle connection must never hold a buffer of the pool: a turn drops its buffers when it ends.
//! Bytes of a turn must never reach another: buffers are cleared before they return to the pool.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::replace;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::sync::Mutex;

/// The most bytes that one read returns.
pub(crate) const READ_SIZE: usize = 16 * 1024;
/// The most free pairs that the pool keeps. Turns may use more.
const MAX_FREE: usize = 64;
/// The pool keeps no buffer that is larger, so a large frame does not occupy memory for ever.
const MAX_FREE_CAPACITY: usize = 16 * 1024;
/// The capacity of a new buffer. With small frames, a buffer of this size is used again.
const NEW_CAPACITY: usize = 4 * 1024;

thread_local! {
    /// The target of each read. A read that would block touches no memory of its connection.
    static READ_BUF: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
    /// The free pair of the thread. No pool counts it, unless its turn waits.
    static FREE: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

/// The buffers of one turn.
pub(crate) struct Buffers {
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    /// The pool counts the pair as in use. Here, so that the future of a turn stays small.
    is_counted: bool,
}

pub(crate) struct BufferPool(Mutex<FreeBuffers>);

// Boxed, so that the future of a turn stays small.
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

    /// Returns a free pair of buffers, or a new one.
    ///
    /// If more than `MAX_FREE` pairs are in use, new buffers are empty. So many turns at a time
    /// usually wait for their service, and need little space.
    pub(crate) fn get(&self) -> PooledBuffers<'_> {
        if let Ok(Some(buffers)) = FREE.try_with(Cell::take) {
            return PooledBuffers { buffer_pool: self, buffers: Some(buffers) };
        }
        let mut pool = self.0.lock();
        pool.in_use += 1;
        let many_in_use = pool.in_use > MAX_FREE;
        let free = pool.buffers.pop();
        drop(pool);
        let capacity = if many_in_use { 0 } else { NEW_CAPACITY };
        let new = || {
            let [input, output] = [(); 2].map(|()| BytesMut::with_capacity(capacity));
            Box::new(Buffers { input, output, is_counted: false })
        };
        let mut buffers = free.unwrap_or_else(new);
        buffers.is_counted = true;
        PooledBuffers { buffer_pool: self, buffers: Some(buffers) }
    }
}

/// A pair of buffers in use. Returns to the thread or to the pool when it is dropped.
pub(crate) struct PooledBuffers<'a> {
    buffer_pool: &'a BufferPool,
    /// `None` only within `drop`.
    buffers: Option<Box<Buffers>>,
}

impl PooledBuffers<'_> {
    /// Counts the pair, because its turn waits for user code: so many turns may wait at a time.
    pub(crate) fn count(&mut self) {
        if !replace(&mut self.is_counted, true) {
            self.buffer_pool.0.lock().in_use += 1;
        }
    }
}

impl Deref for PooledBuffers<'_> {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.buffers.as_deref().expect("the buffers are present until the drop")
    }
}

impl DerefMut for PooledBuffers<'_> {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.buffers.as_deref_mut().expect("the buffers are present until the drop")
    }
}

impl Drop for PooledBuffers<'_> {
    fn drop(&mut self) {
        let Some(mut buffers) = self.buffers.take() else { return };
        buffers.input.clear();
        buffers.output.clear();
        // A frame that is still alive may own the memory; then the buffer cannot be used again.
        // The capacity is that of the rest; the second call tells of the whole, and allocates nothing.
        let is_reusable = |bytes: &mut BytesMut| {
            bytes.try_reclaim(NEW_CAPACITY) && !bytes.try_reclaim(MAX_FREE_CAPACITY + 1)
        };
        let reusable = is_reusable(&mut buffers.input) && is_reusable(&mut buffers.output);
        let was_counted = replace(&mut buffers.is_counted, false);
        let mut free = reusable.then_some(buffers);
        if free.is_some() {
            // The end of a thread may drop turns after the thread's locals.
            let _ = FREE.try_with(|of_thread| free = of_thread.replace(free.take()));
        }
        if free.is_none() && !was_counted {
            return;
        }
        let mut pool = self.buffer_pool.0.lock();
        pool.in_use -= usize::from(was_counted);
        if pool.buffers.len() < MAX_FREE {
            pool.buffers.extend(free);
        }
    }
}

/// Reads once, and appends the bytes to `input`. Returns their number: 0 at the end of the stream.
pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    poll_read_with(io, cx, READ_SIZE, |bytes| input.extend_from_slice(bytes))
}

/// Reads once, at most `most` bytes, and calls `take` with them. Returns their number: 0 at the end
/// of the stream.
pub(crate) fn poll_read_with<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    READ_BUF.with_borrow_mut(|read_buf| {
        let mut buffer = ReadBuf::new(&mut read_buf[..most.min(READ_SIZE)]);
        match ready!(Pin::new(io).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // The peer has ended a TLS session without a closing alert. That is an end of the
            // stream: the protocols here know where their messages end.
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
    fn beyond_the_free_list_new_buffers_are_empty() {
        let buffer_pool = BufferPool::new();
        let room = |pooled: &PooledBuffers<'_>| [pooled.input.capacity(), pooled.output.capacity()];
        for _ in 0..3 {
            FREE.take();
            let mut pooled: Vec<_> = (0..MAX_FREE + 2).map(|_| buffer_pool.get()).collect();
            assert!(pooled[..MAX_FREE].iter().all(|pooled| room(pooled) == [NEW_CAPACITY; 2]));
            assert!(pooled[MAX_FREE..].iter().all(|pooled| room(pooled) == [0, 0]));
            pooled.iter_mut().for_each(|pooled| pooled.input.extend_from_slice(b"some"));
        }
        let of_thread = FREE.take().expect("the thread keeps a pair");
        let pool = buffer_pool.0.lock();
        assert_eq!((pool.buffers.len(), pool.in_use), (MAX_FREE - 1, 0));
        assert!(pool.buffers.iter().chain([&of_thread]).all(|buffers| buffers.input.is_empty()));
    }

    /// Quick turns between them give their pair to the thread, and the next turn that waits takes it.
    #[test]
    fn turns_that_wait_count_wherever_their_buffers_come_from() {
        let buffer_pool = BufferPool::new();
        let mut waiting = Vec::new();
        for _ in 0..2 * MAX_FREE {
            let mut pooled = buffer_pool.get();
            pooled.count();
            waiting.push(pooled);
            drop(buffer_pool.get());
        }
        assert_eq!(buffer_pool.0.lock().in_use, 2 * MAX_FREE);
        assert!(waiting[MAX_FREE + 1..].iter().all(|pooled| pooled.input.capacity() == 0));
        drop(waiting);
        assert_eq!(buffer_pool.0.lock().in_use, 0);
    }

    /// A pair whose memory is larger than it looks, because a frame of it lived for long.
    #[test]
    fn large_memory_is_not_kept() {
        let buffer_pool = BufferPool::new();
        for left in [NEW_CAPACITY, 2 * NEW_CAPACITY] {
            FREE.take();
            let mut pooled = buffer_pool.get();
            pooled.input = BytesMut::with_capacity(1 << 20);
            pooled.input.resize((1 << 20) - left, 0);
            drop(pooled.input.split());
            assert!(pooled.input.capacity() <= MAX_FREE_CAPACITY);
            drop(pooled);
            assert!(FREE.take().is_none() && buffer_pool.0.lock().buffers.is_empty());
        }
    }

    #[test]
    fn turns_one_by_one_use_the_pair_of_their_thread() {
        let buffer_pool = BufferPool::new();
        for is_counted in [true, false, false] {
            let mut pooled = buffer_pool.get();
            assert_eq!(pooled.is_counted, is_counted);
            pooled.output.extend_from_slice(b"some");
            drop(pooled);
            let pool = buffer_pool.0.lock();
            assert_eq!((pool.buffers.len(), pool.in_use), (0, 0));
        }
        // A turn that waits has the pair; the next one takes another, and one of both goes to the pool.
        let waiting = buffer_pool.get();
        drop(buffer_pool.get());
        drop(waiting);
        let pool = buffer_pool.0.lock();
        assert_eq!((pool.buffers.len(), pool.in_use), (1, 0));
        assert!(pool.buffers.iter().all(|buffers| buffers.output.is_empty()));
    }
}
