//! The state that all connections of a server share, and their counts.
//!
//! `Server`, each accept loop and each `ListenerConns` hold the one [`ServerState`] of the server.
//! The accept loop calls [`admit`](ServerState::admit) and the end of a connection
//! [`on_close`](ServerState::on_close). `Server::shutdown` waits with
//! [`no_acceptor`](ServerState::no_acceptor) and [`empty`](ServerState::empty). `framed` accounts
//! for bytes that wait to be sent, with [`BytesPermit`]s.
//!
//! The lock `conns` covers the limits and counts of connections; no other lock is taken under it.
//! The other fields are atomic or have a lock inside. Atomic accesses are SeqCst, but
//! for the count of accept errors.
//!
//! A waiter must never miss its condition. So each waiter creates its `Notified` first and looks at
//! the condition afterwards; each change is made first and notified afterwards.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::accept::address::Address;
use crate::accept::per_ip::{PerIpCounts, PerIpPermit};
use crate::accept::refusals::Limit;
use crate::close_reason::CloseReason;
use crate::conn::buffers::BufferPool;
use crate::conn::events::ParkReason;
use crate::conn::task_entry::TaskEntry;
use crate::conn::wait::TurnInput;
use crate::settings::Settings;
use crate::sync::{Mutex, failpoint};

pub(crate) struct ServerState {
    pub(crate) settings: Settings,
    pub(crate) buffer_pool: BufferPool,
    max_connections: usize,
    conns: Mutex<ConnCounts>,
    /// The bytes of all connections that wait to be sent.
    send_buffered: Arc<SendBuffered>,
    /// All connections must end at once (C8).
    pub(crate) killed: AtomicBool,
    /// How many times a shutdown has asked all connections to close.
    close_rounds: AtomicU32,
    accept_errors: AtomicU64,
    /// What connections with tasks have done, and detached ones. Other turns add to the totals of their
    /// listener.
    pub(crate) traffic: Traffic,
    /// Notified when no connection is open any more, and when an accept loop ends.
    changed: Notify,
    acceptors: AtomicUsize,
}

struct ConnCounts {
    per_ip: PerIpCounts,
    counts: Counts,
}

/// The numbers of connections. `accepted` includes the refused ones.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) open: usize,
    pub(crate) refused_full: u64,
    pub(crate) refused_per_ip: u64,
    pub(crate) closed: HashMap<CloseReason, u64>,
}

/// The sums over all turns of a listener.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) turns: u64,
    pub(crate) frames: u64,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
}

/// The counters of the turns since the last park. Small, because every connection's task holds
/// them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) turns: u32,
    pub(crate) frames: u32,
    pub(crate) read: u32,
    pub(crate) wrote: u32,
}

/// What tasks of connections have counted, and detached connections. Threads add to parts of their own.
///
/// Relaxed: the numbers are a statistic, and no reader concludes anything about other memory from them.
pub(crate) struct Traffic([TrafficPart; PARTS]);

/// The number of parts. More threads share them.
const PARTS: usize = 8;

/// Aligned, so that no two parts share a cache line.
#[derive(Default)]
#[repr(align(128))]
struct TrafficPart {
    turns: AtomicU64,
    frames: AtomicU64,
    read: AtomicU64,
    wrote: AtomicU64,
    /// Tasks that wait. One part may fall below zero; the sum does not.
    paused: AtomicI64,
}

static NEXT_PART: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The part of this thread.
    static PART: usize = NEXT_PART.fetch_add(1, Relaxed) % PARTS;
}

impl Traffic {
    fn new() -> Self {
        Self(std::array::from_fn(|_| TrafficPart::default()))
    }

    fn part(&self) -> &TrafficPart {
        // The end of a thread may drop connections after the thread's locals.
        &self.0[PART.try_with(|part| *part).unwrap_or(0)]
    }

    /// Adds the traffic of a connection that no turn serves.
    #[cfg(feature = "http")]
    pub(crate) fn add(&self, read: u64, wrote: u64, frames: u64) {
        let part = self.part();
        part.read.fetch_add(read, Relaxed);
        part.wrote.fetch_add(wrote, Relaxed);
        part.frames.fetch_add(frames, Relaxed);
    }

    /// Adds the turns of a task that begins to wait.
    pub(crate) fn pause(&self, counters: &Counters) {
        let part = self.part();
        part.turns.fetch_add(counters.turns.into(), Relaxed);
        part.frames.fetch_add(counters.frames.into(), Relaxed);
        part.read.fetch_add(counters.read.into(), Relaxed);
        part.wrote.fetch_add(counters.wrote.into(), Relaxed);
        part.paused.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_paused(&self, tasks: i64) {
        self.part().paused.fetch_add(tasks, Relaxed);
    }

    /// Returns the sums, and the number of tasks that wait.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let (mut totals, mut paused) = (Totals::default(), 0);
        for part in &self.0 {
            totals.turns += part.turns.load(Relaxed);
            totals.frames += part.frames.load(Relaxed);
            totals.read += part.read.load(Relaxed);
            totals.wrote += part.wrote.load(Relaxed);
            paused += part.paused.load(Relaxed);
        }
        (totals, paused.max(0) as usize)
    }
}

impl Totals {
    pub(crate) fn add(&mut self, counters: &Counters) {
        self.turns += u64::from(counters.turns);
        self.frames += u64::from(counters.frames);
        self.read += u64::from(counters.read);
        self.wrote += u64::from(counters.wrote);
    }
}

impl ServerState {
    pub(crate) fn new(
        settings: Settings,
        max_connections: usize,
        max_connections_per_ip: Option<usize>,
    ) -> Self {
        let conns = ConnCounts {
            per_ip: PerIpCounts::new(max_connections_per_ip),
            counts: Counts::default(),
        };
        Self {
            settings,
            buffer_pool: BufferPool::new(),
            max_connections,
            conns: Mutex::new(conns),
            send_buffered: Arc::new(SendBuffered {
                total: AtomicUsize::new(0),
                limit: settings.send_buffer_total,
                below_limit: Notify::new(),
            }),
            killed: AtomicBool::new(false),
            close_rounds: AtomicU32::new(0),
            accept_errors: AtomicU64::new(0),
            traffic: Traffic::new(),
            changed: Notify::new(),
            acceptors: AtomicUsize::new(0),
        }
    }

    /// Counts an accept loop until the guard is dropped.
    pub(crate) fn accept_guard(self: &Arc<Self>) -> AcceptGuard {
        self.acceptors.fetch_add(1, SeqCst);
        AcceptGuard(self.clone())
    }

    /// Waits until no accept loop runs.
    pub(crate) async fn no_acceptor(&self) {
        self.wait_until(|| self.acceptors.load(SeqCst) == 0).await;
    }

    /// Counts a round of a shutdown, before the round asks the connections to close.
    pub(crate) fn begin_close_round(&self) {
        self.close_rounds.fetch_add(1, SeqCst);
    }

    /// Returns how many times a shutdown has asked all connections to close.
    #[cfg(feature = "http")]
    pub(crate) fn close_rounds(&self) -> u32 {
        self.close_rounds.load(SeqCst)
    }

    /// Counts an error of an accept loop. Relaxed: the partner is the load in
    /// [`accept_errors`](Self::accept_errors), and the number publishes no other memory.
    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// Returns the number of accept errors. Relaxed: a status may miss an error that is just being
    /// counted. The partner is [`count_accept_error`](Self::count_accept_error).
    pub(crate) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }

    /// Begins the wait of a connection's task, and counts what its turn has done (N3).
    pub(crate) fn pause_task(
        &self,
        task: &TaskEntry,
        park_reason: (ParkReason, bool),
        counters: &Counters,
    ) {
        self.traffic.pause(counters);
        task.park(park_reason, &self.settings.ticks);
    }

    /// Ends the wait of a connection's task. `close_requested` returns the reason that the table has.
    pub(crate) fn resume_task(
        &self,
        task: &TaskEntry,
        close_requested: impl FnOnce() -> Option<CloseReason>,
    ) -> TurnInput {
        self.traffic.add_paused(-1);
        task.resume(close_requested)
    }

    /// Counts a new connection, and returns its permit. Returns the limit that the server or the
    /// peer has reached otherwise.
    pub(crate) fn admit(&self, address: &Address) -> Result<PerIpPermit, Limit> {
        let ConnCounts { per_ip, counts } = &mut *self.conns.lock();
        counts.accepted += 1;
        if counts.open >= self.max_connections + usize::from(failpoint("one connection too many")) {
            counts.refused_full += 1;
            return Err(Limit::Connections(self.max_connections));
        }
        match per_ip.acquire(address) {
            Some(permit) => {
                counts.open += 1;
                Ok(permit)
            }
            None => {
                counts.refused_per_ip += 1;
                Err(Limit::PerIp(per_ip.limit()))
            }
        }
    }

    /// Releases the permit of a connection, and counts its end. Called once for each admitted
    /// connection, after the protocol's `on_close` (C9).
    pub(crate) fn on_close(&self, permit: PerIpPermit, reason: CloseReason) {
        let mut conns = self.conns.lock();
        conns.per_ip.release(permit);
        let counts = &mut conns.counts;
        counts.open -= 1;
        *counts.closed.entry(reason).or_default() += 1;
        if counts.open == 0 && !failpoint("an empty server tells nothing") {
            drop(conns);
            self.changed.notify_waiters();
        }
    }

    /// Returns the counts, all of the same moment.
    pub(crate) fn counts(&self) -> Counts {
        self.conns.lock().counts.clone()
    }

    pub(crate) fn open(&self) -> usize {
        self.conns.lock().counts.open
    }

    /// Waits until no connection is open.
    pub(crate) async fn empty(&self) {
        self.wait_until(|| self.open() == 0).await;
    }

    async fn wait_until(&self, is_reached: impl Fn() -> bool) {
        loop {
            // `notify_waiters` reaches each `Notified` from its creation on, before its first poll.
            let changed = self.changed.notified();
            if is_reached() {
                return;
            }
            changed.await;
        }
    }

    /// Accounts for bytes that wait to be sent; `permit` counts some of them already. Returns `None` if
    /// the others raise the total above its limit.
    pub(crate) fn reserve_bytes(
        &self,
        permit: Option<BytesPermit>,
        bytes: usize,
    ) -> Option<BytesPermit> {
        let mut permit = permit.unwrap_or_else(|| self.empty_permit());
        let more = bytes.saturating_sub(permit.bytes);
        permit.add(more);
        (more == 0 || self.send_buffered() <= self.send_buffered.limit).then_some(permit)
    }

    /// Returns a permit without bytes, for a connection that adds bytes later.
    pub(crate) fn empty_permit(&self) -> BytesPermit {
        BytesPermit { of: self.send_buffered.clone(), bytes: 0 }
    }

    pub(crate) fn send_buffered(&self) -> usize {
        self.send_buffered.total.load(SeqCst)
    }

    /// Returns whether the total has reached its limit, so that no sender may add bytes.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.send_buffered() >= self.send_buffered.limit
    }

    /// Returns a future that is ready after the total has next fallen below its limit. Callers
    /// create the future before they look at the total.
    pub(crate) fn below_limit(&self) -> Notified<'_> {
        self.send_buffered.below_limit.notified()
    }
}

/// A running accept loop. `AcceptGuard`s are counted, so that a shutdown can wait for the loops.
pub(crate) struct AcceptGuard(Arc<ServerState>);

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        self.0.acceptors.fetch_sub(1, SeqCst);
        self.0.changed.notify_waiters();
    }
}

struct SendBuffered {
    total: AtomicUsize,
    limit: usize,
    below_limit: Notify,
}

/// The bytes of one connection or frame that wait to be sent (C11). Subtracts them when it is
/// dropped, which may wake senders.
pub(crate) struct BytesPermit {
    of: Arc<SendBuffered>,
    bytes: usize,
}

impl BytesPermit {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.of.total.fetch_add(bytes, SeqCst);
        self.bytes += bytes;
    }

    /// Takes over the bytes of another permit.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Subtracts the bytes above this number, and wakes the waiting senders if the total falls below
    /// its limit.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less == 0 {
            return;
        }
        self.bytes -= less;
        let before = self.of.total.fetch_sub(less, SeqCst);
        let room = before >= self.of.limit && before - less < self.of.limit;
        if room && !failpoint("room for bytes wakes nothing") {
            self.of.below_limit.notify_waiters();
        }
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
