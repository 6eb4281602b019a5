//! A worker of connections: a task, or a job of the user's pool, that serves ready connections, one
//! after another.
//!
//! `event_loop` starts a worker when ready connections have none. One task for each turn would pay
//! its start for each turn; so a worker serves up to `MAX_TURNS` quick turns. It takes the connections from the front of the ready queue, under the lock of
//! `ListenerConns::state`. Turns run without that lock.
//!
//! A turn may be slow, or wait for its service. Then the connections behind it must not wait:
//! - a turn that returns `Pending` *detaches* its worker: the worker ends with that turn, and the
//!   event loop may start another at once;
//! - a turn that blocks its thread is counted as `serving`, so the event loop does not rely on it.
//!
//! The counts that these rules use must stay right if the worker is dropped at any point (E4).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conn::events::ParkReason;
use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::{ListenerConns, State};
use crate::conn::park::{EventConn, into_rest, kill};
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::rest::{Parked, Rest};
use crate::conn::table::ParkedState;
use crate::conn::wait::TurnInput;
use crate::sync::failpoint;
use crate::task::Tasks;

/// A worker ends after this many turns, or after this time. The time is the one that the workers of
/// a pool give to a turn; jobs that wait for the slot are delayed no longer. A busy tokio looks at
/// its I/O driver and its timers after 61 polls, so this time also bounds how late those are.
const MAX_TURNS: u8 = 16;
const MAX_TIME: Duration = Duration::from_micros(100);

/// A worker; counted in the listener's `WorkerCounts` until it is detached or dropped.
pub(crate) struct ConnWorker<P: Protocol> {
    conns: Arc<ListenerConns<P>>,
    tasks: Option<Arc<Tasks<P>>>,
    phase: Phase,
    turns: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Will look for a connection next.
    Searching,
    /// In a turn that has not returned `Pending` yet.
    Serving,
    /// Will look for no other connection.
    Detached,
}

impl<P: Protocol> ConnWorker<P> {
    /// Counts a worker that is going to be started.
    pub(crate) fn new(conns: &Arc<ListenerConns<P>>) -> Self {
        conns.lock().workers.searching += 1;
        Self { conns: conns.clone(), tasks: None, phase: Phase::Searching, turns: 0 }
    }

    /// Gives busy connections tasks of their own.
    pub(crate) fn tasks(mut self, tasks: &Option<Arc<Tasks<P>>>) -> Self {
        self.tasks.clone_from(tasks);
        self
    }

    /// Serves ready connections until the worker is detached, its bounds are reached, or none is
    /// left.
    // An `async fn` stores `self` twice, as the argument and as the local; this stores it once.
    #[allow(clippy::manual_async_fn)]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let began = Instant::now();
            let Some((mut conn, mut input)) = self.next(None, false) else { return };
            loop {
                let outcome = {
                    let mut turn = pin!(conn.serve_turn(input, None));
                    poll_fn(|cx| {
                        let polled = turn.as_mut().poll(cx);
                        if polled.is_pending() {
                            self.detach();
                        }
                        polled
                    })
                    .await
                };
                self.turns += 1;
                // A turn that was cut off has used up the time.
                let cut =
                    matches!(outcome, Outcome::Park { park_reason, .. } if park_reason.is_turn());
                let over = cut || self.turns == MAX_TURNS || began.elapsed() >= MAX_TIME;
                match self.next(Some((conn, outcome, input.is_busy)), over) {
                    Some(next) => (conn, input) = next,
                    None => return,
                }
            }
        }
    }

    /// Parks or ends the connection that was served, then takes the first of the ready queue. Both
    /// happen under one lock. `over` says that the worker takes no other connection.
    fn next(
        &mut self,
        served: Option<(EventConn<P>, Outcome, bool)>,
        over: bool,
    ) -> Option<(EventConn<P>, TurnInput)> {
        let rest = served.and_then(|(conn, outcome, is_busy)| match outcome {
            Outcome::Park { park_reason, moved } => {
                let conn = self.warm_up(conn, (park_reason, moved), is_busy)?;
                Some((into_rest(conn)?, (park_reason, moved)))
            }
            #[cfg(feature = "http")]
            Outcome::Warm => {
                if let Some(tasks) = &self.tasks {
                    tasks.spawn(conn, (ParkReason::Turn, true), None);
                }
                None
            }
            Outcome::Close(reason) => {
                conn.end(reason);
                None
            }
            Outcome::Panicked(payload) => conn.panic(payload),
            #[cfg(feature = "http")]
            Outcome::Detached(detach) => {
                conn.detach(detach);
                None
            }
        });
        let mut state = self.conns.lock();
        if let Some(((key, rest, counters), park_reason)) = rest {
            state.totals.add(&counters);
            state.table.park(key, rest, park_reason, &self.conns.server.settings.ticks);
        }
        set_phase(&mut self.phase, Phase::Searching, &mut state);
        let next =
            if over || self.phase == Phase::Detached { None } else { state.table.next_ready() };
        let phase = if next.is_some() { Phase::Serving } else { Phase::Detached };
        set_phase(&mut self.phase, phase, &mut state);
        state.workers.is_behind |= over && state.table.ready() > 0;
        let waker = state.event_loop_to_wake();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // A kill that ran before the park has not found the connection (E5).
        if self.conns.is_killed() {
            kill(&self.conns);
        }
        let (key, rest, input) = next?;
        let Rest::Parked(Parked { mut io, idle, span }) = rest else { return None };
        if let Some(transport) = io.transport() {
            transport.on_ready(input.events);
        }
        Some((ConnGuard::new(self.conns.clone(), (key, span), (io, idle)), input))
    }

    /// Gives a busy connection that is idle now a task of its own. Gives back any other.
    fn warm_up(
        &self,
        conn: EventConn<P>,
        park_reason: (ParkReason, bool),
        is_busy: bool,
    ) -> Option<EventConn<P>> {
        let is_busy = is_busy && park_reason.0 == ParkReason::Idle && conn.is_plain();
        let Some(tasks) = self.tasks.as_ref().filter(|_| is_busy) else { return Some(conn) };
        let Some(place) = tasks.place() else { return Some(conn) };
        tasks.spawn(conn, (ParkReason::Warm, park_reason.1), Some(place));
        None
    }

    /// Leaves the ready connections to other workers, and wakes the event loop to start one.
    fn detach(&mut self) {
        if self.phase == Phase::Detached {
            return;
        }
        let mut state = self.conns.lock();
        set_phase(&mut self.phase, Phase::Detached, &mut state);
        let waker = state.event_loop_to_wake();
        let waker = waker.filter(|_| !failpoint("a waiting turn holds up the others"));
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<P: Protocol> Drop for ConnWorker<P> {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Changes the phase of a worker, and the counts with it. `Detached` is final.
fn set_phase<T: ParkedState>(phase: &mut Phase, next: Phase, state: &mut State<T>) {
    if *phase == Phase::Detached {
        return;
    }
    let workers = &mut state.workers;
    if *phase == Phase::Serving {
        workers.last_turn_waited = next == Phase::Detached;
    }
    workers.serving -= usize::from(*phase == Phase::Serving);
    workers.serving += usize::from(next == Phase::Serving);
    workers.searching -= usize::from(next == Phase::Detached);
    *phase = next;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::server_state::ServerState;
    use crate::framed::service::lines;
    use crate::settings::Settings;

    #[tokio::test]
    async fn a_dropped_worker_is_not_counted() {
        let conns = Arc::new(ListenerConns::new(
            Arc::new(ServerState::new(Settings::least(), 1, None)),
            Arc::new(lines()),
        ));
        let counts = || {
            let state = conns.lock();
            (state.workers.searching, state.workers.serving)
        };
        let unstarted = ConnWorker::new(&conns).run();
        let mut in_turn = ConnWorker::new(&conns);
        set_phase(&mut in_turn.phase, Phase::Serving, &mut conns.lock());
        assert_eq!(counts(), (2, 1));
        drop(in_turn);
        assert_eq!(counts(), (1, 0));
        drop(unstarted);
        assert_eq!(counts(), (0, 0));
        ConnWorker::new(&conns).run().await;
        assert_eq!(counts(), (0, 0));
        let mut waiting = ConnWorker::new(&conns);
        set_phase(&mut waiting.phase, Phase::Serving, &mut conns.lock());
        waiting.detach();
        assert_eq!(counts(), (0, 0));
        drop(waiting);
        assert_eq!(counts(), (0, 0));
    }
}
