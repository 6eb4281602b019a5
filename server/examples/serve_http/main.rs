//! An axum app behind servers that a file describes, with certificates that are renewed without a restart.
//!
//! ```text
//! cargo run --release --features http,rustls,serde --example serve_http   # examples/serve_http/serve_http.toml
//! cargo run --release --features http,rustls,serde --example serve_http -- my.toml
//! curl http://127.0.0.1:8080/
//! ```
//!
//! SIGHUP reads the certificates again. Ctrl-c or SIGTERM stops the servers gracefully: requests that are
//! on their way are answered.

use std::error::Error;

use axum::Router;
use axum::routing::get;
use futures_util::future::join_all;
use millpond_server::ServerConfig;
use millpond_server::http::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const DEFAULT: &str = "examples/serve_http/serve_http.toml";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A shell's limit of 1,024 descriptors would mean 512 connections.
    millpond_server::raise_descriptor_limit()?;
    // rustls leaves the choice to the program; `aws_lc_rs` is the other provider.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let path = std::env::args().nth(1).unwrap_or(DEFAULT.into());
    let config: ServerConfig = toml::from_str(&std::fs::read_to_string(&path)?)?;

    let app = Router::new().route("/", get(|| async { "hello from a file\n" }));
    let token = CancellationToken::new();
    let mut servers = Vec::new();
    for entry in config.servers() {
        let server = entry.http()?.shutdown_token(token.clone()).serve(app.clone())?;
        println!("listening on {}, {}", server.local_addrs()[0], entry.name());
        servers.push(server);
    }

    let mut renew = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = renew.recv() => reload(&config, &servers),
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    token.cancel();
    for (entry, report) in
        config.servers().iter().zip(join_all(servers.iter().map(Server::wait)).await)
    {
        println!("{}: {} closed, {} cut off", entry.name(), report.closed, report.aborted);
    }
    Ok(())
}

/// Gives the servers the certificates that the files have now. A file that cannot be used changes nothing.
fn reload(config: &ServerConfig, servers: &[Server]) {
    for (entry, server) in config.servers().iter().zip(servers) {
        match entry.tls() {
            Ok(None) => {}
            Ok(Some(tls)) => match server.reload_tls(tls) {
                Ok(()) => println!("{}: new certificates", entry.name()),
                Err(error) => eprintln!("{}: {error}", entry.name()),
            },
            Err(error) => eprintln!("{}: {error}", entry.name()),
        }
    }
}
