//! Tests for sources: [`conformance`] tells whether a source keeps the contract that a
//! [`Worker`](crate::Worker) relies on.
//!
//! Each check is a function that gets a new queue. A check must not depend on another, and waits in
//! multiples of the ack wait, so that it also runs under paused time.

use std::collections::HashSet;
use std::future::Future;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::receipt::{DeadReason, Receipt, ReceiptError};
use crate::source::{Batch, Source};

/// An empty queue of a broker, made for one check of [`conformance`].
pub trait Broker: Send {
    /// The source under test.
    type Source: Source;

    /// Makes a source on this queue, as a process of its own would.
    fn source(&mut self) -> impl Future<Output = Self::Source> + Send;

    /// Appends a message that holds a number.
    fn publish(&mut self, number: u32) -> impl Future<Output = ()> + Send;

    /// Reads the number of a message.
    fn number(&self, message: &<Self::Source as Source>::Message) -> u32;

    /// Returns how many dead letters there are.
    fn dead_letters(&mut self) -> impl Future<Output = usize> + Send;
}

/// Checks a source against the contract of [`Source`] and [`Receipt`].
///
/// `broker` is called for each check and makes an empty queue. Its ack wait should be about a second:
/// checks wait up to four of them.
///
/// # Panics
///
/// With the name of the check, at the first rule that is broken.
///
/// # Examples
///
/// ```
/// # use millpond_worker::memory::{Consumer, Message, Queue};
/// # use millpond_worker::testing::{Broker, conformance};
/// struct InMemory(Queue<u32>);
///
/// impl Broker for InMemory {
///     type Source = Consumer<u32>;
///
///     async fn source(&mut self) -> Consumer<u32> {
///         self.0.source()
///     }
///
///     async fn publish(&mut self, number: u32) {
///         self.0.publish(number);
///     }
///
///     fn number(&self, message: &Message<u32>) -> u32 {
///         message.value
///     }
///
///     async fn dead_letters(&mut self) -> usize {
///         self.0.dead_letters().len()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// conformance(async || InMemory(Queue::new(std::time::Duration::from_secs(1)))).await;
/// # }
/// ```
pub async fn conformance<B: Broker>(mut broker: impl AsyncFnMut() -> B) {
    room(&mut broker().await).await;
    an_ack_is_final(&mut broker().await).await;
    acks_go_together(&mut broker().await).await;
    a_nack_comes_again(&mut broker().await).await;
    a_nack_waits(&mut broker().await).await;
    a_drop_is_a_nack(&mut broker().await).await;
    a_dead_letter_stays_dead(&mut broker().await).await;
    a_killed_process_loses_nothing(&mut broker().await).await;
    an_extension_holds(&mut broker().await).await;
    an_abandoned_claim_is_left_alone(&mut broker().await).await;
    an_idle_source_wakes(&mut broker().await).await;
    a_dropped_wait_loses_nothing(&mut broker().await).await;
    a_close_gives_back(&mut broker().await).await;
    sources_share(&mut broker().await).await;
}

/// How soon something that is ready must come.
const SOON: Duration = Duration::from_millis(1500);

/// Takes messages until there are `count`, or nothing comes for `patience`.
async fn take<S: Source>(source: &mut S, count: usize, patience: Duration) -> Batch<S> {
    let mut taken = Vec::new();
    while let Some(room) = NonZeroUsize::new(count - taken.len()) {
        let Ok(batch) = timeout(patience, source.next(room)).await else { break };
        let batch = batch.expect("the broker is there");
        assert!(!batch.is_empty(), "`next` returned without a message");
        assert!(batch.len() <= room.get(), "`next` returned {} for {room}", batch.len());
        taken.extend(batch);
    }
    taken
}

/// Takes one message, which must come soon.
async fn take_one<S: Source>(source: &mut S, check: &str) -> (S::Message, S::Receipt) {
    take(source, 1, SOON).await.pop().unwrap_or_else(|| panic!("{check}: no message came"))
}

async fn expect_none<S: Source>(source: &mut S, wait: Duration, check: &str) {
    let taken = take(source, 1, wait).await.len();
    assert_eq!(taken, 0, "{check}: a message came again");
}

fn ack_wait<S: Source>(source: &S) -> Duration {
    source.ack_wait().expect("the checks are for brokers with an ack wait")
}

/// `next` returns from one to `room` messages, in the order of publishing, each once.
async fn room<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    for number in 0..10 {
        broker.publish(number).await;
    }
    let mut seen = Vec::new();
    for room in [3, 1, 2, 4] {
        for (message, receipt) in take(&mut source, room, SOON).await {
            seen.push(broker.number(&message));
            assert_eq!(receipt.deliveries(), 1, "room: the first delivery is number 1");
            receipt.ack().await.expect("room: ack");
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>(), "room: each message once, in order");
}

async fn an_ack_is_final<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut source, "an ack is final").await;
    receipt.ack().await.expect("an ack is final");
    let wait = ack_wait(&source) * 2;
    expect_none(&mut source, wait, "an ack is final").await;
}

/// `ack_all` answers for each receipt, once.
async fn acks_go_together<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    for number in 0..5 {
        broker.publish(number).await;
    }
    let taken = take(&mut source, 5, SOON).await;
    assert_eq!(taken.len(), 5, "acks go together: a message is missing");
    let receipts = taken.into_iter().map(|(_, receipt)| receipt).collect();
    let mut answers = [0; 5];
    let answered = |index: usize, answer: Result<(), ReceiptError>| {
        answer.expect("acks go together");
        answers[index] += 1;
    };
    <B::Source as Source>::Receipt::ack_all(receipts, answered).await;
    assert_eq!(answers, [1; 5], "acks go together: an answer for each receipt");
    let wait = ack_wait(&source) * 2;
    expect_none(&mut source, wait, "acks go together").await;
}

async fn a_nack_comes_again<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    broker.publish(1).await;
    for delivery in 1..=3 {
        let (_, receipt) = take_one(&mut source, "a nack comes again").await;
        assert_eq!(receipt.deliveries(), delivery, "a nack comes again: deliveries are counted");
        receipt.nack(Duration::ZERO).await.expect("a nack comes again");
    }
}

async fn a_nack_waits<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut source, "a nack waits").await;
    // Longer than the ack wait: the delay counts, not the claim.
    let delay = ack_wait(&source) * 2;
    let start = Instant::now();
    receipt.nack(delay).await.expect("a nack waits");
    let taken = take(&mut source, 1, delay + SOON).await;
    assert_eq!(taken.len(), 1, "a nack waits: the message must come after its delay");
    let (waited, slack) = (start.elapsed(), Duration::from_millis(20));
    assert!(waited + slack >= delay, "a nack waits: the message came after {waited:?}");
}

async fn a_drop_is_a_nack<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    broker.publish(1).await;
    let taken = take_one(&mut source, "a drop is a nack").await;
    let (start, wait) = (Instant::now(), ack_wait(&source));
    drop(taken);
    let taken = take(&mut source, 1, wait * 2).await;
    assert_eq!(taken.len(), 1, "a drop is a nack: the message must come again");
    assert!(start.elapsed() < SOON.max(wait), "a drop is a nack: only the ack wait brought it");
}

async fn a_dead_letter_stays_dead<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut source, "a dead letter stays dead").await;
    let reason = DeadReason::new("it cannot be decoded", 1);
    receipt.dead(&reason).await.expect("a dead letter stays dead");
    assert_eq!(broker.dead_letters().await, 1, "a dead letter stays dead: it must be kept");
    let wait = ack_wait(&source) * 2;
    expect_none(&mut source, wait, "a dead letter stays dead").await;
}

async fn a_killed_process_loses_nothing<B: Broker>(broker: &mut B) {
    let (mut killed, mut other) = (broker.source().await, broker.source().await);
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut killed, "a killed process loses nothing").await;
    // As if the process was gone: nothing is given back.
    receipt.abandon();
    let wait = ack_wait(&other);
    expect_none(&mut other, wait / 2, "a killed process loses nothing: too early").await;
    let (_, receipt) = take_one(&mut other, "a killed process loses nothing").await;
    assert_eq!(receipt.deliveries(), 2, "a killed process loses nothing: deliveries are counted");
    receipt.ack().await.expect("a killed process loses nothing");
}

async fn an_extension_holds<B: Broker>(broker: &mut B) {
    let (mut source, mut other) = (broker.source().await, broker.source().await);
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut source, "an extension holds").await;
    let third = ack_wait(&source) / 3;
    for _ in 0..9 {
        expect_none(&mut other, third, "an extension holds").await;
        receipt.extend().await.expect("an extension holds");
    }
    receipt.ack().await.expect("an extension holds");
}

/// Abandoned after another has it: the other's claim must not suffer.
async fn an_abandoned_claim_is_left_alone<B: Broker>(broker: &mut B) {
    let (mut loser, mut other) = (broker.source().await, broker.source().await);
    broker.publish(1).await;
    let (_, lost) = take_one(&mut loser, "an abandoned claim").await;
    sleep(ack_wait(&other)).await;
    let (_, receipt) = take_one(&mut other, "an abandoned claim: taken over").await;
    lost.abandon();
    let wait = ack_wait(&other) / 2;
    expect_none(&mut loser, wait, "an abandoned claim is left alone").await;
    receipt.ack().await.expect("an abandoned claim: the other's ack");
}

async fn an_idle_source_wakes<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    // Longer than a claim, and than many a request.
    let idle = ack_wait(&source) * 3;
    expect_none(&mut source, idle, "an idle source").await;
    broker.publish(1).await;
    let (_, receipt) = take_one(&mut source, "an idle source wakes").await;
    receipt.ack().await.expect("an idle source wakes");
}

async fn a_dropped_wait_loses_nothing<B: Broker>(broker: &mut B) {
    let mut source = broker.source().await;
    let mut seen = HashSet::new();
    for number in 0..30 {
        // Dropped before, while or after the broker hands out the message.
        let patience = Duration::from_micros(u64::from(number) * 50);
        let (taken, ()) = tokio::join!(take(&mut source, 1, patience), broker.publish(number));
        for (message, receipt) in taken {
            seen.insert(broker.number(&message));
            receipt.ack().await.expect("a dropped wait loses nothing");
        }
    }
    for (message, receipt) in take(&mut source, 30 - seen.len(), SOON).await {
        seen.insert(broker.number(&message));
        assert_eq!(receipt.deliveries(), 1, "a dropped wait loses nothing: redelivered");
        receipt.ack().await.expect("a dropped wait loses nothing");
    }
    assert_eq!(seen.len(), 30, "a dropped wait loses nothing");
}

async fn a_close_gives_back<B: Broker>(broker: &mut B) {
    let (mut closing, mut other) = (broker.source().await, broker.source().await);
    // Waits in the broker, and is dropped there.
    let _ = timeout(Duration::from_millis(50), closing.next(NonZeroUsize::MIN)).await;
    broker.publish(1).await;
    closing.close().await;
    let (_, receipt) = take_one(&mut other, "a close gives back").await;
    receipt.ack().await.expect("a close gives back");
    drop(closing);
}

async fn sources_share<B: Broker>(broker: &mut B) {
    let (mut first, mut second) = (broker.source().await, broker.source().await);
    for number in 0..40 {
        broker.publish(number).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..10 {
        for source in [&mut first, &mut second] {
            for (message, receipt) in take(source, 2, SOON).await {
                let number = broker.number(&message);
                assert!(seen.insert(number), "sources share: {number} came twice");
                receipt.ack().await.expect("sources share");
            }
        }
    }
    assert_eq!(seen.len(), 40, "sources share: all messages");
}
