//! What a WebSocket carries: [`Message`], with texts and close frames of this crate's own types.
//!
//! The types hide the library that speaks the protocol, so its versions are no part of the API.
//! `codec.rs` translates. Payloads are `Bytes`: a clone of a message for many receivers copies none.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// A message of a WebSocket.
///
/// The server answers pings and closes by itself, before the handler gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A text.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
    /// A ping, of at most 125 bytes. The server has answered a ping of the peer already.
    Ping(Bytes),
    /// The answer to a ping, of at most 125 bytes.
    Pong(Bytes),
    /// The end of the conversation, with a code and a reason if the peer gives them.
    ///
    /// Sending a close ends the connection as [`Connection::close`](crate::Connection::close) does,
    /// with this code instead of 1000. After a close of the peer the connection ends too.
    Close(Option<CloseFrame>),
}

impl Message {
    /// Makes a text.
    pub fn text(text: impl Into<Utf8Bytes>) -> Self {
        Self::Text(text.into())
    }

    /// Makes a message of bytes.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::Binary(bytes.into())
    }
}

/// Why a WebSocket ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// A [code](close_code): 1000 to 1014 as RFC 6455 has them, or 3000 to 4999.
    pub code: u16,
    /// A text of at most 123 bytes; may be empty.
    pub reason: Utf8Bytes,
}

/// The codes of [`CloseFrame`] that RFC 6455 and its registry have.
pub mod close_code {
    /// The conversation is over.
    pub const NORMAL: u16 = 1000;
    /// The server shuts down, or the page is left.
    pub const AWAY: u16 = 1001;
    /// The peer has violated the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// Messages of this kind are not accepted.
    pub const UNSUPPORTED: u16 = 1003;
    /// A text is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// The message violates a policy.
    pub const POLICY: u16 = 1008;
    /// A message is too large.
    pub const SIZE: u16 = 1009;
    /// The client expected an extension that the server has not.
    pub const EXTENSION: u16 = 1010;
    /// The server failed.
    pub const ERROR: u16 = 1011;
    /// The server restarts.
    pub const RESTART: u16 = 1012;
    /// The server is overloaded.
    pub const AGAIN: u16 = 1013;
}

/// A text in a [`Message`]. Clones share the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Utf8Bytes(pub(super) tungstenite::Utf8Bytes);

impl Utf8Bytes {
    /// Wraps a text without a copy.
    pub const fn from_static(text: &'static str) -> Self {
        Self(tungstenite::Utf8Bytes::from_static(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Deref for Utf8Bytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq<str> for Utf8Bytes {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Utf8Bytes {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl From<&str> for Utf8Bytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Utf8Bytes {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Fails if the bytes are not UTF-8.
impl TryFrom<Bytes> for Utf8Bytes {
    type Error = std::str::Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        tungstenite::Utf8Bytes::try_from(bytes).map(Self)
    }
}

impl From<Utf8Bytes> for Bytes {
    fn from(text: Utf8Bytes) -> Self {
        text.0.into()
    }
}
