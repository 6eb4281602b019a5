//! Tasks of connections: of each one in the dedicated mode, of busy ones in the event-driven mode.
//!
//! In the dedicated mode the `accept` loop spawns a `ConnTask` for each new connection with
//! [`Dedicated::accept`]. In the event-driven mode a worker spawns one for a connection that was served
//! some times within one tick (`Tasks::spawn`): under load a parked connection costs a second epoll and
//! the start of a worker for each turn. Such a *warm* connection gives its task up when it has been idle
//! for some ticks (`Events::COOL`). In the dedicated mode an idle connection keeps its task.
//!
//! The task owns the connection (`ConnGuard`: socket, idle state, entry of the table). Its future is
//! written by hand, so that a waiting task is no larger than what it must remember; the future of a turn
//! is boxed while that turn runs. In both modes that future goes on while the connection is busy, so the next
//! message moves and allocates nothing:
//! - a turn of HTTP also waits for the peer, and keeps hyper's connection (`Turn::task`);
//! - the future of a framed turn waits for the next message, and then runs the next turn (`serve_turn`).
//!
//! An idle connection gives the future up, and hyper's connection with it. On a pool each turn is a job, and
//! no future goes on. (tests: `server/warm.rs`, `http/states.rs`)
//!
//! # Phases
//!
//! ```text
//!   Idle, Awake --park the entry--> Idle, Parked or ParkedBlocked
//!        ^                                     |
//!        |                     socket ready, or entry ready: the turn begins
//!        |                                     v
//!        +------------ turn parks ---------- Serving -- turn closes or detaches --> Ended
//!                                              |
//!             event-driven: an idle turn, without TLS --> Ended: parked in the table
//! ```
//!
//! A task that waits has two sources. tokio reports the readiness of the socket. The connection table
//! reports the rest: pushes, close requests and deadlines, by the [`TaskEntry`]. With a pool, each turn is
//! a job: the connection moves into the job, and comes back with the job's output. So a connection uses a
//! slot for its turns only.
//!
//! # Invariants
//!
//! - **T1** The task alone begins and ends waits of its entry: in `Parked` and `ParkedBlocked`, and in
//!   `Serving` within a turn that waits for the peer, or between the turns of a busy framed connection.
//! - **T2** No readiness is lost: each poll of a task that waits asks tokio again, and that registers
//!   the waker. The waker of a spawned task never changes, so the entry stores it once.
//! - **T3** A kill ends every task. `kill` runs after the flag `killed` is set; the task reads the flag
//!   after the entry has its waker. So either the kill finds the waker, or the task finds the flag.
//!   (test: `server/shutdown.rs`)
//! - **T4** A turn that has spent its budget yields by tokio's `yield_now` before the next turn:
//!   that wakes the task after the runtime has looked at its I/O driver and its timers. A task that wakes
//!   itself is polled 61 times before. (tests: `server/regressions.rs`, `http/fairness.rs`)
//! - **T5** A change of place loses no byte and no deadline (`conn/rest.rs`). (tests: `http/warm.rs`)

use std::future::poll_fn;
use std::mem::{replace, take};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mio::Registry;
use socket2::Socket;
use tokio::task::yield_now;
use tokio_util::sync::ReusableBoxFuture;

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::ListenerConns;
use crate::conn::park::TaskConn;
use crate::conn::park::{EventConn, to_parked, to_task};
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::task_entry::TaskEntry;
use crate::conn::tokio_socket::TokioSocket;
use crate::conn::transport::{TlsAccept, Transport};
use crate::conn::wait::TurnInput;
use crate::conn::wake_on_events::schedule;
use crate::sync::failpoint;
use crate::trace::ConnSpan;
use millpond::Pool;

/// What the tasks of a listener's connections share.
pub(crate) struct Tasks<P: Protocol> {
    conns: Arc<ListenerConns<P>>,
    /// Runs the turns as jobs, if there is one.
    pool: Option<Pool>,
    /// The event-driven mode: only busy connections have tasks.
    of_busy: Option<OfBusy>,
}

/// Where idle connections go that give up their tasks, and how many others have one.
struct OfBusy {
    registry: Registry,
    most: usize,
    /// Each task of a busy connection has a clone. The count bounds memory and guards none.
    places: Arc<()>,
}

/// The right of a connection to a task while it is busy.
pub(crate) struct Place(#[expect(dead_code, reason = "counted by its references")] Arc<()>);

/// The dedicated mode of one listener.
pub(crate) struct Dedicated<P: Protocol> {
    tasks: Arc<Tasks<P>>,
    tls: TlsAccept,
}

impl<P: Protocol> Dedicated<P> {
    pub(crate) fn new(conns: Arc<ListenerConns<P>>, tls: TlsAccept, pool: Option<Pool>) -> Self {
        Self { tasks: Arc::new(Tasks { conns, pool, of_busy: None }), tls }
    }

    /// Registers a new connection's socket with tokio, and spawns its task. If the protocol is to
    /// send first, the first turn runs at once.
    pub(crate) fn accept(&self, socket: Socket, address: Address, permit: PerIpPermit) {
        let conns = &self.tasks.conns;
        let socket = match TokioSocket::new(socket, address == Address::Unix) {
            Ok(socket) => socket,
            Err(_) => return conns.server.on_close(permit, CloseReason::Io),
        };
        let key = conns.insert(permit);
        let Some(idle) = conns.on_accept(key, address) else { return };
        let io = self.tls.wrap(socket);
        let span = ConnSpan::connection(&address);
        let conn: TaskConn<P> = ConnGuard::new(conns.clone(), (key, span), (io, idle));
        if P::SERVER_FIRST && self.tls.is_plain() {
            conns.deliver(key, Events::PUSHED);
        }
        tokio::spawn(ConnTask::new(&self.tasks, conn, (ParkReason::FirstByte, true)));
    }
}

impl<P: Protocol> Tasks<P> {
    /// Makes what the tasks of busy connections of the event-driven mode share, `most` at a time.
    pub(crate) fn of_busy(
        conns: Arc<ListenerConns<P>>,
        pool: Option<Pool>,
        registry: Registry,
        most: usize,
    ) -> Self {
        let of_busy = OfBusy { registry, most, places: Arc::default() };
        Self { conns, pool, of_busy: Some(of_busy) }
    }

    /// Returns the right to a task, if one more connection may have it. Two callers at once may both get
    /// the last one: the bound is on memory, and need not be exact.
    pub(crate) fn place(&self) -> Option<Place> {
        let OfBusy { most, places, .. } = self.of_busy.as_ref()?;
        let has_room = Arc::strong_count(places) <= *most || failpoint("any number is warm");
        has_room.then(|| Place(places.clone()))
    }

    /// Spawns the task of a plain connection that was parked until now.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        conn: EventConn<P>,
        park_reason: (ParkReason, bool),
        place: Option<Place>,
    ) {
        let Some(OfBusy { registry, .. }) = &self.of_busy else { return };
        // The worker may be a job of a pool in another runtime.
        let is_entered = !failpoint("the runtime of a pool gets the tasks");
        let _entered = is_entered.then(|| self.conns.runtime.enter());
        if let Some(conn) = to_task(conn, registry) {
            let mut task = ConnTask::new(self, conn, park_reason);
            task.place = place;
            tokio::spawn(task);
        }
    }
}

/// A turn. Returns `None` if its connection ended inside of a job, by a kill or by the pool's end.
type TurnFuture<P> = ReusableBoxFuture<'static, Option<(TaskConn<P>, Outcome)>>;

/// The future of a connection's task.
struct ConnTask<P: Protocol> {
    phase: Phase<P>,
    tasks: Arc<Tasks<P>>,
    /// What the task shares with the table. `None` before the first poll.
    entry: Option<Arc<TaskEntry>>,
    place: Option<Place>,
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
    /// A turn has ended: parking the entry is next.
    Awake,
    Parked,
    /// Parked, and also waits for the socket to take bytes.
    ParkedBlocked,
}

impl<P: Protocol> ConnTask<P> {
    fn new(tasks: &Arc<Tasks<P>>, conn: TaskConn<P>, park_reason: (ParkReason, bool)) -> Self {
        Self {
            phase: Phase::Idle { conn, park_reason, stage: ParkStage::Awake },
            tasks: tasks.clone(),
            entry: None,
            place: None,
            turn: None,
        }
    }
}

impl<P: Protocol> Unpin for ConnTask<P> {}

impl<P: Protocol> Future for ConnTask<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Idle { conn, park_reason, stage } => {
                    let entry = match &this.entry {
                        Some(entry) => entry,
                        None => match conn.conns.begin_task(conn.key, cx.waker()) {
                            Some(entry) => this.entry.insert(entry),
                            None => return Poll::Ready(()),
                        },
                    };
                    let input = ready!(poll_turn_input(conn, entry, *park_reason, stage, cx));
                    let entry = entry.clone();
                    let Phase::Idle { mut conn, .. } = replace(&mut this.phase, Phase::Ended)
                    else {
                        return Poll::Ready(());
                    };
                    let Some(input) = input else { return Poll::Ready(()) };
                    force_io(&mut conn, input);
                    this.phase = Phase::Serving;
                    match &this.tasks.pool {
                        None => set(&mut this.turn, serve_turn(conn, input, Some(entry))),
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
                        Some((mut conn, Outcome::Park { park_reason, moved })) => {
                            let park_reason = (park_reason, moved);
                            let of_busy = this.tasks.of_busy.as_ref();
                            let is_idle = park_reason.0.is_idle();
                            if let Some(OfBusy { registry, .. }) = of_busy.filter(|_| is_idle) {
                                match to_parked(conn, registry, park_reason) {
                                    Ok(()) => return Poll::Ready(()),
                                    Err(kept) => conn = kept,
                                }
                            }
                            this.phase = Phase::Idle { conn, park_reason, stage: ParkStage::Awake };
                            // T4
                            if park_reason.0.is_turn() {
                                let _ = pin!(yield_now()).poll(cx);
                                return Poll::Pending;
                            }
                        }
                        Some((conn, Outcome::Close(reason))) => conn.end(reason),
                        Some((conn, Outcome::Panicked(payload))) => conn.panic(payload),
                        #[cfg(feature = "http")]
                        Some((conn, Outcome::Detached(detach))) => conn.detach(detach),
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

/// Serves a turn. In the task of a busy connection also the turns after it, and the waits in between.
async fn serve_turn<P: Protocol>(
    mut conn: TaskConn<P>,
    mut input: TurnInput,
    task: Option<Arc<TaskEntry>>,
) -> Option<(TaskConn<P>, Outcome)> {
    loop {
        let outcome = conn.serve_turn(input, task.as_deref()).await;
        let Some((task, moved)) = task.as_deref().zip(warm::<P>(input, &outcome)) else {
            return Some((conn, outcome));
        };
        let mut stage = ParkStage::Awake;
        let park_reason = (ParkReason::Warm, moved);
        let waited = poll_fn(|cx| match stage {
            ParkStage::Awake => poll_turn_input(&mut conn, task, park_reason, &mut stage, cx),
            // A wake-up begins a turn, without another look at the socket: the turn reads.
            _ if conn.conns.is_killed() => Poll::Ready(None),
            _ => Poll::Ready(Some(conn.conns.resume_task(conn.key, task))),
        });
        input = waited.await?;
        force_io(&mut conn, input);
    }
}

/// Returns whether the deadline moves, if a connection waits for its next message within the turn's
/// future: its last waits were short. So a busy connection moves and allocates nothing between turns.
fn warm<P: Protocol>(input: TurnInput, outcome: &Outcome) -> Option<bool> {
    let is_warm = input.is_busy && !P::WARMS_ITSELF;
    match *outcome {
        Outcome::Park { park_reason: ParkReason::Idle, moved } if is_warm => {
            let is_cool = input.events.any(Events::COOL) && !moved;
            (!is_cool || failpoint("a busy framed connection never cools")).then_some(moved)
        }
        _ => None,
    }
}

/// Has the socket ask the kernel itself in a turn that may close the connection.
fn force_io<P: Protocol>(conn: &mut TaskConn<P>, input: TurnInput) {
    if let Some(socket) = conn.body.as_mut().and_then(|(io, _)| io.transport()) {
        socket.force_io(input.forces_io());
    }
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
        match serve_turn(conn, input, None).await {
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
    entry: &TaskEntry,
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
    if *stage == ParkStage::Awake {
        conns.server.pause_task(entry, park_reason, &take(counters));
        // A handshake may wait to read or to write. It waits to write if a write would block now.
        let blocked = match (park_reason.0, &mut socket) {
            (ParkReason::Write, _) => true,
            (ParkReason::Handshake, Some(socket)) => socket.poll_write_ready(cx).is_pending(),
            _ => false,
        };
        *stage = if blocked { ParkStage::ParkedBlocked } else { ParkStage::Parked };
    }
    let is_ready = socket.is_some_and(|socket| {
        park_reason.0 != ParkReason::Write && socket.poll_read_ready(cx).is_ready()
            || *stage == ParkStage::ParkedBlocked && socket.poll_write_ready(cx).is_ready()
    });
    match is_ready || entry.is_ready() {
        true => Poll::Ready(Some(conns.resume_task(key, entry))),
        false => Poll::Pending,
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
