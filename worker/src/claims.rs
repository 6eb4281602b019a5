//! Claims: the owner of a receipt, how its deadline is moved on, and how it ends.
//!
//! [`Claims`] is a table of receipts under one mutex. A [`Claim`] is the message's side: it knows a
//! key of the table and holds a place of `in_flight`. The worker makes both when a message comes in,
//! the message's task settles, and the task of [`Claims::keep`] extends. The mutex is held for a few
//! instructions; of a receipt's code only `extend` is called under it, which makes a future.
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
//!   the mutex. So no message is settled twice, and a claim that was lost cannot be settled. Test:
//!   `a_late_success_is_no_ack`.
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

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::failpoint::failpoint;
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::report::{Counters, End};
use crate::trace::event;

/// The table of receipts whose messages are being worked on.
pub(crate) struct Claims<R> {
    ack_wait: Option<Duration>,
    table: Mutex<Table<R>>,
    pub(crate) counters: Counters,
}

struct Table<R> {
    next_key: u64,
    held: HashMap<u64, Held<R>>,
}

struct Held<R> {
    receipt: R,
    /// When the worker asked for the message, or for the extension that was confirmed last.
    asked_at: Instant,
    lost: CancellationToken,
}

impl<R: Receipt> Claims<R> {
    pub(crate) fn new(ack_wait: Option<Duration>) -> Arc<Self> {
        let table = Mutex::new(Table { next_key: 0, held: HashMap::new() });
        Arc::new(Self { ack_wait, table, counters: Counters::default() })
    }

    /// Puts a receipt into the table. Returns the claim for the message's task. The message was
    /// claimed after `asked_at`.
    pub(crate) fn insert(
        self: &Arc<Self>,
        receipt: R,
        asked_at: Instant,
        place: OwnedSemaphorePermit,
    ) -> Claim<R> {
        let deliveries = receipt.deliveries();
        let lost = CancellationToken::new();
        let held = Held { receipt, asked_at, lost: lost.clone() };
        let mut table = self.table();
        let key = table.next_key;
        table.next_key += 1;
        table.held.insert(key, held);
        drop(table);
        if self.is_over(asked_at) {
            self.lose(key);
        }
        Claim { claims: self.clone(), key, lost, deliveries, end: None, _place: place }
    }

    fn is_over(&self, asked_at: Instant) -> bool {
        self.ack_wait.is_some_and(|ack_wait| asked_at.elapsed() >= ack_wait)
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
            let asked = self
                .due(asked_at, ack_wait)
                .into_iter()
                .map(|(key, extend)| async move { (key, timeout(tick, extend).await) });
            for (key, answer) in join_all(asked).await {
                match answer {
                    Ok(Ok(())) => self.extended(key, asked_at),
                    Ok(Err(ReceiptError::Lost)) => self.lose(key),
                    // Another attempt follows in the next round, while the deadline is not over.
                    Ok(Err(_error)) => event!(WARN, error = %_error, "claim not extended"),
                    Err(_) => event!(WARN, "claim not extended: the broker does not answer"),
                }
            }
        }
    }

    /// Removes the claims whose deadline is over. Returns the extensions of those that are due.
    fn due(&self, now: Instant, ack_wait: Duration) -> Vec<(u64, Extend)> {
        let (mut due, mut over) = (Vec::new(), Vec::new());
        for (key, held) in &self.table().held {
            match now.duration_since(held.asked_at) {
                age if age >= ack_wait => over.push(*key),
                age if age >= ack_wait / 3 && !failpoint("claims are not kept alive") => {
                    due.push((*key, held.receipt.extend()))
                }
                _ => {}
            }
        }
        over.into_iter().for_each(|key| self.lose(key));
        due
    }

    fn extended(&self, key: u64, asked_at: Instant) {
        if let Some(held) = self.table().held.get_mut(&key) {
            held.asked_at = asked_at;
        }
    }

    fn lose(&self, key: u64) {
        // A temporary of a `let` does not live as long as one of an `if let`: the lock is short.
        let removed = self.table().held.remove(&key);
        if let Some(held) = removed {
            if !failpoint("a lost claim tells nobody") {
                held.lost.cancel();
            }
            event!(WARN, messaging.message.id = held.receipt.id(), "claim lost");
            held.receipt.abandon();
        }
    }

    /// Returns the receipt, unless the claim is lost.
    fn take(&self, key: u64) -> Option<R> {
        let held = self.table().held.remove(&key)?;
        if self.is_over(held.asked_at) && !failpoint("a late success is an ack") {
            held.receipt.abandon();
            return None;
        }
        Some(held.receipt)
    }

    fn table(&self) -> MutexGuard<'_, Table<R>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message's side of a claim. Dropped, it gives its message back.
pub(crate) struct Claim<R: Receipt> {
    claims: Arc<Claims<R>>,
    key: u64,
    lost: CancellationToken,
    /// How often the broker has delivered the message, from 1.
    pub(crate) deliveries: u32,
    /// What a drop counts as. `None` while the receipt is in the table.
    end: Option<End>,
    _place: OwnedSemaphorePermit,
}

impl<R: Receipt> Claim<R> {
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Resolves when the claim is lost.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + '_ {
        self.lost.cancelled()
    }

    pub(crate) async fn ack(self) -> End {
        self.settle(End::Acked, |receipt| receipt.ack()).await
    }

    pub(crate) async fn nack(self, after: Duration) -> End {
        self.settle(End::Nacked, |receipt| receipt.nack(after)).await
    }

    pub(crate) async fn dead(self, why: &DeadReason) -> End {
        self.settle(End::Dead, |receipt| receipt.dead(why)).await
    }

    async fn settle<F>(mut self, end: End, settlement: impl FnOnce(R) -> F) -> End
    where
        F: Future<Output = Result<(), ReceiptError>>,
    {
        let end = match self.claims.take(self.key) {
            None => End::Lost,
            Some(receipt) => {
                self.end = Some(End::Unsettled);
                match settlement(receipt).await {
                    Ok(()) => end,
                    Err(ReceiptError::Lost) => End::Lost,
                    Err(ReceiptError::Unconfirmed(_error)) => {
                        event!(WARN, error = %_error, "settlement not confirmed");
                        End::Unsettled
                    }
                }
            }
        };
        self.end = Some(end);
        end
    }
}

impl<R: Receipt> Drop for Claim<R> {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| match self.claims.take(self.key) {
            // Its Drop gives the message back.
            Some(_receipt) => End::Unsettled,
            None => End::Lost,
        });
        if !failpoint("an end is not counted") {
            self.claims.counters.ended(end);
        }
    }
}
