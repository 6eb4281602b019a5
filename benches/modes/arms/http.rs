//! HTTP servers: the same axum router behind each.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;

use super::{Arm, Handler, Setup, accept, listener};
use crate::ours;
use crate::protocol::Protocol;

pub(super) const AUTO: &str = "auto";
pub const HTTP1: &str = "http1";
pub const AXUM: &str = "axum";

pub const ARMS: [Arm; 5] = [
    Arm {
        key: ours::DEDICATED,
        label: "millpond, dedicated",
        what: "millpond's HTTP server, a task per connection",
        protocol: Protocol::Http,
    },
    Arm {
        key: ours::EVENT_DRIVEN,
        label: "millpond, event-driven",
        what: "millpond's HTTP server, event-driven; idle connections are parked at once",
        protocol: Protocol::Http,
    },
    Arm { key: AXUM, label: "axum::serve", what: "what axum has for it", protocol: Protocol::Http },
    Arm {
        key: AUTO,
        label: "hyper-util, auto",
        what: "hyper-util's server for HTTP/1 and 2, a loop that accepts and a task per connection",
        protocol: Protocol::Http,
    },
    Arm {
        key: HTTP1,
        label: "hyper, HTTP/1",
        what: "hyper's server for HTTP/1 alone, a loop that accepts and a task per connection",
        protocol: Protocol::Http,
    },
];

pub async fn start(key: &str, setup: Setup) -> io::Result<SocketAddr> {
    let router = router(setup.handler);
    match key {
        AXUM => axum(router),
        AUTO => accept(move |stream| auto(stream, router.clone())),
        HTTP1 => accept(move |stream| http1(stream, router.clone())),
        mode => ours::start_http(mode, setup, router).await,
    }
}

fn router(handler: Handler) -> Router {
    let answer = move |Path(id): Path<String>| async move {
        handler.work().await;
        ([(CONTENT_TYPE, "application/json")], format!("{{\"id\":\"{id}\"}}"))
    };
    Router::new().route("/{id}", get(answer))
}

pub(super) fn axum(router: Router) -> io::Result<SocketAddr> {
    let listener = listener()?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn auto(stream: TcpStream, router: Router) -> io::Result<()> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service).await;
    served.map_err(io::Error::other)
}

async fn http1(stream: TcpStream, router: Router) -> io::Result<()> {
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new();
    let served = connection.serve_connection(TokioIo::new(stream), service).await;
    served.map_err(io::Error::other)
}
