//! Rivals with a single owner that drives its jobs to their ends.

use std::future::ready;

use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;

use super::{Arm, Job};
use crate::workloads::Shape;

/// Results come out of the set, not out of handles: gathering collects them as they come.
pub struct CappedSet {
    set: JoinSet<()>,
    cap: usize,
}

impl CappedSet {
    async fn join_one(&mut self) -> Option<()> {
        self.set.join_next().await.map(|ended| ended.expect("the job ended"))
    }
}

impl Arm for CappedSet {
    fn new(size: usize) -> Self {
        Self { set: JoinSet::new(), cap: size }
    }

    fn fits(_: Shape, producers: usize) -> bool {
        producers == 1
    }

    fn share(&self) -> Self {
        unreachable!("fits one producer only")
    }

    async fn feed<J: Job>(&mut self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            if self.set.len() >= self.cap {
                self.join_one().await;
            }
            self.set.spawn(job);
        }
        while self.join_one().await.is_some() {}
    }

    async fn gather<J: Job>(&mut self, jobs: impl Iterator<Item = J> + Send) {
        let mut results = Vec::new();
        for job in jobs {
            if self.set.len() >= self.cap {
                results.extend(self.join_one().await);
            }
            self.set.spawn(job);
        }
        while let Some(result) = self.join_one().await {
            results.push(result);
        }
    }

    async fn call(&mut self, job: impl Job) {
        self.set.spawn(job);
        self.join_one().await;
    }
}

/// Runs every job inside the producer's own task: concurrent, never parallel.
pub struct Buffered {
    size: usize,
}

impl Arm for Buffered {
    fn new(size: usize) -> Self {
        Self { size }
    }

    fn fits(shape: Shape, producers: usize) -> bool {
        producers == 1 && matches!(shape, Shape::Feed)
    }

    fn share(&self) -> Self {
        unreachable!("fits one producer only")
    }

    async fn feed<J: Job>(&mut self, jobs: impl Iterator<Item = J> + Send) {
        stream::iter(jobs).buffer_unordered(self.size).for_each(ready).await;
    }

    async fn gather<J: Job>(&mut self, _: impl Iterator<Item = J> + Send) {
        unreachable!("fits feeding only")
    }

    async fn call(&mut self, _: impl Job) {
        unreachable!("fits feeding only")
    }
}
