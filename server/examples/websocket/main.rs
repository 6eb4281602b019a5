//! A WebSocket server: texts are echoed, and `/all ...` is told to everybody.
//!
//! ```text
//! cargo run --release --example websocket
//! ```
//!
//! and <http://127.0.0.1:7002/> in a browser, twice.
//!
//! The protocol is a codec, see `codec.rs`, as it could be for any other protocol and any other
//! library for it. It keeps no buffers between messages, so an idle connection is small: 9,500 of
//! them made the process larger by 340 bytes each once all had been used, and by 530 after all had
//! been told something at once; 1,300 with `--mode dedicated`. (Resident memory on Linux. The
//! hall's own entry is part of it, what the kernel has for a socket is not.)
//!
//! A client that neither says nor hears anything for five minutes, the server's idle deadline, is
//! closed; a ping or a pong now and then keeps it.

mod codec;
#[path = "../common/mod.rs"]
mod common;
mod hall;

use millpond_server::{Server, SlowReader};

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let args = common::Args::parse("127.0.0.1:7002", &[]);
    let hall = hall::Hall::default();
    let server = Server::builder()
        .listen(args.listen.as_str())
        .mode(args.mode)
        .codec(codec::WebSocket::default())
        // To the server a message is one frame, also in parts; the codec itself is stricter.
        .max_frame_size(4 * codec::FRAME)
        .slow_reader(SlowReader::Close)
        .handle(hall.clone())?;
    common::serve(&server, &args).await?;
    hall.dismiss().await;
    common::stop(&server).await;
    Ok(())
}
