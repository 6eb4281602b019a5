//! Lingering close: a connection that the server closes is read until the peer closes, too.
//!
//! If bytes are unread when a socket is closed, the kernel resets the connection. The peer may lose
//! the last response then. So the server ends its side, and discards what the peer still sends.
//! That ends when the peer closes or the linger deadline passes. nginx calls this
//! `lingering_close`.
//!
//! A TLS session ends its side with an alert, for which a full socket may have no room. A peer that
//! gets no alert must take the stream for cut off. So the alert waits as output does, with
//! `ParkReason::Write` and its deadline.
//!
//! Turns of `framed` and `http` linger by parking with `ParkReason::Linger`, so a lingering
//! connection costs no task. If the budget of a turn is spent before the socket is empty, the turn parks with
//! `ParkReason::LingerTurn`: the kernel reports nothing of bytes that were there before. The overload response
//! lingers in a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::close_reason::CloseReason;
use crate::conn::buffers::poll_fill;
use crate::conn::events::ParkReason;
use crate::conn::protocol::Outcome;
use crate::conn::wait::TurnInput;
use crate::sync::failpoint;

/// The most bytes that a task discards before it yields.
const DISCARD_BUDGET: usize = 64 * 1024;

/// Returns whether a connection must linger. `sent`: the peer has sent bytes that the server has
/// not served. After a bad frame the peer sends the rest of that frame, so the answer is always
/// yes.
pub(crate) fn is_due(reason: CloseReason, sent: bool) -> bool {
    use CloseReason::{ClosedByServer, Codec, FrameTooLarge, Service};
    matches!(reason, Codec | FrameTooLarge) || matches!(reason, ClosedByServer | Service) && sent
}

/// Ends the server's side of a connection. Returns whether the connection must be parked until the
/// socket takes the TLS alert. After an error or a deadline, the server waits for the peer no more.
pub(crate) fn end_output<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    reason: CloseReason,
) -> bool {
    use CloseReason::{Deadline, Io, SlowReader, Tls};
    let pending = Pin::new(io).poll_shutdown(cx).is_pending();
    let waits = !matches!(reason, Deadline(_) | Io | SlowReader | Tls);
    pending && waits && !failpoint("an alert that does not fit is dropped")
}

/// What a round of discarding has found.
pub(crate) enum Lingering {
    /// The peer has closed, or the connection broke.
    Gone,
    /// The socket is empty, and the peer may send more.
    Waits,
    /// The budget is spent, and the socket may have more.
    Turn,
}

/// Returns why a connection is parked that begins to linger. `is_spent`: the turn has spent its budget, so
/// the socket may have more.
pub(crate) fn park_reason(is_spent: bool) -> ParkReason {
    match is_spent && !failpoint("bytes beyond the budget wait for an event") {
        true => ParkReason::LingerTurn,
        false => ParkReason::Linger,
    }
}

/// Serves a turn of a closing connection. `reason` is why the server closes the connection.
pub(crate) fn proceed<R: AsyncRead + AsyncWrite + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    discard_buf: &mut BytesMut,
    most: usize,
    (input, reason): (TurnInput, CloseReason),
) -> Outcome {
    let waits_to_write = input.park_reason == ParkReason::Write && input.expired.is_none();
    if waits_to_write && end_output(io, cx, reason) {
        return Outcome::Park { park_reason: ParkReason::Write, moved: false };
    }
    let park_reason = match discard(io, cx, discard_buf, most) {
        // A deadline, or a later request to close for a different reason, ends the linger. The
        // request that began the linger stays in the entry (C6), so that reason ends nothing.
        _ if input.close_requested.is_some_and(|close_requested| close_requested != reason)
            || input.expired.is_some() =>
        {
            return Outcome::Close(reason);
        }
        Lingering::Gone => return Outcome::Close(reason),
        Lingering::Waits => ParkReason::Linger,
        Lingering::Turn => ParkReason::LingerTurn,
    };
    Outcome::Park { park_reason, moved: false }
}

/// Discards bytes until the peer closes. Called by a task that has a timeout.
pub(crate) async fn until_peer_closes<R: AsyncRead + Unpin>(io: &mut R) {
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

/// Discards the bytes that have come, up to about `most`. `discard_buf` has capacity afterwards
/// only if bytes have come.
pub(crate) fn discard<R: AsyncRead + Unpin>(
    io: &mut R,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::events::Events;
    use crate::conn::wait::Wait;
    use crate::settings::{Deadlines, Ticks};

    /// The kernel reports nothing of bytes that have come already.
    #[test]
    fn a_spent_budget_waits_for_no_event() {
        let ticks = Ticks::new(&Deadlines::default());
        let park_reason = (park_reason(true), false);
        assert!(park_reason.0.wakes_on(Events::NONE));
        // The deadline is that of the linger, whatever came before, and bytes do not extend it.
        let write = Wait { park_reason: ParkReason::Write, deadline: 7 };
        let first = write.next(park_reason, &ticks, 5);
        let next = first.next(park_reason, &ticks, 6).next((ParkReason::Linger, false), &ticks, 7);
        assert_eq!(
            (first.deadline, next.deadline),
            (ticks.end(ParkReason::Linger, 5), first.deadline)
        );
    }

    #[test]
    fn bytes_beyond_the_budget_are_discarded_in_further_turns() {
        let mut peer = std::io::Cursor::new(vec![0; 100_000]);
        let (mut cx, mut discard_buf) =
            (Context::from_waker(std::task::Waker::noop()), BytesMut::new());
        let (events, park_reason) = (Events::NONE, ParkReason::Linger);
        let (expired, close_requested, is_busy) = (None, None, false);
        let input = TurnInput { events, park_reason, expired, close_requested, is_busy };
        for turn in 0..100 {
            let reason = CloseReason::Codec;
            match proceed(&mut peer, &mut cx, &mut discard_buf, 1, (input, reason)) {
                Outcome::Park { park_reason: ParkReason::LingerTurn, moved: false } => {}
                Outcome::Close(CloseReason::Codec) => {
                    assert!(turn > 1);
                    return;
                }
                _ => panic!("another end of turn {turn}"),
            }
        }
        panic!("no end");
    }
}
