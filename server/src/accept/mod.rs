//! The accept loop: nothing ends it but the server's end, and nothing makes it spin.

pub(crate) mod address;
pub(crate) mod listen;
pub(crate) mod overload;
pub(crate) mod per_ip;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::accept::address::Address;
use crate::accept::listen::Listener;
use crate::accept::overload::OverloadResponder;
use crate::conn::protocol::Protocol;
use crate::conn::server_state::ServerState;
use crate::parked::EventDriven;
use crate::task::Dedicated;
use crate::trace::event;

/// So many are accepted before others have their turn on this thread.
const BATCH: usize = 64;
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Where accepted connections go.
pub(crate) enum ConnHandler<P: Protocol> {
    Dedicated(Dedicated<P>),
    EventDriven(EventDriven<P>),
}

pub(crate) async fn accept<P: Protocol>(
    listener: AsyncFd<Listener>,
    handler: ConnHandler<P>,
    server: Arc<ServerState>,
    overload_response: Option<Bytes>,
) {
    let responder = OverloadResponder::new(overload_response);
    let mut back_off = BACK_OFF.0;
    let mut batch = 0;
    loop {
        let Ok(mut ready) = listener.readable().await else { return };
        match ready.try_io(|listener| listener.get_ref().accept()) {
            Err(_would_block) => batch = 0,
            Ok(Ok((socket, address))) => {
                back_off = BACK_OFF.0;
                admit(&handler, &server, &responder, socket, address);
                batch += 1;
                if batch == BATCH {
                    batch = 0;
                    tokio::task::yield_now().await;
                }
            }
            // The connection that failed is gone from the kernel's queue; the next one may be well.
            Ok(Err(error)) if is_of_one_connection(&error) => {
                server.accept_errors.fetch_add(1, Relaxed);
            }
            // Out of descriptors or memory: it stays in the queue, and would be told of at once.
            Ok(Err(error)) => {
                server.accept_errors.fetch_add(1, Relaxed);
                event!(WARN, %error, pause = ?back_off, "accepting failed");
                drop(error);
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
    }
}

fn admit<P: Protocol>(
    handler: &ConnHandler<P>,
    server: &ServerState,
    responder: &OverloadResponder,
    socket: Socket,
    address: Address,
) {
    match server.admit(&address) {
        None => responder.respond(socket, &address),
        Some(permit) => match handler {
            ConnHandler::Dedicated(handler) => handler.accept(socket, address, permit),
            ConnHandler::EventDriven(handler) => handler.accept(socket, address, permit),
        },
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

/// Registers `inner` with tokio's reactor for reading. It must give the same open descriptor as
/// long as it lives, as everything does that owns one.
// Its replacement asks for that promise by being unsafe, which this module does without.
#[allow(deprecated)]
pub(crate) fn async_fd<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}
