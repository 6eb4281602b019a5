//! A WebSocket server: texts are echoed, and `/all ...` is told to everybody.
//!
//! ```text
//! cargo run --release --example websocket
//! ```
//!
//! and <http://127.0.0.1:7002/> in a browser, twice.
//!
//! The protocol is a codec, see `codec.rs`, as it could be for any other protocol and any other
//! library for it.

mod codec;
#[path = "../common/mod.rs"]
mod common;
mod hall;

use millpond::server::{Server, SlowReader};

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let args = common::Args::parse("127.0.0.1:7002", &[]);
    let hall = hall::Hall::default();
    let server = Server::builder()
        .listen(args.listen.as_str())
        .mode(args.mode)
        .codec(codec::WebSocket::default())
        .max_frame(codec::FRAME)
        .slow_reader(SlowReader::Close)
        .handle(hall.clone())?;
    common::serve(&server, &args).await?;
    hall.dismiss().await;
    common::stop(&server).await;
    Ok(())
}
