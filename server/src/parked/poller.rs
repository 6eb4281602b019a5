//! Where events come from: an inner `Poll` that tokio's reactor watches, or that is looked at by
//! the clock while events are frequent.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::io::unix::AsyncFd;

use crate::accept::watch::watch;
#[cfg(target_os = "linux")]
use crate::parked::coalescer::Gather;

/// What is fetched at once.
const BATCH: usize = 256;

/// So long nobody else looks for what the reactor has not told of: more events are found at once
/// then.
const PATIENCE: Duration = Duration::from_micros(500);

/// The inner `Poll`, for tokio's reactor to watch.
pub(crate) struct Inner(pub(crate) mio::Poll);

impl AsRawFd for Inner {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

pub(crate) struct Source {
    inner: Watched,
    events: Events,
    fetched: Instant,
    #[cfg(target_os = "linux")]
    gather: Option<Gather>,
}

enum Watched {
    Yes(AsyncFd<Inner>),
    /// Else every event would wake the reactor.
    #[cfg(target_os = "linux")]
    No(Inner),
    #[cfg(target_os = "linux")]
    Changing,
}

impl Source {
    pub(crate) fn new(inner: Inner, coalesce: Option<Duration>) -> io::Result<Self> {
        #[cfg(not(target_os = "linux"))]
        let _ = coalesce;
        Ok(Self {
            inner: Watched::Yes(watch(inner)?),
            events: Events::with_capacity(BATCH),
            fetched: Instant::now(),
            #[cfg(target_os = "linux")]
            gather: coalesce.map(Gather::new).transpose()?,
        })
    }

    /// Fetches what there is, once there is some.
    pub(crate) fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&Events>> {
        match &mut self.inner {
            Watched::Yes(inner) => {
                let mut ready = ready!(inner.poll_read_ready_mut(cx))?;
                self.fetched = Instant::now();
                let count = fetch(ready.get_inner_mut(), &mut self.events)?;
                // Less than there is room for: that was all, and more will be a new event.
                if count < BATCH {
                    ready.clear_ready();
                }
                #[cfg(target_os = "linux")]
                if self.gather.as_mut().is_some_and(|gather| gather.is_worth_it(count)) {
                    self.change()?;
                }
            }
            #[cfg(target_os = "linux")]
            Watched::No(inner) => {
                let Some(gather) = &mut self.gather else { return Poll::Pending };
                ready!(gather.poll_tick(cx))?;
                let count = fetch(inner, &mut self.events)?;
                if !gather.goes_on(count) {
                    self.change()?;
                }
            }
            #[cfg(target_os = "linux")]
            Watched::Changing => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
        Poll::Ready(Ok(&self.events))
    }

    /// Fetches what the reactor should have told of, if it has told nothing for a while.
    pub(crate) fn look(&mut self) -> io::Result<&Events> {
        self.events.clear();
        if let Watched::Yes(inner) = &mut self.inner {
            if self.fetched.elapsed() >= PATIENCE {
                self.fetched = Instant::now();
                let count = fetch(inner.get_mut(), &mut self.events)?;
                #[cfg(target_os = "linux")]
                self.gather.iter_mut().for_each(|gather| gather.note(count));
                #[cfg(not(target_os = "linux"))]
                let _ = count;
            }
        }
        Ok(&self.events)
    }

    /// From the reactor to the clock, or back. Registered anew, the reactor tells of what is there
    /// already.
    #[cfg(target_os = "linux")]
    fn change(&mut self) -> io::Result<()> {
        let Some(gather) = &mut self.gather else { return Ok(()) };
        self.inner = match std::mem::replace(&mut self.inner, Watched::Changing) {
            Watched::Yes(inner) => {
                gather.start()?;
                Watched::No(inner.into_inner())
            }
            Watched::No(inner) => {
                gather.stop()?;
                Watched::Yes(watch(inner)?)
            }
            Watched::Changing => Watched::Changing,
        };
        Ok(())
    }
}

fn fetch(inner: &mut Inner, events: &mut Events) -> io::Result<usize> {
    loop {
        match inner.0.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            fetched => return fetched.map(|()| events.iter().count()),
        }
    }
}
