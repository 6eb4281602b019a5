//! [`Mode`] and [`SlowReader`], and the checked settings in the units of the server.
//!
//! `builder::Config::check` makes [`Settings`] out of what the user has set. `ServerState` owns them;
//! turns read the limits, and `conn::table` reads the [`Ticks`]. A started server never changes its
//! settings, so they need no lock.
//!
//! Deadlines are durations up to the builder. From here on they are ticks of the timer wheel: a `u32`
//! in each entry of the table instead of an `Instant`. A deadline must never end early, so its ticks
//! are rounded up, plus one for the tick that runs already. The timer's precision is the one exception
//! (`listener_conns::TIMER_PRECISION`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::close_reason::Deadline;
use crate::conn::events::ParkReason;
use millpond::ConfigError;

/// How long a lingering close waits for the peer to close its side, by default.
const LINGER: Duration = Duration::from_secs(1);

/// The tick of no deadline.
pub(crate) const NEVER: u32 = u32::MAX;

/// How a server holds its connections.
///
/// Services, handlers, limits, deadlines, TLS and shutdown are the same in both modes. A
/// [`Listen`](crate::Listen) may have another mode than its server. In text, as in a configuration
/// file, the modes are `dedicated` and `event-driven`.
///
/// | | `Dedicated` | `EventDriven` |
/// |---|---|---|
/// | an idle connection has | a task, no buffer | a record of some fifty bytes |
/// | turns run, without a pool | in the connection's task | in a task for some turns |
/// | for | few connections, or busy ones | thousands that are mostly idle |
///
/// # Examples
///
/// ```
/// use millpond_server::Mode;
///
/// let mode: Mode = "event-driven".parse()?;
/// assert_eq!(mode, Mode::EventDriven);
/// assert_eq!(mode.to_string(), "event-driven");
///
/// let error = "netpoll".parse::<Mode>().unwrap_err();
/// assert_eq!(error.accepted(), "`dedicated` or `event-driven`");
/// # Ok::<(), millpond::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[doc(alias = "use_netpoll_mode")]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Mode {
    /// Each connection has a task, which holds no buffer while it waits.
    #[default]
    Dedicated,
    /// An idle connection is *parked*: it has no task, no buffer and no timer. When bytes arrive, a
    /// short task, or a job on the pool, serves the connection.
    #[doc(alias = "netpoll")]
    #[doc(alias = "epoll")]
    EventDriven,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dedicated => "dedicated",
            Self::EventDriven => "event-driven",
        })
    }
}

impl FromStr for Mode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "dedicated" => Ok(Self::Dedicated),
            "event-driven" => Ok(Self::EventDriven),
            _ => Err(ConfigError::new("mode", text, "`dedicated` or `event-driven`")),
        }
    }
}

/// What the server does about a peer that does not take what is sent to it.
///
/// A peer is a slow reader while [`send_buffer`](crate::ServerBuilder::send_buffer) bytes wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
#[doc(alias = "backpressure")]
pub enum SlowReader {
    /// The server reads nothing more from the peer, [`Connection::send`](crate::Connection::send)
    /// waits, and the [write deadline](crate::ServerBuilder::write_timeout) runs.
    #[default]
    Wait,
    /// The server closes the connection, with
    /// [`CloseReason::SlowReader`](crate::CloseReason::SlowReader). For servers that push to many
    /// peers and must not wait for a single one.
    Close,
}

/// The deadlines, as the builder has them. `None`: there is no such deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) first_byte: Option<Duration>,
    pub(crate) handshake: Option<Duration>,
    pub(crate) frame: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) body: Option<Duration>,
    /// The time between the messages of a WebSocket, after which the server sends a ping.
    pub(crate) message: Option<Duration>,
    pub(crate) write: Option<Duration>,
    pub(crate) linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Some(Duration::from_secs(10)),
            handshake: Some(Duration::from_secs(10)),
            frame: Some(Duration::from_secs(10)),
            idle: Some(Duration::from_secs(300)),
            body: None,
            message: None,
            write: Some(Duration::from_secs(30)),
            linger: LINGER,
        }
    }
}

/// The checked settings that turns and the connection table read. The fields are explained at the
/// methods of [`ServerBuilder`](crate::ServerBuilder).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) max_frame_size: usize,
    pub(crate) read_budget_bytes: usize,
    pub(crate) read_budget_frames: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_total: usize,
    pub(crate) slow_reader: SlowReader,
    pub(crate) max_age: Option<Duration>,
    /// How long after `max_age` a connection is cut off.
    pub(crate) max_age_grace: Option<Duration>,
    /// Zero: idle connections close at once.
    pub(crate) shutdown_grace: Duration,
    pub(crate) ticks: Ticks,
}

#[cfg(test)]
impl Settings {
    /// The least that works, for tests of a part that reads no bytes.
    pub(crate) fn least() -> Self {
        Self {
            max_frame_size: 1,
            read_budget_bytes: 1,
            read_budget_frames: 1,
            send_buffer: 1,
            send_buffer_total: 1,
            slow_reader: SlowReader::Wait,
            max_age: None,
            max_age_grace: None,
            shutdown_grace: Duration::ZERO,
            ticks: Ticks::new(&Deadlines::default()),
        }
    }
}

/// The deadlines in ticks of the timer wheel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    /// The length of a tick.
    pub(crate) tick: Duration,
    /// The shortest deadline: the timer wheel looks at each entry at least that often.
    pub(crate) horizon: u32,
    first_byte: u32,
    handshake: u32,
    frame: u32,
    idle: u32,
    body: u32,
    message: u32,
    write: u32,
    linger: u32,
    /// The write deadline itself.
    write_timeout: Option<Duration>,
    /// There is no deadline for the first byte, so the idle deadline runs from the accept.
    first_is_idle: bool,
}

impl Ticks {
    /// Computes the ticks. A tick is an eighth of the shortest deadline, which keeps that deadline
    /// precise. The least tick of 10 ms bounds the work of the timer. A tick is longer where the longest
    /// deadline would have more than `NEVER / 4` of them. A tick is whole milliseconds, because tokio's timer
    /// has no finer ones.
    pub(crate) fn new(of: &Deadlines) -> Self {
        // The default of the linger is shorter than other deadlines, and needs no precision.
        let linger = (of.linger < LINGER).then_some(of.linger);
        let Deadlines { first_byte, handshake, frame, idle, body, message, write, .. } = *of;
        let all = [first_byte, handshake, frame, idle, body, message, write, linger];
        let shortest = all.into_iter().flatten().min().unwrap_or(Duration::from_secs(60));
        let whole_millis = |duration: Duration| Duration::from_millis(duration.as_millis() as u64);
        let eighth = whole_millis(shortest / 8);
        let tick = eighth.clamp(Duration::from_millis(10), Duration::from_secs(1));
        let longest = all.into_iter().flatten().max().unwrap_or_default().max(of.linger);
        let least = whole_millis(longest / (NEVER / 4)) + Duration::from_millis(1);
        let tick = tick.max(least);
        // The tick that runs has begun already, so it does not count.
        let ticks = |duration: Option<Duration>| match duration {
            // About `NEVER / 4` at most. From `NEVER / 2` on, a deadline would count as passed.
            Some(duration) => duration.as_nanos().div_ceil(tick.as_nanos()) as u32 + 1,
            None => NEVER,
        };
        Self {
            tick,
            horizon: ticks(Some(shortest.min(of.linger))),
            linger: ticks(Some(of.linger)),
            first_byte: ticks(of.first_byte.or(of.idle)),
            first_is_idle: of.first_byte.is_none(),
            handshake: ticks(of.handshake),
            frame: ticks(of.frame),
            idle: ticks(of.idle),
            body: ticks(of.body),
            message: ticks(of.message),
            write: ticks(of.write),
            write_timeout: of.write,
        }
    }

    /// Returns the deadline that a close reason names for `deadline`, which has passed.
    pub(crate) fn passed(&self, deadline: Deadline) -> Deadline {
        match deadline {
            Deadline::FirstByte if self.first_is_idle => Deadline::Idle,
            deadline => deadline,
        }
    }

    /// Returns the write deadline as a duration, for a turn with a timer of its own.
    pub(crate) fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    /// Returns the tick at which the deadline of a wait that begins `now` passes.
    pub(crate) fn end(&self, park_reason: ParkReason, now: u32) -> u32 {
        let ticks = match park_reason {
            ParkReason::FirstByte => self.first_byte,
            ParkReason::Handshake => self.handshake,
            ParkReason::Frame | ParkReason::FrameTurn => self.frame,
            ParkReason::Write | ParkReason::Stall => self.write,
            ParkReason::Body => self.body,
            ParkReason::Idle | ParkReason::Warm => self.idle,
            ParkReason::Message => self.message,
            ParkReason::Linger | ParkReason::LingerTurn => self.linger,
            ParkReason::Turn | ParkReason::Stream | ParkReason::LastRequest => NEVER,
        };
        if ticks == NEVER { NEVER } else { Self::after(ticks, now) }
    }

    /// Returns the tick that is `ticks` after `now`. Ticks wrap, and `NEVER` is not a tick: the next
    /// one is 0.
    pub(crate) fn after(ticks: u32, now: u32) -> u32 {
        match now.wrapping_add(ticks) {
            NEVER => 0,
            at => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::YEAR;

    #[test]
    fn a_deadline_is_never_early() {
        for millis in [1, 9, 10, 99, 100, 8_001, 86_400_000] {
            let idle = Duration::from_millis(millis);
            let ticks = Ticks::new(&Deadlines { idle: Some(idle), ..Deadlines::default() });
            // The wait may begin at the end of its tick.
            let full = ticks.end(ParkReason::Idle, 7) - 7 - 1;
            assert!(full * ticks.tick >= idle, "{idle:?}: {full} ticks of {:?}", ticks.tick);
        }
    }

    #[test]
    fn the_longest_deadline_is_not_early_beside_the_shortest() {
        let least = Duration::from_nanos(1);
        let of = Deadlines { frame: Some(least), idle: Some(YEAR), ..Deadlines::default() };
        for of in [of, Deadlines { idle: None, linger: YEAR, ..of }] {
            let ticks = Ticks::new(&of);
            let end = if of.idle.is_some() { ParkReason::Idle } else { ParkReason::Linger };
            let full = ticks.end(end, 7) - 7 - 1;
            assert!(full * ticks.tick >= YEAR, "{full} ticks of {:?}", ticks.tick);
            assert!(full < NEVER / 3 && ticks.tick <= Duration::from_millis(30), "{ticks:?}");
        }
    }

    #[test]
    fn a_tick_is_whole_milliseconds() {
        for millis in [1, 81, 99, 100, 333, 7_777, 8_001] {
            let write = Some(Duration::from_millis(millis));
            let ticks = Ticks::new(&Deadlines { write, ..Deadlines::default() });
            assert_eq!(ticks.tick.subsec_nanos() % 1_000_000, 0, "{:?}", ticks.tick);
            // A timer of its own needs no ticks.
            assert_eq!(ticks.write_timeout(), write);
        }
    }

    #[test]
    fn no_deadline_is_the_tick_never() {
        let ticks = Ticks::new(&Deadlines::default());
        let idle = ticks.end(ParkReason::Idle, 0);
        assert_eq!(ticks.end(ParkReason::Idle, NEVER - idle), 0);
        assert_eq!(ticks.end(ParkReason::Idle, NEVER - idle + 1), 0);
        assert_eq!(ticks.end(ParkReason::Body, 5), NEVER);
    }

    #[test]
    fn the_idle_deadline_stands_in_for_the_first_byte() {
        let ticks = Ticks::new(&Deadlines { first_byte: None, ..Deadlines::default() });
        assert_eq!(ticks.end(ParkReason::FirstByte, 0), ticks.end(ParkReason::Idle, 0));
        assert_eq!(ticks.passed(Deadline::FirstByte), Deadline::Idle);
        assert_eq!(
            Ticks::new(&Deadlines::default()).passed(Deadline::FirstByte),
            Deadline::FirstByte
        );
    }
}
