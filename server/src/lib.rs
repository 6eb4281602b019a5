//! A connection server for tokio where idle connections cost next to nothing.
//!
//! The same code runs in two modes, under the same limits and deadlines:
//!
//! - [`Mode::Dedicated`]: each connection has a task, and no buffer while it waits.
//! - [`Mode::EventDriven`]: an idle connection is *parked*. It has no task, no buffer and no timer: a
//!   record of some fifty bytes, its codec, and the socket. When bytes arrive, a *turn* serves the
//!   connection in a slot of a [`Pool`].
//!
//! A tokio-util codec makes frames. A tower service answers them ([`ServerBuilder::serve`]), or a
//! [`Handler`] ([`ServerBuilder::handle`]), which may send at any time through a [`Connection`].
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
//! assert_eq!(report.still_open, 0);
//! # Ok(())
//! # }
//! ```
//!
//! The module `http` (feature `http`) serves an `axum::Router`, or any tower service of `http`
//! requests, the same way.
//!
//! # The guide
//!
//! | page | about |
//! |---|---|
//! | [`guide::server`] | modes, turns, the pool, limits, deadlines, closing, configuration, TLS |
//! | [`guide::http`] | HTTP: settings, the pool, what is parked and what is not, figures |
//!
//! The guide of [`millpond`](https://docs.rs/millpond) has pages on overload, shutdown and tuning.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tracing` (default) | events, and a span for each connection |
//! | `http` | the module `http` |
//! | `axum` | requests carry axum's `ConnectInfo` |
//! | `serde` | `ServerConfig`: servers from a configuration file |
//! | `rustls` | TLS; the cryptography provider is your choice |
//!
//! # Platforms
//!
//! Unix with 64-bit addresses; measured on Linux.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
mod builder;
mod close_reason;
#[cfg(feature = "serde")]
mod config;
mod conn;
mod error;
mod framed;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "http")]
pub mod http;
mod panic;
mod parked;
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod scripted;
#[cfg(all(test, not(fuzzing)))]
#[allow(missing_docs, unreachable_pub)]
mod scripted;
mod settings;
mod status;
mod sync;
mod task;
mod trace;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use crate::accept::address::Address;
pub use crate::accept::listen::Listen;
pub use crate::builder::ServerBuilder;
pub use crate::close_reason::{CloseReason, Deadline};
#[cfg(feature = "serde")]
pub use crate::config::{ServerConfig, ServerEntry};
pub use crate::error::StartError;
pub use crate::framed::connection::{Connection, SendError, TrySendError};
pub use crate::framed::handler::Handler;
pub use crate::framed::service::BoxError;
pub use crate::settings::{Mode, SlowReader};
pub use crate::status::{ServerStatus, ShutdownReport};

use crate::accept::listen::async_fd;
use crate::accept::{ConnHandler, accept};
use crate::builder::Config;
use crate::conn::listener_conns::{KILL_WAIT, ListenerConns};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{ServerState, Totals};
use crate::parked::{EventDriven, Parked, event_loop};
use crate::settings::Settings;
use crate::task::{Dedicated, TaskWaker};
use crate::trace::event;
use millpond::Pool;

/// A running server; from [`Server::builder`].
///
/// Dropping it stops it at once: it accepts no more, and closes all connections.
/// [`shutdown`](Self::shutdown) and [`wait`](Self::wait) let them finish.
pub struct Server {
    state: Arc<ServerState>,
    listener_conns: Vec<Box<dyn AnyListenerConns>>,
    addresses: Vec<SocketAddr>,
    /// Cancelled, nothing is accepted any more.
    stop: CancellationToken,
    token: CancellationToken,
    drain: Duration,
    tasks: Vec<AbortHandle>,
}

/// The connections of a listener, in either mode.
trait AnyListenerConns: Send + Sync {
    fn totals(&self) -> (Totals, usize);
    fn request_close_all(&self, reason: CloseReason);
    fn kill(&self);
}

impl<P: Protocol> AnyListenerConns for Arc<ListenerConns<P, Parked<P::Idle>>> {
    fn totals(&self) -> (Totals, usize) {
        ListenerConns::totals(self)
    }

    fn request_close_all(&self, reason: CloseReason) {
        ListenerConns::request_close_all(self, reason);
    }

    fn kill(&self) {
        parked::kill(self);
    }
}

impl<P: Protocol> AnyListenerConns for Arc<ListenerConns<P, TaskWaker>> {
    fn totals(&self) -> (Totals, usize) {
        ListenerConns::totals(self)
    }

    fn request_close_all(&self, reason: CloseReason) {
        ListenerConns::request_close_all(self, reason);
    }

    fn kill(&self) {
        task::kill(self);
    }
}

impl Server {
    /// Settings for a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    fn start<P: Protocol>(
        config: Config,
        settings: Settings,
        (max_connections, max_connections_per_ip): (usize, Option<usize>),
        pool: Pool,
        protocol: Arc<P>,
    ) -> Result<Self, StartError> {
        let state = Arc::new(ServerState::new(settings, max_connections, max_connections_per_ip));
        let mut server = Self {
            state: state.clone(),
            listener_conns: Vec::new(),
            addresses: Vec::new(),
            stop: config.token.child_token(),
            token: config.token.clone(),
            drain: config.drain,
            tasks: Vec::new(),
        };
        // All are bound before anything runs.
        let mut listeners = Vec::new();
        for listen in &config.listens {
            let bound = listen.bind().and_then(|listener| {
                server.addresses.extend(listener.local_addr());
                async_fd(listener)
            });
            let mode = listen.mode.unwrap_or(config.mode);
            match bound {
                Ok(listener) => listeners.push((listener, mode)),
                Err(error) => {
                    return Err(StartError::Listen { listen: listen.to_string(), error });
                }
            }
        }
        for (listener, mode) in listeners {
            let handler = match mode {
                Mode::Dedicated => {
                    let (state, tls) = (state.clone(), config.tls.clone());
                    let dedicated =
                        Dedicated::new(state, protocol.clone(), tls, config.pool.clone());
                    server.run(dedicated.conns.clone().run_timer());
                    server.listener_conns.push(Box::new(dedicated.conns.clone()));
                    ConnHandler::Dedicated(dedicated)
                }
                Mode::EventDriven => {
                    let (state, tls) = (state.clone(), config.tls.clone());
                    let (event, inner) = EventDriven::new(state, protocol.clone(), tls)
                        .map_err(StartError::Reactor)?;
                    server.run(event.conns.clone().run_timer());
                    let (conns, pool) = (event.conns.clone(), pool.clone());
                    server.run(async move {
                        if let Err(error) = event_loop(conns.clone(), inner, pool).await {
                            event!(ERROR, %error, "connections cannot be watched any more");
                            drop(error);
                            conns.server.killed.store(true, SeqCst);
                            parked::kill(&conns);
                        }
                    });
                    server.listener_conns.push(Box::new(event.conns.clone()));
                    ConnHandler::EventDriven(event)
                }
            };
            let accept_guard = state.accept_guard();
            let accept = accept(listener, handler, state.clone(), config.overload_response.clone());
            let stop = server.stop.clone();
            server.run(async move {
                stop.run_until_cancelled_owned(accept).await;
                drop(accept_guard);
            });
        }
        Ok(server)
    }

    fn run<R: Send + 'static>(&mut self, task: impl Future<Output = R> + Send + 'static) {
        self.tasks.push(tokio::spawn(task).abort_handle());
    }

    /// The TCP addresses it listens at, in the order of the calls of
    /// [`listen`](ServerBuilder::listen), with the ports that were chosen. Unix sockets are left
    /// out.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it holds and has done.
    pub fn status(&self) -> ServerStatus {
        let counts = self.state.counts();
        let reasons: Vec<_> = counts.closed.into_iter().collect();
        let mut status = ServerStatus {
            accepted: counts.accepted,
            open: counts.open,
            refused_full: counts.refused_full,
            refused_per_ip: counts.refused_per_ip,
            accept_errors: self.state.accept_errors(),
            closed: reasons.iter().map(|(_, count)| count).sum(),
            send_buffered: self.state.send_buffered(),
            reasons,
            ..ServerStatus::default()
        };
        for conns in &self.listener_conns {
            let (totals, parked) = conns.totals();
            status.parked += parked;
            status.bytes_in += totals.read;
            status.bytes_out += totals.wrote;
            status.frames += totals.frames;
            status.turns += totals.turns;
        }
        status
    }

    /// Runs until the [token](ServerBuilder::shutdown_token) is cancelled; then shuts down, with
    /// the [drain timeout](ServerBuilder::drain_timeout). With several servers await them together,
    /// by `join!` say: each begins to close its connections when it is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the token is cancelled, nothing has happened. Dropped later, connections
    /// close as they finish, and none is cut off.
    #[doc(alias = "serve")]
    #[doc(alias = "run")]
    pub async fn wait(&self) -> ShutdownReport {
        self.token.cancelled().await;
        self.shutdown(self.drain).await
    }

    /// Accepts no more; closes idle connections at once, and the others once what is under way on
    /// them has finished: turns, frames of which a part has come, answers that wait to go out.
    /// After `deadline` closes what is left.
    ///
    /// # Cancel safety
    ///
    /// Dropped, connections go on to close as they finish; none is cut off.
    #[doc(alias = "graceful")]
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let before = self.state.counts().closed;
        self.stop.cancel();
        // At once, unless user code holds an accept loop up.
        let _ = timeout(deadline.max(KILL_WAIT), self.state.no_acceptor()).await;
        for conns in &self.listener_conns {
            conns.request_close_all(CloseReason::Shutdown);
        }
        if timeout(deadline, self.state.empty()).await.is_err() {
            self.kill();
            let _ = timeout(KILL_WAIT, self.state.empty()).await;
        }
        let (mut closed, mut aborted, mut others) = (0, 0, 0);
        for (reason, count) in self.state.counts().closed {
            let count = count - before.get(&reason).copied().unwrap_or(0);
            match reason {
                CloseReason::Shutdown => closed += count,
                CloseReason::Aborted => aborted += count,
                _ => others += count,
            }
        }
        ShutdownReport { closed, others, aborted, still_open: self.state.open() }
    }

    fn kill(&self) {
        self.state.killed.store(true, SeqCst);
        for conns in &self.listener_conns {
            conns.kill();
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

#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
