//! Who is there, and what becomes of what they send.

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

/// How long a client has to take a close, and to answer it.
const CLOSE: Duration = Duration::from_secs(1);

const PAGE: &str = include_str!("page.html");

type Connection = millpond_server::Connection<Out, Seat>;

/// All who have a WebSocket here. Clones are the same hall.
#[derive(Clone, Default)]
pub struct Hall(Arc<Mutex<HashMap<u64, Connection>>>);

/// Tells connections apart.
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

    async fn on_frame(&self, peer: &Connection, frame: In) -> Result<(), Error> {
        match frame {
            In::Get(path) => {
                peer.try_send(Out::Page(page(&path)?))?;
                peer.close();
            }
            In::Bad(status) => {
                peer.try_send(Out::Page(plain(status)?))?;
                peer.close();
            }
            In::Open => {
                self.lock().insert(peer.state().0, peer.clone());
                peer.try_send(Out::Flush)?;
            }
            In::Message(Message::Text(text)) => match text.strip_prefix("/all ") {
                Some(text) => self.tell_all(text),
                None => peer.try_send(Out::Message(Message::Text(text)))?,
            },
            In::Message(message) => peer.try_send(Out::Message(message))?,
            In::Ping => peer.try_send(Out::Flush)?,
            In::Pong => {}
            In::Closed => {
                peer.try_send(Out::Flush)?;
                peer.close();
            }
            In::Failed => {
                peer.try_send(Out::Flush)?;
                // Closed with bytes unread, a socket is reset, and the client may never see why.
                let peer = peer.clone();
                tokio::spawn(async move {
                    sleep(CLOSE).await;
                    peer.close();
                });
            }
        }
        Ok(())
    }

    fn on_close(&self, peer: &Connection, _reason: CloseReason) {
        self.lock().remove(&peer.state().0);
    }
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self, text: &str) {
        let frame = encoded(Message::Text(Utf8Bytes::from(text)));
        for peer in self.lock().values() {
            // Who does not take it in time is closed, and leaves the hall in `on_close`.
            if peer.try_send(Out::Encoded(frame.clone())).is_err() {
                peer.close();
            }
        }
    }

    /// Closes all as WebSocket has it, and waits a moment for their answers.
    pub async fn dismiss(&self) {
        for peer in self.lock().values() {
            let _ = peer.try_send(Out::Close(CloseCode::Away, "the server stops"));
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
