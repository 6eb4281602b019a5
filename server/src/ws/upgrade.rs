//! The handshake: [`WebSocketUpgrade`], an extractor of axum, and [`UpgradeRejection`].
//!
//! The extractor checks the request and takes hyper's [`OnUpgrade`] out of it. Its response carries
//! the handler as an extension, [`Accepted`]. `http/hyper_service.rs` takes the extension out of a
//! response that is on its way to hyper. So a middleware that replaces the response refuses the
//! upgrade, and no handler runs for it.
//!
//! What must never happen: an upgrade of a request with a body. The end of such a body would decide
//! where the first frame begins.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tungstenite::handshake::derive_accept_key;

use crate::framed::handler::Handler;
use crate::sync::Mutex;
use crate::ws::codec::Limits;
use crate::ws::conn::{StartWs, Waiting};
use crate::ws::message::Message;

/// Says in the extensions of a request that the server can park a WebSocket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parks;

/// The upgrade that a response accepts.
#[derive(Clone)]
pub(crate) struct Accepted(Arc<Mutex<Option<Upgrade>>>);

/// Hyper's promise of the socket, and the handler that waits for it.
pub(crate) struct Upgrade {
    pub(crate) on: OnUpgrade,
    pub(crate) start: Box<dyn StartWs>,
}

impl Accepted {
    pub(crate) fn take(&self) -> Option<Upgrade> {
        self.0.lock().take()
    }
}

/// Accepts a WebSocket that the server *parks*: an extractor of axum, for routes of an
/// [`http::Server`](crate::http::Server).
///
/// [`on_upgrade`](Self::on_upgrade) gives the WebSocket to a [`Handler`] whose frames are
/// [`Message`]s. An idle WebSocket then has no task and no buffer; in the event-driven mode it is a
/// record of some 300 bytes. The request is an ordinary request until then: extractors and middleware
/// see its headers, such as `Origin`, and may refuse it.
///
/// Register the route with `any`, or with `get` for HTTP/1 alone: a WebSocket over HTTP/2 comes as a
/// `CONNECT`.
///
/// # Limits
///
/// | method | bounds | default |
/// |---|---|---:|
/// | [`max_message_bytes`](Self::max_message_bytes) | a message, with all its fragments | 1 MiB |
/// | [`max_frame_bytes`](Self::max_frame_bytes) | a frame | 1 MiB |
///
/// A larger message ends the connection, with the code 1009. The bytes of a frame that is too large
/// are not buffered.
///
/// # Examples
///
/// An echo that takes no browser of a foreign page:
///
/// ```
/// use axum::Router;
/// use axum::http::{HeaderMap, StatusCode};
/// use axum::response::{IntoResponse, Response};
/// use axum::routing::any;
/// use millpond_server::http::Server;
/// use millpond_server::ws::{Message, WebSocketUpgrade};
/// use millpond_server::{BoxError, Connection, Handler};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type In = Message;
///     type Out = Message;
///     type State = ();
///
///     async fn on_frame(&self, to: &Connection<Message>, message: Message) -> Result<(), BoxError> {
///         if let Message::Text(_) | Message::Binary(_) = message {
///             to.send(message).await?;
///         }
///         Ok(())
///     }
/// }
///
/// async fn echo(headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
///     match headers.get("origin") {
///         Some(origin) if origin != "https://example.org" => StatusCode::FORBIDDEN.into_response(),
///         _ => upgrade.protocols(["echo"]).on_upgrade(Echo),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let app = Router::new().route("/echo", any(echo));
/// let server = Server::builder().listen("127.0.0.1:0").serve(app)?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[must_use = "a WebSocket is accepted by the response of `on_upgrade`"]
pub struct WebSocketUpgrade {
    on: OnUpgrade,
    /// `None` for HTTP/2.
    accept: Option<HeaderValue>,
    headers: HeaderMap,
    selected: Option<HeaderValue>,
    limits: Limits,
}

impl WebSocketUpgrade {
    /// Checks the handshake of a request. The extractor of axum calls this.
    ///
    /// # Errors
    ///
    /// [`UpgradeRejection`] says what is wrong with the request; it is a response too.
    pub fn from_parts(parts: &mut Parts) -> Result<Self, UpgradeRejection> {
        let headers = &parts.headers;
        let mut accept = None;
        if parts.version != Version::HTTP_2 {
            if parts.method != Method::GET {
                return Err(UpgradeRejection::Method);
            }
            if !has_token(headers, CONNECTION, "upgrade")
                || !has_token(headers, UPGRADE, "websocket")
            {
                return Err(UpgradeRejection::NoUpgrade);
            }
            let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
            // Base64 of 16 bytes.
            let Some(key) = key.filter(|key| key.len() == 24 && key.ends_with(b"==")) else {
                return Err(UpgradeRejection::Key);
            };
            accept = HeaderValue::try_from(derive_accept_key(key)).ok();
        } else if parts.method != Method::CONNECT {
            return Err(UpgradeRejection::Method);
        } else if parts.extensions.get::<hyper::ext::Protocol>().map(|is| is.as_str())
            != Some("websocket")
        {
            return Err(UpgradeRejection::NoUpgrade);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(UpgradeRejection::Version);
        }
        let has_length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if has_length || headers.contains_key(TRANSFER_ENCODING) {
            return Err(UpgradeRejection::Body);
        }
        if parts.extensions.get::<Parks>().is_none() {
            return Err(UpgradeRejection::Server);
        }
        let Some(on) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(UpgradeRejection::Taken);
        };
        let (headers, limits) = (parts.headers.clone(), Limits::default());
        Ok(Self { on, accept, headers, selected: None, limits })
    }

    /// The subprotocols that the server speaks. The response names the first of them that the client
    /// offers; if there is none, the WebSocket has no subprotocol.
    pub fn protocols<P>(mut self, protocols: impl IntoIterator<Item = P>) -> Self
    where
        P: AsRef<str>,
    {
        let is_offered =
            |known: &P| self.requested_protocols().any(|offered| offered == known.as_ref());
        let selected = protocols.into_iter().find(is_offered);
        self.selected = selected.and_then(|known| HeaderValue::from_str(known.as_ref()).ok());
        self
    }

    /// Returns the subprotocols that the client offers, in its order.
    pub fn requested_protocols(&self) -> impl Iterator<Item = &str> {
        tokens(&self.headers, SEC_WEBSOCKET_PROTOCOL)
    }

    /// Returns the subprotocol that [`protocols`](Self::protocols) has chosen.
    pub fn selected_protocol(&self) -> Option<&str> {
        self.selected.as_ref()?.to_str().ok()
    }

    /// The largest message, in bytes, with all its fragments. Default 1 MiB. With 0 only empty
    /// messages are accepted.
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.limits.message = bytes;
        self
    }

    /// The largest frame, in bytes without its header. Default 1 MiB. With 0 only empty frames are
    /// accepted.
    ///
    /// A frame is buffered whole before the protocol looks at it; a message in fragments is
    /// collected without a copy.
    pub fn max_frame_bytes(mut self, bytes: u32) -> Self {
        self.limits.frame = bytes;
        self
    }

    /// Accepts the WebSocket. Returns the response, which the route must answer with.
    ///
    /// When the response has gone out, the connection is the handler's: its `on_open` comes first,
    /// with [`Connection`](crate::Connection)s that send messages from anywhere. What the handler
    /// must know of the request, such as a user, goes into the handler itself: each WebSocket has its
    /// own. An `Arc` of a shared handler is a handler too.
    ///
    /// - Pings are answered, and a close of the peer is answered and ends the connection, with
    ///   [`CloseReason::Peer`](crate::CloseReason::Peer). The handler gets these messages too.
    /// - [`Connection::close`](crate::Connection::close) sends the code 1000, and a message
    ///   [`Close`](Message::Close) any other code. The connection then ends when the peer has
    ///   answered, within the [`linger_timeout`](crate::http::ServerBuilder::linger_timeout).
    /// - When the server shuts down, the peer gets the code 1001; after an error or a panic of the
    ///   handler 1011. The handler learns the reason in `on_close`.
    /// - A peer that violates the protocol gets 1002, for a text that is not UTF-8 1007, for a message
    ///   that is too large 1009. The reason is [`CloseReason::Codec`](crate::CloseReason::Codec).
    /// - A peer that is silent gets a ping; see
    ///   [`websocket_ping_interval`](crate::http::ServerBuilder::websocket_ping_interval). A message
    ///   of which no more comes meets the [`body_timeout`](crate::http::ServerBuilder::body_timeout).
    ///
    /// If the response does not reach the client, the handler is dropped without a call.
    pub fn on_upgrade<H>(self, handler: H) -> Response
    where
        H: Handler<In = Message, Out = Message>,
    {
        let Self { on, accept, selected, limits, .. } = self;
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        if let Some(selected) = selected {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, selected);
        }
        if let Some(accept) = accept {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        let upgrade = Upgrade { on, start: Box::new(Waiting { handler, limits }) };
        response.extensions_mut().insert(Accepted(Arc::new(Mutex::new(Some(upgrade)))));
        response
    }
}

impl fmt::Debug for WebSocketUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketUpgrade").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = UpgradeRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, UpgradeRejection> {
        Self::from_parts(parts)
    }
}

/// Returns the elements of a header that is a list, from all its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|other| other.eq_ignore_ascii_case(token))
}

/// Why a request is no WebSocket. As a response it has a status and the reason as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeRejection {
    /// The method is neither `GET` nor, over HTTP/2, `CONNECT`: 405.
    Method,
    /// The request asks for no WebSocket: 426.
    NoUpgrade,
    /// `Sec-WebSocket-Version` is not 13: 426, with the version that is.
    Version,
    /// `Sec-WebSocket-Key` is missing or is not the base64 of 16 bytes: 400.
    Key,
    /// The request has a body: 400.
    Body,
    /// The server is not an [`http::Server`](crate::http::Server) of this crate: 500.
    Server,
    /// Another extractor has taken the upgrade: 500.
    Taken,
}

impl UpgradeRejection {
    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Body => StatusCode::BAD_REQUEST,
            Self::Server | Self::Taken => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for UpgradeRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket begins with GET, or with CONNECT over HTTP/2",
            Self::NoUpgrade => "the request has no `Upgrade: websocket` with `Connection: upgrade`",
            Self::Version => "`Sec-WebSocket-Version` must be 13",
            Self::Key => "`Sec-WebSocket-Key` must be the base64 of 16 bytes",
            Self::Body => "a request for a WebSocket has no body",
            Self::Server => "`WebSocketUpgrade` needs `millpond_server::http::Server`",
            Self::Taken => "another extractor has taken the upgrade of the request",
        })
    }
}

impl std::error::Error for UpgradeRejection {}

impl IntoResponse for UpgradeRejection {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.to_string()).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, CONNECT"));
            }
            Self::NoUpgrade | Self::Version => {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        response
    }
}
