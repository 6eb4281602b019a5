//! Calls within one process: time and allocations.

use std::sync::Arc;
use std::time::Instant;

use millpond::Pool;
use millpond::layer::PoolLayer;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::arms::{ARMS, BARE, BUFFER, EXECUTOR, LIMIT, Next, Visit, with_arm};
use crate::progress::Progress;
use crate::report::{median, table};
use crate::{Args, allocations};

/// Runs callers at once, each with a clone of the service. Returns ns and allocations per call.
#[derive(Clone, Copy)]
struct Calls {
    callers: u64,
    each: u64,
}

impl Visit for Calls {
    type Out = (f64, f64);

    async fn visit<S>(self, service: S) -> (f64, f64)
    where
        S: Service<u64, Response = u64, Error: std::fmt::Debug + Send, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let pass = |each: u64| {
            let service = service.clone();
            async move {
                let (start, before) = (Instant::now(), allocations::count());
                let callers: Vec<_> = (0..self.callers)
                    .map(|_| {
                        let mut service = service.clone();
                        tokio::spawn(async move {
                            for n in 0..each {
                                let ready = service.ready().await.expect("it is ready");
                                assert_eq!(ready.call(n).await.expect("it answers"), n + 1);
                            }
                        })
                    })
                    .collect();
                for caller in callers {
                    caller.await.expect("no caller panics");
                }
                let calls = (self.callers * each) as f64;
                let allocated = allocations::count() - before;
                (start.elapsed().as_nanos() as f64 / calls, allocated as f64 / calls)
            }
        };
        pass(self.each / 10).await;
        pass(self.each).await
    }
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build().expect("a runtime")
}

pub fn run(args: &Args) -> String {
    let scale = if args.quick { 100 } else { 1 };
    let shapes = [
        ("1 caller, 1 thread", 1, Calls { callers: 1, each: 300_000 / scale }),
        ("64 callers, 1 thread", 1, Calls { callers: 64, each: 5_000 / scale }),
        ("64 callers, 2 threads", 2, Calls { callers: 64, each: 5_000 / scale }),
    ];
    let mut progress = Progress::new(args.rounds * (ARMS.len() + 1));
    let mut times = vec![[const { Vec::new() }; 3]; ARMS.len()];
    let mut allocated = vec![Vec::new(); ARMS.len()];
    let mut refusals = [const { Vec::new() }; 2];
    let mut refusal_allocations = [0.0; 2];
    for round in 0..args.rounds {
        for turn in 0..ARMS.len() {
            let arm = (turn + round) % ARMS.len();
            progress.step(format!("in process: {}", ARMS[arm]));
            for (at, (_, threads, calls)) in shapes.iter().enumerate() {
                let (ns, allocations) = runtime(*threads).block_on(with_arm(arm, *calls));
                times[arm][at].push(ns);
                if at == 0 {
                    allocated[arm].push(allocations);
                }
            }
        }
        progress.step("in process: refusals".into());
        for at in 0..2 {
            let at = (at + round) % 2;
            let (ns, allocations) = runtime(1).block_on(refuse(at == 1, 1_000_000 / scale));
            refusals[at].push(ns);
            refusal_allocations[at] = allocations;
        }
    }
    drop(progress);

    let medians: Vec<[f64; 3]> =
        times.into_iter().map(|arm| arm.map(|values: Vec<f64>| median(values))).collect();
    let allocated: Vec<f64> = allocated.into_iter().map(median).collect();
    let rows: Vec<_> = ARMS
        .iter()
        .enumerate()
        .map(|(arm, name)| {
            let ns = medians[arm].map(|ns| format!("{ns:.0}"));
            let over = medians[arm][2];
            let ratio = |to: usize| format!("{:.2}x", medians[to][2] / over);
            let mut row = vec![name.to_string()];
            row.extend(ns);
            row.extend([ratio(EXECUTOR), ratio(BUFFER), ratio(LIMIT)]);
            row.push(format!("{:.2}", (allocated[arm] - allocated[BARE]).max(0.0)));
            row
        })
        .collect();
    let head = [
        "ns per call",
        shapes[0].0,
        shapes[1].0,
        shapes[2].0,
        "to the executor",
        "to `Buffer`",
        "to `ConcurrencyLimit`",
        "allocations",
    ];
    let [shed, ours] = refusals.map(median);
    let ratio = ours / shed;
    let [shed_allocations, our_allocations] = refusal_allocations;
    format!(
        "\n## In process\n\nReady, call, await of a service that answers at once, size {}. The columns \
         after the times are the throughput of 64 callers on 2 threads, relative to three others'; the \
         last one counts allocations per call. Only the executor and millpond (but for what `try_go` \
         finds no slot for) run calls on another task than the caller's.\n\n{}\nA refusal takes `LoadShed` over \
         `ConcurrencyLimit` {shed:.0} ns and {shed_allocations:.2} allocations, millpond's \
         `try_schedule` {ours:.0} ns ({ratio:.2} times as long) and {our_allocations:.2}.\n",
        crate::arms::SIZE,
        table(&head, &rows)
    )
}

/// Makes calls that tower's layers or the pool refuse. Returns ns and allocations per call.
async fn refuse(ours: bool, calls: u64) -> (f64, f64) {
    if ours {
        let pool = Pool::new(1);
        let held = pool.try_schedule(std::future::pending::<()>()).expect("the pool is empty");
        let figures = refused(PoolLayer::try_schedule(&pool).layer(Next), calls).await;
        held.abort();
        figures
    } else {
        let none = GlobalConcurrencyLimitLayer::with_semaphore(Arc::new(Semaphore::new(0)));
        let service = ServiceBuilder::new().load_shed().layer(none).service(Next);
        refused(service, calls).await
    }
}

async fn refused<S: Service<u64, Response = u64>>(mut service: S, calls: u64) -> (f64, f64) {
    let (start, before) = (Instant::now(), allocations::count());
    for n in 0..calls {
        let Ok(ready) = service.ready().await else { panic!("it is ready to refuse") };
        assert!(ready.call(n).await.is_err());
    }
    let allocated = allocations::count() - before;
    (start.elapsed().as_nanos() as f64 / calls as f64, allocated as f64 / calls as f64)
}
