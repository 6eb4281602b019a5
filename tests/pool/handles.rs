//! A handle is the right to an outcome: awaited, asked, given up, made to abort.

use crate::support::*;
use futures_util::FutureExt;
use millpond::Pool;
use tokio_test::{assert_pending, assert_ready, task};

#[test]
fn resolves_to_what_the_job_returned_and_wakes_once_it_is_there() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let inside = gate.wait();
        let mut handle = task::spawn(
            pool.try_schedule(async move {
                inside.await;
                String::from("done")
            })
            .unwrap(),
        );
        assert_pending!(handle.poll());
        settle().await;
        assert!(!handle.is_woken() && !handle.is_finished());
        gate.open();
        settle().await;
        assert!(handle.is_woken() && handle.is_finished());
        assert_eq!(assert_ready!(handle.poll()).unwrap(), "done");
        whole(&pool).await;
    });
}

#[test]
fn the_last_waker_is_the_one_woken() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let mut handle = pool.try_schedule(gate.wait()).unwrap();
        let mut first = task::spawn(&mut handle);
        assert_pending!(first.poll());
        let handle = first.into_inner();
        let mut second = task::spawn(handle);
        assert_pending!(second.poll());
        gate.open();
        settle().await;
        assert!(second.is_woken());
        assert_ready!(second.poll()).unwrap();
    });
}

#[test]
fn awaited_elsewhere() {
    multi(2, async {
        let pool = Pool::new(2);
        // On another runtime, and by an executor which is none of tokio's.
        let gate = Gate::new();
        let (a, b) = (gate.wait(), gate.wait());
        let a = pool.schedule(a).await.unwrap();
        let b = pool.schedule(b).await.unwrap();
        let elsewhere = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(a).unwrap();
        });
        let nowhere = std::thread::spawn(move || {
            let (tell, told) = std::sync::mpsc::channel();
            struct Unpark(std::sync::mpsc::Sender<()>);
            impl std::task::Wake for Unpark {
                fn wake(self: std::sync::Arc<Self>) {
                    let _ = self.0.send(());
                }
            }
            let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(tell)));
            let mut b = b;
            while poll_for(&mut b, &waker).is_pending() {
                told.recv().unwrap();
            }
        });
        settle().await;
        gate.open();
        eventually(|| elsewhere.is_finished() && nowhere.is_finished()).await;
        elsewhere.join().unwrap();
        nowhere.join().unwrap();
        whole(&pool).await;
    });
}

#[test]
fn dropped_or_detached_the_job_goes_on() {
    single(async {
        let pool = Pool::builder().size(1).queue(1).build().unwrap();
        let (gauge, gate) = (Gauge::default(), Gate::new());
        let job = || {
            let (gauge, inside) = (gauge.clone(), gate.wait());
            async move {
                inside.await;
                drop(gauge.enter());
            }
        };
        drop(pool.try_schedule(job()).unwrap());
        pool.try_schedule(job()).unwrap().detach();
        drop(pool.anyway_go(job()).unwrap());
        drop(pool.schedule_always(job()).unwrap());
        settle().await;
        assert_eq!(gauge.total(), 0);
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!((gauge.total(), law(&pool).completed), (4, 4));
    });
}

#[test]
fn an_output_is_dropped_with_its_handle_or_without_one() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let job = || {
            let output = lives.enter();
            async move {
                tokio::task::yield_now().await;
                output
            }
        };
        pool.try_schedule(job()).unwrap().detach();
        settle().await;
        assert_eq!(lives.now(), 0);
        let handle = pool.try_schedule(job()).unwrap();
        let abort = handle.abort_handle();
        settle().await;
        assert!(handle.is_finished());
        assert_eq!(lives.now(), 1, "kept for the handle");
        drop(handle);
        drop(abort);
        assert_eq!(lives.now(), 0);
        let output = pool.try_schedule(job()).unwrap().await.unwrap();
        assert_eq!(lives.now(), 1);
        drop(output);
        assert_eq!((lives.total(), lives.now()), (3, 0));
    });
}

#[test]
fn an_abort_handle_neither_owns_nor_ends_the_job() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        let handle = pool.try_schedule(gate.wait()).unwrap();
        let abort = handle.abort_handle();
        drop(abort.clone());
        settle().await;
        assert!(!abort.is_finished() && !handle.is_finished());
        gate.open();
        handle.await.unwrap();
        assert!(abort.is_finished());
        abort.abort();
        drop(abort);
        assert_eq!(law(&pool).completed, 1);
    });
}

#[test]
fn abort_on_drop_aborts_and_into_handle_does_not() {
    single(async {
        let pool = Pool::new(1);
        let lives = Gauge::default();
        let inside = lives.enter();
        let handle = pool
            .try_schedule(async move {
                std::future::pending::<()>().await;
                drop(inside);
            })
            .unwrap()
            .abort_on_drop();
        settle().await;
        assert!(!handle.is_finished());
        drop(handle);
        settle().await;
        assert_eq!((lives.now(), law(&pool).cancelled), (0, 1));

        let gate = Gate::new();
        let handle = pool.try_schedule(gate.wait()).unwrap().abort_on_drop().into_handle();
        drop(handle);
        settle().await;
        assert_eq!(law(&pool).running, 1);
        gate.open();
        soon(pool.wait_idle()).await;
        assert_eq!(law(&pool).completed, 1);

        // It is a future as well, and can abort before it is dropped.
        assert_eq!(pool.try_schedule(async { 4 }).unwrap().abort_on_drop().await.unwrap(), 4);
        let handle = pool.try_schedule(std::future::pending::<()>()).unwrap().abort_on_drop();
        handle.abort();
        assert!(soon(handle).await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_loop_over_finished_handles_yields_at_times() {
    single(async {
        let pool = Pool::new(1_000);
        let mut handles = Vec::new();
        for n in 0..1_000 {
            handles.push(pool.try_schedule(async move { n }).unwrap());
        }
        soon(pool.wait_idle()).await;
        let all = async {
            let mut sum = 0;
            for handle in handles {
                sum += handle.await.unwrap();
            }
            sum
        };
        let mut all = Box::pin(tokio::spawn(all));
        let mut yields = 0;
        let sum = loop {
            tokio::task::yield_now().await;
            yields += 1;
            if let Some(sum) = (&mut all).now_or_never() {
                break sum.unwrap();
            }
        };
        assert_eq!(sum, 999 * 1_000 / 2);
        assert!(yields > 3, "{yields} yields for a thousand handles");
    });
}

#[test]
fn debug_shows_the_state() {
    single(async {
        let pool = Pool::builder().size(1).name("mill").build().unwrap();
        let handle = pool.try_schedule(async {}).unwrap();
        assert!(format!("{handle:?}").contains("finished: false"));
        settle().await;
        assert!(format!("{handle:?}").contains("finished: true"));
        assert!(format!("{:?}", handle.abort_handle()).contains("finished: true"));
        assert!(format!("{pool:?}").contains("mill"));
    });
}
