//! One turn of a framed connection: read, decode, serve, write, until nothing more is to be done
//! without waiting for the peer. The same in both modes; nothing here waits for a socket.

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
use crate::conn::buffers::{Buffers, PooledBuffers, poll_fill};
use crate::conn::events::ParkReason;
use crate::conn::linger;
use crate::conn::protocol::Outcome;
use crate::conn::server_state::{BytesPermit, Counters, ServerState};
use crate::conn::table::TurnInput;
use crate::conn::transport::{MaybeTls, Transport};
use crate::framed::FrameProtocol;
use crate::settings::SlowReader;

/// Answers are written once so much of them is there, also when more frames are at hand.
const WRITE_AT: usize = 16 * 1024;

/// What a connection keeps in addition while it is in the middle of something.
#[derive(Default)]
pub(crate) struct SavedBytes {
    /// The bytes of a frame that is not whole, and no more memory than those.
    input: Box<[u8]>,
    output: BytesMut,
    /// The codec may have taken its first bytes already, and none be left.
    partial_frame: bool,
    /// How many it has taken.
    consumed: usize,
    /// The peer will not send any more.
    end: bool,
    /// The connection is closed for this, and only waits for the peer to go.
    lingers: Option<CloseReason>,
    _permit: Option<BytesPermit>,
}

/// A turn under way.
struct FramedTurn<'a, W, P: FrameProtocol> {
    server: &'a ServerState,
    protocol: &'a P,
    io: &'a mut MaybeTls<W>,
    idle: &'a mut P::Idle,
    buffers: PooledBuffers<'a>,
    turn_input: TurnInput,
    /// No more frame is in the input.
    needs_read: bool,
    /// A frame has begun to come, of which the codec has taken so many bytes.
    partial_frame: bool,
    consumed: usize,
    end: bool,
    frames: usize,
    read: usize,
    wrote: usize,
    /// The peer has taken bytes, if only of those that a TLS session had held.
    made_progress: bool,
    /// Runs while user code waits and the peer takes nothing.
    write_timer: Option<Pin<Box<Sleep>>>,
    panic: Option<Box<dyn Any + Send>>,
}

/// Serves a connection until it would block or others have their turn.
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
        // What was left behind may be frames, also inside of the codec.
        needs_read: true,
        partial_frame: false,
        consumed: 0,
        end: false,
        frames: 0,
        read: 0,
        wrote: 0,
        made_progress: false,
        write_timer: None,
        panic: None,
    };
    if let Some(saved) = protocol.saved(turn.idle).take() {
        if let Some(reason) = saved.lingers {
            let outcome = poll_fn(|cx| {
                let (discard_buf, most) =
                    (&mut turn.buffers.input, server.settings.read_budget_bytes);
                Poll::Ready(linger::proceed(turn.io, cx, discard_buf, most, (turn_input, reason)))
            })
            .await;
            if let Outcome::Park { .. } = outcome {
                *protocol.saved(turn.idle) = Some(saved);
            }
            return outcome;
        }
        turn.buffers.input.extend_from_slice(&saved.input);
        turn.buffers.output.unsplit(saved.output);
        (turn.partial_frame, turn.consumed, turn.end) =
            (saved.partial_frame, saved.consumed, saved.end);
        turn.needs_read = false;
    }
    let outcome = turn.run().await.and_then(|(park_reason, moved)| {
        turn.save()?;
        Ok(Outcome::Park { park_reason, moved })
    });
    let outcome = outcome.unwrap_or_else(|reason| {
        // Answers to what came before, the alert of TLS and the end of the stream, as far as they
        // go without waiting.
        let mut cx = Context::from_waker(Waker::noop());
        if !matches!(reason, CloseReason::Io | CloseReason::Tls) {
            let _ = turn.write(&mut cx);
        }
        let _ = Pin::new(&mut *turn.io).poll_shutdown(&mut cx);
        if let Some(payload) = turn.panic.take() {
            return Outcome::Panicked(payload);
        }
        let unserved = !turn.buffers.input.is_empty();
        let before = turn.read;
        turn.force_io(true);
        while !turn.end && turn.read - before < server.settings.read_budget_bytes {
            match turn.fill(&mut cx) {
                Poll::Ready(Ok(())) => turn.buffers.input.clear(),
                Poll::Ready(Err(_)) => turn.end = true,
                Poll::Pending => break,
            }
        }
        turn.force_io(false);
        if turn.end || !linger::is_due(reason, unserved || turn.read > before) {
            return Outcome::Close(reason);
        }
        protocol.close_output(turn.idle);
        let lingers = SavedBytes { lingers: Some(reason), ..SavedBytes::default() };
        *protocol.saved(turn.idle) = Some(Box::new(lingers));
        Outcome::Park { park_reason: ParkReason::Linger, moved: true }
    });
    counters.frames += turn.frames as u32;
    counters.read += turn.read as u32;
    counters.wrote += turn.wrote as u32;
    outcome
}

impl<W: Transport, P: FrameProtocol> FramedTurn<'_, W, P> {
    async fn run(&mut self) -> Result<(ParkReason, bool), CloseReason> {
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
            if poll_fn(|cx| Poll::Ready(self.write(cx))).await? {
                return self.blocked();
            }
            if self.turn_input.close_requested == Some(CloseReason::ClosedByServer) {
                return Err(CloseReason::ClosedByServer);
            }
            if self.needs_read {
                if self.end {
                    return Err(CloseReason::Peer);
                }
                match poll_fn(|cx| Poll::Ready(self.fill(cx))).await {
                    Poll::Pending => return self.nothing_left(),
                    Poll::Ready(filled) => filled?,
                }
            }
            self.serve(&mut service).await?;
            if self.frames >= self.server.settings.read_budget_frames
                || self.read >= self.server.settings.read_budget_bytes
            {
                return self.turn_over();
            }
        }
    }

    /// The others' turn is no reason to give a frame more time.
    fn turn_over(&self) -> Result<(ParkReason, bool), CloseReason> {
        let goes_on = self.turn_input.park_reason == ParkReason::Frame && self.frames == 0;
        match self.turn_input.expired {
            Some(Deadline::Frame) if goes_on => Err(CloseReason::Deadline(Deadline::Frame)),
            _ => Ok((ParkReason::Turn, !goes_on)),
        }
    }

    /// Serves what is there, until enough is to be written.
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
            let size = self.consumed + if decoded.is_some() { 0 } else { left };
            if size > self.server.settings.max_frame_size {
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

    /// Polls user code; while that waits, what it and others have sent goes out. A panic goes on
    /// when the answers to what came before are written.
    fn poll_call<R>(
        &mut self,
        cx: &mut Context<'_>,
        call: Pin<&mut impl Future<Output = Result<R, CloseReason>>>,
    ) -> Poll<Result<R, CloseReason>> {
        let polled = match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
            Ok(polled) => polled,
            Err(payload) => {
                self.panic = Some(payload);
                Poll::Ready(Err(CloseReason::Panicked))
            }
        };
        if P::SERVER_FIRST && polled.is_pending() {
            self.poll_write_timer(cx)?;
        } else {
            self.write_timer = None;
        }
        polled
    }

    /// Writes what is there. User code may wait for that, in a turn that no deadline ends: so the
    /// write deadline runs here.
    fn poll_write_timer(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            self.made_progress = false;
            if !self.write(cx)? {
                self.write_timer = None;
                return Ok(());
            }
            let Some(timeout) = self.server.settings.ticks.write_timeout() else { return Ok(()) };
            if self.made_progress {
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
            if !self.made_progress {
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

    /// Writes what is there; `true` if the peer does not take it all.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let output = &mut self.buffers.output;
        self.protocol.collect(self.idle, output);
        let before = self.wrote;
        let mut blocked = false;
        while !output.is_empty() && !blocked {
            match Pin::new(&mut *self.io).poll_write(cx, output) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(CloseReason::Io),
                Poll::Ready(Ok(count)) => {
                    output.advance(count);
                    self.wrote += count;
                }
                Poll::Pending => blocked = true,
            }
        }
        if self.io.is_tls() {
            match Pin::new(&mut *self.io).poll_flush(cx) {
                Poll::Ready(Err(_)) => return Err(CloseReason::Io),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => blocked = true,
            }
        }
        self.made_progress |= self.io.transport().is_some_and(Transport::made_progress);
        if P::SERVER_FIRST && self.wrote > before {
            self.protocol.unwritten(self.idle, output.len());
        }
        Ok(blocked)
    }

    fn blocked(&self) -> Result<(ParkReason, bool), CloseReason> {
        let settings = &self.server.settings;
        match self.turn_input.expired {
            Some(deadline @ Deadline::Write) if !self.made_progress => {
                Err(CloseReason::Deadline(deadline))
            }
            _ if settings.slow_reader == SlowReader::Close
                && self.buffers.output.len() > settings.send_buffer =>
            {
                Err(CloseReason::SlowReader)
            }
            _ => Ok((ParkReason::Write, self.made_progress)),
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        match ready!(poll_fill(self.io, cx, &mut self.buffers.input)) {
            Ok(0) => self.end = true,
            Ok(count) => self.read += count,
            Err(_) => return Poll::Ready(Err(CloseReason::Io)),
        }
        self.needs_read = false;
        Poll::Ready(Ok(()))
    }

    /// All is served and written, and the peer has sent no more.
    fn nothing_left(&self) -> Result<(ParkReason, bool), CloseReason> {
        // A peer that only listens has none to send.
        let has_traffic = self.read > 0 || P::SERVER_FIRST && self.wrote > 0;
        if let Some(deadline) = self.turn_input.expired {
            let kept = match deadline {
                Deadline::Frame => self.frames > 0,
                Deadline::FirstByte | Deadline::Handshake => has_traffic,
                Deadline::Idle | Deadline::Body | Deadline::Write => {
                    self.read > 0 || self.made_progress
                }
            };
            if !kept {
                let deadline = self.server.settings.ticks.passed(deadline);
                return Err(CloseReason::Deadline(deadline));
            }
        }
        if let Some(reason) = self.turn_input.close_requested.filter(|_| !self.partial_frame) {
            return Err(reason);
        }
        if self.partial_frame {
            return Ok((ParkReason::Frame, self.frames > 0));
        }
        if matches!(self.turn_input.park_reason, ParkReason::FirstByte | ParkReason::Handshake)
            && !has_traffic
        {
            return Ok((ParkReason::FirstByte, false));
        }
        Ok((ParkReason::Idle, self.frames > 0 || self.wrote > 0))
    }

    /// Leaves what is under way with the connection: the bytes, and no buffer around them.
    fn save(&mut self) -> Result<(), CloseReason> {
        let Buffers { input, output } = &mut *self.buffers;
        if input.is_empty()
            && output.is_empty()
            && !self.partial_frame
            && !self.end
            && self.needs_read
        {
            return Ok(());
        }
        let permit = match output.len() {
            0 => None,
            bytes => Some(self.server.reserve_bytes(bytes).ok_or(CloseReason::SlowReader)?),
        };
        // What has gone out of it already is memory, too.
        let slack = output.capacity() > 2 * output.len();
        let output = if slack { BytesMut::from(&output[..]) } else { take(output) };
        let input = (&**input).into();
        let (partial_frame, consumed, end) = (self.partial_frame, self.consumed, self.end);
        let saved = SavedBytes {
            input,
            output,
            partial_frame,
            consumed,
            end,
            lingers: None,
            _permit: permit,
        };
        *self.protocol.saved(self.idle) = Some(Box::new(saved));
        Ok(())
    }
}
