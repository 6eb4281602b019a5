//! What all connections of a server share, and what is counted of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::accept::address::Address;
use crate::accept::per_ip::{Peers, Visit};
use crate::close_reason::CloseReason;
use crate::conn::buffers::Stock;
use crate::settings::Settings;
use crate::sync::Mutex;

pub(crate) struct Hub {
    pub(crate) settings: Settings,
    pub(crate) stock: Stock,
    max_connections: usize,
    doors: Mutex<Doors>,
    /// Bytes that wait for peers to take them, of all connections.
    outgoing: Arc<Outgoing>,
    pub(crate) killed: AtomicBool,
    pub(crate) accept_errors: AtomicU64,
    quiet: Notify,
    acceptors: AtomicUsize,
}

struct Doors {
    peers: Peers,
    census: Census,
}

/// Who came, who is in, who was and who was not let in.
#[derive(Clone, Default)]
pub(crate) struct Census {
    pub(crate) accepted: u64,
    pub(crate) open: usize,
    pub(crate) refused_full: u64,
    pub(crate) refused_per_peer: u64,
    pub(crate) closed: HashMap<CloseReason, u64>,
}

/// What bursts add up to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) bursts: u64,
    pub(crate) frames: u64,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
}

/// What a burst has done and has not yet added; small, since it stands in every task.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) bursts: u32,
    pub(crate) frames: u32,
    pub(crate) read: u32,
    pub(crate) wrote: u32,
}

impl Totals {
    pub(crate) fn add(&mut self, tally: &Tally) {
        self.bursts += u64::from(tally.bursts);
        self.frames += u64::from(tally.frames);
        self.read += u64::from(tally.read);
        self.wrote += u64::from(tally.wrote);
    }
}

impl Hub {
    pub(crate) fn new(settings: Settings, max_connections: usize, per_peer: Option<usize>) -> Self {
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
    pub(crate) fn accepting(self: &Arc<Self>) -> Accepting {
        self.acceptors.fetch_add(1, SeqCst);
        Accepting(self.clone())
    }

    /// Until no accept loop runs.
    pub(crate) async fn accepts_no_more(&self) {
        self.quiet_once(|| self.acceptors.load(SeqCst) == 0).await;
    }

    /// A place for a connection, unless there are too many, of all or of its peer.
    pub(crate) fn admit(&self, address: &Address) -> Option<Visit> {
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

    pub(crate) fn left(&self, visit: Visit, reason: CloseReason) {
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
    pub(crate) fn census(&self) -> Census {
        self.doors.lock().census.clone()
    }

    pub(crate) fn open(&self) -> usize {
        self.doors.lock().census.open
    }

    /// Until no connection is open.
    pub(crate) async fn empty(&self) {
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
    pub(crate) fn charge(&self, bytes: usize) -> Option<Charge> {
        let mut charge = self.no_charge();
        charge.add(bytes);
        (self.outgoing() <= self.outgoing.limit).then_some(charge)
    }

    pub(crate) fn no_charge(&self) -> Charge {
        Charge { of: self.outgoing.clone(), bytes: 0 }
    }

    pub(crate) fn outgoing(&self) -> usize {
        self.outgoing.total.load(SeqCst)
    }

    /// Whether so many bytes wait to go out that no more are taken.
    pub(crate) fn is_sated(&self) -> bool {
        self.outgoing() >= self.outgoing.limit
    }

    /// Until fewer bytes wait to go out.
    pub(crate) fn relief(&self) -> Notified<'_> {
        self.outgoing.relief.notified()
    }
}

/// An accept loop that runs.
pub(crate) struct Accepting(Arc<Hub>);

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
    pub(crate) fn add(&mut self, bytes: usize) {
        self.of.total.fetch_add(bytes, SeqCst);
        self.bytes += bytes;
    }

    pub(crate) fn clear(&mut self) {
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
