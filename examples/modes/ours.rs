//! Millpond's own server, in both of its modes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use millpond::server::{Mode, Server};

use crate::arms::Setup;
use crate::frames::Fixed64;

/// Inside the runtime. `mode` is the key of an arm: dedicated, event-driven or coalescing.
pub async fn start(mode: &str, setup: Setup) -> io::Result<SocketAddr> {
    let coalesce = (mode == "coalescing").then_some(Duration::from_micros(500));
    let mode = match mode {
        "dedicated" => Mode::Dedicated,
        _ => Mode::EventDriven,
    };
    let handler = setup.handler;
    let echo = move |frame: BytesMut| async move {
        handler.work().await;
        Ok::<_, Infallible>(Some(frame))
    };
    let server = Server::builder()
        .listen(millpond::server::Listen::from("127.0.0.1:0").backlog(8192))
        .mode(mode)
        .max_connections(setup.connections + 64) // the warm-up's may linger
        .per_peer(None)
        .coalesce(coalesce)
        .codec(Fixed64)
        .serve(tower::service_fn(echo))
        .map_err(io::Error::other)?;
    let address = server.local_addrs()[0];
    std::mem::forget(server); // it ends with its process
    Ok(address)
}
