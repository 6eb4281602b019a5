//! A WebSocket server beside an axum app: it echoes texts, and sends `/all ...` to every WebSocket.
//!
//! ```text
//! cargo run --release --example websocket
//! ```
//!
//! Open <http://127.0.0.1:7002/> in two windows of a browser.
//!
//! `hall.rs` handles the messages. An idle WebSocket is parked: it has no task and no buffer.

#[path = "../common/mod.rs"]
mod common;
mod hall;

use axum::Router;
use axum::response::{Html, Response};
use axum::routing::{any, get};
use millpond_server::http::Server;
use millpond_server::ws::WebSocketUpgrade;

use crate::hall::{Hall, Member};

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let args = common::Args::parse("127.0.0.1:7002", &[]);
    let hall = Hall::default();
    let enter = async move |upgrade: WebSocketUpgrade| -> Response {
        // Each WebSocket has a handler of its own, which may know what the request has told.
        upgrade.on_upgrade(Member(hall))
    };
    let app = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/ws", any(enter));
    let server = Server::builder()
        .listen(args.listen.as_str())
        .mode(args.mode)
        .max_header_size(8 * 1024)
        .serve(app)?;
    common::serve(&server, &args).await?;
    // Each WebSocket is told that the server goes away.
    common::stop(&server).await;
    Ok(())
}
