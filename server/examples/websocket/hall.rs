//! The handler: the open WebSockets, and the messages between them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millpond_server::{CloseReason, Handler};
use tokio::time::sleep;
use tungstenite::http::{Response, StatusCode};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, Utf8Bytes};

use crate::codec::{In, Out, encoded};
use crate::common::Error;

/// The time that a client has to read a close and answer it.
const CLOSE: Duration = Duration::from_secs(1);

const PAGE: &str = include_str!("page.html");

type Connection = millpond_server::Connection<Out, Seat>;

/// The open WebSockets. Clones share them.
#[derive(Clone, Default)]
pub struct Hall(Arc<Mutex<HashMap<u64, Connection>>>);

/// The number of a connection.
pub struct Seat(u64);

impl Default for Seat {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

impl Handler for Hall {
    type In = In;
    type Out = Out;
    type State = Seat;

    async fn on_frame(&self, connection: &Connection, frame: In) -> Result<(), Error> {
        match frame {
            In::Get(path) => {
                connection.try_send(Out::Page(page(&path)?))?;
                connection.close();
            }
            In::Bad(status) => {
                connection.try_send(Out::Page(plain(status)?))?;
                connection.close();
            }
            In::Open => {
                self.lock().insert(connection.state().0, connection.clone());
                connection.try_send(Out::Flush)?;
            }
            In::Message(Message::Text(text)) => match text.strip_prefix("/all ") {
                Some(text) => self.send_to_all(text),
                None => connection.try_send(Out::Message(Message::Text(text)))?,
            },
            In::Message(message) => connection.try_send(Out::Message(message))?,
            In::Ping => connection.try_send(Out::Flush)?,
            In::Pong => {}
            In::Closed => {
                connection.try_send(Out::Flush)?;
                connection.close();
            }
            In::Failed => {
                connection.try_send(Out::Flush)?;
                // A socket that is closed with unread bytes is reset, and the client may miss the
                // reason.
                let connection = connection.clone();
                tokio::spawn(async move {
                    sleep(CLOSE).await;
                    connection.close();
                });
            }
        }
        Ok(())
    }

    fn on_close(&self, connection: &Connection, _reason: CloseReason) {
        self.lock().remove(&connection.state().0);
    }
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_to_all(&self, text: &str) {
        let frame = encoded(Message::Text(Utf8Bytes::from(text)));
        for connection in self.lock().values() {
            // A slow reader is closed; `on_close` then removes it from the hall.
            if connection.try_send(Out::Encoded(frame.clone())).is_err() {
                connection.close();
            }
        }
    }

    /// Sends a close to all WebSockets, and waits a moment for their answers.
    pub async fn close_all(&self) {
        for connection in self.lock().values() {
            let _ = connection.try_send(Out::Close(CloseCode::Away, "the server stops"));
        }
        let empty = async {
            while !self.lock().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE, empty).await;
    }
}

fn page(path: &str) -> Result<Response<&'static str>, Error> {
    match path {
        "/" => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        _ => plain(StatusCode::NOT_FOUND),
    }
}

fn plain(status: StatusCode) -> Result<Response<&'static str>, Error> {
    respond(status, "text/plain", status.canonical_reason().unwrap_or_default())
}

fn respond(
    status: StatusCode,
    content: &str,
    body: &'static str,
) -> Result<Response<&'static str>, Error> {
    let response = Response::builder()
        .status(status)
        .header("content-type", content)
        .header("content-length", body.len())
        .header("connection", "close");
    Ok(response.body(body)?)
}
