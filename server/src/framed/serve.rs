//! One burst of a framed connection: read, decode, serve, write, until nothing more is to be done
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
use crate::conn::buffers::{Buffers, Lent, poll_fill};
use crate::conn::events::Wait;
use crate::conn::linger;
use crate::conn::protocol::Outcome;
use crate::conn::server_state::{Charge, Hub, Tally};
use crate::conn::table::Order;
use crate::conn::transport::{Io, Wire};
use crate::framed::Frames;
use crate::settings::SlowReader;

/// Answers are written once so much of them is there, also when more frames are at hand.
const WRITE_AT: usize = 16 * 1024;

/// What a connection keeps in addition while it is in the middle of something.
#[derive(Default)]
pub(crate) struct Rest {
    /// The bytes of a frame that is not whole, and no more memory than those.
    input: Box<[u8]>,
    output: BytesMut,
    /// The codec may have taken its first bytes already, and none be left.
    part: bool,
    /// How many it has taken.
    taken: usize,
    /// The peer will not send any more.
    end: bool,
    /// The connection is closed for this, and only waits for the peer to go.
    lingers: Option<CloseReason>,
    _charge: Option<Charge>,
}

/// A burst under way.
struct Burst<'a, W, P: Frames> {
    hub: &'a Hub,
    protocol: &'a P,
    io: &'a mut Io<W>,
    idle: &'a mut P::Idle,
    buffers: Lent<'a>,
    order: Order,
    /// No more frame is in the input.
    hungry: bool,
    /// A frame has begun to come, of which the codec has taken so many bytes.
    part: bool,
    taken: usize,
    end: bool,
    frames: usize,
    read: usize,
    wrote: usize,
    /// The peer has taken bytes, if only of those that a TLS session had held.
    took: bool,
    /// Runs while user code waits and the peer takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
    panic: Option<Box<dyn Any + Send>>,
}

/// Serves a connection until it would block or others have their turn.
pub(crate) async fn burst<W: Wire, P: Frames>(
    hub: &Hub,
    protocol: &P,
    io: &mut Io<W>,
    idle: &mut P::Idle,
    order: Order,
    tally: &mut Tally,
) -> Outcome {
    if let Some(reason) = order.doom {
        if !reason.is_gentle() {
            return Outcome::Close(reason);
        }
    }
    let mut burst = Burst {
        hub,
        protocol,
        io,
        idle,
        buffers: hub.stock.lend(),
        order,
        // What was left behind may be frames, also inside of the codec.
        hungry: true,
        part: false,
        taken: 0,
        end: false,
        frames: 0,
        read: 0,
        wrote: 0,
        took: false,
        patience: None,
        panic: None,
    };
    if let Some(rest) = protocol.rest(burst.idle).take() {
        if let Some(reason) = rest.lingers {
            let outcome = poll_fn(|cx| {
                let (scrap, most) = (&mut burst.buffers.input, hub.settings.turn_bytes);
                Poll::Ready(linger::go_on(burst.io, cx, scrap, most, (order, reason)))
            })
            .await;
            if let Outcome::Park { .. } = outcome {
                *protocol.rest(burst.idle) = Some(rest);
            }
            return outcome;
        }
        burst.buffers.input.extend_from_slice(&rest.input);
        burst.buffers.output.unsplit(rest.output);
        (burst.part, burst.taken, burst.end) = (rest.part, rest.taken, rest.end);
        burst.hungry = false;
    }
    let outcome = burst.run().await.and_then(|(wait, moved)| {
        burst.put_by()?;
        Ok(Outcome::Park { wait, moved })
    });
    let outcome = outcome.unwrap_or_else(|reason| {
        // Answers to what came before, the alert of TLS and the end of the stream, as far as they
        // go without waiting.
        let mut cx = Context::from_waker(Waker::noop());
        if !matches!(reason, CloseReason::Io | CloseReason::Tls) {
            let _ = burst.write(&mut cx);
        }
        let _ = Pin::new(&mut *burst.io).poll_shutdown(&mut cx);
        if let Some(payload) = burst.panic.take() {
            return Outcome::Panicked(payload);
        }
        let unserved = !burst.buffers.input.is_empty();
        let before = burst.read;
        burst.ask(true);
        while !burst.end && burst.read - before < hub.settings.turn_bytes {
            match burst.fill(&mut cx) {
                Poll::Ready(Ok(())) => burst.buffers.input.clear(),
                Poll::Ready(Err(_)) => burst.end = true,
                Poll::Pending => break,
            }
        }
        burst.ask(false);
        if burst.end || !linger::is_due(reason, unserved || burst.read > before) {
            return Outcome::Close(reason);
        }
        protocol.mute(burst.idle);
        let lingers = Rest { lingers: Some(reason), ..Rest::default() };
        *protocol.rest(burst.idle) = Some(Box::new(lingers));
        Outcome::Park { wait: Wait::Linger, moved: true }
    });
    tally.frames += burst.frames as u32;
    tally.read += burst.read as u32;
    tally.wrote += burst.wrote as u32;
    outcome
}

impl<W: Wire, P: Frames> Burst<'_, W, P> {
    async fn run(&mut self) -> Result<(Wait, bool), CloseReason> {
        match poll_fn(|cx| Poll::Ready(self.io.poll_open(cx))).await {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(CloseReason::Tls),
            Poll::Pending => {
                let Order { late, doom, .. } = self.order;
                let end = late.map(CloseReason::Deadline).or(doom);
                return end.map_or(Ok((Wait::Handshake, false)), Err);
            }
        }
        let mut caller = self.protocol.caller(self.idle);
        if P::OPENS {
            let mut open = pin!(self.protocol.open(&mut caller));
            poll_fn(|cx| self.poll_call(cx, open.as_mut())).await?;
        }
        loop {
            if poll_fn(|cx| Poll::Ready(self.write(cx))).await? {
                return self.blocked();
            }
            if self.order.doom == Some(CloseReason::Local) {
                return Err(CloseReason::Local);
            }
            if self.hungry {
                if self.end {
                    return Err(CloseReason::Peer);
                }
                match poll_fn(|cx| Poll::Ready(self.fill(cx))).await {
                    Poll::Pending => return self.nothing_left(),
                    Poll::Ready(filled) => filled?,
                }
            }
            self.serve(&mut caller).await?;
            if self.frames >= self.hub.settings.turn_frames
                || self.read >= self.hub.settings.turn_bytes
            {
                return self.turn_over();
            }
        }
    }

    /// The others' turn is no reason to give a frame more time.
    fn turn_over(&self) -> Result<(Wait, bool), CloseReason> {
        let goes_on = self.order.wait == Wait::Frame && self.frames == 0;
        match self.order.late {
            Some(Deadline::Frame) if goes_on => Err(CloseReason::Deadline(Deadline::Frame)),
            _ => Ok((Wait::Turn, !goes_on)),
        }
    }

    /// Serves what is there, until enough is to be written.
    async fn serve(&mut self, caller: &mut P::Caller) -> Result<(), CloseReason> {
        while self.frames < self.hub.settings.turn_frames && self.buffers.output.len() < WRITE_AT {
            if self.protocol.leaves(self.idle) {
                self.order.doom = Some(CloseReason::Local);
                break;
            }
            let before = self.buffers.input.len();
            let decoded = self.protocol.decode(self.idle, &mut self.buffers.input, self.end)?;
            let left = self.buffers.input.len();
            self.taken += before.saturating_sub(left);
            let size = self.taken + if decoded.is_some() { 0 } else { left };
            if size > self.hub.settings.max_frame {
                return Err(CloseReason::FrameTooLarge);
            }
            let Some(frame) = decoded else {
                self.hungry = true;
                self.part |= before > 0;
                break;
            };
            self.frames += 1;
            (self.part, self.taken) = (false, 0);
            let mut call = pin!(self.protocol.call(caller, frame));
            let answer = poll_fn(|cx| self.poll_call(cx, call.as_mut())).await?;
            self.protocol.answer(self.idle, answer, &mut self.buffers.output)?;
        }
        Ok(())
    }

    /// Polls user code; while that waits, what it and others have sent goes out. A panic goes on when
    /// the answers to what came before are written.
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
        if P::OPENS && polled.is_pending() {
            self.poll_patience(cx)?;
        } else {
            self.patience = None;
        }
        polled
    }

    /// Writes what is there. User code may wait for that, in a burst that no deadline ends: so the
    /// write deadline runs here.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            self.took = false;
            if !self.write(cx)? {
                self.patience = None;
                return Ok(());
            }
            let Some(timeout) = self.hub.settings.ticks.write_timeout() else { return Ok(()) };
            if self.took {
                self.patience = None;
            }
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(timeout)));
            if patience.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.ask(true);
            let written = self.write(cx);
            self.ask(false);
            written?;
            if !self.took {
                return Err(CloseReason::Deadline(Deadline::Write));
            }
            self.patience = None;
        }
    }

    fn ask(&mut self, asked: bool) {
        if let Some(wire) = self.io.wire() {
            wire.ask(asked);
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
        if self.io.is_secure() {
            match Pin::new(&mut *self.io).poll_flush(cx) {
                Poll::Ready(Err(_)) => return Err(CloseReason::Io),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => blocked = true,
            }
        }
        self.took |= self.io.wire().is_some_and(Wire::took);
        if P::OPENS && self.wrote > before {
            self.protocol.unwritten(self.idle, output.len());
        }
        Ok(blocked)
    }

    fn blocked(&self) -> Result<(Wait, bool), CloseReason> {
        let settings = &self.hub.settings;
        match self.order.late {
            Some(deadline @ Deadline::Write) if !self.took => Err(CloseReason::Deadline(deadline)),
            _ if settings.slow_reader == SlowReader::Close
                && self.buffers.output.len() > settings.outgoing =>
            {
                Err(CloseReason::SlowReader)
            }
            _ => Ok((Wait::Write, self.took)),
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        match ready!(poll_fill(self.io, cx, &mut self.buffers.input)) {
            Ok(0) => self.end = true,
            Ok(count) => self.read += count,
            Err(_) => return Poll::Ready(Err(CloseReason::Io)),
        }
        self.hungry = false;
        Poll::Ready(Ok(()))
    }

    /// All is served and written, and the peer has sent no more.
    fn nothing_left(&self) -> Result<(Wait, bool), CloseReason> {
        // A peer that only listens has none to send.
        let heard = self.read > 0 || P::OPENS && self.wrote > 0;
        if let Some(deadline) = self.order.late {
            let kept = match deadline {
                Deadline::Frame => self.frames > 0,
                Deadline::FirstByte | Deadline::Handshake => heard,
                Deadline::Idle | Deadline::Body | Deadline::Write => self.read > 0 || self.took,
            };
            if !kept {
                let deadline = self.hub.settings.ticks.passed(deadline);
                return Err(CloseReason::Deadline(deadline));
            }
        }
        if let Some(reason) = self.order.doom.filter(|_| !self.part) {
            return Err(reason);
        }
        if self.part {
            return Ok((Wait::Frame, self.frames > 0));
        }
        if matches!(self.order.wait, Wait::FirstByte | Wait::Handshake) && !heard {
            return Ok((Wait::FirstByte, false));
        }
        Ok((Wait::Idle, self.frames > 0 || self.wrote > 0))
    }

    /// Leaves what is under way with the connection: the bytes, and no buffer around them.
    fn put_by(&mut self) -> Result<(), CloseReason> {
        let Buffers { input, output } = &mut *self.buffers;
        if input.is_empty() && output.is_empty() && !self.part && !self.end && self.hungry {
            return Ok(());
        }
        let charge = match output.len() {
            0 => None,
            bytes => Some(self.hub.charge(bytes).ok_or(CloseReason::SlowReader)?),
        };
        // What has gone out of it already is memory, too.
        let slack = output.capacity() > 2 * output.len();
        let output = if slack { BytesMut::from(&output[..]) } else { take(output) };
        let input = (&**input).into();
        let (part, taken, end) = (self.part, self.taken, self.end);
        let rest = Rest { input, output, part, taken, end, lingers: None, _charge: charge };
        *self.protocol.rest(self.idle) = Some(Box::new(rest));
        Ok(())
    }
}
