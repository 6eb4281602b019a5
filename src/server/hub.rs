//! What all connections of a server share, and what is counted of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::address::Address;
use super::peers::{Peers, Visit};
use super::reason::CloseReason;
use super::settings::Settings;
use super::stock::Stock;
use crate::sync::Mutex;

pub(crate) struct Hub {
    pub(super) settings: Settings,
    pub(super) stock: Stock,
    max_connections: usize,
    doors: Mutex<Doors>,
    /// Bytes that wait for peers to take them, of all connections.
    outgoing: Arc<Outgoing>,
    pub(super) killed: AtomicBool,
    pub(super) accept_errors: AtomicU64,
    quiet: Notify,
    acceptors: AtomicUsize,
}

struct Doors {
    peers: Peers,
    census: Census,
}

/// Who came, who is in, who was and who was not let in.
#[derive(Clone, Default)]
pub(super) struct Census {
    pub(super) accepted: u64,
    pub(super) open: usize,
    pub(super) refused_full: u64,
    pub(super) refused_per_peer: u64,
    pub(super) closed: HashMap<CloseReason, u64>,
}

/// What bursts add up to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) bursts: u64,
    pub(super) frames: u64,
    pub(super) read: u64,
    pub(super) wrote: u64,
}

/// What a burst has done and has not yet added; small, since it stands in every task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) bursts: u32,
    pub(super) frames: u32,
    pub(super) read: u32,
    pub(super) wrote: u32,
}

impl Totals {
    pub(super) fn add(&mut self, tally: &Tally) {
        self.bursts += u64::from(tally.bursts);
        self.frames += u64::from(tally.frames);
        self.read += u64::from(tally.read);
        self.wrote += u64::from(tally.wrote);
    }
}

impl Hub {
    pub(super) fn new(settings: Settings, max_connections: usize, per_peer: Option<usize>) -> Self {
        let doors = Doors { peers: Peers::new(per_peer), census: Census::default() };
        Self {
            settings,
            stock: Stock::new(),
            max_connections,
            doors: Mutex::new(doors),
            outgoing: Arc::new(Outgoing {
                total: AtomicUsize::new(0),
                limit: settings.outgoing_total,
                relief: Notify::new(),
            }),
            killed: AtomicBool::new(false),
            accept_errors: AtomicU64::new(0),
            quiet: Notify::new(),
            acceptors: AtomicUsize::new(0),
        }
    }

    /// Counts an accept loop, until it is dropped.
    pub(super) fn accepting(self: &Arc<Self>) -> Accepting {
        self.acceptors.fetch_add(1, SeqCst);
        Accepting(self.clone())
    }

    /// Until no accept loop runs.
    pub(super) async fn accepts_no_more(&self) {
        self.quiet_once(|| self.acceptors.load(SeqCst) == 0).await;
    }

    /// A place for a connection, unless there are too many, of all or of its peer.
    pub(super) fn admit(&self, address: &Address) -> Option<Visit> {
        let Doors { peers, census } = &mut *self.doors.lock();
        census.accepted += 1;
        if census.open >= self.max_connections {
            census.refused_full += 1;
            return None;
        }
        let visit = peers.enter(address);
        match visit {
            Some(_) => census.open += 1,
            None => census.refused_per_peer += 1,
        }
        visit
    }

    pub(super) fn left(&self, visit: Visit, reason: CloseReason) {
        let mut doors = self.doors.lock();
        doors.peers.leave(visit);
        let census = &mut doors.census;
        census.open -= 1;
        *census.closed.entry(reason).or_default() += 1;
        if census.open == 0 {
            drop(doors);
            self.quiet.notify_waiters();
        }
    }

    /// All of one moment.
    pub(super) fn census(&self) -> Census {
        self.doors.lock().census.clone()
    }

    pub(super) fn open(&self) -> usize {
        self.doors.lock().census.open
    }

    /// Until no connection is open.
    pub(super) async fn empty(&self) {
        self.quiet_once(|| self.open() == 0).await;
    }

    async fn quiet_once(&self, is_quiet: impl Fn() -> bool) {
        loop {
            let quiet = self.quiet.notified();
            if is_quiet() {
                return;
            }
            quiet.await;
        }
    }

    /// Accounts for bytes that wait to go out; none if that were too many in all.
    pub(super) fn charge(&self, bytes: usize) -> Option<Charge> {
        let mut charge = self.no_charge();
        charge.add(bytes);
        (self.outgoing() <= self.outgoing.limit).then_some(charge)
    }

    pub(super) fn no_charge(&self) -> Charge {
        Charge { of: self.outgoing.clone(), bytes: 0 }
    }

    pub(super) fn outgoing(&self) -> usize {
        self.outgoing.total.load(SeqCst)
    }

    /// Whether so many bytes wait to go out that no more are taken.
    pub(super) fn is_sated(&self) -> bool {
        self.outgoing() >= self.outgoing.limit
    }

    /// Until fewer bytes wait to go out.
    pub(super) fn relief(&self) -> Notified<'_> {
        self.outgoing.relief.notified()
    }
}

/// An accept loop that runs.
pub(super) struct Accepting(Arc<Hub>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.acceptors.fetch_sub(1, SeqCst);
        self.0.quiet.notify_waiters();
    }
}

struct Outgoing {
    total: AtomicUsize,
    limit: usize,
    relief: Notify,
}

/// A share of the bytes that wait to go out; given back when dropped.
pub(crate) struct Charge {
    of: Arc<Outgoing>,
    bytes: usize,
}

impl Charge {
    pub(super) fn add(&mut self, bytes: usize) {
        self.of.total.fetch_add(bytes, SeqCst);
        self.bytes += bytes;
    }

    pub(super) fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let before = self.of.total.fetch_sub(bytes, SeqCst);
        if before >= self.of.limit && before - bytes < self.of.limit {
            self.of.relief.notify_waiters();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}
