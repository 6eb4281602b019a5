//! Parked WebSockets beside an axum app, on one port.
//!
//! [`WebSocketUpgrade`] is an extractor of axum. Its [`on_upgrade`](WebSocketUpgrade::on_upgrade) gives
//! the connection to a [`Handler`](crate::Handler), the same trait that framed protocols use. An idle
//! WebSocket has no task and no buffer.
//!
//! [`guide::http`](crate::guide::http) has a section on WebSockets.

// | file | content |
// |---|---|
// | `message` | the public types of messages |
// | `codec` | the protocol of an open WebSocket, on tungstenite |
// | `conn` | codec and handler as an idle state of an HTTP connection |
// | `stream` | a WebSocket over HTTP/2, which has a task |
// | `upgrade` | the handshake: an extractor of axum |
//
// # The path of a WebSocket
//
// 1. The extractor checks the request and takes hyper's `OnUpgrade`. The response has the handler.
// 2. `http/hyper_service.rs` moves the handler from a 101 into the progress of the connection.
// 3. Hyper flushes the 101 and ends. `http/serve_turn.rs` takes the socket back, with the bytes that
//    hyper has read: they are the first frames. The next turn begins at once.
// 4. `conn.rs` makes the state of the connection, and framed turns serve it. A connection that has a task
//    since it was busy gives it up when it waits for the next message.

mod codec;
pub(crate) mod conn;
mod message;
pub(crate) mod stream;
pub(crate) mod upgrade;

pub use crate::ws::message::{CloseFrame, Message, Utf8Bytes, close_code};
pub use crate::ws::upgrade::{UpgradeRejection, WebSocketUpgrade};
