//! What may cross threads, be moved, be kept; and how big it is.

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;

use millpond::future::{
    AnywayGo, Blocking, GroupSchedule, GroupScheduleOwned, GroupTryGo, GroupTryGoOwned, Next,
    Schedule, ScheduleOwned, TryGo, TryGoOwned, Wait,
};
use millpond::{
    AbortHandle, AbortOnDropHandle, ConfigError, Group, GroupBuilder, JobError, JobHandle,
    JobPanic, Outcome, PeakReader, Peaks, Pool, PoolBuilder, PoolStatus, Reserver, ShutdownReport,
    Slot, SlotGuard, SubmitError, SubmitErrorKind,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

/// Sent, but not shared: what jobs return as a rule.
type Local = Cell<u8>;
type Job = Pin<Box<dyn Future<Output = Local> + Send>>;
type Shared = Pin<Box<dyn Future<Output = Local> + Send + Sync>>;
type Pinned = (std::future::Ready<Local>, std::marker::PhantomPinned);

assert_impl_all!(Pool: Send, Sync, Unpin, Clone);
assert_impl_all!(PoolBuilder: Send, Sync, Unpin, Clone);
assert_impl_all!(Reserver: Send, Sync, Unpin, Clone);
assert_impl_all!(Slot: Send, Sync, Unpin);
assert_not_impl_any!(Slot: Clone);
assert_impl_all!(SlotGuard: Send, Sync, Unpin);
assert_not_impl_any!(SlotGuard: Clone);
assert_impl_all!(Group<Local>: Send, Sync, Unpin, Clone);
assert_impl_all!(GroupBuilder<Local>: Send, Sync, Unpin);

// Handles: for any output that may be sent.
assert_impl_all!(JobHandle<Local>: Send, Sync, Unpin, Future);
assert_impl_all!(AbortOnDropHandle<Local>: Send, Sync, Unpin, Future);
assert_impl_all!(AnywayGo<Local>: Send, Sync, Unpin, Future);
assert_impl_all!(AbortHandle: Send, Sync, Unpin, Clone);
assert_not_impl_any!(JobHandle<Local>: Clone);
assert_not_impl_any!(AbortHandle: Future);

// Futures: sent if the job is, which it must be.
assert_impl_all!(Schedule<'static, Job>: Send, Unpin, Future);
assert_impl_all!(Schedule<'static, Shared>: Sync);
assert_impl_all!(TryGo<'static, Job>: Send, Future);
assert_impl_all!(TryGo<'static, Shared>: Sync);
assert_impl_all!(GroupSchedule<'static, Job>: Send, Unpin, Future);
assert_impl_all!(GroupTryGo<'static, Job>: Send, Future);
assert_impl_all!(ScheduleOwned<Job>: Send, Unpin, Future);
assert_impl_all!(ScheduleOwned<Shared>: Sync);
assert_impl_all!(TryGoOwned<Job>: Send, Future);
assert_impl_all!(TryGoOwned<Shared>: Sync);
assert_impl_all!(GroupScheduleOwned<Job>: Send, Unpin, Future);
assert_impl_all!(GroupTryGoOwned<Job>: Send, Future);
assert_impl_all!(Wait<'static, Local>: Send, Sync, Unpin, Future);
assert_impl_all!(Next<'static, Local>: Send, Sync, Unpin, Future);
assert_impl_all!(Blocking<fn() -> Local, Local>: Send, Unpin, Future);

// Errors: good for `?` into a boxed error, whatever the job is.
assert_impl_all!(JobError: Error, Send, Sync, Unpin);
assert_impl_all!(JobPanic: Send, Sync, Unpin);
assert_impl_all!(ConfigError: Error, Send, Sync, Clone, PartialEq);
assert_impl_all!(SubmitError<Job>: Error, Send, Sync);
assert_impl_all!(SubmitError<Pinned>: Error, Send, Sync);
assert_impl_all!(SubmitError: Error, Send, Sync, Unpin);
assert_impl_all!(SubmitErrorKind: Error, Send, Sync, Copy, std::hash::Hash);
assert_impl_all!(Outcome<Local>: Send, Unpin);

assert_impl_all!(PoolStatus: Send, Sync, Copy, PartialEq, UnwindSafe, RefUnwindSafe);
assert_impl_all!(PeakReader: Send, Sync, std::fmt::Debug);
assert_impl_all!(Peaks: Send, Sync, Copy, PartialEq);
assert_impl_all!(ShutdownReport: Send, Sync, Copy, PartialEq);

#[test]
fn a_job_that_must_not_move_may_be_scheduled() {
    // It moves into the pool before its first poll: so this future is `Unpin` all the same.
    fn unpin<F: Unpin>(_: &F) {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new(1);
        let job = async {
            let local = [1u8; 64];
            tokio::task::yield_now().await;
            local.len()
        };
        let mut schedule = pool.schedule(job);
        unpin(&schedule);
        assert_eq!((&mut schedule).await.unwrap().await.unwrap(), 64);
    });
}

#[test]
fn errors_box_and_convert() {
    fn fails(pool: &Pool) -> Result<(), Box<dyn Error + Send + Sync>> {
        pool.try_schedule(async {})?.detach();
        Ok(())
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new(1);
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        assert_eq!(fails(&pool).unwrap_err().to_string(), "the pool is full");
        stuck.abort();
        pool.close();
        assert_eq!(fails(&pool).unwrap_err().to_string(), "the pool is closed");
    });
}

/// The jobs of redis, tonic and tower are boxed futures without `Sync`; a cell makes others so.
fn not_sync() -> [Job; 2] {
    let cell = async {
        let cell = Cell::new(7);
        tokio::task::yield_now().await;
        cell
    };
    [Box::pin(std::future::ready(Cell::new(7))), Box::pin(cell)]
}

/// Each verb with `?`, for jobs that are not `Sync`.
macro_rules! every_verb {
    ($pool:ident) => {
        for job in not_sync() {
            assert_eq!($pool.schedule(job).await?.await?.get(), 7);
        }
        let group = $pool.group();
        for [first, second] in [not_sync()] {
            $pool.try_schedule(first)?.await?;
            group.schedule(second).await?;
        }
        for [first, second] in [not_sync()] {
            $pool.schedule_always(first)?.await?;
            group.try_go(second).await?;
        }
        for [first, second] in [not_sync()] {
            $pool.try_go(first).await?.await?;
            group.try_schedule(second)?;
        }
        for [first, second] in [not_sync()] {
            $pool.anyway_go(first)?.await.await?;
            group.schedule_always(second)?;
        }
        for [first, second] in [not_sync()] {
            $pool.reserve().await?.schedule(first)?.await?;
            group.anyway_go(second)?;
        }
        for [first, _] in [not_sync()] {
            let mut reserver = $pool.reserver();
            reserver.reserve().await?;
            reserver.schedule(first)?.await?;
        }
        assert_eq!(group.wait().await.succeeded, 5);
    };
}

#[test]
fn refusals_of_jobs_that_are_not_sync_go_into_boxed_errors() {
    async fn boxed(pool: &Pool) -> Result<(), Box<dyn Error + Send + Sync>> {
        every_verb!(pool);
        Ok(())
    }
    async fn any(pool: &Pool) -> anyhow::Result<()> {
        every_verb!(pool);
        Ok(())
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new(16);
        boxed(&pool).await.unwrap();
        any(&pool).await.unwrap();
        pool.close();
        assert_eq!(boxed(&pool).await.unwrap_err().to_string(), "the pool is closed");
        let error = any(&pool).await.unwrap_err();
        assert_eq!(error.to_string(), "the pool is closed");
        // The job is still there, behind the box.
        let refused = error.downcast::<SubmitError<Job>>().unwrap();
        assert_eq!(refused.into_job().await.get(), 7);
    });
}

#[test]
fn a_refusal_keeps_its_reason_and_its_job() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new(1);
        let group = pool.group::<u8>();
        let held = pool.try_schedule(std::future::pending::<u8>()).unwrap();
        let full = pool.try_schedule(std::future::ready(1)).unwrap_err();
        assert!(full.is_full() && !full.is_closed());
        assert_eq!(full.map_job(|_| "other").into_parts(), (SubmitErrorKind::Full, "other"));
        group.close();
        let closed = group.try_schedule(std::future::ready(2)).unwrap_err();
        assert_eq!(closed.kind(), SubmitErrorKind::GroupClosed);
        assert!(closed.is_closed() && !closed.is_full());
        assert_eq!(closed.into_job().await, 2);
        held.abort();
        pool.close();
        let closed = pool.try_schedule(std::future::ready(3)).unwrap_err();
        assert_eq!(format!("{closed:?}"), "SubmitError { kind: Closed, .. }");
        assert!(closed.is_closed() && !closed.is_full());
    });
}

#[test]
fn each_refusal_has_a_text_of_its_own() {
    use SubmitErrorKind::*;
    let shed = Shed { retry_after: std::time::Duration::ZERO };
    let kinds = [
        Full,
        GroupFull,
        TimedOut,
        shed,
        Expired,
        Closed,
        GroupClosed,
        GroupFailed,
        RuntimeGone,
        WouldDeadlock,
    ];
    let texts: std::collections::HashSet<_> = kinds.iter().map(|kind| kind.to_string()).collect();
    assert_eq!(texts.len(), kinds.len());
    assert!(WouldDeadlock.to_string().contains("deadlock"));
    assert!(RuntimeGone.to_string().contains("runtime"));
    for kind in kinds {
        assert_eq!(kind.is_full(), matches!(kind, Full | GroupFull | TimedOut | Shed { .. }));
        assert_eq!(kind.is_closed(), !(kind.is_full() || matches!(kind, Expired | WouldDeadlock)));
    }
}

#[test]
fn sizes() {
    const WORD: usize = size_of::<usize>();
    assert_eq!(size_of::<JobHandle<[u8; 8]>>(), WORD);
    assert_eq!(size_of::<AbortHandle>(), WORD);
    assert_eq!(size_of::<Option<AbortHandle>>(), 2 * WORD);
    assert!(size_of::<Pool>() <= WORD);
    assert!(size_of::<JobError>() <= 2 * WORD);
    assert!(size_of::<SubmitErrorKind>() <= 2 * WORD);

    // A job that may wait for room is in the pool's memory. What `try_go` adds is bounded, and the
    // job is in there once.
    let big = || async {
        let buffer = [1u8; 4096];
        tokio::task::yield_now().await;
        buffer.len()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (pool, job) = (Pool::new(1), size_of_val(&big()));
    let group = pool.group();
    let waits = [
        ("schedule", size_of_val(&pool.schedule(big()))),
        ("schedule_owned", size_of_val(&pool.schedule_owned(big()))),
        ("group.schedule", size_of_val(&group.schedule(big()))),
    ];
    for (verb, size) in waits {
        assert!(size <= 12 * WORD, "{verb}: {size}");
    }
    let runs = [
        ("try_go", size_of_val(&pool.try_go(big()))),
        ("try_go_owned", size_of_val(&pool.try_go_owned(big()))),
        ("group.try_go", size_of_val(&group.try_go(big()))),
    ];
    for (verb, size) in runs {
        assert!(size >= job && size <= job + 32 * WORD, "{verb}: {job} grew to {size}");
    }
}
