//! The connections of one listener: the table with its lock, the stored wakers and the timer.
//!
//! [`ListenerConns`] connects the table, which only computes, with the parts that act. Each method
//! locks, changes the table, unlocks, and then wakes what the change concerns. Callers are both
//! modes, `guard`, `wake_on_events`, each `ConnNotifier`, and `Server` for status, shutdown and
//! kill.
//!
//! One lock, [`ListenerConns::state`], covers the table, the totals, the wakers and the counts of
//! workers. No user code may run under that lock, and nothing may be awaited (C10). The event loop
//! and the workers of `parked` call [`lock`](ListenerConns::lock) themselves. So a batch of their
//! changes costs a single acquisition.
//!
//! A change must never make a connection ready and then wake nothing: `wake_for` and `each` see to
//! that, and `conn_worker` and `event_loop` for their own changes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
#[cfg(feature = "http")]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

use crate::accept::address::Address;
use crate::accept::per_ip::PerIpPermit;
use crate::close_reason::CloseReason;
use crate::conn::age::Ages;
use crate::conn::events::{Events, ParkReason};
use crate::conn::key::ConnKey;
use crate::conn::notifier::{self, ConnNotifier};
use crate::conn::protocol::Protocol;
use crate::conn::rest::Rest;
use crate::conn::server_state::{Counters, ServerState, Totals};
use crate::conn::table::{ConnTable, Delivery, ParkedState};
use crate::conn::task_entry::TaskEntry;
use crate::conn::wait::TurnInput;
use crate::panic::catch;
use crate::sync::{Mutex, MutexGuard, failpoint};

/// The number of tables that the process has made.
#[cfg(feature = "http")]
static TABLES: AtomicU64 = AtomicU64::new(0);

/// How long a shutdown waits for killed connections to end.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(1);

/// One more worker may start for each `CROWD` ready connections, up to `MAX_MORE`. Beside hundreds of
/// busy tasks a few workers have too small a share of the threads.
const CROWD: usize = 64;
const MAX_MORE: usize = 16;

/// How late a tick may be without a shift of the ticks after it. tokio's timer and the kernel's each round up
/// to the next millisecond; with a shift, each tick of a deadline would add that.
const TIMER_PRECISION: Duration = Duration::from_millis(2);

/// A map by connection. Its hasher is fast and has no seed: the server chooses the keys, so no peer
/// can make keys collide.
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
        // `HashMap` uses the lowest and the highest bits. The rotation puts the upper half of the
        // product lowest, because that half is mixed best.
        self.0.rotate_left(32)
    }
}

/// The connections of one listener, in either mode.
pub(crate) struct ListenerConns<P: Protocol> {
    pub(crate) server: Arc<ServerState>,
    pub(crate) protocol: Arc<P>,
    /// The runtime of the server. A turn on a pool may run in another one, which has no socket or task of
    /// ours.
    pub(crate) runtime: Handle,
    state: Mutex<State<Rest<P::Idle>>>,
    /// Notified by the first connection, for the timer.
    not_empty: Notify,
    #[cfg(feature = "http")]
    id: u64,
}

/// The data under the lock of a listener. `T` is what an entry holds of a connection that waits.
pub(crate) struct State<T> {
    pub(crate) table: ConnTable<T>,
    pub(crate) totals: Totals,
    /// The waker of the event loop, which starts workers. `None` from a wake-up until the next poll
    /// of the loop.
    pub(crate) event_loop: Option<Waker>,
    pub(crate) workers: WorkerCounts,
    /// The wakers of turns that wait for user code, and of detached connections.
    suspended: ConnMap<Waker>,
    /// The wakers of turns that wait for a slot, in the dedicated mode. A map apart from
    /// `suspended`: a turn on the pool may suspend before its task has noticed that the slot was
    /// granted.
    waiting: ConnMap<Waker>,
    /// How many requests each connection has had, if there is a limit.
    #[cfg(feature = "http")]
    requests: ConnMap<u32>,
    /// The ages of the connections, if there is a limit.
    pub(super) ages: Ages,
}

/// The numbers of workers that decide whether another one is started. Detached workers are not
/// included.
pub(crate) struct WorkerCounts {
    /// The workers that will look for another ready connection, at once or after their turn.
    pub(crate) searching: usize,
    /// Those of `searching` that are in a turn. A turn may last for any time.
    pub(crate) serving: usize,
    /// The number of threads of the runtime, and one more: that worker is ready to run as soon as a
    /// thread is free. Further workers would wait in the pool.
    max: usize,
    /// Whether the last turn that ended or suspended did suspend. If so, each ready connection gets
    /// a worker of its own, and `max` does not hold.
    pub(crate) last_turn_waited: bool,
    /// A worker has ended with ready connections left, because its time was over.
    pub(crate) is_behind: bool,
}

impl WorkerCounts {
    fn is_single_thread(&self) -> bool {
        self.max == 2
    }
}

impl<T: ParkedState> State<T> {
    fn new(table: ConnTable<T>, workers: WorkerCounts) -> Self {
        Self {
            table,
            totals: Totals::default(),
            event_loop: None,
            workers,
            suspended: ConnMap::default(),
            waiting: ConnMap::default(),
            #[cfg(feature = "http")]
            requests: ConnMap::default(),
            ages: Ages::default(),
        }
    }

    /// Returns whether another worker must start. Up to `max` workers, and some more for a crowd, each
    /// ready connection has a worker that is not in a turn. Beyond, at least one worker is not in a turn.
    pub(crate) fn wants_worker(&self) -> bool {
        let WorkerCounts { searching, serving, max, last_turn_waited, .. } = self.workers;
        let ready = self.table.ready();
        let max = max + (ready / CROWD).min(MAX_MORE);
        searching - serving < ready && (searching < max || searching == serving || last_turn_waited)
    }

    /// Takes the waker of the event loop, if the event loop must start a worker.
    pub(crate) fn event_loop_to_wake(&mut self) -> Option<Waker> {
        if self.wants_worker() { self.event_loop.take() } else { None }
    }

    /// Returns whether the event loop must let tokio look at its I/O driver and its timers before it
    /// starts another worker. With several threads another thread does that. Returns `true` once for
    /// each worker that has ended behind.
    pub(crate) fn takes_break(&mut self) -> bool {
        std::mem::take(&mut self.workers.is_behind) && self.workers.is_single_thread()
    }

    fn wakers(&mut self, serving: bool) -> &mut ConnMap<Waker> {
        if serving { &mut self.suspended } else { &mut self.waiting }
    }

    /// Stores the waker of a suspended turn, or of a wait for a slot if not `serving`. Returns whether an
    /// event for the turn came while no waker was stored; the caller wakes the turn after the unlock (C7).
    fn suspend(&mut self, key: ConnKey, waker: &Waker, serving: bool, interest: Events) -> bool {
        self.wakers(serving).insert(key, waker.clone());
        let came = serving && self.table.has(key, interest);
        came && !failpoint("events before a suspension are lost")
    }

    /// Returns the requested reason to close, if that drops user code which is under way.
    fn cut_off(&mut self, key: ConnKey) -> Option<CloseReason> {
        self.table.close_requested(key).filter(|reason| reason.drops_calls())
    }

    /// Delivers events of the poller. A ready connection without a task needs no waker, because the
    /// event loop itself delivers and then looks for ready connections. Returns the waker of the
    /// connection's task, or of a suspended turn that the events interest; the caller wakes it after
    /// the unlock.
    pub(crate) fn deliver(
        &mut self,
        key: ConnKey,
        events: Events,
        interest: Events,
    ) -> Option<Waker> {
        match self.table.deliver(key, events) {
            Delivery::Gone => None,
            Delivery::Ready => None,
            // The socket had no task when the poller saw the events.
            Delivery::Task => self.table.waker(key).cloned(),
            Delivery::Noted => {
                let wakes = events.any(interest) && !failpoint("events wake no suspended turn");
                if wakes { self.suspended.get(&key).cloned() } else { None }
            }
        }
    }

    /// Returns what is to be woken for a connection that has become ready: its task, or the event loop.
    fn waker_for(&mut self, key: ConnKey) -> Option<Waker> {
        let task = self.table.waker(key).cloned();
        task.or_else(|| self.event_loop_to_wake())
    }
}

impl<P: Protocol> ListenerConns<P> {
    pub(crate) fn new(server: Arc<ServerState>, protocol: Arc<P>) -> Self {
        let table = ConnTable::new(server.settings.ticks.horizon);
        let runtime = Handle::current();
        let max = runtime.metrics().num_workers() + 1;
        let workers = WorkerCounts {
            searching: 0,
            serving: 0,
            max,
            last_turn_waited: false,
            is_behind: false,
        };
        Self {
            server,
            protocol,
            runtime,
            state: Mutex::new(State::new(table, workers)),
            not_empty: Notify::new(),
            // Relaxed: the number only has to differ from the others.
            #[cfg(feature = "http")]
            id: TABLES.fetch_add(1, Relaxed),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<Rest<P::Idle>>> {
        self.state.lock()
    }

    /// Returns the sums over all turns, and the number of parked connections.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.lock();
        (state.totals, state.table.parked())
    }

    /// Inserts a new connection.
    pub(crate) fn insert(&self, permit: PerIpPermit) -> ConnKey {
        let mut state = self.lock();
        let key = state.table.insert(permit);
        if let Some(age) = self.server.settings.max_age {
            let State { table, ages, .. } = &mut *state;
            ages.insert(key, Instant::now() + age, table);
        }
        if state.table.open() == 1 {
            self.not_empty.notify_one();
        }
        key
    }

    /// Makes the idle state of a new connection. Returns `None` if user code panicked: then the
    /// entry and the permit are released.
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

    /// Parks an active connection. What is not in `rest` stays with the connection's task.
    pub(crate) fn park(
        &self,
        key: ConnKey,
        rest: Rest<P::Idle>,
        park_reason: (ParkReason, bool),
        counters: &Counters,
    ) {
        let mut state = self.lock();
        state.totals.add(counters);
        let delivery = state.table.park(key, rest, park_reason, &self.server.settings.ticks);
        self.wake_for(state, key, &delivery);
    }

    /// Gives an active connection to its task, at the task's first poll. Returns `None` if the
    /// connection has ended.
    pub(crate) fn begin_task(&self, key: ConnKey, waker: &Waker) -> Option<Arc<TaskEntry>> {
        self.lock().table.begin_task(key, waker.clone(), Rest::Task)
    }

    /// Ends the wait of a connection's task.
    pub(crate) fn resume_task(&self, key: ConnKey, task: &TaskEntry) -> TurnInput {
        self.server.resume_task(task, || self.lock().table.close_requested(key))
    }

    /// Unlocks, and then wakes what a change concerns: the part that serves a ready connection, or
    /// the suspended turn of an active one. A turn without interest in the event wakes in vain.
    fn wake_for(
        &self,
        mut state: MutexGuard<'_, State<Rest<P::Idle>>>,
        key: ConnKey,
        delivery: &Delivery,
    ) {
        let state_ref = &mut *state;
        let suspends = !P::INTEREST.is_empty() && !state_ref.suspended.is_empty();
        let suspended = |state: &State<_>| state.suspended.get(&key).filter(|_| suspends).cloned();
        let (waker, of_turn) = match delivery {
            Delivery::Gone => (None, None),
            Delivery::Noted => (None, suspended(state_ref)),
            Delivery::Ready => (state_ref.event_loop_to_wake(), None),
            // The turn may run as a job of the pool, or the connection is detached.
            Delivery::Task => (state_ref.table.waker(key).cloned(), suspended(state_ref)),
        };
        drop(state);
        waker.into_iter().chain(of_turn).for_each(Waker::wake);
    }

    /// Delivers events to a connection, and wakes what they concern.
    pub(crate) fn deliver(&self, key: ConnKey, events: Events) {
        let mut state = self.lock();
        let delivery = state.table.deliver(key, events);
        self.wake_for(state, key, &delivery);
    }

    /// Requests the close of every connection. With a gentle reason, a connection finishes what is
    /// under way first.
    pub(crate) fn request_close_all(&self, reason: CloseReason) {
        self.each(|table, ready| table.request_close_all(reason, |key| ready.push(key)));
        if P::INTEREST.is_empty() {
            return;
        }
        // A detached connection learns of the request by its waker alone. The waker of `http` may
        // take this lock again, so the wakers are woken after the unlock (C10).
        let wakers: Vec<_> = self.lock().suspended.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Applies a change to the whole table, and wakes for each connection that became ready.
    fn each(&self, act: impl FnOnce(&mut ConnTable<Rest<P::Idle>>, &mut Vec<ConnKey>)) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut ready = Vec::new();
        act(&mut state.table, &mut ready);
        for key in ready {
            if let Some(waker) = state.waker_for(key) {
                // This waker is one of tokio's tasks, so the wake only schedules the task (C10).
                waker.wake();
            }
        }
    }

    /// Takes all parked connections, and wakes the suspended turns, the waits for a slot and the
    /// event loop. All of these find the flag `killed`, which the caller has set, and end (C8).
    pub(crate) fn drain_parked(&self) -> Vec<(ConnKey, Rest<P::Idle>)> {
        let mut state = self.lock();
        let (drained, tasks) = state.table.drain_parked();
        let State { suspended, waiting, event_loop, .. } = &mut *state;
        let wakers = suspended.drain().chain(waiting.drain()).map(|(_, waker)| waker);
        let wakers: Vec<_> = wakers.collect();
        let event_loop = event_loop.take();
        drop(state);
        wakers.into_iter().chain(tasks).chain(event_loop).for_each(Waker::wake);
        drained
    }

    /// Advances the table's time, tick by tick. Sleeps without a timer while there is no
    /// connection. `Server::start` runs this future as a task of tokio.
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
                self.each(|table, ready| table.cool(|key| ready.push(key)));
                next = next_tick(next, Instant::now(), tick);
            }
        }
    }

    /// Closes connections that have reached the maximal age. `Server::start` runs this future as a task
    /// if there is such an age.
    pub(crate) async fn run_ages(self: Arc<Self>) {
        let settings = &self.server.settings;
        let Some(age) = settings.max_age else { return };
        let again = Some(settings.shutdown_grace).filter(|grace| !grace.is_zero());
        let again = again.unwrap_or(Duration::from_secs(1));
        loop {
            let now = Instant::now();
            let (due, next) = {
                let State { ages, table, .. } = &mut *self.lock();
                ages.forget_ended(table);
                let due = ages.due(now, again, settings.max_age_grace);
                // A connection that comes later is due after the whole age. An old one may wait longer
                // for its next request to close.
                let next = ages.next().unwrap_or(now + age);
                let is_late = failpoint("a young connection waits for an old one");
                (due, if is_late { next } else { next.min(now + age) })
            };
            for (key, reason) in due {
                notifier::Notify::request_close(&*self, key, reason);
            }
            sleep_until(next).await;
        }
    }

    /// Stores the waker of a suspended turn, or of a wait for a slot if not `serving`.
    pub(super) fn suspend(&self, key: ConnKey, waker: &Waker, serving: bool) {
        let mut state = self.lock();
        let came = state.suspend(key, waker, serving, P::INTEREST);
        let is_cut_off = serving && state.cut_off(key).is_some();
        drop(state);
        if came || is_cut_off {
            waker.wake_by_ref();
        }
    }

    /// Returns the reason to close a connection whose user code is to be dropped, if there is one.
    pub(super) fn cut_off(&self, key: ConnKey) -> Option<CloseReason> {
        self.lock().cut_off(key)
    }

    /// Removes the waker. Returns the events that have come for a turn.
    pub(super) fn resume(&self, key: ConnKey, serving: bool) -> Events {
        let mut state = self.lock();
        state.wakers(serving).remove(&key);
        if serving { state.table.take_events(key, P::INTEREST) } else { Events::NONE }
    }

    /// Removes a connection's entry, and releases its permit. Called once, by the owner (C9).
    pub(crate) fn release(&self, key: ConnKey, counters: &Counters, reason: CloseReason) {
        let mut state = self.lock();
        state.totals.add(counters);
        let released = state.table.remove(key);
        // Only a detached connection still has a waker here.
        let waker = state.suspended.remove(&key);
        #[cfg(feature = "http")]
        state.requests.remove(&key);
        drop(state);
        if let Some((permit, parked_state)) = released {
            // N3
            let task = parked_state.as_ref().and_then(Rest::task);
            let is_paused = task.is_some_and(|task| task.is_paused());
            if is_paused && !failpoint("an ended task waits for ever") {
                self.server.traffic.add_paused(-1);
            }
            drop((parked_state, waker));
            self.server.on_close(permit, reason);
        }
    }

    /// Has the event loop of a runtime of one thread poll the inner epoll. A new connection may have
    /// bytes already, and the I/O driver of a busy runtime tells of them late.
    pub(crate) fn look_for_events(&self) {
        let mut state = self.lock();
        let waker = if state.workers.is_single_thread() { state.event_loop.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns whether all connections must end at once (C8).
    pub(crate) fn is_killed(&self) -> bool {
        self.server.killed.load(SeqCst)
    }
}

/// Returns when the tick after one that was due at `due` and came `now` is due.
///
/// A stall of the runtime counts as a single tick. A wait that began during the stall counts from the tick
/// before. Further ticks at once would end that wait early.
fn next_tick(due: Instant, now: Instant, tick: Duration) -> Instant {
    let is_stall = now.saturating_duration_since(due) >= TIMER_PRECISION;
    let shifts = is_stall || failpoint("roundings of the timer add up");
    let from = if shifts { now.max(due) } else { due };
    from + tick
}

impl<P: Protocol> notifier::Notify for ListenerConns<P> {
    fn deliver(&self, key: ConnKey, events: Events) {
        ListenerConns::deliver(self, key, events);
    }

    fn request_close(&self, key: ConnKey, reason: CloseReason) {
        let mut state = self.lock();
        let delivery = state.table.request_close(key, reason);
        // A turn without interest in events is woken, too.
        let turn = state.suspended.get(&key).filter(|_| reason.drops_calls()).cloned();
        self.wake_for(state, key, &delivery);
        turn.iter().for_each(Waker::wake_by_ref);
    }

    fn server(&self) -> &ServerState {
        &self.server
    }

    #[cfg(feature = "http")]
    fn id(&self) -> u64 {
        self.id
    }

    #[cfg(feature = "http")]
    fn register(&self, key: ConnKey, waker: &Waker) {
        let came = self.lock().suspend(key, waker, true, P::INTEREST);
        if came {
            waker.wake_by_ref();
        }
        // Read after the waker is stored: a kill sets the flag first and takes the wakers then
        // (C8).
        if self.is_killed() {
            waker.wake_by_ref();
        }
    }

    #[cfg(feature = "http")]
    fn count_request(&self, key: ConnKey) -> u32 {
        let mut state = self.lock();
        let count = state.requests.entry(key).or_default();
        *count = count.saturating_add(1);
        *count
    }

    #[cfg(feature = "http")]
    fn close_requested(&self, key: ConnKey) -> Option<CloseReason> {
        self.lock().table.close_requested(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Deadlines, Ticks};

    fn state(
        ready: usize,
        (searching, serving, last_turn_waited): (usize, usize, bool),
    ) -> State<u32> {
        let ticks = Ticks::new(&Deadlines::default());
        let mut table = ConnTable::new(ticks.horizon);
        for _ in 0..ready {
            let key = table.insert(PerIpPermit::UNCOUNTED);
            table.deliver(key, Events::READABLE);
            table.park(key, 0, (ParkReason::Idle, true), &ticks);
        }
        let workers =
            WorkerCounts { searching, serving, max: 3, last_turn_waited, is_behind: false };
        State::new(table, workers)
    }

    #[test]
    fn roundings_of_the_timer_do_not_add_up() {
        let (tick, begin) = (Duration::from_millis(10), Instant::now());
        let (mut due, mut now) = (begin + tick, begin);
        for _ in 0..1000 {
            // The timer fires at a whole millisecond, and its task runs a moment later.
            let millis = (due - begin).as_micros().div_ceil(1000) as u64;
            now = begin + Duration::from_micros(1000 * millis + 60);
            due = next_tick(due, now, tick);
        }
        assert!(now >= begin + 1000 * tick, "{:?}", now - begin);
        assert!(now < begin + 1000 * tick + TIMER_PRECISION, "{:?}", now - begin);
        // A stall counts once.
        assert_eq!(next_tick(due, due + 5 * tick, tick), due + 6 * tick);
    }

    #[test]
    fn a_suspended_turn_misses_no_event() {
        for (event, expected) in [(Events::READABLE, true), (Events::CLOSE_REQUESTED, false)] {
            let mut state = state(0, (0, 0, false));
            let key = state.table.insert(PerIpPermit::UNCOUNTED);
            let (waker, interest) = (Waker::noop(), Events::READABLE);
            // Before the turn is suspended, and after.
            assert!(state.deliver(key, event, interest).is_none());
            assert_eq!(state.suspend(key, waker, true, interest), expected);
            assert_eq!(state.deliver(key, event, interest).is_some(), expected);
            // A wait for a slot is no turn: the event is the input of the turn to come.
            state.suspended.remove(&key);
            assert!(!state.suspend(key, waker, false, interest));
            assert!(state.deliver(key, event, interest).is_none());
        }
    }

    #[test]
    fn a_worker_starts_while_ready_connections_have_none() {
        for (ready, workers, expected) in [
            (0, (0, 0, false), false),
            (1, (0, 0, false), true),
            (1, (1, 0, false), false),
            (1, (1, 1, false), true),
            (5, (2, 2, false), true),
            // At `max`: a worker is not in a turn; all are in a turn; turns suspend; enough
            // workers.
            (5, (3, 2, false), false),
            (5, (3, 3, false), true),
            (5, (3, 2, true), true),
            (1, (3, 2, true), false),
            // A crowd: one more for each `CROWD`, up to `MAX_MORE`.
            (CROWD - 1, (3, 0, false), false),
            (CROWD, (3, 0, false), true),
            (CROWD, (4, 0, false), false),
            (100 * CROWD, (3 + MAX_MORE - 1, 0, false), true),
            (100 * CROWD, (3 + MAX_MORE, 0, false), false),
        ] {
            assert_eq!(state(ready, workers).wants_worker(), expected, "{ready} {workers:?}");
        }
    }
}
