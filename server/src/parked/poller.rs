//! The source of the sockets' events: an inner epoll, which tokio's I/O driver watches.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::io::unix::AsyncFd;

use crate::accept::listen::async_fd;

/// The most events that one call of the kernel returns.
const BATCH: usize = 256;

/// The minimum time between two polls that the I/O driver has not asked for. With shorter times,
/// such a poll finds fewer events.
const MAX_UNPOLLED: Duration = Duration::from_micros(500);

/// The inner epoll, as a descriptor that tokio can watch.
pub(crate) struct InnerPoll(pub(crate) mio::Poll);

impl AsRawFd for InnerPoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Fetches events from the inner epoll.
pub(crate) struct Poller {
    inner: AsyncFd<InnerPoll>,
    events: Events,
    /// The time of the last poll of the inner epoll.
    fetched: Instant,
}

impl Poller {
    pub(crate) fn new(inner: InnerPoll) -> io::Result<Self> {
        let (inner, events) = (async_fd(inner)?, Events::with_capacity(BATCH));
        Ok(Self { inner, events, fetched: Instant::now() })
    }

    /// Fetches a batch of events when tokio reports that the inner epoll has some.
    pub(crate) fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&Events>> {
        let mut ready = ready!(self.inner.poll_read_ready_mut(cx))?;
        self.fetched = Instant::now();
        let count = fetch(ready.get_inner_mut(), &mut self.events)?;
        // A batch that is not full was the last: the inner epoll is readable again at the next
        // event.
        if count < BATCH {
            ready.clear_ready();
        }
        Poll::Ready(Ok(&self.events))
    }

    /// Fetches events that tokio's I/O driver has not reported yet, but not more often than every
    /// `MAX_UNPOLLED`.
    pub(crate) fn poll_now(&mut self) -> io::Result<&Events> {
        self.events.clear();
        if self.fetched.elapsed() >= MAX_UNPOLLED {
            self.fetched = Instant::now();
            fetch(self.inner.get_mut(), &mut self.events)?;
        }
        Ok(&self.events)
    }
}

#[cfg(test)]
thread_local! {
    /// Whether the next fetch of this thread fails.
    pub(crate) static FAILS_ONCE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn fetch(inner: &mut InnerPoll, events: &mut Events) -> io::Result<usize> {
    #[cfg(test)]
    if FAILS_ONCE.take() {
        return Err(io::Error::other("a lost epoll"));
    }
    loop {
        match inner.0.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            fetched => return fetched.map(|()| events.iter().count()),
        }
    }
}
