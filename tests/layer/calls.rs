//! A call ends once, the pool counts it, and its caller learns how it ended.

use std::convert::Infallible;
use std::time::Duration;

use crate::probe::{Ask, Fault, Probe, every_verb};
use crate::support::*;
use millpond::layer::{CallError, PoolLayer};
use millpond::{JobOptions, Pool};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

#[test]
fn a_full_pool_does_what_the_verb_says() {
    paused(async {
        let pool = Pool::builder().size(1).overflow_limit(1).build().unwrap();
        for (n, layer) in every_verb(&pool).into_iter().enumerate() {
            let held = hold(&pool);
            let before = pool.status();
            let probe = Probe::open();
            let inside = probe.inside();
            let service = layer.layer(probe);
            let mut call = Box::pin(service.oneshot(Ask::Echo(7)));
            let first = poll(&mut call);
            settle().await;
            let status = law(&pool);
            match n {
                0 | 1 => assert_eq!((status.waiting, inside.total()), (1, 0)),
                2 => {
                    assert!(matches!(first, std::task::Poll::Ready(Err(CallError::Overloaded))));
                    assert_eq!((status.refused, inside.total()), (before.refused + 1, 0));
                }
                3 => assert_eq!(inside.total(), 1),
                4 => assert!(matches!(first, std::task::Poll::Ready(Ok(7))), "in the caller"),
                _ => assert_eq!((status.waiting, inside.total()), (1, 0)),
            }
            held.release().await;
            if first.is_pending() {
                assert_eq!(soon(call).await.unwrap(), 7);
            }
            whole(&pool).await;
        }
    });
}

#[test]
fn overflow_has_a_limit() {
    single(async {
        let pool = Pool::builder().size(1).overflow_limit(1).build().unwrap();
        let held = hold(&pool);
        let probe = Probe::gated();
        let mut service = PoolLayer::schedule_always(&pool).layer(probe.clone());
        let first = tokio::spawn(service.ready().await.unwrap().call(Ask::Echo(1)));
        let second = service.ready().await.unwrap().call(Ask::Echo(2)).await;
        assert!(matches!(second, Err(CallError::Overloaded)));
        probe.gate().open();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        held.release().await;
    });
}

#[test]
fn a_wait_with_a_limit_ends_at_it() {
    paused(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let layer = PoolLayer::schedule_within(&pool, Duration::from_millis(250));
        let mut service = layer.layer(Probe::open());
        let called = tokio::time::Instant::now();
        let call = service.ready().await.unwrap().call(Ask::Echo(1));
        // The limit counts from `call`, not from the first poll.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(matches!(call.await, Err(CallError::Overloaded)));
        assert!((250..260).contains(&(called.elapsed().as_millis())));
        assert_eq!((law(&pool).waiting, pool.status().refused), (0, 1));
        held.release().await;
        whole(&pool).await;
    });
}

/// On a clock that runs.
#[test]
fn a_limit_of_zero_is_none_to_wait_for() {
    single(async {
        let pool = Pool::new(1);
        let none = PoolLayer::schedule_within(&pool, Duration::ZERO).layer(Probe::open());
        let held = hold(&pool);
        let refused = poll(&mut Box::pin(none.clone().oneshot(Ask::Echo(2))));
        assert!(matches!(refused, std::task::Poll::Ready(Err(CallError::Overloaded))));
        held.release().await;
        assert_eq!(none.oneshot(Ask::Echo(2)).await.unwrap(), 2);
        whole(&pool).await;
    });
}

#[test]
fn panics_and_errors_come_back_as_what_they_are() {
    single(async {
        let pool = Pool::new(1);
        for layer in every_verb(&pool) {
            let service = layer.layer(Probe::open());
            for (ask, message) in
                [(Ask::PanicAtOnce, "in call"), (Ask::PanicLater, "in the future")]
            {
                let error = service.clone().oneshot(ask).await.unwrap_err();
                assert!(!error.is_refusal());
                assert_eq!(error.to_string(), format!("the call panicked: {message}"));
                assert!(matches!(error, CallError::Panicked(_)));
            }
            let error = service.oneshot(Ask::Fail).await.unwrap_err();
            assert_eq!(error.into_inner().unwrap(), Fault("failed"));
            whole(&pool).await;
        }
        // A panic in the caller is an error, too.
        let held = hold(&pool);
        let service = PoolLayer::try_go(&pool).layer(Probe::open());
        let error = service.oneshot(Ask::PanicAtOnce).await.unwrap_err();
        assert!(matches!(error, CallError::Panicked(_)));
        assert_eq!(law(&pool).panicked, 13);
        held.release().await;
    });
}

#[test]
fn answers_take_the_place_of_errors() {
    single(async {
        let pool = Pool::new(1);
        let layer = PoolLayer::try_schedule(&pool).on_error(|error, ask| match (error, ask) {
            (CallError::Overloaded, Some(Ask::Echo(1))) => 503_u32,
            (CallError::Panicked(_), None) => 500,
            _ => 0,
        });
        let service = layer.layer(Probe::open());
        // The error is the wrapped service's own.
        let own: Result<u32, Fault> = service.clone().oneshot(Ask::PanicLater).await;
        assert_eq!(own, Ok(500));
        assert_eq!(service.clone().oneshot(Ask::Fail).await, Err(Fault("failed")));
        let held = hold(&pool);
        assert_eq!(service.clone().oneshot(Ask::Echo(1)).await, Ok(503));
        held.release().await;
        // Without the closure the same calls fail.
        let failing = PoolLayer::try_schedule(&pool).layer(Probe::open());
        let error = failing.clone().oneshot(Ask::PanicLater).await.unwrap_err();
        assert!(matches!(error, CallError::Panicked(_)));
        let held = hold(&pool);
        let error = failing.oneshot(Ask::Echo(1)).await.unwrap_err();
        assert!(matches!(error, CallError::Overloaded));
        held.release().await;
        pool.close();
        for verb in [PoolLayer::schedule, PoolLayer::try_schedule, PoolLayer::try_go] {
            let layer = verb(&pool).on_error(|error, ask: Option<Ask>| match (error, ask) {
                (CallError::Closed, Some(Ask::Echo(1))) => 503_u32,
                _ => 0,
            });
            assert_eq!(layer.layer(Probe::open()).oneshot(Ask::Echo(1)).await, Ok(503));
        }
    });
}

#[test]
fn options_and_answers_come_in_either_order() {
    paused(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        let layer = || PoolLayer::schedule_within(&pool, Duration::from_secs(1));
        let options = |n: &u64| JobOptions::new().timeout(Duration::from_millis(*n));
        let answer = |error: CallError<Infallible>, _: Option<u64>| error.to_string();
        let echo = || service_fn(|n: u64| async move { Ok::<_, Infallible>(n.to_string()) });
        let first = layer().options(options).on_error(answer).layer(echo());
        let last = layer().on_error(answer).options(options).layer(echo());
        for n in [10, 2_000] {
            let start = tokio::time::Instant::now();
            let answers = tokio::join!(first.clone().oneshot(n), last.clone().oneshot(n));
            let wanted =
                if n == 10 { "the deadline of the call passed" } else { "the pool is full" };
            assert_eq!(answers, (Ok(wanted.to_owned()), Ok(wanted.to_owned())));
            assert!(start.elapsed() < Duration::from_millis(n.min(1_000) + 5));
        }
        held.release().await;
        assert_eq!(first.oneshot(3).await.unwrap(), "3");
    });
}

#[test]
fn a_closed_pool_refuses_every_call() {
    single(async {
        let pool = Pool::new(1);
        let services: Vec<_> =
            every_verb(&pool).iter().map(|layer| layer.layer(Probe::open())).collect();
        let mut early = services[0].clone();
        early.ready().await.unwrap();
        pool.close();
        for service in services {
            let error = service.oneshot(Ask::Echo(1)).await.unwrap_err();
            assert!(matches!(error, CallError::Closed) && error.is_refusal());
        }
        let error = early.call(Ask::Echo(1)).await.unwrap_err();
        assert!(matches!(error, CallError::Closed));
        let boxed: BoxError = error.into();
        assert!(boxed.downcast_ref::<CallError<Fault>>().unwrap().is_refusal());
        soon(pool.wait_idle()).await;
        quiet(&pool);
    });
}

#[test]
fn a_dropped_response_cancels_the_call_unless_it_is_detached() {
    single(async {
        let pool = Pool::new(1);
        for (n, layer) in every_verb(&pool).into_iter().enumerate() {
            for detached in [false, true] {
                let probe = Probe::gated();
                let layer = if detached { layer.clone().detach_on_drop() } else { layer.clone() };
                let before = pool.status();
                let mut call = Box::pin(layer.layer(probe.clone()).oneshot(Ask::Echo(1)));
                assert!(poll(&mut call).is_pending());
                settle().await;
                assert_eq!(probe.inside().now(), 1, "verb {n}");
                drop(call);
                settle().await;
                let status = law(&pool);
                if detached {
                    assert_eq!((status.running, probe.inside().now()), (1, 1));
                    let idle = tokio::spawn({
                        let pool = pool.clone();
                        async move { pool.wait_idle().await }
                    });
                    settle().await;
                    assert!(!idle.is_finished(), "a drain waits for it");
                    probe.gate().open();
                    idle.await.unwrap();
                    assert_eq!(law(&pool).completed, before.completed + 1);
                } else {
                    assert_eq!((status.running, probe.inside().now()), (0, 0));
                    assert_eq!(status.cancelled, before.cancelled + 1);
                }
                whole(&pool).await;
            }
        }
    });
}

#[test]
fn calls_count_in_a_group_and_under_its_quota() {
    single(async {
        let pool = Pool::new(3);
        let group = pool.group_builder::<String>().quota(1).build().unwrap();
        for (n, layer) in every_verb(&pool).into_iter().enumerate() {
            let probe = Probe::gated();
            let service = layer.group(&group).layer(probe.clone());
            let mut first = Box::pin(service.clone().oneshot(Ask::Echo(1)));
            assert!(poll(&mut first).is_pending());
            settle().await;
            assert_eq!((group.len(), law(&pool).running), (1, 1), "verb {n}");
            let mut wait = Box::pin(group.wait());
            assert!(poll(&mut wait).is_pending());
            // The pool has room, and the quota has none.
            let mut second = Box::pin(service.clone().oneshot(Ask::Echo(2)));
            let second_now = poll(&mut second);
            settle().await;
            if n == 2 {
                use std::task::Poll::Ready;
                assert!(matches!(second_now, Ready(Err(CallError::GroupOverloaded))));
                // So it is after a wait in vain.
                let within = PoolLayer::schedule_within(&pool, Duration::from_millis(1));
                let late = within.group(&group).layer(probe.clone()).oneshot(Ask::Echo(2));
                assert!(matches!(soon(late).await, Err(CallError::GroupOverloaded)));
            } else {
                assert!(second_now.is_pending());
            }
            probe.gate().open();
            assert_eq!(soon(first).await.unwrap(), 1);
            if n != 2 {
                assert_eq!(soon(second).await.unwrap(), 2);
            }
            // Members leave no outcome.
            assert_eq!(soon(wait).await.unfinished, 0);
            // The group cancels them.
            let probe = Probe::gated();
            let service = service_with(&pool, n).group(&group).layer(probe);
            let mut call = Box::pin(service.oneshot(Ask::Echo(3)));
            assert!(poll(&mut call).is_pending());
            settle().await;
            group.cancel();
            assert!(matches!(soon(call).await, Err(CallError::Cancelled)));
            assert!(group.is_empty());
            whole(&pool).await;
        }
        let service = PoolLayer::try_schedule(&pool).group(&group).layer(Probe::open());
        group.close();
        assert!(matches!(service.oneshot(Ask::Echo(1)).await, Err(CallError::GroupClosed)));
    });
}

#[test]
fn the_close_of_a_group_reaches_calls_in_line() {
    paused(async {
        let pool = Pool::new(1);
        for n in [0, 1] {
            let group = pool.group::<()>();
            let held = hold(&pool);
            let service = service_with(&pool, n).group(&group).layer(Probe::open());
            let mut call = tokio_test::task::spawn(service.oneshot(Ask::Echo(1)));
            assert!(call.poll().is_pending());
            assert_eq!(law(&pool).waiting, 1);
            group.close();
            assert!(call.is_woken(), "verb {n}: at once, and not with the next slot");
            let answer = call.poll();
            assert!(
                matches!(answer, std::task::Poll::Ready(Err(CallError::GroupClosed))),
                "verb {n}: {answer:?}"
            );
            drop(call);
            held.release().await;
            whole(&pool).await;
        }
    });
}

fn service_with(pool: &Pool, n: usize) -> PoolLayer {
    every_verb(pool).remove(n)
}

#[test]
fn a_layer_keeps_its_group() {
    single(async {
        let pool = Pool::new(1);
        let group = pool.group::<()>();
        let probe = Probe::gated();
        let service = PoolLayer::try_schedule(&pool).group(&group).layer(probe.clone());
        let mut call = Box::pin(service.clone().oneshot(Ask::Echo(1)));
        assert!(poll(&mut call).is_pending());
        drop(group);
        settle().await;
        probe.gate().open();
        assert_eq!(soon(call).await.unwrap(), 1);
        // The last handle of the group cancels its calls, as all its jobs.
        let probe = Probe::gated();
        let service = PoolLayer::try_schedule(&pool).group(&pool.group::<()>()).layer(probe);
        let mut call = Box::pin(service.oneshot(Ask::Echo(1)));
        assert!(poll(&mut call).is_pending());
        drop(call);
        whole(&pool).await;
    });
}

/// A service releases its reserved slot before its handle of the group.
#[test]
fn a_service_outlives_what_it_reserved_in_its_group() {
    single(async {
        let pool = Pool::new(2);
        for in_line in [false, true] {
            let held = in_line.then(|| fill(&pool));
            let group = pool.group_builder::<()>().quota(1).build().unwrap();
            let mut service = PoolLayer::schedule(&pool).group(&group).layer(Probe::open());
            drop(group);
            let waker = std::task::Waker::noop();
            let ready = service.poll_ready(&mut std::task::Context::from_waker(waker));
            assert_eq!(ready.is_pending(), in_line);
            drop(service);
            release(held.into_iter().flatten().collect()).await;
            whole(&pool).await;
        }
    });
}

#[test]
#[should_panic(expected = "another pool")]
fn a_group_of_another_pool_is_an_error() {
    let _ = PoolLayer::try_schedule(&Pool::new(1)).group(&Pool::new(1).group::<()>());
}

#[test]
fn a_call_from_a_job_of_the_same_pool_does_not_deadlock() {
    paused(async {
        for n in [0, 1] {
            let pool = Pool::new(1);
            let service = service_with(&pool, n).layer(Probe::open());
            let outer = pool.schedule(service.oneshot(Ask::Echo(5))).await.unwrap();
            assert_eq!(soon(outer).await.unwrap().unwrap(), 5);
            whole(&pool).await;
        }
    });
}

/// The call has started since the last poll of its response future, which a job of the pool has.
#[test]
fn a_dropped_response_of_a_call_that_has_just_started_cancels_the_call() {
    for detach in [false, true] {
        single(async move {
            let (pool, probe) = (Pool::new(2), Probe::gated());
            let layer = PoolLayer::schedule_within(&pool, Duration::MAX);
            let layer = if detach { layer.detach_on_drop() } else { layer };
            let (gate, inside, go) = (probe.gate(), probe.inside(), Gate::new());
            let (service, goes) = (layer.layer(probe), go.wait());
            let held = hold(&pool);
            let outer = pool.try_schedule(async move {
                let mut response = Box::pin(service.oneshot(Ask::Echo(1)));
                assert!(poll(&mut response).is_pending());
                goes.await;
            });
            settle().await;
            assert_eq!(law(&pool).waiting, 1);
            held.release().await;
            settle().await;
            assert_eq!((inside.now(), law(&pool).running), (1, 2));
            go.open();
            soon(outer.unwrap()).await.unwrap();
            settle().await;
            let cancelled = u64::from(!detach);
            assert_eq!((law(&pool).cancelled, inside.now() as u64), (cancelled, 1 - cancelled));
            gate.open();
            whole(&pool).await;
        });
    }
}

#[test]
fn the_end_of_the_runtime_hangs_nobody() {
    watched(|| {
        let served = runtime(2);
        let caller = runtime(1);
        let pool = Pool::builder().size(2).runtime(served.handle().clone()).build().unwrap();
        let calls: Vec<_> = every_verb(&pool)
            .into_iter()
            .map(|layer| caller.spawn(layer.layer(Probe::gated()).oneshot(Ask::Echo(1))))
            .collect();
        caller.block_on(async {
            // Two run, in the pool or in their callers, and the others wait or were refused.
            eventually(|| pool.status().submitted == 6).await;
        });
        served.shutdown_background();
        caller.block_on(async {
            for (n, call) in calls.into_iter().enumerate() {
                // No other code waits for a call in its caller.
                if n == 4 {
                    call.abort();
                    continue;
                }
                let error = soon(call).await.unwrap().unwrap_err();
                assert!(
                    matches!(
                        error,
                        CallError::Cancelled | CallError::Closed | CallError::Overloaded
                    ),
                    "{n}: {error}"
                );
            }
        });
    });
}

#[test]
#[cfg(feature = "tracing")]
fn a_call_has_the_span_of_its_caller() {
    use tracing::Instrument;

    watched(|| {
        let _on = tracing::subscriber::set_default(tracing_subscriber::registry());
        let pool = Pool::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let which = service_fn(|(): ()| async move {
            Ok::<_, Infallible>(tracing::Span::current().metadata().map(|data| data.name()))
        });
        for layer in every_verb(&pool) {
            let call = layer.layer(which).oneshot(()).instrument(tracing::info_span!("request"));
            assert_eq!(runtime.block_on(call).unwrap(), Some("request"));
        }
    });
}

/// When a response resolves, its slot is free for the next call.
#[test]
fn a_slot_is_free_before_its_response_is_there() {
    multi(2, async {
        let pool = Pool::new(1);
        let mut service = PoolLayer::try_schedule(&pool).layer(Probe::open());
        for n in 0..5_000 {
            assert_eq!(service.ready().await.unwrap().call(Ask::Echo(n)).await.unwrap(), n);
        }
    });
}

#[test]
fn a_loop_of_calls_yields() {
    single(async {
        let pool = Pool::new(1);
        let held = hold(&pool);
        // Refused at once, refused after a wait of no time, run in the caller.
        let within = PoolLayer::schedule_within(&pool, Duration::ZERO);
        for layer in [PoolLayer::try_schedule(&pool), within, PoolLayer::try_go(&pool)] {
            let mut service = layer.layer(Probe::open());
            let endless = async {
                loop {
                    let _ = service.ready().await.unwrap().call(Ask::Echo(1)).await;
                }
            };
            assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
        }
        held.release().await;
        whole(&pool).await;
    });
}

/// A layer sheds by default once its line does not become shorter, and not if the pool says so.
#[test]
fn calls_are_shed_while_the_line_does_not_become_shorter() {
    const SERVICE: Duration = Duration::from_millis(20);
    for sheds in [true, false] {
        paused(async move {
            let builder = Pool::builder().size(8);
            let builder = if sheds { builder } else { builder.target_wait(None) };
            let pool = builder.build().unwrap();
            let (limit, mut calls) = (Duration::from_secs(60), tokio::task::JoinSet::new());
            let inner = service_fn(|(): ()| async {
                tokio::time::sleep(SERVICE).await;
                Ok::<_, Infallible>(())
            });
            let within = PoolLayer::schedule_within(&pool, limit).layer(inner);
            // Three times what the pool can serve, for 400 ms.
            for number in 0..480 {
                calls.spawn(within.clone().oneshot(()));
                if number % 6 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let (mut served, mut shed) = (0, 0);
            while let Some(result) = calls.join_next().await {
                match result.unwrap() {
                    Ok(()) => served += 1,
                    Err(error) => {
                        assert!(error.is_refusal(), "{error}");
                        assert!(error.retry_after().unwrap() > Duration::ZERO);
                        shed += 1;
                    }
                }
            }
            assert_eq!(served + shed, 480);
            assert_eq!(shed > 0, sheds, "{served} served, {shed} shed");
            assert!(served >= 150, "{served}");
        });
    }
}

/// The rate at which a pool serves counts no time in which no call waits.
#[test]
fn an_idle_time_is_no_slow_turn() {
    paused(async {
        let pool = Pool::new(1);
        let inner = service_fn(|(): ()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(())
        });
        let service = PoolLayer::schedule_within(&pool, Duration::from_secs(60)).layer(inner);
        let offer =
            || (0..6).map(|_| tokio::spawn(service.clone().oneshot(()))).collect::<Vec<_>>();
        for call in offer() {
            call.await.unwrap().unwrap();
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        let calls = offer();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Three calls wait, of 20 ms each.
        let expected = pool.status().expected_wait;
        assert!(expected <= Duration::from_millis(100), "{expected:?}");
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
}
