//! Everything at once, on four threads, for three seconds: every job is accounted for once.
#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use millpond::{JobError, JobHandle, Pool};
use support::*;

const FOR: Duration = Duration::from_secs(3);

/// What the test saw itself, to be compared with what the pool says.
#[derive(Default)]
struct Books {
    submitted: AtomicU64,
    refused: AtomicU64,
    withdrawn: AtomicU64,
    completed: AtomicU64,
    panicked: AtomicU64,
    cancelled: AtomicU64,
    /// Detached jobs, whose ends were not observed.
    unseen: AtomicU64,
}

impl Books {
    fn note<T>(&self, outcome: &Result<T, JobError>) {
        let total = match outcome {
            Ok(_) => &self.completed,
            Err(error) if error.is_panic() => &self.panicked,
            Err(_) => &self.cancelled,
        };
        total.fetch_add(1, SeqCst);
    }
}

/// One of many kinds of job: quick, suspended for a while, panicking, endless.
fn job(lives: &Gauge, kind: u64) -> impl Future<Output = u64> + Send + 'static {
    let inside = lives.enter();
    async move {
        let _inside = inside;
        match kind {
            0 => silent_panic("as told"),
            1..4 => tokio::task::yield_now().await,
            4 => tokio::time::sleep(Duration::from_millis(1)).await,
            5 => {
                tokio::task::yield_now().await;
                silent_panic("later");
            }
            _ => {}
        }
        kind
    }
}

/// Does something with the handle of one job.
async fn follow(handle: JobHandle<u64>, dice: &mut Dice, books: &Books) {
    match dice.below(8) {
        0 => {
            handle.detach();
            books.unseen.fetch_add(1, SeqCst);
        }
        1 => {
            drop(handle.abort_on_drop());
            books.unseen.fetch_add(1, SeqCst);
        }
        2 | 3 => {
            handle.abort();
            books.note(&handle.await);
        }
        4 => {
            let abort = handle.abort_handle();
            let aborter = tokio::spawn(async move { abort.abort() });
            books.note(&handle.await);
            aborter.await.unwrap();
        }
        _ => books.note(&handle.await),
    }
}

async fn single_jobs(
    pool: Pool,
    lives: Gauge,
    books: Arc<Books>,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut dice = Dice::new(seed);
    while !stop.load(SeqCst) {
        let kind = dice.below(16);
        let job = job(&lives, kind);
        books.submitted.fetch_add(1, SeqCst);
        let handle = match dice.below(6) {
            0 => pool.schedule(job).await.ok(),
            1 => pool.try_schedule(job).ok(),
            2 => pool.schedule_always(job).ok(),
            3 => pool.try_go(job).await.ok(),
            4 if dice.below(2) == 0 => Some(pool.anyway_go(job).unwrap().await),
            4 => Some(pool.anyway_go(job).unwrap().into_handle()),
            _ => {
                // Gives up at once, or is let in at once.
                let mut waiter = Box::pin(pool.schedule(job));
                match poll(&mut waiter) {
                    std::task::Poll::Ready(handle) => handle.ok(),
                    std::task::Poll::Pending => {
                        if dice.below(2) == 0 {
                            tokio::task::yield_now().await;
                        }
                        drop(waiter);
                        books.withdrawn.fetch_add(1, SeqCst);
                        continue;
                    }
                }
            }
        };
        match handle {
            Some(handle) => follow(handle, &mut dice, &books).await,
            None => drop(books.refused.fetch_add(1, SeqCst)),
        }
    }
}

async fn group_jobs(pool: Pool, lives: Gauge, books: Arc<Books>, seed: u64, stop: Arc<AtomicBool>) {
    let mut dice = Dice::new(seed);
    while !stop.load(SeqCst) {
        let builder = pool.group_builder();
        let group = match dice.below(3) {
            0 => builder.build().unwrap(),
            quota => builder.quota(quota as usize).build().unwrap(),
        };
        let mut inside = 0;
        for _ in 0..dice.below(8) {
            let job = job(&lives, dice.below(16));
            books.submitted.fetch_add(1, SeqCst);
            let taken = match dice.below(5) {
                0 => group.schedule(job).await.ok(),
                1 => group.try_schedule(job).ok(),
                2 => group.schedule_always(job).ok(),
                3 => group.try_go(job).await.ok(),
                _ => group.anyway_go(job).ok(),
            };
            match taken {
                None => drop(books.refused.fetch_add(1, SeqCst)),
                Some(abort) => {
                    inside += 1;
                    if dice.below(6) == 0 {
                        abort.abort();
                    }
                }
            }
        }
        match dice.below(6) {
            0 => {
                drop(group);
                books.unseen.fetch_add(inside, SeqCst);
                continue;
            }
            1 => {
                group.detach();
                drop(group);
                books.unseen.fetch_add(inside, SeqCst);
                continue;
            }
            2 => group.cancel(),
            _ => {}
        }
        let outcomes = match dice.below(3) {
            0 => group.wait().await,
            1 => group.wait_or_cancel_on_failure().await,
            _ => {
                let mut outcomes = Vec::new();
                while let Some(outcome) = group.next().await {
                    outcomes.push(outcome);
                }
                outcomes
            }
        };
        assert_eq!(outcomes.len() as u64, inside);
        outcomes.iter().for_each(|outcome| books.note(&outcome.result));
    }
}

#[test]
fn every_job_is_accounted_for_once() {
    multi(4, async {
        let pool = Pool::builder().size(4).queue(3).build().unwrap();
        let (lives, books) = (Gauge::default(), Arc::new(Books::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for seed in 1..=8 {
            let (pool, lives) = (pool.clone(), lives.clone());
            let (books, stop) = (books.clone(), stop.clone());
            tasks.push(if seed % 4 == 0 {
                tokio::spawn(group_jobs(pool, lives, books, seed, stop))
            } else {
                tokio::spawn(single_jobs(pool, lives, books, seed, stop))
            });
        }
        let mut dice = Dice::new(99);
        let start = Instant::now();
        while start.elapsed() < FOR {
            pool.resize(1 + dice.below(8) as usize).unwrap();
            law(&pool);
            tokio::time::sleep(Duration::from_millis(dice.below(5))).await;
        }
        stop.store(true, SeqCst);
        for task in tasks {
            soon(task).await.unwrap();
        }
        soon(pool.wait_idle()).await;
        pool.resize(4).unwrap();
        whole(&pool).await;

        let status = quiet(&pool);
        let get = |total: &AtomicU64| total.load(SeqCst);
        let extra = 4 + 3; // of `whole`, which is refused one more
        assert_eq!(status.submitted, get(&books.submitted) + extra + 1);
        assert_eq!(status.refused, get(&books.refused) + 1);
        assert_eq!(status.withdrawn, get(&books.withdrawn));
        let ended = status.completed + status.panicked + status.cancelled - extra;
        let seen = get(&books.completed) + get(&books.panicked) + get(&books.cancelled);
        assert_eq!(ended, seen + get(&books.unseen));
        assert!(status.completed >= get(&books.completed));
        assert!(status.panicked >= get(&books.panicked) && get(&books.panicked) > 0);
        assert!(status.cancelled >= get(&books.cancelled) && get(&books.cancelled) > 0);
        assert_eq!(lives.total() as u64, get(&books.submitted));
        assert_eq!(lives.now(), 0, "of {} futures", lives.total());
        assert!(lives.total() > 1_000, "only {} jobs", lives.total());
    });
}
