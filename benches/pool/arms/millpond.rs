//! The crate under test, used as its documentation shows it.

use millpond::{JobError, JobHandle, Pool};

use super::{Job, Submit};

/// A pool, with as many places in its queue as slots, or with none.
#[derive(Clone)]
pub struct Millpond<const QUEUE: bool>(Pool);

impl<const QUEUE: bool> Submit for Millpond<QUEUE> {
    type Lost = JobError;
    type Handle = JobHandle<()>;

    fn new(size: usize) -> Self {
        let queue = if QUEUE { size } else { 0 };
        Self(Pool::builder().size(size).queue(queue).build().expect("the size is valid"))
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            drop(self.0.schedule(job).await.expect("the pool is open"));
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        let Ok(handle) = self.0.schedule(job).await else { panic!("the pool was closed") };
        handle
    }
}

/// A pool whose callers commit their jobs before they wait for the start, as senders of a channel do.
#[derive(Clone)]
pub struct Committed(Pool);

impl Submit for Committed {
    type Lost = JobError;
    type Handle = JobHandle<()>;

    fn new(size: usize) -> Self {
        Self(Pool::new(size))
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            drop(self.submit(job).await);
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        let Ok(committed) = self.0.anyway_go(job) else { panic!("the pool was closed") };
        committed.await
    }
}
