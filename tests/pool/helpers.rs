//! The helpers of the tests see a wake-up that is lost.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use crate::support::patience::{Patience, TICK, sleep};
use crate::support::*;

/// A future that is ready at its second poll, and wakes no task.
fn silent() -> impl Future<Output = ()> + Send {
    let mut polls = 0;
    poll_fn(move |_| {
        polls += 1;
        if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
    })
}

#[test]
fn a_silent_future_hangs() {
    watched(|| {
        let clock = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let hangs = catch_unwind(AssertUnwindSafe(|| clock.block_on(soon(silent()))));
        let panic = hangs.expect_err("the helper polled a future that woke no task");
        assert!(panic.downcast_ref::<String>().unwrap().starts_with("hangs: "), "{panic:?}");
    });
}

#[test]
fn a_silent_future_beside_others_that_wake() {
    let body = || async {
        let limit = Duration::from_millis(20);
        let (restless, silent) = tokio::join!(
            async {
                for _ in 0..10 {
                    tokio::time::sleep(limit / 8).await;
                }
            },
            within(limit, silent()),
        );
        assert_eq!((restless, silent), ((), None));
        assert_eq!(within(limit, std::future::ready(1)).await, Some(1));
    };
    single(body());
    multi(2, body());
}

#[test]
fn a_future_that_moves_between_tasks_is_woken() {
    single(async {
        let (send, receive) = tokio::sync::oneshot::channel();
        let mut receive = woken(receive);
        assert!(poll(&mut receive).is_pending());
        let task = tokio::spawn(soon(receive));
        settle().await;
        send.send(7).unwrap();
        assert_eq!(soon(task).await.unwrap(), Ok(7));
    });
}

#[test]
fn a_standstill_costs_little_patience() {
    watched(|| {
        let limit = Duration::from_millis(100);
        let mut patience = Patience::new(limit);
        std::thread::sleep(limit * 2);
        assert!(patience.lasts());
        let asked = (0..).take_while(|_| patience.lasts()).map(|_| std::thread::sleep(TICK));
        assert!(asked.count() < 10, "80 ms were left, and each tick takes 10 or more");
    });
}

#[test]
fn a_paused_clock_costs_patience() {
    paused(async {
        let start = tokio::time::Instant::now();
        sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() >= Duration::from_secs(1));
    });
}
