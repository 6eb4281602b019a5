//! Order by key: the messages of a key wait for each other, different keys do not.
//!
//! [`Keys`] has an entry for each key whose message is being worked on, with the messages that came
//! meanwhile. The task of a key takes them one after another and removes the entry when none is left.
//! Each waiting message holds a place of `in_flight`, so the table is bounded by it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::failpoint::failpoint;

/// The rule that gives a message its key, as a hash. Keys with one hash wait for each other, too.
pub(crate) struct ByKey<M> {
    hash: Box<dyn Fn(&M) -> u64 + Send + Sync>,
    /// Another attempt in place needs the message again.
    pub(crate) clone: fn(&M) -> M,
}

impl<M: Clone> ByKey<M> {
    pub(crate) fn new<K: Hash>(key: impl Fn(&M) -> K + Send + Sync + 'static) -> Self {
        let random = RandomState::new();
        Self { hash: Box::new(move |message| random.hash_one(key(message))), clone: M::clone }
    }
}

impl<M> ByKey<M> {
    pub(crate) fn key(&self, message: &M) -> u64 {
        (self.hash)(message)
    }
}

/// Messages that wait for an earlier message of their key.
pub(crate) struct Keys<T>(Mutex<HashMap<u64, VecDeque<T>>>);

impl<T> Keys<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Returns the item if its key has no task yet; the caller starts one. Otherwise the item waits.
    pub(crate) fn enter(&self, key: u64, item: T) -> Option<T> {
        match self.lock().entry(key) {
            Entry::Occupied(mut waiting) => {
                match failpoint("a key overtakes") {
                    true => waiting.get_mut().push_front(item),
                    false => waiting.get_mut().push_back(item),
                }
                None
            }
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                Some(item)
            }
        }
    }

    /// Returns the next item of a key to its task. `None` ends the task.
    pub(crate) fn next(&self, key: u64) -> Option<T> {
        let mut keys = self.lock();
        let next = keys.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            keys.remove(&key);
        }
        next
    }

    /// Takes out all items that wait.
    pub(crate) fn take_waiting(&self) -> Vec<T> {
        if failpoint("a drain waits for each key") {
            return Vec::new();
        }
        self.lock().values_mut().flat_map(std::mem::take).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
