//! What comes before a waiter of the main list.

use crate::pool::limiter::wait_list::{Node, WaitList, WaiterKey};
use crate::pool::options::Requirements;

/// The waiters of the main list that come before one of a priority: of its own, and of higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool::limiter) struct Ahead {
    pub(in crate::pool::limiter) class: usize,
    pub(in crate::pool::limiter) own: usize,
    pub(in crate::pool::limiter) higher: usize,
}

impl WaitList {
    /// Returns the waiters of the main list that come before a new one with these requirements: those of
    /// a higher priority, and of its own those whose turn comes before.
    pub(in crate::pool::limiter) fn ahead_of(&self, requirements: &Requirements) -> Ahead {
        let (class, key) = (requirements.class(), requirements.key);
        let own = match self.turns.keys(class) {
            Some(keys) => keys.turns_before(key),
            None if key.is_some() => 1,
            None => usize::MAX,
        };
        self.ahead(class, own)
    }

    /// Returns the waiters of the main list that come before a new one behind this one, in its key.
    pub(in crate::pool::limiter) fn line_of(&self, waiter_key: WaiterKey) -> Ahead {
        let Node { requirements, link, .. } = self.nodes[waiter_key];
        let class = requirements.class();
        let own = self.turns.keys(class).map_or(usize::MAX, |keys| keys.turns_until(link));
        self.ahead(class, own)
    }

    /// Returns so many waiters of a priority, or all of them, and those of the higher ones.
    fn ahead(&self, class: usize, own: usize) -> Ahead {
        let higher = self.main[class + 1..].iter().map(|ends| ends.len).sum();
        Ahead { class, own: own.min(self.main[class].len), higher }
    }
}
