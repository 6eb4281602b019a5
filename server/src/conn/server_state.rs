//! What all connections of a server share, and what is counted of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::accept::address::Address;
use crate::accept::per_ip::{PerIpCounts, PerIpPermit};
use crate::close_reason::CloseReason;
use crate::conn::buffers::BufferPool;
use crate::settings::Settings;
use crate::sync::Mutex;

pub(crate) struct ServerState {
    pub(crate) settings: Settings,
    pub(crate) buffer_pool: BufferPool,
    max_connections: usize,
    conns: Mutex<ConnCounts>,
    /// Bytes that wait for peers to take them, of all connections.
    send_buffered: Arc<SendBuffered>,
    pub(crate) killed: AtomicBool,
    pub(crate) accept_errors: AtomicU64,
    changed: Notify,
    acceptors: AtomicUsize,
}

struct ConnCounts {
    per_ip: PerIpCounts,
    counts: Counts,
}

/// Connections: accepted, open, refused and closed.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) open: usize,
    pub(crate) refused_full: u64,
    pub(crate) refused_per_ip: u64,
    pub(crate) closed: HashMap<CloseReason, u64>,
}

/// The sums over all turns.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) turns: u64,
    pub(crate) frames: u64,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
}

/// The counters of a turn before they are added; small, as every task holds some.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) turns: u32,
    pub(crate) frames: u32,
    pub(crate) read: u32,
    pub(crate) wrote: u32,
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
            accept_errors: AtomicU64::new(0),
            changed: Notify::new(),
            acceptors: AtomicUsize::new(0),
        }
    }

    /// Counts an accept loop, until it is dropped.
    pub(crate) fn accept_guard(self: &Arc<Self>) -> AcceptGuard {
        self.acceptors.fetch_add(1, SeqCst);
        AcceptGuard(self.clone())
    }

    /// Until no accept loop runs.
    pub(crate) async fn no_acceptor(&self) {
        self.wait_until(|| self.acceptors.load(SeqCst) == 0).await;
    }

    /// A permit for a connection, unless there are too many, in all or from its address.
    pub(crate) fn admit(&self, address: &Address) -> Option<PerIpPermit> {
        let ConnCounts { per_ip, counts } = &mut *self.conns.lock();
        counts.accepted += 1;
        if counts.open >= self.max_connections {
            counts.refused_full += 1;
            return None;
        }
        let permit = per_ip.acquire(address);
        match permit {
            Some(_) => counts.open += 1,
            None => counts.refused_per_ip += 1,
        }
        permit
    }

    pub(crate) fn on_close(&self, permit: PerIpPermit, reason: CloseReason) {
        let mut conns = self.conns.lock();
        conns.per_ip.release(permit);
        let counts = &mut conns.counts;
        counts.open -= 1;
        *counts.closed.entry(reason).or_default() += 1;
        if counts.open == 0 {
            drop(conns);
            self.changed.notify_waiters();
        }
    }

    /// All of one moment.
    pub(crate) fn counts(&self) -> Counts {
        self.conns.lock().counts.clone()
    }

    pub(crate) fn open(&self) -> usize {
        self.conns.lock().counts.open
    }

    /// Until no connection is open.
    pub(crate) async fn empty(&self) {
        self.wait_until(|| self.open() == 0).await;
    }

    async fn wait_until(&self, is_reached: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_reached() {
                return;
            }
            changed.await;
        }
    }

    /// Accounts for bytes that wait to go out; none if that were too many in all.
    pub(crate) fn reserve_bytes(&self, bytes: usize) -> Option<BytesPermit> {
        let mut permit = self.empty_permit();
        permit.add(bytes);
        (self.send_buffered() <= self.send_buffered.limit).then_some(permit)
    }

    pub(crate) fn empty_permit(&self) -> BytesPermit {
        BytesPermit { of: self.send_buffered.clone(), bytes: 0 }
    }

    pub(crate) fn send_buffered(&self) -> usize {
        self.send_buffered.total.load(SeqCst)
    }

    /// Whether so many bytes wait to go out that no more are taken.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.send_buffered() >= self.send_buffered.limit
    }

    /// Until fewer bytes wait to go out.
    pub(crate) fn below_limit(&self) -> Notified<'_> {
        self.send_buffered.below_limit.notified()
    }
}

/// An accept loop that runs.
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

/// Part of the bytes that wait to go out; released when dropped.
pub(crate) struct BytesPermit {
    of: Arc<SendBuffered>,
    bytes: usize,
}

impl BytesPermit {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.of.total.fetch_add(bytes, SeqCst);
        self.bytes += bytes;
    }

    pub(crate) fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let before = self.of.total.fetch_sub(bytes, SeqCst);
        if before >= self.of.limit && before - bytes < self.of.limit {
            self.of.below_limit.notify_waiters();
        }
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.clear();
    }
}
