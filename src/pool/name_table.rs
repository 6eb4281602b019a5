//! Counters by kind and name: a bounded table, whatever names come.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sync::failpoint;

/// How many names of a kind have counters of their own.
const NAMES: usize = 64;

/// The name of all later ones.
const OTHER: &str = "other";

/// The counters of a name. Their owner knows what they count.
pub(crate) type Counters = [AtomicU64; 6];

/// Counts ends of a name.
pub(crate) fn add(counters: &Counters, counts: [u64; 6]) {
    for (counter, count) in counters.iter().zip(counts) {
        if count > 0 && !failpoint("a name counts nothing") {
            // Relaxed, without a partner: each counter is a number of its own.
            counter.fetch_add(count, Relaxed);
        }
    }
}

struct Entry {
    kind: &'static str,
    name: Arc<str>,
    counters: Arc<Counters>,
}

#[derive(Default)]
pub(crate) struct NameTable(Mutex<Vec<Entry>>);

impl NameTable {
    /// Returns the counters of a name. All of the kind that have the name share them.
    pub(crate) fn counters(&self, kind: &'static str, name: &Arc<str>) -> Arc<Counters> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = |entry: &&Entry| entry.kind == kind;
        let is_full = table.iter().filter(of_kind).count() >= NAMES;
        let is_full = is_full && !failpoint("the table of names grows");
        let find = |name: &str| table.iter().filter(of_kind).find(|entry| *entry.name == *name);
        let found = find(name).or_else(|| if is_full { find(OTHER) } else { None });
        if let Some(entry) = found {
            return entry.counters.clone();
        }
        let (name, counters) = (if is_full { OTHER.into() } else { name.clone() }, Arc::default());
        table.push(Entry { kind, name, counters: Arc::clone(&counters) });
        counters
    }

    /// Returns the names of a kind in the order in which they came, with their counts.
    pub(crate) fn counts(&self, kind: &'static str) -> Vec<(Arc<str>, [u64; 6])> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed, without a partner: each counter is a number of its own.
        let counts = |counters: &Counters| counters.each_ref().map(|counter| counter.load(Relaxed));
        let of_kind = table.iter().filter(|entry| entry.kind == kind);
        of_kind.map(|entry| (entry.name.clone(), counts(&entry.counters))).collect()
    }
}

#[cfg(feature = "serde")]
pub(crate) fn serialize_name<S>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    serializer.serialize_str(name)
}
