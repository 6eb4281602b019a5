//! The waiters of one priority by key: the keys take turns, so one key cannot hold up the others.
//!
//! The order is deficit round robin (Shreedhar and Varghese, 1995) with jobs of one cost, so each key has
//! one slot in each round. The keys stand in a bounded table, as in stochastic fairness queueing (McKenney,
//! 1990): a key that finds no bucket of its own shares one. A key has eight places where its bucket may
//! be, as in CAKE (Høiland-Jørgensen et al., 2018), so keys hardly share while fewer of them wait than half
//! of the table has room for. The places come from a hash with a secret seed. So no tenant can aim at
//! the bucket of another one; the seed is renewed when the line was empty.
//!
//! The wait list owns one [`FairLine`] for each priority that ever saw a key, and keeps the waiters themselves
//! in order of arrival. A line here adds a second order, by links of its own. All waiters without a key
//! are one key. Those that waited before the first key came have no links: they are an unbroken run at the
//! front of the wait list's own list, so the line needs their number alone. A priority without keys has no
//! line in use, and its waiters cost what they cost before. The state lock protects all of this.
//!
//! ```text
//!   ring:       ┌─▶ bucket a ──▶ bucket b ──▶ without a key ─┐     front: has the next turn
//!               └────────────────────────────────────────────┘
//!   waiters:        a1 a2 a3     b1            (older ones) w1
//! ```
//!
//! # Invariants
//!
//! * **F1, turns.** A bucket whose waiter had its turn goes to the end of the ring, and so does a new
//!   bucket. So a key waits for one slot of each other bucket at most, and none starves.
//! * **F2, order in a key.** While a key has waiters, all its new ones join the bucket of the old ones:
//!   its own bucket, or its home as long as that has guests.
//! * **F3, memory.** The table does not grow. A link exists while its waiter stands in the main list.
//!
//! Each method takes a bounded number of steps, whatever waits.

use std::hash::{BuildHasher, RandomState};

use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::options::PRIORITIES;
use crate::pool::paged_slab::PagedSlab;
use crate::sync::failpoint;

/// The buckets for keys, of one priority.
const BUCKETS: usize = 512;

/// The buckets in which a key may be.
const WAYS: usize = 8;

/// The bucket of all waiters without a key.
const KEYLESS: usize = BUCKETS;

const NO_BUCKET: u16 = u16::MAX;

/// The link of a waiter in a [`FairLine`].
pub(super) type LinkId = u32;

/// A waiter without a link.
pub(super) const UNLINKED: LinkId = u32::MAX;

/// The waiters of one key, oldest first, or of few keys that share the bucket.
#[derive(Clone, Copy)]
struct Bucket {
    /// The tag of the key that the bucket was empty for.
    owner: u32,
    head: LinkId,
    tail: LinkId,
    len: u32,
    /// Waiters of other keys than the owner.
    guests: u32,
    /// The neighbours in the ring, while `len` is not zero.
    next: u16,
    prev: u16,
}

impl Bucket {
    const EMPTY: Self = Self {
        owner: 0,
        head: UNLINKED,
        tail: UNLINKED,
        len: 0,
        guests: 0,
        next: NO_BUCKET,
        prev: NO_BUCKET,
    };
}

struct Link {
    waiter_key: WaiterKey,
    prev: LinkId,
    next: LinkId,
    tag: u32,
    bucket: u16,
}

pub(super) struct FairLine {
    seed: RandomState,
    buckets: [Bucket; BUCKETS + 1],
    /// The bucket that has the next turn.
    front: u16,
    /// The length of the ring.
    keys: usize,
    /// How many of the waiters without a key have no link, and the newest of these.
    unlinked: usize,
    last_unlinked: WaiterKey,
    links: PagedSlab<Link>,
}

// However many keys come (F3).
const _: () = assert!(size_of::<FairLine>() * PRIORITIES <= 64 * 1_024);

impl FairLine {
    /// Makes a line without waiters.
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            seed: RandomState::new(),
            buckets: [Bucket::EMPTY; BUCKETS + 1],
            front: NO_BUCKET,
            keys: 0,
            unlinked: 0,
            last_unlinked: 0,
            links: PagedSlab::new(),
        })
    }

    /// Starts a line that is empty, with so many waiters without a key and without a link. `last` is the
    /// newest of them.
    pub(super) fn start(&mut self, waiters: usize, last: WaiterKey) {
        debug_assert!(self.keys == 0 && self.links.len() == 0);
        if !failpoint("the seed stays") {
            self.seed = RandomState::new();
        }
        (self.unlinked, self.last_unlinked) = (waiters, last);
        self.buckets[KEYLESS].len = waiters as u32;
        if waiters > 0 {
            self.join_ring(KEYLESS);
        }
    }

    /// Puts a new waiter behind those of its key. Returns its link.
    pub(super) fn push(&mut self, key: Option<u64>, waiter_key: WaiterKey) -> LinkId {
        let (at, tag) = self.place_of(key);
        let prev = self.buckets[at].tail;
        let link = Link { waiter_key, prev, next: UNLINKED, tag, bucket: at as u16 };
        let id = self.links.insert(link) as LinkId;
        match prev {
            UNLINKED => self.buckets[at].head = id,
            prev => self.links[prev as usize].next = id,
        }
        let bucket = &mut self.buckets[at];
        bucket.tail = id;
        bucket.len += 1;
        if bucket.len == 1 {
            bucket.owner = tag;
            self.join_ring(at);
        } else {
            bucket.guests += u32::from(bucket.owner != tag);
        }
        id
    }

    /// Removes a waiter, wherever it stands. `prev` is its neighbour in the order of arrival.
    pub(super) fn remove(&mut self, link: LinkId, waiter_key: WaiterKey, prev: WaiterKey) {
        let at = if link == UNLINKED {
            self.unlinked -= 1;
            if self.last_unlinked == waiter_key {
                self.last_unlinked = prev;
            }
            KEYLESS
        } else {
            let Link { prev, next, tag, bucket, .. } = self.links.remove(link as usize);
            let at = usize::from(bucket);
            match prev {
                UNLINKED => self.buckets[at].head = next,
                prev => self.links[prev as usize].next = next,
            }
            match next {
                UNLINKED => self.buckets[at].tail = prev,
                next => self.links[next as usize].prev = prev,
            }
            self.buckets[at].guests -= u32::from(self.buckets[at].owner != tag);
            at
        };
        self.buckets[at].len -= 1;
        if self.buckets[at].len == 0 {
            self.leave_ring(at);
        }
    }

    /// Notes that a waiter is about to get a slot in its turn: the next turn is another key's (F1).
    pub(super) fn note_turn(&mut self, link: LinkId) {
        let at = self.bucket_of(link);
        if self.front == at as u16 && !failpoint("a key keeps its turn") {
            self.front = self.buckets[at].next;
        }
    }

    /// Returns the oldest waiter of the key that has the next turn. `oldest` is that of the priority.
    pub(super) fn head(&self, oldest: WaiterKey) -> WaiterKey {
        let front = usize::from(self.front);
        if front == KEYLESS && self.unlinked > 0 {
            return oldest;
        }
        self.links[self.buckets[front].head as usize].waiter_key
    }

    /// Returns the newest waiter of the key that has the next turn.
    pub(super) fn newest(&self) -> WaiterKey {
        match self.buckets[usize::from(self.front)].tail {
            UNLINKED => self.last_unlinked,
            tail => self.links[tail as usize].waiter_key,
        }
    }

    /// Returns how many slots at most come before that of a new waiter with this key.
    pub(super) fn turns_before(&self, key: Option<u64>) -> usize {
        self.turns(self.buckets[self.place_of(key).0].len as usize + 1)
    }

    /// Returns how many slots at most it takes to serve a waiter, and those behind it in its key.
    pub(super) fn turns_until(&self, link: LinkId) -> usize {
        self.turns(self.buckets[self.bucket_of(link)].len as usize)
    }

    fn turns(&self, rounds: usize) -> usize {
        if failpoint("a key answers for all") { usize::MAX } else { rounds * self.keys }
    }

    fn bucket_of(&self, link: LinkId) -> usize {
        if link == UNLINKED { KEYLESS } else { usize::from(self.links[link as usize].bucket) }
    }

    /// Returns the bucket that a new waiter joins, and the tag of its key (F2).
    fn place_of(&self, key: Option<u64>) -> (usize, u32) {
        let Some(key) = key else { return (KEYLESS, 0) };
        let hash = self.seed.hash_one(key);
        let (tag, set) = (hash as u32, (hash >> 32) as usize % (BUCKETS / WAYS) * WAYS);
        let home = set + tag as usize % WAYS;
        let mut free = None;
        for at in set..set + WAYS {
            match &self.buckets[at] {
                bucket if bucket.len == 0 => free = Some(at),
                bucket if bucket.owner == tag => return (at, tag),
                _ => {}
            }
        }
        let has_guests = self.buckets[home].guests > 0 && !failpoint("a guest moves out");
        (free.filter(|_| !has_guests).unwrap_or(home), tag)
    }

    fn join_ring(&mut self, at: usize) {
        let id = at as u16;
        self.keys += 1;
        let (prev, next) = match self.front {
            NO_BUCKET => (id, id),
            front => (self.buckets[usize::from(front)].prev, front),
        };
        self.buckets[usize::from(prev)].next = id;
        self.buckets[usize::from(next)].prev = id;
        (self.buckets[at].prev, self.buckets[at].next) = (prev, next);
        if self.front == NO_BUCKET || failpoint("a new key goes first") {
            self.front = id;
        }
    }

    fn leave_ring(&mut self, at: usize) {
        let Bucket { prev, next, .. } = self.buckets[at];
        self.keys -= 1;
        self.buckets[usize::from(prev)].next = next;
        self.buckets[usize::from(next)].prev = prev;
        if self.front == at as u16 {
            self.front = if self.keys == 0 { NO_BUCKET } else { next };
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests;
