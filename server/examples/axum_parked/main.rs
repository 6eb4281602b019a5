//! An axum app whose idle keep-alive connections are parked, and a page that shows what they cost.
//!
//! ```text
//! cargo run --release --example axum_parked
//! cargo run --release --example axum_parked -- fill 5000   # in another terminal
//! ```
//!
//! Open <http://127.0.0.1:3001/pond> in a browser before the second command. `--mode dedicated`
//! shows the same page with a task for each connection.
//!
//! The app is any axum app: JSON, a body that streams, an upload, a WebSocket, server-sent events.
//! Its requests go through a pool: beyond the pool's size and queue they are refused at once.

mod app;
mod args;
mod fill;
mod memory;
mod pond;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millpond::Pool;
use millpond_server::BoxError;
use millpond_server::http::Server;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Command, Serve};

/// The time that a shutdown gives to requests under way.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match Args::parse() {
        Command::Serve(settings) => serve(settings).await,
        Command::Fill(settings) => fill::run(settings).await,
    }
}

async fn serve(settings: Serve) -> Result<(), BoxError> {
    // Registered before the server starts, so that no signal is missed.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let room = fill::room();
    let pool = Pool::builder().size(settings.size).queue(4 * settings.size).name("app").build()?;
    let server = Arc::new(OnceLock::new());
    let pond = pond::Pond::new(Arc::clone(&server), pool.clone(), &settings, room);
    let started = Server::builder()
        .listen(settings.listen.as_str())
        .mode(settings.mode)
        .max_connections(room)
        .max_connections_per_ip(None)
        .header_read_timeout(Duration::from_secs(10))
        .body_timeout(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(3600))
        .serve(app::app(&pool, pond.clone()))?;
    let server = server.get_or_init(|| started);
    let address = server.local_addrs()[0];
    // The first requests allocate what all later requests share. The page is not to count that.
    fill::warm_up(address).await?;
    pond.start();
    println!("listening on {address}, {:?}, http://{address}/pond", settings.mode);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    pond.end().await;
    let report = server.shutdown(DRAIN).await;
    let status = pool.status();
    println!(
        "stopped: {} closed, {} cut off, {} left; {} requests completed, {} refused",
        report.closed, report.aborted, report.still_open, status.completed, status.refused
    );
    Ok(())
}
