//! The warm connections of a table, for the timer to look at.
//!
//! A warm connection gives up its task or its protocol's state when it has been idle for some ticks. The
//! timer looks at the connections of this list alone, so the other ones cost it nothing.
//!
//! The table lists a warm connection without a task, under the lock of the listener. A task lists its own
//! connection, without that lock. The lock of the list is taken under the listener's, never around it.
//!
//! # Invariants
//!
//! - **L1** A connection that waits as a warm one is in the list. Its task stores the wait and then reads
//!   the flag; the timer clears the flag and then reads the wait. All four are `SeqCst`, so one of both
//!   sees what the other has stored, and lists the connection. (test: `the_table_agrees_with_the_model`)
//! - **L2** A connection is in the list once: only a change of its flag from clear to set lists it.
//!   (test: `the_table_agrees_with_the_model`)

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::conn::key::ConnKey;
use crate::sync::{Mutex, failpoint};

#[derive(Default)]
pub(crate) struct WarmList(Mutex<Vec<ConnKey>>);

/// Whether a connection is in the list.
#[derive(Default)]
pub(crate) struct Listed(AtomicBool);

impl WarmList {
    /// Puts a connection that waits as a warm one into the list, if it is not there.
    pub(crate) fn add(&self, key: ConnKey, listed: &Listed) {
        if !listed.0.load(SeqCst) && !listed.0.swap(true, SeqCst) {
            self.0.lock().push(key);
        }
    }

    /// Takes all keys. The caller clears the flag of each one.
    pub(crate) fn take(&self) -> Vec<ConnKey> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Listed {
    /// Notes that the connection is not in the list.
    pub(crate) fn clear(&self) {
        if !failpoint("a connection is warm only once") {
            self.0.store(false, SeqCst);
        }
    }

    /// Moves the flag, while no other thread has either.
    pub(crate) fn move_to(&self, other: &Self) {
        other.0.store(self.0.swap(false, SeqCst), SeqCst);
    }
}
