//! HTTP/2 connections: each has a task of its own for as long as it lasts, since its state is not
//! idle between requests.
//!
//! The task is busy while user code is under way: a call, a body, a tunnel. No timer runs then. At
//! other times a timer runs from the last byte that moved, in either direction:
//!
//! - while bytes of answers wait for the peer, the write timeout, if there is one;
//! - else the keep-alive timeout, after which the peer is told to go away;
//! - then the farewell, until the peer is gone.
//!
//! A connection that is cut with bytes unsent is never told of as closed for a shutdown.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2::{Builder, Connection};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Address;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::Outcome;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::hyper_service::{HttpService, HyperService};
use crate::http::lent_io::{LentIo, Shared};
use crate::http::progress::{ConnProgress, ProgressGuard, SocketWaiter};
use crate::http::{GaugeGuard, HttpProtocol};

/// How long a connection may be silent before its end, once all was sent and taken.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a peer may be silent that may still take bytes from the kernel, where there is no write
/// timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the peer's kernel takes for sure, though the peer itself reads nothing.
const TAKEN: u64 = 64 * 1024;

/// What a peer may have sent before it has heard of the end: hyper's window, and some more.
const STRAY: u64 = 2 * 1024 * 1024;

/// Runs streams and tunnels. The connection is busy until they have ended.
#[derive(Clone)]
pub(crate) struct Spawn(Arc<ConnProgress>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        let guard = ProgressGuard::new(self.0.clone(), 0, 0);
        tokio::spawn(async move {
            let _share = guard;
            future.await
        });
    }
}

type Hyper<W, A> = Connection<LentIo<W>, HyperService<A>, Spawn>;

struct Task<W: Transport, A: HttpService> {
    /// None once hyper is done, and only the peer's end is awaited.
    hyper: Option<Pin<Box<Hyper<W, A>>>>,
    shared: Arc<Shared<W>>,
    keep_alive: Option<Duration>,
    write: Option<Duration>,
    /// The peer was told to go away.
    is_last: bool,
    /// When bytes moved last, or user code was under way.
    moved: Instant,
    /// How often bytes had moved at the last look, and how much had been written.
    seen: (u64, u64),
    /// How much had been written at the end of the last long silence.
    taken: u64,
    /// How much had been read when hyper was done.
    read: u64,
    timer: Option<Pin<Box<Sleep>>>,
    _gauge: GaugeGuard,
}

/// Leaves the connection to a task.
pub(crate) fn serve<W: Transport, A: HttpService>(
    protocol: &HttpProtocol<A>,
    (notifier, peer): (ConnNotifier, Option<Address>),
    io: MaybeTls<W>,
    first: Bytes,
) -> Outcome {
    let write = notifier.server().settings.ticks.write_timeout();
    let shared = Shared::new();
    shared.bind((notifier, peer), io, (first, None));
    let progress = shared.progress.clone();
    let spawn = Spawn(progress.clone());
    let service = HyperService {
        service: protocol.service.clone(),
        progress,
        connect_info: protocol.connect_info,
    };
    let hyper = Box::pin(Builder::new(spawn).serve_connection(LentIo(shared.clone()), service));
    let task = Task {
        hyper: Some(hyper),
        shared: shared.clone(),
        keep_alive: protocol.keep_alive,
        write,
        is_last: false,
        moved: Instant::now(),
        seen: (0, 0),
        taken: 0,
        read: 0,
        timer: None,
        _gauge: protocol.http_states.acquire(),
    };
    Outcome::Detached(Box::new(move |entry_guard| {
        shared.detach(entry_guard);
        tokio::spawn(task);
    }))
}

impl<W: Transport, A: HttpService> Future for Task<W, A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shared.progress.register(SocketWaiter::Task, cx.waker());
        loop {
            if !this.is_last && this.shared.progress.close_requested().is_some() {
                this.end();
            }
            if this.poll_connection(cx).is_ready() || this.shared.progress.is_killed() {
                return Poll::Ready(());
            }
            let limit = ready!(this.poll_limit(cx));
            if let Limit::KeepAlive = limit {
                this.end();
                continue;
            }
            if let Limit::Write = limit {
                this.shared.progress.close(CloseReason::Deadline(Deadline::Write));
            }
            return Poll::Ready(());
        }
    }
}

/// What the timer of a silent connection stands for.
enum Limit {
    /// The peer takes nothing of what waits for it, or may wait.
    Write,
    /// Nothing is under way.
    KeepAlive,
    /// Nothing is left but the peer's end.
    Farewell,
}

impl<W: Transport, A: HttpService> Task<W, A> {
    fn end(&mut self) {
        self.is_last = true;
        if let Some(hyper) = &mut self.hyper {
            hyper.as_mut().graceful_shutdown();
        }
    }

    /// Has hyper work, and waits for the peer's end then.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(hyper) = &mut self.hyper {
            let progress = &self.shared.progress;
            // Before hyper forgets at the peer's end what it was to send.
            let is_under_way = progress.has_unsent() || progress.is_busy();
            let ended = ready!(hyper.as_mut().poll(cx));
            let (is_ended, read) = {
                let lent = self.shared.lent();
                (lent.is_ended, lent.read)
            };
            if is_ended || ended.is_err() {
                // The peer did not wait for all that was under way.
                if is_under_way {
                    progress.close(if is_ended { CloseReason::Peer } else { CloseReason::Io });
                }
                return Poll::Ready(());
            }
            (self.hyper, self.is_last, self.read) = (None, true, read);
        }
        self.shared.poll_gone(cx, self.read + STRAY)
    }

    /// Until the connection was silent for too long.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        let now = Instant::now();
        let patience = self.write.unwrap_or(PATIENCE);
        let progress = &self.shared.progress;
        let (moves, wrote, is_blocked) = {
            let lent = self.shared.lent();
            (lent.moves, lent.wrote, lent.is_blocked)
        };
        let is_busy = progress.is_busy();
        if moves != self.seen.0 || is_busy {
            if now - self.moved >= patience {
                self.taken = self.seen.1;
            }
            (self.moved, self.seen) = (now, (moves, wrote));
        }
        if is_busy {
            return Poll::Pending;
        }
        let (limit, timeout) = match () {
            () if progress.has_unsent() || is_blocked => (Limit::Write, self.write),
            () if !self.is_last => (Limit::KeepAlive, self.keep_alive),
            // The kernel may hold bytes that the peer has not taken.
            () if wrote - self.taken > TAKEN => (Limit::Write, Some(patience)),
            () => (Limit::Farewell, Some(SHUTDOWN_TIMEOUT)),
        };
        let Some(timeout) = timeout else { return Poll::Pending };
        let at = self.moved + timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        // Bytes that move do not touch the timer: it looks when they did.
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(limit);
            }
            timer.as_mut().reset(at);
        }
    }
}
