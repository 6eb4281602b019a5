//! A runner: a job that serves ready connections, one after another.
//!
//! A job for each burst would have each pay for its way through the pool. A runner has its slot
//! for no longer than a few quick bursts, or one slow one; others of the pool have their turn then,
//! and the dispatcher sends another if connections are ready. So it does for the connections behind
//! a burst that is slow, and behind one that waits: its runner stays with that, and looks for no
//! other.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conn::guard::Held;
use crate::conn::listener_conns::State;
use crate::conn::protocol::{Outcome, Protocol};
use crate::conn::table::Order;
use crate::parked::{EventHeld, EventYard, Parked, kill, rest};

/// As long as a turn of a worker of the pool.
const TURN_BURSTS: u32 = 16;
const TURN_TIME: Duration = Duration::from_micros(100);

/// Its place among the yard's runners, given back whatever becomes of it.
pub(crate) struct Runner<P: Protocol> {
    yard: Arc<EventYard<P>>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// About to look for a connection.
    Looking,
    /// In a burst that has not waited yet.
    Bursting,
    /// Will not look for another.
    Away,
}

impl<P: Protocol> Runner<P> {
    /// One that is going to be scheduled.
    pub(crate) fn new(yard: &Arc<EventYard<P>>) -> Self {
        yard.lock().runners.looking += 1;
        Self { yard: yard.clone(), phase: Phase::Looking }
    }

    // An `async fn` would have room for it twice.
    #[allow(clippy::manual_async_fn)]
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let began = Instant::now();
            let mut bursts = 0;
            let Some((mut held, mut order)) = self.next(None, false) else { return };
            loop {
                let outcome = {
                    let mut burst = pin!(held.burst(order));
                    poll_fn(|cx| {
                        let polled = burst.as_mut().poll(cx);
                        if polled.is_pending() {
                            self.look_away();
                        }
                        polled
                    })
                    .await
                };
                bursts += 1;
                let over = bursts == TURN_BURSTS || began.elapsed() >= TURN_TIME;
                match self.next(Some((held, outcome)), over) {
                    Some(next) => (held, order) = next,
                    None => return,
                }
            }
        }
    }

    /// Puts to rest what was served, and takes up the connection that has been ready for longest.
    fn next(
        &mut self,
        served: Option<(EventHeld<P>, Outcome)>,
        over: bool,
    ) -> Option<(EventHeld<P>, Order)> {
        let rests = served.and_then(|(held, outcome)| match outcome {
            Outcome::Park { wait, moved } => Some((rest(held)?, (wait, moved))),
            Outcome::Close(reason) => {
                held.end(reason);
                None
            }
            Outcome::Panicked(payload) => held.panic(payload),
            #[cfg(feature = "http")]
            Outcome::Left(keep) => {
                held.leave(keep);
                None
            }
        });
        let mut state = self.yard.lock();
        if let Some(((key, parked, tally), wait)) = rests {
            state.totals.add(&tally);
            state.lot.park(key, parked, wait, &self.yard.hub.settings.ticks);
        }
        enter(&mut self.phase, Phase::Looking, &mut state);
        let next = if over || self.phase == Phase::Away { None } else { state.lot.next_ready() };
        let phase = if next.is_some() { Phase::Bursting } else { Phase::Away };
        enter(&mut self.phase, phase, &mut state);
        let waker = state.calls();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // A kill before it was parked has not seen it.
        if self.yard.is_killed() {
            kill(&self.yard);
        }
        let (key, Parked { mut io, idle, span }, order) = next?;
        if let Some(wire) = io.wire() {
            wire.told(order.signals);
        }
        Some((Held::new(self.yard.clone(), (key, span), (io, idle)), order))
    }

    /// Leaves the other connections to other runners.
    fn look_away(&mut self) {
        if self.phase == Phase::Away {
            return;
        }
        let mut state = self.yard.lock();
        enter(&mut self.phase, Phase::Away, &mut state);
        let waker = state.calls();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<P: Protocol> Drop for Runner<P> {
    fn drop(&mut self) {
        self.look_away();
    }
}

/// Changes the phase of a runner, and the counts with it. Who looks away has done so for good.
fn enter<T>(phase: &mut Phase, next: Phase, state: &mut State<T>) {
    if *phase == Phase::Away {
        return;
    }
    let runners = &mut state.runners;
    if *phase == Phase::Bursting {
        runners.waits = next == Phase::Away;
    }
    runners.bursting -= usize::from(*phase == Phase::Bursting);
    runners.bursting += usize::from(next == Phase::Bursting);
    runners.looking -= usize::from(next == Phase::Away);
    *phase = next;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::listener_conns::Yard;
    use crate::conn::server_state::Hub;
    use crate::framed::service::Framed;
    use crate::settings::{Deadlines, Settings, SlowReader, Ticks};

    type Service = tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>;
    type Lines = Framed<tokio_util::codec::LinesCodec, Service>;

    #[tokio::test]
    async fn its_place_is_given_back() {
        let settings = Settings {
            max_frame: 1,
            turn_bytes: 1,
            turn_frames: 1,
            outgoing: 1,
            outgoing_total: 1,
            slow_reader: SlowReader::Wait,
            ticks: Ticks::new(&Deadlines::default()),
        };
        let service = tower::service_fn(|line: String| async { Ok(vec![line]) });
        let protocol = Lines { codec: Default::default(), service: Service::new(service) };
        let yard = Arc::new(Yard::new(Arc::new(Hub::new(settings, 1, None)), Arc::new(protocol)));
        let counts = || {
            let state = yard.lock();
            (state.runners.looking, state.runners.bursting)
        };
        let unstarted = Runner::new(&yard).run();
        let mut torn = Runner::new(&yard);
        enter(&mut torn.phase, Phase::Bursting, &mut yard.lock());
        assert_eq!(counts(), (2, 1));
        drop(torn);
        assert_eq!(counts(), (1, 0));
        drop(unstarted);
        assert_eq!(counts(), (0, 0));
        Runner::new(&yard).run().await;
        assert_eq!(counts(), (0, 0));
        let mut waiting = Runner::new(&yard);
        enter(&mut waiting.phase, Phase::Bursting, &mut yard.lock());
        waiting.look_away();
        assert_eq!(counts(), (0, 0));
        drop(waiting);
        assert_eq!(counts(), (0, 0));
    }
}
