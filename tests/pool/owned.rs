//! The verbs as futures that borrow nothing: `schedule_owned`, `try_go_owned`, `reserve_owned`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use millpond::{Pool, SubmitErrorKind};

use crate::support::{Gate, OnDrop, eventually, hold, law, multi, poll, single, soon, whole};

/// Runs the body on both flavours of the runtime.
#[track_caller]
fn both<F: Future<Output = ()> + Send + 'static>(body: fn() -> F) {
    single(body());
    multi(2, body());
}

#[test]
fn spawned_futures_wait_their_turn() {
    both(|| async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let group = pool.group();
        let schedule = tokio::spawn(pool.schedule_owned(async { 1 }));
        eventually(|| law(&pool).waiting == 1).await;
        let member = tokio::spawn(group.schedule_owned(async { 2 }));
        eventually(|| law(&pool).waiting == 2).await;
        let reserve = tokio::spawn(pool.reserve_owned());
        eventually(|| law(&pool).waiting_reservers == 1).await;
        // These two run in their own tasks.
        let in_task = soon(tokio::spawn(pool.try_go_owned(async { 3 }))).await.unwrap().unwrap();
        assert_eq!(in_task.await.unwrap(), 3);
        soon(tokio::spawn(group.try_go_owned(async { 4 }))).await.unwrap().unwrap();
        held.release().await;
        assert_eq!(soon(soon(schedule).await.unwrap().unwrap()).await.unwrap(), 1);
        soon(member).await.unwrap().unwrap();
        let slot = soon(reserve).await.unwrap().unwrap();
        assert_eq!(soon(slot.schedule(async { 5 }).unwrap()).await.unwrap(), 5);
        let values = soon(group.try_join()).await.unwrap();
        assert_eq!(values, [4, 2], "in the order of submission");
        whole(&pool).await;
    });
}

#[test]
fn they_keep_their_pool_and_their_group_open() {
    both(|| async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let group = pool.group();
        group.detach();
        let (schedule, member) = (pool.schedule_owned(async { 1 }), group.schedule_owned(async {}));
        drop(group);
        drop(pool);
        let schedule = tokio::spawn(schedule);
        let member = tokio::spawn(member);
        held.release().await;
        assert_eq!(soon(soon(schedule).await.unwrap().unwrap()).await.unwrap(), 1);
        let member = soon(member).await.unwrap().unwrap();
        eventually(|| member.is_finished()).await;
    });
}

/// The last handle of a group cancels its jobs, and a future that waits has one.
#[test]
fn a_wait_is_a_handle_of_its_group() {
    both(|| async {
        let pool = Pool::new(1);
        let (group, gate) = (pool.group(), Gate::new());
        let first = group.schedule(gate.wait()).await.unwrap();
        let member = tokio::spawn(group.schedule_owned(async {}));
        eventually(|| law(&pool).waiting == 1).await;
        drop(group);
        gate.open();
        eventually(|| first.is_finished()).await;
        assert!(law(&pool).completed >= 1, "the first job was not cancelled");
        soon(member).await.unwrap().unwrap();
        whole(&pool).await;
    });
}

#[test]
fn dropped_they_give_up_their_place_and_their_slot() {
    both(|| async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let dropped = Arc::new(AtomicBool::new(false));
        let notes = OnDrop({
            let dropped = dropped.clone();
            move || dropped.store(true, SeqCst)
        });
        let mut waits = pool.schedule_owned(async move { drop(notes) });
        assert!(poll(&mut waits).is_pending());
        let mut next = pool.schedule_owned(async { 2 });
        assert!(poll(&mut next).is_pending());
        held.release().await;
        assert!(!dropped.load(SeqCst));
        drop(waits); // with a slot that was granted
        assert!(dropped.load(SeqCst), "the job went along");
        assert_eq!(soon(soon(next).await.unwrap()).await.unwrap(), 2);
        whole(&pool).await;
    });
}

#[test]
fn they_are_refused_as_the_others_are() {
    both(|| async {
        let pool = Pool::new(1);
        let group = pool.group::<u8>();
        group.close();
        let refused = soon(group.schedule_owned(async { 1 })).await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::GroupClosed);
        let refused = soon(group.try_go_owned(async { 1 })).await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::GroupClosed);
        let held = hold(&pool);
        let waits = tokio::spawn(pool.schedule_owned(async { 2 }));
        eventually(|| law(&pool).waiting == 1).await;
        pool.close();
        let refused = soon(waits).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::Closed);
        assert_eq!(refused.into_job().await, 2);
        let refused = soon(pool.try_go_owned(async { 3 })).await.unwrap_err();
        assert_eq!(refused.kind(), SubmitErrorKind::Closed);
        assert!(soon(pool.reserve_owned()).await.unwrap_err().is_closed());
        held.release().await;
    });
}
