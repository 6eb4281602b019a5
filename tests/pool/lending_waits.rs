//! Waits beside those that cannot lend.

use std::future::Future;

use crate::support::*;
use millpond::Pool;
use tokio::sync::oneshot;

/// Runs a body on both flavours.
fn both<F: Future<Output = ()> + Send + 'static>(body: impl Fn() -> F) {
    single(body());
    multi(2, body());
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
        let (own, mut reserver, inside) = (pool.clone(), pool.reserver(), gate.wait());
        let job = pool.try_schedule(async move {
            let _at_end = OnDrop(move || {
                tell.send(poll(&mut Box::pin(reserver.reserve())).is_pending()).unwrap();
            });
            own.anyway_go(inside).unwrap().into_handle().await.unwrap();
        });
        let job = job.unwrap();
        settle().await;
        assert_eq!(law(&pool).lent, 1);
        job.abort();
        assert!(soon(job).await.unwrap_err().is_cancelled());
        assert!(told.recv().unwrap(), "the wait is not refused");
        gate.open();
        whole(&pool).await;
    });
}
