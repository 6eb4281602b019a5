//! The waiters of one priority by key: the keys take turns, so one key cannot hold up the others.
//!
//! The order is deficit round robin (Shreedhar and Varghese, 1995) with jobs of one cost, so each key that
//! waits has one slot in each round. A key that begins to wait is *fresh*, and goes before the others (as the
//! new flows of FQ-CoDel, RFC 8290): a tenant that asks rarely does not wait for those that always wait.
//! A key is not fresh if its last turn was fewer turns ago than other keys wait. So asking job by job gives
//! no more turns than a long line does.
//!
//! The keys stand in a bounded table, as in stochastic fairness queueing (McKenney, 1990): a key that finds
//! no bucket of its own shares one. A key has eight places where its bucket may be, as in CAKE
//! (Høiland-Jørgensen et al., 2018), so keys hardly share while fewer of them wait than half of the table has
//! room for. The places come from a hash with a secret seed. So no tenant can aim at the bucket of another
//! one; the seed is renewed when the line was empty.
//!
//! The wait list owns one [`FairLine`] for each priority that ever saw a key, and keeps the waiters themselves
//! in order of arrival. A line here adds a second order, by links of its own. All waiters without a key
//! are one key. Those that waited before the first key came have no links: they are an unbroken run at the
//! front of the wait list's own list, so the line needs their number alone. A priority without keys has no
//! line in use, and its waiters cost what they cost before. The state lock protects all of this.
//!
//! ```text
//!   fresh:  ┌─▶ a ──▶ b ──┐     waiters:  a1      b1 b2
//!           └─────────────┘
//!   old:    ┌─▶ c ──▶ without a key ─┐      c1 c2 c3     (older ones) w1
//!           └────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! * **F1, turns.** A bucket whose waiter had its turn goes to the end of the old ring, if it has more. Fresh
//!   buckets pass by the old ones at most [`PASSES`] times in a row. So none starves.
//! * **F2, order in a key.** While a key has waiters, all its new ones join the bucket of the old ones:
//!   its own bucket, or its home bucket as long as other keys than the owner wait there.
//! * **F3, memory.** The table does not grow. A link exists while its waiter stands in the main list.
//!
//! Each method takes a fixed number of steps, whatever waits. They are cold: without keys, their callers
//! stay short.

use std::hash::{BuildHasher, RandomState};

use crate::pool::limiter::wait_list::WaiterKey;
use crate::pool::options::PRIORITIES;
use crate::pool::paged_slab::PagedSlab;
use crate::sync::failpoint;

/// The buckets for keys, of one priority.
const BUCKETS: usize = 448;

/// The buckets in which a key may be.
const WAYS: usize = 8;

/// The bucket of all waiters without a key.
const KEYLESS: usize = BUCKETS;

/// How often fresh keys may pass by the old ones in a row.
const PASSES: u32 = 63;

const NO_BUCKET: u16 = u16::MAX;

/// The link of a waiter in a [`FairLine`].
pub(super) type LinkId = u32;

/// A waiter without a link.
pub(super) const UNLINKED: LinkId = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ring {
    /// Keys that have had no turn lately.
    Fresh,
    /// All others.
    Old,
}

/// The waiters of one key, oldest first, or of few keys that share the bucket.
#[derive(Clone, Copy)]
struct Bucket {
    head: LinkId,
    tail: LinkId,
    len: u32,
    /// Waiters of other keys than the owner.
    displaced: u32,
    /// The number of its last turn.
    last_turn: u32,
    /// The tag of the key that the bucket was free for.
    owner: u16,
    /// The neighbours in the ring.
    next: u16,
    prev: u16,
    /// The ring, if the bucket has waiters.
    ring: Option<Ring>,
}

impl Bucket {
    const EMPTY: Self = Self {
        head: UNLINKED,
        tail: UNLINKED,
        len: 0,
        displaced: 0,
        // Long before the first one.
        last_turn: 1 << 31,
        owner: 0,
        next: NO_BUCKET,
        prev: NO_BUCKET,
        ring: None,
    };
}

struct Link {
    waiter_key: WaiterKey,
    prev: LinkId,
    next: LinkId,
    tag: u16,
    bucket: u16,
}

pub(super) struct FairLine {
    seed: RandomState,
    buckets: [Bucket; BUCKETS + 1],
    /// The first bucket of each ring.
    fronts: [u16; 2],
    /// The length of the fresh ring.
    fresh: usize,
    /// The buckets that have waiters.
    keys: usize,
    /// The number of the last turn.
    turn: u32,
    /// How often fresh keys have passed by the old ones since these had a turn.
    passed: u32,
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
            fronts: [NO_BUCKET; 2],
            fresh: 0,
            keys: 0,
            turn: 0,
            passed: 0,
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
        // No key had a turn lately.
        self.turn = self.turn.wrapping_add(1 << 16);
        (self.unlinked, self.last_unlinked) = (waiters, last);
        if waiters > 0 {
            self.buckets[KEYLESS].len = waiters as u32;
            self.keys = 1;
            self.join(Ring::Old, KEYLESS);
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
        if bucket.len > 1 {
            bucket.displaced += u32::from(bucket.owner != tag);
            return id;
        }
        let ring = self.ring_for(at, tag);
        self.buckets[at].owner = tag;
        self.keys += 1;
        self.join(ring, at);
        id
    }

    /// Removes a waiter, wherever it stands. `prev` is its neighbour in the order of arrival.
    #[cold]
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
            self.buckets[at].displaced -= u32::from(self.buckets[at].owner != tag);
            at
        };
        let bucket = &mut self.buckets[at];
        bucket.len -= 1;
        if bucket.len == 0 {
            self.keys -= 1;
            self.leave(at);
        }
    }

    /// Notes that a waiter is about to get a slot in its turn: the next turn is another key's (F1).
    #[cold]
    pub(super) fn note_turn(&mut self, link: LinkId) {
        let at = self.bucket_of(link);
        if failpoint("a key keeps its turn") {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        self.buckets[at].last_turn = self.turn;
        if self.buckets[at].ring == Some(Ring::Fresh) {
            let is_pass = self.fronts[Ring::Old as usize] != NO_BUCKET;
            let is_pass = is_pass && !failpoint("fresh keys always come first");
            self.passed = if is_pass { self.passed + 1 } else { 0 };
            self.leave(at);
            self.join(Ring::Old, at);
        } else {
            self.passed = 0;
            if self.fronts[Ring::Old as usize] == at as u16 {
                self.fronts[Ring::Old as usize] = self.buckets[at].next;
            }
        }
    }

    /// Returns the oldest waiter of the key that has the next turn. `oldest` is that of the priority.
    #[cold]
    pub(super) fn head(&self, oldest: WaiterKey) -> WaiterKey {
        let next = self.next_bucket();
        if next == KEYLESS && self.unlinked > 0 {
            return oldest;
        }
        self.links[self.buckets[next].head as usize].waiter_key
    }

    /// Returns the newest waiter of the key that has the next turn.
    #[cold]
    pub(super) fn newest(&self) -> WaiterKey {
        match self.buckets[self.next_bucket()].tail {
            UNLINKED => self.last_unlinked,
            tail => self.links[tail as usize].waiter_key,
        }
    }

    /// Returns how many slots come before that of a new waiter with this key, about.
    pub(super) fn turns_before(&self, key: Option<u64>) -> usize {
        let (at, tag) = self.place_of(key);
        let Bucket { ring, len, .. } = self.buckets[at];
        self.turns(ring.unwrap_or_else(|| self.ring_for(at, tag)), len)
    }

    /// Returns how many slots it takes to serve all waiters of a waiter's key, about.
    pub(super) fn turns_until(&self, link: LinkId) -> usize {
        let Bucket { ring, len, .. } = self.buckets[self.bucket_of(link)];
        self.turns(ring.expect("a bucket with a waiter"), len - 1)
    }

    /// Returns how many slots it takes until a key in this ring has had a turn, and then so many more.
    fn turns(&self, ring: Ring, rounds: u32) -> usize {
        if failpoint("a key answers for all") {
            return usize::MAX;
        }
        let first = if ring == Ring::Fresh { self.fresh } else { self.keys };
        first + rounds as usize * self.keys
    }

    fn bucket_of(&self, link: LinkId) -> usize {
        if link == UNLINKED { KEYLESS } else { usize::from(self.links[link as usize].bucket) }
    }

    /// Returns the bucket that a new waiter joins, and the tag of its key (F2).
    fn place_of(&self, key: Option<u64>) -> (usize, u16) {
        let Some(key) = key else { return (KEYLESS, 0) };
        let hash = self.seed.hash_one(key);
        let (tag, set) = (hash as u16, (hash >> 32) as usize % (BUCKETS / WAYS) * WAYS);
        let home = set + (hash >> 16) as usize % WAYS;
        let ways = || (set..set + WAYS).map(|at| (at, &self.buckets[at]));
        let is_own = |bucket: &Bucket| bucket.owner == tag;
        if let Some((own, _)) = ways().find(|(_, bucket)| bucket.ring.is_some() && is_own(bucket)) {
            return (own, tag);
        }
        if self.buckets[home].displaced > 0 && !failpoint("a displaced key moves") {
            return (home, tag);
        }
        // The bucket that the key had, or the one that was used least recently.
        let rank = |&(_, bucket): &(usize, &Bucket)| (is_own(bucket), self.age(bucket));
        let free = ways().filter(|(_, bucket)| bucket.ring.is_none()).max_by_key(rank);
        (free.map_or(home, |(at, _)| at), tag)
    }

    /// Returns how many turns ago the bucket had one.
    fn age(&self, bucket: &Bucket) -> u32 {
        self.turn.wrapping_sub(bucket.last_turn)
    }

    /// Returns the ring that a key joins when it begins to wait in this bucket.
    fn ring_for(&self, at: usize, tag: u16) -> Ring {
        let bucket = &self.buckets[at];
        let had_turn = bucket.owner == tag && (self.age(bucket) as usize) < self.keys;
        let is_old = had_turn && !failpoint("each key is fresh");
        if is_old || failpoint("no key is fresh") { Ring::Old } else { Ring::Fresh }
    }

    // ----- rings -----

    /// Returns the bucket that has the next turn.
    fn next_bucket(&self) -> usize {
        let [fresh, old] = self.fronts;
        let is_old = fresh == NO_BUCKET || (old != NO_BUCKET && self.passed >= PASSES);
        usize::from(if is_old { old } else { fresh })
    }

    /// Puts a bucket at the end of a ring.
    fn join(&mut self, ring: Ring, at: usize) {
        let id = at as u16;
        let front = &mut self.fronts[ring as usize];
        let (prev, next) = match *front {
            NO_BUCKET => (id, id),
            front => (self.buckets[usize::from(front)].prev, front),
        };
        if *front == NO_BUCKET {
            *front = id;
        }
        self.fresh += usize::from(ring == Ring::Fresh);
        self.buckets[usize::from(prev)].next = id;
        self.buckets[usize::from(next)].prev = id;
        let bucket = &mut self.buckets[at];
        (bucket.prev, bucket.next, bucket.ring) = (prev, next, Some(ring));
    }

    /// Takes a bucket out of its ring.
    fn leave(&mut self, at: usize) {
        let Bucket { prev, next, ref mut ring, .. } = self.buckets[at];
        let ring = ring.take().expect("the bucket stands in a ring");
        self.fresh -= usize::from(ring == Ring::Fresh);
        self.buckets[usize::from(prev)].next = next;
        self.buckets[usize::from(next)].prev = prev;
        let front = &mut self.fronts[ring as usize];
        if *front == at as u16 {
            *front = if next == at as u16 { NO_BUCKET } else { next };
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests;
