//! Framed protocols: a codec turns bytes into frames, a service or a handler serves the frames.
//!
//! `conn/` decides when a connection is served. This folder decides what happens then: one *turn*
//! reads, decodes, calls user code, encodes and writes, until the socket would block or the read
//! budget is spent. The code is the same in both modes, and no line of it waits for a socket.
//!
//! | file | content |
//! |---|---|
//! | `protocol` | [`FrameProtocol`]: the operations of a turn, for a service and a handler |
//! | `service` | a tower service: one response for each frame, nothing else is sent |
//! | `connection` | [`Connection`](connection::Connection): sends from anywhere, at any time |
//! | `handler` | [`Handler`](handler::Handler), and the state that its `Connection`s share |
//! | `serve` | the turn |
//!
//! # The path of a frame
//!
//! 1. A turn takes two buffers from the server's pool, and puts the connection's
//!    [`SavedBytes`](protocol::SavedBytes) into them.
//! 2. `decode` runs until the input holds no whole frame. Then the turn reads from the socket.
//! 3. `call` gives one frame to user code; the next frame is decoded after the call has ended.
//! 4. `encode` appends the response to the output. Frames that were sent by a `Connection` wait in
//!    `ConnShared`; `collect` moves them to the end of the output.
//! 5. The turn writes the output. What the peer does not take becomes `SavedBytes` again, and the
//!    connection parks. An idle connection has no `SavedBytes` and no buffer.
//!
//! # Invariants
//!
//! - **F1** At most one turn of a connection runs at a time: the connection table sees to that.
//!   So a turn has `&mut Idle`, and no lock guards what only turns use.
//! - **F2** `decode` and `encode` of one connection never overlap. A handler's codec is used by
//!   turns and by senders on other threads, so the codec is inside `ConnShared::inner`.
//! - **F3** Under the lock of `ConnShared::inner` nothing is awaited, no waker is woken, and no
//!   user code but the codec runs. A [`BytesPermit`](crate::conn::server_state::BytesPermit) wakes
//!   senders when it is dropped; so it is dropped after the unlock.
//! - **F4** Frames leave in the order in which they were encoded: senders append to
//!   `ConnShared::output` under the lock, `collect` appends all of that to the turn's output.
//!   (test: `server/push.rs`)
//! - **F5** No send is forgotten. A sender that finds `ConnShared::output` empty delivers `PUSHED`.
//!   Later senders rely on that event: the turn that it starts collects their frames, too. While a turn
//!   polls user code (`Inner::polled`), no event is needed: each poll is followed by a `collect`.
//!   (test: `server/push.rs`)
//! - **F6** No sender waits for room that is there: it registers with both `Notify`s before it
//!   looks for room. (test: `server/regressions.rs`)
//! - **F7** `on_close` of the protocol runs once for each connection that `on_accept` has made. It
//!   runs after the last turn, and outside of every lock. (test: `server/handler.rs`)
//! - **F8** A deadline closes no connection before the socket itself was asked once more: the
//!   readiness that the reactor reports may be late. (tests: `server/deadlines.rs`,
//!   `server/slow.rs`)

pub(crate) mod connection;
pub(crate) mod handler;
mod protocol;
pub(crate) mod serve;
pub(crate) mod service;

use std::future::Future;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, Protocol, Turn};
use crate::conn::transport::Transport;
pub(crate) use crate::framed::protocol::FrameProtocol;
use crate::framed::serve::serve_turn;

impl<F: FrameProtocol> Protocol for F {
    type Idle = <F as FrameProtocol>::Idle;

    const SERVER_FIRST: bool = F::SERVER_FIRST;

    const WARMS_ITSELF: bool = false;

    /// While user code waits, a turn writes what `Connection`s send, and reads nothing.
    const INTEREST: Events = match F::SERVER_FIRST {
        true => Events::PUSHED.with(Events::WRITABLE),
        false => Events::NONE,
    };

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle {
        FrameProtocol::on_accept(self, address, notifier)
    }

    fn serve_turn<W: Transport>(
        &self,
        turn: Turn<'_, W, Self::Idle>,
    ) -> impl Future<Output = Outcome> + Send {
        serve_turn(turn.server, self, turn.io, turn.idle, turn.input, turn.counters)
    }

    fn on_close(&self, idle: Self::Idle, reason: CloseReason) {
        FrameProtocol::on_close(self, idle, reason);
    }
}
