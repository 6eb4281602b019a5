//! WebSockets that the server parks: from hyper to a framed protocol, on the same connection.
//!
//! `serve_turn.rs` calls [`take_over`] when hyper has ended with an upgrade that a response of
//! `ws::WebSocketUpgrade` has accepted. From the next turn on `mod.rs` gives the turns of the
//! connection to [`serve_turn`]. Nothing here is locked but the lent socket.
//!
//! What must never happen: the socket leaves hyper with an answer that is not flushed, or a byte that
//! hyper has read is not given to the WebSocket (`H1`).

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::StatusCode;

use crate::close_reason::CloseReason;
use crate::conn::edge_socket::EdgeSocket;
use crate::conn::events::ParkReason;
use crate::conn::protocol::{Outcome, Turn};
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::lent_io::{LentIo, Shared};
use crate::http::progress::ConnProgress;
use crate::http::{Busy, Idle, Upgraded};
use crate::sync::failpoint;
use crate::ws::conn::{AnyIo, WsTurn};
use crate::ws::stream;
use crate::ws::upgrade::{Accepted, Upgrade};

/// Notes that a response accepts a WebSocket. Over HTTP/1 hyper must end first; over HTTP/2 the
/// stream gets a task.
pub(super) fn accept(progress: &ConnProgress, status: StatusCode, accepted: &Accepted) {
    match status {
        StatusCode::SWITCHING_PROTOCOLS => progress.accept(accepted.take()),
        StatusCode::OK => {
            let stream = accepted.take().and_then(|upgrade| Some((upgrade, progress.stream_of()?)));
            if let Some((Upgrade { on, start }, of)) = stream {
                tokio::spawn(stream::serve(on, start, of));
            }
        }
        // The application has made another response of it.
        _ => {}
    }
}

/// Takes the socket back from hyper's upgraded connection. Returns the socket, and how the turn ends.
/// Returns `None` if hyper gives the socket to another owner.
pub(super) fn take_over<W: Transport>(
    shared: &Arc<Shared<W>>,
    upgrade: Upgrade,
    idle: &mut Idle,
) -> Option<(MaybeTls<W>, Outcome)> {
    let Upgrade { mut on, start } = upgrade;
    let Poll::Ready(Ok(upgraded)) = Pin::new(&mut on).poll(&mut Context::from_waker(Waker::noop()))
    else {
        return None;
    };
    let parts = upgraded.downcast::<LentIo<W>>().ok()?;
    let mut lent = shared.lent();
    let is_flushed = !lent.is_blocked;
    let (io, rest) = (lent.take_io(), lent.take_first());
    drop(lent);
    // Hyper ends even if the peer has not taken all of the head.
    if !is_flushed {
        return Some((io, Outcome::Close(CloseReason::Io)));
    }
    let read = if failpoint("first frames are lost") { &[][..] } else { &parts.read_buf };
    let upgraded = Upgraded { start, input: [read, &rest].concat().into() };
    *idle = Idle::Busy(Box::new(Busy::Upgraded(Box::new(upgraded))));
    Some((io, Outcome::Park { park_reason: ParkReason::Turn, moved: true }))
}

/// Whether the connection is a WebSocket.
pub(super) fn is_open(idle: &Idle) -> bool {
    matches!(idle, Idle::Busy(busy) if matches!(**busy, Busy::Upgraded(..) | Busy::WebSocket(_)))
}

/// Serves a turn of a WebSocket. The first one makes its state.
pub(super) async fn serve_turn<W: Transport>(turn: Turn<'_, W, Idle>) -> Outcome {
    let Turn { server, io, idle, input, counters, wake_events, notifier, .. } = turn;
    if let Some(reason) = input.close_requested.filter(|reason| !reason.is_gentle()) {
        return Outcome::Close(reason);
    }
    let Idle::Busy(busy) = idle else { return Outcome::Close(CloseReason::Aborted) };
    if matches!(**busy, Busy::Upgraded(..)) {
        let ended = Busy::Lingers(CloseReason::Aborted);
        let Busy::Upgraded(upgraded) = std::mem::replace(&mut **busy, ended) else {
            return Outcome::Close(CloseReason::Aborted);
        };
        let Upgraded { start, input: rest } = *upgraded;
        let Some(Ok(address)) = io.transport().map(|transport| transport.peer_addr()) else {
            return Outcome::Close(CloseReason::Io);
        };
        // User code makes the state of the connection.
        match catch_unwind(AssertUnwindSafe(|| start.start(address, notifier(), rest))) {
            Ok(conn) => **busy = Busy::WebSocket(conn),
            Err(payload) => return Outcome::Panicked(payload),
        }
    }
    let Busy::WebSocket(conn) = &mut **busy else { return Outcome::Close(CloseReason::Aborted) };
    if let Some(transport) = io.transport() {
        transport.force_io(input.forces_io());
    }
    let turn = WsTurn { server, input, counters, wake_events };
    conn.serve(any_io(io), turn).await
}

/// Returns the stream as one of the two modes.
fn any_io<W: Transport>(io: &mut MaybeTls<W>) -> AnyIo<'_> {
    let io: &mut dyn Any = io;
    if io.is::<MaybeTls<EdgeSocket>>() {
        return AnyIo::Edge(io.downcast_mut().expect("the type was just checked"));
    }
    AnyIo::Tokio(io.downcast_mut().expect("a connection is in one of two modes"))
}

/// Tells the handler of a WebSocket that its connection has ended.
pub(super) fn on_close(idle: Idle, reason: CloseReason) {
    let Idle::Busy(busy) = idle else { return };
    if let Busy::WebSocket(conn) = *busy {
        conn.on_close(reason);
    }
}
