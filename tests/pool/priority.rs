//! Priorities: which waiter gets a slot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::support::*;
use millpond::{JobOptions, Pool, Priority, SubmitErrorKind};

const ALL: [Priority; 5] =
    [Priority::Background, Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

/// The jobs in the order of their runs.
type Order = Arc<Mutex<Vec<(Priority, usize)>>>;

/// Commits a job that notes its run.
fn commit(pool: &Pool, order: &Order, priority: Priority, number: usize) {
    let order = order.clone();
    let job = async move { order.lock().unwrap().push((priority, number)) };
    drop(pool.with(JobOptions::new().priority(priority)).anyway_go(job).unwrap().into_handle());
}

/// What the documentation of `Priority` says, for a pool of one: the order of the runs.
fn expected(mut waiting: [VecDeque<(Priority, usize)>; 5]) -> Vec<(Priority, usize)> {
    let (mut order, mut passed) = (Vec::new(), [0; 5]);
    while waiting.iter().any(|class| !class.is_empty()) {
        let waits = |class: &usize| !waiting[*class].is_empty();
        let highest = (0..5).rev().find(waits).unwrap();
        let overdue = (0..5).filter(|class| waits(class) && passed[*class] >= 12);
        let class = overdue.max_by_key(|&class| passed[class]).unwrap_or(highest);
        order.push(waiting[class].pop_front().unwrap());
        passed[class] = 0;
        for lower in 0..class {
            passed[lower] = if waiting[lower].is_empty() { 0 } else { passed[lower] + 1 };
        }
    }
    order
}

#[test]
fn the_highest_priority_goes_first_and_each_is_first_come_first_served() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        for number in 0..3 {
            ALL.into_iter().for_each(|priority| commit(&pool, &order, priority, number));
        }
        drop(held);
        whole(&pool).await;
        let expected = ALL.into_iter().rev().flat_map(|class| (0..3).map(move |n| (class, n)));
        // Fifteen jobs pass no waiter by often enough, but for the lowest ones at the end.
        assert_eq!(order.lock().unwrap()[..9], expected.collect::<Vec<_>>()[..9]);
    });
}

/// While five priorities wait, each has a slot in sixteen at least.
#[test]
fn no_priority_starves() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        for number in 0..320 {
            commit(&pool, &order, Priority::Critical, number);
            if number < 20 {
                ALL[..4].iter().for_each(|&priority| commit(&pool, &order, priority, number));
            }
        }
        drop(held);
        whole(&pool).await;
        let order = order.lock().unwrap();
        for priority in ALL {
            let at = (0..order.len()).filter(|&place| order[place].0 == priority);
            let at: Vec<_> = at.take(20).collect();
            assert!(at[0] < 16 && at.windows(2).all(|pair| pair[1] - pair[0] <= 16), "{at:?}");
        }
    });
}

/// Random jobs that wait: the order is the one that the documentation tells.
#[test]
fn random_waiters_have_the_order_of_the_rule() {
    single(async {
        let mut seed = 42_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for round in 0..100 {
            let queue = random(8);
            let pool = Pool::builder().size(1).queue(queue).build().unwrap();
            let held = pool.reserve().await.unwrap();
            let order = Order::default();
            let mut waiting: [VecDeque<_>; 5] = Default::default();
            for number in 0..random(60) {
                // Mostly high ones, so that the others are passed by.
                let class = random(5).max(random(5));
                commit(&pool, &order, ALL[class], number);
                waiting[class].push_back((ALL[class], number));
            }
            drop(held);
            whole(&pool).await;
            assert_eq!(*order.lock().unwrap(), expected(waiting), "round {round}");
        }
    });
}

#[test]
fn callers_have_priorities_too_and_a_full_queue_of_low_ones_is_passed() {
    single(async {
        let pool = Pool::builder().size(1).queue(2).build().unwrap();
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        (0..2).for_each(|number| commit(&pool, &order, Priority::Low, number));
        let note = |priority, number| {
            let order = order.clone();
            async move { order.lock().unwrap().push((priority, number)) }
        };
        let high = pool.with(JobOptions::new().priority(Priority::High));
        assert_eq!(
            high.try_schedule(note(Priority::High, 9)).unwrap_err().kind(),
            SubmitErrorKind::Full,
            "the queue is full, and its jobs keep their promise"
        );
        let mut normal = Box::pin(pool.schedule(note(Priority::Normal, 0)));
        let mut urgent = Box::pin(high.schedule(note(Priority::High, 0)));
        assert!(poll(&mut normal).is_pending() && poll(&mut urgent).is_pending());
        drop(held);
        let (normal, urgent) = tokio::join!(normal, urgent);
        soon(async { (normal.unwrap().await.unwrap(), urgent.unwrap().await.unwrap()) }).await;
        whole(&pool).await;
        use Priority::{High, Low, Normal};
        assert_eq!(*order.lock().unwrap(), [(High, 0), (Normal, 0), (Low, 0), (Low, 1)]);
    });
}

#[test]
fn a_group_has_a_priority_for_all_its_jobs() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        commit(&pool, &order, Priority::Normal, 0);
        let options = JobOptions::new().priority(Priority::High);
        let group = pool.group_builder().options(options.clone()).build().unwrap();
        let by_view = pool.with(options).group();
        for (number, group) in [group, by_view].into_iter().enumerate() {
            let note = order.clone();
            let job = async move { note.lock().unwrap().push((Priority::High, number)) };
            let _ = group.anyway_go(job);
            group.detach();
        }
        drop(held);
        whole(&pool).await;
        let high = |number| (Priority::High, number);
        assert_eq!(*order.lock().unwrap(), [high(0), high(1), (Priority::Normal, 0)]);
    });
}
