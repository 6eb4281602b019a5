//! The wait list: who stands where, in strict order of arrival.
//!
//! Lists threaded through one slab, so that leaving from the middle costs no search. The first
//! `queue_capacity` entries of the main list stand in the pool's queue, the rest wait for a place in it.
//! Each quota has a list of its own for those who wait for their share before they may even
//! stand in the main one. Nothing here counts slots: `limiter` does.

use std::task::Waker;

use slab::Slab;

use crate::pool::job::{RawJob, Runnable};
use crate::pool::limiter::deadlock::WaitingJob;

/// The key of a waiter in the wait list.
pub(crate) type WaiterKey = usize;

const NONE: WaiterKey = usize::MAX;

/// A waiter.
pub(crate) enum Waiter {
    /// A job that was handed over and needs nobody to be started, but may have one who waits for
    /// its start.
    Job(Runnable, Option<Waker>),
    /// A caller who still holds its job.
    Caller(CallerWaiter),
}

impl Waiter {
    fn is_reserver(&self) -> bool {
        matches!(self, Self::Caller(caller) if caller.is_reserver)
    }
}

/// A job that was taken out of the wait list.
pub(crate) struct Removed {
    pub(crate) job: Runnable,
    pub(crate) waker: Option<Waker>,
    pub(crate) quota: Option<usize>,
    pub(crate) list: List,
}

pub(crate) struct CallerWaiter {
    pub(crate) waker: Option<Waker>,
    /// The slot-holding job of this pool that waits through this caller, if one does.
    pub(crate) waiting_job: Option<WaitingJob>,
    pub(crate) state: WaiterState,
    /// Waits for a slot alone: it has no job yet that could stand in the queue.
    pub(crate) is_reserver: bool,
}

/// What a caller in the wait list finds when it looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaiterState {
    Waiting,
    /// A place in the queue is kept for it, where it stands.
    QueueGranted,
    /// A slot is kept for it; it stands in no list any more.
    SlotGranted,
    Closed,
    Deadlock,
}

pub(crate) struct Node {
    prev: WaiterKey,
    next: WaiterKey,
    /// The list the node is in, if it is in one.
    list: Option<List>,
    /// Stands in the queue.
    admitted: bool,
    pub(crate) quota: Option<usize>,
    pub(crate) waiter: Waiter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Main,
    Quota(usize),
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

/// A group's share of the pool.
pub(crate) struct Quota {
    pub(crate) limit: usize,
    /// Jobs that hold a part of the share: running, or in the main list.
    pub(crate) in_use: usize,
    /// Nobody refers to it any more; it goes with its last share.
    removed: bool,
    list_ends: ListEnds,
}

pub(crate) struct WaitList {
    nodes: Slab<Node>,
    main: ListEnds,
    pub(crate) quotas: Slab<Quota>,
    queue_capacity: usize,
    /// How many of the main list stand in the queue, always its first; and the next behind them.
    admitted: usize,
    first_unqueued: WaiterKey,
    /// How many of the admitted are jobs, not callers.
    queued: usize,
    /// How many of the callers came for a slot alone.
    waiting_reservers: usize,
}

impl WaitList {
    pub(crate) fn new(queue_capacity: usize) -> Self {
        Self {
            nodes: Slab::new(),
            main: ListEnds::EMPTY,
            quotas: Slab::new(),
            queue_capacity,
            admitted: 0,
            first_unqueued: NONE,
            queued: 0,
            waiting_reservers: 0,
        }
    }

    /// Whether the main list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.main.len == 0
    }

    /// Whether somebody new would get a place in the queue.
    pub(crate) fn has_queue_room(&self) -> bool {
        self.main.len < self.queue_capacity
    }

    /// Jobs in the queue.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Every waiter who is not in the queue, those included who are told to come but have
    /// not yet.
    pub(crate) fn waiting(&self) -> usize {
        self.nodes.len() - self.queued
    }

    /// How many of them came for a slot alone.
    pub(crate) fn waiting_reservers(&self) -> usize {
        self.waiting_reservers
    }

    pub(crate) fn add_quota(&mut self, limit: usize) -> usize {
        self.quotas.insert(Quota { limit, in_use: 0, removed: false, list_ends: ListEnds::EMPTY })
    }

    /// Nobody refers to a quota any more, but for slots that are reserved or held under it.
    pub(crate) fn remove_quota_when_unused(&mut self, key: usize) {
        self.quotas[key].removed = true;
        self.remove_quota_if_unused(key);
    }

    /// Forgets a quota if nothing is left that could refer to it.
    pub(crate) fn remove_quota_if_unused(&mut self, key: usize) {
        let quota = &self.quotas[key];
        if quota.removed && quota.in_use == 0 && quota.list_ends.len == 0 {
            self.quotas.remove(key);
        }
    }

    pub(crate) fn node(&mut self, waiter_key: WaiterKey) -> &mut Node {
        &mut self.nodes[waiter_key]
    }

    pub(crate) fn caller(&mut self, waiter_key: WaiterKey) -> &mut CallerWaiter {
        match &mut self.nodes[waiter_key].waiter {
            Waiter::Caller(caller) => caller,
            Waiter::Job(..) => unreachable!("a caller's key names its own node"),
        }
    }

    /// Forgets a caller who was told to come. Callers in a list are taken out by `unlink`.
    pub(crate) fn remove_node(&mut self, waiter_key: WaiterKey) -> Node {
        let node = self.nodes.remove(waiter_key);
        debug_assert!(node.list.is_none());
        self.waiting_reservers -= usize::from(node.waiter.is_reserver());
        node
    }

    pub(crate) fn head(&self, list: List) -> Option<WaiterKey> {
        let head = self.list_ends(list).head;
        (head != NONE).then_some(head)
    }

    /// The key the next `push` will give out.
    pub(crate) fn next_key(&self) -> WaiterKey {
        self.nodes.vacant_key()
    }

    /// Puts somebody at the end of a list.
    pub(crate) fn push(&mut self, list: List, quota: Option<usize>, waiter: Waiter) -> WaiterKey {
        self.waiting_reservers += usize::from(waiter.is_reserver());
        let node = Node { prev: NONE, next: NONE, list: None, admitted: false, quota, waiter };
        let waiter_key = self.nodes.insert(node);
        self.link(list, waiter_key);
        waiter_key
    }

    /// Puts somebody who is in no list at the end of one.
    pub(crate) fn link(&mut self, list: List, waiter_key: WaiterKey) {
        let tail = self.list_ends(list).tail;
        let node = &mut self.nodes[waiter_key];
        debug_assert!(node.list.is_none());
        (node.prev, node.next, node.list) = (tail, NONE, Some(list));
        if tail != NONE {
            self.nodes[tail].next = waiter_key;
        }
        let list_ends = self.ends_mut(list);
        if tail == NONE {
            list_ends.head = waiter_key;
        }
        list_ends.tail = waiter_key;
        list_ends.len += 1;
        if list == List::Main && self.first_unqueued == NONE {
            self.first_unqueued = waiter_key;
        }
    }

    /// Gives the next in the main list a place in the queue, if one is free.
    pub(crate) fn admit_next(&mut self) -> Option<&mut Waiter> {
        if self.first_unqueued == NONE || self.admitted >= self.queue_capacity {
            return None;
        }
        let node = &mut self.nodes[self.first_unqueued];
        self.first_unqueued = node.next;
        node.admitted = true;
        self.admitted += 1;
        if let Waiter::Job(..) = node.waiter {
            self.queued += 1;
        }
        Some(&mut node.waiter)
    }

    /// Takes somebody out of the list they are in. The node stays until `dismiss`.
    pub(crate) fn unlink(&mut self, waiter_key: WaiterKey) {
        let node = &mut self.nodes[waiter_key];
        let (prev, next) = (node.prev, node.next);
        let list = node.list.take().expect("unlinked twice");
        if list == List::Main {
            if std::mem::take(&mut self.nodes[waiter_key].admitted) {
                self.admitted -= 1;
                if matches!(self.nodes[waiter_key].waiter, Waiter::Job(..)) {
                    self.queued -= 1;
                }
            } else if self.first_unqueued == waiter_key {
                self.first_unqueued = next;
            }
        }
        match prev {
            NONE => self.ends_mut(list).head = next,
            prev => self.nodes[prev].next = next,
        }
        match next {
            NONE => self.ends_mut(list).tail = prev,
            next => self.nodes[next].prev = prev,
        }
        self.ends_mut(list).len -= 1;
    }

    /// Takes out the job under `waiter_key`, if it is that job.
    pub(crate) fn remove_job(&mut self, waiter_key: WaiterKey, job: RawJob) -> Option<Removed> {
        let list = self.nodes.get(waiter_key)?.list?;
        self.start_waker(waiter_key, job)?;
        self.unlink(waiter_key);
        let node = self.remove_node(waiter_key);
        match node.waiter {
            Waiter::Job(job, waker) => Some(Removed { job, waker, quota: node.quota, list }),
            Waiter::Caller(_) => None,
        }
    }

    /// Where to leave the waker of who waits for a job's start, if it stands under `waiter_key`.
    pub(crate) fn start_waker(
        &mut self,
        waiter_key: WaiterKey,
        job: RawJob,
    ) -> Option<&mut Option<Waker>> {
        match &mut self.nodes.get_mut(waiter_key)?.waiter {
            Waiter::Job(own, waker) if own.ptr() == job => Some(waker),
            _ => None,
        }
    }

    /// A caller with a kept place in the queue hands its job in, and keeps its position.
    pub(crate) fn submit_granted(&mut self, waiter_key: WaiterKey, job: Runnable) {
        debug_assert!(self.nodes[waiter_key].admitted);
        self.nodes[waiter_key].waiter = Waiter::Job(job, None);
        self.queued += 1;
    }

    /// Everybody still in a list, oldest first.
    pub(crate) fn waiter_keys(&self) -> Vec<WaiterKey> {
        let quotas = self.quotas.iter().map(|(key, _)| List::Quota(key));
        std::iter::once(List::Main).chain(quotas).flat_map(|list| self.keys_in(list)).collect()
    }

    fn keys_in(&self, list: List) -> impl Iterator<Item = WaiterKey> + '_ {
        std::iter::successors(self.head(list), |&key| {
            let next = self.nodes[key].next;
            (next != NONE).then_some(next)
        })
    }

    /// The callers in a list.
    pub(crate) fn callers(&self, list: List) -> impl Iterator<Item = &CallerWaiter> + '_ {
        self.keys_in(list).filter_map(|key| match &self.nodes[key].waiter {
            Waiter::Caller(caller) => Some(caller),
            Waiter::Job(..) => None,
        })
    }

    /// Who stands in a list under `waiter_key`, if anybody does.
    pub(crate) fn get_linked(&self, waiter_key: WaiterKey) -> Option<&Waiter> {
        self.nodes.get(waiter_key).filter(|node| node.list.is_some()).map(|node| &node.waiter)
    }

    pub(crate) fn list_of(&self, waiter_key: WaiterKey) -> Option<List> {
        self.nodes[waiter_key].list
    }

    fn list_ends(&self, list: List) -> &ListEnds {
        match list {
            List::Main => &self.main,
            List::Quota(quota) => &self.quotas[quota].list_ends,
        }
    }

    fn ends_mut(&mut self, list: List) -> &mut ListEnds {
        match list {
            List::Main => &mut self.main,
            List::Quota(quota) => &mut self.quotas[quota].list_ends,
        }
    }
}
