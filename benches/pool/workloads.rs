//! The throughput workloads: what the jobs do, which tasks submit them, and how their end is awaited.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use crate::arms::{Arm, Job};
use crate::runtime::Flavour;
use crate::tally::{Part, Tally};

#[derive(Clone, Copy)]
pub enum Work {
    Tiny,
    Yield,
    /// For so many milliseconds.
    Sleep(u64),
    Spin,
}

#[derive(Clone, Copy)]
pub enum Shape {
    /// Fire and forget.
    Feed,
    /// Keep every handle, await them all at the end.
    Gather,
    /// Await each job before submitting the next.
    Call,
}

#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub work: Work,
    pub shape: Shape,
    pub producers: usize,
    pub size: usize,
    pub jobs: u64,
}

const fn workload(
    name: &'static str,
    work: Work,
    shape: Shape,
    producers: usize,
    size: usize,
    jobs: u64,
) -> Workload {
    Workload { name, work, shape, producers, size, jobs }
}

/// Job counts are chosen for measurements of 50 to 300 ms.
pub static ALL: [Workload; 20] = [
    workload("tiny, 1 producer, size 1", Work::Tiny, Shape::Feed, 1, 1, 200_000),
    workload("tiny, 1 producer, size 2", Work::Tiny, Shape::Feed, 1, 2, 200_000),
    workload("tiny, 1 producer, size 8", Work::Tiny, Shape::Feed, 1, 8, 300_000),
    workload("tiny, 1 producer, size 16", Work::Tiny, Shape::Feed, 1, 16, 300_000),
    workload("tiny, 1 producer, size 100", Work::Tiny, Shape::Feed, 1, 100, 500_000),
    workload("tiny, 1 producer, size 1,000", Work::Tiny, Shape::Feed, 1, 1_000, 500_000),
    workload("tiny, 4 producers, size 2", Work::Tiny, Shape::Feed, 4, 2, 200_000),
    workload("tiny, 4 producers, size 16", Work::Tiny, Shape::Feed, 4, 16, 300_000),
    workload("tiny, 4 producers, size 100", Work::Tiny, Shape::Feed, 4, 100, 500_000),
    workload("tiny, 4 producers, size 1,000", Work::Tiny, Shape::Feed, 4, 1_000, 500_000),
    workload("yield once, size 2", Work::Yield, Shape::Feed, 1, 2, 100_000),
    workload("yield once, size 100", Work::Yield, Shape::Feed, 1, 100, 300_000),
    workload("sleep 1 ms, size 16", Work::Sleep(1), Shape::Feed, 1, 16, 2_000),
    workload("sleep 1 ms, size 10,000", Work::Sleep(1), Shape::Feed, 1, 10_000, 200_000),
    workload("handles kept, size 2", Work::Tiny, Shape::Gather, 1, 2, 50_000),
    workload("handles kept, size 1,000", Work::Tiny, Shape::Gather, 1, 1_000, 100_000),
    workload("ping-pong, size 100", Work::Tiny, Shape::Call, 1, 100, 100_000),
    workload("ping-pong, size 2", Work::Tiny, Shape::Call, 1, 2, 100_000),
    workload("64 callers, size 100", Work::Tiny, Shape::Call, 64, 100, 200_000),
    workload("5 us of CPU, size 100", Work::Spin, Shape::Feed, 1, 100, 20_000),
];

/// Keeps the thread busy for `time`.
pub fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        spin_loop();
    }
}

/// The time from the start of production to the end of the last job.
pub fn measure<A: Arm>(workload: &Workload, flavour: Flavour) -> Duration {
    let workload = *workload;
    flavour.run(async move {
        let mut arm = A::new(workload.size);
        pass(&mut arm, Workload { jobs: workload.jobs / 20, ..workload }).await;
        pass(&mut arm, workload).await
    })
}

async fn pass<A: Arm>(arm: &mut A, workload: Workload) -> Duration {
    match workload.work {
        Work::Tiny => drive(arm, workload, |tally| async move { tally.hit() }).await,
        Work::Yield => {
            let job = |tally: Part| async move {
                tokio::task::yield_now().await;
                tally.hit();
            };
            drive(arm, workload, job).await
        }
        Work::Sleep(millis) => {
            let job = move |tally: Part| async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                tally.hit();
            };
            drive(arm, workload, job).await
        }
        Work::Spin => {
            let job = |tally: Part| async move {
                spin(Duration::from_micros(5));
                tally.hit();
            };
            drive(arm, workload, job).await
        }
    }
}

async fn drive<A: Arm, J: Job>(
    arm: &mut A,
    workload: Workload,
    job: impl Fn(Part) -> J + Copy + Send + 'static,
) -> Duration {
    let Workload { shape, producers, jobs, .. } = workload;
    let share = jobs / producers as u64;
    let tally = Tally::leak(producers, share);
    let jobs = move |producer| (0..share).map(move |_| job(tally.part(producer)));
    let start = Instant::now();
    if producers == 1 {
        produce(arm, shape, jobs(0)).await;
    } else {
        let start_producer = |producer| {
            let mut arm = arm.share();
            tokio::spawn(async move { produce(&mut arm, shape, jobs(producer)).await })
        };
        let producers: Vec<_> = (0..producers).map(start_producer).collect();
        for producer in producers {
            producer.await.expect("the producer ended");
        }
    }
    tally.wait().await;
    start.elapsed()
}

async fn produce<A: Arm, J: Job>(arm: &mut A, shape: Shape, jobs: impl Iterator<Item = J> + Send) {
    match shape {
        Shape::Feed => arm.feed(jobs).await,
        Shape::Gather => arm.gather(jobs).await,
        Shape::Call => {
            for job in jobs {
                arm.call(job).await;
            }
        }
    }
}
