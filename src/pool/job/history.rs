//! How long a job waited for its slot, and how often it was polled: for [`Pool::jobs`](crate::Pool::jobs).
//!
//! No word of a cell is kept for this. The words of the job's two keys hold it while they hold no key;
//! [`NO_KEY`] is set then.
//!
//! | the job | `suspended_key` | `waiter_key` |
//! |---|---|---|
//! | is new | no moment | no moment |
//! | waits for its first slot | no moment | its key in the wait list |
//! | has its slot, and was never suspended | upper half of the moment at which it joined | lower half |
//! | was suspended | its key in the slab | its [`History`] |
//! | waits for the slot that it lent | its key in the slab | its key in the wait list |
//!
//! The wait list keeps the history of a job that lent its slot. The token's holder writes both words (S2),
//! so each access of the holder is Relaxed. A thread that lists jobs reads them under the shard's lock, which
//! is the partner of both. A job that lends its slot meanwhile shows a
//! key of the wait list there, and no history.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::pool::job::refs::{RawJob, Runnable};
use crate::pool::timings::Moment;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::failpoint;

/// The bit of a key's word that says that the job has no such key. The other bits are zero or a part of the
/// job's history.
pub(super) const NO_KEY: u32 = 1 << 31;

/// The bits of a word that `NO_KEY` leaves.
const BITS: u32 = 31;

/// The low bits of a [`History`] are the wait. The bits above count the polls behind the first one.
const WAIT_BITS: u32 = 13;
const POLL: u32 = 1 << WAIT_BITS;
const MAX_WAIT: u32 = POLL - 1;

/// A wait is a number of so many nanoseconds, as a power of two.
const UNIT: u32 = 12;
/// The bits of a wait behind its leading one.
const DIGITS: u32 = 8;

/// The wait and the polls of a job that was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History(NonZeroU32);

impl History {
    /// The history of a job that waited for so many nanoseconds and was polled once.
    fn new(wait: u64) -> Self {
        let units = wait >> UNIT;
        let shift = (u64::BITS - units.leading_zeros()).saturating_sub(DIGITS + 1);
        // The two parts overlap in the leading one, so that the codes follow each other.
        let code = (u64::from(shift) << DIGITS) + (units >> shift);
        Self::of_word(code.min(MAX_WAIT.into()) as u32)
    }

    fn of_word(word: u32) -> Self {
        const ALWAYS: NonZeroU32 = NonZeroU32::new(NO_KEY).unwrap();
        Self(ALWAYS | word)
    }

    /// Returns the time from the submit to the first poll, if the job waited for its slot.
    pub(crate) fn waited(self) -> Duration {
        let code = self.0.get() & MAX_WAIT;
        let shift = (code >> DIGITS).saturating_sub(1);
        Duration::from_nanos(u64::from(code - (shift << DIGITS)) << (shift + UNIT))
    }

    pub(crate) fn polls(self) -> u32 {
        ((self.0.get() & !NO_KEY) >> WAIT_BITS) + 1
    }
}

impl Runnable {
    /// Notes that the job got its slot, after it joined the wait list at `since`. Called before the job's
    /// first poll.
    #[inline]
    pub(crate) fn note_wait(&self, since: Moment) {
        let (upper, lower) = (since.get() >> BITS, since.get() as u32);
        // A moment with an empty upper half would look like none: the first seconds of some clocks. Models
        // have no time.
        if upper > 0 && !cfg!(millpond_loom) && !failpoint("a wait is forgotten") {
            let header = self.0.header();
            // Relaxed suffices: only the token's holder uses these words (S2).
            header.suspended_key.store(NO_KEY | upper as u32, Relaxed);
            header.waiter_key.store(NO_KEY | lower, Relaxed);
        }
    }

    /// Notes that the first poll began at `began`. Called before the job is suspended for the first time.
    #[inline]
    pub(super) fn end_wait(&self, began: Moment) {
        // Most jobs have not waited: both of their words are as they were made.
        if self.0.header().suspended_key.load(Relaxed) != NO_KEY {
            self.keep_wait(began);
        }
    }

    #[cold]
    fn keep_wait(&self, began: Moment) {
        let wait = self.0.waits_since().map_or(0, |since| began.nanos_since(since));
        self.0.header().waiter_key.store(History::new(wait).0.get(), Relaxed);
    }

    /// Counts a poll of a job that was suspended before.
    #[inline]
    pub(crate) fn count_poll(&self) {
        // A model that counts has many more interleavings, of no interest.
        if cfg!(millpond_loom) {
            return;
        }
        let word = &self.0.header().waiter_key;
        let more = word.load(Relaxed).wrapping_add(POLL);
        // A count at its end would take `NO_KEY` along.
        if more & NO_KEY != 0 && !failpoint("a poll is not counted") {
            word.store(more, Relaxed);
        }
    }

    /// Takes the history of a job that is about to wait for the slot that it lent.
    pub(super) fn history_word(&self) -> History {
        History::of_word(self.0.header().waiter_key.load(Relaxed))
    }

    /// Brings back what `history_word` returned, to a job that leaves the wait list.
    pub(crate) fn set_history(&self, history: Option<History>) {
        if let Some(history) = history.filter(|_| !failpoint("a lender forgets its history")) {
            self.0.header().waiter_key.store(history.0.get(), Relaxed);
        }
    }
}

impl RawJob {
    /// Returns when a job that was never suspended joined the wait list, if it did and has a slot now.
    pub(crate) fn waits_since(self) -> Option<Moment> {
        let [upper, lower] = [&self.header().suspended_key, &self.header().waiter_key]
            .map(|word| u64::from(word.load(Relaxed) & !NO_KEY));
        if upper == 0 { None } else { Moment::new(upper << BITS | lower) }
    }

    /// Returns the history of a job that was suspended, unless it waits for the slot that it lent.
    pub(crate) fn history(self) -> Option<History> {
        let word = self.header().waiter_key.load(Relaxed);
        (word & NO_KEY != 0).then(|| History::of_word(word))
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_wait_keeps_its_first_digits() {
        let mut wait: u64 = 0;
        while wait < 20 * 24 * 3600 * 1_000_000_000 {
            let kept = History::new(wait);
            assert_eq!(kept.polls(), 1);
            let waited = kept.waited().as_nanos() as u64;
            assert!(waited <= wait, "{wait} {waited}");
            assert!(wait - waited <= (wait >> DIGITS).max(1 << UNIT), "{wait} {waited}");
            wait += wait / 7 + 1_000;
        }
        let longest = History::new(u64::MAX);
        assert!(longest.waited() > Duration::from_secs(25 * 24 * 3600), "{longest:?}");
        assert_eq!(longest.polls(), 1);
    }
}
