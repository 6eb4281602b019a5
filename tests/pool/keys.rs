//! Keys: the tenants that wait take turns. The shares are measured on a simulated clock.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use futures_util::future::join_all;
use millpond::{JobError, JobOptions, Pool, Priority, SubmitErrorKind};
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep, sleep_until};

const MS: Duration = Duration::from_millis(1);

/// The jobs in the order of their runs, each by a number of its own and its key.
type Order = Arc<Mutex<Vec<(u64, u64)>>>;

fn note(order: &Order, key: u64, number: u64) -> impl Future<Output = ()> + Send + 'static {
    let order = order.clone();
    async move { order.lock().unwrap().push((key, number)) }
}

fn with(key: u64) -> JobOptions {
    JobOptions::new().key(key)
}

fn commit(pool: &Pool, order: &Order, options: JobOptions, key: u64, number: u64) {
    let job = note(order, key, number);
    drop(pool.with(options).anyway_go(job).unwrap().into_handle());
}

fn keys_of(order: &Order) -> Vec<u64> {
    order.lock().unwrap().iter().map(|&(key, _)| key).collect()
}

async fn takes_turns(queue: usize) {
    let pool = Pool::builder().size(1).queue(queue).build().unwrap();
    let held = pool.reserve().await.unwrap();
    let order = Order::default();
    for number in 0..6 {
        commit(&pool, &order, with(1), 1, number);
    }
    (0..2).for_each(|number| commit(&pool, &order, with(2), 2, number));
    let mut caller = Box::pin(pool.with(with(3)).schedule_owned(note(&order, 3, 0)));
    assert!(poll(&mut caller).is_pending());
    drop(held);
    soon(soon(caller).await.unwrap()).await.unwrap();
    whole(&pool).await;
    let expected = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2), (1, 3), (1, 4), (1, 5)];
    assert_eq!(*order.lock().unwrap(), expected, "queue of {queue}");
}

#[test]
fn keys_take_turns_and_each_is_first_come_first_served() {
    for queue in [0, 3] {
        single(takes_turns(queue));
        multi(2, takes_turns(queue));
    }
}

#[test]
fn all_jobs_without_a_key_are_one_key() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        (0..4).for_each(|number| commit(&pool, &order, JobOptions::new(), 0, number));
        (0..2).for_each(|number| commit(&pool, &order, with(7), 7, number));
        let mut slot = Box::pin(pool.reserve());
        assert!(poll(&mut slot).is_pending());
        commit(&pool, &order, with(7), 7, 2);
        drop(held);
        let slot = soon(slot).await.unwrap();
        let expected = [(7, 0), (0, 0), (7, 1), (0, 1), (7, 2), (0, 2), (0, 3)];
        assert_eq!(*order.lock().unwrap(), expected, "a reserver has no key");
        drop(slot);
        whole(&pool).await;
    });
}

#[test]
fn a_key_has_a_turn_in_each_of_its_priorities() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        for (priority, number) in [(Priority::Normal, 0), (Priority::High, 10)] {
            for (key, nth) in [(1, 0), (1, 1), (2, 0)] {
                commit(&pool, &order, with(key).priority(priority), key, number + nth);
            }
        }
        drop(held);
        whole(&pool).await;
        let expected = [(1, 10), (2, 10), (1, 11), (1, 0), (2, 0), (1, 1)];
        assert_eq!(*order.lock().unwrap(), expected);
    });
}

#[test]
fn an_expired_job_leaves_its_turn() {
    paused(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        let hasty = pool.with(with(1).timeout(10 * MS));
        let late = hasty.anyway_go(note(&order, 1, 0)).unwrap().into_handle();
        let caller = hasty.schedule(note(&order, 1, 1));
        commit(&pool, &order, with(2), 2, 0);
        commit(&pool, &order, with(1), 1, 2);
        assert_eq!(caller.await.unwrap_err().kind(), SubmitErrorKind::Expired);
        assert!(matches!(late.await, Err(JobError::Expired)));
        drop(held);
        whole(&pool).await;
        // The first key has not lost its place.
        assert_eq!(*order.lock().unwrap(), [(1, 2), (2, 0)]);
    });
}

#[test]
fn waiters_that_go_away_leave_nothing() {
    single(async {
        let pool = Pool::builder().size(2).queue(5).build().unwrap();
        for round in 0..20 {
            let held = [pool.reserve().await.unwrap(), pool.reserve().await.unwrap()];
            (0..5).for_each(|_| drop(pool.try_schedule(async {}).unwrap()));
            let order = Order::default();
            let mut callers: Vec<_> = (0..2_000)
                .map(|number| {
                    let key = number % (1 + 97 * round);
                    let caller = pool.with(with(key)).schedule_owned(note(&order, key, number));
                    Box::pin(unconstrained(caller))
                })
                .collect();
            callers.iter_mut().for_each(|caller| assert!(poll(caller).is_pending()));
            let mut random = Dice::new(round);
            while callers.len() > 10 {
                drop(callers.swap_remove(random.below(callers.len() as u64) as usize));
            }
            let status = law(&pool);
            assert_eq!(status.waiting, 10, "{round}: {status:?}");
            drop(held);
            for handle in soon(join_all(callers)).await {
                soon(handle.unwrap()).await.unwrap();
            }
            whole(&pool).await;
        }
    });
}

#[test]
fn a_group_has_a_key_for_all_its_jobs() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        (0..3).for_each(|number| commit(&pool, &order, with(1), 1, number));
        let group = pool.group_builder().options(with(2)).build().unwrap();
        for number in 0..2 {
            let _ = group.anyway_go(note(&order, 2, number));
        }
        drop(held);
        assert!(soon(group.wait()).await.is_success());
        whole(&pool).await;
        assert_eq!(*order.lock().unwrap(), [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
    });
}

#[test]
fn all_waiters_with_keys_can_be_cancelled_or_refused() {
    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        (0..100).for_each(|number| commit(&pool, &order, with(number % 7), 0, number));
        assert_eq!(pool.cancel_waiting(), 100);
        (0..10).for_each(|number| commit(&pool, &order, with(number), number, 0));
        let mut caller = Box::pin(pool.with(with(3)).schedule_owned(note(&order, 3, 1)));
        assert!(poll(&mut caller).is_pending());
        pool.close();
        assert_eq!(soon(caller).await.unwrap_err().kind(), SubmitErrorKind::Closed);
        drop(held);
        soon(pool.wait_idle()).await;
        assert_eq!(keys_of(&order), (0..10).collect::<Vec<_>>());
        quiet(&pool);
    });
}

/// A job that waits for a job of its own lends its slot, whatever keys wait.
#[test]
fn a_nested_wait_with_keys_ends() {
    single(async {
        let pool = Pool::new(1);
        let own = pool.clone();
        let outer = pool.with(with(1)).try_schedule(async move {
            let others: Vec<_> = (0..5)
                .map(|number| own.with(with(number)).anyway_go(async {}).unwrap().into_handle())
                .collect();
            own.with(with(1)).schedule(async { 7 }).await.unwrap().await.unwrap();
            for other in others {
                other.await.unwrap();
            }
        });
        soon(outer.unwrap()).await.unwrap();
        whole(&pool).await;
    });
}

#[cfg(feature = "tower")]
#[test]
fn a_layer_takes_the_key_from_the_request() {
    use millpond::layer::PoolLayer;
    use tower::{Layer, ServiceExt, service_fn};

    single(async {
        let pool = Pool::new(1);
        let held = pool.reserve().await.unwrap();
        let order = Order::default();
        let seen = order.clone();
        let layer = PoolLayer::schedule_within(&pool, Duration::from_secs(60))
            .options(|&(tenant, _): &(u64, u64)| with(tenant));
        let service = layer.layer(service_fn(move |request: (u64, u64)| {
            seen.lock().unwrap().push(request);
            async { Ok::<_, std::io::Error>(()) }
        }));
        let calls = [(1, 0), (1, 1), (1, 2), (2, 0)];
        let mut calls: Vec<_> = calls.map(|call| Box::pin(service.clone().oneshot(call))).into();
        calls.iter_mut().for_each(|call| assert!(poll(call).is_pending()));
        drop(held);
        assert!(soon(join_all(calls)).await.iter().all(Result::is_ok));
        assert_eq!(*order.lock().unwrap(), [(1, 0), (2, 0), (1, 1), (1, 2)]);
        whole(&pool).await;
    });
}

// ----- shares, on a simulated clock -----

const SERVICE: Duration = Duration::from_millis(20);
const SIZE: usize = 8;
const TENANTS: u64 = 1_000;

/// The waits of the jobs that began within the time, and the callers that were refused, by tenant.
#[derive(Debug, Default)]
struct Day {
    offered: HashMap<u64, usize>,
    waits: HashMap<u64, Vec<Duration>>,
    refused: HashMap<u64, usize>,
}

impl Day {
    fn p99(&self, of: impl Fn(u64) -> bool) -> Duration {
        let waits = self.waits.iter().filter(|&(&tenant, _)| of(tenant));
        let mut waits: Vec<_> = waits.flat_map(|(_, waits)| waits.iter().copied()).collect();
        waits.sort();
        waits[waits.len() * 99 / 100]
    }

    fn served(&self, of: impl Fn(u64) -> bool) -> f64 {
        let waits = self.waits.iter().filter(|&(&tenant, _)| of(tenant));
        waits.map(|(_, waits)| waits.len()).sum::<usize>() as f64
    }

    fn offered(&self, of: impl Fn(u64) -> bool) -> f64 {
        let offered = self.offered.iter().filter(|&(&tenant, _)| of(tenant));
        offered.map(|(_, offered)| offered).sum::<usize>() as f64
    }
}

/// Offers the jobs of the tenants at random moments for a time: all but the first one have together `load`
/// times the pool's capacity, and the first one is a flood of so many of them.
async fn offer(pool: Pool, load: f64, flood: f64, time: Duration, keyed: bool) -> Day {
    let day = Arc::default();
    let others = stream(&pool, load, 1..TENANTS, time, keyed, &day);
    // The others do the same on each day.
    let flood = stream(&pool, load * flood / TENANTS as f64, 0..1, time, keyed, &day);
    let ((), ()) = tokio::join!(others, flood);
    std::mem::take(&mut day.lock().unwrap())
}

async fn stream(
    pool: &Pool,
    load: f64,
    tenants: Range<u64>,
    time: Duration,
    keyed: bool,
    day: &Arc<Mutex<Day>>,
) {
    let gap = SERVICE.div_f64(SIZE as f64 * load);
    let start = Instant::now();
    let (mut dice, mut callers, mut at) = (Dice::new(tenants.end + 1), JoinSet::new(), start);
    loop {
        let uniform = (dice.below(1 << 30) + 1) as f64 / (1_u64 << 30) as f64;
        at += gap.mul_f64(-uniform.ln());
        if at >= start + time {
            break;
        }
        sleep_until(at).await;
        let tenant = tenants.start + dice.below(tenants.end - tenants.start);
        *day.lock().unwrap().offered.entry(tenant).or_default() += 1;
        let (pool, day) = (pool.clone(), day.clone());
        callers.spawn(async move {
            let (called, seen) = (Instant::now(), day.clone());
            let job = async move {
                let waited = called.elapsed();
                if start.elapsed() <= time {
                    seen.lock().unwrap().waits.entry(tenant).or_default().push(waited);
                }
                sleep(SERVICE).await;
            };
            let options = if keyed { with(tenant) } else { JobOptions::new() };
            match pool.with(options).schedule(job).await {
                Ok(handle) => handle.await.unwrap(),
                Err(refused) => {
                    assert!(matches!(refused.kind(), SubmitErrorKind::Shed { .. }), "{refused}");
                    *day.lock().unwrap().refused.entry(tenant).or_default() += 1;
                }
            }
        });
    }
    sleep_until(start + time).await;
    callers.shutdown().await;
}

fn is_other(tenant: u64) -> bool {
    tenant != 0
}

/// One tenant of a thousand sends so many times as much as before. The p99 of the others is at most `bound`
/// times as long.
fn flooded(target: Option<Duration>, flood: f64, bound: f64) {
    const TIME: Duration = Duration::from_secs(20);
    const LOAD: f64 = 0.85;
    paused(async move {
        let pool = || Pool::builder().size(SIZE).target_wait(target).build().unwrap();
        let quiet = offer(pool(), LOAD, 1.0, TIME, true).await.p99(is_other);
        let day = offer(pool(), LOAD, flood, TIME, true).await;
        let p99 = day.p99(is_other);
        assert!(p99 <= quiet.mul_f64(bound), "{p99:?} beside {quiet:?}");
        // The others have what they ask for, and the flood has the rest of the pool.
        let share = day.served(is_other) / day.offered(is_other);
        assert!(share >= 0.95, "{share}");
        let possible = day.offered(|_| true).min(TIME.as_secs_f64() * 400.0);
        let served = day.served(|_| true);
        assert!(served >= 0.95 * possible, "{served} of {possible}");
    });
}

#[test]
fn a_flood_of_one_tenant_costs_the_others_little() {
    flooded(None, 100.0, 1.5);
    flooded(Some(50 * MS), 100.0, 1.5);
}

/// A tenant that sends nearly as much as the pool can do, beside the others.
#[test]
fn a_larger_flood_takes_what_the_others_leave() {
    flooded(None, 1_000.0, 1.75);
    flooded(Some(50 * MS), 1_000.0, 1.75);
}

/// What the keys are for: without them, the flood takes the others' share.
#[test]
fn a_flood_without_keys_costs_the_others_much() {
    paused(async {
        let pool = Pool::new(SIZE);
        let day = offer(pool, 0.9, 1_000.0, Duration::from_secs(5), false).await;
        let share = day.served(is_other) / day.offered(is_other);
        assert!(share < 0.8, "{share}");
    });
}

/// Ten tenants that always wait, with lines of 8 to 4,096 callers.
#[test]
fn tenants_that_always_wait_have_equal_shares() {
    paused(async {
        let pool = Pool::new(SIZE);
        let done = Arc::new(Mutex::new([0; 10]));
        let mut callers = JoinSet::new();
        for tenant in 0..10 {
            for _ in 0..SIZE << tenant {
                let (pool, done) = (pool.clone(), done.clone());
                callers.spawn(async move {
                    loop {
                        let done = done.clone();
                        let job = async move {
                            sleep(SERVICE).await;
                            done.lock().unwrap()[tenant] += 1;
                        };
                        drop(pool.with(with(tenant as u64)).schedule(job).await.unwrap());
                    }
                });
            }
        }
        sleep(Duration::from_secs(20)).await;
        let done = *done.lock().unwrap();
        callers.shutdown().await;
        let fair = done.iter().sum::<usize>() / 10;
        let is_fair = |&jobs: &usize| (fair * 95..fair * 105).contains(&(jobs * 100));
        assert!(fair > 700 && done.iter().all(is_fair), "{done:?}");
        whole(&pool).await;
    });
}

/// Under overload, callers are refused for the line of their own key.
#[test]
fn a_flood_is_refused_and_the_others_are_not() {
    const TIME: Duration = Duration::from_secs(5);
    paused(async {
        let pool = Pool::builder().size(SIZE).target_wait(20 * MS).build().unwrap();
        let day = Arc::default();
        let others = stream(&pool, 0.5, 1..TENANTS, TIME, true, &day);
        let flood = stream(&pool, 10.0, 0..1, TIME, true, &day);
        tokio::join!(others, flood);
        let day = std::mem::take(&mut *day.lock().unwrap());
        assert!(day.refused[&0] > 10_000, "{:?}", day.refused[&0]);
        // Of the others, at most a tenant that asks twice at once.
        let others: usize =
            day.refused.iter().filter(|(tenant, _)| is_other(**tenant)).map(|(_, n)| n).sum();
        assert!(others as f64 <= 0.005 * day.offered(is_other), "{others} of the others");
        let p99 = day.p99(is_other);
        assert!(p99 <= 40 * MS, "{p99:?}");
        let busy = day.served(|_| true) / (TIME.as_secs_f64() * 400.0);
        assert!(busy >= 0.95, "{busy}");
        // The newest caller of the flood comes first, so the waits of those that are served are short.
        let p99 = day.p99(|tenant| tenant == 0);
        assert!(p99 <= 60 * MS, "{p99:?}");
        whole(&pool).await;
    });
}
