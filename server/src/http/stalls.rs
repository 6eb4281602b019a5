//! The write deadline of one stream of HTTP/2.
//!
//! Owns the tasks that hyper spawns for a connection: a stream each, from the call of the service to the last
//! part of the response. `http2.rs` gives [`Spawn`] to hyper. The service's future (`hyper_service.rs`) and
//! the response's body (`body.rs`) note in a thread's cell what hyper's poll has seen, and [`StreamTask`] reads
//! the cell after that poll. Nothing is locked.
//!
//! A stream whose body has given a part waits for the peer's window until the body is polled again. Meanwhile
//! h2 may write earlier parts, some bytes at a time; [`Moves`] tells when. `write_timeout` after the part and
//! after the last of these bytes the task is dropped: hyper resets that stream, and the others go on. If there
//! is no other stream, the peer takes nothing at all, and the connection closes.
//!
//! Without a write timeout a part costs no allocation. A write reads no clock in either case: the connection's
//! task reads it once for each of its polls (`ConnProgress::clock`).
//!
//! What must never happen: a stream is reset while user code is what it waits for, or while its bytes move.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::close_reason::{CloseReason, Deadline};
use crate::http::progress::{ConnProgress, ProgressGuard};
use crate::sync::failpoint;

/// What a poll of a stream has seen last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Neither the service nor the body was polled.
    Nothing,
    /// The service or the body is pending.
    UserCode,
    /// The body has given something, and hyper has to wait for room.
    Part,
}

/// When bytes of a stream have moved last, by the connection's clock.
///
/// Relaxed: the time publishes no other memory. A task that reads an old time has its timer fire later.
#[derive(Clone, Default)]
pub(super) struct Moves(Arc<AtomicU64>);

impl Moves {
    pub(super) fn set(&self, nanos: u64) {
        self.0.store(nanos, Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(Seen::Nothing) };
    /// What a body has made in this poll, for the task of its stream.
    static MOVES: Cell<Option<Moves>> = const { Cell::new(None) };
}

/// Returns the moves of a stream, at the first part of its body.
pub(super) fn begin_moves() -> Moves {
    let moves = Moves::default();
    MOVES.set(Some(moves.clone()));
    moves
}

/// Notes a poll of a response's body.
pub(super) fn note_body<T>(polled: &Poll<T>) {
    SEEN.set(if polled.is_pending() { Seen::UserCode } else { Seen::Part });
}

/// Spawns hyper's streams and tunnels as tasks. Each keeps the connection busy until its end.
#[derive(Clone)]
pub(super) struct Spawn {
    pub(super) progress: Arc<ConnProgress>,
    pub(super) write_timeout: Option<Duration>,
    /// The begin of the connection's clock.
    pub(super) begun: Instant,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        let guard = ProgressGuard::new(self.progress.clone(), 0, 0);
        self.progress.stream_begins();
        let (timeout, begun) = (self.write_timeout, self.begun);
        let count = StreamCount { guard };
        tokio::spawn(StreamTask { future, timer: None, timeout, begun, moves: None, count });
    }
}

pin_project! {
    struct StreamTask<F> {
        #[pin]
        future: F,
        // There while the stream waits for the peer.
        timer: Option<Pin<Box<Sleep>>>,
        timeout: Option<Duration>,
        begun: Instant,
        // None before the first part.
        moves: Option<Moves>,
        count: StreamCount,
    }
}

/// Counts a stream of its connection. Dropped after hyper's future.
struct StreamCount {
    guard: ProgressGuard,
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.guard.progress.stream_ends();
    }
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        SEEN.set(Seen::Nothing);
        // A body that panicked may have left its own.
        MOVES.set(None);
        let polled = this.future.poll(cx);
        let Some(timeout) = *this.timeout else { return polled.map(drop) };
        if let Some(moves) = MOVES.take() {
            *this.moves = Some(moves);
        }
        if polled.is_ready() {
            return Poll::Ready(());
        }
        match (SEEN.get(), &mut *this.timer) {
            (Seen::Nothing, None) => return Poll::Pending,
            (Seen::Nothing, Some(_)) => {}
            (Seen::UserCode, timer) => {
                *timer = None;
                return Poll::Pending;
            }
            (Seen::Part, Some(timer)) => timer.as_mut().reset(Instant::now() + timeout),
            (Seen::Part, timer) => *timer = Some(Box::pin(sleep(timeout))),
        }
        let Some(timer) = this.timer else { return Poll::Pending };
        // Bytes that move leave the timer as it is. When the timer fires, it is set to the true end.
        loop {
            ready!(timer.as_mut().poll(cx));
            let moved_at = this.moves.as_ref().map_or(Duration::ZERO, Moves::get);
            let at = *this.begun + moved_at + timeout;
            if at <= timer.deadline() || failpoint("a stream moves in whole parts only") {
                break;
            }
            timer.as_mut().reset(at);
        }
        if failpoint("a stalled stream stays") {
            return Poll::Pending;
        }
        let progress = &this.count.guard.progress;
        if progress.streams() == 1 {
            progress.close(CloseReason::Deadline(Deadline::Write));
        }
        Poll::Ready(())
    }
}
