//! The waiting line: who stands where, in strict order of arrival.
//!
//! Lists threaded through one slab, so that leaving from the middle costs no search. The first
//! `places` entries of the main list stand in the pool's queue, the rest wait for a place in it.
//! Each quota has a list of its own for those who wait for their share before they may even
//! stand in the main one. Nothing here counts slots: `admission` does.

use std::task::Waker;

use slab::Slab;

use crate::pool::job::{RawJob, Runnable};
use crate::pool::scheduler::context::Within;

const NONE: usize = usize::MAX;

/// Somebody in line.
pub(crate) enum Entry {
    /// A job that was handed over and needs nobody to be started, but may have one who waits for
    /// its start.
    Job(Runnable, Option<Waker>),
    /// A caller who still holds its job.
    Caller(Caller),
}

impl Entry {
    fn is_for_slot(&self) -> bool {
        matches!(self, Self::Caller(caller) if caller.for_slot)
    }
}

/// A job that was taken out of line.
pub(crate) struct Removed {
    pub(crate) job: Runnable,
    pub(crate) waker: Option<Waker>,
    pub(crate) quota: Option<usize>,
    pub(crate) list: List,
}

pub(crate) struct Caller {
    pub(crate) waker: Option<Waker>,
    /// The slot-holding job of this pool that waits through this caller, if one does.
    pub(crate) within: Option<Within>,
    pub(crate) told: Told,
    /// Waits for a slot alone: it has no job yet that could stand in the queue.
    pub(crate) for_slot: bool,
}

/// What a caller in line finds when it looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Wait,
    /// A place in the queue is kept for it, where it stands.
    Place,
    /// A slot is kept for it; it stands in no list any more.
    Slot,
    Closed,
    Deadlock,
}

pub(crate) struct Node {
    prev: usize,
    next: usize,
    /// The list the node is in, if it is in one.
    list: Option<List>,
    /// Stands in the queue.
    admitted: bool,
    pub(crate) quota: Option<usize>,
    pub(crate) entry: Entry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Main,
    Quota(usize),
}

#[derive(Clone, Copy)]
struct Ends {
    head: usize,
    tail: usize,
    len: usize,
}

impl Ends {
    const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };
}

/// A group's share of the pool.
pub(crate) struct Quota {
    pub(crate) limit: usize,
    /// Jobs that hold a part of the share: running, or in the main list.
    pub(crate) held: usize,
    /// Nobody refers to it any more; it goes with its last share.
    orphaned: bool,
    ends: Ends,
}

pub(crate) struct Line {
    nodes: Slab<Node>,
    main: Ends,
    pub(crate) quotas: Slab<Quota>,
    places: usize,
    /// How many of the main list stand in the queue, always its first; and the next behind them.
    admitted: usize,
    boundary: usize,
    /// How many of the admitted are jobs, not callers.
    queued: usize,
    /// How many of the callers came for a slot alone.
    reserving: usize,
}

impl Line {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            nodes: Slab::new(),
            main: Ends::EMPTY,
            quotas: Slab::new(),
            places,
            admitted: 0,
            boundary: NONE,
            queued: 0,
            reserving: 0,
        }
    }

    /// Whether the main list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.main.len == 0
    }

    /// Whether somebody new would get a place in the queue.
    pub(crate) fn has_place(&self) -> bool {
        self.main.len < self.places
    }

    /// Jobs in the queue.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Everybody in line who is not in the queue, those included who are told to come but have
    /// not yet.
    pub(crate) fn waiting(&self) -> usize {
        self.nodes.len() - self.queued
    }

    /// How many of them came for a slot alone.
    pub(crate) fn reserving(&self) -> usize {
        self.reserving
    }

    pub(crate) fn add_quota(&mut self, limit: usize) -> usize {
        self.quotas.insert(Quota { limit, held: 0, orphaned: false, ends: Ends::EMPTY })
    }

    /// Nobody refers to a quota any more, but for slots that are reserved or held under it.
    pub(crate) fn orphan_quota(&mut self, key: usize) {
        self.quotas[key].orphaned = true;
        self.sweep_quota(key);
    }

    /// Forgets a quota if nothing is left that could refer to it.
    pub(crate) fn sweep_quota(&mut self, key: usize) {
        let quota = &self.quotas[key];
        if quota.orphaned && quota.held == 0 && quota.ends.len == 0 {
            self.quotas.remove(key);
        }
    }

    pub(crate) fn node(&mut self, ticket: usize) -> &mut Node {
        &mut self.nodes[ticket]
    }

    pub(crate) fn caller(&mut self, ticket: usize) -> &mut Caller {
        match &mut self.nodes[ticket].entry {
            Entry::Caller(caller) => caller,
            Entry::Job(..) => unreachable!("a caller's ticket names its own node"),
        }
    }

    /// Forgets a caller who was told to come. Callers in a list are taken out by `remove`.
    pub(crate) fn dismiss(&mut self, ticket: usize) -> Node {
        let node = self.nodes.remove(ticket);
        debug_assert!(node.list.is_none());
        self.reserving -= usize::from(node.entry.is_for_slot());
        node
    }

    pub(crate) fn head(&self, list: List) -> Option<usize> {
        let head = self.ends(list).head;
        (head != NONE).then_some(head)
    }

    /// The ticket the next `push` will give out.
    pub(crate) fn next_ticket(&self) -> usize {
        self.nodes.vacant_key()
    }

    /// Puts somebody at the end of a list.
    pub(crate) fn push(&mut self, list: List, quota: Option<usize>, entry: Entry) -> usize {
        self.reserving += usize::from(entry.is_for_slot());
        let node = Node { prev: NONE, next: NONE, list: None, admitted: false, quota, entry };
        let ticket = self.nodes.insert(node);
        self.link(list, ticket);
        ticket
    }

    /// Puts somebody who is in no list at the end of one.
    pub(crate) fn link(&mut self, list: List, ticket: usize) {
        let tail = self.ends(list).tail;
        let node = &mut self.nodes[ticket];
        debug_assert!(node.list.is_none());
        (node.prev, node.next, node.list) = (tail, NONE, Some(list));
        if tail != NONE {
            self.nodes[tail].next = ticket;
        }
        let ends = self.ends_mut(list);
        if tail == NONE {
            ends.head = ticket;
        }
        ends.tail = ticket;
        ends.len += 1;
        if list == List::Main && self.boundary == NONE {
            self.boundary = ticket;
        }
    }

    /// Gives the next in the main list a place in the queue, if one is free.
    pub(crate) fn admit_next(&mut self) -> Option<&mut Entry> {
        if self.boundary == NONE || self.admitted >= self.places {
            return None;
        }
        let node = &mut self.nodes[self.boundary];
        self.boundary = node.next;
        node.admitted = true;
        self.admitted += 1;
        if let Entry::Job(..) = node.entry {
            self.queued += 1;
        }
        Some(&mut node.entry)
    }

    /// Takes somebody out of the list they are in. The node stays until `dismiss`.
    pub(crate) fn unlink(&mut self, ticket: usize) {
        let node = &mut self.nodes[ticket];
        let (prev, next) = (node.prev, node.next);
        let list = node.list.take().expect("unlinked twice");
        if list == List::Main {
            if std::mem::take(&mut self.nodes[ticket].admitted) {
                self.admitted -= 1;
                if matches!(self.nodes[ticket].entry, Entry::Job(..)) {
                    self.queued -= 1;
                }
            } else if self.boundary == ticket {
                self.boundary = next;
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

    /// Takes out the job under `ticket`, if it is that job.
    pub(crate) fn remove_job(&mut self, ticket: usize, job: RawJob) -> Option<Removed> {
        let list = self.nodes.get(ticket)?.list?;
        self.start_waker(ticket, job)?;
        self.unlink(ticket);
        let node = self.dismiss(ticket);
        match node.entry {
            Entry::Job(job, waker) => Some(Removed { job, waker, quota: node.quota, list }),
            Entry::Caller(_) => None,
        }
    }

    /// Where to leave the waker of who waits for a job's start, if it stands under `ticket`.
    pub(crate) fn start_waker(&mut self, ticket: usize, job: RawJob) -> Option<&mut Option<Waker>> {
        match &mut self.nodes.get_mut(ticket)?.entry {
            Entry::Job(own, waker) if own.ptr() == job => Some(waker),
            _ => None,
        }
    }

    /// A caller with a kept place in the queue hands its job in, and keeps its position.
    pub(crate) fn hand_in(&mut self, ticket: usize, job: Runnable) {
        debug_assert!(self.nodes[ticket].admitted);
        self.nodes[ticket].entry = Entry::Job(job, None);
        self.queued += 1;
    }

    /// Everybody still in a list, oldest first.
    pub(crate) fn tickets(&self) -> Vec<usize> {
        let quotas = self.quotas.iter().map(|(key, _)| List::Quota(key));
        std::iter::once(List::Main).chain(quotas).flat_map(|list| self.tickets_in(list)).collect()
    }

    fn tickets_in(&self, list: List) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.head(list), |&key| {
            let next = self.nodes[key].next;
            (next != NONE).then_some(next)
        })
    }

    /// The callers in a list.
    pub(crate) fn callers(&self, list: List) -> impl Iterator<Item = &Caller> + '_ {
        self.tickets_in(list).filter_map(|key| match &self.nodes[key].entry {
            Entry::Caller(caller) => Some(caller),
            Entry::Job(..) => None,
        })
    }

    /// Who stands in a list under `ticket`, if anybody does.
    pub(crate) fn standing(&self, ticket: usize) -> Option<&Entry> {
        self.nodes.get(ticket).filter(|node| node.list.is_some()).map(|node| &node.entry)
    }

    pub(crate) fn list_of(&self, ticket: usize) -> Option<List> {
        self.nodes[ticket].list
    }

    fn ends(&self, list: List) -> &Ends {
        match list {
            List::Main => &self.main,
            List::Quota(quota) => &self.quotas[quota].ends,
        }
    }

    fn ends_mut(&mut self, list: List) -> &mut Ends {
        match list {
            List::Main => &mut self.main,
            List::Quota(quota) => &mut self.quotas[quota].ends,
        }
    }
}
