//! The dedicated mode: a tokio task for each connection, which holds no buffer while it waits.
//!
//! The `accept` loop spawns a `ConnTask` for each new connection with [`Dedicated::accept`]. The
//! task owns the connection (`ConnGuard`: socket, idle state, entry of the table) until the end.
//! Its future is written by hand, so that a waiting task is no larger than what it must remember;
//! the future of a turn is boxed while that turn runs.
//!
//! # Phases
//!
//! ```text
//!   Idle, Awake --park the entry--> Idle, Parked or ParkedBlocked
//!        ^                                     |
//!        |                     socket ready, or entry ready: take the entry
//!        |                                     v
//!        +------------ turn parks ---------- Serving -- turn closes or detaches --> Ended
//! ```
//!
//! A parked task waits for two sources. tokio reports the readiness of the socket. The connection
//! table reports the rest: pushes, close requests and deadlines; the entry holds the task's waker
//! for that. With a pool, each turn is a job: the connection moves into the job, and comes back
//! with the job's output. So a connection uses a slot for its turns only.
//!
//! # Invariants
//!
//! - **T1** In `Parked` and `ParkedBlocked` the entry is parked or ready, in the other phases it is
//!   active. So `take` in this task succeeds, unless the server was killed.
//! - **T2** No readiness is lost: each poll of a parked task asks tokio again, and that registers
//!   the waker. The waker of a spawned task never changes, so the entry stores it once for each
//!   park.
//! - **T3** A kill ends every task. `kill` runs after the flag `killed` is set; the task reads the
//!   flag after it has parked. So either the kill finds the waker, or the task finds the flag.
//!   (test: `server/shutdown.rs`)
//! - **T4** A turn that ends with `ParkReason::Turn` yields to tokio before the next turn. For
//!   HTTP, tokio's `yield_now` wakes the task after the runtime has looked at its I/O driver and its
//!   timers; a task that wakes itself is polled 61 times before. (tests: `server/regressions.rs`,
//!   `http/fairness.rs`)

pub(crate) mod tokio_socket;

use std::mem::{replace, take};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use socket2::Socket;
use tokio::task::yield_now;
use tokio_util::sync::ReusableBoxFuture;

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::{ListenerConns, ParkedState};
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::server_state::ServerState;
use crate::conn::table::{Delivery, TurnInput};
use crate::conn::transport::{TlsAccept, Transport};
use crate::conn::wake_on_events::schedule;
#[cfg(feature = "ws")]
use crate::sync::failpoint;
use crate::task::tokio_socket::TokioSocket;
use crate::trace::ConnSpan;
use millpond::Pool;

/// The waker of a parked connection's task: what the table's entry holds.
pub(crate) struct TaskWaker(Waker);

impl ParkedState for TaskWaker {
    const USES_READY_QUEUE: bool = false;

    fn waker(&self) -> Option<Waker> {
        Some(self.0.clone())
    }
}

/// A connection, owned by its task or by the job of a turn.
pub(crate) type TaskConn<P> = ConnGuard<P, TaskWaker, TokioSocket>;

/// The dedicated mode of one listener.
pub(crate) struct Dedicated<P: Protocol> {
    pub(crate) conns: Arc<ListenerConns<P, TaskWaker>>,
    tls: TlsAccept,
    /// Runs the turns as jobs, if there is one.
    pool: Option<Pool>,
    /// Where connections go that are idle. `None`: they keep their tasks.
    #[cfg(feature = "http")]
    idle_table: Option<Box<dyn IdleTable<P>>>,
}

/// The place of idle connections, which have no task.
#[cfg(feature = "http")]
pub(crate) trait IdleTable<P: Protocol>: Send + Sync {
    /// Takes a connection between two turns, and parks it. Gives it back if it is not plain.
    fn take_back(
        &self,
        conn: TaskConn<P>,
        park_reason: (ParkReason, bool),
    ) -> Result<(), TaskConn<P>>;
}

impl<P: Protocol> Dedicated<P> {
    pub(crate) fn new(
        server: Arc<ServerState>,
        protocol: Arc<P>,
        tls: TlsAccept,
        pool: Option<Pool>,
    ) -> Self {
        Self {
            conns: Arc::new(ListenerConns::new(server, protocol)),
            tls,
            pool,
            #[cfg(feature = "http")]
            idle_table: None,
        }
    }

    /// Makes the tasks of busy connections of the event-driven mode.
    #[cfg(feature = "http")]
    pub(crate) fn with_idle_table(
        server: Arc<ServerState>,
        protocol: Arc<P>,
        pool: Option<Pool>,
        idle_table: Box<dyn IdleTable<P>>,
    ) -> Self {
        let conns = Arc::new(ListenerConns::new(server, protocol));
        Self { conns, tls: TlsAccept::default(), pool, idle_table: Some(idle_table) }
    }

    /// Spawns the task of a connection that has come from another table.
    #[cfg(feature = "http")]
    pub(crate) fn adopt(self: &Arc<Self>, conn: TaskConn<P>, park_reason: (ParkReason, bool)) {
        let phase = Phase::Idle { conn, park_reason, stage: ParkStage::Awake };
        tokio::spawn(ConnTask { phase, mode: self.clone(), turn: None });
    }

    /// Registers a new connection's socket with tokio, and spawns its task. If the protocol is to
    /// send first, the first turn runs at once.
    pub(crate) fn accept(self: &Arc<Self>, socket: Socket, address: Address, permit: PerIpPermit) {
        let socket = match TokioSocket::new(socket, address == Address::Unix) {
            Ok(socket) => socket,
            Err(_) => return self.conns.server.on_close(permit, CloseReason::Io),
        };
        let key = self.conns.insert(permit);
        let Some(idle) = self.conns.on_accept(key, address) else { return };
        let io = self.tls.wrap(socket);
        let span = ConnSpan::connection(&address);
        let conn: TaskConn<P> = ConnGuard::new(self.conns.clone(), (key, span), (io, idle));
        if P::SERVER_FIRST && self.tls.is_plain() {
            self.conns.deliver(key, Events::PUSHED);
        }
        let phase = Phase::Idle {
            conn,
            park_reason: (ParkReason::FirstByte, true),
            stage: ParkStage::Awake,
        };
        tokio::spawn(ConnTask { phase, mode: self.clone(), turn: None });
    }
}

/// A turn. Returns `None` if its connection ended inside of a job, by a kill or by the pool's end.
type TurnFuture<P> = ReusableBoxFuture<'static, Option<(TaskConn<P>, Outcome)>>;

/// The future of a connection's task.
struct ConnTask<P: Protocol> {
    phase: Phase<P>,
    mode: Arc<Dedicated<P>>,
    /// The turn, and its memory while the connection is warm: the next turn allocates nothing.
    turn: Option<TurnFuture<P>>,
}

enum Phase<P: Protocol> {
    /// Waits for a reason to serve. `park_reason` says whether its deadline starts anew, too.
    Idle {
        conn: TaskConn<P>,
        park_reason: (ParkReason, bool),
        stage: ParkStage,
    },
    Serving,
    Ended,
}

/// How far the park of an idle connection has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ParkStage {
    /// The entry is active: parking it is next.
    Awake,
    Parked,
    /// Parked, and also waits for the socket to take bytes.
    ParkedBlocked,
}

impl<P: Protocol> Unpin for ConnTask<P> {}

impl<P: Protocol> Future for ConnTask<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Idle { conn, park_reason, stage } => {
                    let input = ready!(poll_turn_input(conn, *park_reason, stage, cx));
                    let Phase::Idle { mut conn, .. } = replace(&mut this.phase, Phase::Ended)
                    else {
                        return Poll::Ready(());
                    };
                    let Some(input) = input else { return Poll::Ready(()) };
                    if let Some(socket) = conn.body.as_mut().and_then(|(io, _)| io.transport()) {
                        socket.force_io(input.forces_io());
                    }
                    this.phase = Phase::Serving;
                    match &this.mode.pool {
                        None => set(&mut this.turn, serve_turn(conn, input)),
                        Some(pool) => {
                            set(&mut this.turn, serve_turn_on_pool(pool.clone(), conn, input));
                        }
                    }
                }
                Phase::Serving => {
                    let Some(turn) = &mut this.turn else { return Poll::Ready(()) };
                    let ended = ready!(turn.poll(cx));
                    this.phase = Phase::Ended;
                    if !matches!(
                        ended,
                        Some((_, Outcome::Park { park_reason: ParkReason::Warm, .. }))
                    ) {
                        this.turn = None;
                    }
                    match ended {
                        #[cfg_attr(not(feature = "http"), allow(unused_mut))]
                        Some((mut conn, Outcome::Park { park_reason, moved })) => {
                            let park_reason = (park_reason, moved);
                            #[cfg(feature = "http")]
                            if let Some(idle_table) = &this.mode.idle_table
                                && park_reason.0 == ParkReason::Idle
                            {
                                match idle_table.take_back(conn, park_reason) {
                                    Ok(()) => return Poll::Ready(()),
                                    Err(kept) => conn = kept,
                                }
                            }
                            this.phase = Phase::Idle { conn, park_reason, stage: ParkStage::Awake };
                            // T4
                            if park_reason.0 == ParkReason::Turn {
                                match P::WARMS {
                                    true => drop(pin!(yield_now()).poll(cx)),
                                    false => cx.waker().wake_by_ref(),
                                }
                                return Poll::Pending;
                            }
                        }
                        Some((conn, Outcome::Close(reason))) => conn.end(reason),
                        Some((conn, Outcome::Panicked(payload))) => conn.panic(payload),
                        #[cfg(feature = "http")]
                        Some((conn, Outcome::Detached(detach))) => conn.detach(detach),
                        #[cfg(feature = "ws")]
                        Some((conn, Outcome::Settle)) => {
                            let park_reason = (ParkReason::Turn, true);
                            let stays = match &this.mode.idle_table {
                                Some(idle_table) if !failpoint("a WebSocket stays warm") => {
                                    idle_table.take_back(conn, park_reason).err()
                                }
                                _ => Some(conn),
                            };
                            if let Some(conn) = stays {
                                let stage = ParkStage::Awake;
                                this.phase = Phase::Idle { conn, park_reason, stage };
                            }
                        }
                        #[cfg(feature = "http")]
                        Some((_, Outcome::Warm)) => unreachable!("the connection has a task"),
                        None => {}
                    }
                }
                Phase::Ended => return Poll::Ready(()),
            }
        }
    }
}

/// Puts a turn into the memory of the last one, if there is some.
fn set<T>(
    turn: &mut Option<ReusableBoxFuture<'static, T>>,
    next: impl Future<Output = T> + Send + 'static,
) {
    match turn {
        Some(turn) => turn.set(next),
        None => *turn = Some(ReusableBoxFuture::new(next)),
    }
}

async fn serve_turn<P: Protocol>(
    mut conn: TaskConn<P>,
    input: TurnInput,
) -> Option<(TaskConn<P>, Outcome)> {
    let outcome = conn.serve_turn(input).await;
    Some((conn, outcome))
}

/// Serves a turn as a job of the pool. Waits for a slot first, without holding any buffer.
async fn serve_turn_on_pool<P: Protocol>(
    pool: Pool,
    mut conn: TaskConn<P>,
    input: TurnInput,
) -> Option<(TaskConn<P>, Outcome)> {
    conn.reason = CloseReason::PoolClosed;
    let (conns, key) = (conn.conns.clone(), conn.key);
    let job = async move {
        conn.reason = CloseReason::Aborted;
        match serve_turn(conn, input).await {
            // The panic continues inside of the job, so the pool counts the job as panicked.
            Some((conn, Outcome::Panicked(payload))) => conn.panic(payload),
            ended => ended,
        }
    };
    schedule(&conns, key, &pool, job).await?.ok()?.await.ok()?
}

/// Parks the connection, and waits for a reason to serve. Returns `None` if the server was killed.
fn poll_turn_input<P: Protocol>(
    conn: &mut TaskConn<P>,
    park_reason: (ParkReason, bool),
    stage: &mut ParkStage,
    cx: &mut Context<'_>,
) -> Poll<Option<TurnInput>> {
    let ConnGuard { conns, key, body, counters, .. } = conn;
    let (conns, key) = (&**conns, *key);
    // If hyper's connection has the socket, that registers the waker, and the table delivers
    // events.
    let mut socket = body.as_mut().and_then(|(io, _)| io.transport());
    if conns.is_killed() {
        return Poll::Ready(None);
    }
    let mut check_ready = true;
    if *stage == ParkStage::Awake {
        let waker = TaskWaker(cx.waker().clone());
        if conns.park(key, waker, park_reason, &take(counters)) != Delivery::Noted {
            return Poll::Ready(conns.take(key, true));
        }
        // A kill before the park has found no waker in the entry (T3).
        if conns.is_killed() {
            return Poll::Ready(None);
        }
        // A handshake may wait to read or to write. It waits to write if a write would block now.
        let blocked = match (park_reason.0, &mut socket) {
            (ParkReason::Write, _) => true,
            (ParkReason::Handshake, Some(socket)) => socket.poll_write_ready(cx).is_pending(),
            _ => false,
        };
        *stage = if blocked { ParkStage::ParkedBlocked } else { ParkStage::Parked };
        // `park` has just found the entry not ready; a later event wakes the task.
        check_ready = false;
    }
    let is_ready = socket.is_some_and(|socket| {
        park_reason.0 != ParkReason::Write && socket.poll_read_ready(cx).is_ready()
            || *stage == ParkStage::ParkedBlocked && socket.poll_write_ready(cx).is_ready()
    });
    if is_ready {
        return Poll::Ready(conns.take(key, true));
    }
    match check_ready.then(|| conns.take(key, false)).flatten() {
        Some(input) => Poll::Ready(Some(input)),
        None => Poll::Pending,
    }
}

/// Wakes all parked tasks and suspended turns, which find the flag and end (T3).
pub(crate) fn kill<P: Protocol>(conns: &ListenerConns<P, TaskWaker>) {
    for (_, TaskWaker(waker)) in conns.drain_parked() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framed::service::ServiceProtocol;

    #[test]
    fn a_task_that_waits_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines = ServiceProtocol<tokio_util::codec::LinesCodec, Service>;
        let size = size_of::<ConnTask<Lines>>() - size_of::<tokio_util::codec::LinesCodec>();
        assert!(size <= 160, "{size}");
    }
}
