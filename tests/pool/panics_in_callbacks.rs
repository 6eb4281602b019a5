//! A panic in a waker or in the hook for panics harms no other job.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Poll, Wake, Waker};

use crate::support::*;
use millpond::{JobError, Pool};
use tokio_test::{assert_pending, task};

const BOOM: &str = "boom";

fn bomb() -> OnDrop<impl FnMut() + Send> {
    OnDrop(|| silent_panic(BOOM))
}

#[track_caller]
fn message(error: JobError) -> String {
    assert!(error.is_panic() && !error.is_cancelled());
    error.into_panic().unwrap().message().unwrap_or("none").to_owned()
}

struct BadWaker(AtomicUsize);

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
        silent_panic(BOOM);
    }
}

#[test]
fn in_wakers() {
    single(async {
        let pool = Pool::new(1);
        let bad = Arc::new(BadWaker(AtomicUsize::new(0)));
        let waker = Waker::from(bad.clone());
        let group = pool.group();
        let gate = Gate::new();
        group.schedule(gate.wait()).await.unwrap();
        let mut next = group.next();
        assert!(poll_for(&mut next, &waker).is_pending());
        let mut first = pool.schedule(async { 1 });
        assert!(poll_for(&mut first, &waker).is_pending());
        let mut second = pool.schedule(async { 2 });
        assert!(poll_for(&mut second, &waker).is_pending());
        let mut good = task::spawn(pool.schedule(async { 3 }));
        assert_pending!(good.poll());
        gate.open();
        settle().await;
        assert_eq!(bad.0.load(SeqCst), 2, "one of `next`, one of the first waiter");
        let Poll::Ready(Ok(mut handle)) = poll(&mut first) else { panic!("not granted") };
        assert!(poll_for(&mut handle, &waker).is_pending());
        settle().await;
        assert_eq!(bad.0.load(SeqCst), 4, "one of the handle, one of the second waiter");
        assert_eq!(handle.await.unwrap(), 1);
        // Closing wakes all, the good ones too.
        pool.close();
        assert!(good.is_woken());
        assert_eq!(second.await.unwrap().await.unwrap(), 2);
        drop(good);
        assert!(next.await.is_some());
        soon(pool.wait_idle()).await;
        assert_eq!(quiet(&pool).completed, 3);
    });
}

#[test]
fn in_the_hook() {
    single(async {
        let seen = Arc::new(AtomicUsize::new(0));
        let hook = seen.clone();
        let pool = Pool::builder()
            .size(1)
            .on_panic(move |panic| {
                assert_eq!(panic.message(), Some(BOOM));
                hook.fetch_add(1, SeqCst);
                silent_panic("the hook's own");
            })
            .build()
            .unwrap();
        let handle = pool.try_schedule(async { silent_panic(BOOM) }).unwrap();
        let error = soon(handle).await.unwrap_err();
        assert_eq!(seen.load(SeqCst), 1, "called before the handle resolves");
        assert_eq!(message(error), BOOM);
        // Detached, in the caller, withdrawn from the wait list, overflow.
        drop(pool.try_schedule(async { silent_panic(BOOM) }));
        settle().await;
        assert_eq!(seen.load(SeqCst), 2);
        let held = hold(&pool);
        drop(pool.try_go(async { silent_panic(BOOM) }).await);
        assert_eq!(seen.load(SeqCst), 3);
        let bad = bomb();
        let committed = pool.anyway_go(async move { drop(bad) }).unwrap().into_handle();
        committed.abort();
        assert_eq!(message(soon(committed).await.unwrap_err()), BOOM);
        assert_eq!(seen.load(SeqCst), 4);
        drop(pool.schedule_always(async { silent_panic(BOOM) }));
        settle().await;
        assert_eq!(seen.load(SeqCst), 5);
        held.release().await;
        whole(&pool).await;
        assert_eq!(law(&pool).panicked, 5);
    });
}
