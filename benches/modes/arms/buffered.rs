//! A task per connection, with a buffer of its own.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Handler;

pub async fn serve(mut stream: TcpStream, handler: Handler) -> io::Result<()> {
    let mut buffer = vec![0; 4_096];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        let whole = handler.work_through(&buffer[..filled]).await;
        stream.write_all(&buffer[..whole]).await?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}
