//! A lot with its lock, its clock, and those to be woken: what a listener's connections stand in.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

use crate::accept::address::Address;
use crate::accept::per_ip::Visit;
use crate::close_reason::CloseReason;
use crate::conn::conn_map::Keyed;
use crate::conn::events::{Signal, Wait};
use crate::conn::notifier::{Nudge, Signals};
use crate::conn::protocol::{Cue, Protocol};
use crate::conn::server_state::{Hub, Tally, Totals};
use crate::conn::table::{Key, Lot, Order, Signalled};
use crate::panic::fenced;
use crate::sync::{Mutex, MutexGuard};
use crate::trace::ConnSpan;
use millpond::ScheduleError;
use millpond::{JobHandle, Pool};

/// What a mode keeps in a parked record.
pub(crate) trait Content: Send + 'static {
    /// Whether runners serve those that are ready, in order.
    const LISTED: bool;

    /// Else: whom to wake when the record has become ready.
    fn waker(&self) -> Option<Waker>;
}

pub(crate) struct Yard<P, T> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) protocol: Arc<P>,
    state: Mutex<State<T>>,
    occupied: Notify,
}

pub(crate) struct State<T> {
    pub(crate) lot: Lot<T>,
    pub(crate) totals: Totals,
    /// Who starts runners, until it is called.
    pub(crate) dispatcher: Option<Waker>,
    pub(crate) runners: Runners,
    /// Bursts whose user code waits for something.
    suspended: Keyed<Waker>,
    /// In the dedicated mode, those that wait for a slot. The burst may begin before its wait is
    /// known to have ended.
    waiting: Keyed<Waker>,
}

/// How many runners there are, of those that will look for another ready connection.
pub(crate) struct Runners {
    pub(crate) looking: usize,
    /// Of these, how many are in a burst: nobody knows for how long.
    pub(crate) bursting: usize,
    /// More are of no use: so many threads there are, and one more is at hand when one is free.
    most: usize,
    /// The last burst waited: a runner for each that is ready, then, for the dispatcher not to be
    /// asked for one after the other.
    pub(crate) waits: bool,
}

impl<T> State<T> {
    /// Whether one more runner is to be started. Each that is ready has a runner that is not held up
    /// by another; where there are too many for that, at least one is not.
    pub(crate) fn wants_runner(&self) -> bool {
        let Runners { looking, bursting, most, waits } = self.runners;
        looking - bursting < self.lot.ready() && (looking < most || looking == bursting || waits)
    }

    /// The dispatcher, if it is to start a runner.
    pub(crate) fn calls(&mut self) -> Option<Waker> {
        if self.wants_runner() { self.dispatcher.take() } else { None }
    }

    fn sleepers(&mut self, bursting: bool) -> &mut Keyed<Waker> {
        if bursting { &mut self.suspended } else { &mut self.waiting }
    }

    /// A signal of the reactor: whom it makes ready is served by who tells of it. Gives whom it
    /// concerns besides, to be woken when this is unlocked.
    pub(crate) fn tell(&mut self, key: Key, signals: Signal, heard: Signal) -> Option<Waker> {
        let noted = self.lot.signal(key, signals) == Signalled::Noted && signals.any(heard);
        if noted { self.suspended.get(&key).cloned() } else { None }
    }
}

impl<T: Content> State<T> {
    /// Whom to wake for a connection that has become ready.
    fn wakes(&mut self, key: Key) -> Option<Waker> {
        if T::LISTED { self.calls() } else { self.lot.content(key)?.waker() }
    }
}

impl<P: Protocol, T: Content> Yard<P, T> {
    pub(crate) fn new(hub: Arc<Hub>, protocol: Arc<P>) -> Self {
        let lot = Lot::new(hub.settings.ticks.horizon, T::LISTED);
        let most = Handle::current().metrics().num_workers() + 1;
        let runners = Runners { looking: 0, bursting: 0, most, waits: false };
        let (totals, suspended, waiting) = (Totals::default(), Keyed::default(), Keyed::default());
        let state =
            Mutex::new(State { lot, totals, dispatcher: None, runners, suspended, waiting });
        Self { hub, protocol, state, occupied: Notify::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    /// What bursts have added up to, and how many connections are at rest.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.lock();
        (state.totals, state.lot.parked())
    }

    /// A record for a new connection.
    pub(crate) fn claim(&self, visit: Visit) -> Key {
        let mut state = self.lock();
        let key = state.lot.claim(visit);
        if state.lot.open() == 1 {
            self.occupied.notify_one();
        }
        key
    }

    /// What is kept of a new connection; none if user code panics, and then the connection is gone.
    pub(crate) fn arrive(self: &Arc<Self>, key: Key, address: Address) -> Option<P::Idle> {
        let idle = fenced(|| self.protocol.arrive(address, self.nudge(key)));
        if idle.is_none() {
            self.release(key, &Tally::default(), CloseReason::Panicked);
        }
        idle
    }

    pub(crate) fn nudge(self: &Arc<Self>, key: Key) -> Nudge {
        Nudge::new(self.clone(), key)
    }

    pub(crate) fn park(
        &self,
        key: Key,
        content: T,
        wait: (Wait, bool),
        tally: &Tally,
    ) -> Signalled {
        let mut state = self.lock();
        state.totals.add(tally);
        let signalled = state.lot.park(key, content, wait, &self.hub.settings.ticks);
        self.follow(state, key, &signalled);
        signalled
    }

    /// Wakes those whom a signal concerns, and unlocks.
    fn follow(&self, mut state: MutexGuard<'_, State<T>>, key: Key, signalled: &Signalled) {
        let state_ref = &mut *state;
        let waker = match signalled {
            Signalled::Gone => None,
            Signalled::Noted if P::HEARS.is_none() || state_ref.suspended.is_empty() => None,
            Signalled::Noted => state_ref.suspended.get(&key).cloned(),
            Signalled::Ready => state_ref.wakes(key),
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn signal(&self, key: Key, signals: Signal) {
        let mut state = self.lock();
        let signalled = state.lot.signal(key, signals);
        self.follow(state, key, &signalled);
    }

    /// Takes a connection up if it is ready, or in any case.
    pub(crate) fn take(&self, key: Key, in_any_case: bool) -> Option<Order> {
        let mut state = self.lock();
        if !in_any_case && !state.lot.is_marked(key) {
            return None;
        }
        state.lot.take(key).map(|(_, order)| order)
    }

    /// Has every connection closed once nothing is under way on it.
    pub(crate) fn doom_all(&self, reason: CloseReason) {
        self.each(|lot, ready| lot.doom_all(reason, |key| ready.push(key)));
        if P::HEARS.is_none() {
            return;
        }
        // Connections that were left to others are told by nobody else. Unlocked: what their
        // wakers run is not known.
        let wakers: Vec<_> = self.lock().suspended.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn each(&self, act: impl FnOnce(&mut Lot<T>, &mut Vec<Key>)) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut ready = Vec::new();
        act(&mut state.lot, &mut ready);
        for key in ready {
            if let Some(waker) = state.wakes(key) {
                // A task's waker runs nothing of the task.
                waker.wake();
            }
        }
    }

    /// Takes out what is parked, and wakes the suspended bursts, which see that they are at an end.
    pub(crate) fn evict(&self) -> Vec<(Key, T)> {
        let mut state = self.lock();
        let evicted = state.lot.evict();
        let State { suspended, waiting, dispatcher, .. } = &mut *state;
        let wakers = suspended.drain().chain(waiting.drain()).map(|(_, waker)| waker);
        let wakers: Vec<_> = wakers.collect();
        let dispatcher = dispatcher.take();
        drop(state);
        wakers.into_iter().chain(dispatcher).for_each(Waker::wake);
        evicted
    }

    /// Lets time pass for the deadlines. Sleeps while nobody is there.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let tick = self.hub.settings.ticks.tick;
        loop {
            while self.lock().lot.open() == 0 {
                self.occupied.notified().await;
            }
            let mut next = Instant::now() + tick;
            while self.lock().lot.open() > 0 {
                sleep_until(next).await;
                self.each(|lot, ready| lot.tick(|key| ready.push(key)));
                self.protocol.tick();
                // After a stall, a tick is as long as it has lasted: what began meanwhile stands
                // at the tick before, and is not to end early.
                next = Instant::now().max(next) + tick;
            }
        }
    }

    /// Waits for a place on the pool for one burst, and no longer than the server lives.
    pub(crate) async fn schedule<F>(
        &self,
        key: Key,
        pool: &Pool,
        job: F,
    ) -> Option<Result<JobHandle<F::Output>, ScheduleError<F>>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (span, future): (&ConnSpan, _) = (&Default::default(), pin!(pool.schedule(job)));
        Suspendable { yard: self, key, span, future, cue: None, suspended: false }.await
    }

    fn suspend(&self, key: Key, waker: &Waker, bursting: bool) {
        let mut state = self.lock();
        state.sleepers(bursting).insert(key, waker.clone());
        if bursting && state.lot.has(key, P::HEARS) {
            drop(state);
            waker.wake_by_ref(); // it came while nobody could be woken
        }
    }

    /// It sleeps no more. Tells what it was woken for.
    fn resume(&self, key: Key, bursting: bool) -> Signal {
        let mut state = self.lock();
        state.sleepers(bursting).remove(&key);
        if bursting { state.lot.heed(key, P::HEARS) } else { Signal::NONE }
    }

    /// Ends a connection's record, and its place among those of its peer.
    pub(crate) fn release(&self, key: Key, tally: &Tally, reason: CloseReason) {
        let mut state = self.lock();
        state.totals.add(tally);
        let released = state.lot.release(key);
        // Somebody else may have listened.
        let listener = state.suspended.remove(&key);
        drop(state);
        if let Some((visit, content)) = released {
            drop((content, listener));
            self.hub.left(visit, reason);
        }
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.hub.killed.load(SeqCst)
    }
}

impl<P: Protocol, T: Content> Signals for Yard<P, T> {
    fn signal(&self, key: Key, signals: Signal) {
        Yard::signal(self, key, signals);
    }

    fn doom(&self, key: Key, reason: CloseReason) {
        let mut state = self.lock();
        let signalled = state.lot.doom(key, reason);
        self.follow(state, key, &signalled);
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    #[cfg(feature = "http")]
    fn listen(&self, key: Key, waker: &Waker) {
        self.suspend(key, waker, true);
        if self.is_killed() {
            waker.wake_by_ref();
        }
    }

    #[cfg(feature = "http")]
    fn doom_of(&self, key: Key) -> Option<CloseReason> {
        self.lock().lot.doom_of(key)
    }
}

/// A burst, or a wait for a slot to have one: while it waits, signals to its connection wake it,
/// and it ends with its server.
pub(crate) struct Suspendable<'a, P: Protocol, T: Content, F> {
    pub(crate) yard: &'a Yard<P, T>,
    pub(crate) key: Key,
    pub(crate) span: &'a ConnSpan,
    pub(crate) future: Pin<&'a mut F>,
    /// The burst's; none where it waits for a slot.
    pub(crate) cue: Option<&'a Cue>,
    pub(crate) suspended: bool,
}

impl<P: Protocol, T: Content, F: Future> Future for Suspendable<'_, P, T, F> {
    /// None if the server was killed meanwhile.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if std::mem::take(&mut this.suspended) {
            let signals = this.yard.resume(this.key, this.cue.is_some());
            this.cue.iter().for_each(|cue| cue.give(signals));
        }
        if let Poll::Ready(output) = this.span.in_scope(|| this.future.as_mut().poll(cx)) {
            return Poll::Ready(Some(output));
        }
        this.suspended = true;
        this.yard.suspend(this.key, cx.waker(), this.cue.is_some());
        // After the registration: whoever kills the server looks there afterwards.
        match this.yard.is_killed() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

impl<P: Protocol, T: Content, F> Drop for Suspendable<'_, P, T, F> {
    fn drop(&mut self) {
        if self.suspended {
            self.yard.resume(self.key, self.cue.is_some());
        }
    }
}

/// The longest that the end of killed connections is waited for.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Deadlines, Ticks};

    fn state(ready: usize, (looking, bursting, waits): (usize, usize, bool)) -> State<()> {
        let ticks = Ticks::new(&Deadlines::default());
        let mut lot = Lot::new(ticks.horizon, true);
        for _ in 0..ready {
            let key = lot.claim(Visit::UNCOUNTED);
            lot.signal(key, Signal::READABLE);
            lot.park(key, (), (Wait::Idle, true), &ticks);
        }
        let runners = Runners { looking, bursting, most: 3, waits };
        let (totals, suspended, waiting) = (Totals::default(), Keyed::default(), Keyed::default());
        State { lot, totals, dispatcher: None, runners, suspended, waiting }
    }

    #[test]
    fn runners_are_started_while_they_are_of_use() {
        for (ready, runners, expected) in [
            (0, (0, 0, false), false),
            (1, (0, 0, false), true),
            (1, (1, 0, false), false),
            (1, (1, 1, false), true),
            (5, (2, 2, false), true),
            // As many as there may be, and one is about to look; all are held up; bursts wait.
            (5, (3, 2, false), false),
            (5, (3, 3, false), true),
            (5, (3, 2, true), true),
            (1, (3, 2, true), false),
        ] {
            assert_eq!(state(ready, runners).wants_runner(), expected, "{ready} {runners:?}");
        }
    }
}
