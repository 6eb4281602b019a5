//! Two tasks per connection: one reads, the other writes.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::Handler;
use crate::frames::FRAME;

/// Answers that wait for the writer.
const QUEUE: usize = 16;

pub async fn serve(stream: TcpStream, handler: Handler) -> io::Result<()> {
    let (mut reading, writing) = stream.into_split();
    let (answers, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write(writing, queue));
    let mut buffer = vec![0; 4_096];
    let mut filled = 0;
    loop {
        match reading.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        let mut frames = buffer[..filled].chunks_exact(FRAME);
        for frame in &mut frames {
            handler.work().await;
            let frame: [u8; FRAME] = frame.try_into().expect("cut to this length");
            if answers.send(frame).await.is_err() {
                return Ok(());
            }
        }
        let rest = frames.remainder().len();
        buffer.copy_within(filled - rest..filled, 0);
        filled = rest;
    }
}

async fn write(
    mut writing: OwnedWriteHalf,
    mut queue: mpsc::Receiver<[u8; FRAME]>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4_096 / FRAME);
    while queue.recv_many(&mut buffer, 4_096 / FRAME).await > 0 {
        writing.write_all(buffer.as_flattened()).await?;
        buffer.clear();
    }
    Ok(())
}
