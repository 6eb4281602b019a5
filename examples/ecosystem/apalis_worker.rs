//! Workers of apalis on one pool: the layer is a layer of the worker.
//!
//! A worker of apalis takes tasks from a backend; how many run at once is otherwise a setting of each
//! worker. Here two workers, and whatever else uses the pool, share one bound.
//!
//! ```text
//! cargo run --release --example apalis_worker
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use apalis_core::backend::TaskSink;
use apalis_core::backend::memory::MemoryStorage;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use millpond::Pool;
use millpond::layer::PoolLayer;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The tasks of each worker.
const TASKS: u32 = 20;
const SLOTS: usize = 3;

/// Counts the tasks of both workers.
#[derive(Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
    ended: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let pool = Pool::new(SLOTS);
    let counts = Arc::new(Counts::default());
    tokio::try_join!(worker("mail", &pool, &counts), worker("thumbnails", &pool, &counts))?;

    let (ended, most) = (counts.ended.load(SeqCst), counts.most.load(SeqCst));
    println!("{ended} tasks ended, at most {most} at once");
    println!("{} jobs completed on the pool", pool.status().completed);
    Ok(())
}

async fn worker(name: &str, pool: &Pool, counts: &Arc<Counts>) -> Result<(), Error> {
    let mut storage = MemoryStorage::new();
    for task in 0..TASKS {
        storage.push(task).await?;
    }
    let worker = WorkerBuilder::new(name)
        .backend(storage)
        .layer(PoolLayer::schedule(pool))
        .data(counts.clone())
        .build(run);
    Ok(worker.run().await?)
}

async fn run(task: u32, counts: Data<Arc<Counts>>, worker: WorkerContext) -> Result<(), Error> {
    counts.most.fetch_max(counts.now.fetch_add(1, SeqCst) + 1, SeqCst);
    tokio::time::sleep(Duration::from_millis(5)).await;
    counts.now.fetch_sub(1, SeqCst);
    counts.ended.fetch_add(1, SeqCst);
    if task + 1 == TASKS {
        // The worker takes no more tasks and ends when those that it has taken have ended.
        worker.stop()?;
    }
    Ok(())
}
