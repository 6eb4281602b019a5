//! A chat room: each line goes to every connection, and most connections send nothing for hours.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7001                                 # in several terminals
//! cargo run --release --example chat -- --load 5000 # many listeners and one talker
//! ```
//!
//! The handler keeps a [`Connection`](millpond_server::Connection) for each listener, and sends to
//! it at any time. In the event-driven mode a listener has no task; a turn writes each line and
//! ends. A listener that does not read is closed, so that the others need not wait.

#[path = "../common/mod.rs"]
mod common;
mod load;
mod room;

use std::process::ExitCode;
use std::time::Duration;

use millpond_server::{Server, SlowReader};
use tokio_util::codec::LinesCodec;

/// The longest line, in bytes.
const LINE: usize = 1024;
/// The send buffer of a connection: about a hundred of the longest lines.
const BEHIND: usize = 128 * 1024;

#[tokio::main]
async fn main() -> Result<ExitCode, common::Error> {
    let args = common::Args::parse("127.0.0.1:7001", &["--load", "--crowd"]);
    if let Some(clients) = args.number("--crowd") {
        return load::crowd(&args.listen, clients).await;
    }
    let load = args.number("--load");
    let mut server = Server::builder()
        .listen(args.listen.as_str())
        .mode(args.mode)
        .codec(LinesCodec::new_with_max_length(LINE))
        // Time to type a name. Named connections may be idle forever: TCP keep-alive finds dead
        // peers.
        .first_byte_timeout(Duration::from_secs(120))
        .idle_timeout(None)
        .send_buffer(BEHIND)
        .slow_reader(SlowReader::Close);
    if let Some(clients) = load {
        load::check_descriptors(clients)?;
        // All clients of the load have one address.
        server = server.max_connections(clients + 10).max_connections_per_ip(None);
    }
    let server = server.handle(room::Room::default())?;
    let code = match load {
        None => {
            common::serve(&server, &args).await?;
            ExitCode::SUCCESS
        }
        Some(clients) => {
            let address = server.local_addrs().first().ok_or("the load needs a TCP address")?;
            let address = address.to_string();
            tokio::select! {
                served = common::serve(&server, &args) => served.map(|()| ExitCode::SUCCESS)?,
                code = load::run(&address, clients) => code?,
            }
        }
    };
    common::stop(&server).await;
    Ok(code)
}
