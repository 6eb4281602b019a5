//! A task per connection, around a codec.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use super::Handler;
use crate::frames::{FRAME, Fixed64};

pub async fn serve(stream: TcpStream, handler: Handler) -> io::Result<()> {
    let mut framed = Framed::new(stream, Fixed64);
    while let Some(frame) = framed.next().await {
        answer(&mut framed, frame?, handler).await?;
        // To flush each answer of a pipeline would be one system call each.
        while let Some(next) = already_there(&mut framed).await {
            match next {
                Some(frame) => answer(&mut framed, frame?, handler).await?,
                None => return framed.flush().await,
            }
        }
        framed.flush().await?;
    }
    Ok(())
}

async fn answer(
    framed: &mut Framed<TcpStream, Fixed64>,
    frame: [u8; FRAME],
    handler: Handler,
) -> io::Result<()> {
    handler.work().await;
    framed.feed(frame).await
}

/// None if it would have to wait; no system call, unless the last read filled the buffer.
async fn already_there(
    framed: &mut Framed<TcpStream, Fixed64>,
) -> Option<Option<io::Result<[u8; FRAME]>>> {
    poll_fn(|cx| match framed.poll_next_unpin(cx) {
        Poll::Ready(next) => Poll::Ready(Some(next)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
