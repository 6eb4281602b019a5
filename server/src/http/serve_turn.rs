//! One turn of an HTTP connection: from the first byte that is there until the connection would block.
//!
//! [`HttpTurn`] is the future behind `Protocol::serve_turn`. A worker (`parked/conn_worker.rs`) or the task
//! of a connection (`task/mod.rs`) polls it, in a slot of the pool if the server has one. The turn owns the
//! socket and the connection's [`Idle`] state; nothing here is locked but the lent socket (`lent_io.rs`).
//!
//! # The steps
//!
//! 1. `begin`: handles a close, goes on with the TLS handshake, and looks at what the last turn left.
//! 2. `read_head`: without hyper state, reads until there is a whole head, then makes a hyper connection.
//! 3. `drive`: has hyper work, in rounds. A round is `lend`, the poll, `account`, and a look at the progress.
//! 4. `decide`: maps what the connection waits for ([`Waiting`]) to the end of the turn.
//! 5. `rest`: after the last response, takes the socket out of hyper, or leaves it.
//!
//! # The end of a turn
//!
//! | waits for | end | slot |
//! |---|---|---|
//! | the service, or a task that holds the request body | the future is pending: suspended | held |
//! | the request body | parked as `Body`, with hyper | free |
//! | the response body | parked as `Stream`, with hyper | free |
//! | a flush | parked as `Stall`, with hyper | free |
//! | the first head | parked as `Frame` | free |
//! | nothing | parked as `Idle`, or as `Warm` if it is busy; see `is_warm` | free |
//!
//! In the task of a connection "parked with hyper" means that the turn goes on: its future is pending, and
//! nothing moves (`Turn::task`).
//!
//! What must never happen: a turn takes the socket back while a part of a request is still to come (`H1`); a
//! turn is suspended while the peer is what it waits for (`H6`).

use std::future::Future;
use std::mem::{replace, take};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::accept::address::Address;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::buffers::poll_fill;
use crate::conn::events::{Events, ParkReason};
use crate::conn::last_request::{self, AtRest};
use crate::conn::linger::{self, Lingering};
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, Turn};
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::conn::Http1Conn;
use crate::http::head::{self, Head};
use crate::http::hyper_service::HttpService;
use crate::http::lent_io::FirstBytes;
use crate::http::progress::{REQUEST_BODY, SERVICE, Waiting, is_under_way, waiting};
#[cfg(test)]
use crate::http::race_tests::{SyncPoint, reached};
#[cfg(feature = "ws")]
use crate::http::websocket;
use crate::http::{Busy, HttpProtocol, Idle, http2, recent_peers};
use crate::sync::failpoint;

/// How many requests a turn begins before other connections have their turn. A poll of hyper ends
/// after as many.
const MAX_REQUESTS: usize = 16;

/// How long a turn polls hyper again, from the end of its first poll.
const MAX_TIME: Duration = Duration::from_micros(100);

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A turn in progress.
pub(super) struct HttpTurn<'a, W: Transport, A: HttpService> {
    protocol: &'a HttpProtocol<A>,
    turn: Turn<'a, W, Idle>,
    /// Bytes have moved since the turn began or went on.
    moved: bool,
    /// User code has worked since the turn began, and did not wait for the peer.
    worked: bool,
    /// A request has begun in this turn.
    served: bool,
    /// The connection has had no request yet.
    is_new: bool,
    /// The events of the turn's begin, if hyper's connection has the socket that is to know of them.
    events: Events,
    /// The connection, while the turn is suspended or makes a pause.
    suspended: Option<Box<Http1Conn<W, A>>>,
    /// The turn makes a pause: it waits for the peer.
    pauses: bool,
    /// The box that hyper's connection was parked in, so that a warm connection allocates none for a turn.
    parking: Option<Box<Busy>>,
}

/// The counters of a connection before a poll of hyper.
struct Before {
    requests: u64,
    /// No request body was left: each was read to its end or dropped.
    without_body: bool,
    read: u64,
    wrote: u64,
    moves: u64,
}

/// What a poll of hyper has done.
struct Done {
    /// How many requests have begun.
    requests: usize,
    /// The read budget is used up.
    is_spent: bool,
    waiting: Waiting,
    /// The connection rests, all of its requests are whole, and hyper holds no unused byte.
    is_clean: bool,
}

impl<W: Transport, A: HttpService> Future for HttpTurn<'_, W, A> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let polled = match this.suspended.take() {
            Some(conn) if this.pauses => this.go_on(conn),
            Some(mut conn) => {
                let progress = &conn.shared.progress;
                progress.resume();
                // A deadline that had expired before the wait for the service may not be due now.
                this.turn.input.expired = None;
                if this.turn.wake_events.has(Events::CLOSE_REQUESTED) {
                    this.turn.input.close_requested = progress.close_requested();
                }
                (this.moved, this.worked) = (false, true);
                let close_requested = this.turn.input.close_requested;
                if let Some(reason) = close_requested.filter(|reason| !reason.is_gentle()) {
                    *this.turn.io = conn.take_io();
                    return Poll::Ready(Outcome::Close(reason));
                }
                this.drive(conn)
            }
            None => this.begin(),
        };
        if let Some(conn) = this.suspended.as_ref().filter(|_| !this.pauses) {
            conn.shared.progress.suspend(cx.waker());
        }
        polled
    }
}

impl<'a, W: Transport, A: HttpService> HttpTurn<'a, W, A> {
    pub(super) fn new(protocol: &'a HttpProtocol<A>, turn: Turn<'a, W, Idle>) -> Self {
        Self {
            protocol,
            turn,
            moved: false,
            worked: false,
            served: false,
            is_new: false,
            events: Events::NONE,
            suspended: None,
            pauses: false,
            parking: None,
        }
    }

    /// Begins the turn with what the last turn left.
    fn begin(&mut self) -> Poll<Outcome> {
        let input = self.turn.input;
        if let Some(reason) = input.close_requested.filter(|reason| !reason.is_gentle()) {
            return Poll::Ready(Outcome::Close(reason));
        }
        // Events wake a parked connection, so no read or write of a turn registers a waker.
        let mut cx = Context::from_waker(Waker::noop());
        match self.turn.io.poll_open(&mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Close(CloseReason::Tls)),
            Poll::Pending => {
                let end = match last_request::at_rest(self.turn.server, &input, false) {
                    Some(AtRest::Close(reason)) => Some(reason),
                    _ => None,
                };
                let end = input.expired.map(CloseReason::Deadline).or(end);
                let parked = Outcome::Park { park_reason: ParkReason::Handshake, moved: false };
                return Poll::Ready(end.map_or(parked, Outcome::Close));
            }
        }
        if let Some(transport) = self.turn.io.transport() {
            transport.force_io(input.forces_io());
        }
        let mut busy = match replace(self.turn.idle, Idle::Parked) {
            Idle::Parked => {
                self.is_new = input.park_reason.is_new();
                return self.read_head(Bytes::new());
            }
            Idle::Busy(busy) => busy,
        };
        match replace(&mut *busy, Busy::Lingers(CloseReason::Aborted)) {
            Busy::Head { bytes, is_new } => {
                self.is_new = is_new;
                self.read_head(bytes.into())
            }
            Busy::Http1(conn) => {
                let conn: Box<Http1Conn<W, A>> =
                    conn.downcast().expect("a connection keeps its transport");
                self.parking = Some(busy);
                self.resume(conn)
            }
            Busy::Lingers(reason) => Poll::Ready(self.linger(reason)),
            #[cfg(feature = "ws")]
            Busy::Upgraded(_) | Busy::WebSocket(_) => {
                unreachable!("`mod.rs` serves the turns of a WebSocket")
            }
        }
    }

    /// Goes on after a pause, as a new turn would.
    fn go_on(&mut self, mut conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let Some(task) = self.turn.task else { return Poll::Pending };
        let close_requested = || conn.shared.progress.close_requested();
        let input = self.turn.server.resume_task(task, close_requested);
        (self.turn.input, self.turn.counters.turns) = (input, 1);
        (self.moved, self.worked, self.served, self.pauses) = (false, false, false, false);
        if let Some(reason) = input.close_requested.filter(|reason| !reason.is_gentle()) {
            *self.turn.io = conn.take_io();
            return Poll::Ready(Outcome::Close(reason));
        }
        self.resume(conn)
    }

    /// Has hyper go on with a connection that was parked, or that made a pause.
    fn resume(&mut self, conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let input = self.turn.input;
        // The answer to a request that has come already is to say that the connection closes.
        if !conn.gauge.counts && input.close_requested.is_some() {
            return self.leave(conn, true);
        }
        self.events = input.events;
        self.drive(conn)
    }

    /// Reads until there is a whole head or no more bytes, and has hyper serve a whole head. `first` was
    /// read already.
    fn read_head(&mut self, first: Bytes) -> Poll<Outcome> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = BytesMut::from(first);
        let before = bytes.len();
        let parsed = |bytes: &[u8]| match head::may_be_preface(bytes, self.is_new) {
            true => 0,
            false => bytes.len(),
        };
        let (mut known, mut end) = (parsed(&bytes), false);
        let found = loop {
            match head::look(&bytes, self.is_new, known) {
                // After the peer's end hyper judges what there is.
                Head::Partial if !end => {}
                found => break found,
            }
            known = parsed(&bytes);
            end = match poll_fill(self.turn.io, &mut cx, &mut bytes) {
                Poll::Pending => return Poll::Ready(self.wait_for_head(bytes, before)),
                Poll::Ready(Ok(count)) => count == 0,
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Close(CloseReason::Io)),
            };
            if end && bytes.is_empty() {
                return Poll::Ready(self.close(CloseReason::Peer));
            }
        };
        self.turn.counters.read += (bytes.len() - before) as u32;
        // HTTP/2 has a task in any case. A plain socket is better off with tokio then.
        if found == Head::Http2 && !W::REGISTERS_WAKER && !self.turn.io.is_tls() {
            let (bytes, is_new) = (bytes[..].into(), true);
            *self.turn.idle = Idle::Busy(Box::new(Busy::Head { bytes, is_new }));
            return Poll::Ready(Outcome::Warm);
        }
        let notifier = (self.turn.notifier)();
        // A WebSocket over HTTP/2 has the address of its connection.
        let is_wanted = self.protocol.connect_info || cfg!(feature = "ws") && found == Head::Http2;
        let Ok(peer) = self.peer(&notifier, is_wanted) else {
            return Poll::Ready(Outcome::Close(CloseReason::Io));
        };
        self.is_new = false;
        let target = (notifier, peer);
        let (io, bytes) = (replace(self.turn.io, MaybeTls::Taken), bytes.freeze());
        let head = match found {
            Head::Http2 => return Poll::Ready(http2::serve(self.protocol, target, io, bytes)),
            Head::Whole(head) => head,
            Head::Partial => None,
        };
        let is_last = self.turn.input.close_requested.is_some();
        let first = FirstBytes { bytes, head, in_parts: known > 0 };
        self.drive(Http1Conn::new(self.protocol, is_last, target, io, first))
    }

    /// Returns the peer's address, if it is wanted.
    fn peer(
        &mut self,
        notifier: &ConnNotifier,
        is_wanted: bool,
    ) -> std::io::Result<Option<Address>> {
        match self.turn.io.transport().filter(|_| is_wanted) {
            Some(transport) => {
                recent_peers::peer(notifier.id(), || transport.peer_addr()).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Parks the connection without hyper state, or closes it. Called when there is no whole head and the
    /// peer has sent no more. `before` of the `bytes` were there when the turn began.
    fn wait_for_head(&mut self, bytes: BytesMut, before: usize) -> Outcome {
        let input = self.turn.input;
        self.turn.counters.read += (bytes.len() - before) as u32;
        let came = bytes.len() > before;
        if !bytes.is_empty() {
            if input.expired == Some(Deadline::Frame) && before > 0 && !self.served {
                return self.time_out(Deadline::Frame);
            }
            // The deadline of a head runs from the head's first byte.
            let moved = before == 0 || self.served;
            let (bytes, is_new) = (bytes[..].into(), self.is_new);
            *self.turn.idle = Idle::Busy(Box::new(Busy::Head { bytes, is_new }));
            return Outcome::Park { park_reason: ParkReason::Frame, moved };
        }
        match last_request::at_rest(self.turn.server, &input, self.served) {
            Some(AtRest::Close(reason)) => return self.close(reason),
            Some(AtRest::Wait(park_reason)) => {
                return Outcome::Park { park_reason, moved: self.served };
            }
            None => {}
        }
        if let Some(deadline) = input.expired.filter(|_| !came && !self.served) {
            let deadline = self.turn.server.settings.ticks.passed(deadline);
            return self.close(CloseReason::Deadline(deadline));
        }
        if input.park_reason.is_new() && !self.served {
            return Outcome::Park { park_reason: ParkReason::FirstByte, moved: false };
        }
        let park_reason =
            if self.is_warm(self.turn.io.is_tls()) { ParkReason::Warm } else { ParkReason::Idle };
        Outcome::Park { park_reason, moved: self.served }
    }

    /// Whether a busy connection keeps hyper's connection while it is idle for a moment: one with a task,
    /// or with a TLS session.
    fn is_warm(&self, is_tls: bool) -> bool {
        let input = &self.turn.input;
        let may_be = input.is_busy && (W::REGISTERS_WAKER || is_tls);
        may_be && (self.served || !input.events.any(Events::COOL))
    }

    /// Has hyper work until it waits, round by round.
    fn drive(&mut self, mut conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let (mut polled_at, mut begun) = (None, 0);
        let most = self.turn.server.settings.read_budget_frames.min(MAX_REQUESTS);
        let mut budget = Some(self.turn.server.settings.read_budget_bytes);
        conn.gauge.count(true);
        loop {
            let before = self.lend(&conn, budget.take());
            #[cfg(test)]
            reached(SyncPoint::Lent);
            conn.shared.progress.poll_begins();
            // A panic of the service must not pass through the worker before the connection is closed.
            let polled = catch_unwind(AssertUnwindSafe(|| conn.poll()));
            let woken = conn.shared.progress.poll_ends();
            #[cfg(test)]
            reached(SyncPoint::Polled);
            // Other threads read and drop bodies at any time. Hyper alone begins a part of a request, so a
            // part that is gone here stays gone.
            let bits = conn.shared.progress.bits();
            #[cfg(test)]
            reached(SyncPoint::BitsRead);
            let Done { requests, is_spent, waiting, mut is_clean } =
                self.account(&conn, (bits, woken), &before);
            begun += requests;
            match polled {
                Err(payload) => return Poll::Ready(Outcome::Panicked(payload)),
                Ok(Poll::Ready(ended)) => return Poll::Ready(self.ended(*conn, ended)),
                Ok(Poll::Pending) => {}
            }
            let polls_on = failpoint("a turn polls without end");
            if woken && !is_spent && (begun < most && in_time(&mut polled_at) || polls_on) {
                continue;
            }
            let progress = &conn.shared.progress;
            if waiting == Waiting::Nothing && !progress.is_whole() && has_skipped(&conn, &before) {
                progress.note_whole(progress.requests());
                is_clean = conn.shared.lent().is_clean(progress);
            }
            // At rest, too, a connection that may not leave hyper closes through hyper.
            let asked = self.turn.input.close_requested.is_some();
            if asked && self.hyper_closes(bits, conn.may_end()) && !conn.is_last() {
                conn.graceful_shutdown();
                continue;
            }
            if is_spent && self.is_in_head(waiting, &conn) {
                return self.go_on_in_head(conn);
            }
            if is_spent || woken {
                return self.park(conn, ParkReason::Turn, true);
            }
            return self.decide(conn, waiting, is_clean);
        }
    }

    /// Whether a part of a head has come: of the first one, or of one behind a request that keeps the
    /// connection in hyper.
    fn is_in_head(&self, waiting: Waiting, conn: &Http1Conn<W, A>) -> bool {
        let is_later = waiting == Waiting::Nothing && !conn.may_end() && self.has_partial_head();
        (waiting == Waiting::Head || is_later) && !failpoint("a spent budget ends a deadline")
    }

    /// Ends a turn that has spent its budget in a head. The head has its deadline even if bytes of it come
    /// without a pause.
    fn go_on_in_head(&mut self, mut conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let begins = self.begins_head();
        if !begins && self.turn.input.expired == Some(Deadline::Frame) {
            *self.turn.io = conn.take_io();
            return Poll::Ready(self.time_out(Deadline::Frame));
        }
        self.park(conn, ParkReason::FrameTurn, begins)
    }

    /// Whether hyper is to end the connection after the request that is under way, or at once without one.
    fn hyper_closes(&self, bits: u8, may_end: bool) -> bool {
        let (server, input) = (self.turn.server, &self.turn.input);
        if is_under_way(bits) {
            return last_request::ends_now(server, input, bits & SERVICE == 0);
        }
        let at_rest = last_request::at_rest(server, input, self.served);
        !may_end && !self.has_partial_head() && matches!(at_rest, Some(AtRest::Close(_)))
    }

    /// Passes on to the lent socket the events that are known, and the budget at the begin of a turn.
    /// Returns the counters before the poll.
    fn lend(&mut self, conn: &Http1Conn<W, A>, budget: Option<usize>) -> Before {
        let input = self.turn.input;
        let mut lent = conn.shared.lent();
        lent.is_spent = false;
        lent.budget = budget.unwrap_or(lent.budget);
        if lent.task.is_none() {
            lent.task = self.turn.task.map(|task| task.waker.clone());
        }
        if let Some(transport) = lent.io.transport() {
            // Events that are told again would undo what a short read has learned since.
            let events = replace(&mut self.events, Events::NONE);
            transport.on_ready(events.with(self.turn.wake_events.take()));
            transport.force_io(input.forces_io());
        }
        let progress = &conn.shared.progress;
        Before {
            requests: progress.requests(),
            without_body: progress.bits() & REQUEST_BODY == 0,
            read: lent.read,
            wrote: lent.wrote,
            moves: lent.moves,
        }
    }

    /// Counts what a poll of hyper has done. `bits`: the bits of the progress after the poll. `woken`: hyper
    /// has more to do, and may not have parsed all that it has.
    fn account(
        &mut self,
        conn: &Http1Conn<W, A>,
        (bits, woken): (u8, bool),
        before: &Before,
    ) -> Done {
        let progress = &*conn.shared.progress;
        let begun = progress.requests() - before.requests;
        self.served |= begun > 0;
        let mut lent = conn.shared.lent();
        let (read, wrote) = (lent.read - before.read, lent.wrote - before.wrote);
        self.moved |= read > 0 || wrote > 0 || lent.moves != before.moves;
        let counters = &mut *self.turn.counters;
        counters.frames = counters.frames.saturating_add(begun as u32);
        counters.read = counters.read.saturating_add(read as u32);
        counters.wrote = counters.wrote.saturating_add(wrote as u32);
        let waiting = waiting(bits, lent.is_blocked, progress.requests() > 0);
        let rests = waiting == Waiting::Nothing && !woken && !lent.is_spent;
        let is_clean = rests && progress.is_whole() && lent.is_clean(progress);
        Done { requests: begun as usize, is_spent: lent.is_spent, waiting, is_clean }
    }

    /// Ends the turn for what the connection waits for.
    fn decide(
        &mut self,
        mut conn: Box<Http1Conn<W, A>>,
        waiting: Waiting,
        is_clean: bool,
    ) -> Poll<Outcome> {
        let park_reason = match waiting {
            Waiting::Service | Waiting::BodyReader => {
                self.suspended = Some(conn);
                return Poll::Pending;
            }
            Waiting::Nothing => return self.rest(conn, is_clean),
            Waiting::RequestBody { .. } => ParkReason::Body,
            Waiting::ResponseBody => ParkReason::Stream,
            Waiting::Flush => ParkReason::Stall,
            Waiting::Head => ParkReason::Frame,
        };
        let moved = match park_reason {
            ParkReason::Frame => self.begins_head(),
            ParkReason::Body if conn.shared.progress.take_new_wait() => true,
            // What the peer took while user code worked may have moved in the kernel alone.
            _ => self.moved || self.worked && !failpoint("a deadline runs for the service"),
        };
        if let Some(deadline) = self.deadline_met(park_reason).filter(|_| !moved) {
            *self.turn.io = conn.take_io();
            return Poll::Ready(match waiting {
                Waiting::Head | Waiting::RequestBody { response_begun: false } => {
                    self.time_out(deadline)
                }
                _ => self.close(CloseReason::Deadline(deadline)),
            });
        }
        self.park(conn, park_reason, moved)
    }

    /// Whether the deadline of a head begins. The deadline runs from the head's first byte: the head before
    /// this one has had its own.
    fn begins_head(&self) -> bool {
        let is_next = self.served && !failpoint("two heads have one deadline");
        is_next || self.turn.input.park_reason != ParkReason::Frame
    }

    /// Returns the deadline that has expired, if it is one of this wait.
    fn deadline_met(&self, park_reason: ParkReason) -> Option<Deadline> {
        self.turn.input.expired.filter(|deadline| match deadline {
            Deadline::Body | Deadline::Write => {
                matches!(park_reason, ParkReason::Body | ParkReason::Stall)
            }
            Deadline::Frame => park_reason == ParkReason::Frame,
            _ => false,
        })
    }

    /// Parks the connection with hyper and the socket. In a task the turn makes a pause instead, and
    /// nothing moves.
    fn park(
        &mut self,
        conn: Box<Http1Conn<W, A>>,
        park_reason: ParkReason,
        moved: bool,
    ) -> Poll<Outcome> {
        if let Some(task) = self.turn.task.filter(|_| !park_reason.is_turn()) {
            let Turn { server, counters, .. } = &mut self.turn;
            server.pause_task(task, (park_reason, moved), &take(*counters));
            (self.suspended, self.pauses) = (Some(conn), true);
            return Poll::Pending;
        }
        let parked = Busy::Http1(conn);
        *self.turn.idle = Idle::Busy(match self.parking.take() {
            Some(mut parking) => {
                *parking = parked;
                parking
            }
            None => Box::new(parked),
        });
        Poll::Ready(Outcome::Park { park_reason, moved })
    }

    /// Whether a part of a head has come on a connection that may not leave hyper. Hyper has read that part,
    /// so the moved bytes are the only sign.
    fn has_partial_head(&self) -> bool {
        let park_reason = self.turn.input.park_reason;
        !self.served
            && (park_reason == ParkReason::Frame
                || matches!(park_reason, ParkReason::Idle | ParkReason::LastRequest) && self.moved)
    }

    /// Parks a connection whose last request may not be whole, after its response. The deadlines of a head
    /// and of keep-alive hold as for other connections.
    fn stay_in_hyper(&mut self, mut conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let input = self.turn.input;
        if self.has_partial_head() {
            if input.expired == Some(Deadline::Frame) {
                *self.turn.io = conn.take_io();
                return Poll::Ready(self.time_out(Deadline::Frame));
            }
            return self.park(conn, ParkReason::Frame, input.park_reason != ParkReason::Frame);
        }
        if let Some(AtRest::Wait(park_reason)) =
            last_request::at_rest(self.turn.server, &input, self.served)
        {
            return self.park(conn, park_reason, self.served);
        }
        let is_idle = input.park_reason == ParkReason::Idle && !self.served;
        if input.expired == Some(Deadline::Idle) && is_idle {
            *self.turn.io = conn.take_io();
            return Poll::Ready(self.close(CloseReason::Deadline(Deadline::Idle)));
        }
        self.park(conn, ParkReason::Idle, self.served)
    }

    /// Parks a connection after its last response. A warm one stays in hyper if hyper holds no byte of a
    /// next head. Any other leaves hyper, unless its last request may not be whole (`H1`).
    fn rest(&mut self, mut conn: Box<Http1Conn<W, A>>, is_clean: bool) -> Poll<Outcome> {
        if !conn.may_end() {
            return self.stay_in_hyper(conn);
        }
        let input = self.turn.input;
        if is_clean && self.is_warm(conn.shared.is_tls()) && !input.forces_io() {
            conn.gauge.count(false);
            return self.park(conn, ParkReason::Warm, self.served);
        }
        self.leave(conn, false)
    }

    /// Takes the socket out of hyper. The bytes that hyper has read and not used begin the next request.
    /// `reads`: hyper has not looked for more of them in this turn.
    fn leave(&mut self, conn: Box<Http1Conn<W, A>>, reads: bool) -> Poll<Outcome> {
        #[cfg(test)]
        reached(SyncPoint::Leaves);
        match conn.into_io() {
            Ok((io, rest)) => {
                *self.turn.io = io;
                let reads = reads && !failpoint("a warm connection looks for no request");
                if let Some(transport) = self.turn.io.transport().filter(|_| reads) {
                    transport.force_io(true);
                }
                match reads || !rest.is_empty() {
                    true => self.read_head(rest),
                    false => Poll::Ready(self.wait_for_head(BytesMut::new(), 0)),
                }
            }
            Err(kept) => self.stay_in_hyper(kept),
        }
    }

    /// Ends the turn after hyper's future has completed: by an upgrade, a close or an error.
    fn ended(&mut self, conn: Http1Conn<W, A>, ended: hyper::Result<()>) -> Outcome {
        let shared = conn.shared.clone();
        let in_part = !shared.progress.is_whole();
        // Hyper does not shut down the socket of a refused upgrade.
        if conn.ends_upgraded() && shared.progress.switches() {
            #[cfg(feature = "ws")]
            if let Some((io, outcome)) = shared
                .progress
                .take_upgrade()
                .and_then(|upgrade| websocket::take_over(&shared, upgrade, self.turn.idle))
            {
                *self.turn.io = io;
                return outcome;
            }
            return Outcome::Detached(Box::new(move |entry_guard| shared.detach(entry_guard)));
        }
        *self.turn.io = shared.lent().take_io();
        let reason = match ended {
            Ok(()) => self.turn.input.close_requested.unwrap_or_else(|| {
                shared.progress.close_requested().unwrap_or(CloseReason::ClosedByServer)
            }),
            Err(error) if error.is_parse() => CloseReason::Codec,
            Err(error) if error.is_user() => CloseReason::Service,
            Err(error) if error.is_incomplete_message() => CloseReason::Peer,
            Err(_) => CloseReason::Io,
        };
        match reason {
            CloseReason::Io | CloseReason::Service => Outcome::Close(reason),
            _ => self.begin_linger(reason, in_part),
        }
    }

    /// Closes the connection, or lets it linger first: if the peer still sends, a close at once would reset
    /// the connection and drop the last response. `in_part`: the peer is within a request body.
    fn begin_linger(&mut self, reason: CloseReason, in_part: bool) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        let mut discard_buf = BytesMut::new();
        let most = self.turn.server.settings.read_budget_bytes;
        if let Some(transport) = self.turn.io.transport() {
            transport.force_io(true);
        }
        // The peer learns of the end now, and not only when the server has waited for the peer's.
        if !failpoint("the end comes late") && linger::end_output(self.turn.io, &mut cx, reason) {
            return self.park_closing(reason, ParkReason::Write);
        }
        match linger::discard(self.turn.io, &mut cx, &mut discard_buf, most) {
            Lingering::Gone if reason == CloseReason::ClosedByServer => {
                Outcome::Close(CloseReason::Peer)
            }
            Lingering::Gone => Outcome::Close(reason),
            // Without a buffer no byte has come: the peer has sent its whole request and waits.
            Lingering::Waits
                if !in_part && discard_buf.capacity() == 0 && reason != CloseReason::Codec =>
            {
                Outcome::Close(reason)
            }
            found => {
                let is_spent = matches!(found, Lingering::Turn);
                self.park_closing(reason, linger::park_reason(is_spent))
            }
        }
    }

    fn park_closing(&mut self, reason: CloseReason, park_reason: ParkReason) -> Outcome {
        *self.turn.idle = Idle::Busy(Box::new(Busy::Lingers(reason)));
        Outcome::Park { park_reason, moved: true }
    }

    /// Goes on with a connection that lingers.
    fn linger(&mut self, reason: CloseReason) -> Outcome {
        let input = self.turn.input;
        let mut cx = Context::from_waker(Waker::noop());
        let mut discard_buf = BytesMut::new();
        let most = self.turn.server.settings.read_budget_bytes;
        let outcome =
            linger::proceed(self.turn.io, &mut cx, &mut discard_buf, most, (input, reason));
        if let Outcome::Park { .. } = outcome {
            *self.turn.idle = Idle::Busy(Box::new(Busy::Lingers(reason)));
        }
        outcome
    }

    /// Answers 408 and closes. The answer is written as far as the socket takes it at once.
    fn time_out(&mut self, deadline: Deadline) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut *self.turn.io).poll_write(&mut cx, TIMED_OUT);
        self.close(CloseReason::Deadline(deadline))
    }

    /// Ends the server's side of the socket and closes the connection.
    fn close(&mut self, reason: CloseReason) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        match linger::end_output(self.turn.io, &mut cx, reason) {
            true => self.park_closing(reason, ParkReason::Write),
            false => Outcome::Close(reason),
        }
    }
}

/// Whether hyper has skipped the rest of a body that was dropped. Called when hyper waits for nothing.
///
/// Hyper was polled since the drop, so it would have closed the connection if the rest had not been there.
/// The bytes say the same: they are a head and all of its body.
fn has_skipped<W: Transport, A: HttpService>(conn: &Http1Conn<W, A>, before: &Before) -> bool {
    let is_polled = before.without_body && before.requests == conn.shared.progress.requests();
    is_polled && conn.shared.lent().is_clean(&conn.shared.progress)
        || failpoint("any dropped body was skipped")
}

/// Whether a turn may poll hyper again. The first call of a turn reads the clock.
fn in_time(polled_at: &mut Option<Instant>) -> bool {
    match polled_at {
        None => {
            *polled_at = Some(Instant::now());
            true
        }
        Some(polled_at) => polled_at.elapsed() < MAX_TIME,
    }
}
