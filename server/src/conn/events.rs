//! What can happen to a connection, and what a parked connection waits for.

use std::ops::BitOr;

use crate::close_reason::Deadline;

/// A set of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events(u8);

impl Events {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READABLE: Self = Self(1);
    /// The peer has ended its side, or the connection broke: reads must go on to the end.
    pub(crate) const CLOSING: Self = Self(2);
    pub(crate) const WRITABLE: Self = Self(4);
    /// There is something to send.
    pub(crate) const PUSHED: Self = Self(8);
    /// It is to be closed; the entry says why.
    pub(crate) const CLOSE_REQUESTED: Self = Self(16);
    /// Its deadline has come.
    pub(crate) const EXPIRED: Self = Self(32);

    /// What wakes a suspended turn. The other events are for the next turn.
    #[cfg(feature = "http")]
    pub(crate) const WAKING: Self =
        Self::READABLE.with(Self::CLOSING).with(Self::WRITABLE).with(Self::PUSHED);

    pub(crate) fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

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

    #[cfg(feature = "http")]
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

/// What a parked connection waits for: says which events make it ready and which deadline runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkReason {
    FirstByte,
    Handshake,
    Idle,
    /// For the rest of a frame.
    Frame,
    /// Until the peer takes bytes; nothing is read meanwhile.
    Write,
    /// For the peer to go; the connection is closed already.
    Linger,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    /// Until the peer takes bytes, or sends some: either may let the turn go on.
    Stall,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    /// For the rest of the body of a request.
    Body,
    /// For user code to make the next part of a response.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    Stream,
    /// For nothing: it is to be served again, after the others.
    Turn,
}

impl ParkReason {
    pub(crate) fn wakes_on(self, events: Events) -> bool {
        match self {
            Self::Turn => true,
            Self::Write => events.any(Events::WRITABLE | Events::CLOSING | Events::CLOSE_REQUESTED),
            // While it shakes hands a session may want to write, too.
            Self::Handshake | Self::Stall | Self::Body | Self::Stream => !events.is_empty(),
            _ => events
                .any(Events::READABLE | Events::CLOSING | Events::PUSHED | Events::CLOSE_REQUESTED),
        }
    }

    pub(crate) fn deadline(self) -> Deadline {
        match self {
            Self::FirstByte => Deadline::FirstByte,
            Self::Handshake => Deadline::Handshake,
            Self::Idle | Self::Turn | Self::Linger | Self::Stream => Deadline::Idle,
            Self::Frame => Deadline::Frame,
            Self::Write | Self::Stall => Deadline::Write,
            Self::Body => Deadline::Body,
        }
    }
}
