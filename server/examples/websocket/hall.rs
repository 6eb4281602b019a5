//! The open WebSockets, and the messages between them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_server::ws::Message;
use millpond_server::{CloseReason, Handler};

use crate::common::Error;

type Connection = millpond_server::Connection<Message>;

/// The open WebSockets. Clones share them.
#[derive(Clone, Default)]
pub struct Hall(Arc<Mutex<HashSet<Connection>>>);

impl Hall {
    fn lock(&self) -> MutexGuard<'_, HashSet<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_to_all(&self, text: &str) {
        let message = Message::text(text);
        for connection in &*self.lock() {
            // A slow reader is closed; `on_close` then removes it from the hall.
            if connection.try_send(message.clone()).is_err() {
                connection.close();
            }
        }
    }
}

/// The handler of a WebSocket.
pub struct Member(pub Hall);

impl Handler for Member {
    type In = Message;
    type Out = Message;
    type State = ();

    async fn on_open(&self, connection: &Connection) -> Result<(), Error> {
        self.0.lock().insert(connection.clone());
        Ok(())
    }

    async fn on_frame(&self, connection: &Connection, message: Message) -> Result<(), Error> {
        match &message {
            Message::Text(text) => match text.strip_prefix("/all ") {
                Some(text) => self.0.send_to_all(text),
                None => connection.send(message).await?,
            },
            Message::Binary(_) => connection.send(message).await?,
            // The server answers these.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
        }
        Ok(())
    }

    fn on_close(&self, connection: &Connection, _reason: CloseReason) {
        self.0.lock().remove(connection);
    }
}
