//! One burst of an HTTP connection.

use std::future::Future;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::buffers::poll_fill;
use crate::conn::events::{Signal, Wait};
use crate::conn::linger::{self, Lingering};
use crate::conn::protocol::{Outcome, Turn};
use crate::conn::transport::{Io, Wire};
use crate::http::conn::Thawed;
use crate::http::head::{self, Head};
use crate::http::hyper_service::App;
use crate::http::progress::{
    ANSWER, ANSWER_WAITS, BODY, BODY_WAITS, CALL, CALL_WAITS, CUT, UNFLUSHED,
};
use crate::http::{Busy, Idle, Web, http2};

/// So often a connection may have itself polled again before others have their turn.
const POLLS: usize = 16;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(crate) struct Burst<'a, W: Wire, A: App> {
    web: &'a Web<A>,
    turn: Turn<'a, W, Idle>,
    /// Bytes that this burst has seen come or go.
    moved: bool,
    /// Requests that it has seen begin.
    served: bool,
    /// There was no request yet.
    is_new: bool,
    /// User code waits.
    suspended: Option<Box<Thawed<W, A>>>,
}

impl<W: Wire, A: App> Future for Burst<'_, W, A> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let polled = match this.suspended.take() {
            Some(thawed) => {
                let flow = &thawed.shared.flow;
                flow.resume();
                // What was true before the service waited need not be so any more.
                this.turn.order.late = None;
                if this.turn.cue.has(Signal::DOOM) {
                    this.turn.order.doom = flow.doom();
                }
                this.moved = false;
                this.go_on(thawed, Io::Lent)
            }
            None => this.begin(),
        };
        if let Some(thawed) = &this.suspended {
            thawed.shared.flow.suspend(cx.waker());
        }
        polled
    }
}

impl<'a, W: Wire, A: App> Burst<'a, W, A> {
    pub(crate) fn new(web: &'a Web<A>, turn: Turn<'a, W, Idle>) -> Self {
        Self { web, turn, moved: false, served: false, is_new: false, suspended: None }
    }

    fn begin(&mut self) -> Poll<Outcome> {
        let order = self.turn.order;
        if let Some(reason) = order.doom.filter(|reason| !reason.is_gentle()) {
            return Poll::Ready(Outcome::Close(reason));
        }
        // Wakers are not for those who have nothing to say to hyper.
        let mut cx = Context::from_waker(Waker::noop());
        match self.turn.io.poll_open(&mut cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Close(CloseReason::Tls)),
            Poll::Pending => {
                let end = order.late.map(CloseReason::Deadline).or(order.doom);
                let parked = Outcome::Park { wait: Wait::Handshake, moved: false };
                return Poll::Ready(end.map_or(parked, Outcome::Close));
            }
        }
        if let Some(wire) = self.turn.io.wire() {
            wire.ask(order.asks());
        }
        let (state, first) = match replace(self.turn.idle, Idle::Cold) {
            Idle::Cold => {
                self.is_new = matches!(order.wait, Wait::FirstByte | Wait::Handshake);
                (None, Bytes::new())
            }
            Idle::Busy(busy) => match *busy {
                Busy::Head { bytes, is_new } => {
                    self.is_new = is_new;
                    (None, bytes.into())
                }
                Busy::Thawed(state) => (Some(state), Bytes::new()),
                Busy::Lingers(reason) => return Poll::Ready(self.linger(reason)),
            },
        };
        match state {
            None => self.read_head(first),
            Some(state) => {
                let state: Box<Thawed<W, A>> =
                    state.downcast().expect("each mode has its own connections");
                let io = replace(self.turn.io, Io::Lent);
                self.go_on(state, io)
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
        self.turn.tally.read += (bytes.len() - before) as u32;
        let peer = self.web.connect_info.then(|| self.turn.io.wire().map(|wire| wire.peer()));
        let peer = match peer.flatten().transpose() {
            Ok(peer) => peer,
            Err(_) => return Poll::Ready(Outcome::Close(CloseReason::Io)),
        };
        self.is_new = false;
        let to = ((self.turn.nudge)(), peer);
        let (io, bytes) = (replace(self.turn.io, Io::Lent), bytes.freeze());
        let head = match found {
            Head::Http2 => return Poll::Ready(http2::serve(self.web, to, io, bytes)),
            Head::Whole(head) => head,
            Head::Partial => None,
        };
        let doomed = self.turn.order.doom.is_some();
        self.go_on(Thawed::new(self.web, doomed, to, io, (bytes, head)), Io::Lent)
    }

    /// No head is whole, and the peer has sent no more.
    fn nothing_left(&mut self, bytes: BytesMut, before: usize) -> Outcome {
        let order = self.turn.order;
        self.turn.tally.read += (bytes.len() - before) as u32;
        let came = bytes.len() > before;
        if !bytes.is_empty() {
            if order.late == Some(Deadline::Frame) && before > 0 && !self.served {
                return self.time_out(Deadline::Frame);
            }
            let moved = before == 0 || self.served;
            let (bytes, is_new) = (bytes[..].into(), self.is_new);
            *self.turn.idle = Idle::Busy(Box::new(Busy::Head { bytes, is_new }));
            return Outcome::Park { wait: Wait::Frame, moved };
        }
        if let Some(reason) = order.doom {
            return self.close(reason);
        }
        if let Some(deadline) = order.late.filter(|_| !came && !self.served) {
            let deadline = self.turn.hub.settings.ticks.passed(deadline);
            return self.close(CloseReason::Deadline(deadline));
        }
        if matches!(order.wait, Wait::FirstByte | Wait::Handshake) && !self.served {
            return Outcome::Park { wait: Wait::FirstByte, moved: false };
        }
        Outcome::Park { wait: Wait::Idle, moved: self.served }
    }

    /// Has hyper work until it waits, on the socket it has or gets.
    fn go_on(&mut self, mut thawed: Box<Thawed<W, A>>, mut io: Io<W>) -> Poll<Outcome> {
        let order = self.turn.order;
        let mut polls = 0;
        loop {
            let (requests, read, wrote) = {
                let mut lent = thawed.shared.lent();
                if !matches!(io, Io::Lent) {
                    lent.io = replace(&mut io, Io::Lent);
                }
                lent.budget = self.turn.hub.settings.turn_bytes;
                lent.is_spent = false;
                if let Some(wire) = lent.io.wire() {
                    wire.told(order.signals.with(self.turn.cue.take()));
                    wire.ask(order.asks());
                }
                (thawed.shared.flow.requests(), lent.read, lent.wrote)
            };
            thawed.shared.flow.poll_begins();
            let polled = catch_unwind(AssertUnwindSafe(|| thawed.poll()));
            let flow = &thawed.shared.flow;
            let again = flow.poll_ends();
            let begun = flow.requests() - requests;
            self.served |= begun > 0;
            let (mut is_spent, is_blocked) = {
                let lent = thawed.shared.lent();
                let (read, wrote) = (lent.read - read, lent.wrote - wrote);
                self.moved |= read > 0 || wrote > 0;
                let tally = &mut *self.turn.tally;
                tally.frames = tally.frames.saturating_add(begun as u32);
                tally.read = tally.read.saturating_add(read as u32);
                tally.wrote = tally.wrote.saturating_add(wrote as u32);
                (lent.is_spent, lent.is_blocked)
            };
            match polled {
                Err(payload) => return Poll::Ready(Outcome::Panicked(payload)),
                Ok(Poll::Ready(ended)) => return Poll::Ready(self.ended(*thawed, ended)),
                Ok(Poll::Pending) => {}
            }
            // It might close the connection next: only where it waits is it known how far it is.
            if again {
                polls += 1;
                if polls == POLLS {
                    is_spent = true;
                } else {
                    continue;
                }
            }
            let bits = flow.bits();
            let under_way = bits & (CALL | ANSWER | BODY) != 0;
            if under_way && order.doom.is_some() && !thawed.is_last() {
                thawed.end_behind();
                continue;
            }
            if is_spent {
                return Poll::Ready(self.rest(thawed, Wait::Turn, true));
            }
            let peer_waits = bits & (BODY | BODY_WAITS) == BODY | BODY_WAITS;
            let wait = match bits {
                _ if bits & CALL != 0 => match bits & CALL_WAITS == 0 {
                    true if is_blocked => Some(Wait::Stall),
                    true => Some(Wait::Body),
                    false => peer_waits.then_some(Wait::Body),
                },
                _ if bits & ANSWER != 0 => match is_blocked {
                    true => Some(Wait::Stall),
                    false if peer_waits || bits & ANSWER_WAITS == 0 => Some(Wait::Body),
                    false => Some(Wait::Stream),
                },
                _ if bits & BODY != 0 => peer_waits.then_some(Wait::Body),
                _ if is_blocked || bits & UNFLUSHED != 0 => Some(Wait::Stall),
                // It came to no request: less than a head, or something hyper still thinks about.
                _ if flow.requests() == 0 => Some(Wait::Frame),
                _ => return self.idle(thawed),
            };
            let Some(wait) = wait else {
                self.suspended = Some(thawed);
                return Poll::Pending;
            };
            return Poll::Ready(match (order.late, wait) {
                (Some(deadline @ (Deadline::Body | Deadline::Write)), Wait::Body | Wait::Stall)
                    if !self.moved =>
                {
                    *self.turn.io = thawed.take_io();
                    match bits & CALL != 0 && wait == Wait::Body {
                        true => self.time_out(deadline),
                        false => self.close(CloseReason::Deadline(deadline)),
                    }
                }
                (Some(Deadline::Frame), Wait::Frame) => {
                    *self.turn.io = thawed.take_io();
                    self.time_out(Deadline::Frame)
                }
                _ => {
                    let moved = match wait {
                        Wait::Frame => order.wait != Wait::Frame,
                        _ => self.moved,
                    };
                    self.rest(thawed, wait, moved)
                }
            });
        }
    }

    /// Parks it with hyper's state.
    fn rest(&mut self, thawed: Box<Thawed<W, A>>, wait: Wait, moved: bool) -> Outcome {
        *self.turn.idle = Idle::Busy(Box::new(Busy::Thawed(thawed)));
        Outcome::Park { wait, moved }
    }

    /// All is answered and flushed.
    fn idle(&mut self, thawed: Box<Thawed<W, A>>) -> Poll<Outcome> {
        let reusable = thawed.is_reusable();
        if let Some(io) = reusable.then(|| thawed.shared.take_clean()).flatten() {
            *self.turn.io = io;
            let outcome = self.nothing_left(BytesMut::new(), 0);
            *self.turn.idle = Idle::Cold;
            thawed.spare(self.web);
            return Poll::Ready(outcome);
        }
        match thawed.freeze() {
            Ok((io, rest)) => {
                *self.turn.io = io;
                *self.turn.idle = Idle::Cold;
                match rest.is_empty() {
                    true => Poll::Ready(self.nothing_left(BytesMut::new(), 0)),
                    false => self.read_head(rest),
                }
            }
            Err(refused) => Poll::Ready(self.rest(refused, Wait::Idle, self.served)),
        }
    }

    /// Hyper is done with the connection, or with its part of it.
    fn ended(&mut self, thawed: Thawed<W, A>, ended: hyper::Result<()>) -> Outcome {
        let shared = thawed.shared.clone();
        let in_part = shared.flow.bits() & (BODY | CUT) != 0;
        if thawed.ends_upgraded() {
            return Outcome::Left(Box::new(move |keeper| shared.leave(keeper)));
        }
        *self.turn.io = replace(&mut shared.lent().io, Io::Lent);
        let reason = match ended {
            Ok(()) => self.turn.order.doom.unwrap_or(CloseReason::Local),
            Err(error) if error.is_parse() => CloseReason::Codec,
            Err(error) if error.is_user() => CloseReason::Service,
            Err(error) if error.is_incomplete_message() => CloseReason::Peer,
            Err(_) => CloseReason::Io,
        };
        if matches!(reason, CloseReason::Io | CloseReason::Service) {
            return Outcome::Close(reason);
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut scrap = BytesMut::new();
        let most = self.turn.hub.settings.turn_bytes;
        if let Some(wire) = self.turn.io.wire() {
            wire.ask(true);
        }
        match linger::discard(self.turn.io, &mut cx, &mut scrap, most) {
            Lingering::Gone => Outcome::Close(if reason == CloseReason::Local {
                CloseReason::Peer
            } else {
                reason
            }),
            Lingering::Waits
                if !in_part && scrap.capacity() == 0 && reason != CloseReason::Codec =>
            {
                Outcome::Close(reason)
            }
            _ => {
                *self.turn.idle = Idle::Busy(Box::new(Busy::Lingers(reason)));
                Outcome::Park { wait: Wait::Linger, moved: true }
            }
        }
    }

    fn linger(&mut self, reason: CloseReason) -> Outcome {
        let order = self.turn.order;
        let mut cx = Context::from_waker(Waker::noop());
        let (mut scrap, most) = (BytesMut::new(), self.turn.hub.settings.turn_bytes);
        let outcome = linger::go_on(self.turn.io, &mut cx, &mut scrap, most, (order, reason));
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
