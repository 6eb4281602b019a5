//! The end of a connection that the server closes: its last words are to arrive.
//!
//! If bytes were unread when a socket is closed, the kernel would reset the connection, and the
//! peer might lose what it has not read yet. So after the server's side has ended, what still comes
//! is read and thrown away, for a short while.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::close_reason::CloseReason;
use crate::conn::buffers::poll_fill;
use crate::conn::events::ParkReason;
use crate::conn::protocol::Outcome;
use crate::conn::table::TurnInput;
use crate::conn::transport::{MaybeTls, Transport};

/// What a task discards before others have their turn.
const DISCARD_BUDGET: usize = 64 * 1024;

/// Whether a peer that has `sent` bytes which nobody reads any more should get to read what it was
/// told last. In the middle of a frame it is going to send more.
pub(crate) fn is_due(reason: CloseReason, sent: bool) -> bool {
    use CloseReason::{ClosedByServer, Codec, FrameTooLarge, Service};
    matches!(reason, Codec | FrameTooLarge) || matches!(reason, ClosedByServer | Service) && sent
}

pub(crate) enum Lingering {
    /// The peer has gone.
    Gone,
    /// It may send more.
    Waits,
    /// It sends much.
    Turn,
}

/// Goes on with a connection that is closed for `reason` and only waits for the peer to go.
pub(crate) fn proceed<W: Transport>(
    io: &mut MaybeTls<W>,
    cx: &mut Context<'_>,
    discard_buf: &mut BytesMut,
    most: usize,
    (input, reason): (TurnInput, CloseReason),
) -> Outcome {
    let park_reason = match discard(io, cx, discard_buf, most) {
        // The reason it lingers for stands in its entry, too.
        _ if input.close_requested.is_some_and(|close_requested| close_requested != reason)
            || input.expired.is_some() =>
        {
            return Outcome::Close(reason);
        }
        Lingering::Gone => return Outcome::Close(reason),
        Lingering::Waits => ParkReason::Linger,
        Lingering::Turn => ParkReason::Turn,
    };
    Outcome::Park { park_reason, moved: false }
}

/// Throws away what comes, until the peer closes.
pub(crate) async fn until_peer_closes<W: Transport>(io: &mut MaybeTls<W>) {
    let mut discard_buf = BytesMut::new();
    poll_fn(|cx| match discard(io, cx, &mut discard_buf, DISCARD_BUDGET) {
        Lingering::Gone => Poll::Ready(()),
        Lingering::Waits => Poll::Pending,
        Lingering::Turn => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Throws away what has come, up to `most` bytes.
pub(crate) fn discard<W: Transport>(
    io: &mut MaybeTls<W>,
    cx: &mut Context<'_>,
    discard_buf: &mut BytesMut,
    most: usize,
) -> Lingering {
    let mut read = 0;
    while read < most {
        match poll_fill(io, cx, discard_buf) {
            Poll::Pending => return Lingering::Waits,
            Poll::Ready(Ok(0) | Err(_)) => return Lingering::Gone,
            Poll::Ready(Ok(count)) => read += count,
        }
        discard_buf.clear();
    }
    Lingering::Turn
}
