//! The overload response: written off the accept path, within a deadline.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::accept::address::Address;
use crate::conn::linger;

/// The most responses of a listener that are under way. Beyond them, a refused connection is closed
/// without a response (A5).
const MAX_RESPONSES: usize = 128;
/// After this time the connection is closed, even if the peer has not read the response.
const DEADLINE: Duration = Duration::from_secs(1);

pub(super) struct OverloadResponder {
    response: Option<Bytes>,
    permits: Arc<Semaphore>,
}

impl OverloadResponder {
    pub(super) fn new(response: Option<Bytes>) -> Self {
        Self { response, permits: Arc::new(Semaphore::new(MAX_RESPONSES)) }
    }

    /// Spawns a task that sends the response on a refused connection. Without a response or a
    /// permit, closes the connection at once.
    pub(super) fn respond(&self, socket: Socket, address: &Address) {
        let Some(response) = self.response.clone() else { return };
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return };
        match address {
            Address::Tcp(_) => spawn_response(TcpStream::from_std(socket.into()), response, permit),
            Address::Unix => spawn_response(UnixStream::from_std(socket.into()), response, permit),
        }
    }
}

fn spawn_response<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: io::Result<S>,
    response: Bytes,
    permit: OwnedSemaphorePermit,
) {
    let Ok(stream) = stream else { return };
    tokio::spawn(async move {
        let _ = tokio::time::timeout(DEADLINE, write_and_linger(stream, response)).await;
        drop(permit);
    });
}

/// Writes the response, ends the server's side and lingers, so that the peer receives the response.
async fn write_and_linger(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut response: Bytes,
) -> io::Result<()> {
    while !response.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &response)).await?;
        response.advance(written);
    }
    poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
    linger::until_peer_closes(&mut stream).await;
    Ok(())
}
