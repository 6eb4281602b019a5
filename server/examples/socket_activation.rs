//! A server that systemd starts at the first connection, on a socket that systemd holds.
//!
//! ```text
//! # hello.socket                        # hello.service
//! [Socket]                              [Service]
//! ListenStream=3000                     ExecStart=/usr/local/bin/socket_activation
//! ```
//!
//! systemd passes the listening socket as descriptor 3 (`LISTEN_FDS`, `LISTEN_PID`). The socket
//! outlives the process: connections that arrive during a restart wait in the kernel, and none is
//! refused. To try it without a unit:
//!
//! ```text
//! systemd-socket-activate -l 3000 target/release/examples/socket_activation
//! cargo run --release --features http --example socket_activation    # binds a port of its own
//! ```

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use listenfd::ListenFd;
use millpond_server::http::Server;
use millpond_server::{BoxError, Listen};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<(), BoxError> {
    // Before the runtime has threads: the variables are removed from the environment, so that
    // children of this process do not take the socket for theirs.
    let passed = ListenFd::from_env().take_tcp_listener(0)?;
    let (listen, origin) = match passed {
        Some(listener) => (Listen::from(listener), "passed in"),
        None => (Listen::from("127.0.0.1:3000"), "bound here"),
    };
    Runtime::new()?.block_on(serve(listen, origin))
}

async fn serve(listen: Listen, origin: &str) -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let id = std::process::id();
    let app = Router::new().route("/", get(move || async move { format!("hello from {id}\n") }));
    let server = Server::builder().listen(listen).serve(app)?;
    println!("listening on {}, {origin}", server.local_addrs()[0]);

    terminate.recv().await;
    let report = server.shutdown(Duration::from_secs(10)).await;
    println!("{} closed, {} cut off", report.closed, report.aborted);
    Ok(())
}
