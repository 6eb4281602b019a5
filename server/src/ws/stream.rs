//! WebSockets over HTTP/2: each is a stream of a connection that has a task, so it has a task too.
//!
//! `http/hyper_service.rs` spawns [`serve`] for an accepted extended CONNECT. The turns are those of
//! a parked WebSocket. [`Link`] takes the place of the connection table: it wakes the task for pushes
//! and close requests. [`Timer`] keeps the deadlines by the rule of the table, [`Wait::next`]. One mutex
//! guards the request to close; no user code runs under it.
//!
//! What must never happen: the task outlives its server. A kill drops hyper's connection, so reads and
//! writes of the stream fail, and it cancels [`Signals::killed`], so a handler that waits is dropped. The
//! task owns the entry of its connection with the others: a shutdown waits for the last `on_close`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, Write};
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::key::ConnKey;
use crate::conn::notifier::{self, ConnNotifier};
use crate::conn::protocol::{Outcome, WakeEvents};
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::timer_wheel::ticks_left;
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::{TurnInput, Wait};
use crate::http::Entry;
use crate::settings::{NEVER, Ticks};
use crate::sync::{Mutex, failpoint};
use crate::ws::conn::{AnyIo, StartWs, WsConn, WsTurn};

/// A stream is in no table.
const NO_KEY: ConnKey = ConnKey { index: 0, generation: 0 };

/// What a stream has of its connection.
pub(crate) struct Of {
    pub(crate) address: Address,
    pub(crate) notifier: ConnNotifier,
    pub(crate) signals: Signals,
    pub(crate) _entry: Arc<Entry>,
}

/// What a connection tells its streams.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    /// Cancelled when the connection says goodbye.
    pub(crate) goodbye: CancellationToken,
    /// Cancelled when the connection is cut off.
    pub(crate) killed: CancellationToken,
}

/// Serves a WebSocket until it ends.
pub(crate) async fn serve(on: OnUpgrade, start: Box<dyn StartWs>, of: Of) {
    let Ok(upgraded) = on.await else { return };
    let mut io = MaybeTls::Plain(Stream { upgraded, made_progress: false });
    let link = Arc::new(Link {
        connection: of.notifier.clone(),
        close_requested: Mutex::new(None),
        changed: Notify::new(),
    });
    let notifier = ConnNotifier::new(link.clone(), NO_KEY);
    let mut conn = Ending(Some(start.start(of.address, notifier, Box::default())), None);
    let (server, goodbye) = (of.notifier.server(), &of.signals.goodbye);
    let (mut timer, mut goodbye_said) = (Timer::new(&server.settings.ticks), false);
    loop {
        let Some(open) = &mut conn.0 else { return };
        if goodbye.is_cancelled() && !goodbye_said {
            goodbye_said = true;
            let reason = of.notifier.close_requested().filter(|reason| reason.is_gentle());
            let reason = reason.unwrap_or(CloseReason::Shutdown);
            notifier::Notify::request_close(&*link, NO_KEY, reason);
        }
        let close_requested = *link.close_requested.lock();
        let (input, mut counters) = (timer.turn_input(close_requested), Counters::default());
        let wake_events = &WakeEvents::default();
        let turn = WsTurn { server, input, counters: &mut counters, wake_events };
        let outcome = match close_requested.filter(|reason| !reason.is_gentle()) {
            Some(reason) => Outcome::Close(reason),
            None => {
                let served = open.serve(AnyIo::Stream(&mut io), turn);
                // Without this, only the end of the turn would be seen.
                let served = of.signals.killed.run_until_cancelled(served).await;
                served.unwrap_or_else(|| {
                    let reason = of.notifier.close_requested();
                    let reason = reason.filter(|_| !server.killed.load(SeqCst));
                    Outcome::Close(reason.unwrap_or(CloseReason::Aborted))
                })
            }
        };
        server.traffic.add(0, 0, counters.frames.into());
        let park_reason = match outcome {
            Outcome::Park { park_reason, moved } => (park_reason, moved),
            Outcome::Close(reason) => {
                conn.1 = Some(reason);
                return;
            }
            Outcome::Panicked(payload) => {
                conn.1 = Some(CloseReason::Panicked);
                drop(conn);
                std::panic::resume_unwind(payload)
            }
            Outcome::Detached(_) | Outcome::Warm => return,
        };
        // A turn that closes registers no waker. The next turn does.
        let is_closed = park_reason.0 == ParkReason::Linger && !timer.lingers();
        timer.park(park_reason);
        match park_reason.0.is_turn() || is_closed {
            true => tokio::task::yield_now().await,
            false => {
                let goodbye = Some(goodbye).filter(|_| !goodbye_said);
                wait(&link, goodbye, timer.deadline()).await;
            }
        }
    }
}

/// What a stream waits for. Its ticks begin with the stream.
struct Timer<'a> {
    ticks: &'a Ticks,
    begin: Instant,
    wait: Wait,
}

impl<'a> Timer<'a> {
    fn new(ticks: &'a Ticks) -> Self {
        let wait = Wait { park_reason: ParkReason::Turn, deadline: NEVER };
        Self { ticks, begin: Instant::now(), wait }
    }

    /// Returns the current tick. Ticks wrap, as those of a table do.
    fn now(&self) -> u32 {
        (self.begin.elapsed().as_nanos() / self.ticks.tick.as_nanos()) as u32
    }

    fn park(&mut self, park_reason: (ParkReason, bool)) {
        if park_reason.0.is_turn() && failpoint("a turn of a stream moves no deadline") {
            return;
        }
        self.wait = self.wait.next(park_reason, self.ticks, self.now());
    }

    fn lingers(&self) -> bool {
        self.wait.park_reason.wait() == ParkReason::Linger
    }

    fn turn_input(&self, close_requested: Option<CloseReason>) -> TurnInput {
        let Wait { park_reason, deadline } = self.wait;
        let is_late = ticks_left(deadline, self.now()) == Some(0);
        TurnInput {
            events: Events::NONE,
            park_reason: park_reason.wait(),
            expired: is_late.then(|| park_reason.deadline()),
            close_requested,
            is_busy: false,
        }
    }

    /// Returns when the next turn begins at the latest. If the last turn has met its deadline and did not
    /// close, that is the next tick.
    fn deadline(&self) -> Option<Instant> {
        let Self { ticks, begin, wait } = self;
        let left = ticks_left(wait.deadline, self.now())?.max(1);
        let begun = begin.elapsed().as_nanos() % ticks.tick.as_nanos();
        Some(Instant::now() + ticks.tick * left - Duration::from_nanos(begun as u64))
    }
}

/// Waits until the stream, the link, the goodbye or the deadline wakes the task.
async fn wait(link: &Link, goodbye: Option<&CancellationToken>, deadline: Option<Instant>) {
    let mut changed = pin!(link.changed.notified());
    let mut goodbye = pin!(goodbye.map(CancellationToken::cancelled));
    let mut timer = pin!(deadline.map(sleep_until));
    // The last turn has registered this task with the stream.
    let mut was_polled = false;
    poll_fn(|cx| {
        let is_woken = std::mem::replace(&mut was_polled, true);
        let is_last = goodbye.as_mut().as_pin_mut().is_some_and(|said| said.poll(cx).is_ready());
        let is_late = timer.as_mut().as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready());
        match changed.as_mut().poll(cx).is_ready() || is_last || is_late || is_woken {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Tells the handler of the end, also if the task is dropped.
struct Ending(Option<Box<dyn WsConn>>, Option<CloseReason>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            conn.on_close(self.1.unwrap_or(CloseReason::Aborted));
        }
    }
}

/// What reaches the task of a stream from outside.
struct Link {
    connection: ConnNotifier,
    close_requested: Mutex<Option<CloseReason>>,
    changed: Notify,
}

impl notifier::Notify for Link {
    fn deliver(&self, _key: ConnKey, _events: Events) {
        self.changed.notify_one();
    }

    fn request_close(&self, _key: ConnKey, reason: CloseReason) {
        let mut requested = self.close_requested.lock();
        if requested.is_none_or(|before| before.rank() < reason.rank()) {
            *requested = Some(reason);
        }
        drop(requested);
        self.changed.notify_one();
    }

    fn server(&self) -> &ServerState {
        self.connection.server()
    }

    fn id(&self) -> u64 {
        self.connection.id().0
    }

    fn register(&self, _key: ConnKey, _waker: &Waker) {}

    fn count_request(&self, _key: ConnKey) -> u32 {
        0
    }

    fn close_requested(&self, _key: ConnKey) -> Option<CloseReason> {
        *self.close_requested.lock()
    }
}

/// A stream of HTTP/2 as a socket.
pub(crate) struct Stream {
    upgraded: Upgraded,
    made_progress: bool,
}

impl Transport for Stream {
    fn made_progress(&mut self) -> bool {
        std::mem::take(&mut self.made_progress)
    }

    const REGISTERS_WAKER: bool = true;

    fn peer_addr(&self) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut unfilled = hyper::rt::ReadBuf::new(buffer.initialize_unfilled());
        ready!(Pin::new(&mut self.upgraded).poll_read(cx, unfilled.unfilled()))?;
        let count = unfilled.filled().len();
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.upgraded).poll_write(cx, bytes);
        self.made_progress |= matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.upgraded).poll_flush(cx)
    }

    /// Hyper's task sends what was written, and the end of the stream. Nothing has to wait for that.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.upgraded).poll_shutdown(cx) {
            Poll::Pending => Poll::Ready(Ok(())),
            ended => ended,
        }
    }
}
