//! How far a connection is with its requests, as told by those who take part: hyper, the service,
//! and the bodies, wherever they are polled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::task::{Wake, Waker};

use super::super::nudge::Nudge;
use super::super::reason::CloseReason;
use crate::sync::Mutex;

/// The service's future is there.
pub(super) const CALL: u8 = 1;
/// When it was polled last, it was pending.
pub(super) const CALL_WAITS: u8 = 2;
/// The body of the response is there.
pub(super) const ANSWER: u8 = 4;
pub(super) const ANSWER_WAITS: u8 = 8;
/// The body of the request is there, and was not read to its end.
pub(super) const BODY: u8 = 16;
/// Whoever reads it waits for the peer.
pub(super) const BODY_WAITS: u8 = 32;
/// Something was written after the last flush.
pub(super) const UNFLUSHED: u8 = 64;
/// The body of the request was not read to its end, and will not be.
pub(super) const CUT: u8 = 128;

/// Hyper is not polled.
const RESTING: u8 = 0;
const POLLED: u8 = 1;
/// It is, and must be polled again.
const WOKEN: u8 = 2;

/// Those who wait for a socket that was left to them.
#[derive(Clone, Copy)]
pub(super) enum Listener {
    Reader,
    Writer,
    Task,
}

/// Wakes the connection, too: it is the waker that hyper is polled with.
pub(super) struct Flow {
    nudge: Nudge,
    bits: AtomicU8,
    /// Requests that were begun.
    requests: AtomicU64,
    /// Of these, how many are under way.
    busy: AtomicUsize,
    /// How many bytes the body of the last one has; `u64::MAX` if that was not said.
    body: AtomicU64,
    /// A request has asked for an upgrade.
    upgrade: AtomicBool,
    polls: AtomicU8,
    left: AtomicBool,
    listeners: Mutex<[Option<Waker>; 3]>,
}

impl Flow {
    pub(super) fn new(nudge: Nudge) -> Self {
        Self {
            nudge,
            bits: AtomicU8::new(0),
            requests: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            body: AtomicU64::new(0),
            upgrade: AtomicBool::new(false),
            polls: AtomicU8::new(RESTING),
            left: AtomicBool::new(false),
            listeners: Mutex::new([const { None }; 3]),
        }
    }

    pub(super) fn bits(&self) -> u8 {
        self.bits.load(SeqCst)
    }

    // Looking costs less than writing what is there already.
    pub(super) fn set(&self, bits: u8) {
        if self.bits() & bits != bits {
            self.bits.fetch_or(bits, SeqCst);
        }
    }

    pub(super) fn clear(&self, bits: u8) {
        if self.bits() & bits != 0 {
            self.bits.fetch_and(!bits, SeqCst);
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    pub(super) fn last_body(&self) -> Option<u64> {
        Some(self.body.load(SeqCst)).filter(|bytes| *bytes != u64::MAX)
    }

    /// A request begins.
    pub(super) fn begin(&self, body: Option<u64>, upgrade: bool) {
        if upgrade {
            self.upgrade.store(true, SeqCst);
        }
        self.requests.fetch_add(1, SeqCst);
        self.body.store(body.unwrap_or(u64::MAX), SeqCst);
        self.clear(CUT);
    }

    /// Whoever wakes it from now on has it polled again.
    pub(super) fn poll_begins(&self) {
        self.polls.store(POLLED, SeqCst);
    }

    /// Whether it is to be polled again at once.
    pub(super) fn poll_ends(&self) -> bool {
        self.polls.swap(RESTING, SeqCst) == WOKEN
    }

    pub(super) fn may_upgrade(&self) -> bool {
        self.upgrade.load(SeqCst)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(SeqCst) > 0
    }

    pub(super) fn is_killed(&self) -> bool {
        self.nudge.hub().killed.load(SeqCst)
    }

    pub(super) fn doom(&self) -> Option<CloseReason> {
        self.nudge.doom_of()
    }

    pub(super) fn listen(&self, who: Listener, waker: &Waker) {
        let mut listeners = self.listeners.lock();
        match &mut listeners[who as usize] {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// From now on signals are for those who listen.
    pub(super) fn leave(self: &Arc<Self>) {
        self.left.store(true, SeqCst);
        let waker = Waker::from(self.clone());
        self.nudge.listen(&waker);
        // They may have looked at the socket before.
        waker.wake();
    }
}

impl Wake for Flow {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.left.load(SeqCst) {
            let polled = self.polls.compare_exchange(POLLED, WOKEN, SeqCst, SeqCst);
            if polled == Err(RESTING) {
                self.nudge.push();
            }
            return;
        }
        let wakers = self.listeners.lock().clone();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A share of what is under way: it is over when this is dropped.
pub(super) struct Share {
    pub(super) flow: Arc<Flow>,
    pub(super) bits: u8,
    /// Noted at its end.
    pub(super) over: u8,
}

impl Share {
    pub(super) fn new(flow: Arc<Flow>, bits: u8, over: u8) -> Self {
        flow.set(bits & (CALL | ANSWER | BODY));
        flow.busy.fetch_add(1, SeqCst);
        Self { flow, bits, over }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.flow.set(self.over);
        self.flow.clear(self.bits);
        let was_last = self.flow.busy.fetch_sub(1, SeqCst) == 1;
        // Dropped elsewhere, nobody else would look whether that was all.
        if self.bits & BODY != 0 || was_last && self.flow.left.load(SeqCst) {
            self.flow.wake_by_ref();
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}
