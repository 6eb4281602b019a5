//! Claims: the owner of a receipt, how its deadline is moved on, and how it ends.
//!
//! [`Claims`] is a table of receipts under one mutex. A [`Claim`] is the message's side: it owns an
//! entry of the table and holds a place of `in_flight`. The worker makes both when a message comes in,
//! the message's task settles, and the task of [`Claims::keep`] extends. The mutex is held for a few
//! instructions; of a receipt's code only `extend` is called under it, which makes a future.
//! No waker runs, is cloned or is dropped under it. A panic of a receipt costs what it was asked for, and
//! neither the table nor the keeper.
//!
//! # The states of a delivery
//!
//! ```text
//!             insert          take, before the deadline
//!  (fetched) ────────▶ held ────────────────────────────▶ settling ──▶ acked, nacked, dead
//!                       │ │                                  ├── refused by the broker ──▶ lost
//!                       │ │                                  └── no answer, or dropped ──▶ unsettled
//!                       │ └── the claim is dropped: given back by the receipt's Drop ──▶ unsettled
//!                       └── the deadline is over, or an extension was refused ───────────▶ lost
//! ```
//!
//! The deadline is the ack wait after the moment when the worker asked: for the message, or for the
//! extension that was confirmed last. So the worker's deadline is never later than the broker's. It
//! also holds for a message that lay in a socket while the process was stopped.
//!
//! # Invariants
//!
//! - **W1, one owner.** A receipt is in the table, or its remover owns it. Removal happens once, under
//!   the mutex. So no message is settled twice, and a claim that was lost cannot be settled. A key has the
//!   number of its claim, so the answer to an extension finds that claim, and no later one in its place
//!   of the table. Tests: `a_late_success_is_no_ack`, `an_answer_is_for_the_claim_that_asked`.
//! - **W2, no settlement after the deadline.** [`Claims::take`] reads the clock itself. So a process
//!   that was stopped does not settle what another has by now, even if its task runs before the
//!   keeper. A message that comes with its deadline over is not started. Tests:
//!   `a_late_success_is_no_ack`, `a_message_that_is_too_old_is_not_started`.
//! - **W3, the loser stops.** A claim that becomes lost cancels its token; the message's task drops
//!   the code and cancels the jobs. Test: `a_refused_extension_cancels_the_jobs`.
//! - **W4, one end.** Each inserted claim is counted by one [`End`], also if its task is dropped.
//!   Test: `a_dropped_run_gives_back`, and each test by `Report::adds_up`.
//! - **W5, settled last.** A settlement starts when all jobs of the message have ended; at the drain
//!   deadline at most [`GRACE`](crate::delivery::GRACE) later. Test: `nacked_after_its_jobs`.
//! - **W6, room.** A place is taken before a message is fetched and given back after its end is
//!   counted. So at most `in_flight` messages are claimed. Test: `never_more_than_in_flight`.

use std::future::{Future, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use slab::Slab;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use crate::failpoint::failpoint;
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError, or_panicked, panicked};
use crate::report::{Counters, End};
use crate::trace::{Span, enter, event};

/// The table of receipts whose messages are being worked on.
pub(crate) struct Claims<R> {
    ack_wait: Option<Duration>,
    table: Mutex<Table<R>>,
    pub(crate) counters: Counters,
}

struct Table<R> {
    next_number: u64,
    entries: Slab<Entry<R>>,
}

/// The entry of a claim. The claim removes it.
struct Entry<R> {
    /// Tells the claim from an earlier one in the same place of the table.
    number: u64,
    /// `None` once the claim is lost.
    held: Option<Held<R>>,
    /// The message's task, while it waits for the loss of the claim.
    waker: Option<Waker>,
}

struct Held<R> {
    receipt: R,
    /// When the worker asked for the message, or for the extension that was confirmed last.
    asked_at: Instant,
}

/// Where an entry is, and the number of its claim.
type Key = (usize, u64);

impl<R> Table<R> {
    /// Returns the receipt under a key, unless its claim has ended or is lost.
    fn held(&mut self, (index, number): Key) -> Option<&mut Option<Held<R>>> {
        let entry = self.entries.get_mut(index).filter(|entry| entry.number == number)?;
        entry.held.is_some().then_some(&mut entry.held)
    }
}

impl<R: Receipt> Claims<R> {
    pub(crate) fn new(ack_wait: Option<Duration>) -> Arc<Self> {
        let table = Mutex::new(Table { next_number: 0, entries: Slab::new() });
        Arc::new(Self { ack_wait, table, counters: Counters::default() })
    }

    /// Puts a receipt into the table. Returns the claim for the message's task. The message was
    /// claimed after `asked_at`.
    pub(crate) fn insert(
        self: &Arc<Self>,
        receipt: R,
        (asked_at, now): (Instant, Instant),
        place: OwnedSemaphorePermit,
        span: Span,
    ) -> Claim<R> {
        let deliveries = receipt.deliveries();
        let mut table = self.table();
        let number = table.next_number;
        table.next_number += u64::from(!failpoint("claims in one place are taken for one"));
        let held = Some(Held { receipt, asked_at });
        let key = (table.entries.insert(Entry { number, held, waker: None }), number);
        drop(table);
        if self.is_over(asked_at, now) {
            self.lose(key);
        }
        let claims = self.clone();
        Claim { claims, key: Some(key), deliveries, span, end: End::Lost, _place: place }
    }

    /// Gives messages back that were fetched and not inserted.
    pub(crate) fn give_back(&self, receipts: impl Iterator<Item = R>, asked_at: Instant) {
        let is_over = self.is_over(asked_at, Instant::now());
        for receipt in receipts {
            self.counters.ended(if is_over { End::Lost } else { End::Unsettled });
            match is_over {
                true => abandon(receipt),
                // The Drop of a receipt gives the message back.
                false => drop(receipt),
            }
        }
    }

    fn is_over(&self, asked_at: Instant, now: Instant) -> bool {
        self.ack_wait.is_some_and(|ack_wait| now - asked_at >= ack_wait)
    }

    /// Extends the claims that are a third of the ack wait old, and ends those that are lost. Runs as
    /// long as the worker.
    pub(crate) async fn keep(self: Arc<Self>) {
        let Some(ack_wait) = self.ack_wait else { return };
        let tick = ack_wait / 6;
        loop {
            sleep(tick).await;
            let asked_at = Instant::now();
            // All at once, so that a source can send them as one request.
            let asked = self.due(asked_at, ack_wait).into_iter().map(|(key, extend)| async move {
                (key, or_panicked(in_time(tick, extend)).await)
            });
            for (key, answer) in join_all(asked).await {
                match answer {
                    Ok(()) => self.extended(key, asked_at),
                    Err(ReceiptError::Lost) => self.lose(key),
                    // Another attempt follows in the next round, while the deadline is not over.
                    Err(_error) => event!(WARN, error = %_error, "claim not extended"),
                }
            }
        }
    }

    /// Ends the claims whose deadline is over. Returns the extensions of those that are due.
    fn due(&self, now: Instant, ack_wait: Duration) -> Vec<(Key, Extend)> {
        let (mut due, mut over) = (Vec::new(), Vec::new());
        for (index, Entry { number, held, .. }) in &self.table().entries {
            let Some(held) = held else { continue };
            match now.duration_since(held.asked_at) {
                age if age >= ack_wait => over.push((index, *number)),
                age if age >= ack_wait / 3 && !failpoint("claims are not kept alive") => {
                    let extend = catch_unwind(AssertUnwindSafe(|| held.receipt.extend()));
                    let extend = extend.unwrap_or_else(|_| Box::pin(ready(Err(panicked()))));
                    due.push(((index, *number), extend))
                }
                _ => {}
            }
        }
        over.into_iter().for_each(|key| self.lose(key));
        due
    }

    fn extended(&self, key: Key, asked_at: Instant) {
        if let Some(Some(held)) = self.table().held(key) {
            held.asked_at = asked_at;
        }
    }

    fn lose(&self, key: Key) {
        let mut table = self.table();
        let Some(held) = table.held(key).and_then(Option::take) else { return };
        let waker = table.entries[key.0].waker.take();
        drop(table);
        if let Some(waker) = waker.filter(|_| !failpoint("a lost claim tells no task")) {
            waker.wake();
        }
        abandon(held.receipt);
    }

    /// Returns whether the claim is lost, or lets its loss wake the task of `cx`.
    fn poll_lost(&self, (index, _): Key, cx: &Context<'_>) -> Poll<()> {
        let new = cx.waker().clone();
        let mut table = self.table();
        let entry = &mut table.entries[index];
        if entry.held.is_none() {
            drop(table);
            return Poll::Ready(());
        }
        let old = entry.waker.replace(new);
        drop(table);
        drop(old);
        Poll::Pending
    }

    /// Removes entries. Returns their receipts, but for those whose claim is lost.
    fn take(&self, keys: impl IntoIterator<Item = Option<Key>>) -> Vec<Option<R>> {
        let (mut late, mut wakers) = (Vec::new(), Vec::new());
        let mut table = self.table();
        let now = Instant::now();
        let take = |key: Option<Key>| {
            let Entry { held, waker, .. } = table.entries.remove(key?.0);
            wakers.extend(waker);
            let held = held?;
            if self.is_over(held.asked_at, now) && !failpoint("a late success is an ack") {
                late.push(held.receipt);
                return None;
            }
            Some(held.receipt)
        };
        let receipts = keys.into_iter().map(take).collect();
        drop(table);
        late.into_iter().for_each(abandon);
        receipts
    }

    /// Acknowledges the messages of claims, all at once. If the receipts panic, the claims without an
    /// answer are dropped, and the starter with them: the line goes on without it.
    pub(crate) async fn ack_all(&self, mut claims: Vec<Claim<R>>) {
        let receipts = self.take(claims.iter_mut().map(|claim| claim.key.take()));
        let (mut asked, mut taken) = (Vec::new(), Vec::new());
        for (mut claim, receipt) in claims.into_iter().zip(receipts) {
            let Some(receipt) = receipt else { continue };
            claim.end = End::Unsettled;
            asked.push(Some(claim));
            taken.push(receipt);
        }
        let answered = |index: usize, answer| {
            if let Some(claim) = asked.get_mut(index).and_then(Option::take) {
                claim.answered(End::Acked, answer);
            }
        };
        R::ack_all(taken, answered).await;
    }

    fn table(&self) -> MutexGuard<'_, Table<R>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for an extension, and drops it: a drop that panics does so in here.
async fn in_time(limit: Duration, extend: Extend) -> Result<(), ReceiptError> {
    let silent = |_| Err(ReceiptError::Unconfirmed("the broker does not answer".into()));
    timeout(limit, extend).await.unwrap_or_else(silent)
}

/// Abandons a lost claim. A panic of its receipt ends neither the keeper nor the task that settles, and the
/// receipts behind it are not dropped: that would give messages back which other workers have.
fn abandon<R: Receipt>(receipt: R) {
    // By itself, as a panic of `id` would drop the receipt: that gives the message back, too.
    let told = catch_unwind(AssertUnwindSafe(|| {
        event!(WARN, messaging.message.id = receipt.id(), "claim lost");
    }));
    let abandoned = catch_unwind(AssertUnwindSafe(|| receipt.abandon()));
    if told.is_err() || abandoned.is_err() {
        event!(ERROR, "the receipt of a lost claim panicked");
    }
}

/// The message's side of a claim. Dropped, it gives its message back.
pub(crate) struct Claim<R: Receipt> {
    claims: Arc<Claims<R>>,
    /// `None` once the entry is removed from the table.
    key: Option<Key>,
    /// How often the broker has delivered the message, from 1.
    pub(crate) deliveries: u32,
    /// The span of the delivery.
    pub(crate) span: Span,
    /// What the delivery counts as, once the entry is removed.
    end: End,
    _place: OwnedSemaphorePermit,
}

impl<R: Receipt> Claim<R> {
    pub(crate) fn is_lost(&self) -> bool {
        self.key.is_none_or(|key| self.claims.table().held(key).is_none())
    }

    /// Resolves when the claim is lost.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| self.key.map_or(Poll::Ready(()), |key| self.claims.poll_lost(key, cx)))
    }

    pub(crate) async fn ack(self) {
        self.settle(End::Acked, |receipt| receipt.ack()).await
    }

    pub(crate) async fn nack(self, after: Duration) {
        self.settle(End::Nacked, |receipt| receipt.nack(after)).await
    }

    pub(crate) async fn dead(self, why: &DeadReason) {
        self.settle(End::Dead, |receipt| receipt.dead(why)).await
    }

    /// Removes the entry. Returns the receipt, unless the claim is lost.
    fn take(&mut self) -> Option<R> {
        let receipt = self.claims.take([self.key.take()]).pop()?;
        self.end = if receipt.is_some() { End::Unsettled } else { End::Lost };
        receipt
    }

    async fn settle<F>(mut self, end: End, settlement: impl FnOnce(R) -> F)
    where
        F: Future<Output = Result<(), ReceiptError>>,
    {
        if let Some(receipt) = self.take() {
            let answer = or_panicked(async { settlement(receipt).await }).await;
            self.answered(end, answer);
        }
    }

    /// Ends the claim by the broker's answer to a settlement.
    fn answered(mut self, end: End, answer: Result<(), ReceiptError>) {
        self.end = match answer {
            Ok(()) => end,
            Err(ReceiptError::Lost) => End::Lost,
            Err(ReceiptError::Unconfirmed(_error)) => {
                let warn = || event!(WARN, error = %_error, "settlement not confirmed");
                enter(&self.span, warn);
                End::Unsettled
            }
        };
    }
}

impl<R: Receipt> Drop for Claim<R> {
    fn drop(&mut self) {
        if self.key.is_some() {
            // The Drop of a receipt gives the message back.
            self.take();
        }
        if !failpoint("an end is not counted") {
            self.claims.counters.ended(self.end);
        }
    }
}
