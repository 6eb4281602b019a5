//! The dedicated mode: a task for each connection, which holds no buffer while it waits.

use std::io;
use std::mem::{replace, take};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::accept::address::Address;
use crate::accept::per_ip::Visit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Signal, Wait};
use crate::conn::guard::Held;
use crate::conn::listener_conns::{Content, Yard};
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::server_state::Hub;
use crate::conn::table::{Order, Signalled};
use crate::conn::transport::{Security, Wire};
use crate::parked::edge_socket;
use crate::trace::ConnSpan;
use millpond::Pool;

/// The task of a connection that waits.
pub(crate) struct Sleeper(Waker);

impl Content for Sleeper {
    const LISTED: bool = false;

    fn waker(&self) -> Option<Waker> {
        Some(self.0.clone())
    }
}

type TaskHeld<P> = Held<P, Sleeper, Net>;

/// The dedicated connections of one listener.
pub(crate) struct Dedicated<P: Protocol> {
    pub(crate) yard: Arc<Yard<P, Sleeper>>,
    security: Security,
    /// Bounds the bursts, if there is one.
    pool: Option<Pool>,
}

impl<P: Protocol> Dedicated<P> {
    pub(crate) fn new(
        hub: Arc<Hub>,
        protocol: Arc<P>,
        security: Security,
        pool: Option<Pool>,
    ) -> Self {
        Self { yard: Arc::new(Yard::new(hub, protocol)), security, pool }
    }

    pub(crate) fn accept(&self, socket: Socket, address: Address, visit: Visit) {
        let net = match Net::new(socket, &address) {
            Ok(net) => net,
            Err(_) => return self.yard.hub.left(visit, CloseReason::Io),
        };
        let key = self.yard.claim(visit);
        let Some(idle) = self.yard.arrive(key, address) else { return };
        let io = self.security.wrap(net);
        let span = ConnSpan::connection(&address);
        let held: TaskHeld<P> = Held::new(self.yard.clone(), (key, span), (io, idle));
        if P::OPENS && self.security.is_plain() {
            self.yard.signal(key, Signal::PUSHED);
        }
        let phase = Phase::Idle { held, wait: (Wait::FirstByte, true), rest: Rest::Awake };
        tokio::spawn(Connection { phase, pool: self.pool.clone() });
    }
}

type Bursting<P> = dyn Future<Output = Option<(TaskHeld<P>, Outcome)>> + Send;

/// A connection's task. By hand, for a task that waits to be as small as what it must remember.
struct Connection<P: Protocol> {
    phase: Phase<P>,
    pool: Option<Pool>,
}

enum Phase<P: Protocol> {
    Idle { held: TaskHeld<P>, wait: (Wait, bool), rest: Rest },
    Bursting(Pin<Box<Bursting<P>>>),
    Ended,
}

/// How far a task is in coming to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Awake,
    Parked,
    /// Its peer must take bytes first.
    ParkedBlocked,
}

impl<P: Protocol> Unpin for Connection<P> {}

impl<P: Protocol> Future for Connection<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Idle { held, wait, rest } => {
                    let order = ready!(poll_order(held, *wait, rest, cx));
                    let Phase::Idle { mut held, .. } = replace(&mut this.phase, Phase::Ended)
                    else {
                        return Poll::Ready(());
                    };
                    let Some(order) = order else { return Poll::Ready(()) };
                    if let Some(net) = held.body.as_mut().and_then(|(io, _)| io.wire()) {
                        net.ask(order.asks());
                    }
                    this.phase = Phase::Bursting(match &this.pool {
                        None => Box::pin(burst(held, order)),
                        Some(pool) => Box::pin(burst_on(pool.clone(), held, order)),
                    });
                }
                Phase::Bursting(burst) => {
                    let ended = ready!(burst.as_mut().poll(cx));
                    this.phase = Phase::Ended;
                    match ended {
                        Some((held, Outcome::Park { wait, moved })) => {
                            let wait = (wait, moved);
                            this.phase = Phase::Idle { held, wait, rest: Rest::Awake };
                            if wait.0 == Wait::Turn {
                                cx.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                        }
                        Some((held, Outcome::Close(reason))) => held.end(reason),
                        Some((held, Outcome::Panicked(payload))) => held.panic(payload),
                        #[cfg(feature = "http")]
                        Some((held, Outcome::Left(keep))) => held.leave(keep),
                        None => {}
                    }
                }
                Phase::Ended => return Poll::Ready(()),
            }
        }
    }
}

async fn burst<P: Protocol>(mut held: TaskHeld<P>, order: Order) -> Option<(TaskHeld<P>, Outcome)> {
    let outcome = held.burst(order).await;
    Some((held, outcome))
}

/// As a job: a slot is taken while user code runs, and no longer.
async fn burst_on<P: Protocol>(
    pool: Pool,
    mut held: TaskHeld<P>,
    order: Order,
) -> Option<(TaskHeld<P>, Outcome)> {
    held.reason = CloseReason::PoolClosed;
    let (yard, key) = (held.yard.clone(), held.key);
    let job = async move {
        held.reason = CloseReason::Aborted;
        match burst(held, order).await {
            // The job's panic, as far as the pool is concerned.
            Some((held, Outcome::Panicked(payload))) => held.panic(payload),
            ended => ended,
        }
    };
    yard.schedule(key, &pool, job).await?.ok()?.await.ok()?
}

/// Until something is to be done; none if the server is at an end.
fn poll_order<P: Protocol>(
    held: &mut TaskHeld<P>,
    wait: (Wait, bool),
    rest: &mut Rest,
    cx: &mut Context<'_>,
) -> Poll<Option<Order>> {
    let Held { yard, key, body, tally, .. } = held;
    let (yard, key) = (&**yard, *key);
    // Where others have the socket, they hear of it, and send signals.
    let mut net = body.as_mut().and_then(|(io, _)| io.wire());
    if yard.is_killed() {
        return Poll::Ready(None);
    }
    let mut looks = true;
    if *rest == Rest::Awake {
        let sleeper = Sleeper(cx.waker().clone());
        if yard.park(key, sleeper, wait, &take(tally)) != Signalled::Noted {
            return Poll::Ready(yard.take(key, true));
        }
        // A kill between the two looks has found nobody to wake.
        if yard.is_killed() {
            return Poll::Ready(None);
        }
        // A handshake may wait for either; it does for this one if its last write would block.
        let blocked = match (wait.0, &mut net) {
            (Wait::Write, _) => true,
            (Wait::Handshake, Some(net)) => net.poll_write_ready(cx).is_pending(),
            _ => false,
        };
        *rest = if blocked { Rest::ParkedBlocked } else { Rest::Parked };
        // Signals wake it from now on.
        looks = false;
    }
    let is_ready = net.is_some_and(|net| {
        wait.0 != Wait::Write && net.poll_read_ready(cx).is_ready()
            || *rest == Rest::ParkedBlocked && net.poll_write_ready(cx).is_ready()
    });
    if is_ready {
        return Poll::Ready(yard.take(key, true));
    }
    match looks.then(|| yard.take(key, false)).flatten() {
        Some(order) => Poll::Ready(Some(order)),
        None => Poll::Pending,
    }
}

/// Closes what waits, and has the bursts under way end.
pub(crate) fn kill<P: Protocol>(yard: &Yard<P, Sleeper>) {
    for (_, Sleeper(waker)) in yard.evict() {
        waker.wake();
    }
}

/// A socket registered with tokio.
pub(crate) struct Net {
    stream: Stream,
    /// Tokio hears of bytes a while after they have come, and of little room not at all: before a
    /// connection is closed, the socket itself is asked.
    asked: bool,
    took: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Net {
    pub(crate) fn new(socket: Socket, address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp(_) => Stream::Tcp(TcpStream::from_std(socket.into())?),
            Address::Unix => Stream::Unix(UnixStream::from_std(socket.into())?),
        };
        Ok(Self { stream, asked: false, took: false })
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
        }
    }
}

impl Wire for Net {
    fn ask(&mut self, asked: bool) {
        self.asked = asked;
    }

    fn took(&mut self) -> bool {
        take(&mut self.took)
    }

    #[cfg(feature = "http")]
    const ARMS: bool = true;

    #[cfg(feature = "http")]
    fn peer(&self) -> io::Result<Address> {
        Address::of(self.socket().peer_addr()?)
    }
}

impl AsyncRead for Net {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if this.asked && polled.is_pending() {
            return edge_socket::read(&this.socket(), buffer);
        }
        polled
    }
}

impl AsyncWrite for Net {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut polled = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if this.asked && polled.is_pending() {
            polled = edge_socket::write(&this.socket(), bytes);
        }
        this.took |= matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framed::service::Framed;

    #[test]
    fn a_task_that_waits_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines = Framed<tokio_util::codec::LinesCodec, Service>;
        let size = size_of::<Connection<Lines>>() - size_of::<tokio_util::codec::LinesCodec>();
        assert!(size <= 160, "{size}");
    }
}
