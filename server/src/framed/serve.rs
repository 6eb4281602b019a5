//! One turn of a framed connection: read, decode, call, encode, write.
//!
//! `framed::mod` calls [`serve_turn`] for each turn, in either mode; `scripted` calls it in tests.
//! The turn ends when the socket would block, when the read budget is spent, or with a reason to
//! close. The turn borrows the connection's socket and idle state, and a pair of pooled buffers.
//!
//! Only user code is awaited. Reads and writes are polled once: a pending read or write ends the
//! turn, and the next event of the connection starts another. So every wait for the peer costs a
//! parked connection, not a task's buffers. The one exception is a handler's call that waits for
//! the peer to take its frames: the turn writes while the call is pending (`poll_call`).
//!
//! No bytes may be lost between two turns: `save` keeps what is neither decoded nor written, and
//! `restore` puts that into the buffers of the next turn.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::buffers::{Buffers, PooledBuffers, READ_SIZE, poll_fill};
use crate::conn::events::ParkReason;
use crate::conn::linger;
use crate::conn::protocol::Outcome;
use crate::conn::server_state::{BytesPermit, Counters, ServerState};
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::TurnInput;
use crate::framed::protocol::{FrameProtocol, SavedBytes};
use crate::settings::SlowReader;
use crate::sync::failpoint;

/// Once the output is this large it is written, even if the input holds more frames.
const WRITE_AT: usize = 16 * 1024;

/// How a turn ended: the reason to park, and whether its deadline starts anew; or to close.
type Ended = Result<(ParkReason, bool), CloseReason>;

/// Whether the socket has taken bytes in a turn, be it only bytes that a TLS session had held back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    None,
    /// Before the last look at the write timer.
    Earlier,
    /// Since that look.
    New,
}

/// A turn under way.
struct FramedTurn<'a, W, P: FrameProtocol> {
    server: &'a ServerState,
    protocol: &'a P,
    io: &'a mut MaybeTls<W>,
    idle: &'a mut P::Idle,
    buffers: PooledBuffers<'a>,
    turn_input: TurnInput,
    /// The codec has found no whole frame, in the input or in itself.
    needs_read: bool,
    /// A frame has begun; the codec has `consumed` bytes of it.
    partial_frame: bool,
    consumed: usize,
    /// The codec has taken bytes of the input in this turn.
    has_taken: bool,
    /// The peer has ended its side.
    end: bool,
    /// The last read has taken all that the socket had.
    drained: bool,
    /// Counts of this turn: frames decoded, bytes read, bytes written.
    frames: usize,
    read: usize,
    wrote: usize,
    progress: Progress,
    /// Runs while user code is pending and the peer takes nothing.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Counts the bytes of the output that an earlier turn has left or a `Connection` has sent.
    permit: Option<BytesPermit>,
    /// A panic of user code. It continues after the turn has written earlier responses.
    panic: Option<Box<dyn Any + Send>>,
}

/// Serves a connection until its socket would block or its read budget is spent.
pub(crate) async fn serve_turn<W: Transport, P: FrameProtocol>(
    server: &ServerState,
    protocol: &P,
    io: &mut MaybeTls<W>,
    idle: &mut P::Idle,
    turn_input: TurnInput,
    counters: &mut Counters,
) -> Outcome {
    if let Some(reason) = turn_input.close_requested {
        if !reason.is_gentle() {
            return Outcome::Close(reason);
        }
    }
    let mut turn = FramedTurn {
        server,
        protocol,
        io,
        idle,
        buffers: server.buffer_pool.get(),
        turn_input,
        needs_read: true,
        partial_frame: false,
        consumed: 0,
        has_taken: false,
        end: false,
        drained: false,
        frames: 0,
        read: 0,
        wrote: 0,
        progress: Progress::None,
        write_timer: None,
        permit: None,
        panic: None,
    };
    if let Some(saved) = protocol.saved(turn.idle).take() {
        if let Some(reason) = saved.lingers {
            return poll_fn(|cx| Poll::Ready(turn.keep_lingering(cx, reason))).await;
        }
        turn.restore(*saved);
    }
    let ended = turn.run().await.and_then(|(park_reason, moved)| {
        turn.save()?;
        Ok(Outcome::Park { park_reason, moved })
    });
    let outcome = ended.unwrap_or_else(|reason| turn.close(reason));
    counters.frames += turn.frames as u32;
    counters.read += turn.read as u32;
    counters.wrote += turn.wrote as u32;
    outcome
}

impl<W: Transport, P: FrameProtocol> FramedTurn<'_, W, P> {
    /// The loop of the turn: write, read if the codec needs bytes, serve.
    ///
    /// Output is written before input is read, so a peer that does not read is not read from.
    async fn run(&mut self) -> Ended {
        match poll_fn(|cx| Poll::Ready(self.io.poll_open(cx))).await {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(CloseReason::Tls),
            Poll::Pending => {
                let TurnInput { expired, close_requested, .. } = self.turn_input;
                let end = expired.map(CloseReason::Deadline).or(close_requested);
                return end.map_or(Ok((ParkReason::Handshake, false)), Err);
            }
        }
        let mut service = self.protocol.turn_service(self.idle);
        if P::SERVER_FIRST {
            let mut open = pin!(self.protocol.open(&mut service));
            poll_fn(|cx| self.poll_call(cx, open.as_mut())).await?;
        }
        loop {
            let blocked = poll_fn(|cx| Poll::Ready(self.write(cx))).await?;
            if blocked && !failpoint("a deaf peer is read from") {
                return self.blocked();
            }
            if self.turn_input.close_requested == Some(CloseReason::ClosedByServer) {
                return Err(CloseReason::ClosedByServer);
            }
            if self.needs_read {
                if self.end {
                    return Err(CloseReason::Peer);
                }
                if self.drained && !self.turn_input.forces_io() {
                    return self.nothing_left();
                }
                match poll_fn(|cx| Poll::Ready(self.fill(cx))).await {
                    Poll::Pending => return self.nothing_left(),
                    Poll::Ready(filled) => filled?,
                }
            }
            self.serve(&mut service).await?;
            if self.frames >= self.server.settings.read_budget_frames
                || self.read >= self.server.settings.read_budget_bytes
                    && !failpoint("bytes are not budgeted")
            {
                return self.turn_over();
            }
        }
    }

    /// Ends a turn whose read budget is spent. The deadline of an incomplete frame runs: a peer that sends
    /// without a pause does not extend it.
    fn turn_over(&self) -> Ended {
        let is_partial =
            self.partial_frame && !failpoint("a frame without a pause has no deadline");
        match self.turn_input.expired {
            Some(Deadline::Frame) if is_partial && self.frames == 0 => {
                Err(CloseReason::Deadline(Deadline::Frame))
            }
            _ if is_partial => Ok((ParkReason::FrameTurn, self.frames > 0)),
            _ => Ok((ParkReason::Turn, true)),
        }
    }

    /// Serves the frames of the input, until `WRITE_AT` bytes are to be written.
    async fn serve(&mut self, service: &mut P::TurnService) -> Result<(), CloseReason> {
        while self.frames < self.server.settings.read_budget_frames
            && self.buffers.output.len() < WRITE_AT
        {
            if self.protocol.is_closing(self.idle) {
                self.turn_input.close_requested = Some(CloseReason::ClosedByServer);
                break;
            }
            let before = self.buffers.input.len();
            let decoded = self.protocol.decode(self.idle, &mut self.buffers.input, self.end)?;
            let left = self.buffers.input.len();
            self.consumed += before.saturating_sub(left);
            self.has_taken |= left < before;
            let size = self.consumed + if decoded.is_some() { 0 } else { left };
            if size > self.server.settings.max_frame_size
                && !P::CODEC_LIMITS_FRAMES
                && !failpoint("frames have no size limit")
            {
                return Err(CloseReason::FrameTooLarge);
            }
            let Some(frame) = decoded else {
                self.needs_read = true;
                self.partial_frame |= before > 0;
                break;
            };
            self.frames += 1;
            (self.partial_frame, self.consumed) = (false, 0);
            let mut call = pin!(self.protocol.call(service, frame));
            let response = poll_fn(|cx| self.poll_call(cx, call.as_mut())).await?;
            self.protocol.encode(self.idle, response, &mut self.buffers.output)?;
        }
        Ok(())
    }

    /// Polls a call of user code. While a handler's call is pending, writes the frames that the
    /// handler and others send. A panic is stored, for `close` to continue.
    fn poll_call<R>(
        &mut self,
        cx: &mut Context<'_>,
        call: Pin<&mut impl Future<Output = Result<R, CloseReason>>>,
    ) -> Poll<Result<R, CloseReason>> {
        self.protocol.polls_call(self.idle, true);
        let polled = catch_unwind(AssertUnwindSafe(|| call.poll(cx)));
        // Before each write that collects.
        self.protocol.polls_call(self.idle, false);
        let polled = match polled {
            Ok(polled) => polled,
            Err(payload) => {
                self.panic = Some(payload);
                Poll::Ready(Err(CloseReason::Panicked))
            }
        };
        if polled.is_pending() {
            self.buffers.count();
        }
        if P::SERVER_FIRST && polled.is_pending() {
            self.poll_write_timer(cx)?;
        } else {
            self.write_timer = None;
        }
        polled
    }

    /// Writes the output while user code is pending, and fails when the write deadline passes.
    ///
    /// The connection table checks the deadlines of parked connections only. User code may be
    /// waiting for this very write, so the turn runs the write deadline itself. Before that
    /// deadline closes the connection, the write is tried on the socket itself (F8).
    fn poll_write_timer(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            if self.progress == Progress::New {
                self.progress = Progress::Earlier;
            }
            if failpoint("a call hides what the peer took") {
                self.progress = Progress::None;
            }
            if !self.write(cx)? {
                self.write_timer = None;
                return Ok(());
            }
            let Some(timeout) = self.server.settings.ticks.write_timeout() else { return Ok(()) };
            if self.progress == Progress::New {
                self.write_timer = None;
            }
            let write_timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
            if write_timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.force_io(true);
            let written = self.write(cx);
            self.force_io(false);
            written?;
            if self.progress != Progress::New {
                return Err(CloseReason::Deadline(Deadline::Write));
            }
            self.write_timer = None;
        }
    }

    fn force_io(&mut self, forced: bool) {
        if let Some(transport) = self.io.transport() {
            transport.force_io(forced);
        }
    }

    /// Writes the output. Returns `true` if the socket did not take all of it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let output = &mut self.buffers.output;
        self.protocol.collect(self.idle, output, &mut self.permit);
        let before = self.wrote;
        let mut blocked = false;
        while !output.is_empty() && !blocked {
            match Pin::new(&mut *self.io).poll_write(cx, output) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(CloseReason::Io),
                Poll::Ready(Ok(count)) => {
                    self.wrote += count;
                    // An empty buffer that begins at its memory is used again without a copy.
                    match count == output.len() {
                        true => output.clear(),
                        false => output.advance(count),
                    }
                }
                Poll::Pending => blocked = true,
            }
        }
        if let Some(permit) = &mut self.permit {
            permit.shrink_to(output.len());
        }
        if self.io.is_tls() {
            match Pin::new(&mut *self.io).poll_flush(cx) {
                Poll::Ready(Err(_)) => return Err(CloseReason::Io),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => blocked = true,
            }
        }
        if self.io.transport().is_some_and(Transport::made_progress) {
            self.progress = Progress::New;
        }
        if P::SERVER_FIRST && self.wrote > before {
            self.protocol.unwritten(self.idle, output.len());
        }
        Ok(blocked)
    }

    /// Ends a turn whose output the peer does not take.
    fn blocked(&self) -> Ended {
        let settings = &self.server.settings;
        match self.turn_input.expired {
            Some(deadline @ Deadline::Write) if self.progress == Progress::None => {
                Err(CloseReason::Deadline(deadline))
            }
            _ if settings.slow_reader == SlowReader::Close
                && self.buffers.output.len() > settings.send_buffer =>
            {
                Err(CloseReason::SlowReader)
            }
            _ => Ok((ParkReason::Write, self.progress != Progress::None)),
        }
    }

    /// Reads once, and notes what came.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        match ready!(poll_fill(self.io, cx, &mut self.buffers.input)) {
            Ok(0) => self.end = true,
            Ok(count) => {
                self.read += count;
                self.drained = W::READINESS_IS_POLLED && count < READ_SIZE && !self.io.is_tls();
            }
            Err(_) => return Poll::Ready(Err(CloseReason::Io)),
        }
        self.needs_read = false;
        Poll::Ready(Ok(()))
    }

    /// Ends a turn that has served and written all, and whose socket has no more to read.
    ///
    /// An expired deadline closes the connection, unless the turn has seen what the deadline is
    /// for.
    fn nothing_left(&self) -> Ended {
        // Of a handler's peer, taking bytes is traffic enough: such a peer may only listen.
        let has_traffic = self.read > 0 || P::SERVER_FIRST && self.wrote > 0;
        if let Some(deadline) = self.turn_input.expired {
            let kept = match deadline {
                Deadline::Frame => self.frames > 0,
                Deadline::FirstByte | Deadline::Handshake => has_traffic,
                Deadline::Body => self.read > 0,
                Deadline::Idle | Deadline::Write | Deadline::MaxAge => {
                    self.read > 0 || self.progress != Progress::None
                }
            };
            if !kept {
                let deadline = self.server.settings.ticks.passed(deadline);
                return Err(CloseReason::Deadline(deadline));
            }
        }
        let may_close = !self.partial_frame || P::CLOSES_WITHIN_FRAMES;
        if let Some(reason) = self.turn_input.close_requested.filter(|_| may_close) {
            return Err(reason);
        }
        if self.partial_frame {
            return Ok((ParkReason::Frame, self.frames > 0));
        }
        if self.turn_input.park_reason.is_new() && !has_traffic {
            return Ok((ParkReason::FirstByte, false));
        }
        Ok((ParkReason::Idle, self.frames > 0 || self.wrote > 0))
    }

    /// Takes over what the last turn has saved. The codec may hold whole frames, so the turn
    /// decodes before it reads.
    fn restore(&mut self, saved: SavedBytes) {
        match saved.input.len() <= self.buffers.input.capacity() {
            true => self.buffers.input.extend_from_slice(&saved.input),
            false => self.buffers.input = saved.input,
        }
        self.buffers.output.unsplit(saved.output);
        self.permit = saved.permit;
        self.partial_frame = saved.partial_frame;
        self.consumed = if failpoint("a frame's size starts anew") { 0 } else { saved.consumed };
        self.needs_read = false;
    }

    /// Saves what is neither decoded nor written, in allocations of at most twice its size. An idle
    /// connection saves nothing.
    ///
    /// A turn that only adds to a large frame moves the bytes: with copies, a frame that arrives in small
    /// pieces would cost the square of its size.
    ///
    /// Fails if the output of all connections exceeds `send_buffer_total`: a turn's responses
    /// cannot wait for room, as sends do.
    fn save(&mut self) -> Result<(), CloseReason> {
        let Buffers { input, output, .. } = &mut *self.buffers;
        if input.is_empty() && output.is_empty() && !self.partial_frame && self.needs_read {
            return Ok(());
        }
        let permit = match output.len() {
            0 => None,
            bytes => {
                let reserved = self.server.reserve_bytes(self.permit.take(), bytes);
                Some(reserved.ok_or(CloseReason::SlowReader)?)
            }
        };
        // The front of a buffer is memory, too: what is written of the one, and decoded of the other.
        let slack = output.capacity() > 2 * output.len();
        let output = if slack { BytesMut::from(&output[..]) } else { take(output) };
        let copies = self.has_taken || input.capacity() > 2 * input.len();
        let input = if copies { BytesMut::from(&input[..]) } else { take(input) };
        let (partial_frame, consumed) = (self.partial_frame, self.consumed);
        let saved = SavedBytes { input, output, partial_frame, consumed, lingers: None, permit };
        *self.protocol.saved(self.idle) = Some(Box::new(saved));
        Ok(())
    }

    /// Closes the connection: writes the rest of the output as far as the socket takes it now, then the
    /// TLS alert and the end of the stream. Then lingers, if unread bytes would reset the connection.
    fn close(&mut self, reason: CloseReason) -> Outcome {
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_answered = false;
        if !matches!(reason, CloseReason::Io | CloseReason::Tls) {
            let output = &mut self.buffers.output;
            self.protocol.collect(self.idle, output, &mut self.permit);
            is_answered = self.protocol.last_frame(self.idle, reason, output);
            let _ = self.write(&mut cx);
        }
        let alert_waits = linger::end_output(self.io, &mut cx, reason);
        if let Some(payload) = self.panic.take() {
            return Outcome::Panicked(payload);
        }
        if alert_waits {
            return self.park_closing(reason, ParkReason::Write);
        }
        let unserved = !self.buffers.input.is_empty();
        let (before, most) = (self.read, self.server.settings.read_budget_bytes);
        self.force_io(true);
        while !self.end && self.read - before < most {
            match self.fill(&mut cx) {
                Poll::Ready(Ok(())) => self.buffers.input.clear(),
                Poll::Ready(Err(_)) => self.end = true,
                Poll::Pending => break,
            }
        }
        self.force_io(false);
        if self.end || !(is_answered || linger::is_due(reason, unserved || self.read > before)) {
            return Outcome::Close(reason);
        }
        self.park_closing(reason, linger::park_reason(self.read - before >= most))
    }

    fn park_closing(&mut self, reason: CloseReason, park_reason: ParkReason) -> Outcome {
        self.protocol.close_output(self.idle);
        self.save_lingering(reason);
        Outcome::Park { park_reason, moved: true }
    }

    /// Discards what the peer of a closed connection has sent meanwhile.
    fn keep_lingering(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Outcome {
        let most = self.server.settings.read_budget_bytes;
        let input = (self.turn_input, reason);
        let outcome = linger::proceed(self.io, cx, &mut self.buffers.input, most, input);
        if let Outcome::Park { .. } = outcome {
            self.save_lingering(reason);
        }
        outcome
    }

    fn save_lingering(&mut self, reason: CloseReason) {
        let saved = SavedBytes { lingers: Some(reason), ..SavedBytes::default() };
        *self.protocol.saved(self.idle) = Some(Box::new(saved));
    }
}
