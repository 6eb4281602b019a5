//! The overload response: written off the accept path and within a deadline.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::Socket;
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;

use crate::accept::address::Address;
use crate::conn::linger;
use crate::conn::transport::MaybeTls;
use crate::task::tokio_socket::TokioSocket;

/// As many responses are under way at most; connections beyond are closed without one.
const AT_ONCE: usize = 128;
/// Then the connection is closed, whether the peer has read the response or not.
const DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct OverloadResponder {
    response: Option<Bytes>,
    permits: Arc<Semaphore>,
}

impl OverloadResponder {
    pub(crate) fn new(response: Option<Bytes>) -> Self {
        Self { response, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub(crate) fn respond(&self, socket: Socket, address: &Address) {
        let Some(response) = self.response.clone() else { return };
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return };
        let Ok(socket) = TokioSocket::new(socket, address) else { return };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(DEADLINE, write_and_linger(socket, response)).await;
            drop(permit);
        });
    }
}

/// Writes the response, and lingers.
async fn write_and_linger(socket: TokioSocket, mut response: Bytes) -> std::io::Result<()> {
    let mut io = MaybeTls::Plain(socket);
    while !response.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &response)).await?;
        response.advance(written);
    }
    poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await?;
    linger::until_peer_closes(&mut io).await;
    Ok(())
}
