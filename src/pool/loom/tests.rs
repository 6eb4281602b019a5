//! The models. Each is small, so that loom can try its interleavings.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use loom::thread;

use crate::pool::loom::{check, expect_failure, pool};
use crate::sync::set_current_shard;
use crate::{JobError, Pool, SubmitErrorKind};

/// Makes two tests of each model: the model must pass, and must fail with its failpoint switched on.
macro_rules! models {
    ($($name:ident, $broken:ident: $failpoint:literal;)*) => {$(
        #[test]
        fn $name() {
            check(models::$name);
        }

        #[test]
        fn $broken() {
            expect_failure(stringify!($name), $failpoint);
        }
    )*};
}

models! {
    a_ready_job_is_seen, a_silent_push_is_noticed: "push without wake";
    a_pending_wakeup_is_taken, a_forgotten_wakeup_is_noticed: "forget pending wakeups";
    a_wake_while_polled_is_kept, a_lost_wake_is_noticed: "suspend without recheck";
    a_handle_is_woken, an_unwoken_handle_is_noticed: "join without recheck";
    a_returned_slot_is_found, a_slot_lost_on_return_is_noticed: "scan before the flag";
    a_dropped_grant_passes_on, a_kept_grant_is_noticed: "keep the grant";
    close_notifies_waiting_callers, an_unnotified_caller_is_noticed: "close without notifying";
    a_group_sees_its_last_job, a_missed_last_job_is_noticed: "wait without recheck";
    a_reserved_slot_passes_on, a_slot_released_without_recheck_is_noticed: "release without recheck";
    a_lent_slot_comes_back, a_slot_never_lent_is_noticed: "never lend";
    a_dropped_handle_drops_the_output, a_kept_output_is_noticed: "complete without the dropped handle";
    a_nested_submit_is_given_back, a_hasty_return_is_noticed: "taken back before it is given back";
    a_held_slot_is_freed_once, a_forgotten_guard_is_noticed: "guard released without recheck";
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

mod models {
    use super::*;

    /// A job on the only slot awaits a job of its own pool, whose start and end race with the wait.
    pub(crate) fn a_lent_slot_comes_back() {
        let pool = pool(1, 1, 0);
        let own = pool.clone();
        let outer = pool.try_schedule(async move {
            own.anyway_go(async { 1 }).unwrap().into_handle().await.unwrap()
        });
        assert_eq!(block_on(outer.unwrap()).unwrap(), 1);
        assert_eq!(pool.status().lent, 0);
    }

    /// A job that is pushed while the worker parks still runs.
    pub(crate) fn a_ready_job_is_seen() {
        let pool = pool(1, 2, 0);
        let first = pool.try_schedule(async { 1 }).unwrap();
        let second = pool.try_schedule(async { 2 }).unwrap();
        assert_eq!(block_on(second).unwrap(), 2);
        assert_eq!(block_on(first).unwrap(), 1);
    }

    /// One worker serves two shards. A wake-up that finds it busy stays pending.
    pub(crate) fn a_pending_wakeup_is_taken() {
        let pool = pool(2, 2, 0);
        pool.shared().workers.resize(1);
        let here = pool.try_schedule(async { 1 }).unwrap();
        let other = {
            let pool = pool.clone();
            thread::spawn(move || {
                set_current_shard(1);
                block_on(pool.try_schedule(async { 2 }).unwrap()).unwrap()
            })
        };
        assert_eq!(other.join().unwrap(), 2);
        assert_eq!(block_on(here).unwrap(), 1);
    }

    /// A waker is called by another thread while its job is polled, suspended or ready.
    pub(crate) fn a_wake_while_polled_is_kept() {
        let pool = pool(1, 1, 0);
        let gate = Arc::new((loom::sync::Mutex::new(None::<Waker>), AtomicUsize::new(0)));
        let opener = {
            let gate = gate.clone();
            thread::spawn(move || {
                gate.1.store(1, Release);
                let waker = gate.0.lock().unwrap().take();
                waker.into_iter().for_each(Waker::wake);
            })
        };
        let job = poll_fn(move |cx| {
            *gate.0.lock().unwrap() = Some(cx.waker().clone());
            if gate.1.load(Acquire) == 1 { Poll::Ready(7) } else { Poll::Pending }
        });
        assert_eq!(block_on(pool.try_schedule(job).unwrap()).unwrap(), 7);
        opener.join().unwrap();
    }

    /// A job ends while its handle is polled and another thread aborts it: there is one outcome.
    pub(crate) fn a_handle_is_woken() {
        let pool = pool(1, 1, 0);
        let handle = pool.try_schedule(async { 3 }).unwrap();
        let abort = handle.abort_handle();
        let aborter = thread::spawn(move || abort.abort());
        match block_on(handle) {
            Ok(value) => assert_eq!(value, 3),
            Err(error) => assert!(error.is_cancelled()),
        }
        aborter.join().unwrap();
        // The slot was released before the handle resolved.
        assert_eq!(pool.status().running, 0);
    }

    /// A handle is dropped while its job ends, and an abort handle keeps the cell: the output is dropped
    /// all the same, once.
    pub(crate) fn a_dropped_handle_drops_the_output() {
        struct Output(Arc<AtomicUsize>);

        impl Drop for Output {
            fn drop(&mut self) {
                self.0.fetch_add(1, AcqRel);
            }
        }

        let pool = pool(1, 1, 0);
        let drops = Arc::new(AtomicUsize::new(0));
        let output = Output(drops.clone());
        let handle = pool.try_schedule(async move { output }).unwrap();
        let abort = handle.abort_handle();
        drop(handle);
        while drops.load(Acquire) == 0 {
            thread::yield_now();
        }
        drop((pool, abort));
        assert_eq!(drops.load(Acquire), 1);
    }

    /// Two callers in two shards want one slot: their jobs never run at once, and both run.
    pub(crate) fn a_returned_slot_is_found() {
        let pool = pool(2, 1, 0);
        let running = Arc::new(AtomicUsize::new(0));
        let submit = |pool: Pool, running: Arc<AtomicUsize>| {
            let job = async move {
                assert_eq!(running.fetch_add(1, AcqRel), 0, "two jobs hold one slot");
                running.fetch_sub(1, AcqRel);
            };
            block_on(block_on(pool.schedule(job)).unwrap()).unwrap();
        };
        let other = {
            let (pool, running) = (pool.clone(), running.clone());
            thread::spawn(move || {
                set_current_shard(1);
                submit(pool, running);
            })
        };
        submit(pool.clone(), running);
        other.join().unwrap();
        assert_eq!(pool.status().completed, 2);
    }

    /// A caller that is dropped while a slot is granted to it passes the slot on.
    pub(crate) fn a_dropped_grant_passes_on() {
        let pool = pool(1, 1, 0);
        let first = pool.try_schedule(async {}).unwrap();
        {
            let mut fickle = pool.schedule(async {});
            let _ = poll_once(&mut fickle);
            // The caller is dropped here: still waiting, or granted a slot.
        }
        block_on(first).unwrap();
        let last = block_on(pool.schedule(async { 5 })).unwrap();
        assert_eq!(block_on(last).unwrap(), 5);
    }

    /// A caller that waits while another thread closes the pool gets its job back.
    pub(crate) fn close_notifies_waiting_callers() {
        let pool = pool(1, 1, 0);
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let closer = {
            let pool = pool.clone();
            thread::spawn(move || pool.close())
        };
        assert!(block_on(pool.schedule(async {})).is_err());
        closer.join().unwrap();
        assert_eq!(pool.try_schedule(async {}).unwrap_err().kind(), SubmitErrorKind::Closed);
        stuck.abort();
        assert!(matches!(block_on(stuck), Err(JobError::Cancelled)));
    }

    /// A job on the only slot submits a job, whose start races with a close: the job starts, or its
    /// submitter gets it back.
    pub(crate) fn a_nested_submit_is_given_back() {
        let pool = pool(1, 1, 0);
        let own = pool.clone();
        let outer = pool.try_schedule(async move {
            match own.schedule(async { 7 }).await {
                Ok(handle) => handle.await.unwrap(),
                Err(error) => {
                    assert_eq!(error.kind(), SubmitErrorKind::Closed);
                    error.into_job().await
                }
            }
        });
        let closer = {
            let pool = pool.clone();
            thread::spawn(move || pool.close())
        };
        assert_eq!(block_on(outer.unwrap()).unwrap(), 7);
        closer.join().unwrap();
        let status = pool.status();
        assert_eq!((status.waiting, status.lent, status.running), (0, 0, 0));
    }

    /// A reserver is dropped with its slot while another caller comes for the slot.
    pub(crate) fn a_reserved_slot_passes_on() {
        let pool = pool(2, 1, 0);
        let mut reserver = pool.reserver();
        reserver.try_reserve().unwrap();
        let other = thread::spawn(move || {
            set_current_shard(1);
            drop(reserver);
        });
        let job = block_on(pool.schedule(async { 5 })).unwrap();
        assert_eq!(block_on(job).unwrap(), 5);
        other.join().unwrap();
        assert_eq!(pool.status().reserved, 0);
    }

    /// A job ends while another thread drops the guard of its slot: the slot is released once.
    pub(crate) fn a_held_slot_is_freed_once() {
        let pool = pool(1, 1, 0);
        let inside = pool.clone();
        let job = pool.try_schedule(async move {
            let slot = inside.hold_slot();
            thread::spawn(move || drop(slot));
        });
        block_on(job.unwrap()).unwrap();
        let next = block_on(pool.schedule(async { 5 })).unwrap();
        assert_eq!(block_on(next).unwrap(), 5);
        let (first, second) = (pool.reserver().try_reserve(), pool.status());
        assert!(first.is_ok());
        assert_eq!((second.held_slots, second.running), (0, 0));
    }

    /// A group's last job ends while the group is waited for.
    pub(crate) fn a_group_sees_its_last_job() {
        let pool = pool(1, 2, 0);
        let group = pool.group::<u8>();
        group.try_schedule(async { 1 }).unwrap();
        group.try_schedule(async { 2 }).unwrap();
        assert_eq!(block_on(group.wait()).succeeded, 2);
        assert_eq!(block_on(group.try_join()).unwrap(), [1, 2]);
    }
}
