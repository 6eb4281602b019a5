//! The layer keeps the contract of tower's `Service`.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::probe::{Ask, Fault, Mood, Probe, every_verb};
use crate::support::*;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer, PoolService};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::util::BoxService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_test::{assert_request_eq, mock};

fn ready<S: Service<Ask>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_service_that_was_ready_is_the_one_called() {
    single(async {
        let pool = Pool::new(2);
        for layer in every_verb(&pool) {
            let mut service = layer.layer(Probe::open());
            for n in 0..3 {
                assert_eq!(service.ready().await.unwrap().call(Ask::Echo(n)).await.unwrap(), n);
                let mut clone = service.clone();
                assert_eq!(clone.ready().await.unwrap().call(Ask::Echo(n)).await.unwrap(), n);
            }
        }
        whole(&pool).await;
    });
}

#[test]
fn a_clone_has_no_readiness() {
    single(async {
        let pool = Pool::new(1);
        let mut service = PoolLayer::schedule(&pool).layer(Probe::open());
        assert!(ready(&mut service).is_ready());
        assert!(ready(&mut service).is_ready(), "and keeps its own");
        assert_eq!(law(&pool).reserved, 1);
        let mut clone = service.clone();
        assert!(ready(&mut clone).is_pending());
        let called = catch_unwind(AssertUnwindSafe(|| drop(clone.call(Ask::Echo(1)))));
        assert!(called.is_err());
        assert_eq!(service.call(Ask::Echo(2)).await.unwrap(), 2);
        drop(clone);
        whole(&pool).await;
    });
}

/// A future of at most two lines of the cache is moved in place. A larger one goes through `memmove`, which
/// waits for what was just written: a refusal took half as long again.
#[test]
fn a_response_is_small() {
    single(async {
        let pool = Pool::new(1);
        let mut service = PoolLayer::try_schedule(&pool).layer(Probe::open());
        let response = service.ready().await.unwrap().call(Ask::Echo(1));
        assert!(size_of_val(&response) <= 128, "{}", size_of_val(&response));
        assert_eq!(response.await.unwrap(), 1);
    });
}

#[test]
fn what_was_reserved_is_given_back() {
    single(async {
        let pool = Pool::new(1);
        let make = || PoolLayer::schedule(&pool).layer(Probe::gated());
        // Dropped with the service.
        let mut service = make();
        assert!(ready(&mut service).is_ready());
        drop(service);
        whole(&pool).await;
        let mut service = make();
        assert!(ready(&mut service).is_ready());
        drop(service.into_inner());
        whole(&pool).await;
        // Dropped with the response future, before and after its first poll.
        for polled in [false, true] {
            let mut service = make();
            assert!(ready(&mut service).is_ready());
            let mut call = Box::pin(service.call(Ask::Echo(1)));
            if polled {
                assert!(poll(&mut call).is_pending());
                settle().await;
                assert_eq!(law(&pool).running, 1);
            }
            drop(call);
            whole(&pool).await;
        }
        // In the wait list.
        let held = hold(&pool);
        let mut service = make();
        assert!(ready(&mut service).is_pending());
        drop(service);
        assert_eq!(law(&pool).waiting, 0);
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn an_inner_service_that_is_not_ready_is_waited_for() {
    single(async {
        let pool = Pool::new(1);
        for layer in every_verb(&pool) {
            let probe = Probe::open();
            let twin = probe.twin();
            let mut service = task::spawn(layer.layer(probe));
            twin.set_mood(Mood::Pending);
            assert!(service.enter(|cx, mut service| service.poll_ready(cx)).is_pending());
            twin.set_mood(Mood::Ready);
            assert!(service.is_woken());
            assert!(service.enter(|cx, mut service| service.poll_ready(cx)).is_ready());
            assert_eq!(service.call(Ask::Echo(9)).await.unwrap(), 9);
            // An error of the wrapped service passes through and releases the slot.
            twin.set_mood(Mood::Fails);
            let failed = service.ready().await.err().unwrap();
            assert!(matches!(failed, CallError::Inner(Fault("not ready"))));
            assert_eq!(law(&pool).reserved, 0);
        }
        whole(&pool).await;
    });
}

#[test]
fn a_panic_of_poll_ready_is_the_callers_but_loses_no_slot() {
    single(async {
        let pool = Pool::new(1);
        for layer in every_verb(&pool) {
            let probe = Probe::open();
            probe.set_mood(Mood::Panics);
            let mut service = layer.layer(probe);
            assert!(catch_unwind(AssertUnwindSafe(|| ready(&mut service))).is_err());
            drop(service);
            whole(&pool).await;
        }
    });
}

#[test]
fn busy_is_never_an_error_of_poll_ready() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        for (n, layer) in every_verb(&pool).into_iter().enumerate() {
            let mut service = layer.layer(Probe::open());
            match ready(&mut service) {
                Poll::Pending => assert_eq!(n, 0, "only `schedule` waits there"),
                Poll::Ready(ready) => ready.unwrap(),
            }
        }
        held.release().await;
        whole(&pool).await;
    });
}

#[test]
fn a_mock_sees_one_readiness_and_one_call() {
    single(async {
        let pool = Pool::new(1);
        let (mut service, mut handle) = mock::spawn_layer(PoolLayer::schedule(&pool));
        handle.allow(0);
        assert_pending!(service.poll_ready());
        handle.allow(1);
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(1_u32));
        assert_pending!(response.poll());
        assert_request_eq!(handle, 1).send_response(2_u32);
        settle().await;
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), 2);
    });
}

#[test]
fn clones_wait_first_come_first_served() {
    single(async {
        let pool = Pool::builder().size(1).target_wait(None).build().unwrap();
        let held = hold(&pool);
        let layer = PoolLayer::schedule(&pool);
        let service = layer.layer(Probe::open());
        let mut waiting: Vec<_> = (0..8).map(|_| task::spawn(service.clone())).collect();
        for clone in &mut waiting {
            assert!(clone.enter(|cx, mut service| service.poll_ready(cx)).is_pending());
        }
        held.release().await;
        for n in 0..8 {
            settle().await;
            let woken: Vec<_> = waiting.iter().map(|clone| clone.is_woken()).collect();
            assert_eq!(woken.iter().position(|&woken| woken), Some(0), "at {n}: {woken:?}");
            assert_eq!(woken.iter().filter(|&&woken| woken).count(), 1, "at {n}: {woken:?}");
            let mut clone = waiting.remove(0);
            assert!(clone.enter(|cx, mut service| service.poll_ready(cx)).is_ready());
            clone.call(Ask::Echo(n)).await.unwrap();
        }
    });
}

#[test]
fn many_clones_at_once_admit_no_more_than_the_size() {
    multi(2, async {
        let pool = Pool::new(10);
        // The verbs that keep to the size, all on one pool.
        let probe = Probe::open();
        let layers = [
            PoolLayer::schedule(&pool),
            PoolLayer::schedule_within(&pool, Duration::from_secs(60)),
            PoolLayer::try_schedule(&pool),
            PoolLayer::anyway_go(&pool),
        ];
        let services: Vec<_> = layers.iter().map(|layer| layer.layer(probe.clone())).collect();
        let callers: Vec<_> = (0..64)
            .map(|n| {
                let mut service = services[n % services.len()].clone();
                tokio::spawn(async move {
                    let mut shed = 0;
                    for n in 0..200 {
                        match service.ready().await.unwrap().call(Ask::Echo(n)).await {
                            Ok(answer) => assert_eq!(answer, n),
                            Err(CallError::Overloaded) => shed += 1,
                            Err(error) => panic!("{error}"),
                        }
                        tokio::task::yield_now().await;
                    }
                    shed
                })
            })
            .collect();
        let mut shed = 0;
        for caller in callers {
            shed += caller.await.unwrap();
        }
        drop(services);
        whole(&pool).await;
        assert!(probe.inside().peak() <= 10, "{}", probe.inside().peak());
        assert_eq!(probe.inside().total() + shed, 64 * 200);
    });
}

#[test]
fn waiting_polls_nobody() {
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    paused(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut service = PoolLayer::schedule(&pool).layer(Probe::open());
        assert!(service.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        let within = PoolLayer::schedule_within(&pool, Duration::from_secs(3_600));
        let mut within = within.layer(Probe::open());
        let mut call = Box::pin(within.ready().await.unwrap().call(Ask::Echo(1)));
        assert!(poll_for(&mut call, &waker).is_pending());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(count.0.load(SeqCst), 0, "woken for nothing");
        held.release().await;
        settle().await;
        assert_eq!(count.0.load(SeqCst), 1);
    });
}

#[test]
fn a_spent_budget_is_no_overload() {
    single(async {
        let pool = Pool::new(1);
        let layers = [
            PoolLayer::try_schedule(&pool),
            PoolLayer::schedule_within(&pool, Duration::ZERO),
            PoolLayer::schedule(&pool),
        ];
        for layer in layers {
            let mut service = layer.layer(Probe::open());
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::consume_budget().await;
            }
            assert!(ready(&mut service).is_ready());
            assert_eq!(service.call(Ask::Echo(1)).await.unwrap(), 1);
        }
    });
}

/// As `Balance`, `Buffer`, axum and tonic need them.
#[test]
fn auto_traits() {
    fn all<T: Clone + Send + Sync + std::fmt::Debug + Unpin + 'static>(_: &T) {}
    fn future<T: Send + 'static>(_: &T) {}

    // Outside of a runtime.
    let pool = Pool::new(1);
    for layer in every_verb(&pool) {
        all(&layer);
        let answering = layer.clone().on_error(|_, _: Option<Ask>| 0_u32);
        all(&answering.detach_on_drop().name("all"));
        let service: PoolService<_, _> =
            layer.layer(tower::service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
        fn sync<T: Clone + Send + Sync + 'static>(_: &T) {}
        sync(&service);
        let _boxed: tower::util::BoxCloneSyncService<u32, u32, CallError<Infallible>> =
            tower::util::BoxCloneSyncService::new(service);
    }
    single(async move {
        let mut service = PoolLayer::try_go(&pool).layer(Probe::open());
        let call = service.ready().await.unwrap().call(Ask::Echo(1));
        future(&call);
        assert_eq!(call.await.unwrap(), 1);
    });
}

fn stack(pool: &Pool) -> BoxService<Ask, u32, BoxError> {
    let layer = PoolLayer::schedule(pool);
    let endpoints = (0..3).map(move |_| {
        PendingRequests::new(layer.layer(Probe::open()), CompleteOnResponse::default())
    });
    let balance = Balance::new(ServiceList::new::<Ask>(endpoints));
    let stack = ServiceBuilder::new().buffer(4).load_shed().timeout(Duration::from_secs(60));
    BoxService::new(stack.service(balance))
}

#[test]
fn it_stacks_with_towers_own() {
    single(async {
        let pool = Pool::new(2);
        let mut service = stack(&pool);
        // `Balance` keeps its next endpoint ready. With three endpoints and two slots, that
        // endpoint's slot must not stop the others.
        for n in 0..20 {
            assert_eq!(soon(service.ready()).await.unwrap().call(Ask::Echo(n)).await.unwrap(), n);
        }
    });
}

/// Calls once, then leaves the balancer idle. Returns the slots that it holds meanwhile.
async fn idle_balancer(pool: &Pool, layer: PoolLayer) -> usize {
    let endpoints = (0..2)
        .map(|_| PendingRequests::new(layer.layer(Probe::open()), CompleteOnResponse::default()));
    let mut balance = Balance::new(ServiceList::new::<Ask>(endpoints));
    assert_eq!(soon(balance.ready()).await.unwrap().call(Ask::Echo(1)).await.unwrap(), 1);
    soon(balance.ready()).await.unwrap();
    law(pool).reserved
}

#[test]
fn an_idle_balancer_holds_slots_for_schedule_alone() {
    single(async {
        let pool = Pool::new(2);
        assert_eq!(idle_balancer(&pool, PoolLayer::schedule(&pool)).await, 2, "as documented");
        for layer in every_verb(&pool).into_iter().skip(1) {
            assert_eq!(idle_balancer(&pool, layer.clone()).await, 0, "{layer:?}");
        }
        let layer = PoolLayer::schedule_within(&pool, Duration::MAX);
        assert_eq!(idle_balancer(&pool, layer).await, 0, "without a limit");
        whole(&pool).await;
    });
}

/// A pool that refuses no caller for its wait.
fn flooded(size: usize) -> Pool {
    Pool::builder().size(size).target_wait(None).build().unwrap()
}

/// Eight clones at once, each ready before it calls.
async fn twice_on(pool: Pool, outer: PoolLayer) {
    let service = outer.layer(PoolLayer::schedule(&pool).layer(Probe::open()));
    let calls = (0..8).map(|n| {
        let mut service = service.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                match service.ready().await.unwrap().call(Ask::Echo(n)).await {
                    Ok(value) => assert_eq!(value, n),
                    Err(CallError::Overloaded) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap();
    }
    assert_eq!(law(&pool).reserved, 0, "an inner layer reserves nothing");
    whole(&pool).await;
}

#[test]
fn a_layer_twice_on_one_pool_ends() {
    for size in [1, 2] {
        for verb in 0..6 {
            single(async move {
                let pool = flooded(size);
                twice_on(pool.clone(), every_verb(&pool).remove(verb)).await;
            });
            multi(2, async move {
                let pool = flooded(size);
                twice_on(pool.clone(), every_verb(&pool).remove(verb)).await;
            });
        }
    }
}

#[test]
fn a_layer_of_another_pool_waits_as_ever() {
    single(async {
        let (outer, inner) = (Pool::new(1), Pool::new(1));
        let mut service =
            PoolLayer::schedule(&outer).layer(PoolLayer::schedule(&inner).layer(Probe::open()));
        let held = hold(&inner);
        assert!(ready(&mut service).is_pending());
        held.release().await;
        assert_eq!(soon(service.ready()).await.unwrap().call(Ask::Echo(1)).await.unwrap(), 1);
        // Beside it, not inside: it waits again.
        let mut alone = PoolLayer::schedule(&inner).layer(Probe::open());
        assert!(ready(&mut alone).is_ready());
        assert_eq!(law(&inner).reserved, 1);
    });
}
