//! Fewer wake-ups for more events each: while they come at a steady, moderate rate, they are
//! looked for by a clock. At low rates that would only cost time, and under full load there are
//! many at once anyway.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::accept::watch::watch;

/// The rate is taken over so many events, or periods.
const SAMPLE: u32 = 16;
/// Events per period, below which waiting does not pay; half of it ends the waiting.
const WORTH: u32 = 2;
/// Events per period that are a full load.
const MANY: u32 = 32;

pub(crate) struct Gather {
    /// tokio's own timers count milliseconds.
    timer: AsyncFd<OwnedFd>,
    period: Duration,
    since: Instant,
    events: u32,
    periods: u32,
}

impl Gather {
    pub(crate) fn new(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let (since, timer) = (Instant::now(), watch(timer)?);
        Ok(Self { timer, period, since, events: 0, periods: 0 })
    }

    /// Notes a batch that was found before the reactor told of it.
    pub(crate) fn note(&mut self, batch: usize) {
        self.events += batch as u32;
    }

    /// Notes a batch that the reactor told of.
    pub(crate) fn is_worth_it(&mut self, batch: usize) -> bool {
        self.note(batch);
        if self.events < SAMPLE {
            return false;
        }
        let time = self.since.elapsed();
        let promised = self.period * self.events;
        let worth = promised >= time * WORTH && promised < time * MANY;
        self.events = 0;
        self.since = Instant::now();
        worth
    }

    /// Notes a batch that a period has brought.
    pub(crate) fn goes_on(&mut self, batch: usize) -> bool {
        self.events += batch as u32;
        self.periods += 1;
        if self.periods < SAMPLE {
            return true;
        }
        let worth = self.events * 2 >= self.periods * WORTH && self.events < self.periods * MANY;
        (self.events, self.periods) = (0, 0);
        worth
    }

    pub(crate) fn start(&mut self) -> io::Result<()> {
        (self.events, self.periods) = (0, 0);
        self.set(self.period)
    }

    pub(crate) fn stop(&mut self) -> io::Result<()> {
        self.events = 0;
        self.since = Instant::now();
        self.set(Duration::ZERO)
    }

    fn set(&self, period: Duration) -> io::Result<()> {
        let period =
            Timespec { tv_sec: period.as_secs() as i64, tv_nsec: period.subsec_nanos().into() };
        let spec = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    /// The end of a period.
    pub(crate) fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.timer.poll_read_ready(cx))?;
            // The kernel goes on to the next period when it is read.
            let read = |timer: &AsyncFd<OwnedFd>| Ok(read(timer.get_ref(), &mut [0; 8])?);
            match ready.try_io(read) {
                Ok(ticks) => {
                    ready.clear_ready(); // until it expires again
                    return Poll::Ready(ticks.map(drop));
                }
                Err(_would_block) => {}
            }
        }
    }
}
