//! The wait list: FIFO lists of waiters, threaded through one slab.
//!
//! The state lock protects the wait list, and only `State` and `StateGuard` change it. The wait
//! list knows order and quotas, but counts no slots. No method here may wake or drop a waker: a
//! method that removes a waiter returns the waker to its caller (L2).
//!
//! # Lists and order (L6)
//!
//! * The **main list** holds the waiters for a slot: a list for each [`Priority`], oldest first. Some
//!   `queue_capacity` of its entries stand in the pool's queue, in each of these lists the first ones.
//!   The rest wait for room in the queue.
//! * Each quota has a **quota list** for waiters that may not enter the main list yet, because the
//!   jobs of the quota use it up. They join the main list at its end when the quota has room (L8).
//! * **Resuming jobs** have started before and lent their slots. They have a list for the pool and one
//!   for each quota, and come before all other waiters (`lending`).
//!
//! `turns` says which priority, and which key within it, gets the next slot.
//!
//! ```text
//!                 in the queue
//!             ┌─────────┴─────────┐
//!   main:     job   job   caller    caller   committed job   caller      (of one priority)
//!              ▲                      ▲
//!              head: gets the         first_unqueued: gets the next
//!              next free slot         place in the queue
//! ```
//!
//! The lists are doubly linked by slab keys, so a waiter leaves from the middle without a search.
//! A node keeps its waiter when it leaves its list, until its caller looks at the outcome. Then it is a spare,
//! or gone (`nodes`).
//!
//! # Waiters and their states (L7)
//!
//! A [`Waiter`] is a job that was handed over, or a caller that still owns its job. A job has no
//! state: it waits until it starts or is cancelled. A caller has a [`WaiterState`]:
//!
//! ```text
//!             room in the queue                  the caller hands its job in
//!   Waiting ───────────────────▶ QueueGranted ──────────────────────────────▶ (a job, same place)
//!     │ │                            │  │
//!     │ │        a slot is free      │  │
//!     │ └──────────┬─────────────────┘  │
//!     │            ▼                    │
//!     │       SlotGranted ──▶ (gone: the caller starts its job, or has reserved the slot)
//!     │                                 │
//!     ├──▶ Closed, Rejected ◀───────────┘    the pool was closed, or the caller's group was; the
//!     │                                      deadline passed; the limiter is overloaded
//!     └──────────▶ Deadlock                  the wait could never end
//! ```
//!
//! | state | in a list | has a waker | owns |
//! |---|---|---|---|
//! | `Waiting` | yes | yes | nothing; a part of its quota if in the main list |
//! | `QueueGranted` | main, in the queue | no | its place in the queue, a part of its quota |
//! | `SlotGranted` | no | during a pause | a slot, a part of its quota |
//! | `Closed`, `Rejected`, `Deadlock` | no | no | nothing |
//!
//! A job whose submitter waits for the start may be rejected like a caller: the job leaves the list, and
//! a caller in state `Closed` or `Rejected` takes its node.
//!
//! A reserver has no job that could stand in the queue. It still takes a place there, so that no
//! later waiter passes it, but it stays `Waiting` until it is granted a slot.
//! A caller may be dropped in any state: `Limiter::cancel_waiter` then passes on what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use tokio::time::Instant;

use crate::error::SubmitErrorKind;
use crate::pool::job::{History, RawJob, Runnable};
use crate::pool::limiter::fair::{FairLine, LinkId, UNLINKED};
use crate::pool::limiter::lending::WaitingJob;
use crate::pool::limiter::turns::Turns;
pub(super) use crate::pool::limiter::wait_list::ahead::Ahead;
use crate::pool::limiter::wait_list::nodes::Nodes;
use crate::pool::options::{PRIORITIES, Requirements};
use crate::sync::failpoint;

/// The key of a waiter in the wait list. A key is reused once its waiter is gone.
pub(crate) type WaiterKey = usize;

const NONE: WaiterKey = usize::MAX;

/// The tag of a caller without a group.
pub(super) const NO_GROUP: usize = 0;

pub(super) enum Waiter {
    /// The node is a spare; see [`nodes`].
    None,
    /// A job that was handed over, and the waker of the future that awaits its start, if any.
    Job(Runnable, Option<Waker>),
    /// A caller that still owns its job.
    Caller(CallerWaiter),
}

impl Waiter {
    fn is_reserver(&self) -> bool {
        matches!(self, Self::Caller(caller) if caller.is_reserver)
    }
}

pub(super) struct CallerWaiter {
    pub(super) waker: Option<Waker>,
    /// The slot-holding job of this pool that waits through this caller, if any.
    pub(super) waiting_job: Option<WaitingJob>,
    pub(super) state: WaiterState,
    /// The tag of the caller's group, or `NO_GROUP`.
    pub(super) group: usize,
    /// The name that stands with the caller's job in the list of jobs.
    pub(super) label: Option<Arc<str>>,
    /// The caller waits for a slot alone and has no job yet.
    pub(super) is_reserver: bool,
}

impl CallerWaiter {
    /// Makes the caller that takes the place of a job that is given back.
    pub(super) fn rejected(state: WaiterState) -> Waiter {
        Waiter::Caller(Self {
            waker: None,
            waiting_job: None,
            state,
            group: NO_GROUP,
            label: None,
            is_reserver: false,
        })
    }

    /// Moves the caller to its next state. Returns the waker that must hear of the change.
    pub(super) fn advance(&mut self, next: WaiterState) -> Option<Waker> {
        debug_assert!(self.state.may_become(next), "{:?} -> {next:?}", self.state);
        self.state = next;
        self.waker.take()
    }
}

/// What a caller finds when it polls its wait again. The head shows the transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaiterState {
    /// Nothing is granted yet.
    Waiting,
    /// The caller may hand its job in, at the place in the queue that it has already.
    QueueGranted,
    /// A slot is kept for the caller, and the caller has left the list.
    SlotGranted,
    /// The pool was closed.
    Closed,
    /// The caller's group takes no more jobs.
    Rejected(SubmitErrorKind),
    /// The wait could never have ended.
    Deadlock,
}

impl WaiterState {
    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Waiting => next != Self::Waiting,
            Self::QueueGranted => {
                matches!(next, Self::SlotGranted | Self::Closed | Self::Rejected(_))
            }
            Self::SlotGranted | Self::Closed | Self::Rejected(_) | Self::Deadlock => false,
        }
    }
}

pub(super) struct Node {
    prev: WaiterKey,
    next: WaiterKey,
    /// The list that holds the node, if any.
    list: Option<List>,
    in_queue: bool,
    /// The number of a waiter that a job of the pool submitted, by age. 0 for all others.
    nested: u64,
    /// The job has started before, and lent its slot; its history meanwhile.
    pub(super) resumes: Option<History>,
    pub(super) quota: Option<usize>,
    /// The tag of the group, or `NO_GROUP`, of a job whose submitter waits for the start. A close gives
    /// such a job back.
    pub(super) submitter: Option<usize>,
    /// The waiter has a deadline, serves a request, or was submitted by a job of the pool.
    is_rare: bool,
    /// The link among the waiters of its key, if it has one.
    link: LinkId,
    /// Priority, key and deadline. A resuming job has started, and its deadline does not count here.
    pub(super) requirements: Requirements,
    /// When the waiter joined the wait list.
    pub(super) since: Instant,
    pub(super) waiter: Waiter,
}

impl Node {
    /// Makes a node without a waiter.
    fn vacant(since: Instant) -> Self {
        Self {
            prev: NONE,
            next: NONE,
            list: None,
            in_queue: false,
            nested: 0,
            resumes: None,
            quota: None,
            submitter: None,
            is_rare: false,
            link: UNLINKED,
            requirements: Requirements::default(),
            since,
            waiter: Waiter::None,
        }
    }
}

/// A job that was taken out of the wait list.
pub(super) struct RemovedJob {
    pub(super) job: Runnable,
    pub(super) waker: Option<Waker>,
    pub(super) quota: Option<usize>,
    pub(super) list: List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Quota(usize),
    /// Jobs that lent their slots, have their parts of quotas, and are ready to go on.
    Resuming,
    /// Jobs that lent their slots and their parts of this quota, and are ready to go on.
    ResumingInQuota(usize),
}

impl List {
    /// Whether the waiters in this list need a slot alone, and have their parts of quotas.
    pub(super) fn has_parts(self) -> bool {
        matches!(self, Self::Main | Self::Resuming)
    }

    /// Why a job that would have to wait in this list is refused.
    pub(super) fn full_kind(self) -> SubmitErrorKind {
        match self {
            Self::Quota(_) => SubmitErrorKind::GroupFull,
            _ => SubmitErrorKind::Full,
        }
    }

    pub(super) fn is_resuming(self) -> bool {
        matches!(self, Self::Resuming | Self::ResumingInQuota(_))
    }
}

#[derive(Clone, Copy)]
struct ListEnds {
    head: WaiterKey,
    tail: WaiterKey,
    len: usize,
}

impl ListEnds {
    const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };
}

/// The share of the pool that a group may use.
struct Quota {
    limit: usize,
    /// Parts of the share in use: by jobs with a slot, by slots that are reserved, held or granted,
    /// and by waiters in the main list (L8).
    in_use: usize,
    /// The group is gone, so the quota goes with its last part.
    removed: bool,
    waiters: ListEnds,
    /// Jobs that lent their parts and are ready to go on. They come before `waiters`.
    resuming: ListEnds,
}

pub(super) struct WaitList {
    nodes: Nodes,
    /// The main list, by priority.
    main: [ListEnds; PRIORITIES],
    /// The length of the main list.
    main_len: usize,
    /// Whose turn it is in the main list.
    turns: Turns,
    resuming: ListEnds,
    quotas: Slab<Quota>,
    queue_capacity: usize,
    /// This many waiters of the main list stand in the queue.
    queue_len: usize,
    /// The first waiter behind the queue, by priority.
    first_unqueued: [WaiterKey; PRIORITIES],
    /// Waiters in the queue that are jobs.
    queued_jobs: usize,
    /// Jobs in the lists of resuming jobs.
    resuming_jobs: usize,
    /// Callers in any state that are reservers.
    reservers: usize,
    /// Waiters in lists that serve requests.
    requests: usize,
    /// The waiters of the main list that jobs of the pool submitted, oldest first.
    nested: BTreeMap<u64, WaiterKey>,
    last_nested: u64,
    /// The waiters in lists that have deadlines, the earliest first.
    deadlines: BTreeSet<(Instant, WaiterKey)>,
}

impl WaitList {
    pub(super) fn new(queue_capacity: usize) -> Self {
        Self {
            nodes: Nodes::new(),
            main: [ListEnds::EMPTY; PRIORITIES],
            main_len: 0,
            turns: Turns::new(),
            resuming: ListEnds::EMPTY,
            quotas: Slab::new(),
            queue_capacity,
            queue_len: 0,
            first_unqueued: [NONE; PRIORITIES],
            queued_jobs: 0,
            resuming_jobs: 0,
            reservers: 0,
            requests: 0,
            nested: BTreeMap::new(),
            last_nested: 0,
            deadlines: BTreeSet::new(),
        }
    }

    /// Returns whether no waiter needs a slot alone.
    pub(super) fn is_empty(&self) -> bool {
        self.main_len + self.resuming.len == 0
    }

    pub(super) fn main_len(&self) -> usize {
        self.main_len
    }

    /// Returns whether a new waiter would get a place in the queue at once.
    pub(super) fn has_queue_room(&self) -> bool {
        self.main_len < self.queue_capacity + usize::from(failpoint("a queue one too long"))
    }

    /// Returns when the first waiter in a list joined it.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        let quotas = self.quotas.iter().map(|(_, quota)| quota.waiters.head);
        let heads = self.main.iter().map(|ends| ends.head).chain(quotas);
        heads.filter(|&head| head != NONE).map(|head| self.nodes[head].since).min()
    }

    /// Returns how many waiters in lists serve requests.
    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    /// Returns when the first waiter of the main list joined the wait list.
    pub(super) fn oldest_in_main(&self) -> Option<Instant> {
        let heads = self.main.iter().map(|ends| ends.head).filter(|&head| head != NONE);
        heads.map(|head| self.nodes[head].since).min()
    }

    // ----- deadlines -----

    #[inline]
    pub(super) fn has_deadlines(&self) -> bool {
        !self.deadlines.is_empty()
    }

    /// Returns the first deadline of a waiter in a list.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Returns a waiter in a list whose deadline has passed.
    pub(super) fn first_expired(&self, now: Instant) -> Option<WaiterKey> {
        self.deadlines.first().filter(|&&(at, _)| at <= now).map(|&(_, waiter_key)| waiter_key)
    }

    pub(super) fn queue_capacity(&self) -> usize {
        self.queue_capacity
    }

    /// Returns the number of jobs in the queue.
    pub(super) fn queued_jobs(&self) -> usize {
        self.queued_jobs
    }

    /// Returns the number of all other waiters, with those that were granted or refused something
    /// and have not looked yet. Resuming jobs are not among them: they have started.
    pub(super) fn waiting(&self) -> usize {
        self.nodes.len() - self.queued_jobs - self.resuming_jobs
    }

    /// Returns how many of `waiting` are reservers.
    pub(super) fn waiting_reservers(&self) -> usize {
        self.reservers
    }

    // ----- quotas -----

    pub(super) fn add_quota(&mut self, limit: usize) -> usize {
        let (waiters, resuming) = (ListEnds::EMPTY, ListEnds::EMPTY);
        self.quotas.insert(Quota { limit, in_use: 0, removed: false, waiters, resuming })
    }

    /// Marks a quota for removal when its last part is released.
    pub(super) fn remove_quota_when_unused(&mut self, key: usize) {
        self.quotas[key].removed = true;
        self.remove_quota_if_unused(key);
    }

    fn remove_quota_if_unused(&mut self, key: usize) {
        let quota = &self.quotas[key];
        if quota.removed && quota.in_use == 0 {
            debug_assert!(quota.waiters.len == 0, "L8: waiters behind an unused quota");
            self.quotas.remove(key);
        }
    }

    pub(super) fn has_quota_room(&self, key: usize) -> bool {
        let slack = usize::from(failpoint("a quota one too large"));
        self.quotas[key].in_use < self.quotas[key].limit + slack
    }

    pub(super) fn quota_in_use(&self, key: usize) -> usize {
        self.quotas[key].in_use
    }

    pub(super) fn acquire_quota(&mut self, key: usize) {
        debug_assert!(self.has_quota_room(key));
        self.quotas[key].in_use += 1;
    }

    /// Returns whether a waiter or a resuming job needs a part of the quota.
    pub(super) fn has_quota_waiter(&self, key: usize) -> bool {
        let quota = &self.quotas[key];
        quota.waiters.len > 0 || quota.resuming.len > 0
    }

    /// Releases a part of a quota. If a resuming job or a waiter of the quota needs that part, takes it
    /// out of its list and returns its key: the part is the waiter's from then on.
    pub(super) fn release_quota(&mut self, key: usize) -> Option<WaiterKey> {
        self.quotas[key].in_use -= 1;
        let promoted =
            self.head(List::ResumingInQuota(key)).or_else(|| self.head(List::Quota(key)));
        if let Some(waiter_key) = promoted {
            self.unlink(waiter_key);
            self.quotas[key].in_use += usize::from(!failpoint("a promoted waiter has no part"));
        }
        self.remove_quota_if_unused(key);
        promoted
    }

    /// Returns the list that a new waiter of this quota joins.
    pub(super) fn list_for(&self, quota: Option<usize>) -> List {
        match quota {
            Some(key) if !self.has_quota_room(key) => List::Quota(key),
            _ => List::Main,
        }
    }

    // ----- nodes -----

    pub(super) fn node(&mut self, waiter_key: WaiterKey) -> &mut Node {
        &mut self.nodes[waiter_key]
    }

    /// Returns the caller under `waiter_key`. A future that waits owns its key, so no other waiter
    /// can have that key.
    pub(super) fn caller(&mut self, waiter_key: WaiterKey) -> &mut CallerWaiter {
        match &mut self.nodes[waiter_key].waiter {
            Waiter::Caller(caller) => caller,
            Waiter::Job(..) | Waiter::None => unreachable!("a caller's key names its own node"),
        }
    }

    /// Takes the wakers of callers that were granted a slot and looked during a pause.
    pub(super) fn take_granted_wakers(&mut self) -> Vec<Waker> {
        let keys: Vec<_> = self.nodes.iter().map(|(key, _)| key).collect();
        let wakers = keys.into_iter().filter_map(|key| match &mut self.nodes[key].waiter {
            Waiter::Caller(caller) if caller.state == WaiterState::SlotGranted => {
                caller.waker.take()
            }
            _ => None,
        });
        wakers.collect()
    }

    /// Returns the waiter under `waiter_key`, if there is one and it stands in a list.
    pub(super) fn get_linked(&self, waiter_key: WaiterKey) -> Option<&Waiter> {
        self.nodes.get(waiter_key).filter(|node| node.list.is_some()).map(|node| &node.waiter)
    }

    /// Removes a waiter that stands in no list.
    #[inline]
    pub(super) fn remove(&mut self, waiter_key: WaiterKey) -> Waiter {
        let waiter = self.nodes.take(waiter_key);
        self.reservers -= usize::from(waiter.is_reserver());
        waiter
    }

    /// Removes a caller that stands in no list and has no waker left.
    #[inline]
    pub(super) fn forget_caller(&mut self, waiter_key: WaiterKey) {
        self.reservers -= usize::from(self.nodes[waiter_key].waiter.is_reserver());
        self.nodes.clear(waiter_key);
    }

    /// Returns the place for the waker of a future that awaits the job's start. Returns `None` if
    /// the key has passed to another waiter.
    pub(super) fn start_waker(
        &mut self,
        waiter_key: WaiterKey,
        job: RawJob,
    ) -> Option<&mut Option<Waker>> {
        let node = self.nodes.get_mut(waiter_key)?;
        match &mut node.waiter {
            Waiter::Job(own, waker) if own.ptr() == job && node.resumes.is_none() => Some(waker),
            _ => None,
        }
    }

    /// Returns whether `job` stands under the key, has started and waits to resume.
    pub(super) fn is_resuming(&self, waiter_key: WaiterKey, job: RawJob) -> bool {
        self.nodes.get(waiter_key).is_some_and(|node| {
            let is_own = matches!(&node.waiter, Waiter::Job(own, _) if own.ptr() == job);
            is_own && node.resumes.is_some()
        })
    }

    /// Takes `job` out of the wait list. Returns `None` if the key has passed to another waiter.
    pub(super) fn remove_job(&mut self, waiter_key: WaiterKey, job: RawJob) -> Option<RemovedJob> {
        let node = self.nodes.get(waiter_key)?;
        if !matches!(&node.waiter, Waiter::Job(own, _) if own.ptr() == job) {
            return None;
        }
        let (resumes, quota) = (node.resumes, node.quota);
        let list = self.unlink(waiter_key);
        match self.remove(waiter_key) {
            Waiter::Job(job, waker) => {
                job.set_history(resumes);
                Some(RemovedJob { job, waker, quota, list })
            }
            Waiter::Caller(_) | Waiter::None => None,
        }
    }

    /// Puts the job of a `QueueGranted` caller in the caller's place.
    pub(super) fn submit_granted(&mut self, waiter_key: WaiterKey, job: Runnable) {
        debug_assert!(self.nodes[waiter_key].in_queue);
        self.nodes[waiter_key].waiter = Waiter::Job(job, None);
        self.queued_jobs += 1;
    }

    // ----- lists -----

    /// Returns the first waiter of a list: in the main list, the one that gets the next slot.
    pub(super) fn head(&self, list: List) -> Option<WaiterKey> {
        let (ends, keys) = match list {
            List::Main => {
                let class = self.turns.next_class();
                (&self.main[class], self.turns.keys(class))
            }
            list => (self.ends(list, 0), None),
        };
        let head = if failpoint("the newest waiter comes first") { ends.tail } else { ends.head };
        let head = keys.map_or(head, |keys| keys.head(head));
        (head != NONE).then_some(head)
    }

    /// Returns the newest waiter of the priority and the key that get the next slot, if it stands behind
    /// the queue.
    pub(super) fn newest(&self) -> Option<WaiterKey> {
        let class = self.turns.next_class();
        let tail = self.turns.keys(class).map_or(self.main[class].tail, FairLine::newest);
        (tail != NONE && !self.nodes[tail].in_queue).then_some(tail)
    }

    /// Notes that the waiter is about to get a slot in its turn.
    pub(super) fn note_turn(&mut self, waiter_key: WaiterKey) {
        let node = &self.nodes[waiter_key];
        if node.resumes.is_some() {
            return;
        }
        self.turns.note_turn(node.requirements.class(), node.link);
    }

    /// Returns the key that the next `push` will use.
    pub(super) fn next_key(&self) -> WaiterKey {
        self.nodes.next_key()
    }

    /// Puts a new waiter at the end of a list.
    #[inline]
    pub(super) fn push(
        &mut self,
        list: List,
        quota: Option<usize>,
        waiter: Waiter,
        (requirements, since): (&Requirements, Instant),
        is_nested: bool,
    ) -> WaiterKey {
        self.reservers += usize::from(waiter.is_reserver());
        self.last_nested += u64::from(is_nested);
        let prev = self.ends(list, requirements.class()).tail;
        let is_rare = is_nested || requirements.deadline.is_some() || requirements.is_request;
        let waiter_key = self.nodes.claim(since);
        let node = &mut self.nodes[waiter_key];
        (node.prev, node.next, node.list) = (prev, NONE, Some(list));
        node.in_queue = false;
        node.nested = if is_nested { self.last_nested } else { 0 };
        (node.resumes, node.submitter) = (None, None);
        node.quota = quota;
        node.is_rare = is_rare;
        node.link = UNLINKED;
        node.requirements = *requirements;
        node.since = since;
        node.waiter = waiter;
        if is_rare {
            self.note_rare(list, waiter_key);
        }
        self.linked((list, requirements.class(), requirements.key), waiter_key, prev);
        waiter_key
    }

    /// Puts a waiter that stands in no list at the end of one.
    #[inline]
    pub(super) fn link(&mut self, list: List, waiter_key: WaiterKey) {
        let prev = self.ends(list, self.nodes[waiter_key].requirements.class()).tail;
        let node = &mut self.nodes[waiter_key];
        debug_assert!(node.list.is_none());
        (node.prev, node.next, node.list) = (prev, NONE, Some(list));
        let (class, key, is_rare) =
            (node.requirements.class(), node.requirements.key, node.is_rare);
        if is_rare {
            self.note_rare(list, waiter_key);
        }
        self.linked((list, class, key), waiter_key, prev);
    }

    /// Completes the link of a node that knows its neighbours already.
    #[inline]
    fn linked(
        &mut self,
        (list, class, key): (List, usize, Option<u64>),
        waiter_key: WaiterKey,
        prev: WaiterKey,
    ) {
        if prev != NONE {
            self.nodes[prev].next = waiter_key;
        }
        let ends = self.ends_mut(list, class);
        if prev == NONE {
            ends.head = waiter_key;
        }
        ends.tail = waiter_key;
        let ahead = ends.len;
        ends.len += 1;
        self.resuming_jobs += usize::from(list.is_resuming());
        if list == List::Main {
            self.main_len += 1;
            if self.first_unqueued[class] == NONE {
                self.first_unqueued[class] = waiter_key;
            }
            let link = self.turns.join(class, key, waiter_key, ahead, prev);
            if link != UNLINKED {
                self.nodes[waiter_key].link = link;
            }
        }
    }

    /// Returns the oldest waiter of the main list that a job of the pool submitted.
    pub(super) fn oldest_nested(&self) -> Option<WaiterKey> {
        self.nested.first_key_value().map(|(_, &waiter_key)| waiter_key)
    }

    /// Gives the first waiter behind the queue, of the highest priority, a place in the queue. Returns
    /// its key, or `None` if the queue is full or no waiter stands behind it.
    pub(super) fn enter_queue(&mut self) -> Option<WaiterKey> {
        let full = self.queue_len >= self.queue_capacity && !failpoint("a queue without end");
        if full {
            return None;
        }
        let class = self.first_unqueued.iter().rposition(|&waiter_key| waiter_key != NONE)?;
        let waiter_key = self.first_unqueued[class];
        let node = &mut self.nodes[waiter_key];
        self.first_unqueued[class] = node.next;
        node.in_queue = true;
        self.queue_len += 1;
        self.queued_jobs += usize::from(matches!(node.waiter, Waiter::Job(..)));
        Some(waiter_key)
    }

    /// Takes a waiter out of its list, and returns that list. The node stays until `remove`.
    pub(super) fn unlink(&mut self, waiter_key: WaiterKey) -> List {
        let node = &mut self.nodes[waiter_key];
        let (prev, next) = (node.prev, node.next);
        let list = node.list.take().expect("the waiter stands in a list");
        let class = node.requirements.class();
        // No waiter joins the main list again.
        let (link, is_rare) = (node.link, node.is_rare);
        if std::mem::take(&mut node.in_queue) {
            self.queue_len -= 1;
            self.queued_jobs -= usize::from(matches!(node.waiter, Waiter::Job(..)));
        } else if self.first_unqueued[class] == waiter_key
            && !failpoint("the queue's end stays behind")
        {
            self.first_unqueued[class] = next;
        }
        if is_rare {
            self.forget_rare(waiter_key);
        }
        if prev != NONE {
            self.nodes[prev].next = next;
        }
        if next != NONE {
            self.nodes[next].prev = prev;
        }
        let ends = self.ends_mut(list, class);
        if prev == NONE {
            ends.head = next;
        }
        if next == NONE {
            ends.tail = prev;
        }
        ends.len -= 1;
        if list == List::Main {
            let stay = ends.len;
            self.main_len -= 1;
            self.turns.leave(class, link, waiter_key, prev, stay);
        }
        self.resuming_jobs -= usize::from(list.is_resuming());
        list
    }

    pub(super) fn list_of(&self, waiter_key: WaiterKey) -> Option<List> {
        self.nodes[waiter_key].list
    }

    /// Returns the keys of all waiters in lists, apart from resuming jobs: the main list first, from the
    /// highest priority down, each list oldest first.
    pub(super) fn waiter_keys(&self) -> Vec<WaiterKey> {
        let quotas = self.quotas.iter().map(|(key, _)| List::Quota(key));
        std::iter::once(List::Main).chain(quotas).flat_map(|list| self.keys_in(list)).collect()
    }

    /// Returns the keys of all resuming jobs.
    pub(super) fn resuming_keys(&self) -> Vec<WaiterKey> {
        let quotas = self.quotas.iter().map(|(key, _)| List::ResumingInQuota(key));
        std::iter::once(List::Resuming).chain(quotas).flat_map(|list| self.keys_in(list)).collect()
    }

    fn keys_in(&self, list: List) -> impl Iterator<Item = WaiterKey> + '_ {
        let classes = if list == List::Main { PRIORITIES } else { 1 };
        let known = |key: WaiterKey| (key != NONE).then_some(key);
        (0..classes).rev().flat_map(move |class| {
            let first = known(self.ends(list, class).head);
            std::iter::successors(first, move |&key| known(self.nodes[key].next))
        })
    }

    /// Returns the oldest waiter of each priority in the main list.
    pub(super) fn heads(&self) -> [Option<WaiterKey>; PRIORITIES] {
        self.main.map(|ends| (ends.head != NONE).then_some(ends.head))
    }

    /// Returns the callers in a list, oldest first.
    pub(super) fn callers(&self, list: List) -> impl Iterator<Item = &CallerWaiter> + '_ {
        self.keys_in(list).filter_map(|key| match &self.nodes[key].waiter {
            Waiter::Caller(caller) => Some(caller),
            Waiter::Job(..) | Waiter::None => None,
        })
    }

    fn ends(&self, list: List, class: usize) -> &ListEnds {
        match list {
            List::Main => &self.main[class],
            List::Quota(key) => &self.quotas[key].waiters,
            List::Resuming => &self.resuming,
            List::ResumingInQuota(key) => &self.quotas[key].resuming,
        }
    }

    fn ends_mut(&mut self, list: List, class: usize) -> &mut ListEnds {
        match list {
            List::Main => &mut self.main[class],
            List::Quota(key) => &mut self.quotas[key].waiters,
            List::Resuming => &mut self.resuming,
            List::ResumingInQuota(key) => &mut self.quotas[key].resuming,
        }
    }
}

mod ahead;
mod nodes;
mod rare;

#[cfg(all(test, not(millpond_loom)))]
mod tests;
