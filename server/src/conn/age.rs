//! The ages of a listener's connections, if there is a maximal age.
//!
//! [`Ages`] is a part of `ListenerConns::state`, under that lock. `ListenerConns::insert` adds each new
//! connection, and the task of `ListenerConns::run_ages` asks those that are due. Without a maximal age
//! nothing is here, and no entry of the table is larger for it.
//!
//! A connection that was asked once is asked again after each grace, because an idle connection of HTTP
//! waits for a request that may be on its way (`last_request.rs`). A connection that has ended is forgotten
//! when its time comes, or when the ended ones are the greater part. What must never happen: the list grows
//! with connections that came and went.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::close_reason::{CloseReason, Deadline};
use crate::conn::key::ConnKey;
use crate::conn::table::{ConnTable, ParkedState};
use crate::sync::failpoint;

/// The list is not looked through for ended connections below this length.
const MIN_SCAN: usize = 1024;

#[derive(Default)]
pub(crate) struct Ages {
    /// The connections that were not asked yet, and when they will be. Sorted: all have the same age then.
    young: VecDeque<(ConnKey, Instant)>,
    old: Vec<Old>,
    /// The length of `young` at which the ended connections are removed.
    scan_at: usize,
}

/// A connection that was asked to close.
struct Old {
    key: ConnKey,
    ask_again: Instant,
    /// When the connection is cut off.
    end: Option<Instant>,
}

impl Ages {
    /// Adds a new connection, which reaches the maximal age `at` that time.
    pub(crate) fn insert<T: ParkedState>(
        &mut self,
        key: ConnKey,
        at: Instant,
        table: &mut ConnTable<T>,
    ) {
        self.young.push_back((key, at));
        let is_long = self.young.len() >= self.scan_at.max(MIN_SCAN);
        if is_long && !failpoint("ended connections keep their age") {
            self.young.retain(|(key, _)| table.contains(*key));
            self.old.retain(|old| table.contains(old.key));
            self.scan_at = 2 * self.young.len();
        }
    }

    /// Returns the connections that are to be asked to close now, and for which reason.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        again: Duration,
        grace: Option<Duration>,
    ) -> Vec<(ConnKey, CloseReason)> {
        let mut due = Vec::new();
        self.old.retain_mut(|old| {
            if old.end.is_some_and(|end| end <= now) && !failpoint("the grace of an age has no end")
            {
                due.push((old.key, CloseReason::Deadline(Deadline::MaxAge)));
                return false;
            }
            if old.ask_again <= now {
                old.ask_again = now + again;
                due.push((old.key, CloseReason::MaxAge));
            }
            true
        });
        while self.young.front().is_some_and(|(_, at)| *at <= now) {
            let Some((key, _)) = self.young.pop_front() else { break };
            due.push((key, CloseReason::MaxAge));
            let end = grace.map(|grace| now + grace);
            self.old.push(Old { key, ask_again: now + again, end });
        }
        due
    }

    /// Forgets connections that have ended since they were asked.
    pub(crate) fn forget_ended<T: ParkedState>(&mut self, table: &mut ConnTable<T>) {
        self.old.retain(|old| table.contains(old.key));
    }

    /// Returns when a connection is next due; none without connections.
    pub(crate) fn next(&self) -> Option<Instant> {
        let next = |old: &Old| old.end.map_or(old.ask_again, |end| end.min(old.ask_again));
        let old = self.old.iter().map(next);
        old.chain(self.young.front().map(|(_, at)| *at)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::per_ip::PerIpPermit;

    #[test]
    fn ended_connections_are_forgotten() {
        let (mut ages, mut table) = (Ages::default(), ConnTable::<u32>::new(8));
        let at = Instant::now() + Duration::from_secs(60);
        for _ in 0..100 * MIN_SCAN {
            let key = table.insert(PerIpPermit::UNCOUNTED);
            ages.insert(key, at, &mut table);
            table.remove(key);
        }
        assert!(ages.young.len() <= 2 * MIN_SCAN, "{}", ages.young.len());
        // The open ones stay, in their order.
        let open: Vec<_> = (0..3 * MIN_SCAN)
            .map(|_| {
                let key = table.insert(PerIpPermit::UNCOUNTED);
                ages.insert(key, at, &mut table);
                key
            })
            .collect();
        let due = ages.due(at, Duration::from_secs(1), None);
        let due: Vec<_> = due.into_iter().map(|(key, _)| key).collect();
        assert!(due.ends_with(&open), "{} of {}", due.len(), open.len());
        assert!(due.len() <= open.len() + 2 * MIN_SCAN, "{}", due.len());
    }
}
