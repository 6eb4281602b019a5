//! What the client says, and what it expects to hear.

use std::io::Write;

use crate::frames::{self, FRAME};

/// The longest request.
const LONGEST: usize = 128;
/// How much of a request a slow client has sent.
pub const PART: usize = 30;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Frames of 64 bytes, echoed.
    Echo,
    /// HTTP/1.1: a GET whose path comes back in a small JSON object.
    Http,
    /// WebSockets: the frames of `Echo` as binary messages.
    Ws,
}

/// The handshake of a WebSocket. `client/connections.rs` makes it before the first request.
pub const HANDSHAKE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Of a client's message.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What the bytes that have come begin with.
pub struct Answer {
    pub length: usize,
    /// None if it is not the one expected.
    pub stamp: Option<u64>,
    /// Of the request it seems to be for.
    pub number: Option<u64>,
}

impl Protocol {
    /// Of the files with its results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "modes",
            Self::Http => "modes_http",
            Self::Ws => "modes_ws",
        }
    }

    /// The option of the command line.
    pub fn option(self) -> Option<&'static str> {
        match self {
            Self::Echo => None,
            Self::Http => Some("--http"),
            Self::Ws => Some("--ws"),
        }
    }

    /// The number of a request on its connection, when it was sent, and its connection.
    pub fn request(self, number: u64, stamp: u64, connection: u64) -> Request {
        let mut request = Request { bytes: [0; LONGEST], length: FRAME };
        match self {
            Self::Echo => {
                let frame = frames::request(number, stamp, connection);
                request.bytes[..FRAME].copy_from_slice(&frame);
            }
            Self::Http => {
                let mut free = &mut request.bytes[..];
                let line = "HTTP/1.1\r\nhost: localhost\r\n\r\n";
                write!(free, "GET /{stamp:016x}{number:08x}{connection:08x} {line}")
                    .expect("there is room");
                request.length = LONGEST - free.len();
            }
            Self::Ws => {
                // One binary message: its length, its mask, the masked frame.
                let frame = frames::request(number, stamp, connection);
                request.bytes[..2].copy_from_slice(&[0x82, 0x80 | FRAME as u8]);
                request.bytes[2..6].copy_from_slice(&MASK);
                for (at, byte) in frame.into_iter().enumerate() {
                    request.bytes[6 + at] = byte ^ MASK[at % 4];
                }
                request.length = 6 + FRAME;
            }
        }
        request
    }

    /// None while it is not whole.
    pub fn answer(self, bytes: &[u8], number: u64, connection: u64) -> Option<Answer> {
        match self {
            Self::Echo => {
                let frame = bytes.get(..FRAME)?;
                let stamp = frames::stamp_of(frame, number, connection);
                Some(Answer { length: FRAME, stamp, number: frames::number_of(frame) })
            }
            Self::Http => response(bytes, number, connection),
            Self::Ws => {
                let message = bytes.get(..2 + FRAME)?;
                let frame = message.strip_prefix(&[0x82, FRAME as u8]);
                let stamp = frame.and_then(|frame| frames::stamp_of(frame, number, connection));
                let number = frame.and_then(frames::number_of);
                Some(Answer { length: 2 + FRAME, stamp, number })
            }
        }
    }
}

pub struct Request {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Request {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn response(bytes: &[u8], number: u64, connection: u64) -> Option<Answer> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let Some(body) = body_length(&bytes[..head]) else {
        // Without a length the end of the response is unknown.
        return Some(Answer { length: bytes.len(), stamp: None, number: None });
    };
    let length = head + body;
    let ids = ids(bytes.get(head..length)?);
    let right = |[_, of, from]: &[u64; 3]| {
        bytes.starts_with(b"HTTP/1.1 200 ") && (*of, *from) == (number, connection)
    };
    Some(Answer {
        length,
        stamp: ids.filter(right).map(|[stamp, ..]| stamp),
        number: ids.map(|[_, of, _]| of),
    })
}

fn body_length(head: &[u8]) -> Option<usize> {
    let name = b"content-length:";
    let mut lines = head.split(|&byte| byte == b'\n');
    let line = lines.find(|line| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    })?;
    std::str::from_utf8(&line[name.len()..]).ok()?.trim().parse().ok()
}

/// Stamp, number and connection.
fn ids(body: &[u8]) -> Option<[u64; 3]> {
    let text = std::str::from_utf8(body).ok()?;
    let ids = text.strip_prefix("{\"id\":\"")?.strip_suffix("\"}")?;
    if ids.len() != 32 {
        return None;
    }
    let id = |from, to| u64::from_str_radix(ids.get(from..to)?, 16).ok();
    Some([id(0, 16)?, id(16, 24)?, id(24, 32)?])
}
