//! The event-driven mode: parked connections, an epoll of their own inside of tokio's reactor, and
//! a burst on the pool for each that is ready.
//!
//! Measured against a registration of each socket with tokio (352 heap bytes per idle connection,
//! of which 256 are tokio's), one inner `mio::Poll` needs no memory per connection. It is itself
//! registered with tokio, so no thread is spent on it. Sockets are registered once, edge-triggered,
//! for both directions: nothing is ever re-armed.

#[cfg(target_os = "linux")]
mod gather;
mod source;

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};
use socket2::Socket;

pub(super) use self::source::Inner;

use self::source::Source;
use super::address::Address;
use super::held::Held;
use super::hub::Hub;
use super::io::{Io, Security};
use super::lot::{Key, Order};
use super::peers::Visit;
use super::protocol::{Outcome, Protocol};
use super::reason::CloseReason;
use super::signal::{Signal, Wait};
use super::socket::Quiet;
use super::yard::{Content, Yard};
use crate::error::ScheduleError;
use crate::observe::JobSpan;
use crate::pool::Pool;

/// A connection at rest.
pub(super) struct Parked<I> {
    io: Io<Quiet>,
    idle: I,
    span: JobSpan,
}

impl<I: Send + 'static> Content for Parked<I> {
    const LISTED: bool = true;

    fn wakes(&self, dispatcher: &mut Option<Waker>) -> Option<Waker> {
        dispatcher.take()
    }
}

type EventYard<P> = Yard<P, Parked<<P as Protocol>::Idle>>;
type EventHeld<P> = Held<P, Parked<<P as Protocol>::Idle>, Quiet>;

/// The event-driven connections of one listener.
pub(super) struct EventDriven<P: Protocol> {
    pub(super) yard: Arc<EventYard<P>>,
    registry: Registry,
    security: Security,
}

impl<P: Protocol> EventDriven<P> {
    pub(super) fn new(
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
    pub(super) fn accept(&self, socket: Socket, address: Address, visit: Visit) {
        let key = self.yard.claim(visit);
        let Some(idle) = self.yard.arrive(key, address) else { return };
        let fd = socket.as_raw_fd();
        let io = self.security.wrap(Quiet::new(socket));
        let span = JobSpan::connection(&address);
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

/// Fetches events, and has a job on the pool serve each connection that is ready. No user code
/// runs here. While the pool is full it waits for a slot, and still notes what happens: a burst that
/// holds a slot may wait for just that. The bytes stay in the kernel.
pub(super) async fn dispatch<P: Protocol>(
    yard: Arc<EventYard<P>>,
    inner: Inner,
    pool: Pool,
) -> io::Result<()> {
    let mut source = Source::new(inner, yard.hub.settings.coalesce)?;
    while !yard.is_killed() {
        poll_fn(|cx| poll_signals(&yard, &mut source, cx)).await?;
        // Those that become ready meanwhile come after what is to be fetched: else connections
        // that always want another turn would shut out the others.
        let ready = yard.lock().lot.ready();
        for _ in 0..ready {
            let next = yard.lock().lot.next_ready();
            let Some((key, parked, order)) = next else { break };
            let mut served = pin!(serve(&yard, &pool, key, parked, order));
            poll_fn(|cx| {
                if served.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok::<_, io::Error>(()));
                }
                while let Poll::Ready(events) = source.poll_fetch(cx) {
                    note(&yard, events?);
                }
                Poll::Pending
            })
            .await?;
        }
    }
    Ok(())
}

fn note<P: Protocol>(yard: &EventYard<P>, events: &Events) {
    let mut state = yard.lock();
    for event in events {
        state.tell(key(event.token()), signals(event), P::HEARS);
    }
}

/// Notes what has happened; ready at once if a connection is ready, for whatever reason.
fn poll_signals<P: Protocol>(
    yard: &EventYard<P>,
    source: &mut Source,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let fetched = source.poll_fetch(cx);
        let is_pending = fetched.is_pending();
        if let Poll::Ready(events) = fetched {
            note(yard, events?);
        }
        let mut state = yard.lock();
        if is_pending && !state.lot.is_ready() && !yard.is_killed() {
            state.dispatcher = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.lot.is_ready() || yard.is_killed() {
            return Poll::Ready(Ok(()));
        }
    }
}

fn signals(event: &mio::event::Event) -> Signal {
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

async fn serve<P: Protocol>(
    yard: &Arc<EventYard<P>>,
    pool: &Pool,
    key: Key,
    parked: Parked<P::Idle>,
    order: Order,
) {
    let Parked { mut io, idle, span } = parked;
    if let Some(wire) = io.wire() {
        wire.told(order.signals);
    }
    let mut held: EventHeld<P> = Held::new(yard.clone(), (key, span), (io, idle));
    held.reason = CloseReason::PoolClosed;
    let refused = match yard.schedule(key, pool, turn(held, order)).await {
        None | Some(Ok(_)) => return,
        Some(Err(ScheduleError::Closed(job) | ScheduleError::WouldDeadlock(job))) => job,
    };
    // Its end is user code.
    tokio::spawn(async move { drop(refused) });
}

// An `async fn` would have room for the connection twice.
#[allow(clippy::manual_async_fn)]
fn turn<P: Protocol>(
    mut held: EventHeld<P>,
    order: Order,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        held.reason = CloseReason::Aborted;
        match held.burst(order).await {
            Outcome::Park { wait, moved } => park(held, (wait, moved)),
            Outcome::Close(reason) => held.end(reason),
            Outcome::Panicked(payload) => held.panic(payload),
            #[cfg(feature = "http")]
            Outcome::Left(keep) => held.leave(keep),
        }
    }
}

fn park<P: Protocol>(mut held: EventHeld<P>, wait: (Wait, bool)) {
    if held.yard.is_killed() {
        return;
    }
    let Some((io, idle)) = held.body.take() else { return };
    let span = std::mem::take(&mut held.span);
    let parked = Parked { io, idle, span };
    held.yard.park(held.key, parked, wait, &held.tally);
    // A kill between the two looks has not seen it.
    if held.yard.is_killed() {
        kill(&held.yard);
    }
}

/// Closes all that is parked, and has the bursts under way end.
pub(super) fn kill<P: Protocol>(yard: &Arc<EventYard<P>>) {
    for (key, Parked { io, idle, span }) in yard.evict() {
        drop(EventHeld::<P>::new(yard.clone(), (key, span), (io, idle)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::lot;
    use crate::server::service::Still;

    #[test]
    fn a_parked_connection_is_small() {
        type Plain = Parked<Still<()>>;
        let size = lot::record_size::<Plain>();
        assert!(size <= 56, "{size}");
    }

    #[test]
    fn a_burst_is_small() {
        type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
        type Lines = crate::server::service::Framed<tokio_util::codec::LinesCodec, Service>;
        fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(turn::<Lines>) <= 576, "{}", size(turn::<Lines>));
    }

    #[test]
    fn a_token_is_its_key() {
        let all = Key { index: u32::MAX - 1, generation: u32::MAX };
        for expected in [all, Key { index: 3, generation: 0 }, Key { index: 0, generation: 7 }] {
            assert_eq!(key(token(expected)), expected);
        }
    }
}
