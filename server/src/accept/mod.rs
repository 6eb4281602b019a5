//! Accepting: from the listening socket to a connection that one of the modes owns.
//!
//! This is the first station of a connection. `Server::start` runs one task for each listener.
//! Its [`Acceptor`] owns the listener, the mode's [`ConnHandler`] and the responder. The
//! server's stop token ends the task, and with it the listener is closed.
//!
//! | file | content |
//! |---|---|
//! | `listen` | `Listen`, the public description; `Listener`, the bound socket |
//! | `address` | the address of a peer |
//! | `per_ip` | the limit of connections per peer |
//! | `overload` | the response to a refused connection |
//! | `refusals` | the events about refused connections |
//!
//! `listen`, `address`, `per_ip` and `refusals` import nothing from the later rooms, and all rooms may import
//! them. Only this file and `overload` import from `conn`, `parked` and `task`; no room imports
//! these two.
//!
//! # From accept to hand-over
//!
//! ```text
//! kernel's queue --accept--> socket --ServerState::admit--> permit --> handler.accept
//!                                            |                         (entry, idle state,
//!                                            | limit reached            registration, park)
//!                                            v
//!                                    overload response, linger, close
//! ```
//!
//! 1. The kernel's queue holds up to `backlog` connections. `Listener::accept` takes the first. The
//!    socket has inherited the listener's options, so no further system call is needed.
//! 2. `ServerState::admit` checks both limits under one lock: first the total, then the peer's.
//! 3. An admitted connection goes to the mode's `accept` with its permit. The handler inserts an
//!    entry in the connection table, and calls `Protocol::on_accept`, which is user code.
//! 4. A refused connection goes to `OverloadResponder::respond`, which returns at once.
//!
//! # Errors and backoff
//!
//! An error that concerns a single connection consumes that connection, so the loop goes on. With
//! any other error, such as too few descriptors, the connection stays in the kernel's queue. The
//! listener stays readable then, and the loop would spin. So the loop sleeps: 5 ms first, twice as
//! long after each further error, 500 ms at most. An accepted connection resets the time. Both
//! kinds are counted in `accept_errors`.
//!
//! # Invariants
//!
//! - **A1** No accepted connection is lost. Between `accept` and the hand-over nothing is awaited,
//!   so a cancelled loop stops before an accept or after a hand-over. With a `shutdown_grace` the
//!   task then takes what the kernel's queue still has.
//! - **A2** Nothing is accepted after a shutdown has begun to close connections. The shutdown waits
//!   until no [`AcceptGuard`](crate::conn::server_state::AcceptGuard) is left; each accept task
//!   holds one until its loop is dropped. (test: `server/shutdown.rs`)
//! - **A3** At most `max_connections` connections are open, and at most `max_connections_per_ip` of
//!   each origin. The checks and the counts change under one lock. (test: `server/limits.rs`)
//! - **A4** A permit is released exactly once, by `ServerState::on_close`. Until the insert of an
//!   entry the handler calls that; afterwards the release of the entry does (C9).
//!   (test: `server/limits.rs`)
//! - **A5** A refused connection costs a bounded amount. It never counts as open, and at most 128
//!   responses of a listener are under way, for a second each. (test: `server/limits.rs`)
//! - **A6** The loop never spins and never stops by an error: see the backoff. It yields to tokio
//!   after 64 connections, because a full queue never returns `Pending`.
//!   (test: `server/descriptors.rs`)

pub(crate) mod address;
pub(crate) mod listen;
mod overload;
pub(crate) mod per_ip;
pub(crate) mod refusals;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use crate::accept::address::Address;
use crate::accept::listen::Listener;
use crate::accept::overload::OverloadResponder;
use crate::accept::refusals::RefusalLog;
use crate::conn::protocol::Protocol;
use crate::conn::server_state::ServerState;
use crate::parked::EventDriven;
use crate::task::Dedicated;
use crate::trace::event;

/// The most connections that are accepted before the task yields (A6).
const BATCH: usize = 64;
/// The most connections that a listener accepts after the server has stopped accepting.
const MAX_REST: usize = 4096;
/// The first sleep after an error, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// The mode that takes a listener's connections.
pub(crate) enum ConnHandler<P: Protocol> {
    Dedicated(Dedicated<P>),
    EventDriven(EventDriven<P>),
}

/// Accepts the connections of a listener and hands them over.
pub(crate) struct Acceptor<P: Protocol> {
    listener: AsyncFd<Listener>,
    handler: ConnHandler<P>,
    server: Arc<ServerState>,
    responder: OverloadResponder,
    refusals: RefusalLog,
}

impl<P: Protocol> Acceptor<P> {
    pub(crate) fn new(
        listener: AsyncFd<Listener>,
        handler: ConnHandler<P>,
        server: Arc<ServerState>,
        overload_response: Option<Bytes>,
    ) -> Self {
        let (responder, refusals) =
            (OverloadResponder::new(overload_response), RefusalLog::default());
        Self { listener, handler, server, responder, refusals }
    }

    /// Accepts without end. Returns only if the runtime shuts down; the server's stop token drops this
    /// future.
    pub(crate) async fn run(&mut self) {
        let mut backoff = BACKOFF.0;
        let mut batch = 0;
        loop {
            let Ok(mut ready) = self.listener.readable().await else { return };
            let accepted = ready.try_io(|listener| listener.get_ref().accept());
            drop(ready);
            match accepted {
                Err(_would_block) => batch = 0,
                Ok(Ok((socket, address))) => {
                    backoff = BACKOFF.0;
                    self.hand_over(socket, address);
                    batch += 1;
                    if batch == BATCH {
                        batch = 0;
                        tokio::task::yield_now().await;
                    }
                }
                // The kernel's queue has lost the connection that failed; the next one may succeed.
                Ok(Err(error)) if is_of_one_connection(&error) => self.server.count_accept_error(),
                // The connection stays in the queue, and the listener stays readable.
                Ok(Err(error)) => {
                    self.server.count_accept_error();
                    let advice = accept_advice(&error);
                    event!(WARN, %error, pause = ?backoff, advice, "accepting failed");
                    let _ = (error, advice);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Accepts the connections that the kernel's queue still has: the close of the listener would reset
    /// them, with the requests that they have sent. Called when the server stops accepting.
    pub(crate) fn accept_rest(&mut self) {
        for _ in 0..MAX_REST {
            match self.listener.get_ref().accept() {
                Ok((socket, address)) => self.hand_over(socket, address),
                Err(error) if is_of_one_connection(&error) => self.server.count_accept_error(),
                Err(_) => return,
            }
        }
    }

    /// Gives an admitted connection to its mode, and a refused one to the responder.
    fn hand_over(&mut self, socket: Socket, address: Address) {
        match self.server.admit(&address) {
            Err(limit) => {
                self.refusals.note(limit, &address);
                self.responder.respond(socket, &address);
            }
            Ok(permit) => match &self.handler {
                ConnHandler::Dedicated(handler) => handler.accept(socket, address, permit),
                ConnHandler::EventDriven(handler) => handler.accept(socket, address, permit),
            },
        }
    }
}

/// Returns what helps against an error of `accept`.
fn accept_advice(error: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::MFILE) => {
            "the process has opened all its descriptors: lower `max_connections`, or call \
             `millpond_server::raise_descriptor_limit` before the start"
        }
        _ => "",
    }
}

/// Returns whether an error concerns only the connection that `accept` has taken from the queue.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}
