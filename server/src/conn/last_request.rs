//! The moment in which an idle connection that was asked to close may still send a request.
//!
//! A request may be on its way to the server when the server decides to close its connection. If the
//! connection closes at once, the request is lost, and the client cannot know whether the request was
//! served. So a server with a `shutdown_grace` asks its connections to close again and again, each time
//! after a grace. An idle connection closes only if it has met two such requests at rest. A request that
//! comes in between is answered, and the answer says that the connection closes.
//!
//! `http` calls [`at_rest`] where a connection without any part of a request is to be parked, and
//! [`ends_now`] for a request that is under way. `Server::shutdown` and `conn/age.rs` ask. Nothing here is
//! locked. What must never happen: a connection that waits here waits without end, so every connection
//! that was asked once is asked again until it has closed.
//!
//! ```text
//!            asked              asked again
//!   Idle ------------> LastRequest ------------> closed
//!                           |
//!                           | a request comes: answered with `connection: close`
//!                           v
//!                         closed
//! ```

use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::server_state::ServerState;
use crate::conn::wait::TurnInput;
use crate::sync::failpoint;

/// What becomes of a connection at rest that was asked to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtRest {
    Close(CloseReason),
    /// The connection is to be parked for this reason.
    Wait(ParkReason),
}

/// Decides what becomes of a connection at rest. Returns `None` if nothing has asked it to close.
/// `served`: the turn has begun a request, so the connection has met this request to close at work.
pub(crate) fn at_rest(server: &ServerState, input: &TurnInput, served: bool) -> Option<AtRest> {
    let reason = input.close_requested?;
    if !waits(server, reason) {
        return Some(AtRest::Close(reason));
    }
    let asked = input.events.any(Events::CLOSE_REQUESTED);
    Some(match input.park_reason {
        _ if served => AtRest::Wait(ParkReason::Idle),
        // These states tell nothing of earlier requests to close. No connection is accepted after the
        // first one of a shutdown, so the count of the server tells.
        ParkReason::FirstByte | ParkReason::Handshake => {
            match reason == CloseReason::Shutdown && server.close_rounds() <= 1 {
                true => AtRest::Wait(input.park_reason),
                false => AtRest::Close(reason),
            }
        }
        ParkReason::LastRequest if asked => AtRest::Close(reason),
        ParkReason::LastRequest => AtRest::Wait(ParkReason::LastRequest),
        _ if asked => AtRest::Wait(ParkReason::LastRequest),
        _ => AtRest::Wait(ParkReason::Idle),
    })
}

/// Returns whether hyper is to end the connection after the request that is under way.
/// `answered`: the head of the answer was written already, and does not say that the connection closes.
pub(crate) fn ends_now(server: &ServerState, input: &TurnInput, answered: bool) -> bool {
    input.close_requested.is_some_and(|reason| !(answered && waits(server, reason)))
}

fn waits(server: &ServerState, reason: CloseReason) -> bool {
    reason.lets_requests_come()
        && !server.settings.shutdown_grace.is_zero()
        && !failpoint("an idle connection has no grace")
}
