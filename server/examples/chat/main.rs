//! A chat room: what one says, all others hear, though most of them are silent for hours.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7001                                 # in several terminals
//! cargo run --release --example chat -- --load 5000 # a room full of listeners, and one who talks
//! ```
//!
//! A handler has a [`Connection`](millpond_server::Connection) for each connection, to which
//! anybody may send at any time. In the event-driven mode a listener costs memory alone, no task,
//! and is taken up just for as long as it takes to write what was said. Who does not read what is
//! sent is closed, so that nobody else waits.

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
/// How far behind a reader may fall: some hundred of the longest lines.
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
        // To think of a name. Afterwards one may be silent for ever: the kernel tells who is gone.
        .first_byte_timeout(Duration::from_secs(120))
        .idle_timeout(None)
        .send_buffer(BEHIND)
        .slow_reader(SlowReader::Close);
    if let Some(clients) = load {
        load::check_descriptors(clients)?;
        // The whole crowd has one address.
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
