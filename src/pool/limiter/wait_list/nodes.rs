//! The nodes of the waiters, and a few spare ones.
//!
//! A node is large: to move it into the slab and out again took a tenth of a job's time in a small pool. So the
//! node that a waiter leaves stays where it is, as a *spare*: without a waiter and in no list. The next waiter
//! is written over it. Only nodes in memory that the slab keeps anyway become spares.

use std::ops::{Index, IndexMut};

use tokio::time::Instant;

use crate::pool::limiter::wait_list::{Node, Waiter, WaiterKey};
use crate::pool::paged_slab::PagedSlab;

pub(super) struct Nodes {
    slab: PagedSlab<Node>,
    spares: Vec<WaiterKey>,
}

impl Nodes {
    pub(super) const fn new() -> Self {
        Self { slab: PagedSlab::new(), spares: Vec::new() }
    }

    /// Returns the number of nodes that have a waiter.
    pub(super) fn len(&self) -> usize {
        self.slab.len() - self.spares.len()
    }

    /// Returns the key that the next [`claim`](Self::claim) will return.
    pub(super) fn next_key(&self) -> WaiterKey {
        self.spares.last().copied().unwrap_or_else(|| self.slab.vacant_key())
    }

    /// Returns the key of a node to write a waiter to. A new node begins with `since`.
    #[inline]
    pub(super) fn claim(&mut self, since: Instant) -> WaiterKey {
        self.spares.pop().unwrap_or_else(|| self.slab.insert(Node::vacant(since)))
    }

    /// Takes the waiter out of its node.
    #[inline]
    pub(super) fn take(&mut self, waiter_key: WaiterKey) -> Waiter {
        let waiter = std::mem::replace(&mut self[waiter_key].waiter, Waiter::None);
        self.release(waiter_key);
        waiter
    }

    /// Drops the waiter of a node.
    #[inline]
    pub(super) fn clear(&mut self, waiter_key: WaiterKey) {
        self[waiter_key].waiter = Waiter::None;
        self.release(waiter_key);
    }

    #[inline]
    fn release(&mut self, waiter_key: WaiterKey) {
        debug_assert!(self[waiter_key].list.is_none());
        if self.slab.keeps(waiter_key) {
            self.spares.push(waiter_key);
        } else {
            self.slab.remove(waiter_key);
        }
    }

    #[inline]
    pub(super) fn get(&self, waiter_key: WaiterKey) -> Option<&Node> {
        self.slab.get(waiter_key)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, waiter_key: WaiterKey) -> Option<&mut Node> {
        self.slab.get_mut(waiter_key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WaiterKey, &Node)> {
        self.slab.iter()
    }
}

impl Index<WaiterKey> for Nodes {
    type Output = Node;

    #[inline]
    fn index(&self, waiter_key: WaiterKey) -> &Node {
        &self.slab[waiter_key]
    }
}

impl IndexMut<WaiterKey> for Nodes {
    #[inline]
    fn index_mut(&mut self, waiter_key: WaiterKey) -> &mut Node {
        &mut self.slab[waiter_key]
    }
}
