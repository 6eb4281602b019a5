//! What few waiters have: a deadline, a request, a job of the pool as their submitter. The wait list keeps
//! each in an order or a count of its own. `Node::is_rare` says whether these steps are needed at all.

use crate::pool::limiter::wait_list::{List, WaitList, WaiterKey};

impl WaitList {
    /// Notes what few waiters have: a deadline, a request, a job of the pool as their submitter.
    #[cold]
    pub(super) fn note_rare(&mut self, list: List, waiter_key: WaiterKey) {
        let node = &self.nodes[waiter_key];
        if let Some(at) = node.requirements.deadline {
            self.deadlines.insert((at, waiter_key));
        }
        self.requests += usize::from(node.requirements.is_request);
        if list == List::Main && node.nested > 0 {
            self.nested.insert(node.nested, waiter_key);
        }
    }

    /// Forgets what [`note_rare`](Self::note_rare) has noted.
    #[cold]
    pub(super) fn forget_rare(&mut self, waiter_key: WaiterKey) {
        let node = &self.nodes[waiter_key];
        if let Some(at) = node.requirements.deadline {
            self.deadlines.remove(&(at, waiter_key));
        }
        self.requests -= usize::from(node.requirements.is_request);
        if node.nested > 0 {
            self.nested.remove(&node.nested);
        }
    }
}
