//! WebSockets: millpond's own, parked, and axum's, each in a task.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use millpond_server::{BoxError, Connection, ws};

use super::{Arm, Handler, Setup, http};
use crate::ours;
use crate::protocol::Protocol;

pub const AXUM: &str = "ws-axum";

pub const ARMS: [Arm; 3] = [
    Arm {
        key: ours::WS_DEDICATED,
        label: "millpond, dedicated",
        what: "millpond's WebSockets, a task per connection",
        protocol: Protocol::Ws,
    },
    Arm {
        key: ours::WS_EVENT_DRIVEN,
        label: "millpond, event-driven",
        what: "millpond's WebSockets, parked while they are idle",
        protocol: Protocol::Ws,
    },
    Arm {
        key: AXUM,
        label: "axum",
        what: "axum's WebSockets under `axum::serve`, with a read buffer of 4 KiB and no write buffer",
        protocol: Protocol::Ws,
    },
];

/// Echoes messages.
#[derive(Clone, Copy)]
struct Echo(Handler);

impl millpond_server::Handler for Echo {
    type In = ws::Message;
    type Out = ws::Message;
    type State = ();

    async fn on_frame(
        &self,
        to: &Connection<ws::Message>,
        message: ws::Message,
    ) -> Result<(), BoxError> {
        if let ws::Message::Text(_) | ws::Message::Binary(_) = message {
            self.0.work().await;
            to.send(message).await?;
        }
        Ok(())
    }
}

pub async fn start(key: &str, setup: Setup) -> io::Result<SocketAddr> {
    let handler = setup.handler;
    if key != AXUM {
        let parked = move |upgrade: ws::WebSocketUpgrade| async move {
            // As large as axum's.
            let most = 64 << 20;
            let upgrade = upgrade.max_frame_bytes(most).max_message_bytes(most);
            upgrade.on_upgrade(Echo(handler))
        };
        return ours::start_http(key, setup, Router::new().route("/", get(parked))).await;
    }
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        upgrade.read_buffer_size(4096).write_buffer_size(0).on_upgrade(async move |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                handler.work().await;
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    http::axum(Router::new().route("/", get(upgrade)))
}
