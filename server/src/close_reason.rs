//! Why connections end.

use std::fmt;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer has ended the connection, and all it had sent is answered.
    Peer,
    /// [`Connection::close`](crate::Connection::close) was called.
    ClosedByServer,
    /// A deadline has passed.
    Deadline(Deadline),
    /// The peer does not take what is sent to it; see [`SlowReader`](crate::SlowReader).
    SlowReader,
    /// A frame is larger than [`max_frame_size`](crate::ServerBuilder::max_frame_size).
    FrameTooLarge,
    /// The codec could not read what the peer sent, or not write a frame.
    Codec,
    /// The service or the handler returned an error.
    Service,
    /// The service, the handler or the codec panicked.
    Panicked,
    /// The connection broke.
    Io,
    /// The TLS handshake failed.
    Tls,
    /// The pool is closed.
    PoolClosed,
    /// The server was shut down, and nothing was under way on the connection.
    Shutdown,
    /// The server was shut down, and its deadline cut the connection off; or it was dropped.
    Aborted,
}

/// The deadlines of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deadline {
    /// From the accept to the first byte.
    FirstByte,
    /// The TLS handshake, from its first byte.
    Handshake,
    /// From a frame's first byte to its last.
    Frame,
    /// Between frames.
    Idle,
    /// The body of a request, without a byte of it coming.
    Body,
    /// Without the peer taking any of the bytes that wait for it.
    Write,
}

impl CloseReason {
    /// Whether what is under way may still finish.
    pub(crate) fn is_gentle(self) -> bool {
        self.rank() < 2
    }

    /// Of two reasons the one that lets less be finished holds, or else the first.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Shutdown => 0,
            Self::ClosedByServer => 1,
            _ => 2,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "ended by the peer",
            Self::ClosedByServer => "closed by the server",
            Self::Deadline(Deadline::FirstByte) => "no byte came in time",
            Self::Deadline(Deadline::Handshake) => "the TLS handshake took too long",
            Self::Deadline(Deadline::Frame) => "a frame took too long",
            Self::Deadline(Deadline::Idle) => "idle for too long",
            Self::Deadline(Deadline::Body) => "the body of a request stalled",
            Self::Deadline(Deadline::Write) => "the peer took nothing for too long",
            Self::SlowReader => "the peer reads too slowly",
            Self::FrameTooLarge => "a frame is too large",
            Self::Codec => "the codec failed",
            Self::Service => "the service failed",
            Self::Panicked => "a panic",
            Self::Io => "the connection broke",
            Self::Tls => "the TLS handshake failed",
            Self::PoolClosed => "the pool is closed",
            Self::Shutdown => "the server shuts down",
            Self::Aborted => "cut off by the shutdown",
        })
    }
}
