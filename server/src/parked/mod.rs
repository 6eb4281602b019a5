//! The event-driven mode: parked connections, an epoll of their own inside of tokio's reactor, and
//! runners on the pool that serve those that are ready.
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
use mio::{Events, Interest, Registry, Token};
use socket2::Socket;

pub(crate) use crate::parked::poller::Inner;

use crate::accept::address::Address;
use crate::accept::per_ip::Visit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Signal, Wait};
use crate::conn::guard::Held;
use crate::conn::listener_conns::{Content, State, Yard};
use crate::conn::protocol::Protocol;
use crate::conn::server_state::{Hub, Tally};
use crate::conn::table::Key;
use crate::conn::transport::{Io, Security};
use crate::parked::conn_worker::Runner;
use crate::parked::edge_socket::Quiet;
use crate::parked::poller::Source;
use crate::sync::MutexGuard;
use crate::trace::ConnSpan;
use millpond::Pool;

/// A connection at rest.
pub(crate) struct Parked<I> {
    io: Io<Quiet>,
    idle: I,
    span: ConnSpan,
}

impl<I: Send + 'static> Content for Parked<I> {
    const LISTED: bool = true;

    fn waker(&self) -> Option<Waker> {
        None
    }
}

type EventYard<P> = Yard<P, Parked<<P as Protocol>::Idle>>;
type EventHeld<P> = Held<P, Parked<<P as Protocol>::Idle>, Quiet>;

/// The event-driven connections of one listener.
pub(crate) struct EventDriven<P: Protocol> {
    pub(crate) yard: Arc<EventYard<P>>,
    registry: Registry,
    security: Security,
}

impl<P: Protocol> EventDriven<P> {
    pub(crate) fn new(
        hub: Arc<Hub>,
        protocol: Arc<P>,
        security: Security,
    ) -> io::Result<(Self, Inner)> {
        let inner = mio::Poll::new()?;
        let registry = inner.registry().try_clone()?;
        let yard = Arc::new(Yard::new(hub, protocol));
        Ok((Self { yard, registry, security }, Inner(inner)))
    }

    /// Parks a new connection.
    pub(crate) fn accept(&self, socket: Socket, address: Address, visit: Visit) {
        let key = self.yard.claim(visit);
        let Some(idle) = self.yard.arrive(key, address) else { return };
        let fd = socket.as_raw_fd();
        let io = self.security.wrap(Quiet::new(socket));
        let span = ConnSpan::connection(&address);
        let mut held = Held::new(self.yard.clone(), (key, span), (io, idle));
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut SourceFd(&fd), token(key), both).is_err() {
            held.reason = CloseReason::Io;
            return;
        }
        if P::OPENS && self.security.is_plain() {
            self.yard.signal(key, Signal::PUSHED);
        }
        park(held, (Wait::FirstByte, true));
    }
}

fn token(key: Key) -> Token {
    Token((u64::from(key.generation) << 32 | u64::from(key.index)) as usize)
}

fn key(token: Token) -> Key {
    Key { index: token.0 as u32, generation: (token.0 as u64 >> 32) as u32 }
}

/// Fetches events, and has runners on the pool serve the connections that are ready. No user code
/// runs here. While the pool is full it waits for a slot, and still notes what happens: a burst that
/// holds a slot may wait for just that. The bytes stay in the kernel.
pub(crate) async fn dispatch<P: Protocol>(
    yard: Arc<EventYard<P>>,
    inner: Inner,
    pool: Pool,
) -> io::Result<()> {
    let mut source = Source::new(inner)?;
    while poll_fn(|cx| poll_wanted(&yard, &mut source, cx)).await? {
        let mut scheduled = pin!(pool.schedule(Runner::new(&yard).run()));
        let runner = poll_fn(|cx| match scheduled.as_mut().poll(cx) {
            Poll::Ready(runner) => Poll::Ready(Ok(Some(runner))),
            Poll::Pending => poll_killed(&yard, &mut source, cx).map_ok(|()| None),
        });
        match runner.await? {
            Some(Err(refused)) => {
                drop(refused);
                turn_away(&yard);
            }
            Some(Ok(_)) | None => {}
        }
    }
    Ok(())
}

/// Until a runner is wanted; `false` when the server is killed.
fn poll_wanted<P: Protocol>(
    yard: &EventYard<P>,
    source: &mut Source,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    loop {
        let fetched = source.poll_fetch(cx);
        let is_pending = fetched.is_pending();
        let mut state = match fetched {
            Poll::Ready(events) => note(yard, events?),
            Poll::Pending => yard.lock(),
        };
        if is_pending && state.dispatcher.is_none() {
            // A runner has called. A runtime that is that busy asks its reactor rarely: one time in
            // 61 polls of tasks, by default.
            state.dispatcher = Some(cx.waker().clone());
            drop(state);
            state = note(yard, source.look()?);
        }
        if yard.is_killed() {
            return Poll::Ready(Ok(false));
        }
        if state.wants_runner() {
            return Poll::Ready(Ok(true));
        }
        if is_pending {
            state.dispatcher = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

/// Notes what happens until the server is killed.
fn poll_killed<P: Protocol>(
    yard: &EventYard<P>,
    source: &mut Source,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Poll::Ready(events) = source.poll_fetch(cx) {
        drop(note(yard, events?));
    }
    yard.lock().dispatcher = Some(cx.waker().clone());
    // After the registration: whoever kills the server looks there afterwards.
    if yard.is_killed() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

fn note<'a, P: Protocol>(
    yard: &'a EventYard<P>,
    events: &Events,
) -> MutexGuard<'a, State<Parked<P::Idle>>> {
    let mut state = yard.lock();
    let told = |event| state.tell(key(Event::token(event)), signals(event), P::HEARS);
    let wakers: Vec<_> = events.iter().filter_map(told).collect();
    if wakers.is_empty() {
        return state;
    }
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
    yard.lock()
}

/// Closes what is ready, as nobody will serve it any more.
fn turn_away<P: Protocol>(yard: &Arc<EventYard<P>>) {
    loop {
        let next = yard.lock().lot.next_ready();
        let Some((key, Parked { io, idle, span }, _)) = next else { return };
        let mut held: EventHeld<P> = Held::new(yard.clone(), (key, span), (io, idle));
        held.reason = CloseReason::PoolClosed;
        // Its end is user code.
        tokio::spawn(async move { drop(held) });
    }
}

fn signals(event: &Event) -> Signal {
    let mut signals = Signal::NONE;
    if event.is_readable() {
        signals = signals | Signal::READABLE;
    }
    if event.is_writable() {
        signals = signals | Signal::WRITABLE;
    }
    if event.is_read_closed() || event.is_write_closed() || event.is_error() {
        signals = signals | Signal::CLOSING;
    }
    signals
}

fn park<P: Protocol>(held: EventHeld<P>, wait: (Wait, bool)) {
    let yard = held.yard.clone();
    if let Some((key, parked, tally)) = rest(held) {
        yard.park(key, parked, wait, &tally);
    }
    // A kill before that has not seen it.
    if yard.is_killed() {
        kill(&yard);
    }
}

/// What is to be parked of a connection; none of a server that was killed.
fn rest<P: Protocol>(mut held: EventHeld<P>) -> Option<(Key, Parked<P::Idle>, Tally)> {
    if held.yard.is_killed() {
        return None;
    }
    let (io, idle) = held.body.take()?;
    let span = std::mem::take(&mut held.span);
    Some((held.key, Parked { io, idle, span }, held.tally))
}

/// Closes all that is parked, and has the bursts under way end.
pub(crate) fn kill<P: Protocol>(yard: &Arc<EventYard<P>>) {
    for (key, Parked { io, idle, span }) in yard.evict() {
        drop(EventHeld::<P>::new(yard.clone(), (key, span), (io, idle)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::table;
    use crate::framed::service::Still;

    #[test]
    fn a_parked_connection_is_small() {
        type Plain = Parked<Still<()>>;
        let size = table::record_size::<Plain>();
        assert!(size <= 56, "{size}");
    }

    #[test]
    fn a_runner_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines = crate::framed::service::Framed<tokio_util::codec::LinesCodec, Service>;
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(Runner::<Lines>::run) <= 672, "{}", size(Runner::<Lines>::run));
    }

    #[test]
    fn a_token_is_its_key() {
        let all = Key { index: u32::MAX - 1, generation: u32::MAX };
        for expected in [all, Key { index: 3, generation: 0 }, Key { index: 0, generation: 7 }] {
            assert_eq!(key(token(expected)), expected);
        }
    }
}
