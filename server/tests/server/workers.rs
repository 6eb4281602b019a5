//! One connection after another on a slot: none is held up by what another's service does.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

use crate::support::server::{Case, Client, EVENT_DRIVEN, closed_for, emptied, in_both_modes};
use crate::support::*;
use millpond::Pool;
use millpond_server::{CloseReason, Server};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, block_in_place};
use tokio_util::codec::LinesCodec;
use tokio_util::sync::CancellationToken;

in_both_modes!(single: a_service_waits, a_service_panics, others_have_their_turn);
in_both_modes!(single: a_thread_is_blocked, as_many_block_as_there_are_slots);

/// What blocks threads until it is opened.
#[derive(Clone, Default)]
struct Lock(Arc<(Mutex<(usize, bool)>, Condvar)>);

impl Lock {
    fn wait(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.0 += 1;
        let limit = Duration::from_secs(10);
        let (_state, timeout) =
            changed.wait_timeout_while(state, limit, |(_, open)| !*open).unwrap();
        assert!(!timeout.timed_out());
    }

    fn inside(&self) -> usize {
        self.0.0.lock().unwrap().0
    }

    fn open(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

/// A server on two threads that are not the test's.
fn apart<S, F>(case: Case, service: S) -> (Server, Runtime)
where
    S: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Option<String>, Infallible>> + Send + 'static,
{
    let runtime = runtime(2);
    let entered = runtime.enter();
    let builder = case.builder().pool(&Pool::new(8)).codec(LinesCodec::new());
    let server = builder.serve(server::service_fn(service)).unwrap();
    drop(entered);
    (server, runtime)
}

async fn blocks(lock: Lock, line: String) -> Result<Option<String>, Infallible> {
    if line == "block" {
        block_in_place(|| lock.wait());
    }
    Ok(Some(line))
}

async fn several(case: Case, server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = case.connect(server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    clients
}

async fn a_thread_is_blocked(case: Case) {
    for _ in 0..10 {
        let lock = Lock::default();
        let inner = lock.clone();
        let (server, runtime) = apart(case, move |line| blocks(inner.clone(), line));
        let mut slow = case.connect(&server).await;
        slow.ask("hello").await;
        let mut others = several(case, &server, 8).await;
        // Some are ready at the same moment, the others later.
        slow.send("block\n").await;
        for client in &mut others {
            client.send("at once\n").await;
        }
        eventually(|| lock.inside() == 1).await;
        for client in &mut others {
            assert_eq!(soon(client.line()).await, "at once", "{case:?}");
        }
        for client in &mut others {
            soon(client.ask("later")).await;
        }
        lock.open();
        assert_eq!(soon(slow.line()).await, "block", "{case:?}");
        drop(server);
        runtime.shutdown_background();
    }
}

/// More than there are threads: tokio starts others in their place.
async fn as_many_block_as_there_are_slots(case: Case) {
    let lock = Lock::default();
    let inner = lock.clone();
    let (server, runtime) = apart(case, move |line| blocks(inner.clone(), line));
    let mut clients = several(case, &server, 8).await;
    for client in &mut clients {
        client.send("block\n").await;
    }
    eventually(|| lock.inside() == 8).await;
    lock.open();
    for client in &mut clients {
        assert_eq!(soon(client.line()).await, "block", "{case:?}");
    }
    drop(server);
    runtime.shutdown_background();
}

/// A busy runtime asks its reactor rarely; this one never does. So no connection has a task of its own.
#[test]
fn a_busy_runtime_learns_who_is_ready() {
    single(async {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            runtime.worker_threads(1).event_interval(u32::MAX).enable_all().build().unwrap();
        let lock = Lock::default();
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        let inner = lock.clone();
        let service = move |line: String| {
            if line == "busy" {
                let end = end.clone();
                tokio::spawn(poll_fn(move |cx| {
                    cx.waker().wake_by_ref();
                    if end.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
                }));
                inner.wait();
            }
            async { Ok::<_, Infallible>(Some(line)) }
        };
        let entered = runtime.enter();
        let builder = EVENT_DRIVEN.builder().warm_connections(0).read_budget_frames(1);
        let builder = builder.codec(LinesCodec::new());
        let server = builder.serve(server::service_fn(service)).unwrap();
        drop(entered);
        let mut clients = several(EVENT_DRIVEN, &server, 2).await;
        // It has many turns, as all of it is there.
        clients[0].send("busy\n".to_owned() + &"more\n".repeat(3_000)).await;
        eventually(|| lock.inside() == 1).await;
        clients[1].send("one\n").await;
        lock.open();
        assert_eq!(soon(clients[1].line()).await, "one");
        drop(server);
        runtime.shutdown_background();
    });
}

async fn a_service_waits(case: Case) {
    let gate = Gate::new();
    let inner = gate.clone();
    let service = move |line: String| {
        let gate = inner.clone();
        async move {
            if line == "wait" {
                gate.wait().await;
            }
            Ok::<_, Infallible>(Some(line))
        }
    };
    let pool = Pool::new(2);
    let server = case.builder().pool(&pool).codec(LinesCodec::new());
    let server = server.serve(server::service_fn(service)).unwrap();
    let mut slow = case.connect(&server).await;
    let mut others = several(case, &server, 5).await;
    slow.send("wait\n").await;
    for round in 0..5 {
        for client in &mut others {
            client.send(format!("{round}\n")).await;
        }
        for client in &mut others {
            assert_eq!(soon(client.line()).await, round.to_string(), "{case:?}");
        }
        soon(others[0].ask("alone")).await;
        // The slot of those that do not wait is free.
        eventually(|| pool.status().running == 1).await;
    }
    gate.open();
    assert_eq!(soon(slow.line()).await, "wait", "{case:?}");
    soon(pool.wait_idle()).await;
    // All at once, and more than there are workers.
    let gate = Gate::new();
    let inner = gate.clone();
    let service = move |line: String| {
        let gate = inner.clone();
        async move {
            gate.wait().await;
            Ok::<_, Infallible>(Some(line))
        }
    };
    let pool = Pool::new(8);
    let server = case.builder().pool(&pool).codec(LinesCodec::new());
    let server = server.serve(server::service_fn(service)).unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(case.connect(&server).await);
    }
    for client in &mut clients {
        client.send("wait\n").await;
    }
    eventually(|| pool.status().running == 8).await;
    gate.open();
    for client in &mut clients {
        assert_eq!(soon(client.line()).await, "wait", "{case:?}");
    }
}

async fn a_service_panics(case: Case) {
    let service = |line: String| async move {
        if line == "panic" {
            silent_panic("here");
        }
        Ok::<_, Infallible>(Some(line))
    };
    let pool = Pool::new(1);
    let server = case.builder().pool(&pool).codec(LinesCodec::new());
    let server = server.serve(server::service_fn(service)).unwrap();
    let mut others = several(case, &server, 10).await;
    for round in 1..=5 {
        let mut closing = several(case, &server, 10).await;
        for (one, other) in closing.iter_mut().zip(&mut others) {
            one.send("panic\n").await;
            other.send("still there?\n").await;
        }
        for client in &mut others {
            assert_eq!(soon(client.line()).await, "still there?", "{case:?}");
        }
        closed_for(&server, CloseReason::Panicked, 10 * round).await;
    }
    drop(others);
    emptied(&server).await;
    soon(pool.wait_idle()).await;
    assert_eq!(quiet(&pool).panicked, 50, "{case:?}");
}

/// However many connections always have more to say.
async fn others_have_their_turn(case: Case) {
    let pool = Pool::new(1);
    let silent = |_: String| async move { Ok::<_, Infallible>(None::<String>) };
    let builder = case.builder().pool(&pool).read_budget_frames(2).codec(LinesCodec::new());
    let server = builder.serve(server::service_fn(silent)).unwrap();
    let mut floods = JoinSet::new();
    for _ in 0..8 {
        let mut client = case.connect(&server).await;
        floods.spawn(async move {
            let lines = "x\n".repeat(4096);
            loop {
                client.send(&lines).await;
            }
        });
    }
    eventually(|| server.status().turns > 100).await;
    for _ in 0..20 {
        let before = server.status().turns;
        soon(pool.schedule(async {})).await.unwrap().detach();
        let turns = server.status().turns - before;
        // The worker that has the slot, and one in line before this.
        assert!(turns <= 40, "{case:?}: {turns}");
    }
    floods.shutdown().await;
}
