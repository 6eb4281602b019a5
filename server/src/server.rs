//! [`Server`]: the handle of a running server, its start and its shutdown.
//!
//! `builder::Config::start` calls [`Server::start`] with checked settings. The start binds all
//! listeners before it spawns anything. Then each listener has an accept loop, a timer task and, in
//! the event-driven mode, an event loop. `http::Server` wraps the handle.
//!
//! The handle has no lock of its own. `ServerState` counts the connections under its lock, and each
//! `ListenerConns` keeps its table under another. No function here holds two of these locks.
//!
//! # Shutdown
//!
//! 1. `stop` is cancelled, so the accept loops end.
//! 2. When no accept loop is left, no connection can come. Then each connection is asked to close;
//!    an earlier request would miss the connections that are accepted after it. With a
//!    `shutdown_grace` a task asks again after each grace; see `conn/last_request.rs`.
//! 3. The caller waits until no connection is open.
//! 4. At the deadline, when the handle is dropped, when an event loop fails (`failed`), or when the
//!    runtime ends (`CloseAll`), `killed` is set, and then each listener closes its parked connections
//!    and wakes the suspended turns. The order matters: a connection that parks after that sweep sees
//!    the flag (E5 in `parked`, T3 in `task`).
//!
//! Tests: `server/shutdown.rs`, `http/shutdown.rs`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::accept::listen::Listener;
use crate::accept::listen::async_fd;
use crate::accept::{Acceptor, ConnHandler};
use crate::builder::{Config, ServerBuilder};
use crate::close_reason::CloseReason;
use crate::conn::listener_conns::{KILL_WAIT, ListenerConns};
use crate::conn::park;
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{ServerState, Totals};
#[cfg(feature = "rustls")]
use crate::conn::transport::TlsAccept;
use crate::error::StartError;
use crate::parked::{EventDriven, event_loop};
use crate::settings::{Mode, Settings};
use crate::status::{ServerStatus, ShutdownReport};
use crate::sync::failpoint;
use crate::task::Dedicated;
use crate::trace::event;

/// A running server, from [`Server::builder`]. Its tasks run in the tokio runtime of the start, and the end of
/// that runtime closes all connections. Turns on a [pool](ServerBuilder::pool) run in the runtime of the pool,
/// which may be another one.
///
/// The handle is for status and shutdown: [`wait`](Self::wait) and [`shutdown`](Self::shutdown) let
/// connections finish. Dropping the handle stops the server at once: the server accepts no more and
/// closes all connections.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use millpond_server::Server;
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
/// use tokio::net::TcpStream;
/// use tokio_util::codec::LinesCodec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
/// let server = Server::builder().listen("127.0.0.1:0").codec(LinesCodec::new()).serve(echo)?;
///
/// let mut client = BufReader::new(TcpStream::connect(server.local_addrs()[0]).await?);
/// client.write_all(b"hello\n").await?;
/// let mut answer = String::new();
/// client.read_line(&mut answer).await?;
/// assert_eq!(answer, "hello\n");
///
/// let report = server.shutdown(Duration::from_secs(5)).await;
/// assert_eq!((report.closed, report.still_open), (1, 0));
/// assert_eq!(server.status().accepted, 1);
/// # Ok(())
/// # }
/// ```
pub struct Server {
    state: Arc<ServerState>,
    listener_conns: Vec<Arc<dyn AnyListenerConns>>,
    addresses: Vec<SocketAddr>,
    /// Ends the accept loops. A child of `token`.
    stop: CancellationToken,
    /// Cancelled when the connections of a listener cannot be watched any more. Closes those of all.
    failed: CancellationToken,
    /// The token of the user, which begins the shutdown of [`Server::wait`].
    token: CancellationToken,
    drain: Duration,
    #[cfg(feature = "rustls")]
    tls: TlsAccept,
    /// The runtime of all tasks.
    runtime: Handle,
    tasks: Vec<AbortHandle>,
}

/// The connections of a listener, with the protocol hidden.
trait AnyListenerConns: Send + Sync {
    fn totals(&self) -> (Totals, usize);
    fn request_close_all(&self, reason: CloseReason);
    fn kill(self: Arc<Self>);
}

impl<P: Protocol> AnyListenerConns for ListenerConns<P> {
    fn totals(&self) -> (Totals, usize) {
        ListenerConns::totals(self)
    }

    fn request_close_all(&self, reason: CloseReason) {
        self.protocol.on_shutdown();
        ListenerConns::request_close_all(self, reason);
    }

    fn kill(self: Arc<Self>) {
        park::kill(&self);
    }
}

impl Server {
    /// Returns the settings of a new server, all at their defaults.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    pub(crate) fn start<P: Protocol>(
        config: &Config,
        settings: Settings,
        (max_connections, max_connections_per_ip): (usize, Option<usize>),
        protocol: &Arc<P>,
    ) -> Result<Self, StartError> {
        let state = Arc::new(ServerState::new(settings, max_connections, max_connections_per_ip));
        let mut server = Self {
            state,
            listener_conns: Vec::new(),
            addresses: Vec::new(),
            stop: config.token.child_token(),
            failed: CancellationToken::new(),
            token: config.token.clone(),
            drain: config.drain,
            #[cfg(feature = "rustls")]
            tls: config.tls.clone(),
            runtime: Handle::current(),
            tasks: Vec::new(),
        };
        // After an error nothing may have been accepted, so all listeners are bound first.
        let listeners = server.bind_all(config)?;
        for (listener, mode) in listeners {
            let handler = match mode {
                Mode::Dedicated => server.start_dedicated(config, protocol),
                Mode::EventDriven => server.start_event_driven(config, protocol)?,
            };
            server.start_accepting(config, listener, handler);
        }
        Ok(server)
    }

    /// Binds the listeners, and keeps the addresses of the TCP ones.
    fn bind_all(&mut self, config: &Config) -> Result<Vec<(AsyncFd<Listener>, Mode)>, StartError> {
        let mut listeners = Vec::new();
        for listen in &config.listens {
            let bound = listen.bind().and_then(|listener| {
                self.addresses.extend(listener.local_addr());
                async_fd(listener)
            });
            match bound {
                Ok(listener) => listeners.push((listener, listen.mode.unwrap_or(config.mode))),
                Err(error) => {
                    return Err(StartError::Listen { listen: listen.to_string(), error });
                }
            }
        }
        Ok(listeners)
    }

    fn start_dedicated<P: Protocol>(
        &mut self,
        config: &Config,
        protocol: &Arc<P>,
    ) -> ConnHandler<P> {
        let (state, tls, pool) = (self.state.clone(), config.tls.clone(), config.pool.clone());
        let conns = Arc::new(ListenerConns::new(state, protocol.clone()));
        self.add_conns(&conns);
        ConnHandler::Dedicated(Dedicated::new(conns, tls, pool))
    }

    fn start_event_driven<P: Protocol>(
        &mut self,
        config: &Config,
        protocol: &Arc<P>,
    ) -> Result<ConnHandler<P>, StartError> {
        let (state, tls) = (self.state.clone(), config.tls.clone());
        let (event, inner) =
            EventDriven::new(state, protocol.clone(), tls).map_err(StartError::Reactor)?;
        self.add_conns(&event.conns);
        let (conns, pool) = (event.conns.clone(), config.pool.clone());
        let tasks = match P::WARMS_ITSELF || pool.is_none() {
            true => Some(event.tasks(pool.clone(), config.warm).map_err(StartError::Reactor)?),
            false => None,
        };
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.spawn(async move {
            if let Err(error) = event_loop(conns, inner, pool, tasks).await {
                event!(ERROR, %error, "connections cannot be watched any more: the server stops");
                drop(error);
                if !failpoint("a lost epoll leaves the other listeners") {
                    stop.cancel();
                    failed.cancel();
                }
            }
        });
        Ok(ConnHandler::EventDriven(event))
    }

    /// Keeps the connections of a listener, and starts the timer of their deadlines.
    fn add_conns<P: Protocol>(&mut self, conns: &Arc<ListenerConns<P>>) {
        let (timer, close_all) = (conns.clone().run_timer(), CloseAll(conns.clone()));
        let failed = self.failed.clone();
        self.spawn(async move {
            // Dropped with the task, also if the runtime never polls it.
            let _close_all = close_all;
            failed.run_until_cancelled_owned(timer).await;
        });
        if self.state.settings.max_age.is_some() {
            self.spawn(conns.clone().run_ages());
        }
        self.listener_conns.push(conns.clone());
    }

    fn start_accepting<P: Protocol>(
        &mut self,
        config: &Config,
        listener: AsyncFd<Listener>,
        handler: ConnHandler<P>,
    ) {
        // The guard exists before the task runs, so a shutdown waits for a loop that is not polled yet.
        let accept_guard = self.state.accept_guard();
        // A client that expects a handshake could not read a plain response.
        let response = config.overload_response.clone().filter(|_| config.tls.is_plain());
        let mut acceptor = Acceptor::new(listener, handler, self.state.clone(), response);
        let stop = self.stop.clone();
        let takes_rest = !self.state.settings.shutdown_grace.is_zero();
        self.spawn(async move {
            stop.run_until_cancelled_owned(acceptor.run()).await;
            if takes_rest && !failpoint("the queue of the kernel is dropped") {
                acceptor.accept_rest();
            }
            drop((acceptor, accept_guard));
        });
    }

    /// Spawns a task that the drop of the handle aborts.
    fn spawn<R: Send + 'static>(&mut self, task: impl Future<Output = R> + Send + 'static) {
        self.tasks.push(self.runtime.spawn(task).abort_handle());
    }

    /// Returns the TCP addresses of the listeners, in the order of the calls of
    /// [`listen`](ServerBuilder::listen), with the ports that the system chose. Unix sockets are left
    /// out.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns what the server holds and has done. See [`ServerStatus`] for the numbers that belong to
    /// one moment.
    ///
    /// The call takes the lock of each listener once, and costs no more with many connections.
    #[doc(alias = "metrics")]
    pub fn status(&self) -> ServerStatus {
        let counts = self.state.counts();
        let reasons: Vec<_> = counts.closed.into_iter().collect();
        let mut status = ServerStatus {
            accepted: counts.accepted,
            open: counts.open,
            refused_full: counts.refused_full,
            refused_per_ip: counts.refused_per_ip,
            // The counter guards no other data, so Relaxed needs no partner.
            accept_errors: self.state.accept_errors(),
            closed: reasons.iter().map(|(_, count)| count).sum(),
            send_buffered: self.state.send_buffered(),
            reasons,
            ..ServerStatus::default()
        };
        let of_listeners = self.listener_conns.iter().map(|conns| conns.totals());
        for (totals, parked) in of_listeners.chain([self.state.traffic.totals()]) {
            status.parked += parked;
            status.bytes_in += totals.read;
            status.bytes_out += totals.wrote;
            status.frames += totals.frames;
            status.turns += totals.turns;
        }
        status
    }

    /// Replaces the TLS configuration for connections that are accepted from now on: a renewed certificate,
    /// for example. Open connections keep theirs.
    ///
    /// With the feature `serde`, `ServerEntry::tls` reads the files of a configuration again.
    ///
    /// # Errors
    ///
    /// The server was built without [`tls`](ServerBuilder::tls).
    #[cfg(feature = "rustls")]
    #[doc(alias = "certificate")]
    pub fn reload_tls(
        &self,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> Result<(), millpond::ConfigError> {
        if self.tls.replace(config) {
            return Ok(());
        }
        Err(millpond::ConfigError::new("tls", "none", "a server that was built with `tls`"))
    }

    /// Serves until the [token](ServerBuilder::shutdown_token) is cancelled, then shuts down with the
    /// [drain timeout](ServerBuilder::drain_timeout). Returns as [`shutdown`](Self::shutdown) does.
    ///
    /// Without a token of its own the server serves until the future is dropped. The shutdown also begins
    /// if the system no longer tells of the connections' events: then the server accepts no more, and
    /// closes all connections.
    ///
    /// Several servers with one token are awaited together, with `join!` for example. Each server
    /// stops accepting when the token is cancelled, but closes its connections only while its `wait`
    /// is awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the token is cancelled changes nothing. A later drop is the same as
    /// a drop of [`shutdown`](Self::shutdown).
    ///
    /// # Examples
    ///
    /// Shut down on a signal: a task waits for the signal, and cancels the token.
    ///
    /// ```no_run
    /// # use std::convert::Infallible;
    /// # use millpond_server::Server;
    /// # use tokio_util::codec::LinesCodec;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
    /// let token = CancellationToken::new();
    /// let signal = token.clone().drop_guard();
    /// tokio::spawn(async move {
    ///     let _ = tokio::signal::ctrl_c().await;
    ///     drop(signal); // cancels the token
    /// });
    /// let server = Server::builder()
    ///     .listen("127.0.0.1:7000")
    ///     .shutdown_token(token)
    ///     .codec(LinesCodec::new())
    ///     .serve(echo)?;
    /// let report = server.wait().await;
    /// println!("{} connections were cut off", report.aborted);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "serve")]
    #[doc(alias = "run")]
    #[doc(alias = "axum::serve")]
    #[doc(alias = "with_graceful_shutdown")]
    pub async fn wait(&self) -> ShutdownReport {
        self.failed.run_until_cancelled(self.token.cancelled()).await;
        self.shutdown(self.drain).await
    }

    /// Shuts down gracefully, within `deadline`. Returns what became of the connections.
    ///
    /// The server accepts no more and closes idle connections at once. Another connection closes when
    /// its work has finished: its turn, a frame of which a part has come, answers that the peer has
    /// not taken. After `deadline` the server cuts off what is left, and waits up to a second more for
    /// the end of user code.
    ///
    /// A second call is allowed. Each report counts the connections that closed during its call.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server still accepts no more, and cuts no connection off. The
    /// connections that were asked to close still close as they finish. The request goes out once the
    /// accept loops have ended; after an earlier drop, call `shutdown` again.
    #[doc(alias = "graceful shutdown")]
    #[doc(alias = "graceful")]
    #[doc(alias = "drain")]
    #[doc(alias = "stop")]
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let before = self.state.counts().closed;
        self.stop.cancel();
        // Accept loops end at once, unless user code holds one up: a codec's `clone`, for example.
        let _ = timeout(deadline.max(KILL_WAIT), self.state.no_acceptor()).await;
        ask_to_close(&self.state, &self.listener_conns);
        // Two requests to close must fit into the deadline.
        let grace = self.state.settings.shutdown_grace.min(deadline / 2);
        if !grace.is_zero() {
            let conns = self.listener_conns.clone();
            self.runtime.spawn(keep_asking(self.state.clone(), conns, grace));
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

    /// Closes all connections, whatever is under way on them.
    fn kill(&self) {
        self.state.killed.store(true, SeqCst);
        for conns in &self.listener_conns {
            conns.clone().kill();
        }
    }
}

/// Closes the connections of a listener when it is dropped. Its owner is a task that ends with the runtime, or
/// when an event loop fails: no connection would ever be served or closed again.
struct CloseAll<P: Protocol>(Arc<ListenerConns<P>>);

impl<P: Protocol> Drop for CloseAll<P> {
    fn drop(&mut self) {
        if failpoint("connections outlive their runtime") {
            return;
        }
        self.0.server.killed.store(true, SeqCst);
        park::kill(&self.0);
    }
}

/// Asks all connections to close.
fn ask_to_close(state: &ServerState, listener_conns: &[Arc<dyn AnyListenerConns>]) {
    state.begin_close_round();
    for conns in listener_conns {
        conns.request_close_all(CloseReason::Shutdown);
    }
}

/// Asks all connections to close after each grace, until none is open. The task outlives the future of
/// the shutdown: connections that were asked once must close.
async fn keep_asking(
    state: Arc<ServerState>,
    listener_conns: Vec<Arc<dyn AnyListenerConns>>,
    grace: Duration,
) {
    while timeout(grace, state.empty()).await.is_err() {
        ask_to_close(&state, &listener_conns);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::codec::LinesCodec;

    use super::*;
    use crate::Listen;
    use crate::parked::FAILS_ONCE;

    #[tokio::test]
    async fn a_lost_epoll_ends_all_listeners() {
        let listen = |mode| Listen::from("127.0.0.1:0").mode(mode);
        let echo = |line: String| async { Ok::<_, Infallible>(Some(line)) };
        let server = Server::builder()
            .listen(listen(Mode::EventDriven))
            .listen(listen(Mode::EventDriven))
            .listen(listen(Mode::Dedicated))
            .codec(LinesCodec::new())
            .serve(tower::service_fn(echo))
            .unwrap();
        let mut clients = Vec::new();
        for address in server.local_addrs() {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        while server.status().parked < 3 {
            tokio::task::yield_now().await;
        }
        FAILS_ONCE.set(true);
        clients[0].write_all(b"hello\n").await.unwrap();
        let limit = Duration::from_secs(10);
        for client in &mut clients {
            // The end of the stream, or a reset.
            let read = timeout(limit, client.read(&mut [0])).await.expect("all are closed");
            assert_eq!(read.unwrap_or(0), 0);
        }
        let report = timeout(limit, server.wait()).await.expect("the server has stopped");
        assert_eq!(report.still_open, 0);
        assert_eq!(server.status().closed_for(CloseReason::Aborted), 3, "{:?}", server.status());
        for address in server.local_addrs() {
            TcpStream::connect(address).await.unwrap_err();
        }
    }
}
