//! A task per connection that holds next to nothing while it waits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Handler;

const BUFFER: usize = 16 * 1_024;

/// Buffers each thread keeps for the next connection.
const POOLED: usize = 64;

/// Bytes after which it is the others' turn.
const TURN: usize = 64 * 1_024;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

pub async fn serve(mut stream: TcpStream, handler: Handler) -> io::Result<()> {
    let mut partial = Vec::new();
    loop {
        // `readable()` would need a place in the task for its waiter.
        poll_fn(|cx| stream.poll_read_ready(cx)).await?;
        // Boxed, so that the task does not keep room for it while it waits.
        if !Box::pin(active(&mut stream, &mut partial, handler)).await? {
            return Ok(());
        }
    }
}

/// From readable to idle. False if the peer is done.
async fn active(
    stream: &mut TcpStream,
    partial: &mut Vec<u8>,
    handler: Handler,
) -> io::Result<bool> {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop);
    let mut buffer = buffer.take().unwrap_or_else(|| Vec::with_capacity(BUFFER));
    buffer.extend_from_slice(&std::mem::take(partial));
    let open = exchange(stream, &mut buffer, handler).await?;
    if !buffer.is_empty() {
        *partial = buffer.as_slice().into();
        buffer.clear();
    }
    BUFFERS.with_borrow_mut(|pool| {
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    });
    Ok(open)
}

async fn exchange(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    handler: Handler,
) -> io::Result<bool> {
    let mut taken = 0;
    loop {
        let room = buffer.capacity() - buffer.len();
        let Some(read) = read_now(stream, buffer).await else { return Ok(true) };
        let read = read?;
        if read == 0 {
            return Ok(false);
        }
        let whole = handler.work_through(buffer).await;
        stream.write_all(&buffer[..whole]).await?;
        buffer.drain(..whole);
        // tokio takes a short read as the end of what is there: to try once more would only cost.
        if read < room {
            return Ok(true);
        }
        taken += read;
        if taken >= TURN {
            taken = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// None if there is nothing to read.
async fn read_now(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
    let mut read = pin!(stream.read_buf(buffer));
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(Some(read)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
