//! HTTP/2 connections: each has a task of its own for as long as it lasts.
//!
//! The state of an HTTP/2 connection is never idle between requests: windows, settings and header tables
//! belong to the peer. So such a connection is never parked. `serve_turn.rs` calls [`serve`] when a new
//! connection sends the preface. The turn ends as detached, and the [`Task`] owns the socket, the
//! connection's entry and its permit (`H8`). The table's deadlines do not run for it; the task has a timer.
//!
//! # The timer
//!
//! A timer runs from the last moment at which bytes moved, in either direction:
//!
//! 1. While response bytes wait for the peer: `write_timeout`, if there is one. It closes the connection. The
//!    timer begins anew when bytes begin to wait: what the peer took before, while a handler worked, may have
//!    moved in the kernel alone.
//!    Twice as long while the socket takes bytes and streams are open: a stream that waits for its window has a
//!    timer of its own (`stalls.rs`), and ends alone. While user code is under way (a service, a body, a
//!    tunnel), no other timer runs. The body of a request has a timer of its own (`body.rs`).
//! 2. Else, before the goodbye: `keep_alive_timeout`. It sends the goodbye (GOAWAY).
//! 3. Else, while the kernel may hold bytes that the peer has not taken: `write_timeout`, or
//!    [`KERNEL_TIMEOUT`]. It closes the connection.
//! 4. Else: [`SHUTDOWN_TIMEOUT`]. It closes the connection.
//!
//! What must never happen: a connection is cut while its bytes move, or a connection that is cut with unsent
//! bytes is counted as closed for a shutdown (`H7`). `tests/http/slow_readers.rs` holds both.

use std::future::Future;
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2::{Builder, Connection};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::accept::address::Address;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::Outcome;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::hyper_service::{HttpService, HyperService};
use crate::http::lent_io::{FirstBytes, LentIo, Shared};
use crate::http::progress::SocketWaiter;
use crate::http::stalls::Spawn;
use crate::http::{GaugeGuard, HttpProtocol};

/// How long the peer may be silent after the goodbye, when all bytes were sent and taken.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the peer may be silent after the goodbye while the kernel may hold bytes for the peer. Used if
/// there is no write timeout.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// How many written bytes the kernels take for certain although the peer itself reads nothing.
const KERNEL_BUFFER: u64 = 64 * 1024;

/// How many bytes the peer may have sent before it learned of the end: hyper's window, and some more.
const MAX_DISCARDED: u64 = 2 * 1024 * 1024;

type Hyper<W, A> = Connection<LentIo<W>, HyperService<A>, Spawn>;

/// The task of one connection.
struct Task<W: Transport, A: HttpService> {
    /// None after hyper's end: then the task only waits for the peer's end.
    hyper: Option<Pin<Box<Hyper<W, A>>>>,
    shared: Arc<Shared<W>>,
    keep_alive: Option<Duration>,
    write_timeout: Option<Duration>,
    /// The goodbye was sent: hyper accepts no more streams.
    is_last: bool,
    /// The last moment at which bytes moved or user code was under way, as far as polls have seen.
    moved_at: Instant,
    /// The begin of the clock of `ConnProgress::clock`.
    begun: Instant,
    /// The last moment at which bytes moved, or no response bytes waited for the peer.
    bytes_moved_at: Instant,
    had_unsent: bool,
    /// The socket's `moves` and `wrote` at that moment.
    seen: (u64, u64),
    /// How many bytes the peer has taken for certain: those before the last long silence that ended.
    taken: u64,
    /// How many bytes were read until hyper's end.
    read: u64,
    timer: Option<Pin<Box<Sleep>>>,
    _gauge: GaugeGuard,
}

/// Detaches the connection and gives it to a task. `first` was read already.
pub(super) fn serve<W: Transport, A: HttpService>(
    protocol: &HttpProtocol<A>,
    target: (ConnNotifier, Option<Address>),
    io: MaybeTls<W>,
    first: Bytes,
) -> Outcome {
    let write_timeout = target.0.server().settings.ticks.write_timeout();
    let first = FirstBytes { bytes: first, head: None, in_parts: false };
    let shared = Shared::new(protocol.progress(target), io, first);
    let progress = shared.progress.clone();
    let begun = Instant::now();
    let spawn = Spawn { progress: progress.clone(), write_timeout, begun };
    let service = protocol.hyper_service(progress);
    let mut builder = Builder::new(spawn);
    protocol.http2.apply(&mut builder);
    let hyper = Box::pin(builder.serve_connection(LentIo(shared.clone()), service));
    let task = Task {
        hyper: Some(hyper),
        shared: shared.clone(),
        keep_alive: protocol.keep_alive,
        write_timeout,
        is_last: false,
        moved_at: begun,
        begun,
        bytes_moved_at: begun,
        had_unsent: false,
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
        let now = Instant::now();
        if this.write_timeout.is_some() {
            this.shared.progress.set_clock((now - this.begun).as_nanos() as u64);
        }
        loop {
            match this.shared.progress.close_requested() {
                Some(reason) if !reason.is_gentle() => return Poll::Ready(()),
                Some(_) if !this.is_last => this.say_goodbye(),
                _ => {}
            }
            let polled = this.poll_connection(cx);
            if polled.is_ready() || !this.shared.progress.is_busy() {
                this.shared.report();
            }
            if polled.is_ready() || this.shared.progress.is_killed() {
                return Poll::Ready(());
            }
            match ready!(this.poll_limit(cx, now)) {
                Limit::KeepAlive => this.say_goodbye(),
                Limit::Write => {
                    this.shared.progress.close(CloseReason::Deadline(Deadline::Write));
                    return Poll::Ready(());
                }
                Limit::Shutdown => return Poll::Ready(()),
            }
        }
    }
}

/// The limit that a silent connection has met.
enum Limit {
    /// The peer takes none of the bytes that wait, or may wait, for it.
    Write,
    /// No stream is open.
    KeepAlive,
    /// After the goodbye, only the peer's end is missing.
    Shutdown,
}

impl<W: Transport, A: HttpService> Task<W, A> {
    fn say_goodbye(&mut self) {
        self.is_last = true;
        #[cfg(feature = "ws")]
        self.shared.progress.say_goodbye();
        if let Some(hyper) = &mut self.hyper {
            hyper.as_mut().graceful_shutdown();
        }
    }

    /// Polls hyper, and after hyper's end waits for the peer's end. Ready when the connection is over.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(hyper) = &mut self.hyper {
            let progress = &self.shared.progress;
            // Asked before the poll: at the peer's end hyper drops what it was to send.
            let is_under_way = progress.has_unsent() || progress.is_busy();
            let ended = ready!(hyper.as_mut().poll(cx));
            let (is_ended, read) = {
                let lent = self.shared.lent();
                (lent.is_ended, lent.read)
            };
            if is_ended || ended.is_err() {
                // The peer left before all was done: not a close for a shutdown, even within one.
                if is_under_way || !self.is_last {
                    progress.close(if is_ended { CloseReason::Peer } else { CloseReason::Io });
                }
                return Poll::Ready(());
            }
            (self.hyper, self.is_last, self.read) = (None, true, read);
        }
        self.shared.poll_peer_closed(cx, self.read + MAX_DISCARDED)
    }

    /// Notes whether bytes have moved since the last poll. Returns how many bytes were written in all.
    fn note_moves(&mut self, now: Instant, is_busy: bool) -> u64 {
        let (moves, wrote) = {
            let lent = self.shared.lent();
            (lent.moves, lent.wrote)
        };
        if moves != self.seen.0 {
            self.bytes_moved_at = now;
        }
        if moves != self.seen.0 || is_busy {
            // A peer that was silent for that long and moves again has taken the bytes before the silence.
            if now - self.moved_at >= self.kernel_timeout() {
                self.taken = self.seen.1;
            }
            (self.moved_at, self.seen) = (now, (moves, wrote));
        }
        wrote
    }

    fn kernel_timeout(&self) -> Duration {
        self.write_timeout.unwrap_or(KERNEL_TIMEOUT)
    }

    /// Ready when the connection was silent for longer than its limit; see the module's head.
    fn poll_limit(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Limit> {
        let is_busy = self.shared.progress.is_busy();
        let wrote = self.note_moves(now, is_busy);
        let is_blocked = self.shared.lent().is_blocked;
        let has_unsent = self.shared.progress.has_unsent() || is_blocked;
        if !replace(&mut self.had_unsent, has_unsent) {
            self.bytes_moved_at = now;
        }
        let streams_first = !is_blocked && self.shared.progress.streams() > 0;
        let (limit, timeout) = match () {
            () if has_unsent && streams_first => (Limit::Write, self.write_timeout.map(|t| 2 * t)),
            () if has_unsent => (Limit::Write, self.write_timeout),
            () if is_busy => return Poll::Pending,
            () if !self.is_last => (Limit::KeepAlive, self.keep_alive),
            () if wrote - self.taken > KERNEL_BUFFER => (Limit::Write, Some(self.kernel_timeout())),
            () => (Limit::Shutdown, Some(SHUTDOWN_TIMEOUT)),
        };
        let Some(timeout) = timeout else { return Poll::Pending };
        let since = if has_unsent { self.bytes_moved_at } else { self.moved_at };
        let at = since + timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        // Bytes that move leave the timer as it is. When the timer fires, it is set to the true end.
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(limit);
            }
            timer.as_mut().reset(at);
        }
    }
}
