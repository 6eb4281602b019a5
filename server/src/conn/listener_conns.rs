//! The connections of one listener: their table with its lock, its timer, and the wakers.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::notifier::{self, ConnNotifier};
use crate::conn::protocol::{Protocol, WakeEvents};
use crate::conn::server_state::{Counters, ServerState, Totals};
use crate::conn::table::{ConnKey, ConnTable, Delivery, TurnInput};
use crate::panic::catch;
use crate::sync::{Mutex, MutexGuard};
use crate::trace::ConnSpan;
use millpond::SubmitError;
use millpond::{JobHandle, Pool};

/// Maps by connection. No peer chooses keys, so no peer can have them collide.
type ConnMap<T> = HashMap<ConnKey, T, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The map looks at the lowest bits and at the highest.
        self.0.rotate_left(32)
    }
}

/// What a mode keeps in a parked entry.
pub(crate) trait ParkedState: Send + 'static {
    /// Whether workers serve the ready connections, in order.
    const USES_READY_QUEUE: bool;

    /// Else: the waker for an entry that has become ready.
    fn waker(&self) -> Option<Waker>;
}

pub(crate) struct ListenerConns<P, T> {
    pub(crate) server: Arc<ServerState>,
    pub(crate) protocol: Arc<P>,
    state: Mutex<State<T>>,
    not_empty: Notify,
}

pub(crate) struct State<T> {
    pub(crate) table: ConnTable<T>,
    pub(crate) totals: Totals,
    /// The waker of the event loop, which starts workers, until it is woken.
    pub(crate) event_loop: Option<Waker>,
    pub(crate) workers: WorkerCounts,
    /// Turns whose user code waits for something.
    suspended: ConnMap<Waker>,
    /// In the dedicated mode, those that wait for a slot. The turn may begin before its wait is
    /// known to have ended.
    waiting: ConnMap<Waker>,
}

/// How many workers there are, of those that will look for another ready connection.
pub(crate) struct WorkerCounts {
    pub(crate) searching: usize,
    /// Of these, how many are in a turn, whose length is not known.
    pub(crate) serving: usize,
    /// More are of no use: so many threads there are, and one more is at hand when one is free.
    max: usize,
    /// The last turn waited. Then each ready connection gets a worker, and the event loop is woken
    /// less often.
    pub(crate) last_turn_waited: bool,
}

impl<T> State<T> {
    /// Whether one more worker is to be started. Each that is ready has a worker that is not held
    /// up by another; where there are too many for that, at least one is not.
    pub(crate) fn wants_worker(&self) -> bool {
        let WorkerCounts { searching, serving, max, last_turn_waited } = self.workers;
        searching - serving < self.table.ready()
            && (searching < max || searching == serving || last_turn_waited)
    }

    /// The waker of the event loop, if the event loop is to start a worker.
    pub(crate) fn event_loop_to_wake(&mut self) -> Option<Waker> {
        if self.wants_worker() { self.event_loop.take() } else { None }
    }

    fn wakers(&mut self, serving: bool) -> &mut ConnMap<Waker> {
        if serving { &mut self.suspended } else { &mut self.waiting }
    }

    /// Events of the reactor. A connection that they make ready is served by the event loop.
    /// Returns the waker of a suspended turn, to be woken after the unlock.
    pub(crate) fn deliver(
        &mut self,
        key: ConnKey,
        events: Events,
        interest: Events,
    ) -> Option<Waker> {
        let noted = self.table.deliver(key, events) == Delivery::Noted && events.any(interest);
        if noted { self.suspended.get(&key).cloned() } else { None }
    }
}

impl<T: ParkedState> State<T> {
    /// The waker for a connection that has become ready.
    fn waker_for(&mut self, key: ConnKey) -> Option<Waker> {
        if T::USES_READY_QUEUE {
            self.event_loop_to_wake()
        } else {
            self.table.parked_state(key)?.waker()
        }
    }
}

impl<P: Protocol, T: ParkedState> ListenerConns<P, T> {
    pub(crate) fn new(server: Arc<ServerState>, protocol: Arc<P>) -> Self {
        let table = ConnTable::new(server.settings.ticks.horizon, T::USES_READY_QUEUE);
        let max = Handle::current().metrics().num_workers() + 1;
        let workers = WorkerCounts { searching: 0, serving: 0, max, last_turn_waited: false };
        let (totals, suspended, waiting) =
            (Totals::default(), ConnMap::default(), ConnMap::default());
        let state =
            Mutex::new(State { table, totals, event_loop: None, workers, suspended, waiting });
        Self { server, protocol, state, not_empty: Notify::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    /// What turns have added up to, and how many connections are at rest.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.lock();
        (state.totals, state.table.parked())
    }

    /// An entry for a new connection.
    pub(crate) fn insert(&self, permit: PerIpPermit) -> ConnKey {
        let mut state = self.lock();
        let key = state.table.insert(permit);
        if state.table.open() == 1 {
            self.not_empty.notify_one();
        }
        key
    }

    /// What is kept of a new connection; none if user code panics, and then the connection is gone.
    pub(crate) fn on_accept(self: &Arc<Self>, key: ConnKey, address: Address) -> Option<P::Idle> {
        let idle = catch(|| self.protocol.on_accept(address, self.notifier(key)));
        if idle.is_none() {
            self.release(key, &Counters::default(), CloseReason::Panicked);
        }
        idle
    }

    pub(crate) fn notifier(self: &Arc<Self>, key: ConnKey) -> ConnNotifier {
        ConnNotifier::new(self.clone(), key)
    }

    pub(crate) fn park(
        &self,
        key: ConnKey,
        parked_state: T,
        park_reason: (ParkReason, bool),
        counters: &Counters,
    ) -> Delivery {
        let mut state = self.lock();
        state.totals.add(counters);
        let delivery =
            state.table.park(key, parked_state, park_reason, &self.server.settings.ticks);
        self.wake_for(state, key, &delivery);
        delivery
    }

    /// Unlocks, and wakes what a delivery makes ready or interests.
    fn wake_for(&self, mut state: MutexGuard<'_, State<T>>, key: ConnKey, delivery: &Delivery) {
        let state_ref = &mut *state;
        let waker = match delivery {
            Delivery::Gone => None,
            Delivery::Noted if P::INTEREST.is_empty() || state_ref.suspended.is_empty() => None,
            Delivery::Noted => state_ref.suspended.get(&key).cloned(),
            Delivery::Ready => state_ref.waker_for(key),
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn deliver(&self, key: ConnKey, events: Events) {
        let mut state = self.lock();
        let delivery = state.table.deliver(key, events);
        self.wake_for(state, key, &delivery);
    }

    /// Takes a connection up if it is ready, or in any case.
    pub(crate) fn take(&self, key: ConnKey, in_any_case: bool) -> Option<TurnInput> {
        let mut state = self.lock();
        if !in_any_case && !state.table.is_ready(key) {
            return None;
        }
        state.table.take(key).map(|(_, input)| input)
    }

    /// Has every connection closed once nothing is under way on it.
    pub(crate) fn request_close_all(&self, reason: CloseReason) {
        self.each(|table, ready| table.request_close_all(reason, |key| ready.push(key)));
        if P::INTEREST.is_empty() {
            return;
        }
        // Nothing else notifies connections that were detached. Unlocked: what their
        // wakers run is not known.
        let wakers: Vec<_> = self.lock().suspended.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn each(&self, act: impl FnOnce(&mut ConnTable<T>, &mut Vec<ConnKey>)) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut ready = Vec::new();
        act(&mut state.table, &mut ready);
        for key in ready {
            if let Some(waker) = state.waker_for(key) {
                // A task's waker runs nothing of the task.
                waker.wake();
            }
        }
    }

    /// Takes out what is parked, and wakes the suspended turns, which see that they are at an end.
    pub(crate) fn drain_parked(&self) -> Vec<(ConnKey, T)> {
        let mut state = self.lock();
        let drained = state.table.drain_parked();
        let State { suspended, waiting, event_loop, .. } = &mut *state;
        let wakers = suspended.drain().chain(waiting.drain()).map(|(_, waker)| waker);
        let wakers: Vec<_> = wakers.collect();
        let event_loop = event_loop.take();
        drop(state);
        wakers.into_iter().chain(event_loop).for_each(Waker::wake);
        drained
    }

    /// Lets time pass for the deadlines. Sleeps while nobody is there.
    pub(crate) async fn run_timer(self: Arc<Self>) {
        let tick = self.server.settings.ticks.tick;
        loop {
            while self.lock().table.open() == 0 {
                self.not_empty.notified().await;
            }
            let mut next = Instant::now() + tick;
            while self.lock().table.open() > 0 {
                sleep_until(next).await;
                self.each(|table, ready| table.tick(|key| ready.push(key)));
                self.protocol.tick();
                // After a stall, a tick is as long as it has lasted: what began meanwhile stands
                // at the tick before, and is not to end early.
                next = Instant::now().max(next) + tick;
            }
        }
    }

    /// Waits for a slot of the pool for one turn, and no longer than the server lives.
    pub(crate) async fn schedule<F>(
        &self,
        key: ConnKey,
        pool: &Pool,
        job: F,
    ) -> Option<Result<JobHandle<F::Output>, SubmitError<F>>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (span, future): (&ConnSpan, _) = (&Default::default(), pin!(pool.schedule(job)));
        WakeOnEvents { conns: self, key, span, future, wake_events: None, suspended: false }.await
    }

    fn suspend(&self, key: ConnKey, waker: &Waker, serving: bool) {
        let mut state = self.lock();
        state.wakers(serving).insert(key, waker.clone());
        if serving && state.table.has(key, P::INTEREST) {
            drop(state);
            waker.wake_by_ref(); // it came while nobody could be woken
        }
    }

    /// It sleeps no more. Tells what it was woken for.
    fn resume(&self, key: ConnKey, serving: bool) -> Events {
        let mut state = self.lock();
        state.wakers(serving).remove(&key);
        if serving { state.table.take_events(key, P::INTEREST) } else { Events::NONE }
    }

    /// Removes a connection's entry, and releases its permit.
    pub(crate) fn release(&self, key: ConnKey, counters: &Counters, reason: CloseReason) {
        let mut state = self.lock();
        state.totals.add(counters);
        let released = state.table.remove(key);
        // A detached connection may have registered a waker.
        let waker = state.suspended.remove(&key);
        drop(state);
        if let Some((permit, parked_state)) = released {
            drop((parked_state, waker));
            self.server.on_close(permit, reason);
        }
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.server.killed.load(SeqCst)
    }
}

impl<P: Protocol, T: ParkedState> notifier::Notify for ListenerConns<P, T> {
    fn deliver(&self, key: ConnKey, events: Events) {
        ListenerConns::deliver(self, key, events);
    }

    fn request_close(&self, key: ConnKey, reason: CloseReason) {
        let mut state = self.lock();
        let delivery = state.table.request_close(key, reason);
        self.wake_for(state, key, &delivery);
    }

    fn server(&self) -> &ServerState {
        &self.server
    }

    #[cfg(feature = "http")]
    fn register(&self, key: ConnKey, waker: &Waker) {
        self.suspend(key, waker, true);
        if self.is_killed() {
            waker.wake_by_ref();
        }
    }

    #[cfg(feature = "http")]
    fn close_requested(&self, key: ConnKey) -> Option<CloseReason> {
        self.lock().table.close_requested(key)
    }
}

/// A turn, or a wait for a slot to have one. Events of its connection wake it while it waits, and
/// it ends with its server.
pub(crate) struct WakeOnEvents<'a, P: Protocol, T: ParkedState, F> {
    pub(crate) conns: &'a ListenerConns<P, T>,
    pub(crate) key: ConnKey,
    pub(crate) span: &'a ConnSpan,
    pub(crate) future: Pin<&'a mut F>,
    /// The turn's; none where it waits for a slot.
    pub(crate) wake_events: Option<&'a WakeEvents>,
    pub(crate) suspended: bool,
}

impl<P: Protocol, T: ParkedState, F: Future> Future for WakeOnEvents<'_, P, T, F> {
    /// None if the server was killed meanwhile.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if std::mem::take(&mut this.suspended) {
            let events = this.conns.resume(this.key, this.wake_events.is_some());
            this.wake_events.iter().for_each(|wake_events| wake_events.add(events));
        }
        if let Poll::Ready(output) = this.span.in_scope(|| this.future.as_mut().poll(cx)) {
            return Poll::Ready(Some(output));
        }
        this.suspended = true;
        this.conns.suspend(this.key, cx.waker(), this.wake_events.is_some());
        // After the registration: whoever kills the server looks there afterwards.
        match this.conns.is_killed() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

impl<P: Protocol, T: ParkedState, F> Drop for WakeOnEvents<'_, P, T, F> {
    fn drop(&mut self) {
        if self.suspended {
            self.conns.resume(self.key, self.wake_events.is_some());
        }
    }
}

/// The longest that the end of killed connections is waited for.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Deadlines, Ticks};

    fn state(
        ready: usize,
        (searching, serving, last_turn_waited): (usize, usize, bool),
    ) -> State<()> {
        let ticks = Ticks::new(&Deadlines::default());
        let mut table = ConnTable::new(ticks.horizon, true);
        for _ in 0..ready {
            let key = table.insert(PerIpPermit::UNCOUNTED);
            table.deliver(key, Events::READABLE);
            table.park(key, (), (ParkReason::Idle, true), &ticks);
        }
        let workers = WorkerCounts { searching, serving, max: 3, last_turn_waited };
        let (totals, suspended, waiting) =
            (Totals::default(), ConnMap::default(), ConnMap::default());
        State { table, totals, event_loop: None, workers, suspended, waiting }
    }

    #[test]
    fn workers_are_started_while_they_are_of_use() {
        for (ready, workers, expected) in [
            (0, (0, 0, false), false),
            (1, (0, 0, false), true),
            (1, (1, 0, false), false),
            (1, (1, 1, false), true),
            (5, (2, 2, false), true),
            // As many as there may be, and one is about to look; all are held up; turns wait.
            (5, (3, 2, false), false),
            (5, (3, 3, false), true),
            (5, (3, 2, true), true),
            (1, (3, 2, true), false),
        ] {
            assert_eq!(state(ready, workers).wants_worker(), expected, "{ready} {workers:?}");
        }
    }
}
