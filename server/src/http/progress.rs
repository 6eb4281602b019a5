//! The progress of the requests of one connection, and the waker that hyper is polled with.
//!
//! Owns the bits, the counts and [`Waiting`], the verdict that a turn acts on. Writers are the service's
//! future (`hyper_service.rs`), the bodies (`body.rs`) and the lent socket (`lent_io.rs`), each on the
//! thread that polls or drops it. Readers are the turn (`serve_turn.rs`) and the task of an HTTP/2
//! connection (`http2.rs`). `conn.rs` and `http2.rs` make the progress, one for each hyper connection.
//!
//! No lock covers the bits: each is one atomic word. The mutexes here guard the waker of a suspended turn and
//! the wakers of a detached socket; both are released before a waker is woken.
//!
//! What must never happen:
//!
//! - [`ConnProgress::is_whole`] is true while a part of the last request's body is still to come (`H1`);
//! - a wake-up gets lost between two polls (`H5`).
//!
//! `H1`, `H2` and the other invariants stand at the head of `http/mod.rs`.
//!
//! # The word
//!
//! ```text
//!  63            36 35             8 7            0
//! | request bodies |     guards     |     bits     |
//! ```
//!
//! A [`ProgressGuard`] stands for one part of a request that is under way. The guard counts in the middle
//! field, and in the upper field too if the part is a request body. The body of one request may end after
//! the next request has begun, so the bits of request bodies are cleared with the last of them.
//!
//! # The bits
//!
//! | bit | set | cleared |
//! |---|---|---|
//! | [`SERVICE`] | hyper calls the service | the response head is there, or hyper drops the future |
//! | [`SERVICE_PENDING`] | a poll of the service's future is pending | with `SERVICE` |
//! | [`RESPONSE_BODY`] | the response head is there | hyper drops the response body |
//! | [`RESPONSE_BODY_PENDING`] | a poll of the response body is pending | before its next poll; with `RESPONSE_BODY` |
//! | [`REQUEST_BODY`] | the request head is there, if a body follows | the last request body ends or is dropped |
//! | [`REQUEST_BODY_PENDING`] | a poll of the request body is pending, inside of hyper's poll | the body brings data; before a poll of the service's future or of the response body; with `REQUEST_BODY` |
//! | [`READ_ELSEWHERE`] | the same, outside of hyper's poll: in a task of its own | the body brings data; with `REQUEST_BODY` |
//! | [`UNFLUSHED`] | before each write to the socket; when a response body ends | a flush completes |
//!
//! `REQUEST_BODY_PENDING` is cleared before user code is polled because that poll may read the body again.
//! If the bit is set afterwards, that code waits for the peer. A poll of user code tells nothing of a reader
//! in another task, so that reader keeps its bit until it reads more. Hyper begins a request behind the end
//! of the body before it, so a new request clears both.
//!
//! # Memory orderings
//!
//! Accesses are SeqCst, but for those whose accessor names the partner and the reason.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
#[cfg(feature = "ws")]
use std::sync::{OnceLock, Weak};
use std::task::{Wake, Waker};

use crate::accept::address::Address;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::notifier::ConnNotifier;
use crate::http::stalls::Moves;
use crate::sync::{Mutex, failpoint};
#[cfg(feature = "ws")]
use crate::ws::{stream, upgrade::Upgrade};

/// The service's future exists.
pub(super) const SERVICE: u8 = 1;
/// The last poll of the service's future was pending.
pub(super) const SERVICE_PENDING: u8 = 2;
/// The response body exists.
pub(super) const RESPONSE_BODY: u8 = 4;
/// The last poll of the response body was pending.
pub(super) const RESPONSE_BODY_PENDING: u8 = 8;
/// A request body exists and has not been read to its end.
pub(super) const REQUEST_BODY: u8 = 16;
/// The code that reads the request body waits for the peer.
pub(super) const REQUEST_BODY_PENDING: u8 = 32;
/// Bytes were written after the last flush.
pub(super) const UNFLUSHED: u8 = 64;
/// A task of its own reads the request body, and waits for the peer.
pub(super) const READ_ELSEWHERE: u8 = 128;
/// The bits that a request body's end clears.
pub(super) const BODY: u8 = REQUEST_BODY | REQUEST_BODY_PENDING | READ_ELSEWHERE;

/// One guard.
const GUARD: u64 = 1 << 8;
/// One guard of a request body.
const BODY_GUARD: u64 = 1 << 36;

/// Hyper is being polled.
const POLLED: u8 = 1;
/// A wake-up came since that poll began.
const WOKEN: u8 = 2;

/// What a connection waits for after hyper's poll was pending. [`waiting`] computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The service computes the response. The service does not wait for the peer.
    Service,
    /// The response is complete. User code holds the request body and does not read it now.
    BodyReader,
    /// The peer is to send more of a request body. If no response has begun, a 408 is still possible.
    RequestBody { response_begun: bool },
    /// User code produces the next part of the response body.
    ResponseBody,
    /// The peer is to take bytes.
    Flush,
    /// The peer is to send the rest of the first head. No request has begun.
    Head,
    /// All requests are answered and flushed.
    Nothing,
}

/// Computes what the connection waits for.
///
/// `bits` are the bits of [`ConnProgress::bits`]. `is_blocked`: the socket refused bytes in hyper's last
/// write or flush. `has_requests`: the connection has begun a request since hyper has its socket.
///
/// The first part of a request that is still there decides, in the order of a request: the service, then
/// the response body, then the request body, then the flush.
pub(super) fn waiting(bits: u8, is_blocked: bool, has_requests: bool) -> Waiting {
    let has = |bit| bits & bit != 0;
    let reader_waits = has(REQUEST_BODY) && has(REQUEST_BODY_PENDING | READ_ELSEWHERE);
    if has(SERVICE) {
        return match has(SERVICE_PENDING) {
            // Hyper has not polled the service's future yet, since hyper itself waits for the peer.
            false if is_blocked => Waiting::Flush,
            false => Waiting::RequestBody { response_begun: false },
            true if reader_waits => Waiting::RequestBody { response_begun: false },
            true => Waiting::Service,
        };
    }
    if has(RESPONSE_BODY) {
        return match is_blocked {
            true => Waiting::Flush,
            // Hyper has asked for no more of the response body, or the response body reads the request.
            false if reader_waits || !has(RESPONSE_BODY_PENDING) => {
                Waiting::RequestBody { response_begun: true }
            }
            false => Waiting::ResponseBody,
        };
    }
    if has(REQUEST_BODY) {
        return match reader_waits {
            true => Waiting::RequestBody { response_begun: true },
            false => Waiting::BodyReader,
        };
    }
    match is_blocked || has(UNFLUSHED) {
        true => Waiting::Flush,
        false if has_requests => Waiting::Nothing,
        false => Waiting::Head,
    }
}

/// Whether a part of a request is there: a graceful shutdown lets that request finish.
pub(super) fn is_under_way(bits: u8) -> bool {
    bits & (SERVICE | RESPONSE_BODY | REQUEST_BODY) != 0
}

/// The parts of a detached connection that wait for its socket.
#[derive(Clone, Copy)]
pub(super) enum SocketWaiter {
    /// The reader of an upgraded connection, or hyper's HTTP/2.
    Reader,
    /// The writer of an upgraded connection, or hyper's HTTP/2.
    Writer,
    /// The task of an HTTP/2 connection.
    Task,
}

thread_local! {
    /// The progress of the connection whose hyper this thread polls. Compared only.
    static POLLED_HERE: Cell<*const ConnProgress> = const { Cell::new(null()) };
}

/// A poll of hyper on this thread, until the drop.
pub(super) struct HyperPoll {
    /// The poll that this one runs in.
    outer: *const ConnProgress,
}

impl Drop for HyperPoll {
    fn drop(&mut self) {
        POLLED_HERE.set(self.outer);
    }
}

/// How far a connection is with its requests. Also the waker that turns poll hyper with.
pub(super) struct ConnProgress {
    notifier: ConnNotifier,
    /// The peer's address, for the extensions of requests.
    peer: Option<Address>,
    /// A shutdown of the server has begun.
    is_stopping: Arc<AtomicBool>,
    /// The waker of a suspended turn.
    turn: Mutex<Option<Waker>>,
    /// Bits and counts; see the module's head.
    state: AtomicU64,
    /// See [`requests`](Self::requests).
    requests: AtomicU64,
    /// See [`last_body`](Self::last_body). `u64::MAX`: unknown.
    body: AtomicU64,
    /// The number of the last request whose body hyper has read to its end. Never falls.
    whole: AtomicU64,
    /// How many parts of responses hyper has taken and not written yet. HTTP/2 alone counts them.
    unsent: AtomicUsize,
    /// How many tasks hyper has for streams of HTTP/2.
    streams: AtomicUsize,
    /// See [`clock`](Self::clock).
    clock: AtomicU64,
    /// See [`take_new_wait`](Self::take_new_wait).
    new_wait: AtomicBool,
    /// See [`switches`](Self::switches).
    switches: AtomicBool,
    /// The grace of the connection's age has passed. Never cleared.
    cut_off: AtomicBool,
    /// `POLLED` and `WOKEN`.
    polls: AtomicU8,
    /// See [`is_detached`](Self::is_detached). Never cleared.
    detached: AtomicBool,
    /// The wakers of a detached socket, by [`SocketWaiter`].
    waiters: Mutex<[Option<Waker>; 3]>,
    /// The WebSocket that the last response accepts.
    #[cfg(feature = "ws")]
    upgrade: Mutex<Option<Upgrade>>,
    /// What the WebSockets of an HTTP/2 connection listen to. Made for the first of them.
    #[cfg(feature = "ws")]
    signals: OnceLock<stream::Signals>,
    /// See [`Entry`].
    #[cfg(feature = "ws")]
    entry: OnceLock<Weak<Entry>>,
}

/// The entry and the permit of a detached connection. The last owner frees them.
pub(crate) type Entry = Mutex<Box<dyn Any + Send>>;

impl ConnProgress {
    /// Creates the progress of a connection that hyper gets.
    pub(super) fn new(
        notifier: ConnNotifier,
        peer: Option<Address>,
        is_stopping: Arc<AtomicBool>,
    ) -> Self {
        Self {
            notifier,
            peer,
            is_stopping,
            turn: Mutex::new(None),
            state: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            body: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            unsent: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
            new_wait: AtomicBool::new(false),
            switches: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            polls: AtomicU8::new(0),
            detached: AtomicBool::new(false),
            waiters: Mutex::new([const { None }; 3]),
            #[cfg(feature = "ws")]
            upgrade: Mutex::new(None),
            #[cfg(feature = "ws")]
            signals: OnceLock::new(),
            #[cfg(feature = "ws")]
            entry: OnceLock::new(),
        }
    }

    /// Returns the bits, for [`waiting`].
    pub(super) fn bits(&self) -> u8 {
        self.state.load(SeqCst) as u8
    }

    /// Sets bits. Reads first: most bits are set already, and a read costs less than a write.
    pub(super) fn set(&self, bits: u8) {
        if self.bits() & bits != bits {
            self.state.fetch_or(bits.into(), SeqCst);
        }
    }

    /// Clears bits. Reads first, as [`set`](Self::set) does.
    pub(super) fn clear(&self, bits: u8) {
        if self.bits() & bits != 0 {
            self.state.fetch_and(!u64::from(bits), SeqCst);
        }
    }

    /// Changes bits and counts in one step. Returns the word before.
    fn change(&self, change: impl Fn(u64) -> u64) -> u64 {
        let changed = self.state.fetch_update(SeqCst, SeqCst, |state| Some(change(state)));
        changed.unwrap_or_else(|state| state)
    }

    /// Returns how many requests hyper has begun. The count is the number of the last request.
    ///
    /// Relaxed: [`begin`](Self::begin) is the only writer. The owner of hyper's connection makes that call
    /// and reads the count (`H4`), and a hand-over of the connection between threads goes through a lock.
    /// [`body_brings`](Self::body_brings) may read an old count on another thread.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Returns the length of the last request's body in bytes; none if the head does not tell.
    ///
    /// Relaxed, for the reason that [`requests`](Self::requests) gives.
    pub(super) fn last_body(&self) -> Option<u64> {
        Some(self.body.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// Whether hyper has read the body of the last request to its end.
    ///
    /// Other threads read bodies, so an answer may come late. It is never too early, and `true` stays true
    /// until the owner of hyper's connection has hyper begin another request (`H1`). Hyper begins one only
    /// behind the end of the body before it, so the last request is the only one in doubt.
    pub(super) fn is_whole(&self) -> bool {
        self.last_body() == Some(0) || self.whole.load(SeqCst) == self.requests()
    }

    /// Notes that hyper has read the body of a request to its end.
    pub(super) fn note_whole(&self, request: u64) {
        self.whole.fetch_max(request, SeqCst);
    }

    /// Returns the peer's address, if requests carry it.
    pub(super) fn peer(&self) -> Option<Address> {
        self.peer
    }

    /// Whether a shutdown of the server has begun.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Notes that a request begins, with a body of `body` bytes; see [`last_body`](Self::last_body).
    /// Called inside of hyper's poll.
    pub(super) fn begin(&self, body: Option<u64>) {
        // Relaxed: see `requests`. No other thread writes meanwhile.
        self.requests.store(self.requests() + 1, Relaxed);
        self.body.store(body.unwrap_or(u64::MAX), Relaxed);
        self.clear(REQUEST_BODY_PENDING | READ_ELSEWHERE);
    }

    /// Notes that this thread polls hyper, until the drop of the result.
    pub(super) fn enter_poll(&self) -> HyperPoll {
        HyperPoll { outer: POLLED_HERE.replace(self) }
    }

    /// Notes that the reader of a request body waits for the peer. The turn does not see what another task
    /// does, so it is woken for a reader there. HTTP/2 has a deadline in each body, and no turn.
    pub(super) fn body_waits(self: &Arc<Self>, request: u64) {
        if POLLED_HERE.get() == Arc::as_ptr(self) || self.is_detached() {
            self.clear(READ_ELSEWHERE);
            self.set(REQUEST_BODY_PENDING);
        } else if self.bits() & READ_ELSEWHERE == 0
            && request == self.requests()
            && !failpoint("a reader in another task has no deadline")
        {
            self.new_wait.store(true, SeqCst);
            self.set(READ_ELSEWHERE);
            // Another request may have begun meanwhile.
            if request != self.requests() {
                self.clear(READ_ELSEWHERE);
            }
            self.wake_by_ref();
        }
    }

    /// Notes that the body of a request has brought data to its reader.
    pub(super) fn body_brings(&self, request: u64) {
        // A reader of an earlier body does not tell of the reader of this one.
        if request == self.requests() {
            self.clear(REQUEST_BODY_PENDING | READ_ELSEWHERE);
        }
    }

    /// Returns whether a reader in another task has begun to wait since the last call. The reader did not
    /// wait before, so the deadline begins anew.
    pub(super) fn take_new_wait(&self) -> bool {
        self.new_wait.load(SeqCst) && self.new_wait.swap(false, SeqCst)
    }

    /// Whether the last response gives the connection away: a 101, or a success of a CONNECT. Hyper ends as
    /// for an upgrade also if a later or a refused request is the last one.
    ///
    /// Relaxed, as the change: the owner of hyper's connection makes both calls (`H4`).
    pub(super) fn switches(&self) -> bool {
        self.switches.load(Relaxed) || failpoint("a refused upgrade ends as one that is taken")
    }

    pub(super) fn set_switches(&self, switches: bool) {
        self.switches.store(switches, Relaxed);
    }

    /// Returns the time of the last poll of an HTTP/2 connection's task, in nanoseconds since the connection
    /// began. 0: no write timeout needs the time.
    ///
    /// Relaxed, as the change: that poll itself writes to the socket and reads the time.
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    pub(super) fn set_clock(&self, nanos: u64) {
        self.clock.store(nanos.max(1), Relaxed);
    }

    /// Notes that hyper's poll begins. A wake-up during the poll sets `WOKEN`, and the turn polls again. A
    /// wake-up after the poll schedules a new turn; that turn may find nothing to do.
    ///
    /// Relaxed: the partner is the `fetch_or` in `wake_by_ref`. If this store overwrites the `WOKEN` of an
    /// earlier wake-up, that wake-up saw no `POLLED` and schedules a turn on its own (`H5`).
    pub(super) fn poll_begins(&self) {
        self.polls.store(POLLED, Relaxed);
    }

    /// Notes that hyper's poll has ended. Returns whether a wake-up came meanwhile.
    pub(super) fn poll_ends(&self) -> bool {
        self.polls.swap(0, SeqCst) & WOKEN != 0 && !failpoint("a wake-up within a poll is lost")
    }

    /// Registers the waker of a turn that is suspended. A wake-up between the last poll and this call has
    /// gone to the notifier, which wakes the turn as well.
    pub(super) fn suspend(&self, turn: &Waker) {
        *self.turn.lock() = Some(turn.clone());
    }

    /// Removes the waker of the turn. Called when that turn goes on.
    pub(super) fn resume(&self) {
        let turn = self.turn.lock().take();
        drop(turn);
    }

    /// Wakes the suspended turn. Without one, delivers an event to the connection, which becomes ready.
    fn wake_turn(&self) {
        let turn = self.turn.lock().clone();
        match turn {
            Some(turn) => turn.wake(),
            None => self.notifier.push(),
        }
    }

    /// Whether a guard exists: user code is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(SeqCst) >= GUARD
    }

    /// Whether bytes of responses wait to be written. They do not make the connection busy, since no user
    /// code is under way for them.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.load(SeqCst) > 0
    }

    /// Returns how many streams of HTTP/2 have a task: those whose response hyper has not taken whole, and
    /// tunnels.
    ///
    /// Relaxed, as the changes: the count decides between deadlines, and guards no other data.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    pub(super) fn stream_begins(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    pub(super) fn stream_ends(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Whether the socket's owner owns the connection: after an upgrade, and with HTTP/2 before the first
    /// request.
    pub(super) fn is_detached(&self) -> bool {
        self.detached.load(SeqCst)
    }

    /// Sets the reason that the connection's end is counted under, unless a stronger one is set.
    pub(super) fn close(&self, reason: CloseReason) {
        self.notifier.close(reason);
    }

    /// Whether the server was dropped, or its shutdown's deadline has passed.
    pub(super) fn is_killed(&self) -> bool {
        self.notifier.server().killed.load(SeqCst)
    }

    /// Whether the owner of a detached connection may read and write no more.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_killed() || self.cut_off.load(SeqCst)
    }

    /// Notes whether the grace of the connection's age has passed. Called after each event of a detached
    /// connection.
    fn note_age(&self) {
        const TOO_OLD: CloseReason = CloseReason::Deadline(Deadline::MaxAge);
        if self.notifier.server().settings.max_age_grace.is_some()
            && !self.cut_off.load(SeqCst)
            && self.close_requested() == Some(TOO_OLD)
            && !failpoint("an upgraded connection outlives the grace of its age")
        {
            self.cut_off.store(true, SeqCst);
        }
    }

    /// Returns the reason of a requested close, if there is one.
    pub(super) fn close_requested(&self) -> Option<CloseReason> {
        self.notifier.close_requested()
    }

    /// Adds what a detached connection has done to the counts of the server.
    pub(super) fn count_traffic(&self, read: u64, wrote: u64, requests: u64) {
        self.notifier.server().traffic.add(read, wrote, requests);
    }

    /// Counts a request of the connection. Returns the count, over all of the connection's life.
    pub(super) fn count_request(&self) -> u32 {
        self.notifier.count_request()
    }

    /// Registers a waker for events of a detached connection.
    pub(super) fn register(&self, waiter: SocketWaiter, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        match &mut waiters[waiter as usize] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Keeps the WebSocket that a 101 accepts, until hyper has sent the response.
    #[cfg(feature = "ws")]
    pub(super) fn accept(&self, upgrade: Option<Upgrade>) {
        let before = std::mem::replace(&mut *self.upgrade.lock(), upgrade);
        drop(before);
    }

    /// Returns what a stream of HTTP/2 must know of its connection. Returns `None` after its end.
    #[cfg(feature = "ws")]
    pub(super) fn stream_of(&self) -> Option<stream::Of> {
        let entry = self.entry.get()?.upgrade()?;
        let signals = self.signals.get_or_init(stream::Signals::default).clone();
        // The request may have come before the first signal was made, and the kill as well.
        self.tell_streams();
        let notifier = self.notifier.clone();
        Some(stream::Of { address: self.peer?, notifier, signals, _entry: entry })
    }

    /// Tells the WebSockets of an HTTP/2 connection that the connection is to end.
    #[cfg(feature = "ws")]
    pub(super) fn say_goodbye(&self) {
        self.signals.get_or_init(stream::Signals::default).goodbye.cancel();
    }

    /// Tells the WebSockets of an HTTP/2 connection if the connection is cut off. Called after each event
    /// of the connection. A peer that has left ends no handler.
    #[cfg(feature = "ws")]
    fn tell_streams(&self) {
        let Some(signals) = self.signals.get() else { return };
        let survives = failpoint("a handler of HTTP/2 survives its server");
        if signals.killed.is_cancelled() || survives {
            return;
        }
        if self.is_killed() || self.close_requested().is_some_and(CloseReason::drops_calls) {
            signals.killed.cancel();
        }
    }

    /// Takes the WebSocket that the last response has accepted.
    #[cfg(feature = "ws")]
    pub(super) fn take_upgrade(&self) -> Option<Upgrade> {
        self.upgrade.lock().take()
    }

    /// Directs events to the registered wakers from now on.
    pub(super) fn detach(self: &Arc<Self>, entry: &Arc<Entry>) {
        #[cfg(feature = "ws")]
        let _ = self.entry.set(Arc::downgrade(entry));
        #[cfg(not(feature = "ws"))]
        let _ = entry;
        self.detached.store(true, SeqCst);
        let waker = Waker::from(self.clone());
        self.notifier.register(&waker);
        // An event before `register` reached none of the waiters. All of them look again.
        waker.wake();
    }
}

impl Wake for ConnProgress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.detached.load(SeqCst) {
            // Within a poll the turn polls again. The swap in `poll_ends` is the partner.
            if self.polls.fetch_or(WOKEN, SeqCst) & POLLED == 0 {
                self.wake_turn();
            }
            return;
        }
        self.note_age();
        #[cfg(feature = "ws")]
        self.tell_streams();
        let wakers = self.waiters.lock().clone();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// One part of a request that is under way. The drop ends the part.
pub(super) struct ProgressGuard {
    pub(super) progress: Arc<ConnProgress>,
    /// The bits that the part's end clears.
    bits: u8,
    /// The bits that the part's end sets.
    set_at_end: u8,
}

impl ProgressGuard {
    /// Begins a part: sets its first bit now, clears `bits` and sets `set_at_end` at its end.
    pub(super) fn new(progress: Arc<ConnProgress>, bits: u8, set_at_end: u8) -> Self {
        progress.change(|state| (state | initial_bits(bits)) + GUARD + body_guards(bits));
        Self { progress, bits, set_at_end }
    }

    /// Ends the part and begins the next, in one step: the connection never looks idle in between.
    pub(super) fn continue_as(mut self, bits: u8, set_at_end: u8) -> Self {
        self.progress.change(|state| (self.ended(state) | initial_bits(bits)) + body_guards(bits));
        (self.bits, self.set_at_end) = (bits, set_at_end);
        self
    }

    /// Computes the word after this part's end, with the guard itself still counted.
    fn ended(&self, state: u64) -> u64 {
        let state = (state | u64::from(self.set_at_end)) - body_guards(self.bits);
        // The bits of a request body stand for all request bodies.
        let others = state >= BODY_GUARD && !failpoint("one body ends for all");
        let others = if others { BODY } else { 0 };
        state & !u64::from(self.bits & !others)
    }
}

/// Returns those of a guard's bits that hold from its beginning: all but the pending ones.
fn initial_bits(bits: u8) -> u64 {
    (bits & (SERVICE | RESPONSE_BODY | REQUEST_BODY)).into()
}

/// Returns what a guard with these bits adds to the count of request bodies.
fn body_guards(bits: u8) -> u64 {
    if bits & REQUEST_BODY != 0 { BODY_GUARD } else { 0 }
}

impl Drop for ProgressGuard {
    fn drop(&mut self) {
        let before = self.progress.change(|state| self.ended(state) - GUARD);
        let was_last = before % BODY_GUARD / GUARD == 1;
        // Another task may drop the part. The connection then needs a wake-up to see the end.
        let ends_body = self.bits & REQUEST_BODY != 0 && !failpoint("a dropped body wakes nothing");
        if ends_body || was_last && self.progress.detached.load(SeqCst) {
            self.progress.wake_by_ref();
        }
    }
}

impl fmt::Debug for ProgressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressGuard")
    }
}

/// A part of a response that hyper has taken. The drop tells that hyper has written or discarded it.
pub(super) struct UnsentGuard {
    progress: Arc<ConnProgress>,
    /// None if no write timeout needs it.
    moves: Option<Moves>,
}

impl UnsentGuard {
    pub(super) fn new(progress: &Arc<ConnProgress>, moves: Option<&Moves>) -> Self {
        progress.unsent.fetch_add(1, SeqCst);
        Self { progress: progress.clone(), moves: moves.cloned() }
    }

    /// Notes that hyper writes bytes of the part.
    pub(super) fn moved(&self) {
        if let Some(moves) = &self.moves {
            moves.set(self.progress.clock());
        }
    }
}

impl Drop for UnsentGuard {
    fn drop(&mut self) {
        if self.progress.unsent.fetch_sub(1, SeqCst) == 1 {
            // The connection's task computes anew how long the peer may be silent.
            self.progress.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests;
