//! Counters by name: a bounded table, whatever names come.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sync::failpoint;

/// How many names have counters of their own.
const NAMES: usize = 64;

/// The name of all later ones.
const OTHER: &str = "other";

/// The counters of a name. Their owner knows what they count.
pub(crate) type Counters = [AtomicU64; 5];

#[derive(Default)]
pub(crate) struct NameTable(Mutex<Vec<(Arc<str>, Arc<Counters>)>>);

impl NameTable {
    /// Returns the counters of a name. All that have the name share them.
    pub(crate) fn counters(&self, name: &Arc<str>) -> Arc<Counters> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = table.len() >= NAMES && !failpoint("the table of names grows");
        let find = |name: &str| table.iter().find(|(other, _)| **other == *name);
        let found = find(name).or_else(|| if is_full { find(OTHER) } else { None });
        if let Some((_, counters)) = found {
            return counters.clone();
        }
        let (name, counters) = (if is_full { OTHER.into() } else { name.clone() }, Arc::default());
        table.push((name, Arc::clone(&counters)));
        counters
    }

    /// Returns the names in the order in which they came, with their counts.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, [u64; 5])> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed, without a partner: each counter is a number of its own.
        let counts = |counters: &Counters| counters.each_ref().map(|counter| counter.load(Relaxed));
        table.iter().map(|(name, counters)| (name.clone(), counts(counters))).collect()
    }
}
