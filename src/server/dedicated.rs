//! The dedicated mode: a task for each connection, which holds no buffer while it waits.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use super::framed::{Outcome, Protocol};
use super::held::Held;
use super::hub::Hub;
use super::io::Security;
use super::lot::{Order, Signalled};
use super::peers::Visit;
use super::reason::CloseReason;
use super::signal::{Signal, Wait};
use super::yard::{Content, Yard};
use crate::observe::JobSpan;
use crate::pool::Pool;

/// The task of a connection that waits.
pub(super) struct Sleeper(Waker);

impl Content for Sleeper {
    fn wakes(&self, _dispatcher: &mut Option<Waker>) -> Option<Waker> {
        Some(self.0.clone())
    }
}

type TaskHeld<P> = Held<P, Sleeper, Net>;

/// The dedicated connections of one listener.
pub(super) struct Dedicated<P: Protocol> {
    pub(super) yard: Arc<Yard<P, Sleeper>>,
    security: Security,
    /// Bounds the bursts, if there is one.
    pool: Option<Pool>,
}

impl<P: Protocol> Dedicated<P> {
    pub(super) fn new(
        hub: Arc<Hub>,
        protocol: Arc<P>,
        security: Security,
        pool: Option<Pool>,
    ) -> Self {
        Self { yard: Arc::new(Yard::new(hub, protocol)), security, pool }
    }

    pub(super) fn accept(&self, socket: Socket, address: Address, visit: Visit) {
        let net = match Net::new(socket, &address) {
            Ok(net) => net,
            Err(_) => return self.yard.hub.left(visit, CloseReason::Io),
        };
        let key = self.yard.claim();
        let idle = self.yard.protocol.arrive(address, self.yard.nudge(key));
        let io = self.security.wrap(net);
        let span = JobSpan::connection(&address);
        let held: TaskHeld<P> = Held::new(self.yard.clone(), (key, visit, span), (io, idle));
        if P::OPENS && self.security.is_plain() {
            self.yard.signal(key, Signal::PUSHED);
        }
        tokio::spawn(connection(held, self.pool.clone()));
    }
}

async fn connection<P: Protocol>(mut held: TaskHeld<P>, pool: Option<Pool>) {
    let mut wait = (Wait::FirstByte, true);
    loop {
        let Some(order) = idle(&mut held, wait).await else { return };
        // Boxed, so that a task that waits is small.
        let outcome = match &pool {
            None => Box::pin(held.burst(order)).await,
            Some(pool) => match Box::pin(pooled(held, order, pool)).await {
                Some((back, outcome)) => {
                    held = back;
                    outcome
                }
                None => return,
            },
        };
        match outcome {
            Outcome::Park { wait: Wait::Turn, .. } => {
                tokio::task::yield_now().await;
                wait = (Wait::Turn, true);
            }
            Outcome::Park { wait: next, moved } => wait = (next, moved),
            Outcome::Close(reason) => {
                held.reason = reason;
                return;
            }
        }
    }
}

/// A burst as a job: its slot is taken while user code runs, and no longer.
async fn pooled<P: Protocol>(
    mut held: TaskHeld<P>,
    order: Order,
    pool: &Pool,
) -> Option<(TaskHeld<P>, Outcome)> {
    held.reason = CloseReason::PoolClosed;
    let job = async move {
        held.reason = CloseReason::Aborted;
        let outcome = held.burst(order).await;
        (held, outcome)
    };
    pool.schedule(job).await.ok()?.await.ok()
}

/// Until something is to be done; none if the server is at an end.
async fn idle<P: Protocol>(held: &mut TaskHeld<P>, wait: (Wait, bool)) -> Option<Order> {
    let Held { yard, key, body, tally, .. } = held;
    let (yard, key) = (&**yard, *key);
    let net = body.as_mut()?.0.wire()?;
    let mut parked = false;
    let order = poll_fn(|cx| {
        if yard.is_killed() {
            return Poll::Ready(None);
        }
        if !parked {
            parked = true;
            let sleeper = Sleeper(cx.waker().clone());
            let signalled = yard.park(key, sleeper, wait, &std::mem::take(tally));
            if signalled != Signalled::Noted {
                return Poll::Ready(yard.take(key, true));
            }
        }
        let readable = match wait.0 {
            Wait::Write => false,
            _ => net.poll_read_ready(cx).is_ready(),
        };
        let writable = match wait.0 {
            Wait::Write | Wait::Handshake => net.poll_write_ready(cx).is_ready(),
            _ => false,
        };
        if readable || writable {
            return Poll::Ready(yard.take(key, true));
        }
        match yard.take(key, false) {
            Some(order) => Poll::Ready(Some(order)),
            None => Poll::Pending,
        }
    });
    order.await
}

/// Closes what waits, and has the bursts under way end.
pub(super) fn kill<P: Protocol>(yard: &Yard<P, Sleeper>) {
    for (_, Sleeper(waker)) in yard.evict() {
        waker.wake();
    }
}

/// A socket registered with tokio.
pub(super) enum Net {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Net {
    pub(super) fn new(socket: Socket, address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(_) => Self::Tcp(TcpStream::from_std(socket.into())?),
            Address::Unix => Self::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }
}

impl AsyncRead for Net {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Net {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
