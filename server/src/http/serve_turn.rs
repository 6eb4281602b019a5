//! One turn of an HTTP connection.

use std::future::Future;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::buffers::poll_fill;
use crate::conn::events::{Events, ParkReason};
use crate::conn::linger::{self, Lingering};
use crate::conn::protocol::{Outcome, Turn};
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::conn::Http1Conn;
use crate::http::head::{self, Head};
use crate::http::hyper_service::HttpService;
use crate::http::progress::{
    REQUEST_BODY, REQUEST_BODY_DROPPED, REQUEST_BODY_PENDING, RESPONSE_BODY, RESPONSE_BODY_PENDING,
    SERVICE, SERVICE_PENDING, UNFLUSHED,
};
#[cfg(test)]
use crate::http::window::{Moment, reached};
use crate::http::{Busy, HttpProtocol, Idle, http2};

/// So often a connection may have itself polled again before others have their turn.
const POLLS: usize = 16;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(crate) struct HttpTurn<'a, W: Transport, A: HttpService> {
    protocol: &'a HttpProtocol<A>,
    turn: Turn<'a, W, Idle>,
    /// Bytes that this turn has seen come or go.
    moved: bool,
    /// Requests that it has seen begin.
    served: bool,
    /// There was no request yet.
    is_new: bool,
    /// User code waits.
    suspended: Option<Box<Http1Conn<W, A>>>,
}

impl<W: Transport, A: HttpService> Future for HttpTurn<'_, W, A> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let polled = match this.suspended.take() {
            Some(conn) => {
                let progress = &conn.shared.progress;
                progress.resume();
                // What was true before the service waited need not be so any more.
                this.turn.input.expired = None;
                if this.turn.wake_events.has(Events::CLOSE_REQUESTED) {
                    this.turn.input.close_requested = progress.close_requested();
                }
                this.moved = false;
                this.drive(conn, MaybeTls::Taken)
            }
            None => this.begin(),
        };
        if let Some(conn) = &this.suspended {
            conn.shared.progress.suspend(cx.waker());
        }
        polled
    }
}

impl<'a, W: Transport, A: HttpService> HttpTurn<'a, W, A> {
    pub(crate) fn new(protocol: &'a HttpProtocol<A>, turn: Turn<'a, W, Idle>) -> Self {
        Self { protocol, turn, moved: false, served: false, is_new: false, suspended: None }
    }

    fn begin(&mut self) -> Poll<Outcome> {
        let input = self.turn.input;
        if let Some(reason) = input.close_requested.filter(|reason| !reason.is_gentle()) {
            return Poll::Ready(Outcome::Close(reason));
        }
        // Wakers are not for those who have nothing to say to hyper.
        let mut cx = Context::from_waker(Waker::noop());
        match self.turn.io.poll_open(&mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Close(CloseReason::Tls)),
            Poll::Pending => {
                let end = input.expired.map(CloseReason::Deadline).or(input.close_requested);
                let parked = Outcome::Park { park_reason: ParkReason::Handshake, moved: false };
                return Poll::Ready(end.map_or(parked, Outcome::Close));
            }
        }
        if let Some(transport) = self.turn.io.transport() {
            transport.force_io(input.forces_io());
        }
        let (state, first) = match replace(self.turn.idle, Idle::Parked) {
            Idle::Parked => {
                self.is_new =
                    matches!(input.park_reason, ParkReason::FirstByte | ParkReason::Handshake);
                (None, Bytes::new())
            }
            Idle::Busy(busy) => match *busy {
                Busy::Head { bytes, is_new } => {
                    self.is_new = is_new;
                    (None, bytes.into())
                }
                Busy::Http1(state) => (Some(state), Bytes::new()),
                Busy::Lingers(reason) => return Poll::Ready(self.linger(reason)),
            },
        };
        match state {
            None => self.read_head(first),
            Some(state) => {
                let state: Box<Http1Conn<W, A>> =
                    state.downcast().expect("each mode has its own connections");
                let io = replace(self.turn.io, MaybeTls::Taken);
                self.drive(state, io)
            }
        }
    }

    /// Reads until there is a whole head, or nothing more.
    fn read_head(&mut self, first: Bytes) -> Poll<Outcome> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = BytesMut::from(first);
        let before = bytes.len();
        let mut end = false;
        let found = loop {
            match head::look(&bytes, self.is_new) {
                Head::Partial if !end => {}
                found => break found,
            }
            end = match poll_fill(self.turn.io, &mut cx, &mut bytes) {
                Poll::Pending => return Poll::Ready(self.nothing_left(bytes, before)),
                Poll::Ready(Ok(count)) => count == 0,
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Close(CloseReason::Io)),
            };
            if end && bytes.is_empty() {
                return Poll::Ready(self.close(CloseReason::Peer));
            }
        };
        self.turn.counters.read += (bytes.len() - before) as u32;
        let peer = self
            .protocol
            .connect_info
            .then(|| self.turn.io.transport().map(|transport| transport.peer_addr()));
        let peer = match peer.flatten().transpose() {
            Ok(peer) => peer,
            Err(_) => return Poll::Ready(Outcome::Close(CloseReason::Io)),
        };
        self.is_new = false;
        let target = ((self.turn.notifier)(), peer);
        let (io, bytes) = (replace(self.turn.io, MaybeTls::Taken), bytes.freeze());
        let head = match found {
            Head::Http2 => return Poll::Ready(http2::serve(self.protocol, target, io, bytes)),
            Head::Whole(head) => head,
            Head::Partial => None,
        };
        let closes = self.turn.input.close_requested.is_some();
        self.drive(
            Http1Conn::new(self.protocol, closes, target, io, (bytes, head)),
            MaybeTls::Taken,
        )
    }

    /// No head is whole, and the peer has sent no more.
    fn nothing_left(&mut self, bytes: BytesMut, before: usize) -> Outcome {
        let input = self.turn.input;
        self.turn.counters.read += (bytes.len() - before) as u32;
        let came = bytes.len() > before;
        if !bytes.is_empty() {
            if input.expired == Some(Deadline::Frame) && before > 0 && !self.served {
                return self.time_out(Deadline::Frame);
            }
            let moved = before == 0 || self.served;
            let (bytes, is_new) = (bytes[..].into(), self.is_new);
            *self.turn.idle = Idle::Busy(Box::new(Busy::Head { bytes, is_new }));
            return Outcome::Park { park_reason: ParkReason::Frame, moved };
        }
        if let Some(reason) = input.close_requested {
            return self.close(reason);
        }
        if let Some(deadline) = input.expired.filter(|_| !came && !self.served) {
            let deadline = self.turn.server.settings.ticks.passed(deadline);
            return self.close(CloseReason::Deadline(deadline));
        }
        if matches!(input.park_reason, ParkReason::FirstByte | ParkReason::Handshake)
            && !self.served
        {
            return Outcome::Park { park_reason: ParkReason::FirstByte, moved: false };
        }
        Outcome::Park { park_reason: ParkReason::Idle, moved: self.served }
    }

    /// Has hyper work until it waits, on the socket it has or gets.
    #[allow(clippy::too_many_lines, reason = "redesigned with the connection loop")]
    fn drive(&mut self, mut conn: Box<Http1Conn<W, A>>, mut io: MaybeTls<W>) -> Poll<Outcome> {
        let input = self.turn.input;
        let mut polls = 0;
        loop {
            let (requests, cuts, read, wrote, moves) = {
                let mut lent = conn.shared.lent();
                if !matches!(io, MaybeTls::Taken) {
                    lent.io = replace(&mut io, MaybeTls::Taken);
                }
                lent.budget = self.turn.server.settings.read_budget_bytes;
                lent.is_spent = false;
                if let Some(transport) = lent.io.transport() {
                    transport.on_ready(input.events.with(self.turn.wake_events.take()));
                    transport.force_io(input.forces_io());
                }
                let progress = &conn.shared.progress;
                (progress.requests(), progress.cuts(), lent.read, lent.wrote, lent.moves)
            };
            conn.shared.progress.poll_begins();
            let polled = catch_unwind(AssertUnwindSafe(|| conn.poll()));
            let progress = &conn.shared.progress;
            let mut again = progress.poll_ends();
            let begun = progress.requests() - requests;
            self.served |= begun > 0;
            let (mut is_spent, is_blocked) = {
                let lent = conn.shared.lent();
                let (read, wrote) = (lent.read - read, lent.wrote - wrote);
                self.moved |= read > 0 || wrote > 0 || lent.moves != moves;
                let counters = &mut *self.turn.counters;
                counters.frames = counters.frames.saturating_add(begun as u32);
                counters.read = counters.read.saturating_add(read as u32);
                counters.wrote = counters.wrote.saturating_add(wrote as u32);
                (lent.is_spent, lent.is_blocked)
            };
            match polled {
                Err(payload) => return Poll::Ready(Outcome::Panicked(payload)),
                Ok(Poll::Ready(ended)) => return Poll::Ready(self.ended(*conn, ended)),
                Ok(Poll::Pending) => {}
            }
            #[cfg(test)]
            reached(Moment::Polled);
            // The bits first: see `ConnProgress::cuts`.
            let bits = progress.bits();
            // Hyper has not seen yet that these bodies were dropped.
            again |= progress.cuts() != cuts;
            #[cfg(test)]
            reached(Moment::Looked);
            // It might close the connection next: only where it waits is it known how far it is.
            if again {
                polls += 1;
                if polls == POLLS {
                    is_spent = true;
                } else {
                    continue;
                }
            }
            let under_way = bits & (SERVICE | RESPONSE_BODY | REQUEST_BODY) != 0;
            let rests = !under_way && !is_blocked && bits & UNFLUSHED == 0;
            if rests && cuts != 0 && !again {
                // Else hyper would have closed the connection: it has read the rest of each body.
                progress.clear(REQUEST_BODY_DROPPED);
            }
            // A connection with a cut body ends through hyper even where it rests.
            let ends = under_way || cuts != 0 && !self.is_in_head();
            if ends && input.close_requested.is_some() && !conn.is_last() {
                conn.graceful_shutdown();
                continue;
            }
            if is_spent {
                return Poll::Ready(self.park(conn, ParkReason::Turn, true));
            }
            let peer_waits =
                bits & (REQUEST_BODY | REQUEST_BODY_PENDING) == REQUEST_BODY | REQUEST_BODY_PENDING;
            let park_reason = match bits {
                _ if bits & SERVICE != 0 => match bits & SERVICE_PENDING == 0 {
                    true if is_blocked => Some(ParkReason::Stall),
                    true => Some(ParkReason::Body),
                    false => peer_waits.then_some(ParkReason::Body),
                },
                _ if bits & RESPONSE_BODY != 0 => match is_blocked {
                    true => Some(ParkReason::Stall),
                    false if peer_waits || bits & RESPONSE_BODY_PENDING == 0 => {
                        Some(ParkReason::Body)
                    }
                    false => Some(ParkReason::Stream),
                },
                _ if bits & REQUEST_BODY != 0 => peer_waits.then_some(ParkReason::Body),
                _ if is_blocked || bits & UNFLUSHED != 0 => Some(ParkReason::Stall),
                // It came to no request: less than a head, or something hyper still thinks about.
                _ if progress.requests() == 0 => Some(ParkReason::Frame),
                _ if cuts != 0 => return Poll::Ready(self.stay(conn)),
                _ => return self.go_idle(conn),
            };
            let Some(park_reason) = park_reason else {
                self.suspended = Some(conn);
                return Poll::Pending;
            };
            return Poll::Ready(match (input.expired, park_reason) {
                (
                    Some(deadline @ (Deadline::Body | Deadline::Write)),
                    ParkReason::Body | ParkReason::Stall,
                ) if !self.moved => {
                    *self.turn.io = conn.take_io();
                    match bits & SERVICE != 0 && park_reason == ParkReason::Body {
                        true => self.time_out(deadline),
                        false => self.close(CloseReason::Deadline(deadline)),
                    }
                }
                (Some(Deadline::Frame), ParkReason::Frame) => {
                    *self.turn.io = conn.take_io();
                    self.time_out(Deadline::Frame)
                }
                _ => {
                    let moved = match park_reason {
                        ParkReason::Frame => input.park_reason != ParkReason::Frame,
                        _ => self.moved,
                    };
                    self.park(conn, park_reason, moved)
                }
            });
        }
    }

    /// Parks it with hyper's state.
    fn park(
        &mut self,
        conn: Box<Http1Conn<W, A>>,
        park_reason: ParkReason,
        moved: bool,
    ) -> Outcome {
        *self.turn.idle = Idle::Busy(Box::new(Busy::Http1(conn)));
        Outcome::Park { park_reason, moved }
    }

    /// Whether a part of a head has come on a connection of which a body was cut.
    fn is_in_head(&self) -> bool {
        let park_reason = self.turn.input.park_reason;
        !self.served
            && (park_reason == ParkReason::Frame || park_reason == ParkReason::Idle && self.moved)
    }

    /// All is answered and flushed, but a body was cut. Hyper alone knows where the next request
    /// begins: it keeps the socket, and nothing else ever has hyper's state.
    fn stay(&mut self, mut conn: Box<Http1Conn<W, A>>) -> Outcome {
        let input = self.turn.input;
        if self.is_in_head() {
            if input.expired == Some(Deadline::Frame) {
                *self.turn.io = conn.take_io();
                return self.time_out(Deadline::Frame);
            }
            return self.park(conn, ParkReason::Frame, input.park_reason != ParkReason::Frame);
        }
        if input.expired == Some(Deadline::Idle)
            && input.park_reason == ParkReason::Idle
            && !self.served
        {
            *self.turn.io = conn.take_io();
            return self.close(CloseReason::Deadline(Deadline::Idle));
        }
        self.park(conn, ParkReason::Idle, self.served)
    }

    /// All is answered and flushed, and each body was read to its end.
    fn go_idle(&mut self, conn: Box<Http1Conn<W, A>>) -> Poll<Outcome> {
        let reusable = conn.is_reusable();
        if let Some(io) = reusable.then(|| conn.shared.take_io_if_clean()).flatten() {
            *self.turn.io = io;
            let outcome = self.nothing_left(BytesMut::new(), 0);
            *self.turn.idle = Idle::Parked;
            conn.recycle(self.protocol);
            return Poll::Ready(outcome);
        }
        match conn.into_io() {
            Ok((io, rest)) => {
                *self.turn.io = io;
                *self.turn.idle = Idle::Parked;
                match rest.is_empty() {
                    true => Poll::Ready(self.nothing_left(BytesMut::new(), 0)),
                    false => self.read_head(rest),
                }
            }
            Err(refused) => Poll::Ready(self.park(refused, ParkReason::Idle, self.served)),
        }
    }

    /// Hyper is done with the connection, or with its part of it.
    fn ended(&mut self, conn: Http1Conn<W, A>, ended: hyper::Result<()>) -> Outcome {
        let shared = conn.shared.clone();
        let in_part = shared.progress.bits() & (REQUEST_BODY | REQUEST_BODY_DROPPED) != 0;
        if conn.ends_upgraded() {
            return Outcome::Detached(Box::new(move |entry_guard| shared.detach(entry_guard)));
        }
        *self.turn.io = replace(&mut shared.lent().io, MaybeTls::Taken);
        let reason = match ended {
            Ok(()) => self.turn.input.close_requested.unwrap_or(CloseReason::ClosedByServer),
            Err(error) if error.is_parse() => CloseReason::Codec,
            Err(error) if error.is_user() => CloseReason::Service,
            Err(error) if error.is_incomplete_message() => CloseReason::Peer,
            Err(_) => CloseReason::Io,
        };
        if matches!(reason, CloseReason::Io | CloseReason::Service) {
            return Outcome::Close(reason);
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut discard_buf = BytesMut::new();
        let most = self.turn.server.settings.read_budget_bytes;
        if let Some(transport) = self.turn.io.transport() {
            transport.force_io(true);
        }
        match linger::discard(self.turn.io, &mut cx, &mut discard_buf, most) {
            Lingering::Gone => Outcome::Close(if reason == CloseReason::ClosedByServer {
                CloseReason::Peer
            } else {
                reason
            }),
            Lingering::Waits
                if !in_part && discard_buf.capacity() == 0 && reason != CloseReason::Codec =>
            {
                Outcome::Close(reason)
            }
            _ => {
                *self.turn.idle = Idle::Busy(Box::new(Busy::Lingers(reason)));
                Outcome::Park { park_reason: ParkReason::Linger, moved: true }
            }
        }
    }

    fn linger(&mut self, reason: CloseReason) -> Outcome {
        let input = self.turn.input;
        let mut cx = Context::from_waker(Waker::noop());
        let (mut discard_buf, most) =
            (BytesMut::new(), self.turn.server.settings.read_budget_bytes);
        let outcome =
            linger::proceed(self.turn.io, &mut cx, &mut discard_buf, most, (input, reason));
        if let Outcome::Park { .. } = outcome {
            *self.turn.idle = Idle::Busy(Box::new(Busy::Lingers(reason)));
        }
        outcome
    }

    /// Closes it with an answer to what did not come in time.
    fn time_out(&mut self, deadline: Deadline) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        // As far as it goes without waiting.
        let _ = Pin::new(&mut *self.turn.io).poll_write(&mut cx, TIMED_OUT);
        self.close(CloseReason::Deadline(deadline))
    }

    fn close(&mut self, reason: CloseReason) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut *self.turn.io).poll_shutdown(&mut cx);
        Outcome::Close(reason)
    }
}
