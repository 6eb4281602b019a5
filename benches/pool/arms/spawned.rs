//! Rivals that spawn one tokio task per job.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

use super::{Job, Submit};

/// The floor: no bound, hence no cost of one.
#[derive(Clone)]
pub struct Spawn;

impl Submit for Spawn {
    type Lost = JoinError;
    type Handle = JoinHandle<()>;

    fn new(_size: usize) -> Self {
        Self
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            tokio::spawn(job);
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        tokio::spawn(job)
    }
}

/// Waits for all its tasks, but bounds none of them.
#[derive(Clone)]
pub struct Tracked(TaskTracker);

impl Submit for Tracked {
    type Lost = JoinError;
    type Handle = JoinHandle<()>;

    fn new(_size: usize) -> Self {
        Self(TaskTracker::new())
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            self.0.spawn(job);
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        self.0.spawn(job)
    }
}

/// What most code does today: a permit travels with each spawned task.
#[derive(Clone)]
pub struct Gated(Arc<Semaphore>);

impl Gated {
    async fn permit(&self) -> OwnedSemaphorePermit {
        self.0.clone().acquire_owned().await.expect("the semaphore stays open")
    }
}

impl Submit for Gated {
    type Lost = JoinError;
    type Handle = JoinHandle<()>;

    fn new(size: usize) -> Self {
        Self(Arc::new(Semaphore::new(size)))
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            let permit = self.permit().await;
            tokio::spawn(async move {
                let _permit = permit;
                job.await;
            });
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        let permit = self.permit().await;
        tokio::spawn(async move {
            let _permit = permit;
            job.await;
        })
    }
}
