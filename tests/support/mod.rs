//! Probes: a watchdog around each test, gates to hold jobs at, gauges to count them with.
#![allow(dead_code, unreachable_pub)]

pub mod model;
pub mod patience;
mod strict;

use std::future::Future;
use std::io::Write;
use std::panic::{Location, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millpond::{Group, JobHandle, Outcome, Pool, PoolStatus};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use patience::{Patience, TICK};
#[allow(unused_imports)]
pub use strict::{soon, within, woken};

/// No test may last longer, while the machine runs.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `body` on a thread of its own; ends the process if it hangs.
#[track_caller]
pub fn watched(body: impl FnOnce() + Send + 'static) {
    watched_for(LIMIT, body);
}

/// The same, for what is known to last longer.
#[track_caller]
pub fn watched_for(limit: Duration, body: impl FnOnce() + Send + 'static) {
    watched_box(limit, Box::new(body));
}

/// The bodies are boxed here and below: else each test would bring a copy of threads and runtimes, more
/// than half of what there is to compile.
#[track_caller]
fn watched_box(limit: Duration, body: Box<dyn FnOnce() + Send>) {
    let at = Location::caller();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let (tell, told) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        let _tell = tell; // closes the channel, also when the body panics
        body();
    });
    let mut patience = Patience::new(limit);
    while let Err(mpsc::RecvTimeoutError::Timeout) = told.recv_timeout(TICK) {
        if patience.lasts() {
            continue;
        }
        let text = format!("\nWATCHDOG: test `{name}` at {at} hangs after {limit:?}; aborting\n");
        // Not `eprintln`: the harness would keep that to itself and take it along.
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::abort();
    }
    if let Err(panic) = thread.unwrap().join() {
        resume_unwind(panic);
    }
}

/// Keeps two subscribers to the end of the process. While fewer than two live, tracing asks a thread that
/// meets an event first for its own subscriber alone: a thread without one turns the event off for all.
#[cfg(feature = "tracing")]
pub fn keep_events_on() {
    static KEPT: std::sync::OnceLock<[tracing::Dispatch; 2]> = std::sync::OnceLock::new();
    KEPT.get_or_init(|| [(); 2].map(|()| tracing::Dispatch::new(tracing_subscriber::registry())));
}

/// On a current-thread runtime.
#[track_caller]
pub fn single(body: impl Future<Output = ()> + Send + 'static) {
    let body = boxed(body);
    watched(move || Builder::new_current_thread().enable_all().build().unwrap().block_on(body));
}

/// On a current-thread runtime whose clock stands still: it leaps to the next timer when nothing
/// else is left to do.
#[track_caller]
pub fn paused(body: impl Future<Output = ()> + Send + 'static) {
    let body = boxed(body);
    watched(move || {
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(body);
    });
}

/// As a task of a runtime with this many threads.
#[track_caller]
pub fn multi(threads: usize, body: impl Future<Output = ()> + Send + 'static) {
    multi_for(LIMIT, threads, body);
}

/// The same, for what is known to last longer.
#[track_caller]
pub fn multi_for(limit: Duration, threads: usize, body: impl Future<Output = ()> + Send + 'static) {
    let body = boxed(body);
    watched_for(limit, move || {
        let runtime = runtime(threads);
        if let Err(error) = runtime.block_on(runtime.spawn(body)) {
            resume_unwind(error.into_panic());
        }
    });
}

pub fn boxed(
    body: impl Future<Output = ()> + Send + 'static,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(body)
}

pub fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// Polls once, with a waker that does nothing.
pub fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_for(future, Waker::noop())
}

/// Polls once, with this waker.
pub fn poll_for<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Lets all other tasks of a current-thread runtime come to rest.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Yields until it is so.
#[track_caller]
pub fn eventually(is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    eventually_at(Location::caller(), is_so)
}

async fn eventually_at(at: &'static Location<'static>, mut is_so: impl FnMut() -> bool) {
    let mut patience = Patience::new(Duration::from_secs(10));
    for yields in 0.. {
        if is_so() {
            return;
        }
        assert!(patience.lasts(), "never came true: {at}");
        if yields > 100 {
            // What comes from another thread or from the kernel needs the processor more than this one does.
            std::thread::sleep(Duration::from_micros(100));
        }
        tokio::task::yield_now().await;
    }
}

/// Waits for the group and takes all its outcomes, in the order of submission.
#[track_caller]
pub fn joined<T: Send + 'static>(group: &Group<T>) -> impl Future<Output = Vec<Outcome<T>>> {
    let wait = soon(group.wait());
    async move {
        assert_eq!(wait.await.unfinished, 0);
        group.take_outcomes()
    }
}

/// Where jobs wait until the test lets them go on.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets all tasks pass from now on.
    pub fn open(&self) {
        self.0.close();
    }

    /// Lets `n` pass.
    pub fn pass(&self, n: usize) {
        self.0.add_permits(n);
    }

    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let gate = self.0.clone();
        async move {
            if let Ok(permit) = gate.acquire().await {
                permit.forget();
            }
        }
    }
}

/// A job that holds its slot until `release`.
pub struct Held {
    gate: Gate,
    pub handle: JobHandle<()>,
}

impl Held {
    pub async fn release(self) {
        self.gate.open();
        soon(self.handle).await.unwrap();
    }
}

/// Takes one slot, or one place in the queue, and keeps it.
#[track_caller]
pub fn hold(pool: &Pool) -> Held {
    let gate = Gate::new();
    let handle = pool.try_schedule(gate.wait()).expect("the pool has room");
    Held { gate, handle }
}

/// Takes every slot and every place in the queue.
#[track_caller]
pub fn fill(pool: &Pool) -> Vec<Held> {
    let status = pool.status();
    let held: Vec<_> = (0..status.size + status.queue).map(|_| hold(pool)).collect();
    let status = pool.status();
    assert_eq!((status.running, status.queued), (status.size, status.queue));
    held
}

pub async fn release(held: Vec<Held>) {
    held.iter().for_each(|held| held.gate.open());
    for held in held {
        held.release().await;
    }
}

/// The accounting law.
#[track_caller]
pub fn law(pool: &Pool) -> PoolStatus {
    let status = pool.status();
    assert_eq!(status.submitted, status.accounted(), "{status:?}");
    status
}

/// The law, and that nothing is left; the pool has all its slots.
#[track_caller]
pub fn quiet(pool: &Pool) -> PoolStatus {
    let status = law(pool);
    assert!(status.is_idle(), "{status:?}");
    status
}

/// Nothing is left, and exactly `size` slots are free: as many jobs get one and no more.
pub async fn whole(pool: &Pool) {
    soon(pool.wait_idle()).await;
    quiet(pool);
    let held = fill(pool);
    assert!(pool.try_schedule(async {}).is_err(), "more slots than the size");
    release(held).await;
    soon(pool.wait_idle()).await;
    quiet(pool);
}

/// Counts the jobs inside, and the most that were inside at once.
#[derive(Clone, Default)]
pub struct Gauge(Arc<Mutex<GaugeCounts>>);

/// Under one lock: a count from before a `reset_peak` must not raise the peak after it.
#[derive(Default)]
struct GaugeCounts {
    now: usize,
    peak: usize,
    total: usize,
}

impl Gauge {
    pub fn enter(&self) -> Inside {
        let mut counts = self.counts();
        counts.now += 1;
        counts.total += 1;
        counts.peak = counts.peak.max(counts.now);
        Inside(self.clone())
    }

    pub fn now(&self) -> usize {
        self.counts().now
    }

    pub fn peak(&self) -> usize {
        self.counts().peak
    }

    /// How many ever entered.
    pub fn total(&self) -> usize {
        self.counts().total
    }

    pub fn reset_peak(&self) {
        let mut counts = self.counts();
        counts.peak = counts.now;
    }

    fn counts(&self) -> MutexGuard<'_, GaugeCounts> {
        self.0.lock().unwrap()
    }
}

/// Is counted until dropped; moved into a job, it tells whether that was dropped.
pub struct Inside(Gauge);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.counts().now -= 1;
    }
}

/// Calls a closure when it is dropped.
pub struct OnDrop<F: FnMut()>(pub F);

/// Aborts a job that has lent the only slot of its pool to `child`; `at_end` runs in the job's destructor.
pub async fn abort_lender<F, E>(pool: &Pool, child: F, at_end: E)
where
    F: Future<Output = ()> + Send + 'static,
    E: FnMut() + Send + 'static,
{
    let own = pool.clone();
    let job = pool.try_schedule(async move {
        let _at_end = OnDrop(at_end);
        // The start of the child does not wake this job.
        own.anyway_go(child).unwrap().into_handle().await.unwrap();
    });
    let job = job.unwrap();
    settle().await;
    assert_eq!(law(pool).lent, 1);
    job.abort();
    assert!(soon(job).await.unwrap_err().is_cancelled());
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A panic that prints nothing.
pub fn silent_panic(message: &'static str) -> ! {
    resume_unwind(Box::new(message))
}

/// Small pseudo-random numbers, repeatable.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}
