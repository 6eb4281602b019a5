//! The event-driven mode: parked connections, an epoll of their own inside of tokio's reactor, and
//! workers on the pool that serve those that are ready.
//!
//! Measured against a registration of each socket with tokio (352 heap bytes per idle connection,
//! of which 256 are tokio's), one inner `mio::Poll` needs no memory per connection. It is itself
//! registered with tokio, so no thread is spent on it. Sockets are registered once, edge-triggered,
//! for both directions: nothing is ever re-armed.

pub(crate) mod conn_worker;
pub(crate) mod edge_socket;
pub(crate) mod poller;

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Socket;

pub(crate) use crate::parked::poller::InnerPoll;

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::{ListenerConns, ParkedState, State};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::table::ConnKey;
use crate::conn::transport::{MaybeTls, TlsAccept};
use crate::parked::conn_worker::ConnWorker;
use crate::parked::edge_socket::EdgeSocket;
use crate::parked::poller::Poller;
use crate::sync::MutexGuard;
use crate::trace::ConnSpan;
use millpond::Pool;

/// A connection at rest.
pub(crate) struct Parked<I> {
    io: MaybeTls<EdgeSocket>,
    idle: I,
    span: ConnSpan,
}

impl<I: Send + 'static> ParkedState for Parked<I> {
    const USES_READY_QUEUE: bool = true;

    fn waker(&self) -> Option<Waker> {
        None
    }
}

type EventConns<P> = ListenerConns<P, Parked<<P as Protocol>::Idle>>;
type EventConn<P> = ConnGuard<P, Parked<<P as Protocol>::Idle>, EdgeSocket>;

/// The event-driven connections of one listener.
pub(crate) struct EventDriven<P: Protocol> {
    pub(crate) conns: Arc<EventConns<P>>,
    registry: Registry,
    tls: TlsAccept,
}

impl<P: Protocol> EventDriven<P> {
    pub(crate) fn new(
        server: Arc<ServerState>,
        protocol: Arc<P>,
        tls: TlsAccept,
    ) -> io::Result<(Self, InnerPoll)> {
        let inner = mio::Poll::new()?;
        let registry = inner.registry().try_clone()?;
        let conns = Arc::new(ListenerConns::new(server, protocol));
        Ok((Self { conns, registry, tls }, InnerPoll(inner)))
    }

    /// Parks a new connection.
    pub(crate) fn accept(&self, socket: Socket, address: Address, permit: PerIpPermit) {
        let key = self.conns.insert(permit);
        let Some(idle) = self.conns.on_accept(key, address) else { return };
        let fd = socket.as_raw_fd();
        let io = self.tls.wrap(EdgeSocket::new(socket));
        let span = ConnSpan::connection(&address);
        let mut conn = ConnGuard::new(self.conns.clone(), (key, span), (io, idle));
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut SourceFd(&fd), token(key), both).is_err() {
            conn.reason = CloseReason::Io;
            return;
        }
        if P::SERVER_FIRST && self.tls.is_plain() {
            self.conns.deliver(key, Events::PUSHED);
        }
        park(conn, (ParkReason::FirstByte, true));
    }
}

fn token(key: ConnKey) -> Token {
    Token((u64::from(key.generation) << 32 | u64::from(key.index)) as usize)
}

fn key(token: Token) -> ConnKey {
    ConnKey { index: token.0 as u32, generation: (token.0 as u64 >> 32) as u32 }
}

/// Fetches events, and has workers on the pool serve the connections that are ready. No user code
/// runs here. While the pool is full it waits for a slot, and still notes what happens: a turn that
/// holds a slot may wait for just that. The bytes stay in the kernel.
pub(crate) async fn event_loop<P: Protocol>(
    conns: Arc<EventConns<P>>,
    inner: InnerPoll,
    pool: Pool,
) -> io::Result<()> {
    let mut poller = Poller::new(inner)?;
    while poll_fn(|cx| poll_worker_wanted(&conns, &mut poller, cx)).await? {
        let mut scheduled = pin!(pool.schedule(ConnWorker::new(&conns).run()));
        let worker = poll_fn(|cx| match scheduled.as_mut().poll(cx) {
            Poll::Ready(worker) => Poll::Ready(Ok(Some(worker))),
            Poll::Pending => poll_killed(&conns, &mut poller, cx).map_ok(|()| None),
        });
        if let Some(Err(refused)) = worker.await? {
            drop(refused);
            close_ready(&conns);
        }
    }
    Ok(())
}

/// Until a worker is wanted; `false` when the server is killed.
fn poll_worker_wanted<P: Protocol>(
    conns: &EventConns<P>,
    poller: &mut Poller,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    loop {
        let fetched = poller.poll_events(cx);
        let is_pending = fetched.is_pending();
        let mut state = match fetched {
            Poll::Ready(events) => deliver_events(conns, events?),
            Poll::Pending => conns.lock(),
        };
        if is_pending && state.event_loop.is_none() {
            // A worker has called. A runtime that is that busy asks its reactor rarely: one time in
            // 61 polls of tasks, by default.
            state.event_loop = Some(cx.waker().clone());
            drop(state);
            state = deliver_events(conns, poller.poll_now()?);
        }
        if conns.is_killed() {
            return Poll::Ready(Ok(false));
        }
        if state.wants_worker() {
            return Poll::Ready(Ok(true));
        }
        if is_pending {
            state.event_loop = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

/// Notes what happens until the server is killed.
fn poll_killed<P: Protocol>(
    conns: &EventConns<P>,
    poller: &mut Poller,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Poll::Ready(events) = poller.poll_events(cx) {
        drop(deliver_events(conns, events?));
    }
    conns.lock().event_loop = Some(cx.waker().clone());
    // After the registration: whoever kills the server looks there afterwards.
    if conns.is_killed() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

fn deliver_events<'a, P: Protocol>(
    conns: &'a EventConns<P>,
    events: &mio::Events,
) -> MutexGuard<'a, State<Parked<P::Idle>>> {
    let mut state = conns.lock();
    let deliver = |event| state.deliver(key(Event::token(event)), events_of(event), P::INTEREST);
    let wakers: Vec<_> = events.iter().filter_map(deliver).collect();
    if wakers.is_empty() {
        return state;
    }
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
    conns.lock()
}

/// Closes the ready connections: no worker will serve them any more.
fn close_ready<P: Protocol>(conns: &Arc<EventConns<P>>) {
    loop {
        let next = conns.lock().table.next_ready();
        let Some((key, Parked { io, idle, span }, _)) = next else { return };
        let mut conn: EventConn<P> = ConnGuard::new(conns.clone(), (key, span), (io, idle));
        conn.reason = CloseReason::PoolClosed;
        // Its end is user code.
        tokio::spawn(async move { drop(conn) });
    }
}

fn events_of(event: &Event) -> Events {
    let mut events = Events::NONE;
    if event.is_readable() {
        events = events | Events::READABLE;
    }
    if event.is_writable() {
        events = events | Events::WRITABLE;
    }
    if event.is_read_closed() || event.is_write_closed() || event.is_error() {
        events = events | Events::CLOSING;
    }
    events
}

fn park<P: Protocol>(conn: EventConn<P>, park_reason: (ParkReason, bool)) {
    let conns = conn.conns.clone();
    if let Some((key, parked, counters)) = into_parked(conn) {
        conns.park(key, parked, park_reason, &counters);
    }
    // A kill before that has not seen it.
    if conns.is_killed() {
        kill(&conns);
    }
}

/// What is to be parked of a connection; none of a server that was killed.
fn into_parked<P: Protocol>(
    mut conn: EventConn<P>,
) -> Option<(ConnKey, Parked<P::Idle>, Counters)> {
    if conn.conns.is_killed() {
        return None;
    }
    let (io, idle) = conn.body.take()?;
    let span = std::mem::take(&mut conn.span);
    Some((conn.key, Parked { io, idle, span }, conn.counters))
}

/// Closes all that is parked, and has the turns under way end.
pub(crate) fn kill<P: Protocol>(conns: &Arc<EventConns<P>>) {
    for (key, Parked { io, idle, span }) in conns.drain_parked() {
        drop(EventConn::<P>::new(conns.clone(), (key, span), (io, idle)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::table;
    use crate::framed::service::IdleConn;

    #[test]
    fn a_parked_connection_is_small() {
        type Plain = Parked<IdleConn<()>>;
        let size = table::entry_size::<Plain>();
        assert!(size <= 56, "{size}");
    }

    #[test]
    fn a_worker_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines =
            crate::framed::service::ServiceProtocol<tokio_util::codec::LinesCodec, Service>;
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(ConnWorker::<Lines>::run) <= 672, "{}", size(ConnWorker::<Lines>::run));
    }

    #[test]
    fn a_token_is_its_key() {
        let all = ConnKey { index: u32::MAX - 1, generation: u32::MAX };
        for expected in
            [all, ConnKey { index: 3, generation: 0 }, ConnKey { index: 0, generation: 7 }]
        {
            assert_eq!(key(token(expected)), expected);
        }
    }
}
