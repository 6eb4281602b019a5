//! A WebSocket server: it echoes texts, and sends `/all ...` to every WebSocket.
//!
//! ```text
//! cargo run --release --example websocket
//! ```
//!
//! Open <http://127.0.0.1:7002/> in two windows of a browser.
//!
//! The protocol is a codec (`codec.rs`), written on the library tungstenite. The codec keeps no
//! buffer between messages, so an idle connection is small. With 9,500 connections, each takes 340
//! bytes of resident memory on Linux; 530 after a message to all; 1,300 with `--mode dedicated`.
//! That includes the hall's entry, but not the kernel's memory for the socket.
//!
//! The server's idle deadline is five minutes. A client that sends pings or pongs stays connected.

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
        // The server counts a message in parts as one frame; the codec bounds each part.
        .max_frame_size(4 * codec::FRAME)
        .slow_reader(SlowReader::Close)
        .handle(hall.clone())?;
    common::serve(&server, &args).await?;
    hall.close_all().await;
    common::stop(&server).await;
    Ok(())
}
