//! [`Report`]: what became of the messages and their jobs, and the law by which it adds up.

use std::sync::atomic::{AtomicU64, Ordering};

use millpond::GroupReport;

/// What became of the messages of a worker, and of their jobs.
///
/// Each delivery that was fetched ends in exactly one count:
///
/// ```text
/// fetched = acked + nacked + dead + lost + unsettled
/// ```
///
/// Each job that was submitted by a message ends in exactly one count of [`JobCounts`].
///
/// # Examples
///
/// ```
/// # use millpond_worker::{Worker, memory::Queue};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::new(std::time::Duration::from_secs(30));
/// queue.publish("a");
/// let pool = millpond::Pool::new(2);
/// let token = tokio_util::sync::CancellationToken::new();
/// let stop = token.clone();
/// let worker = Worker::new(queue.source(), &pool);
/// let report = worker
///     .run(
///         move |_message, group| {
///             stop.cancel(); // one is enough here
///             async move {
///                 group.schedule(async { Ok(()) }).await?;
///                 Ok(())
///             }
///         },
///         token,
///     )
///     .await?;
/// assert_eq!((report.fetched, report.acked, report.jobs.succeeded), (1, 1, 1));
/// assert!(report.adds_up());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "`lost` and `unsettled` tell whether messages will be delivered again"]
pub struct Report {
    /// Deliveries that the source returned. A message that comes again counts again.
    pub fetched: u64,
    /// Deliveries whose acknowledgement the broker confirmed.
    pub acked: u64,
    /// Deliveries that were given back: after a failure, or because the worker stopped.
    pub nacked: u64,
    /// Deliveries that ended among the dead letters.
    pub dead: u64,
    /// Deliveries whose claim was lost, so that another worker has the message.
    pub lost: u64,
    /// Deliveries without a confirmed settlement: the broker was away, or the time was over. The
    /// broker delivers them again after the ack wait, or had settled them already.
    pub unsettled: u64,
    /// What became of the jobs.
    pub jobs: JobCounts,
}

impl Report {
    /// Whether each fetched delivery is in exactly one count. It always is after
    /// [`Worker::run`](crate::Worker::run).
    pub fn adds_up(&self) -> bool {
        self.fetched == self.acked + self.nacked + self.dead + self.lost + self.unsettled
    }
}

/// What became of the jobs of all messages, each in one count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobCounts {
    /// Jobs that returned `Ok`.
    pub succeeded: u64,
    /// Jobs that returned a [`Failure`](crate::Failure).
    pub failed: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs that were cancelled: after the first failure, by a lost claim, or at the drain deadline.
    pub cancelled: u64,
    /// Jobs that could not be cancelled at the drain deadline, such as blocking closures.
    pub still_running: u64,
}

/// The counters behind a [`Report`].
///
/// All accesses are Relaxed: each counter is a total, and no reader concludes anything about other memory
/// from it. The last report is made after the worker has joined its deliveries, which orders it.
#[derive(Default)]
pub(crate) struct Counters {
    fetched: AtomicU64,
    ends: [AtomicU64; 5],
    jobs: [AtomicU64; 5],
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Acked,
    Nacked,
    Dead,
    Lost,
    Unsettled,
}

impl Counters {
    pub(crate) fn fetched(&self, deliveries: usize) {
        self.fetched.fetch_add(deliveries as u64, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, end: End) {
        self.ends[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether each fetched delivery has ended, in one count.
    pub(crate) fn all_ended(&self) -> bool {
        self.fetched.load(Ordering::Relaxed) == load(&self.ends).iter().sum::<u64>()
    }

    pub(crate) fn jobs(&self, group: &GroupReport) {
        let failed = group.failed - group.panicked - group.cancelled;
        let unfinished = group.unfinished as u64;
        let counts = [group.succeeded, failed, group.panicked, group.cancelled, unfinished];
        for (counter, jobs) in self.jobs.iter().zip(counts).filter(|(_, jobs)| *jobs > 0) {
            counter.fetch_add(jobs, Ordering::Relaxed);
        }
    }

    pub(crate) fn report(&self) -> Report {
        let [acked, nacked, dead, lost, mut unsettled] = load(&self.ends);
        let [succeeded, failed, panicked, cancelled, still_running] = load(&self.jobs);
        let jobs = JobCounts { succeeded, failed, panicked, cancelled, still_running };
        let fetched = self.fetched.load(Ordering::Relaxed);
        // What has not ended yet has no confirmed settlement either.
        unsettled += fetched - (acked + nacked + dead + lost + unsettled);
        Report { fetched, acked, nacked, dead, lost, unsettled, jobs }
    }
}

fn load(counters: &[AtomicU64; 5]) -> [u64; 5] {
    std::array::from_fn(|index| counters[index].load(Ordering::Relaxed))
}
