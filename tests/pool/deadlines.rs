//! Deadlines of jobs: in line, in the queue, at the start, while they run, and for what they submit.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use millpond::{JobError, JobOptions, Pool, Priority, SubmitErrorKind};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_millis(250);

fn within(limit: Duration) -> JobOptions {
    JobOptions::new().timeout(limit)
}

/// Counts its runs.
fn counted(runs: &Arc<AtomicUsize>) -> impl Future<Output = usize> + Send + 'static + use<> {
    let runs = runs.clone();
    async move { runs.fetch_add(1, Ordering::Relaxed) }
}

#[test]
fn a_caller_in_line_gets_its_job_back_at_the_deadline() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let called = Instant::now();
        let refused = pool.with(within(LIMIT)).schedule(async { 7 }).await.unwrap_err();
        assert!((250..260).contains(&called.elapsed().as_millis()));
        assert_eq!(refused.kind(), SubmitErrorKind::Expired);
        assert!(!refused.is_full() && !refused.is_closed());
        let status = law(&pool);
        assert_eq!((status.waiting, status.refused, status.expired), (0, 1, 0));
        assert_eq!(refused.into_job().await, 7, "the job is whole");
        drop(held);
        whole(&pool).await;
    });
}

#[test]
fn queued_and_committed_jobs_never_run_and_are_told_at_once() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let held = pool.reserve().await.unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let called = Instant::now();
        // The later deadline first: the earlier one must wake the task that looks.
        let view = pool.with(within(LIMIT * 2));
        let queued = view.try_schedule(counted(&runs)).unwrap();
        settle().await;
        let view = pool.with(within(LIMIT));
        let committed = view.anyway_go(counted(&runs)).unwrap().into_handle();
        assert!(matches!(committed.await, Err(JobError::Expired)));
        assert!((250..260).contains(&called.elapsed().as_millis()));
        assert!(queued.await.unwrap_err().is_expired());
        assert!((500..510).contains(&called.elapsed().as_millis()));
        assert_eq!(law(&pool).expired, 2);
        drop(held);
        whole(&pool).await;
        assert_eq!(runs.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_waiter_behind_an_expired_one_moves_up() {
    paused(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let held = pool.reserve().await.unwrap();
        let queued = pool.with(within(LIMIT)).try_schedule(async { 1 }).unwrap();
        let mut waiting = Box::pin(pool.schedule(async { 2 }));
        assert!(poll(&mut waiting).is_pending());
        assert!(queued.await.unwrap_err().is_expired());
        let admitted = soon(&mut waiting).await.unwrap();
        drop(held);
        assert_eq!(soon(admitted).await.unwrap(), 2);
        whole(&pool).await;
    });
}

#[test]
fn a_job_whose_deadline_passed_does_not_start() {
    paused(async {
        let pool = Pool::new(1);
        let runs = Arc::new(AtomicUsize::new(0));
        let late = pool.with(JobOptions::new().deadline(Instant::now()));
        assert!(late.try_schedule(counted(&runs)).unwrap().await.unwrap_err().is_expired());
        // One that started in time goes on.
        let job = async {
            sleep(LIMIT * 2).await;
            7
        };
        assert_eq!(pool.with(within(LIMIT)).schedule(job).await.unwrap().await.unwrap(), 7);
        assert_eq!((law(&pool).expired, runs.load(Ordering::Relaxed)), (1, 0));
        whole(&pool).await;
    });
}

#[test]
fn a_running_job_is_cancelled_at_its_deadline_if_asked() {
    paused(async {
        let pool = Pool::new(1);
        let drops = Arc::new(AtomicUsize::new(0));
        let options = || within(LIMIT).expire_running(true);
        let guard = OnDrop(drops.clone());
        let job = async move {
            let _guard = guard;
            loop {
                sleep(LIMIT / 7).await;
            }
        };
        let called = Instant::now();
        let handle = pool.with(options()).schedule(job).await.unwrap();
        let error = handle.await.unwrap_err();
        assert!(error.is_expired());
        assert!((250..260).contains(&called.elapsed().as_millis()));
        assert_eq!((drops.load(Ordering::Relaxed), law(&pool).running), (1, 0));
        // A job that ends before is not touched, and leaves no timer that moves the clock.
        let quick = pool.with(options()).schedule(sleep(LIMIT / 2)).await.unwrap();
        let started = Instant::now();
        quick.await.unwrap();
        whole(&pool).await;
        assert!(started.elapsed() < LIMIT);
    });
}

/// The timer has the job's waker, and the job has the timer.
#[test]
fn a_job_that_ended_before_its_deadline_is_not_kept() {
    paused(async {
        let kept = Arc::new(());
        let also = kept.clone();
        let pool = Pool::builder().size(1).on_panic(move |_| drop(also.clone())).build().unwrap();
        let far = || within(LIMIT * 1_000).expire_running(true);
        let ends = pool.with(far()).schedule(sleep(LIMIT)).await.unwrap();
        ends.await.unwrap();
        let panics = pool.with(far()).schedule(async {
            sleep(LIMIT).await;
            silent_panic("late");
        });
        panics.await.unwrap().await.unwrap_err();
        let aborted = pool.with(far()).schedule(sleep(LIMIT * 2_000)).await.unwrap();
        sleep(LIMIT).await;
        aborted.abort();
        aborted.await.unwrap_err();
        drop(pool);
        sleep(LIMIT).await;
        assert_eq!(Arc::strong_count(&kept), 1);
    });
}

struct OnDrop(Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A closure on a blocking thread cannot be stopped: its job expires when the closure ends.
#[test]
fn a_closure_that_runs_delays_the_end() {
    multi(2, async {
        let pool = Pool::new(1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let options = within(Duration::from_millis(5)).expire_running(true);
        let mut job = Box::pin(async move {
            millpond::blocking(move || gate.recv().unwrap()).await;
            std::future::pending::<()>().await;
        });
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let job = std::future::poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            job.as_mut().poll(cx)
        });
        let mut handle = pool.with(options).schedule(job).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        assert!(!handle.is_finished());
        assert!(polls.load(Ordering::Relaxed) <= 3, "{polls:?}: the job is polled without end");
        open.send(()).unwrap();
        assert!(soon(&mut handle).await.unwrap_err().is_expired());
        whole(&pool).await;
    });
}

/// The budget of a request bounds its fan-out, in this pool and in others.
#[test]
fn what_a_job_submits_has_its_deadline() {
    paused(async {
        let (pool, other) = (Pool::new(2), Pool::new(1));
        let held = other.reserve().await.unwrap();
        let inner = other.clone();
        let job = async move {
            let start = Instant::now();
            let refused = inner.schedule(async {}).await.unwrap_err();
            assert_eq!(refused.kind(), SubmitErrorKind::Expired);
            let late = inner.anyway_go(async {}).unwrap().into_handle();
            assert!(late.await.unwrap_err().is_expired());
            // A shorter one of its own counts, and a longer one does not.
            let own = inner.with(within(LIMIT * 9)).schedule(async {}).await.unwrap_err();
            assert_eq!(own.kind(), SubmitErrorKind::Expired);
            let elapsed = start.elapsed();
            // An own deadline is kept, also none.
            let free = inner.with(JobOptions::new().own_deadline(true));
            let free = free.anyway_go(async { 7 }).unwrap().into_handle();
            (elapsed, free)
        };
        let handle = pool.with(within(LIMIT)).schedule(job).await.unwrap();
        let (elapsed, free) = handle.await.unwrap();
        assert!((250..270).contains(&elapsed.as_millis()), "{elapsed:?}");
        drop(held);
        assert_eq!(free.await.unwrap(), 7);
        // Outside of the job nothing is left of its deadline.
        sleep(LIMIT).await;
        assert_eq!(other.schedule(async { 1 }).await.unwrap().await.unwrap(), 1);
        whole(&pool).await;
        whole(&other).await;
    });
}

#[test]
fn a_job_in_its_caller_has_its_deadline() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let late = pool.with(JobOptions::new().deadline(Instant::now()));
        let group = late.group();
        let end = late.try_go(async { unreachable!() }).await.unwrap().await;
        assert!(end.unwrap_err().is_expired());
        let _ = group.try_go(async { unreachable!() }).await.unwrap();
        assert_eq!(group.wait().await.expired, 1);
        // What it submits inherits the deadline, and what is submitted beside it does not.
        let inner = pool.clone();
        let job = async move { inner.schedule(async {}).await.unwrap_err().kind() };
        let view = pool.with(within(LIMIT));
        let (fan_out, beside) = tokio::join!(view.try_go(job), async {
            tokio::task::yield_now().await;
            pool.schedule_within(LIMIT * 2, async {}).await.unwrap_err().kind()
        });
        assert_eq!(fan_out.unwrap().await.unwrap(), SubmitErrorKind::Expired);
        assert_eq!(beside, SubmitErrorKind::TimedOut);
        assert_eq!(pool.status().expired, 2);
        drop(held);
        whole(&pool).await;
    });
}

/// Inside a job of the pool, the submitted job stands in line itself. It comes back all the same.
#[test]
fn a_nested_submit_comes_back_at_its_deadline() {
    paused(async {
        let pool = Pool::new(2);
        let held = pool.reserve().await.unwrap();
        let own = pool.clone();
        let job = async move {
            let view = own.with(within(LIMIT));
            let refused = view.schedule(async { 7 }).await.unwrap_err();
            (refused.kind(), refused.into_job().await)
        };
        let outer = pool.schedule(job).await.unwrap();
        assert_eq!(outer.await.unwrap(), (SubmitErrorKind::Expired, 7));
        law(&pool);
        drop(held);
        whole(&pool).await;
    });
}

#[test]
fn a_group_counts_expired_jobs_as_failed() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let group = pool.group_builder().options(within(LIMIT)).build().unwrap();
        let _ = group.anyway_go(async {}).unwrap();
        assert_eq!(group.schedule(async {}).await.unwrap_err().kind(), SubmitErrorKind::Expired);
        let report = soon(group.wait()).await;
        assert_eq!((report.failed, report.expired, report.cancelled), (1, 1, 0));
        drop(held);
        whole(&pool).await;
    });
}

/// The task that looks at deadlines dies with its runtime; the next runtime has another one.
#[test]
fn a_pool_in_another_runtime_still_sees_deadlines() {
    let pool = Pool::new(1);
    for _ in 0..2 {
        let pool = pool.clone();
        paused(async move {
            let held = pool.reserve().await.unwrap();
            let handle = pool.with(within(LIMIT)).anyway_go(async {}).unwrap().into_handle();
            assert!(soon(handle).await.unwrap_err().is_expired());
            // A waiter is left when the runtime ends.
            let later = pool.with(within(LIMIT * 100)).anyway_go(async {}).unwrap().into_handle();
            drop((held, later));
            whole(&pool).await;
        });
    }
}

/// Many deadlines in random order, on threads: each job runs or expires, once.
#[test]
fn each_job_runs_or_expires_once_under_load() {
    multi(2, async {
        let pool = Pool::builder().size(4).queue(16).build().unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let mut handles = Vec::new();
        let mut refused = 0;
        for number in 0..2_000_u64 {
            let runs = runs.clone();
            let job = async move {
                runs.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_micros(200)).await;
            };
            let limit = Duration::from_micros(number * 7_919 % 3_000);
            let view = pool.with(within(limit).expire_running(number % 3 == 0));
            match number % 2 {
                0 => handles.push(view.anyway_go(job).unwrap().into_handle()),
                _ => match view.schedule(job).await {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        assert_eq!(error.kind(), SubmitErrorKind::Expired);
                        refused += 1;
                    }
                },
            }
        }
        let (mut done, mut expired) = (0, 0);
        for handle in handles {
            match soon(handle).await {
                Ok(()) => done += 1,
                Err(JobError::Expired) => expired += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let status = law(&pool);
        whole(&pool).await;
        assert_eq!(
            (done, expired),
            (status.completed as usize, status.expired as usize),
            "{status:?}"
        );
        assert_eq!(done + expired + refused, 2_000);
        assert!(runs.load(Ordering::Relaxed) >= done);
    });
}

/// A reserver waits until the deadline of its options, and its jobs have it, too.
#[test]
fn a_reserver_has_options() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let view = pool.with(within(LIMIT).expire_running(true).priority(Priority::High));
        let start = Instant::now();
        let refused = view.reserve().await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::Expired);
        assert!((LIMIT..LIMIT * 2).contains(&start.elapsed()));

        let view = pool.with(within(LIMIT).expire_running(true).priority(Priority::High));
        let (mut late, mut soon) = (pool.reserver(), view.reserver());
        let mut waits = [Box::pin(late.reserve()), Box::pin(soon.reserve())];
        assert!(waits.iter_mut().all(|wait| poll(wait).is_pending()));
        drop(held);
        settle().await;
        let ready = waits.each_mut().map(|wait| poll(wait).is_ready());
        assert_eq!(ready, [false, true], "the higher priority goes first");
        drop(waits);
        let job = soon.clone();
        assert!(!job.is_reserved());
        let job = soon.schedule(std::future::pending::<()>()).unwrap();
        assert!(matches!(job.await, Err(JobError::Expired)));
        late.reserve().await.unwrap();
        late.schedule(async {}).unwrap().await.unwrap();
        whole(&pool).await;
    });
}

/// The other verbs of a view: each gives its jobs the options.
#[test]
fn a_map_and_a_slot_of_a_view_have_its_options() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let hasty = pool.with(JobOptions::new().timeout(Duration::from_millis(10)));
        let mut map = hasty.map(0..2, 2, |n| async move { n });
        for _ in 0..2 {
            let outcome = map.next().await.unwrap();
            assert!(matches!(outcome.result, Err(JobError::Expired)), "{outcome:?}");
        }
        assert!(map.next().await.is_none());
        let hasty = pool.with(JobOptions::new().timeout(Duration::from_millis(10)));
        let error = hasty.reserve_owned().await.unwrap_err();
        assert_eq!(error.kind(), SubmitErrorKind::Expired);
        assert_eq!(hasty.try_reserve().unwrap_err().kind(), SubmitErrorKind::Full);
        drop(held);
        let ends =
            pool.with(JobOptions::new().timeout(Duration::from_millis(10)).expire_running(true));
        let slot = ends.try_reserve().unwrap();
        let handle = slot.schedule(std::future::pending::<()>()).unwrap();
        assert!(matches!(handle.await, Err(JobError::Expired)));
        whole(&pool).await;
    });
}
