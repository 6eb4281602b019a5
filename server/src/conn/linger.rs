//! The end of a connection that the server closes: its last words are to arrive.
//!
//! If bytes were unread when a socket is closed, the kernel would reset the connection, and the
//! peer might lose what it has not read yet. So after the server's side has ended, what still comes
//! is read and thrown away, for a short while.

use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::close_reason::CloseReason;
use crate::conn::buffers::poll_fill;
use crate::conn::events::Wait;
use crate::conn::protocol::Outcome;
use crate::conn::table::Order;
use crate::conn::transport::{Io, Wire};

/// Whether a peer that has `sent` bytes which nobody reads any more should get to read what it was
/// told last. In the middle of a frame it is going to send more.
pub(crate) fn is_due(reason: CloseReason, sent: bool) -> bool {
    use CloseReason::{Codec, FrameTooLarge, Local, Service};
    matches!(reason, Codec | FrameTooLarge) || matches!(reason, Local | Service) && sent
}

pub(crate) enum Lingering {
    /// The peer has gone.
    Gone,
    /// It may send more.
    Waits,
    /// It sends a lot.
    Turn,
}

/// Goes on with a connection that is closed for `reason` and only waits for the peer to go.
pub(crate) fn go_on<W: Wire>(
    io: &mut Io<W>,
    cx: &mut Context<'_>,
    scrap: &mut BytesMut,
    most: usize,
    (order, reason): (Order, CloseReason),
) -> Outcome {
    let wait = match discard(io, cx, scrap, most) {
        // The reason it lingers for stands in its record, too.
        _ if order.doom.is_some_and(|doom| doom != reason) || order.late.is_some() => {
            return Outcome::Close(reason);
        }
        Lingering::Gone => return Outcome::Close(reason),
        Lingering::Waits => Wait::Linger,
        Lingering::Turn => Wait::Turn,
    };
    Outcome::Park { wait, moved: false }
}

/// Throws away what has come, up to `most` bytes.
pub(crate) fn discard<W: Wire>(
    io: &mut Io<W>,
    cx: &mut Context<'_>,
    scrap: &mut BytesMut,
    most: usize,
) -> Lingering {
    let mut read = 0;
    while read < most {
        match poll_fill(io, cx, scrap) {
            Poll::Pending => return Lingering::Waits,
            Poll::Ready(Ok(0) | Err(_)) => return Lingering::Gone,
            Poll::Ready(Ok(count)) => read += count,
        }
        scrap.clear();
    }
    Lingering::Turn
}
