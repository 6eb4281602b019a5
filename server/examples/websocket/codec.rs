//! The WebSocket protocol as a codec, written on tungstenite.
//!
//! `main` gives the codec to the server, and each connection gets a clone. tungstenite parses the
//! handshake and the frames; the codec passes it one whole frame at a time. The bytes of an
//! incomplete frame stay in the server's buffer, so the server's limits and deadlines hold for each
//! frame. tungstenite's context lives as long as one message. Between messages a connection keeps
//! the codec's 40 bytes, and no buffer.

use std::io::{self, Cursor, Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use tungstenite::error::{CapacityError, Error, Result};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{Response, StatusCode};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Message, Utf8Bytes};

/// The longest message, and the longest payload of a frame.
pub const MESSAGE: usize = 1024 * 1024;
/// The longest frame with its header.
pub const FRAME: usize = MESSAGE + 14;
/// The longest request for a connection, or for a page.
const REQUEST: usize = 8 * 1024;

/// What the client has sent.
pub enum In {
    /// A request for a page, not for a WebSocket.
    Get(String),
    /// A request that this server does not understand.
    Bad(StatusCode),
    /// A WebSocket has opened. Send [`Out::Flush`], which confirms that to the client.
    Open,
    /// A text or a binary message.
    Message(Message),
    /// A ping. Send [`Out::Flush`], which answers it.
    Ping,
    Pong,
    /// The closing handshake is done. Send [`Out::Flush`], and close.
    Closed,
    /// The client has violated the protocol. Send [`Out::Flush`], which gives the reason, and
    /// close.
    Failed,
}

/// What the server sends.
pub enum Out {
    Page(Response<&'static str>),
    Message(Message),
    /// A frame from [`encoded`].
    Encoded(Bytes),
    /// Begins the closing handshake.
    Close(CloseCode, &'static str),
    /// Nothing but the pending answers, which every other variant sends as well.
    Flush,
}

/// Encodes a message once, for many receivers.
pub fn encoded(message: Message) -> Bytes {
    let mut frame = BytesMut::new();
    format(frame_of(message), &mut frame);
    frame.freeze()
}

fn frame_of(message: Message) -> Frame {
    let text = matches!(message, Message::Text(_));
    let kind = if text { Data::Text } else { Data::Binary };
    Frame::message(message.into_data(), OpCode::Data(kind), true)
}

fn format(frame: Frame, output: &mut BytesMut) {
    frame.format(&mut output.writer()).expect("a write to memory does not fail");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Handshake,
    Open,
    /// The server has sent a close, and waits for the client's answer.
    Closing,
    /// Further input is discarded.
    Closed,
}

pub struct WebSocket {
    state: State,
    /// A message has arrived in part.
    partial: bool,
    /// Present while a message arrives, and during the closing handshake.
    context: Option<Box<WebSocketContext>>,
    /// Answers to the handshake, pings and closes; they go out before the next frame.
    answers: Vec<u8>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { state: State::Handshake, partial: false, context: None, answers: Vec::new() }
    }
}

/// The server clones the codec for each connection. A clone starts in the initial state.
impl Clone for WebSocket {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The socket that tungstenite sees: reads give one frame, writes append to the answers.
struct Feed<'a> {
    frame: &'a [u8],
    answers: &'a mut Vec<u8>,
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.frame.is_empty() {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => self.frame.read(buffer),
        }
    }
}

impl Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answers.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder for WebSocket {
    type Item = In;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<In>> {
        if self.state == State::Handshake {
            return Ok(self.handshake(input));
        }
        while self.state != State::Closed {
            let read = match whole_frame(input) {
                Ok(None) => return Ok(None),
                Ok(Some((last, length))) => self.read(last, &input.split_to(length)),
                Err(error) => Err(error),
            };
            match read {
                Ok(Some(In::Message(_))) if self.state == State::Closing => {}
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Ok(Some(self.fail(&error))),
            }
        }
        input.clear();
        Ok(None)
    }
}

/// Returns the length of the first frame, if that is whole. The first value says whether the frame
/// is the last of its message; it is `None` for a control frame.
fn whole_frame(input: &[u8]) -> Result<Option<(Option<bool>, usize)>> {
    let mut cursor = Cursor::new(input);
    let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else { return Ok(None) };
    if payload > MESSAGE as u64 {
        let (size, max_size) = (payload as usize, MESSAGE);
        return Err(CapacityError::MessageTooLong { size, max_size }.into());
    }
    let length = cursor.position() as usize + payload as usize;
    let last = matches!(header.opcode, OpCode::Data(_)).then_some(header.is_final);
    Ok((input.len() >= length).then_some((last, length)))
}

impl WebSocket {
    fn handshake(&mut self, input: &mut BytesMut) -> Option<In> {
        let parsed = match Request::try_parse(input) {
            Ok(None) if input.len() <= REQUEST => return None,
            Ok(None) => Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Ok(Some(parsed)) => Ok(parsed),
            Err(_) => Err(StatusCode::BAD_REQUEST),
        };
        let (length, request) = match parsed {
            Ok(parsed) => parsed,
            Err(status) => return Some(self.refuse(In::Bad(status))),
        };
        if !request.headers().contains_key("upgrade") {
            return Some(self.refuse(In::Get(request.uri().path().to_owned())));
        }
        let response = create_response(&request);
        match response.and_then(|response| write_response(&mut self.answers, &response)) {
            Err(_) => Some(self.refuse(In::Bad(StatusCode::BAD_REQUEST))),
            Ok(()) => {
                let _ = input.split_to(length);
                self.state = State::Open;
                Some(In::Open)
            }
        }
    }

    fn refuse(&mut self, request: In) -> In {
        self.state = State::Closed;
        self.answers.clear();
        request
    }

    /// Passes a whole frame to tungstenite. `last` comes from [`whole_frame`].
    fn read(&mut self, last: Option<bool>, frame: &[u8]) -> Result<Option<In>> {
        self.partial = last.map_or(self.partial, |last| !last);
        let context = self.context.get_or_insert_with(|| context(frame.len()));
        let mut feed = Feed { frame, answers: &mut self.answers };
        let read = match context.read(&mut feed) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
            Ok(Message::Ping(_)) => context.flush(&mut feed).map(|()| Some(In::Ping)),
            Ok(Message::Pong(_)) => Ok(Some(In::Pong)),
            Ok(Message::Close(_)) => match context.flush(&mut feed) {
                Ok(()) | Err(Error::ConnectionClosed) => {
                    self.state = State::Closed;
                    Ok(Some(In::Closed))
                }
                Err(error) => Err(error),
            },
            Ok(message) => Ok(Some(In::Message(message))),
        };
        if !self.partial && self.state != State::Closing {
            self.context = None;
        }
        read
    }

    fn fail(&mut self, error: &Error) -> In {
        let code = match error {
            Error::Capacity(_) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        };
        if self.state == State::Open {
            let frame = Frame::close(Some(CloseFrame { code, reason: Utf8Bytes::default() }));
            frame.format(&mut self.answers).expect("a write to memory does not fail");
        }
        (self.state, self.context) = (State::Closed, None);
        In::Failed
    }

    fn close(&mut self, code: CloseCode, reason: &'static str) {
        if self.state == State::Open {
            self.state = State::Closing;
            let context = self.context.get_or_insert_with(|| context(0));
            let frame = CloseFrame { code, reason: reason.into() };
            let mut feed = Feed { frame: &[], answers: &mut self.answers };
            context.close(&mut feed, Some(frame)).expect("a write to memory does not fail");
        }
    }
}

/// Makes a context whose buffer holds a frame of this length.
fn context(frame: usize) -> Box<WebSocketContext> {
    let config = WebSocketConfig::default()
        .read_buffer_size(frame.max(1024))
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    Box::new(WebSocketContext::new(Role::Server, Some(config)))
}

impl Encoder<Out> for WebSocket {
    type Error = io::Error;

    fn encode(&mut self, out: Out, output: &mut BytesMut) -> io::Result<()> {
        // No message may follow a close. Answers go out before the frame that was sent after them.
        let open = self.state == State::Open;
        if let Out::Close(code, reason) = out {
            self.close(code, reason);
        }
        output.put(&*std::mem::take(&mut self.answers));
        match out {
            Out::Message(message) if open => format(frame_of(message), output),
            Out::Encoded(frame) if open => output.put(frame),
            Out::Page(response) => {
                let head = write_response(&mut output.writer(), &response);
                head.map_err(io::Error::other)?;
                output.put(response.body().as_bytes());
            }
            Out::Message(_) | Out::Encoded(_) | Out::Close(..) | Out::Flush => {}
        }
        Ok(())
    }
}
