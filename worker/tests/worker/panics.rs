//! Panics of receipts, and of what drops outside of a message's code, cost one message.

use std::num::NonZeroUsize;
use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millpond::Pool;
use millpond_worker::memory::{Claimed, Consumer, Queue};
use millpond_worker::{
    Backoff, Batch, DeadReason, Extend, Failure, Jobs, Receipt, ReceiptError, Report, Source,
    SourceError, Worker,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{millis, publish, secs};

/// What panics at the first delivery of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The call of `ack`.
    AckCall,
    /// The future of `ack`.
    Ack,
    /// An `ack_all` that has answered for two.
    AckAll,
    Nack,
    ExtendCall,
    Extend,
    /// The drop of an extension without an answer.
    ExtendDrop,
    /// The call of `abandon`, after an extension was refused.
    Abandon,
    /// `id`, which the event of a lost claim asks for.
    Id,
    /// The clone of the message, which another attempt in place needs.
    Clone,
}

/// A queue whose messages above 0 that are divisible by five have a fault.
struct Faulty(Consumer<u32>, Fault);

struct Note {
    fault: Option<Fault>,
}

struct Claim {
    inner: Claimed<u32>,
    fault: Option<Fault>,
    all: Fault,
}

/// How many receipts with [`Fault::Id`] were abandoned.
static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Panics when it is dropped.
struct FailsInDrop(Option<Fault>);

impl Drop for FailsInDrop {
    fn drop(&mut self) {
        fail_at(self.0, Fault::ExtendDrop);
    }
}

fn fail_at(fault: Option<Fault>, at: Fault) {
    if fault == Some(at) {
        panic_any("on purpose");
    }
}

impl Clone for Note {
    fn clone(&self) -> Self {
        fail_at(self.fault, Fault::Clone);
        Self { fault: self.fault }
    }
}

impl Source for Faulty {
    type Message = Note;
    type Receipt = Claim;

    async fn next(&mut self, room: NonZeroUsize) -> Result<Batch<Self>, SourceError> {
        let fault = self.1;
        let taken = self.0.next(room).await?.into_iter().map(|(message, inner)| {
            let value = message.value;
            let is_faulty = value > 0 && value % 5 == 0 && inner.deliveries() == 1;
            let of_message = is_faulty.then_some(fault);
            (Note { fault: of_message }, Claim { inner, fault: of_message, all: fault })
        });
        Ok(taken.collect())
    }

    fn ack_wait(&self) -> Option<Duration> {
        self.0.ack_wait()
    }

    fn system(&self) -> &'static str {
        "test"
    }

    fn destination(&self) -> &str {
        "faulty"
    }
}

impl Receipt for Claim {
    #[allow(clippy::manual_async_fn, reason = "the call is what panics")]
    fn ack(self) -> impl Future<Output = Result<(), ReceiptError>> + Send {
        fail_at(self.fault, Fault::AckCall);
        async move {
            fail_at(self.fault, Fault::Ack);
            self.inner.ack().await
        }
    }

    async fn ack_all(
        receipts: Vec<Self>,
        mut answered: impl FnMut(usize, Result<(), ReceiptError>) + Send,
    ) {
        if receipts.iter().all(|receipt| receipt.all != Fault::AckAll) {
            return AckEach::ack_all(receipts.into_iter().map(AckEach).collect(), answered).await;
        }
        let is_faulty = receipts.iter().any(|receipt| receipt.fault.is_some());
        for (index, receipt) in receipts.into_iter().enumerate() {
            fail_at((is_faulty && index == 2).then_some(Fault::AckAll), Fault::AckAll);
            answered(index, receipt.inner.ack().await);
        }
    }

    async fn nack(self, after: Duration) -> Result<(), ReceiptError> {
        fail_at(self.fault, Fault::Nack);
        self.inner.nack(after).await
    }

    async fn dead(self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.inner.dead(why).await
    }

    fn abandon(self) {
        fail_at(self.fault, Fault::Abandon);
        if self.fault == Some(Fault::Id) {
            ABANDONED.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.abandon();
    }

    fn extend(&self) -> Extend {
        fail_at(self.fault, Fault::ExtendCall);
        let (fault, extend) = (self.fault, self.inner.extend());
        Box::pin(async move {
            fail_at(fault, Fault::Extend);
            match fault {
                Some(Fault::ExtendDrop) => {
                    let _bomb = FailsInDrop(fault);
                    std::future::pending().await
                }
                Some(Fault::Abandon | Fault::Id) => Err(ReceiptError::Lost),
                _ => extend.await,
            }
        })
    }

    fn deliveries(&self) -> u32 {
        self.inner.deliveries()
    }

    fn id(&self) -> String {
        fail_at(self.fault, Fault::Id);
        self.inner.id()
    }
}

/// A receipt with the `ack_all` of the trait.
struct AckEach(Claim);

impl Receipt for AckEach {
    #[allow(clippy::manual_async_fn, reason = "the call is what panics")]
    fn ack(self) -> impl Future<Output = Result<(), ReceiptError>> + Send {
        self.0.ack()
    }

    async fn nack(self, after: Duration) -> Result<(), ReceiptError> {
        self.0.nack(after).await
    }

    async fn dead(self, why: &DeadReason) -> Result<(), ReceiptError> {
        self.0.dead(why).await
    }

    fn abandon(self) {
        self.0.abandon();
    }

    fn extend(&self) -> Extend {
        self.0.extend()
    }

    fn deliveries(&self) -> u32 {
        self.0.deliveries()
    }

    fn id(&self) -> String {
        self.0.id()
    }
}

/// Runs twelve messages, two of them faulty, until all are acknowledged.
async fn twelve<F, Fut>(
    fault: Fault,
    ack_wait: Duration,
    set: impl FnOnce(Worker<Faulty>) -> Worker<Faulty>,
    code: F,
) -> Report
where
    F: Fn(Note, Jobs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let queue = Queue::new(ack_wait);
    publish(&queue, 12);
    let token = CancellationToken::new();
    let worker = Worker::new(Faulty(queue.source(), fault), &Pool::new(4))
        .in_flight(16)
        .retry(Backoff::constant(millis(1)));
    let run = set(worker).run(code, token.clone());
    let stop = async {
        while !queue.is_empty() {
            tokio::time::sleep(millis(20)).await;
        }
        token.cancel();
    };
    let both = async { tokio::join!(run, stop) };
    let (report, ()) = timeout(secs(3600), both).await.expect("the worker hangs");
    let report = report.unwrap();
    assert!(report.adds_up() && report.acked == 12, "{report:?}");
    report
}

#[tokio::test(start_paused = true)]
async fn of_an_ack() {
    for fault in [Fault::AckCall, Fault::Ack] {
        let report = twelve(fault, secs(30), |worker| worker, |_, _| async { Ok(()) }).await;
        assert_eq!((report.fetched, report.unsettled), (14, 2), "{fault:?}");
    }
}

/// Two of the bundle had an answer. The others come again.
#[tokio::test(start_paused = true)]
async fn of_a_bundle_of_acks() {
    let no_op = |_, _| async { Ok(()) };
    let report = twelve(Fault::AckAll, secs(30), |worker| worker, no_op).await;
    assert_eq!((report.fetched, report.unsettled), (22, 10));
}

#[tokio::test(start_paused = true)]
async fn of_a_nack() {
    let code = |note: Note, _| async move {
        tokio::time::sleep(millis(1)).await;
        if note.fault.is_some() { Err(Failure::new("once")) } else { Ok(()) }
    };
    let report = twelve(Fault::Nack, secs(30), |worker| worker, code).await;
    assert_eq!((report.fetched, report.unsettled), (14, 2));
}

#[tokio::test(start_paused = true)]
async fn of_a_clone_of_a_message() {
    let one_key = |worker: Worker<Faulty>| worker.by_key(|_| 0);
    let report = twelve(Fault::Clone, secs(30), one_key, |_, _| async { Ok(()) }).await;
    assert_eq!((report.fetched, report.unsettled), (14, 2));
}

/// The claims of the others are kept alive.
#[tokio::test(start_paused = true)]
async fn of_an_extension() {
    for fault in [Fault::ExtendCall, Fault::Extend, Fault::ExtendDrop] {
        loses_two(fault).await;
    }
}

/// The claims of the others are kept alive, also after the panic.
#[tokio::test(start_paused = true)]
async fn of_an_abandon() {
    loses_two(Fault::Abandon).await;
}

/// The receipt is abandoned all the same: its drop would give the message back, which another may have.
#[cfg(feature = "tracing")]
#[test]
fn of_an_id() {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;
    // The spans of deliveries have the id, too; they are off here.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(LevelFilter::WARN);
    let _default = tracing::subscriber::set_default(subscriber);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(loses_two(Fault::Id));
    assert_eq!(ABANDONED.load(Ordering::SeqCst), 2);
}

async fn loses_two(fault: Fault) {
    let code = |_, _| async {
        tokio::time::sleep(secs(10)).await;
        Ok(())
    };
    let report = twelve(fault, secs(2), |worker| worker, code).await;
    assert_eq!((report.fetched, report.lost), (14, 2), "{fault:?}");
}

/// A message that waits for an earlier one of its key is dropped by the drain.
#[tokio::test(start_paused = true)]
async fn of_a_message_that_waits() {
    /// The clones panic when they are dropped. The queue hands out clones.
    struct Bomb(bool);
    impl Clone for Bomb {
        fn clone(&self) -> Self {
            Self(true)
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 {
                panic_any("on purpose");
            }
        }
    }
    let queue = Queue::new(secs(30));
    for number in 0..6 {
        queue.publish((number == 3).then_some(Bomb(false)));
    }
    let worker = Worker::new(queue.source(), &Pool::new(4)).by_key(|_| 0).drain_timeout(secs(1));
    let token = CancellationToken::new();
    let run = worker.run(|_, _| std::future::pending(), token.clone());
    let stop = async {
        tokio::time::sleep(secs(1)).await;
        token.cancel();
    };
    let both = async { tokio::join!(run, stop) };
    let report = timeout(secs(60), both).await.expect("the worker hangs").0.unwrap();
    assert_eq!((report.nacked, queue.len()), (6, 6), "{report:?}");
    // The queue's own are no clones.
    drop(queue);
}

/// The code is dropped at the drain deadline, outside of its poll.
#[tokio::test(start_paused = true)]
async fn of_a_destructor() {
    struct Bomb(Arc<AtomicUsize>, u32);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            assert!(self.1 != 3, "on purpose");
        }
    }
    for by_key in [false, true] {
        let queue = Queue::new(secs(30));
        publish(&queue, 6);
        let dropped = Arc::new(AtomicUsize::new(0));
        let bombs = dropped.clone();
        let worker = Worker::new(queue.source(), &Pool::new(4)).drain_timeout(secs(1));
        let worker = if by_key { worker.by_key(|message| message.value) } else { worker };
        let token = CancellationToken::new();
        let run = worker.run(
            move |message, _| {
                let bomb = Bomb(bombs.clone(), message.value);
                async move {
                    let _bomb = bomb;
                    std::future::pending().await
                }
            },
            token.clone(),
        );
        let stop = async {
            tokio::time::sleep(secs(1)).await;
            token.cancel();
        };
        let both = async { tokio::join!(run, stop) };
        let report = timeout(secs(60), both).await.expect("the worker hangs").0.unwrap();
        assert_eq!((report.nacked, report.unsettled), (5, 1), "{report:?}");
        assert_eq!((dropped.load(Ordering::SeqCst), queue.len()), (6, 6));
    }
}
