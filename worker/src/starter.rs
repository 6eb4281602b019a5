//! [`Line`]: messages on their way to their first poll, and claims on their way to their
//! acknowledgement.
//!
//! The fetching task puts messages in. *Starters*, tasks of the worker, take them out and poll each
//! once. A message that ends in its first poll costs no task of its own, and its claim is acknowledged
//! together with others. A message that waits for something keeps its starter as its task.
//! One mutex protects the line. No code of a message and no drop of a claim runs under it.
//!
//! # Invariants
//!
//! - **L1, nothing waits for a poll.** The code of a message may block its thread, or wait. So a starter
//!   polls it only if nothing else is in the line, or if another starter is on its way (`standby`). That
//!   one stands in a queue of the runtime from which any thread takes it. Test:
//!   `code_that_blocks_holds_up_nothing`.
//! - **L2, no ack waits for many polls.** A bundle goes off before the next poll once its first claim is
//!   as old as [`BUNDLE_AGE`]. Test: `an_ack_waits_for_no_long_line`.
//! - **L3, nothing stays.** A starter ends when the line is empty. Each message that comes later finds a
//!   standby, or starts one. Tests: `messages_come_one_by_one`, and all others.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::claims::Claim;
use crate::failpoint::failpoint;
use crate::receipt::Receipt;

/// The most messages that are acknowledged together.
const BUNDLE: usize = 1024;

/// The age of a claim that has succeeded at which it is acknowledged, although messages still wait for
/// their polls.
const BUNDLE_AGE: Duration = Duration::from_millis(1);

/// The line, with the starters' one flag.
pub(crate) struct Line<T, R: Receipt>(Mutex<State<T, R>>);

struct State<T, R: Receipt> {
    waiting: VecDeque<T>,
    /// Claims of messages that have succeeded.
    done: Vec<Claim<R>>,
    /// When the first of these came.
    since: Option<Instant>,
    /// A starter is on its way that has not come to the line yet.
    standby: bool,
}

/// What a starter does next.
pub(crate) enum Step<T, R: Receipt> {
    /// Polls a message.
    Poll(T),
    /// Acknowledges these, and goes on. Ends if there is none.
    Ack(Vec<Claim<R>>),
}

impl<T, R: Receipt> State<T, R> {
    /// Whether the claims that have succeeded are to be acknowledged before the next poll.
    fn is_due(&mut self) -> bool {
        if self.done.is_empty() {
            return false;
        }
        // The time of polls, which a paused clock does not see.
        let now = Instant::now();
        let age = now.duration_since(*self.since.get_or_insert(now));
        self.done.len() >= BUNDLE || age >= BUNDLE_AGE && !failpoint("acks wait for the whole line")
    }
}

impl<T, R: Receipt> Line<T, R> {
    pub(crate) fn new() -> Self {
        let (waiting, done) = (VecDeque::new(), Vec::new());
        Self(Mutex::new(State { waiting, done, since: None, standby: false }))
    }

    /// Appends messages. Returns whether the caller has to spawn starters.
    pub(crate) fn push(&self, messages: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        state.waiting.extend(messages.drain(..));
        !mem::replace(&mut state.standby, true)
    }

    /// Notes that the standby has come.
    pub(crate) fn standby_came(&self) {
        self.lock().standby = failpoint("a standby never comes");
    }

    /// Takes in the claim of a message that has succeeded. Returns the next step, and whether the
    /// starter has to spawn others before.
    pub(crate) fn next(&self, done: Option<Claim<R>>) -> (Step<T, R>, bool) {
        let mut state = self.lock();
        state.done.extend(done);
        let step = match if state.is_due() { None } else { state.waiting.pop_front() } {
            Some(message) => Step::Poll(message),
            None => {
                state.since = None;
                Step::Ack(mem::take(&mut state.done))
            }
        };
        let is_left = !state.waiting.is_empty() || !state.done.is_empty();
        let spawn = is_left && !state.standby && !failpoint("no starter stands by");
        state.standby |= spawn;
        (step, spawn)
    }

    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
