//! Where events come from: an inner `Poll` that tokio's reactor watches.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::io::unix::AsyncFd;

use crate::accept::async_fd;

/// What is fetched at once.
const BATCH: usize = 256;

/// For this long nothing else looks for what the reactor has not told of: more events are found at
/// once then.
const MAX_UNPOLLED: Duration = Duration::from_micros(500);

/// The inner `Poll`, for tokio's reactor to watch.
pub(crate) struct InnerPoll(pub(crate) mio::Poll);

impl AsRawFd for InnerPoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

pub(crate) struct Poller {
    inner: AsyncFd<InnerPoll>,
    events: Events,
    fetched: Instant,
}

impl Poller {
    pub(crate) fn new(inner: InnerPoll) -> io::Result<Self> {
        let (inner, events) = (async_fd(inner)?, Events::with_capacity(BATCH));
        Ok(Self { inner, events, fetched: Instant::now() })
    }

    /// Fetches what there is, once there is some.
    pub(crate) fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&Events>> {
        let mut ready = ready!(self.inner.poll_read_ready_mut(cx))?;
        self.fetched = Instant::now();
        let count = fetch(ready.get_inner_mut(), &mut self.events)?;
        // Less than there is room for: that was all, and more will be a new event.
        if count < BATCH {
            ready.clear_ready();
        }
        Poll::Ready(Ok(&self.events))
    }

    /// Fetches what the reactor should have told of, if it has told nothing for a while.
    pub(crate) fn poll_now(&mut self) -> io::Result<&Events> {
        self.events.clear();
        if self.fetched.elapsed() >= MAX_UNPOLLED {
            self.fetched = Instant::now();
            fetch(self.inner.get_mut(), &mut self.events)?;
        }
        Ok(&self.events)
    }
}

fn fetch(inner: &mut InnerPoll, events: &mut Events) -> io::Result<usize> {
    loop {
        match inner.0.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            fetched => return fetched.map(|()| events.iter().count()),
        }
    }
}
