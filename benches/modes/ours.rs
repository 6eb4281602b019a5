//! Millpond's own servers, in both of their modes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use millpond_server::http;
use millpond_server::{Listen, Mode, Server};

use crate::arms::{self, Setup};
use crate::frames::{FRAME, Fixed64};

/// The keys of the arms with HTTP.
pub const DEDICATED: &str = "http-dedicated";
pub const EVENT_DRIVEN: &str = "http-event-driven";

/// The keys of the arms with WebSockets.
pub const WS_DEDICATED: &str = "ws-dedicated";
pub const WS_EVENT_DRIVEN: &str = "ws-event-driven";

/// Inside the runtime. `mode` is the key of an arm: dedicated or event-driven.
pub async fn start(mode: &str, setup: Setup) -> io::Result<SocketAddr> {
    let mode = match mode {
        arms::DEDICATED => Mode::Dedicated,
        _ => Mode::EventDriven,
    };
    let handler = setup.handler;
    let echo = move |frame: [u8; FRAME]| async move {
        handler.work().await;
        Ok::<_, Infallible>(Some(frame))
    };
    let server = Server::builder()
        .listen(Listen::from("127.0.0.1:0").backlog(8192))
        .mode(mode)
        .max_connections(setup.connections + 64) // the warm-up's may linger
        .max_connections_per_ip(None)
        .codec(Fixed64)
        .serve(tower::service_fn(echo))
        .map_err(io::Error::other)?;
    let address = server.local_addrs()[0];
    std::mem::forget(server); // it ends with its process
    Ok(address)
}

/// The same with HTTP.
pub async fn start_http(key: &str, setup: Setup, router: Router) -> io::Result<SocketAddr> {
    let mode = match key {
        DEDICATED | WS_DEDICATED => Mode::Dedicated,
        _ => Mode::EventDriven,
    };
    let server = http::Server::builder()
        .listen(Listen::from("127.0.0.1:0").backlog(8192))
        .mode(mode)
        .max_connections(setup.connections + 64)
        .max_connections_per_ip(None)
        .serve(router)
        .map_err(io::Error::other)?;
    let address = server.local_addrs()[0];
    std::mem::forget(server);
    Ok(address)
}
