//! Runs one shape of work on one rival: `shapes ARM SHAPE SIZE FLAVOUR JOBS`.
//!
//! `scripts/profile` runs this program twice under callgrind, with different numbers of jobs. The
//! difference is the cost of the jobs alone. So nothing is measured here, and nothing is printed.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use millpond::layer::PoolLayer;
use millpond::{Group, JobHandle, Pool};
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tower_layer::Layer;
use tower_service::Service;

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How many jobs a group has.
const GROUP: u64 = 10;

/// How many tasks submit in the shape `tiny4`.
const PRODUCERS: u64 = 4;

#[derive(Clone)]
enum Arm {
    Millpond(Pool),
    Semaphore(Arc<Semaphore>),
    Kanal(kanal::AsyncSender<Boxed>),
    Spawn,
}

enum Handle {
    Job(JobHandle<()>),
    Task(JoinHandle<()>),
    Channel(oneshot::Receiver<()>),
}

/// A service that answers at once.
#[derive(Clone)]
struct Answer;

impl Service<()> for Answer {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// Counts the jobs that ended.
struct Tally {
    left: AtomicU64,
    ended: Notify,
}

impl Tally {
    fn hit(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ended.notify_one();
        }
    }
}

impl Arm {
    /// Called inside the runtime, so that worker tasks can be spawned.
    fn new(name: &str, size: usize) -> Self {
        match name {
            "millpond" => Self::Millpond(Pool::new(size)),
            "millpond-queue" => {
                let pool = Pool::builder().size(size).queue(size).build();
                Self::Millpond(pool.expect("the size is valid"))
            }
            "semaphore" => Self::Semaphore(Arc::new(Semaphore::new(size))),
            "spawn" => Self::Spawn,
            "kanal" => {
                let (sender, receiver) = kanal::bounded_async::<Boxed>(size);
                for _ in 0..size {
                    let receiver = receiver.clone();
                    tokio::spawn(async move {
                        while let Ok(job) = receiver.recv().await {
                            job.await;
                        }
                    });
                }
                Self::Kanal(sender)
            }
            _ => panic!(
                "the arms are millpond, millpond-queue, semaphore, kanal and spawn, not `{name}`"
            ),
        }
    }

    /// Submits a job of which no result is asked for.
    async fn feed(&self, job: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Millpond(pool) => drop(pool.schedule(job).await.expect("the pool is open")),
            Self::Kanal(sender) => sender.send(Box::pin(job)).await.expect("the channel is open"),
            _ => drop(self.submit(job).await),
        }
    }

    async fn submit(&self, job: impl Future<Output = ()> + Send + 'static) -> Handle {
        match self {
            Self::Millpond(pool) => {
                Handle::Job(pool.schedule(job).await.expect("the pool is open"))
            }
            Self::Semaphore(semaphore) => {
                let permit = semaphore.clone().acquire_owned().await.expect("it is open");
                Handle::Task(tokio::spawn(async move {
                    job.await;
                    drop(permit);
                }))
            }
            Self::Kanal(jobs) => {
                let (sender, receiver) = oneshot::channel();
                let job = async move {
                    job.await;
                    // The caller may have dropped its end.
                    let _ = sender.send(());
                };
                jobs.send(Box::pin(job)).await.expect("the channel is open");
                Handle::Channel(receiver)
            }
            Self::Spawn => Handle::Task(tokio::spawn(job)),
        }
    }

    /// Runs some jobs and waits for all of them.
    async fn fan_out<J: Future<Output = ()> + Send + 'static>(
        &self,
        jobs: impl Iterator<Item = J>,
    ) {
        match self {
            Self::Millpond(pool) => {
                let group: Group<()> = pool.group();
                for job in jobs {
                    group.schedule(job).await.expect("the pool is open");
                }
                group.wait().await;
            }
            Self::Semaphore(semaphore) => {
                let mut set = JoinSet::new();
                for job in jobs {
                    let permit = semaphore.clone().acquire_owned().await.expect("it is open");
                    set.spawn(async move {
                        job.await;
                        drop(permit);
                    });
                }
                set.join_all().await;
            }
            Self::Kanal(_) => {
                let mut handles = Vec::new();
                for job in jobs {
                    handles.push(self.submit(job).await);
                }
                for handle in handles {
                    handle.wait().await;
                }
            }
            Self::Spawn => drop(jobs.collect::<JoinSet<_>>().join_all().await),
        }
    }
}

impl Handle {
    async fn wait(self) {
        match self {
            Self::Job(handle) => handle.await.expect("the job ended"),
            Self::Task(handle) => handle.await.expect("the job ended"),
            Self::Channel(receiver) => receiver.await.expect("the job ended"),
        }
    }
}

/// Calls a layer whose pool is full. Not a part of [`run`], whose future it would make larger.
async fn refuse(size: usize, calls: u64) {
    let pool = Pool::new(size);
    let job = || pool.try_schedule(std::future::pending::<()>()).ok();
    let _held: Vec<_> = std::iter::from_fn(job).collect();
    let mut service = PoolLayer::try_schedule(&pool).layer(Answer);
    for _ in 0..calls {
        poll_fn(|cx| service.poll_ready(cx)).await.expect("the layer is ready");
        assert!(service.call(()).await.is_err(), "a full pool refuses");
    }
}

async fn run(arm: Arm, shape: &str, jobs: u64) {
    let tally = Arc::new(Tally { left: AtomicU64::new(jobs), ended: Notify::new() });
    let tiny = || {
        let tally = tally.clone();
        async move { tally.hit() }
    };
    match shape {
        "tiny" => {
            for _ in 0..jobs {
                arm.feed(tiny()).await;
            }
        }
        "tiny4" => {
            for _ in 0..PRODUCERS {
                let (arm, tally) = (arm.clone(), tally.clone());
                tokio::spawn(async move {
                    for _ in 0..jobs / PRODUCERS {
                        let tally = tally.clone();
                        arm.feed(async move { tally.hit() }).await;
                    }
                });
            }
        }
        "yield" => {
            for _ in 0..jobs {
                let job = tiny();
                arm.feed(async move {
                    yield_now().await;
                    job.await;
                })
                .await;
            }
        }
        "sleep" => {
            for _ in 0..jobs {
                let job = tiny();
                arm.feed(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    job.await;
                })
                .await;
            }
        }
        "ping-pong" => {
            for _ in 0..jobs {
                arm.submit(tiny()).await.wait().await;
            }
        }
        "handles" => {
            let mut handles = Vec::new();
            for _ in 0..jobs {
                handles.push(arm.submit(tiny()).await);
            }
            for handle in handles {
                handle.wait().await;
            }
        }
        "groups" => {
            for _ in 0..jobs / GROUP {
                arm.fan_out((0..GROUP).map(|_| tiny())).await;
            }
        }
        _ => panic!("no shape is called `{shape}`; see `scripts/profile`"),
    }
    tally.ended.notified().await;
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [arm, shape, size, flavour, jobs] = &args[..] else {
        panic!("usage: shapes ARM SHAPE SIZE FLAVOUR JOBS")
    };
    let number = |text: &String| text.parse::<u64>().expect("SIZE and JOBS are numbers");
    // Whole groups, and equal shares of the producers.
    let jobs = number(jobs) / (GROUP * PRODUCERS) * (GROUP * PRODUCERS);
    let size = number(size) as usize;
    let mut builder = match flavour.strip_prefix("multi") {
        Some(threads) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads.parse().unwrap_or(2));
            builder
        }
        None => Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().expect("tokio starts");
    let (arm, shape) = (arm.clone(), shape.clone());
    if shape == "refusal" {
        let calls = runtime.spawn(refuse(size, jobs));
        return runtime.block_on(calls).expect("the calls end");
    }
    runtime.block_on(async {
        let main = async move { run(Arm::new(&arm, size), &shape, jobs).await };
        tokio::spawn(main).await.expect("the jobs end");
    });
}
