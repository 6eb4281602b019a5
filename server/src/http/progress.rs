//! How far a connection is with its requests, as told by those who take part: hyper, the service,
//! and the bodies, wherever they are polled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::task::{Wake, Waker};

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::ConnNotifier;
use crate::sync::Mutex;

/// The service's future is there.
pub(crate) const SERVICE: u8 = 1;
/// When it was polled last, it was pending.
pub(crate) const SERVICE_PENDING: u8 = 2;
/// The body of the response is there.
pub(crate) const RESPONSE_BODY: u8 = 4;
pub(crate) const RESPONSE_BODY_PENDING: u8 = 8;
/// The body of the request is there, and was not read to its end.
pub(crate) const REQUEST_BODY: u8 = 16;
/// Whoever reads it waits for the peer.
pub(crate) const REQUEST_BODY_PENDING: u8 = 32;
/// Something was written after the last flush.
pub(crate) const UNFLUSHED: u8 = 64;
/// The body of the request was not read to its end, and will not be.
pub(crate) const REQUEST_BODY_DROPPED: u8 = 128;

/// Above the bits stands how many shares there are.
const GUARD: u64 = 1 << 8;
/// Above that, how many of the shares are bodies of requests. The body of one request may end after
/// the next request has begun.
const BODIES: u64 = 1 << 36;

/// Hyper is polled.
const POLLED: u8 = 1;
/// It was woken since the last poll began.
const WOKEN: u8 = 2;

/// What may wait for a detached socket.
#[derive(Clone, Copy)]
pub(crate) enum SocketWaiter {
    Reader,
    Writer,
    Task,
}

/// Wakes the connection, too: it is the waker that hyper is polled with.
pub(crate) struct ConnProgress {
    /// Of no connection while it is in the pool.
    target: Mutex<Target>,
    state: AtomicU64,
    /// Requests that were begun. Counted, as is the size of the body, where hyper is polled, so by
    /// one at a time.
    requests: AtomicU64,
    /// How many bytes the body of the last one has; `u64::MAX` if that is not known.
    body: AtomicU64,
    /// Bodies that were dropped before their end, of all requests. The count never falls.
    cuts: AtomicU64,
    /// Parts of answers that hyper has and has not written yet; of HTTP/2 alone.
    unsent: AtomicUsize,
    polls: AtomicU8,
    detached: AtomicBool,
    waiters: Mutex<[Option<Waker>; 3]>,
}

/// The connection that it belongs to.
#[derive(Default)]
struct Target {
    notifier: Option<ConnNotifier>,
    /// Its turn, while that waits for user code.
    turn: Option<Waker>,
    /// For the requests to tell.
    peer: Option<Address>,
}

impl ConnProgress {
    pub(crate) fn new() -> Self {
        Self {
            target: Mutex::new(Target::default()),
            state: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            body: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            unsent: AtomicUsize::new(0),
            polls: AtomicU8::new(0),
            detached: AtomicBool::new(false),
            waiters: Mutex::new([const { None }; 3]),
        }
    }

    pub(crate) fn bits(&self) -> u8 {
        self.state.load(SeqCst) as u8
    }

    // Looking costs less than writing what is there already.
    pub(crate) fn set(&self, bits: u8) {
        if self.bits() & bits != bits {
            self.state.fetch_or(bits.into(), SeqCst);
        }
    }

    pub(crate) fn clear(&self, bits: u8) {
        if self.bits() & bits != 0 {
            self.state.fetch_and(!u64::from(bits), SeqCst);
        }
    }

    fn change(&self, change: impl Fn(u64) -> u64) -> u64 {
        let changed = self.state.fetch_update(SeqCst, SeqCst, |state| Some(change(state)));
        changed.unwrap_or_else(|state| state)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(crate) fn last_body(&self) -> Option<u64> {
        Some(self.body.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// How many bodies were dropped before their end. A body counts before its `BODY` bit is
    /// cleared: bits that show no body are read first, and the count after them is complete.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(SeqCst)
    }

    /// A body was not read to its end, and will not be.
    pub(crate) fn note_cut(&self) {
        self.cuts.fetch_add(1, SeqCst);
    }

    /// Binds it to a connection.
    pub(crate) fn bind(&self, notifier: ConnNotifier, peer: Option<Address>) {
        debug_assert_eq!(self.cuts(), 0, "the state of a connection with a cut body is reused");
        self.requests.store(0, Relaxed);
        *self.target.lock() = Target { notifier: Some(notifier), turn: None, peer };
    }

    /// Unbinds it. Wakers that outlive their requests wake nothing until it is bound again, and may
    /// wake the next connection once too often then.
    pub(crate) fn unbind(&self) {
        let before = std::mem::take(&mut *self.target.lock());
        drop(before);
    }

    fn notifier(&self) -> Option<ConnNotifier> {
        self.target.lock().notifier.clone()
    }

    pub(crate) fn peer(&self) -> Option<Address> {
        self.target.lock().peer
    }

    /// Whether nothing is under way, and no body was left unread.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.state.load(SeqCst) == 0
    }

    /// A request begins.
    pub(crate) fn begin(&self, body: Option<u64>) {
        self.requests.store(self.requests() + 1, Relaxed);
        self.body.store(body.unwrap_or(u64::MAX), Relaxed);
        self.clear(REQUEST_BODY_DROPPED);
    }

    /// Whoever wakes it from now on has it polled again. Those who know of that too late have the
    /// connection taken up once more.
    pub(crate) fn poll_begins(&self) {
        self.polls.store(POLLED, Relaxed);
    }

    /// Whether it is to be polled again at once.
    pub(crate) fn poll_ends(&self) -> bool {
        self.polls.swap(0, SeqCst) & WOKEN != 0
    }

    /// Its turn waits from now on; what woke it just before has told the connection.
    pub(crate) fn suspend(&self, turn: &Waker) {
        self.target.lock().turn = Some(turn.clone());
    }

    pub(crate) fn resume(&self) {
        let turn = self.target.lock().turn.take();
        drop(turn);
    }

    /// Wakes the turn that waits, or has the connection taken up.
    fn wake_turn(&self) {
        let target = self.target.lock();
        let (turn, notifier) = match &target.turn {
            Some(turn) => (Some(turn.clone()), None),
            None => (None, target.notifier.clone()),
        };
        drop(target);
        turn.into_iter().for_each(Waker::wake);
        notifier.iter().for_each(ConnNotifier::push);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.state.load(SeqCst) >= GUARD
    }

    /// Whether bytes of answers wait to be written. They do not count as busy: no user code is
    /// under way for them.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(SeqCst) > 0
    }

    /// Whether the connection was left to others, as one of HTTP/2 is before its first request.
    pub(crate) fn is_left(&self) -> bool {
        self.detached.load(SeqCst)
    }

    /// The reason that is told when the connection ends, unless a stronger one is known.
    pub(crate) fn close(&self, reason: CloseReason) {
        if let Some(notifier) = self.notifier() {
            notifier.close(reason);
        }
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.notifier().is_some_and(|notifier| notifier.server().killed.load(SeqCst))
    }

    pub(crate) fn close_requested(&self) -> Option<CloseReason> {
        self.notifier()?.close_requested()
    }

    pub(crate) fn register(&self, who: SocketWaiter, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        match &mut waiters[who as usize] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// From now on events wake the registered wakers.
    pub(crate) fn detach(self: &Arc<Self>) {
        self.detached.store(true, SeqCst);
        let waker = Waker::from(self.clone());
        if let Some(notifier) = self.notifier() {
            notifier.register(&waker);
        }
        // They may have looked at the socket before.
        waker.wake();
    }
}

impl Wake for ConnProgress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.detached.load(SeqCst) {
            if self.polls.fetch_or(WOKEN, SeqCst) & POLLED == 0 {
                self.wake_turn();
            }
            return;
        }
        let wakers = self.waiters.lock().clone();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// One part of a request that is under way: the part is over when this is dropped.
pub(crate) struct ProgressGuard {
    pub(crate) progress: Arc<ConnProgress>,
    pub(crate) bits: u8,
    /// Noted at its end.
    pub(crate) set_at_end: u8,
}

impl ProgressGuard {
    pub(crate) fn new(progress: Arc<ConnProgress>, bits: u8, set_at_end: u8) -> Self {
        progress.change(|state| (state | initial_bits(bits)) + GUARD + bodies(bits));
        Self { progress, bits, set_at_end }
    }

    /// It is over, and the next thing begins.
    pub(crate) fn continue_as(mut self, bits: u8, set_at_end: u8) -> Self {
        self.progress.change(|state| (self.ended(state) | initial_bits(bits)) + bodies(bits));
        (self.bits, self.set_at_end) = (bits, set_at_end);
        self
    }

    fn ended(&self, state: u64) -> u64 {
        let state = (state | u64::from(self.set_at_end)) - bodies(self.bits);
        // The bits of a body stand for all bodies.
        let others = if state >= BODIES { REQUEST_BODY | REQUEST_BODY_PENDING } else { 0 };
        state & !u64::from(self.bits & !others)
    }
}

/// What is true at the beginning already.
fn initial_bits(bits: u8) -> u64 {
    (bits & (SERVICE | RESPONSE_BODY | REQUEST_BODY)).into()
}

/// What a share with these bits adds to the count of bodies.
fn bodies(bits: u8) -> u64 {
    if bits & REQUEST_BODY != 0 { BODIES } else { 0 }
}

impl Drop for ProgressGuard {
    fn drop(&mut self) {
        if self.set_at_end & REQUEST_BODY_DROPPED != 0 {
            self.progress.note_cut();
        }
        let before = self.progress.change(|state| self.ended(state) - GUARD);
        let was_last = before % BODIES / GUARD == 1;
        // Dropped elsewhere, nobody else would look whether that was all.
        if self.bits & REQUEST_BODY != 0 || was_last && self.progress.detached.load(SeqCst) {
            self.progress.wake_by_ref();
        }
    }
}

/// A part of an answer, until hyper has written it or dropped it.
pub(crate) struct Unsent(Arc<ConnProgress>);

impl Unsent {
    pub(crate) fn new(progress: &Arc<ConnProgress>) -> Self {
        progress.unsent.fetch_add(1, SeqCst);
        Self(progress.clone())
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.0.unsent.fetch_sub(1, SeqCst) == 1 {
            // The connection's task looks how long the peer may be silent now.
            self.0.wake_by_ref();
        }
    }
}

impl fmt::Debug for ProgressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_ends_late_leaves_the_next_one_its_bits() {
        let progress = Arc::new(ConnProgress::new());
        let body = || {
            ProgressGuard::new(
                progress.clone(),
                REQUEST_BODY | REQUEST_BODY_PENDING,
                REQUEST_BODY_DROPPED,
            )
        };
        let (mut first, second) = (body(), body());
        first.set_at_end = 0;
        progress.set(REQUEST_BODY_PENDING);
        drop(first);
        assert_eq!((progress.bits(), progress.cuts()), (REQUEST_BODY | REQUEST_BODY_PENDING, 0));
        drop(second);
        assert_eq!(
            (progress.bits(), progress.cuts(), progress.is_busy()),
            (REQUEST_BODY_DROPPED, 1, false)
        );
        progress.begin(None);
        assert_eq!((progress.bits(), progress.cuts(), progress.is_at_rest()), (0, 1, true));
    }

    #[test]
    fn an_answer_takes_over_the_share_of_its_call() {
        let progress = Arc::new(ConnProgress::new());
        let call = ProgressGuard::new(progress.clone(), SERVICE | SERVICE_PENDING, 0);
        progress.set(SERVICE_PENDING);
        let answer = call.continue_as(RESPONSE_BODY | RESPONSE_BODY_PENDING, UNFLUSHED);
        assert_eq!((progress.bits(), progress.is_busy()), (RESPONSE_BODY, true));
        drop(answer);
        assert_eq!((progress.bits(), progress.is_busy()), (UNFLUSHED, false));
    }
}
