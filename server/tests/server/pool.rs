//! Servers on a pool: it bounds what is under way, and makes the rest wait in the kernel.

use std::convert::Infallible;
use std::time::Duration;

use crate::support;
use crate::support::server::{Case, Client, accounted, closed_for, echo, emptied, in_all_cases};
use crate::support::*;
use millpond::Pool;
use millpond_server::CloseReason;
use tokio::time::sleep;
use tokio_util::codec::LinesCodec;

in_all_cases!(paused: full_for_long);
in_all_cases!(single: closed, one_slot_serves_many, a_service_that_waits_holds_its_slot);
in_all_cases!(double: shared_with_others);

fn small() -> Pool {
    Pool::builder().size(2).build().unwrap()
}

async fn full_for_long(case: Case) {
    let pool = small();
    let server = echo(case.builder().pool(&pool));
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..20 {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    support::server::parked(&server, 20).await;
    let before = accounted(&server);
    let held = fill(&pool);
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("{n}\nand more\n")).await;
    }
    sleep(Duration::from_secs(5)).await;
    let status = accounted(&server);
    // In the kernel, not in memory.
    let unread = (status.bytes_in, status.frames) == (before.bytes_in, before.frames);
    assert!(unread, "{case:?}: {before:?} {status:?}");
    assert_eq!(status.open, 20, "{case:?}: {status:?}");
    for client in &mut clients {
        assert!(client.is_silent().await, "{case:?}");
    }
    release(held).await;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line().await, n.to_string(), "{case:?}");
        assert_eq!(client.line().await, "and more", "{case:?}");
    }
    drop(clients);
    emptied(&server).await;
    whole(&pool).await;
}

async fn closed(case: Case) {
    let pool = small();
    let server = echo(case.builder().pool(&pool));
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    support::server::parked(&server, 10).await;
    pool.close();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send("is anybody there?\n").await;
        assert_eq!(client.gone().await, b"", "{case:?}");
        closed_for(&server, CloseReason::PoolClosed, n as u64 + 1).await;
    }
    emptied(&server).await;
    // Those that wait for a slot when it is closed.
    let pool = small();
    let server = echo(case.builder().pool(&pool));
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    let held = fill(&pool);
    for client in &mut clients {
        client.send("is anybody there?\n").await;
    }
    settle().await;
    pool.close();
    for client in &mut clients {
        assert_eq!(client.gone().await, b"", "{case:?}");
    }
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(CloseReason::PoolClosed), 10, "{case:?}: {status:?}");
    release(held).await;
}

async fn one_slot_serves_many(case: Case) {
    let gauge = Gauge::default();
    let service = {
        let gauge = gauge.clone();
        server::service_fn(move |line: String| {
            let inside = gauge.enter();
            async move {
                tokio::task::yield_now().await;
                drop(inside);
                Ok::<_, Infallible>(Some(line))
            }
        })
    };
    let pool = Pool::builder().size(1).build().unwrap();
    let server = case.builder().pool(&pool).codec(LinesCodec::new()).serve(service).unwrap();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..50 {
        clients.push(case.connect(&server).await);
    }
    for round in 0..10 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round} {n}\nagain\n")).await;
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.line().await, format!("{round} {n}"), "{case:?}");
            assert_eq!(client.line().await, "again", "{case:?}");
        }
    }
    assert_eq!((gauge.peak(), gauge.total()), (1, 1000), "{case:?}");
    drop(clients);
    emptied(&server).await;
    whole(&pool).await;
}

async fn a_service_that_waits_holds_its_slot(case: Case) {
    let gate = Gate::new();
    let service = {
        let gate = gate.clone();
        server::service_fn(move |line: String| {
            let gate = gate.clone();
            async move {
                gate.wait().await;
                Ok::<_, Infallible>(Some(line))
            }
        })
    };
    let pool = small();
    let server = case.builder().pool(&pool).codec(LinesCodec::new()).serve(service).unwrap();
    let mut clients: Vec<Client> = Vec::new();
    for n in 0..5 {
        let mut client = case.connect(&server).await;
        client.send(format!("{n}\n")).await;
        clients.push(client);
        eventually(|| pool.status().running == (n + 1).min(2) || n > 1).await;
        if n == 1 {
            // No slot is left for a handshake, either.
            break;
        }
    }
    let refused = pool.try_schedule(async {}).map(drop);
    assert!(refused.is_err(), "{case:?}");
    gate.open();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line().await, n.to_string(), "{case:?}");
    }
    support::server::parked(&server, 2).await;
    soon(pool.wait_idle()).await;
    quiet(&pool);
}

/// The server's turns and others' jobs have the slots in turn.
async fn shared_with_others(case: Case) {
    let pool = small();
    let server = std::sync::Arc::new(echo(case.builder().pool(&pool)));
    let clients: Vec<_> = (0..10)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut client = case.connect(&server).await;
                for round in 0..50 {
                    client.ask(&format!("{n} {round}")).await;
                }
            })
        })
        .collect();
    for _ in 0..500 {
        pool.schedule(tokio::task::yield_now()).await.unwrap().detach();
    }
    for client in clients {
        client.await.unwrap();
    }
    emptied(&server).await;
    whole(&pool).await;
}
