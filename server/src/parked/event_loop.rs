//! The event loop: one task for each listener. It delivers the sockets' events to the connection
//! table, and starts workers for the connections that become ready.
//!
//! `Server::start` runs [`event_loop`] as a task of tokio; no user code runs in it. An error of the
//! inner epoll ends the loop, and the server then stops: it closes the connections of all listeners.
//!
//! Without a pool a worker is a task of tokio, so any number of turns may wait for their services.
//!
//! With a pool the loop alternates between two waits. It waits for a worker to be wanted; then it
//! waits for a slot of the pool. During both it goes on to deliver events, because a turn that holds
//! a slot may wait for such an event. While the pool is full, the bytes stay in the kernel's socket
//! buffers.
//!
//! On a runtime of one thread, a loop that always has workers to start would keep tokio from its I/O
//! driver for 61 polls at a time. So the loop of HTTP yields between two rounds of busy workers.
//!
//! The loop's waker is in `State::event_loop` while the loop waits for a worker to be wanted (E3).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mio::event::Event;
use tokio::task::yield_now;

use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::{ListenerConns, State};
use crate::conn::park::{EventConn, key};
use crate::conn::protocol::Protocol;
use crate::conn::rest::{Parked, Rest};
use crate::parked::conn_worker::ConnWorker;
use crate::parked::poller::{InnerPoll, Poller};
use crate::sync::MutexGuard;
use crate::task::Tasks;
use millpond::Pool;

/// Delivers events and starts workers, until the server is killed.
pub(crate) async fn event_loop<P: Protocol>(
    conns: Arc<ListenerConns<P>>,
    inner: InnerPoll,
    pool: Option<Pool>,
    tasks: Option<Arc<Tasks<P>>>,
) -> io::Result<()> {
    let mut poller = Poller::new(inner)?;
    while poll_fn(|cx| poll_worker_wanted(&conns, &mut poller, cx)).await? {
        let worker = ConnWorker::new(&conns).tasks(&tasks).run();
        let Some(pool) = &pool else {
            // Boxed: tokio moves a task's future five times, and aligns its memory to 128 bytes.
            tokio::spawn(Box::pin(worker));
            continue;
        };
        let mut scheduled = pin!(pool.schedule(worker));
        let worker = poll_fn(|cx| match scheduled.as_mut().poll(cx) {
            Poll::Ready(worker) => Poll::Ready(Ok(Some(worker))),
            Poll::Pending => poll_deliver_until_killed(&conns, &mut poller, cx).map_ok(|()| None),
        });
        if let Some(Err(refused)) = worker.await? {
            drop(refused);
            close_ready(&conns);
        }
    }
    Ok(())
}

/// Delivers events until a worker is wanted. Returns `false` if the server was killed.
fn poll_worker_wanted<P: Protocol>(
    conns: &ListenerConns<P>,
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
            // A worker or a sender has woken the loop, so the runtime is busy. A busy runtime polls
            // its I/O driver only after 61 polls of tasks, by default: so the loop polls the inner
            // epoll.
            state.event_loop = Some(cx.waker().clone());
            drop(state);
            state = deliver_events(conns, poller.poll_now()?);
        }
        if conns.is_killed() {
            return Poll::Ready(Ok(false));
        }
        let wants_worker = state.wants_worker();
        if wants_worker && !(P::WARMS_ITSELF && state.takes_break()) {
            return Poll::Ready(Ok(true));
        }
        if wants_worker {
            state.event_loop = Some(cx.waker().clone());
            drop(state);
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        if is_pending {
            state.event_loop = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

/// Delivers events while the loop waits for a slot. Ready when the server is killed.
fn poll_deliver_until_killed<P: Protocol>(
    conns: &ListenerConns<P>,
    poller: &mut Poller,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Poll::Ready(events) = poller.poll_events(cx) {
        drop(deliver_events(conns, events?));
    }
    conns.lock().event_loop = Some(cx.waker().clone());
    // Read after the waker is stored: a kill takes the waker after it has set the flag (E5).
    if conns.is_killed() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

/// Delivers a batch of events under one lock, and wakes the suspended turns that they interest.
/// Returns the lock.
fn deliver_events<'a, P: Protocol>(
    conns: &'a ListenerConns<P>,
    events: &mio::Events,
) -> MutexGuard<'a, State<Rest<P::Idle>>> {
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

/// Closes the ready connections of a pool that is closed: no worker will serve them. Connections
/// that become ready later are closed by a later call.
fn close_ready<P: Protocol>(conns: &Arc<ListenerConns<P>>) {
    loop {
        let next = conns.lock().table.next_ready();
        let Some((key, Rest::Parked(Parked { io, idle, span }), _)) = next else { return };
        let mut conn: EventConn<P> = ConnGuard::new(conns.clone(), (key, span), (io, idle));
        conn.reason = CloseReason::PoolClosed;
        // `on_close` is user code, which must not delay the loop.
        tokio::spawn(async move { drop(conn) });
    }
}

/// Maps an event of the kernel to the table's events.
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
