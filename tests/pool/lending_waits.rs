//! Waits that the polls of a job do not come by, and waits beside those that cannot lend.

use std::future::Future;

use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt};

use crate::support::*;
use millpond::Pool;
use tokio::sync::oneshot;

/// Runs a body on both flavours.
fn both<F: Future<Output = ()> + Send + 'static>(body: impl Fn() -> F) {
    single(body());
    multi(2, body());
}

/// Runs a job of pools of a few sizes to its end.
async fn on_few<F: Future<Output = u32> + Send + 'static>(expected: u32, job: impl Fn(Pool) -> F) {
    for size in [1, 2] {
        let pool = Pool::new(size);
        let job = pool.schedule(job(pool.clone())).await.unwrap();
        assert_eq!(soon(job).await.unwrap(), expected, "on {size}");
        assert_eq!(law(&pool).lent, 0);
        whole(&pool).await;
    }
}

/// `FuturesUnordered` polls the children that were woken alone. So the last poll comes by no wait.
#[test]
fn a_job_lends_while_it_awaits_the_rest_of_its_children() {
    both(|| {
        on_few(3, |own| async move {
            let start = |n| own.anyway_go(async move { n }).unwrap().into_handle();
            let mut children: FuturesUnordered<_> = (0..3).map(start).collect();
            let mut sum = 0;
            while let Some(child) = children.next().await {
                sum += child.unwrap();
            }
            sum
        })
    });
}

/// Beyond 30 futures, `join_all` polls the woken ones alone.
#[test]
fn a_job_lends_while_it_joins_many_children() {
    both(|| {
        on_few(40, |own| async move {
            let start = |_| own.anyway_go(async { 1 }).unwrap().into_handle();
            let children = join_all((0..40).map(start)).await;
            children.into_iter().map(Result::unwrap).sum()
        })
    });
}

#[test]
fn a_job_lends_while_it_buffers_its_children() {
    both(|| {
        on_few(20, |own| async move {
            let run = |_| async { own.schedule(async { 1 }).await.unwrap().await.unwrap() };
            stream::iter(0..20)
                .map(run)
                .buffer_unordered(3)
                .fold(0, |sum, n| async move { sum + n })
                .await
        })
    });
}

/// The wait of the job is over. What it waits for now is not the pool's.
#[test]
fn a_job_that_has_waited_lends_to_no_stranger_while_it_waits_for_io() {
    both(|| async {
        let (pool, gate) = (Pool::new(1), Gate::new());
        let (own, io) = (pool.clone(), gate.wait());
        let (tell, told) = oneshot::channel();
        let job = pool.try_schedule(async move {
            own.schedule(async {}).await.unwrap().await.unwrap();
            tell.send(()).unwrap();
            io.await;
        });
        soon(told).await.unwrap();
        settle().await;
        let stranger = pool.anyway_go(async {}).unwrap().into_handle();
        settle().await;
        let status = law(&pool);
        assert_eq!((status.running, status.lent, status.waiting), (1, 0, 1));
        gate.open();
        soon(job.unwrap()).await.unwrap();
        soon(stranger).await.unwrap();
        whole(&pool).await;
    });
}

/// A guard in the future of its own job keeps the slot until the job goes on. So the other job lends.
#[test]
fn a_job_lends_beside_one_that_waits_with_its_guard() {
    both(|| async {
        for (size, quota) in [(2, 9), (4, 2)] {
            for guarded_first in [true, false] {
                let (pool, gate) = (Pool::new(size), Gate::new());
                let group = pool.group_builder::<()>().quota(quota).build().unwrap();
                for is_guarded in [guarded_first, !guarded_first] {
                    let (own, members, begins) = (pool.clone(), group.clone(), gate.wait());
                    let job = group.try_schedule(async move {
                        let _slot = is_guarded.then(|| own.hold_slot().unwrap());
                        begins.await;
                        members.schedule(async {}).await.unwrap();
                    });
                    job.unwrap();
                }
                settle().await;
                gate.open();
                assert!(soon(group.wait()).await.is_success());
                assert_eq!((law(&pool).completed, law(&pool).refused), (4, 0));
                whole(&pool).await;
            }
        }
    });
}

/// The closure's wait began while its job awaited the closure. Then the job drops the closure's future and
/// waits for a child, and the last other slot vanishes.
#[test]
fn the_wait_of_a_closure_left_behind_keeps_no_slot() {
    watched(|| {
        runtime(2).block_on(async {
            let (pool, gate) = (Pool::new(2), Gate::new());
            let (held, goes) = (hold(&pool), gate.wait());
            let (own, nested) = (pool.clone(), pool.clone());
            let (tell, told) = oneshot::channel();
            let job = pool.try_schedule(async move {
                let mut closure = Box::pin(millpond::blocking(move || {
                    let waited = own.blocking_schedule(async { 1 });
                    tell.send(waited.map(drop).map_err(|error| error.kind())).unwrap();
                }));
                assert!(poll(&mut closure).is_pending());
                goes.await;
                drop(closure);
                nested.anyway_go(async { 5 }).unwrap().into_handle().await.unwrap()
            });
            let job = job.unwrap();
            eventually(|| pool.status().waiting == 1).await;
            gate.open();
            eventually(|| pool.status().waiting == 2).await;
            pool.resize(1).unwrap();
            held.release().await;
            assert_eq!(soon(job).await.unwrap(), 5);
            assert_eq!(soon(told).await.unwrap(), Ok(()));
            whole(&pool).await;
        });
    });
}

/// The slot is another job's by then, and that job can end.
#[test]
fn the_destructor_of_a_job_that_lent_its_slot_waits_like_a_stranger() {
    single(async {
        let (pool, gate) = (Pool::new(1), Gate::new());
        let (tell, told) = std::sync::mpsc::channel();
        let mut reserver = pool.reserver();
        let at_end = move || {
            tell.send(poll(&mut Box::pin(reserver.reserve())).is_pending()).unwrap();
        };
        abort_lender(&pool, gate.wait(), at_end).await;
        assert!(told.recv().unwrap(), "the wait is not refused");
        gate.open();
        whole(&pool).await;
    });
}
