//! Take a message, fan it out to jobs, acknowledge it when all of them succeeded.
//!
//! ```text
//! cargo run --example fan_out
//! ```
//!
//! Two pools, one inside the other. `messages` bounds how many messages are in flight; when it is
//! full, the consumer waits and the rest stay with the broker. `parts` bounds how many parts are
//! worked on at once, whichever messages they are of. One pool for both would not do: jobs that
//! wait for jobs of their own pool can take all of its slots and then wait for ever.

use std::time::Duration;

use millpond::{JobError, Outcome, Pool, PoolStatus};
use tokio::sync::mpsc;

use crate::broker::{Broker, Delivery, Settled};

const MESSAGES_IN_FLIGHT: usize = 3;
const PARTS_AT_ONCE: usize = 8;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Sent = Result<(), String>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (broker, deliveries, settlements) = Broker::new();
    let consumer = tokio::spawn(consume(deliveries));
    let report = tokio::spawn(report(settlements));

    for id in 1..=9 {
        let mut mails = vec!["ann", "bob", "cid", "dan", "eve"];
        match id {
            4 => mails.insert(2, "no-such-box"),
            7 => mails.insert(4, "poison"),
            _ => {}
        }
        broker.publish(id, mails).await;
    }
    drop(broker);

    let parts = consumer.await??;
    let (acked, nacked) = report.await?;
    println!("messages: {acked} acknowledged, {nacked} not");
    println!(
        "parts: {} submitted, {} completed, {} panicked, {} cancelled",
        parts.submitted, parts.completed, parts.panicked, parts.cancelled
    );
    Ok(())
}

/// Handles messages until there are no more. Returns what became of their parts.
async fn consume(mut deliveries: mpsc::Receiver<Delivery>) -> Result<PoolStatus, Error> {
    let messages = Pool::builder().size(MESSAGES_IN_FLIGHT).name("messages").build()?;
    let parts = Pool::builder().size(PARTS_AT_ONCE).name("parts").build()?;
    while let Some(delivery) = deliveries.recv().await {
        let parts = parts.clone();
        // Waits while too many are in flight. The error holds the job, and with it the delivery;
        // what we pass on is just the reason.
        let message = messages.schedule(async move { handle(delivery, &parts).await }).await;
        message.map_err(|refused| refused.map_job(drop))?.detach();
    }
    messages.wait_idle().await;
    Ok(parts.status())
}

/// One message: a job for each of its parts, and its settlement when they have ended.
async fn handle(delivery: Delivery, parts: &Pool) {
    let group = parts.group_builder().failure_when(Sent::is_err).build();
    let group = group.expect("no quota that could be wrong");
    for &mail in delivery.mails() {
        // Commits the job and goes on. So the group is complete at once, and when a part fails,
        // those still in line are cancelled as well. The line is no longer than the messages in
        // flight have parts. (`schedule` would wait here and hear of failures only afterwards.)
        if group.anyway_go(send(mail)).is_err() {
            return delivery.nack("shutting down".into());
        }
    }
    let outcomes = group.wait_or_cancel_on_failure().await;
    if outcomes.iter().all(|outcome| outcome.is_success()) {
        return delivery.ack();
    }
    // Without a reason, they were cancelled from outside.
    delivery.nack(outcomes.iter().find_map(reason).unwrap_or_else(|| "cancelled".into()));
}

/// Why a part failed, unless it was cancelled because of another that did.
fn reason(outcome: &Outcome<Sent>) -> Option<String> {
    match &outcome.result {
        Ok(Ok(())) | Err(JobError::Cancelled) => None,
        Ok(Err(error)) => Some(format!("part {}: {error}", outcome.index)),
        Err(ended) => Some(format!("part {}: {ended}", outcome.index)),
    }
}

/// The work on one part.
async fn send(mail: &'static str) -> Sent {
    match mail {
        "no-such-box" => Err(format!("{mail} refused the mail")),
        "poison" => panic!("cannot parse {mail}"),
        _ => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }
    }
}

/// Prints what becomes of the messages; the totals.
async fn report(mut settlements: mpsc::UnboundedReceiver<Settled>) -> (usize, usize) {
    let (mut acked, mut nacked) = (0, 0);
    while let Some((id, settled)) = settlements.recv().await {
        match settled {
            Ok(()) => {
                acked += 1;
                println!("message {id}: ack");
            }
            Err(reason) => {
                nacked += 1;
                println!("message {id}: nack, {reason}");
            }
        }
    }
    (acked, nacked)
}

/// A message broker, as far as this example needs one.
mod broker {
    use tokio::sync::mpsc;

    /// The number of a message, and how it was settled.
    pub type Settled = (u32, Result<(), String>);

    pub struct Broker {
        queue: mpsc::Sender<Delivery>,
        settlements: mpsc::UnboundedSender<Settled>,
    }

    /// A message that waits to be settled, once. A delivery that is dropped before is not
    /// acknowledged. So a job that panics, is cancelled or is refused never acknowledges its message.
    pub struct Delivery {
        id: u32,
        mails: Vec<&'static str>,
        settlements: Option<mpsc::UnboundedSender<Settled>>,
    }

    impl Broker {
        pub fn new() -> (Self, mpsc::Receiver<Delivery>, mpsc::UnboundedReceiver<Settled>) {
            let (queue, deliveries) = mpsc::channel(1);
            let (settlements, settled) = mpsc::unbounded_channel();
            (Self { queue, settlements }, deliveries, settled)
        }

        /// Waits until the consumer has taken the message before this one.
        pub async fn publish(&self, id: u32, mails: Vec<&'static str>) {
            let settlements = Some(self.settlements.clone());
            // Without a consumer the delivery is dropped, which settles it.
            let _ = self.queue.send(Delivery { id, mails, settlements }).await;
        }
    }

    impl Delivery {
        pub fn mails(&self) -> &[&'static str] {
            &self.mails
        }

        pub fn ack(mut self) {
            self.settle(Ok(()));
        }

        pub fn nack(mut self, reason: String) {
            self.settle(Err(reason));
        }

        fn settle(&mut self, settled: Result<(), String>) {
            if let Some(settlements) = self.settlements.take() {
                // The receiver may be gone already.
                let _ = settlements.send((self.id, settled));
            }
        }
    }

    impl Drop for Delivery {
        fn drop(&mut self) {
            self.settle(Err("dropped unsettled".into()));
        }
    }
}
