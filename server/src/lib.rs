//! A server for framed protocols that holds its connections in one of two modes.
//!
//! The same code runs in both, under the same limits and deadlines; which one it is, is a setting:
//!
//! - [`Mode::Dedicated`]: a task for each connection, without a buffer while it waits.
//! - [`Mode::EventDriven`]: an idle connection is *parked*. It has no task, no buffer and no timer;
//!   what is left of it is a record of some fifty bytes, its codec, and the socket. When bytes
//!   arrive, a *burst* serves it in a slot of a [`Pool`].
//!
//! Frames go to a tower service ([`Builder::serve`]), or to a [`Handler`] ([`Builder::handle`])
//! that may send at any time through a [`Peer`].
//!
//! ```
//! use std::convert::Infallible;
//!
//! use millpond_server::{Mode, Server};
//! use tokio_util::codec::LinesCodec;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shout = |line: String| async move { Ok::<_, Infallible>(Some(line.to_uppercase())) };
//! let server = Server::builder()
//!     .listen("127.0.0.1:0")
//!     .mode(Mode::EventDriven)
//!     .codec(LinesCodec::new_with_max_length(1024))
//!     .serve(tower::service_fn(shout))?;
//! println!("listening at {}", server.local_addrs()[0]);
//! let report = server.shutdown(std::time::Duration::from_secs(1)).await;
//! assert_eq!(report.left, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # A burst
//!
//! It writes what waits to go out, reads, decodes, serves frame by frame, and writes the answers,
//! until the socket would block or the connection's turn is over: after
//! [`turn_bytes`](Builder::turn_bytes) or [`turn_frames`](Builder::turn_frames) the others come
//! first. It never waits for the socket: where the peer does not take its answers, they stay with
//! the connection, nothing more is read from it, and it rests until the peer does. A service that
//! waits keeps its slot of the pool, and neither a thread nor the reactor.
//!
//! A slot serves one burst at a time. In the event-driven mode one job has several of them, of
//! connection after connection, and makes room for others of the pool after a few.
//!
//! # When the pool is full
//!
//! Connections that become ready wait for a slot, first come first served, and what their peers send
//! stays in the kernel. The job that is to serve them stands in line with everybody else on that
//! pool. When the pool is closed, connections are closed as they become ready
//! ([`CloseReason::PoolClosed`]).
//!
//! # Closing
//!
//! Where the server ends a connection that may still be sending, for a malformed frame, an error of
//! the service or by [`Peer::close`], the peer first gets all answers to what came before and the
//! end of the stream. The socket is closed when the peer has gone, or after a second or two: bytes
//! that nobody has read would reset the connection, and the peer might lose the last words.
//!
//! # Limits and deadlines
//!
//! All are on by default, the same in both modes, and listed at [`Builder`]. They are
//! kept by a clock that ticks eight times in the shortest of them, every second at the least and
//! every 10 ms at most: a deadline is never early, and late by two ticks at most. While user code
//! runs for a connection only the write deadline does, for a handler. Before a connection is
//! closed for idleness it is read from once more.
//!
//! # Memory
//!
//! A parked connection costs its record, which is kept for the next one when it ends. A frame that
//! has arrived in part is kept by its exact bytes; a codec that reserves room for a frame by its
//! declared length has that room only during a burst. The kernel's own memory for a socket, some
//! 5 KiB, is the same in every mode.
//!
//! # Platforms
//!
//! Unix with 64-bit addresses; measured on Linux.

mod accept;
mod builder;
mod close_reason;
#[cfg(feature = "serde")]
mod config;
mod conn;
mod error;
mod framed;
#[cfg(feature = "http")]
pub mod http;
mod mode;
mod panic;
mod parked;
#[cfg(any(test, fuzzing))]
#[allow(missing_docs)]
pub mod scripted;
mod settings;
mod status;
mod sync;
mod task;
mod trace;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use crate::accept::address::Address;
pub use crate::accept::listen::Listen;
pub use crate::builder::Builder;
pub use crate::close_reason::{CloseReason, Deadline};
#[cfg(feature = "serde")]
pub use crate::config::{ServerConfig, ServerEntry};
pub use crate::error::StartError;
pub use crate::framed::connection::{Peer, SendError, TrySendError};
pub use crate::framed::handler::Handler;
pub use crate::framed::service::BoxError;
pub use crate::mode::Mode;
pub use crate::settings::SlowReader;
pub use crate::status::{ServerStatus, ShutdownReport};

use crate::accept::watch::watch;
use crate::accept::{Side, accept};
use crate::builder::Plan;
use crate::conn::listener_conns::{KILL_WAIT, Yard};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{Hub, Totals};
use crate::parked::{EventDriven, Parked, dispatch};
use crate::settings::Settings;
use crate::task::{Dedicated, Sleeper};
use crate::trace::event;
use millpond::Pool;

/// A running server; from [`Server::builder`].
///
/// Dropping it stops it at once: it accepts no more, and closes all connections.
/// [`shutdown`](Self::shutdown) and [`wait`](Self::wait) let them finish.
pub struct Server {
    hub: Arc<Hub>,
    yards: Vec<Box<dyn Ground>>,
    addresses: Vec<SocketAddr>,
    /// Cancelled, nothing is accepted any more.
    stop: CancellationToken,
    token: CancellationToken,
    drain: Duration,
    tasks: Vec<AbortHandle>,
}

/// A yard of either mode.
trait Ground: Send + Sync {
    fn totals(&self) -> (Totals, usize);
    fn doom_all(&self, reason: CloseReason);
    fn kill(&self);
}

impl<P: Protocol> Ground for Arc<Yard<P, Parked<P::Idle>>> {
    fn totals(&self) -> (Totals, usize) {
        Yard::totals(self)
    }

    fn doom_all(&self, reason: CloseReason) {
        Yard::doom_all(self, reason);
    }

    fn kill(&self) {
        parked::kill(self);
    }
}

impl<P: Protocol> Ground for Arc<Yard<P, Sleeper>> {
    fn totals(&self) -> (Totals, usize) {
        Yard::totals(self)
    }

    fn doom_all(&self, reason: CloseReason) {
        Yard::doom_all(self, reason);
    }

    fn kill(&self) {
        task::kill(self);
    }
}

impl Server {
    /// Settings for a server.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn start<P: Protocol>(
        plan: Plan,
        settings: Settings,
        (max_connections, per_peer): (usize, Option<usize>),
        pool: Pool,
        protocol: Arc<P>,
    ) -> Result<Self, StartError> {
        let hub = Arc::new(Hub::new(settings, max_connections, per_peer));
        let mut server = Self {
            hub: hub.clone(),
            yards: Vec::new(),
            addresses: Vec::new(),
            stop: plan.token.child_token(),
            token: plan.token.clone(),
            drain: plan.drain,
            tasks: Vec::new(),
        };
        // All are bound before anything runs.
        let mut listeners = Vec::new();
        for listen in &plan.listens {
            let bound = listen.bind().and_then(|listener| {
                server.addresses.extend(listener.local_addr());
                watch(listener)
            });
            let mode = listen.mode.unwrap_or(plan.mode);
            match bound {
                Ok(listener) => listeners.push((listener, mode)),
                Err(error) => {
                    return Err(StartError::Listen { listen: listen.to_string(), error });
                }
            }
        }
        for (listener, mode) in listeners {
            let side = match mode {
                Mode::Dedicated => {
                    let (hub, security) = (hub.clone(), plan.security.clone());
                    let dedicated =
                        Dedicated::new(hub, protocol.clone(), security, plan.pool.clone());
                    server.run(dedicated.yard.clone().sweep());
                    server.yards.push(Box::new(dedicated.yard.clone()));
                    Side::Dedicated(dedicated)
                }
                Mode::EventDriven => {
                    let (hub, security) = (hub.clone(), plan.security.clone());
                    let (event, inner) = EventDriven::new(hub, protocol.clone(), security)
                        .map_err(StartError::Reactor)?;
                    server.run(event.yard.clone().sweep());
                    let (yard, pool) = (event.yard.clone(), pool.clone());
                    server.run(async move {
                        if let Err(error) = dispatch(yard.clone(), inner, pool).await {
                            event!(ERROR, %error, "connections cannot be watched any more");
                            drop(error);
                            yard.hub.killed.store(true, SeqCst);
                            parked::kill(&yard);
                        }
                    });
                    server.yards.push(Box::new(event.yard.clone()));
                    Side::EventDriven(event)
                }
            };
            let accepting = hub.accepting();
            let accept = accept(listener, side, hub.clone(), plan.on_overload.clone());
            let stop = server.stop.clone();
            server.run(async move {
                stop.run_until_cancelled_owned(accept).await;
                drop(accepting);
            });
        }
        Ok(server)
    }

    fn run<R: Send + 'static>(&mut self, task: impl Future<Output = R> + Send + 'static) {
        self.tasks.push(tokio::spawn(task).abort_handle());
    }

    /// The TCP addresses it listens at, in the order of the calls of
    /// [`listen`](Builder::listen), with the ports that were chosen. Unix sockets are left out.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it holds and has done.
    pub fn status(&self) -> ServerStatus {
        let census = self.hub.census();
        let reasons: Vec<_> = census.closed.into_iter().collect();
        let mut status = ServerStatus {
            accepted: census.accepted,
            open: census.open,
            refused_full: census.refused_full,
            refused_per_peer: census.refused_per_peer,
            accept_errors: self.hub.accept_errors.load(Relaxed),
            closed: reasons.iter().map(|(_, count)| count).sum(),
            outgoing: self.hub.outgoing(),
            reasons,
            ..ServerStatus::default()
        };
        for yard in &self.yards {
            let (totals, parked) = yard.totals();
            status.parked += parked;
            status.bytes_in += totals.read;
            status.bytes_out += totals.wrote;
            status.frames += totals.frames;
            status.bursts += totals.bursts;
        }
        status
    }

    /// Runs until the [token](Builder::shutdown_token) is cancelled; then shuts down, with the
    /// [drain timeout](Builder::drain_timeout). With several servers await them together, by
    /// `join!` say: each begins to close its connections when it is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the token is cancelled, nothing has happened. Dropped later, connections close
    /// as they finish, and none is cut off.
    pub async fn wait(&self) -> ShutdownReport {
        self.token.cancelled().await;
        self.shutdown(self.drain).await
    }

    /// Accepts no more; closes idle connections at once, and the others once what is under way on
    /// them has finished: bursts, frames of which a part has come, answers that wait to go out.
    /// After `deadline` closes what is left.
    ///
    /// # Cancel safety
    ///
    /// Dropped, connections go on to close as they finish; none is cut off.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let before = self.hub.census().closed;
        self.stop.cancel();
        // At once, unless user code holds an accept loop up.
        let _ = timeout(deadline.max(KILL_WAIT), self.hub.accepts_no_more()).await;
        for yard in &self.yards {
            yard.doom_all(CloseReason::Shutdown);
        }
        if timeout(deadline, self.hub.empty()).await.is_err() {
            self.kill();
            let _ = timeout(KILL_WAIT, self.hub.empty()).await;
        }
        let (mut closed, mut aborted, mut others) = (0, 0, 0);
        for (reason, count) in self.hub.census().closed {
            let count = count - before.get(&reason).copied().unwrap_or(0);
            match reason {
                CloseReason::Shutdown => closed += count,
                CloseReason::Aborted => aborted += count,
                _ => others += count,
            }
        }
        ShutdownReport { closed, others, aborted, left: self.hub.open() }
    }

    fn kill(&self) {
        self.hub.killed.store(true, SeqCst);
        for yard in &self.yards {
            yard.kill();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
