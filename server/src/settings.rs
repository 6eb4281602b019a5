//! The modes, and the limits and deadlines that hold in both, in the units of the server.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::close_reason::Deadline;
use crate::conn::events::ParkReason;
use millpond::ConfigError;

/// How long a connection that was closed waits for its peer to go.
const LINGER: Duration = Duration::from_secs(1);

/// No deadline.
pub(crate) const NEVER: u32 = u32::MAX;

/// How a server holds its connections. What it does with them is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[doc(alias = "use_netpoll_mode")]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Mode {
    /// A task for each connection. It has no buffer while it waits.
    #[default]
    Dedicated,
    /// An idle connection is *parked*: it has no task, no buffer and no timer until bytes arrive,
    /// and is served as a job on the pool then. For many connections that are mostly idle.
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

/// What becomes of a peer that does not take what is sent to it, when
/// [`send_buffer`](crate::ServerBuilder::send_buffer) bytes wait for it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
#[doc(alias = "backpressure")]
pub enum SlowReader {
    /// Nothing more is read from it, [`Connection::send`](crate::Connection::send) waits, and the
    /// write deadline runs.
    #[default]
    Wait,
    /// It is closed. For servers that push to many and must not wait for one.
    Close,
}

/// The durations of the deadlines; `None` where one does not hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) first_byte: Option<Duration>,
    pub(crate) handshake: Option<Duration>,
    pub(crate) frame: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) body: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Some(Duration::from_secs(10)),
            handshake: Some(Duration::from_secs(10)),
            frame: Some(Duration::from_secs(10)),
            idle: Some(Duration::from_secs(300)),
            body: None,
            write: Some(Duration::from_secs(30)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) max_frame_size: usize,
    pub(crate) read_budget_bytes: usize,
    pub(crate) read_budget_frames: usize,
    pub(crate) send_buffer: usize,
    pub(crate) send_buffer_total: usize,
    pub(crate) slow_reader: SlowReader,
    pub(crate) ticks: Ticks,
}

/// The deadlines in ticks of the wheel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    pub(crate) tick: Duration,
    /// The shortest deadline.
    pub(crate) horizon: u32,
    first_byte: u32,
    handshake: u32,
    frame: u32,
    idle: u32,
    body: u32,
    write: u32,
    linger: u32,
    /// Where there is none for the first byte, the one for idleness holds from the start.
    first_is_idle: bool,
}

impl Ticks {
    /// Fine enough for the shortest deadline to be met within an eighth, and never busier than
    /// every 10 ms.
    pub(crate) fn new(of: &Deadlines) -> Self {
        let all = [of.first_byte, of.handshake, of.frame, of.idle, of.body, of.write];
        let shortest = all.into_iter().flatten().min().unwrap_or(Duration::from_secs(60));
        let tick = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        // One more, since the tick that runs has begun already.
        let ticks = |duration: Option<Duration>| match duration {
            Some(duration) => {
                (duration.as_nanos().div_ceil(tick.as_nanos()) as u32).min(NEVER / 4) + 1
            }
            None => NEVER,
        };
        Self {
            tick,
            horizon: ticks(Some(shortest.min(LINGER))),
            linger: ticks(Some(LINGER)),
            first_byte: ticks(of.first_byte.or(of.idle)),
            first_is_idle: of.first_byte.is_none(),
            handshake: ticks(of.handshake),
            frame: ticks(of.frame),
            idle: ticks(of.idle),
            body: ticks(of.body),
            write: ticks(of.write),
        }
    }

    /// As what a deadline that has passed is told.
    pub(crate) fn passed(&self, deadline: Deadline) -> Deadline {
        match deadline {
            Deadline::FirstByte if self.first_is_idle => Deadline::Idle,
            deadline => deadline,
        }
    }

    /// The write deadline, for those who have a timer of their own.
    pub(crate) fn write_timeout(&self) -> Option<Duration> {
        (self.write != NEVER).then(|| self.tick * (self.write - 1))
    }

    /// The tick at which a wait that begins now ends.
    pub(crate) fn end(&self, park_reason: ParkReason, now: u32) -> u32 {
        let ticks = match park_reason {
            ParkReason::FirstByte => self.first_byte,
            ParkReason::Handshake => self.handshake,
            ParkReason::Frame => self.frame,
            ParkReason::Write | ParkReason::Stall => self.write,
            ParkReason::Body => self.body,
            ParkReason::Idle => self.idle,
            ParkReason::Linger => self.linger,
            ParkReason::Turn | ParkReason::Stream => NEVER,
        };
        match ticks {
            NEVER => NEVER,
            // `NEVER` itself is not a tick.
            ticks => match now.wrapping_add(ticks) {
                NEVER => 0,
                at => at,
            },
        }
    }
}
