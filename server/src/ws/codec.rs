//! The WebSocket protocol as a codec, on tungstenite.
//!
//! Owns the protocol state of one open WebSocket. The framed turn decodes with it, and the handles
//! of the connection encode with it, both under the lock of `ConnShared::inner`. tungstenite checks
//! masks, opcodes, fragments and UTF-8; the codec passes it one whole frame at a time. The bytes of
//! a partial frame stay in the buffer of the turn. So a WebSocket has no buffer between messages:
//! tungstenite's context lives as long as one message. It costs some 2,000 instructions (callgrind), so a
//! frame that is a message by itself needs none: `whole_message` takes off its mask.
//!
//! What must never happen: a payload is buffered that its header announces as too large; a frame
//! goes out after a close; a message is decoded after the peer's close or violation.

use std::io::{self, Cursor, Read, Write};

use bytes::{BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use tungstenite::error::{CapacityError, Error, Result};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{self, Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::close_reason::CloseReason;
use crate::framed::handler::LastFrame;
use crate::sync::failpoint;
use crate::ws::message::{CloseFrame, Message, Utf8Bytes, close_code};

/// The most bytes of a ping, a pong or a close.
const MAX_CONTROL: usize = 125;

const MIB: u32 = 1024 * 1024;

/// The largest payloads that are accepted, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) message: u32,
    pub(super) frame: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message: MIB, frame: MIB }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The server has sent a close. The peer has not.
    CloseSent,
    /// The peer has sent a close. Only its answer may go out.
    PeerClosed,
    /// Both have sent a close. The first value says whether the peer's came first.
    Closed(bool),
    /// The peer has violated the protocol. Only a close with this code may go out.
    Failing(u16),
    Failed,
}

pub(super) struct WsCodec {
    pub(super) limits: Limits,
    state: State,
    /// A message has arrived in part.
    partial: bool,
    /// The peer has sent nothing since the last ping of the server.
    pub(super) pinged: bool,
    /// Present while a message arrives in parts.
    context: Option<Box<WebSocketContext>>,
}

impl WsCodec {
    pub(super) fn new() -> Self {
        let limits = Limits::default();
        Self { limits, state: State::Open, partial: false, pinged: false, context: None }
    }

    /// Whether a message has come in part, which the codec holds.
    pub(super) fn has_part(&self) -> bool {
        self.partial && !failpoint("a ping ends the wait for a message")
    }

    /// Whether the server has sent a close, so that nothing else can go out.
    pub(super) fn has_sent_close(&self) -> bool {
        matches!(self.state, State::CloseSent | State::Closed(_))
    }

    /// Whether the conversation was ended by the peer.
    pub(super) fn peer_closed_first(&self) -> bool {
        matches!(self.state, State::PeerClosed | State::Closed(true))
    }

    /// Returns the lengths of the first frame's head and of the frame, if that is whole. The first value
    /// says whether the frame is the last of its message; it is `None` for a control frame.
    fn whole_frame(&self, input: &[u8]) -> Result<Option<(Option<bool>, usize, usize)>> {
        let mut cursor = Cursor::new(input);
        let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else { return Ok(None) };
        let max_size = self.limits.frame.min(self.limits.message) as usize;
        if payload > max_size as u64 && !failpoint("a frame of any size is buffered") {
            let size = payload.try_into().unwrap_or(usize::MAX);
            return Err(CapacityError::MessageTooLong { size, max_size }.into());
        }
        let head = cursor.position() as usize;
        let length = head + payload as usize;
        let last = matches!(header.opcode, OpCode::Data(_)).then_some(header.is_final);
        Ok((input.len() >= length).then_some((last, head, length)))
    }

    /// Returns the message of a frame that is one by itself and has no fault. Any other frame is
    /// tungstenite's.
    fn whole_message(&self, head: usize, frame: &[u8]) -> Option<Message> {
        const TEXT: u8 = 0x81;
        const BINARY: u8 = 0x82;
        const MASKED: u8 = 0x80;
        let &[kind @ (TEXT | BINARY), length, ..] = frame else { return None };
        if self.partial || length & MASKED == 0 {
            return None;
        }
        let (mask, payload) = frame[head - 4..].split_first_chunk::<4>()?;
        let mut payload = payload.to_vec();
        for part in payload.chunks_mut(4) {
            part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        match kind {
            TEXT => Some(Message::Text(Utf8Bytes(payload.try_into().ok()?))),
            _ => Some(Message::Binary(payload.into())),
        }
    }

    /// Passes a whole frame to tungstenite. `last` comes from [`whole_frame`](Self::whole_frame).
    /// Returns the message that the frame completes, or `None`.
    fn read(&mut self, last: Option<bool>, frame: &[u8]) -> Result<Option<Message>> {
        self.partial = last.map_or(self.partial, |last| !last);
        let limits = self.limits;
        let context = self.context.get_or_insert_with(|| context(frame.len(), limits));
        let read = context.read(&mut OneFrame(frame));
        if !self.partial {
            self.context = None;
        }
        Ok(Some(match read {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
            Ok(tungstenite::Message::Text(text)) => Message::Text(Utf8Bytes(text)),
            Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes),
            Ok(tungstenite::Message::Ping(bytes)) => Message::Ping(bytes),
            Ok(tungstenite::Message::Pong(bytes)) => Message::Pong(bytes),
            Ok(tungstenite::Message::Close(frame)) => {
                self.context = None;
                self.state = match self.state {
                    State::CloseSent => State::Closed(false),
                    _ => State::PeerClosed,
                };
                let frame = frame.map(|frame| CloseFrame {
                    code: frame.code.into(),
                    reason: Utf8Bytes(frame.reason),
                });
                Message::Close(frame)
            }
            // Only a context that is told to gives raw frames.
            Ok(tungstenite::Message::Frame(_)) => return Ok(None),
        }))
    }

    fn fail(&mut self, error: Error) -> io::Error {
        let code = match &error {
            Error::Capacity(_) => close_code::SIZE,
            Error::Utf8(_) => close_code::INVALID,
            _ => close_code::PROTOCOL,
        };
        self.state = match self.state {
            State::Open => State::Failing(code),
            _ => State::Failed,
        };
        self.context = None;
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl Decoder for WsCodec {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Message>> {
        loop {
            match self.state {
                State::Open | State::CloseSent => {}
                State::PeerClosed | State::Closed(_) => {
                    input.clear();
                    return Ok(None);
                }
                State::Failing(_) | State::Failed => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            let read = match self.whole_frame(input) {
                Ok(None) => return Ok(None),
                Ok(Some((last, head, length))) => {
                    let frame = input.split_to(length);
                    match self.whole_message(head, &frame) {
                        Some(message) => Ok(Some(message)),
                        None => self.read(last, &frame),
                    }
                }
                Err(error) => Err(error),
            };
            match read.map_err(|error| self.fail(error))? {
                Some(Message::Close(frame)) => return Ok(Some(Message::Close(frame))),
                // After its close the server serves no message.
                Some(message) if self.state == State::Open => return Ok(Some(message)),
                _ => {}
            }
        }
    }

    /// The end of the stream is no error: the turn tells it apart from a close.
    fn decode_eof(&mut self, input: &mut BytesMut) -> io::Result<Option<Message>> {
        let decoded = self.decode(input)?;
        if decoded.is_none() {
            input.clear();
        }
        Ok(decoded)
    }
}

impl Encoder<Message> for WsCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Message, output: &mut BytesMut) -> io::Result<()> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let is_close = matches!(message, Message::Close(_));
        let next = match self.state {
            State::Open if is_close => State::CloseSent,
            State::Open => State::Open,
            State::PeerClosed if is_close => State::Closed(true),
            State::Failing(_) if is_close => State::Failed,
            _ if failpoint("a message follows a close") => self.state,
            _ => return refused("the WebSocket has a close already: no message may follow"),
        };
        let frame = match message {
            Message::Text(text) => data_frame(text.0, Data::Text),
            Message::Binary(bytes) => data_frame(bytes, Data::Binary),
            Message::Ping(bytes) | Message::Pong(bytes) if bytes.len() > MAX_CONTROL => {
                return refused("a ping or a pong has at most 125 bytes");
            }
            Message::Ping(bytes) => Frame::ping(bytes),
            Message::Pong(bytes) => Frame::pong(bytes),
            Message::Close(frame) => {
                let frame = frame.map(|CloseFrame { code, reason }| frame::CloseFrame {
                    code: code.into(),
                    reason: reason.0,
                });
                if frame.as_ref().is_some_and(|frame| !frame.code.is_allowed()) {
                    return refused(
                        "the code of a close is from 1000 to 1014 or from 3000 to 4999",
                    );
                }
                if frame.as_ref().is_some_and(|frame| frame.reason.len() > MAX_CONTROL - 2) {
                    return refused("the reason of a close has at most 123 bytes");
                }
                Frame::close(frame)
            }
        };
        output.reserve(frame.len());
        frame.format(&mut output.writer()).map_err(io::Error::other)?;
        self.state = next;
        Ok(())
    }
}

fn data_frame(payload: impl Into<bytes::Bytes>, kind: Data) -> Frame {
    Frame::message(payload, OpCode::Data(kind), true)
}

/// The socket that tungstenite sees: a read gives the frame. Answers of tungstenite are discarded,
/// because the handler's side answers.
struct OneFrame<'a>(&'a [u8]);

impl Read for OneFrame<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.is_empty() {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => self.0.read(buffer),
        }
    }
}

impl Write for OneFrame<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a context whose buffer holds a frame of this length.
fn context(frame: usize, limits: Limits) -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(frame.max(64))
        .write_buffer_size(0)
        .max_message_size(Some(limits.message as usize))
        .max_frame_size(Some(limits.frame as usize));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

/// Returns what a peer is told that has violated the protocol.
fn failure(code: u16) -> &'static str {
    match code {
        close_code::SIZE => "the message is too large",
        close_code::INVALID => "the text is not UTF-8",
        _ => "the peer has violated the protocol",
    }
}

/// The close frame that a WebSocket ends with.
pub(super) struct CloseFirst;

impl LastFrame<WsCodec> for CloseFirst {
    const CODEC_LIMITS_FRAMES: bool = true;

    const CLOSES_WITHIN_FRAMES: bool = true;

    fn encode(codec: &mut WsCodec, reason: CloseReason, output: &mut BytesMut) -> bool {
        let (code, text) = match (reason, codec.state) {
            (_, State::Failing(code)) => (code, failure(code).to_owned()),
            (CloseReason::ClosedByServer, _) => (close_code::NORMAL, String::new()),
            (CloseReason::Service | CloseReason::Panicked, _) => {
                (close_code::ERROR, "the server failed".to_owned())
            }
            (CloseReason::SlowReader, _) => (close_code::POLICY, reason.to_string()),
            (CloseReason::PoolClosed, _) => (close_code::AGAIN, reason.to_string()),
            _ => (close_code::AWAY, reason.to_string()),
        };
        let frame = CloseFrame { code, reason: text.into() };
        if matches!(codec.state, State::Open | State::PeerClosed | State::Failing(_)) {
            // A frame of an allowed code and a short text is always encoded.
            let _ = Encoder::encode(codec, Message::Close(Some(frame)), output);
        }
        codec.state == State::CloseSent
    }
}
