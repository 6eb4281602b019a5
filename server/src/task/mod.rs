//! The dedicated mode: a task for each connection, which holds no buffer while it waits.

pub(crate) mod tokio_socket;

use std::mem::{replace, take};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use socket2::Socket;

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
use crate::task::tokio_socket::TokioSocket;
use crate::trace::ConnSpan;
use millpond::Pool;

/// The task of a connection that waits.
pub(crate) struct TaskWaker(Waker);

impl ParkedState for TaskWaker {
    const USES_READY_QUEUE: bool = false;

    fn waker(&self) -> Option<Waker> {
        Some(self.0.clone())
    }
}

type TaskConn<P> = ConnGuard<P, TaskWaker, TokioSocket>;

/// The dedicated connections of one listener.
pub(crate) struct Dedicated<P: Protocol> {
    pub(crate) conns: Arc<ListenerConns<P, TaskWaker>>,
    tls: TlsAccept,
    /// Bounds the turns, if there is one.
    pool: Option<Pool>,
}

impl<P: Protocol> Dedicated<P> {
    pub(crate) fn new(
        server: Arc<ServerState>,
        protocol: Arc<P>,
        tls: TlsAccept,
        pool: Option<Pool>,
    ) -> Self {
        Self { conns: Arc::new(ListenerConns::new(server, protocol)), tls, pool }
    }

    pub(crate) fn accept(&self, socket: Socket, address: Address, permit: PerIpPermit) {
        let socket = match TokioSocket::new(socket, &address) {
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
        tokio::spawn(ConnTask { phase, pool: self.pool.clone() });
    }
}

type TurnFuture<P> = dyn Future<Output = Option<(TaskConn<P>, Outcome)>> + Send;

/// A connection's task. By hand, for a task that waits to be as small as what it must remember.
struct ConnTask<P: Protocol> {
    phase: Phase<P>,
    pool: Option<Pool>,
}

enum Phase<P: Protocol> {
    Idle { conn: TaskConn<P>, park_reason: (ParkReason, bool), stage: ParkStage },
    Serving(Pin<Box<TurnFuture<P>>>),
    Ended,
}

/// How far a task is in coming to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ParkStage {
    Awake,
    Parked,
    /// Its peer must take bytes first.
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
                    this.phase = Phase::Serving(match &this.pool {
                        None => Box::pin(serve_turn(conn, input)),
                        Some(pool) => Box::pin(serve_turn_on_pool(pool.clone(), conn, input)),
                    });
                }
                Phase::Serving(turn) => {
                    let ended = ready!(turn.as_mut().poll(cx));
                    this.phase = Phase::Ended;
                    match ended {
                        Some((conn, Outcome::Park { park_reason, moved })) => {
                            let park_reason = (park_reason, moved);
                            this.phase = Phase::Idle { conn, park_reason, stage: ParkStage::Awake };
                            if park_reason.0 == ParkReason::Turn {
                                cx.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                        }
                        Some((conn, Outcome::Close(reason))) => conn.end(reason),
                        Some((conn, Outcome::Panicked(payload))) => conn.panic(payload),
                        #[cfg(feature = "http")]
                        Some((conn, Outcome::Detached(detach))) => conn.detach(detach),
                        None => {}
                    }
                }
                Phase::Ended => return Poll::Ready(()),
            }
        }
    }
}

async fn serve_turn<P: Protocol>(
    mut conn: TaskConn<P>,
    input: TurnInput,
) -> Option<(TaskConn<P>, Outcome)> {
    let outcome = conn.serve_turn(input).await;
    Some((conn, outcome))
}

/// As a job: a slot is taken while user code runs, and no longer.
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
            // The job's panic, as far as the pool is concerned.
            Some((conn, Outcome::Panicked(payload))) => conn.panic(payload),
            ended => ended,
        }
    };
    conns.schedule(key, &pool, job).await?.ok()?.await.ok()?
}

/// Until something is to be done; none if the server is at an end.
fn poll_turn_input<P: Protocol>(
    conn: &mut TaskConn<P>,
    park_reason: (ParkReason, bool),
    stage: &mut ParkStage,
    cx: &mut Context<'_>,
) -> Poll<Option<TurnInput>> {
    let ConnGuard { conns, key, body, counters, .. } = conn;
    let (conns, key) = (&**conns, *key);
    // Where hyper has the socket, hyper hears of it, and delivers events.
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
        // A kill between the two looks has found nobody to wake.
        if conns.is_killed() {
            return Poll::Ready(None);
        }
        // A handshake may wait for either; it does for this one if its last write would block.
        let blocked = match (park_reason.0, &mut socket) {
            (ParkReason::Write, _) => true,
            (ParkReason::Handshake, Some(socket)) => socket.poll_write_ready(cx).is_pending(),
            _ => false,
        };
        *stage = if blocked { ParkStage::ParkedBlocked } else { ParkStage::Parked };
        // Events wake it from now on.
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

/// Closes what waits, and has the turns under way end.
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
