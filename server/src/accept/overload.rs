//! Saying no, off the accept path and within a deadline.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use crate::accept::address::Address;
use crate::task::Net;

/// So many are told no at a time; those beyond are closed without a word.
const AT_ONCE: usize = 128;
/// Then the connection is closed, whether the peer has read the answer or not.
const DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct Refuser {
    answer: Option<Bytes>,
    places: Arc<Semaphore>,
}

impl Refuser {
    pub(crate) fn new(answer: Option<Bytes>) -> Self {
        Self { answer, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub(crate) fn refuse(&self, socket: Socket, address: &Address) {
        let Some(answer) = self.answer.clone() else { return };
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        let Ok(net) = Net::new(socket, address) else { return };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(DEADLINE, farewell(net, answer)).await;
            drop(place);
        });
    }
}

/// Writes the answer and waits for the peer to go: closed with bytes unread, the kernel would
/// reset the connection, and the peer might lose the answer.
async fn farewell(mut net: Net, mut answer: Bytes) -> std::io::Result<()> {
    while !answer.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut net).poll_write(cx, &answer)).await?;
        answer.advance(written);
    }
    poll_fn(|cx| Pin::new(&mut net).poll_shutdown(cx)).await?;
    let mut scrap = [0; 1024];
    loop {
        let mut scrap = ReadBuf::new(&mut scrap);
        poll_fn(|cx| Pin::new(&mut net).poll_read(cx, &mut scrap)).await?;
        if scrap.filled().is_empty() {
            return Ok(());
        }
    }
}
