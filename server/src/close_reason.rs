//! [`CloseReason`] and [`Deadline`]: why connections end.

use std::fmt;

use crate::sync::failpoint;

/// Why a connection was closed.
///
/// [`Handler::on_close`](crate::Handler::on_close) gets the reason of its connection.
/// [`ServerStatus::closed_for`](crate::ServerStatus::closed_for) counts connections by reason. Each
/// connection has exactly one reason. If several apply, one that cuts work off comes before one that
/// lets work finish; otherwise the first stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer has ended the connection. What the peer had sent before is answered.
    Peer,
    /// [`Connection::close`](crate::Connection::close) was called.
    ClosedByServer,
    /// A deadline of the connection has passed.
    Deadline(Deadline),
    /// The peer takes its answers too slowly: the send buffer is full, and the policy is
    /// [`SlowReader::Close`](crate::SlowReader::Close). Or the answers would exceed
    /// [`send_buffer_total`](crate::ServerBuilder::send_buffer_total).
    SlowReader,
    /// A frame is larger than [`max_frame_size`](crate::ServerBuilder::max_frame_size).
    FrameTooLarge,
    /// The codec returned an error, for the bytes of the peer or for a frame of the server.
    Codec,
    /// The service or the handler returned an error.
    Service,
    /// The service, the handler or the codec panicked.
    Panicked,
    /// A read or a write failed: the peer has reset the connection, for example.
    Io,
    /// The TLS handshake failed.
    Tls,
    /// The pool of the server is closed, so the turn could not run.
    PoolClosed,
    /// The server shut down gracefully. Nothing was under way on the connection, or its work has
    /// finished.
    Shutdown,
    /// The deadline of a shutdown cut the connection off, or the server was dropped.
    Aborted,
    /// The connection has reached
    /// [`max_connection_age`](crate::ServerBuilder::max_connection_age), and its work has finished.
    MaxAge,
    /// The connection has had as many requests as `max_requests_per_connection` of HTTP allows.
    MaxRequests,
}

/// The deadlines of a connection. Each has a setting on the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deadline {
    /// From the accept to the first byte:
    /// [`first_byte_timeout`](crate::ServerBuilder::first_byte_timeout).
    FirstByte,
    /// From the first byte of the TLS handshake to its end:
    /// [`handshake_timeout`](crate::ServerBuilder::handshake_timeout).
    Handshake,
    /// From the first byte of a frame to its last:
    /// [`frame_timeout`](crate::ServerBuilder::frame_timeout), or `header_read_timeout` for HTTP.
    Frame,
    /// Between frames: [`idle_timeout`](crate::ServerBuilder::idle_timeout), or `keep_alive_timeout`
    /// for HTTP.
    Idle,
    /// While no byte of a request's body comes: `body_timeout` of HTTP.
    Body,
    /// While the peer takes none of the bytes that wait for it:
    /// [`write_timeout`](crate::ServerBuilder::write_timeout).
    Write,
    /// After the maximal age of the connection:
    /// [`max_connection_age_grace`](crate::ServerBuilder::max_connection_age_grace).
    MaxAge,
}

impl CloseReason {
    /// Returns whether the work under way on the connection may still finish.
    pub(crate) fn is_gentle(self) -> bool {
        self.rank() < 2
    }

    /// Returns whether a call of user code that is under way is dropped. A sender may request other closes
    /// from within such a call, and that call goes on to its end.
    pub(crate) fn drops_calls(self) -> bool {
        matches!(self, Self::Deadline(_)) && !failpoint("a call outlives the grace of an age")
    }

    /// Returns whether a request that is on its way may still come and be answered.
    #[cfg(feature = "http")]
    pub(crate) fn lets_requests_come(self) -> bool {
        matches!(self, Self::Shutdown | Self::MaxAge)
    }

    /// Returns how much a reason cuts off. Of two requests to close a connection the one of the
    /// higher rank holds, and the first of equal ones.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Shutdown | Self::MaxAge | Self::MaxRequests => 0,
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
            Self::Deadline(Deadline::MaxAge) => "the connection was too old",
            Self::MaxAge => "the connection was old",
            Self::MaxRequests => "the connection has had enough requests",
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
