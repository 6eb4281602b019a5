//! What is compared: the traits a rival implements and the table of all rivals.

pub mod go;
mod millpond;
mod spawned;
mod streams;
mod workers;

use std::fmt::Debug;
use std::time::Duration;

pub use self::millpond::{Committed, Millpond};
pub use self::spawned::{Gated, Spawn, Tracked};
pub use self::streams::{Buffered, CappedSet};
pub use self::workers::{AsyncChannel, Flume, Kanal, Workers};

use crate::runtime::Flavour;
use crate::workloads::{self, Shape, Workload};

/// A job as every rival sees it.
pub trait Job: Future<Output = ()> + Send + 'static {}
impl<F: Future<Output = ()> + Send + 'static> Job for F {}

/// A rival that takes jobs one by one, from any number of producers.
pub trait Submit: Clone + Send + Sync + 'static {
    type Lost: Debug;
    type Handle: Future<Output = Result<(), Self::Lost>> + Send;

    /// Called inside the runtime, so that worker tasks can be spawned.
    fn new(size: usize) -> Self;

    /// Submits each job as soon as the rival takes it. No result is asked for. The loop is the
    /// rival's, as a user would write it: for some rivals, one more future around each submission
    /// costs as much as their own work.
    fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send)
    -> impl Future<Output = ()> + Send;

    /// Returns once the rival took the job, with a handle to its result.
    fn submit(&self, job: impl Job) -> impl Future<Output = Self::Handle> + Send;
}

/// A rival as the workloads drive it. Separate from [`Submit`] because a `JoinSet` and a buffered
/// stream have one owner and hand out no handles.
pub trait Arm: Send + Sized + 'static {
    fn new(size: usize) -> Self;

    /// Whether the rival can play this part at all; where not, the report says n/a.
    fn fits(shape: Shape, producers: usize) -> bool;

    /// The same pool for one more producer.
    fn share(&self) -> Self;

    fn feed<J: Job>(
        &mut self,
        jobs: impl Iterator<Item = J> + Send,
    ) -> impl Future<Output = ()> + Send;

    fn gather<J: Job>(
        &mut self,
        jobs: impl Iterator<Item = J> + Send,
    ) -> impl Future<Output = ()> + Send;

    fn call(&mut self, job: impl Job) -> impl Future<Output = ()> + Send;
}

impl<S: Submit> Arm for S {
    fn new(size: usize) -> Self {
        S::new(size)
    }

    fn fits(_: Shape, _: usize) -> bool {
        true
    }

    fn share(&self) -> Self {
        self.clone()
    }

    async fn feed<J: Job>(&mut self, jobs: impl Iterator<Item = J> + Send) {
        Submit::feed(self, jobs).await;
    }

    async fn gather<J: Job>(&mut self, jobs: impl Iterator<Item = J> + Send) {
        let mut handles = Vec::new();
        for job in jobs {
            handles.push(self.submit(job).await);
        }
        for handle in handles {
            handle.await.expect("the job ended");
        }
    }

    async fn call(&mut self, job: impl Job) {
        self.submit(job).await.await.expect("the job ended");
    }
}

/// One rival in the table: how to choose it, how to name it, how to run it.
pub struct Entry {
    pub key: &'static str,
    pub label: &'static str,
    pub fits: fn(Shape, usize) -> bool,
    pub measure: fn(&Workload, Flavour) -> Duration,
}

const fn entry<A: Arm>(key: &'static str, label: &'static str) -> Entry {
    Entry { key, label, fits: A::fits, measure: workloads::measure::<A> }
}

/// Throughput ratios are relative to this one: what most code does today.
pub const REFERENCE: &str = "semaphore";

pub static ALL: [Entry; 11] = [
    entry::<Spawn>("spawn", "tokio::spawn (unbounded)"),
    entry::<Gated>(REFERENCE, "Semaphore + spawn"),
    entry::<CappedSet>("joinset", "JoinSet, capped"),
    entry::<Tracked>("tracker", "TaskTracker (unbounded)"),
    entry::<Workers<Kanal>>("kanal", "kanal workers"),
    entry::<Workers<AsyncChannel>>("async-channel", "async-channel workers"),
    entry::<Workers<Flume>>("flume", "flume workers"),
    entry::<Buffered>("buffered", "buffer_unordered"),
    entry::<Millpond<false>>("millpond", "millpond"),
    entry::<Millpond<true>>("queue", "millpond, queue of that size"),
    entry::<Committed>("anyway", "millpond, `anyway_go`"),
];

/// All rivals that can run here.
pub fn present() -> impl Iterator<Item = &'static Entry> {
    ALL.iter().chain(go::ALL.iter().filter(|_| go::is_present()))
}

/// The rivals among `arms` that take part in a side measurement, with what that one runs for each.
pub fn among<T: Copy>(arms: &[&'static Entry], side: &[(&str, T)]) -> Vec<(&'static Entry, T)> {
    side.iter()
        .filter_map(|&(key, run)| arms.iter().find(|arm| arm.key == key).map(|&arm| (arm, run)))
        .collect()
}
