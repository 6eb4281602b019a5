//! A worker of connections: a job that serves ready connections, one after another.
//!
//! A job for each turn would have each pay for its way through the pool. A worker has its slot
//! for no longer than a few quick turns, or one slow one; others of the pool have their turn then,
//! and the event loop sends another if connections are ready. So it does for the connections behind
//! a turn that is slow, and behind one that waits: its worker stays with that, and looks for no
//! other.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conn::guard::ConnGuard;
use crate::conn::listener_conns::State;
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::table::TurnInput;
use crate::parked::{EventConn, EventConns, Parked, into_parked, kill};

/// As long as a turn of a worker of the pool.
const MAX_TURNS: u32 = 16;
const MAX_TIME: Duration = Duration::from_micros(100);

/// Counts in the listener's `WorkerCounts`, until it is dropped.
pub(crate) struct ConnWorker<P: Protocol> {
    conns: Arc<EventConns<P>>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// About to look for a connection.
    Searching,
    /// In a turn that has not waited yet.
    Serving,
    /// Will not look for another.
    Detached,
}

impl<P: Protocol> ConnWorker<P> {
    /// One that is going to be scheduled.
    pub(crate) fn new(conns: &Arc<EventConns<P>>) -> Self {
        conns.lock().workers.searching += 1;
        Self { conns: conns.clone(), phase: Phase::Searching }
    }

    // An `async fn` would have room for it twice.
    #[allow(clippy::manual_async_fn)]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let began = Instant::now();
            let mut turns = 0;
            let Some((mut conn, mut input)) = self.next(None, false) else { return };
            loop {
                let outcome = {
                    let mut turn = pin!(conn.serve_turn(input));
                    poll_fn(|cx| {
                        let polled = turn.as_mut().poll(cx);
                        if polled.is_pending() {
                            self.detach();
                        }
                        polled
                    })
                    .await
                };
                turns += 1;
                let over = turns == MAX_TURNS || began.elapsed() >= MAX_TIME;
                match self.next(Some((conn, outcome)), over) {
                    Some(next) => (conn, input) = next,
                    None => return,
                }
            }
        }
    }

    /// Puts to rest what was served, and takes up the connection that has been ready for longest.
    fn next(
        &mut self,
        served: Option<(EventConn<P>, Outcome)>,
        over: bool,
    ) -> Option<(EventConn<P>, TurnInput)> {
        let parked = served.and_then(|(conn, outcome)| match outcome {
            Outcome::Park { park_reason, moved } => {
                Some((into_parked(conn)?, (park_reason, moved)))
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
        if let Some(((key, parked, counters), park_reason)) = parked {
            state.totals.add(&counters);
            state.table.park(key, parked, park_reason, &self.conns.server.settings.ticks);
        }
        set_phase(&mut self.phase, Phase::Searching, &mut state);
        let next =
            if over || self.phase == Phase::Detached { None } else { state.table.next_ready() };
        let phase = if next.is_some() { Phase::Serving } else { Phase::Detached };
        set_phase(&mut self.phase, phase, &mut state);
        let waker = state.event_loop_to_wake();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // A kill before it was parked has not seen it.
        if self.conns.is_killed() {
            kill(&self.conns);
        }
        let (key, Parked { mut io, idle, span }, input) = next?;
        if let Some(transport) = io.transport() {
            transport.on_ready(input.events);
        }
        Some((ConnGuard::new(self.conns.clone(), (key, span), (io, idle)), input))
    }

    /// Leaves the other connections to other workers.
    fn detach(&mut self) {
        if self.phase == Phase::Detached {
            return;
        }
        let mut state = self.conns.lock();
        set_phase(&mut self.phase, Phase::Detached, &mut state);
        let waker = state.event_loop_to_wake();
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

/// Changes the phase of a worker, and the counts with it. A worker that is detached stays so.
fn set_phase<T>(phase: &mut Phase, next: Phase, state: &mut State<T>) {
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
    use crate::conn::listener_conns::ListenerConns;
    use crate::conn::server_state::ServerState;
    use crate::framed::service::ServiceProtocol;
    use crate::settings::{Deadlines, Settings, SlowReader, Ticks};

    type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
    type Lines = ServiceProtocol<tokio_util::codec::LinesCodec, Service>;

    #[tokio::test]
    async fn its_place_is_given_back() {
        let settings = Settings {
            max_frame_size: 1,
            read_budget_bytes: 1,
            read_budget_frames: 1,
            send_buffer: 1,
            send_buffer_total: 1,
            slow_reader: SlowReader::Wait,
            ticks: Ticks::new(&Deadlines::default()),
        };
        let service = tower::service_fn(|line: String| async { Ok(vec![line]) });
        let protocol = Lines { codec: Default::default(), service: Service::new(service) };
        let conns = Arc::new(ListenerConns::new(
            Arc::new(ServerState::new(settings, 1, None)),
            Arc::new(protocol),
        ));
        let counts = || {
            let state = conns.lock();
            (state.workers.searching, state.workers.serving)
        };
        let unstarted = ConnWorker::new(&conns).run();
        let mut torn = ConnWorker::new(&conns);
        set_phase(&mut torn.phase, Phase::Serving, &mut conns.lock());
        assert_eq!(counts(), (2, 1));
        drop(torn);
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
