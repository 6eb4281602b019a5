//! WebSocket for a server of frames, on tungstenite: it reads the handshake and the frames, this
//! codec feeds it what has arrived.
//!
//! Bytes stay in the server's buffer until a frame is whole, so the server's limits and deadlines
//! hold for each of them. tungstenite's context is made for a message and dropped with it: between
//! messages a connection keeps nothing but this codec, of 40 bytes.

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

/// The longest message, and the longest frame.
pub const MESSAGE: usize = 1024 * 1024;
/// With its header.
pub const FRAME: usize = MESSAGE + 14;
/// The longest request for a connection, or for a page.
const REQUEST: usize = 8 * 1024;

/// What has come.
pub enum In {
    /// A request for a page, not for a WebSocket.
    Get(String),
    /// A request that this server does not understand.
    Bad(StatusCode),
    /// A WebSocket is there. Send [`Out::Flush`], which tells the client so.
    Open,
    /// A text or something binary.
    Message(Message),
    /// A ping. Send [`Out::Flush`], which answers it.
    Ping,
    Pong,
    /// The handshake of the close is done. Send [`Out::Flush`], and close.
    Closed,
    /// The client has broken the rules. Send [`Out::Flush`], which tells it which, and close.
    Failed,
}

/// What is to go out.
pub enum Out {
    Page(Response<&'static str>),
    Message(Message),
    /// A frame, as [`encoded`] makes them.
    Encoded(Bytes),
    /// Begins the handshake of the close.
    Close(CloseCode, &'static str),
    /// What waits to go out anyway goes with all others, and with this.
    Flush,
}

/// A message as a frame, encoded once for all who shall have it.
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
    frame.format(&mut output.writer()).expect("memory takes all that is written");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Handshake,
    Open,
    /// Told the client to close, and waits for its answer.
    Closing,
    /// Nothing that comes is of interest any more.
    Closed,
}

pub struct WebSocket {
    state: State,
    /// Whether a message has come in part.
    partial: bool,
    /// While a message comes, or its end is negotiated.
    context: Option<Box<WebSocketContext>>,
    /// Answers to the handshake, pings and closes, until the next frame goes out.
    answers: Vec<u8>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { state: State::Handshake, partial: false, context: None, answers: Vec::new() }
    }
}

/// A server has a codec for each connection, which begins at the beginning.
impl Clone for WebSocket {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What tungstenite takes for a socket: the bytes of one frame, and the answers.
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

/// The length of the frame at the front if it is whole, and whether it is the last of a message,
/// or none of a message at all (`None`).
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

    /// Has tungstenite read a frame. `last` as of [`whole_frame`].
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
            frame.format(&mut self.answers).expect("memory takes all that is written");
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
            context.close(&mut feed, Some(frame)).expect("memory takes all that is written");
        }
    }
}

/// With a buffer for frames of this length, and of a kilobyte at least.
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
        // Nothing may follow a close, and an answer not what is sent after it.
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
