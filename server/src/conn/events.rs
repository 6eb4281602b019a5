//! Events of a connection, and the reason that a parked connection waits for.
//!
//! A connection's entry collects its events in one byte. The poller, a `ConnNotifier` and the timer
//! add events under the lock of `ListenerConns::state`; a turn takes them. [`ParkReason::wakes_on`]
//! decides which events make a parked connection ready, and [`ParkReason::deadline`] which deadline
//! runs meanwhile. Both types are plain values.

use std::ops::BitOr;

use crate::close_reason::Deadline;
use crate::sync::failpoint;

/// A set of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events(u8);

impl Events {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READABLE: Self = Self(1);
    /// The peer has ended its side, or the connection broke. Reads must go on to the end.
    pub(crate) const CLOSING: Self = Self(2);
    pub(crate) const WRITABLE: Self = Self(4);
    /// Server code has something for the connection: a frame to send, or a wake-up of HTTP's state.
    pub(crate) const PUSHED: Self = Self(8);
    /// The connection is to be closed. The entry's `close_requested` has the reason, unless the
    /// deadline is the reason.
    pub(crate) const CLOSE_REQUESTED: Self = Self(16);
    /// The deadline has come. Only the timer sets this bit, together with `CLOSE_REQUESTED`.
    pub(crate) const EXPIRED: Self = Self(32);

    /// The connection is warm and has been idle for long enough. It gives up what it keeps between turns:
    /// the future of its turns or the protocol's state, and in the event-driven mode its task.
    pub(crate) const COOL: Self = Self(64);
    /// The events that make each parked connection ready.
    const COMMON: Self = Self(1 | 2 | 8 | 16 | 64);

    /// The events that wake a suspended turn of HTTP. Other events wait for the next turn.
    #[cfg(feature = "http")]
    pub(crate) const WAKING: Self =
        Self::READABLE.with(Self::CLOSING).with(Self::WRITABLE).with(Self::PUSHED);

    /// Returns whether both sets have an event in common.
    pub(crate) fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    /// Returns the events that both sets have.
    pub(crate) fn of(self, of: Self) -> Self {
        Self(self.0 & of.0)
    }

    pub(crate) fn without(self, of: Self) -> Self {
        Self(self.0 & !of.0)
    }

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// The reason that a parked connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkReason {
    /// The first byte of a new connection.
    FirstByte,
    /// The next step of the TLS handshake.
    Handshake,
    /// The next message.
    Idle,
    /// The same, of a busy connection: with the future of its turns or with the protocol's state, which it
    /// gives up when it is idle for longer.
    Warm,
    /// A request that may be on its way; see `conn/last_request.rs`. The connection was asked to close.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    LastRequest,
    /// The rest of a frame.
    Frame,
    /// The peer takes bytes. Nothing is read meanwhile.
    Write,
    /// The peer closes its side. The server's side is closed already.
    Linger,
    /// The peer takes bytes or sends some: with either, the turn may go on.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    Stall,
    /// The next message of a WebSocket.
    #[cfg_attr(not(feature = "ws"), allow(dead_code))]
    Message,
    /// The rest of a request body.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    Body,
    /// User code makes the next part of a response.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    Stream,
    /// Nothing: the turn has spent its budget, and others come first.
    Turn,
    /// The same in the midst of a frame, whose deadline runs.
    FrameTurn,
    /// The same of a connection that is closed: the socket may have more to be discarded.
    LingerTurn,
}

impl ParkReason {
    /// All reasons, in the order of their numbers.
    pub(crate) const ALL: [Self; 15] = [
        Self::FirstByte,
        Self::Handshake,
        Self::Idle,
        Self::Warm,
        Self::LastRequest,
        Self::Frame,
        Self::Write,
        Self::Linger,
        Self::Stall,
        Self::Message,
        Self::Body,
        Self::Stream,
        Self::Turn,
        Self::FrameTurn,
        Self::LingerTurn,
    ];

    /// Returns whether a connection that is parked for this reason is ready after `events`.
    pub(crate) fn wakes_on(self, events: Events) -> bool {
        match self {
            Self::Turn | Self::FrameTurn | Self::LingerTurn => true,
            Self::Write => events.any(Events::WRITABLE | Events::CLOSING | Events::CLOSE_REQUESTED),
            // These may go on in either direction: a TLS handshake writes, too.
            Self::Handshake | Self::Stall | Self::Body | Self::Stream => !events.is_empty(),
            // A socket is nearly always writable, so `WRITABLE` alone wakes none of the others.
            Self::FirstByte
            | Self::Idle
            | Self::Warm
            | Self::LastRequest
            | Self::Message
            | Self::Frame
            | Self::Linger => events.any(Events::COMMON),
        }
    }

    /// Returns the reason as turns and deadlines know it: a warm connection waits as an idle one does. A
    /// frame and a linger have their deadlines even if bytes come without a pause.
    pub(crate) fn wait(self) -> Self {
        match self {
            Self::Warm => Self::Idle,
            Self::FrameTurn => Self::Frame,
            Self::LingerTurn => Self::Linger,
            reason => reason,
        }
    }

    /// Whether a connection waits for the first message since it is there.
    pub(crate) fn is_new(self) -> bool {
        matches!(self, Self::FirstByte | Self::Handshake)
    }

    /// Whether the next turn begins at once, after others had theirs.
    pub(crate) fn is_turn(self) -> bool {
        matches!(self, Self::Turn | Self::FrameTurn | Self::LingerTurn)
    }

    /// Whether a connection waits for its next message, and gives up a task that it has while busy.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::Message) && !failpoint("a WebSocket stays warm")
    }

    /// Returns the deadline that a turn is told when the wait has expired.
    pub(crate) fn deadline(self) -> Deadline {
        match self {
            Self::FirstByte => Deadline::FirstByte,
            Self::Handshake => Deadline::Handshake,
            Self::Idle
            | Self::Warm
            | Self::LastRequest
            | Self::Message
            | Self::Turn
            | Self::Linger
            | Self::LingerTurn
            | Self::Stream => Deadline::Idle,
            Self::Frame | Self::FrameTurn => Deadline::Frame,
            Self::Write | Self::Stall => Deadline::Write,
            Self::Body => Deadline::Body,
        }
    }
}
