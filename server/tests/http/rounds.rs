//! A connection that is parked and served again, any number of times, loses no byte. `MILLPOND_ROUNDS` is
//! the number of requests over all connections.

use std::env;
use std::sync::Arc;

use crate::support::http::LIMIT;
use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, nothing_left, serve};
use crate::support::multi_for;
use crate::support::server::{Case, DEDICATED, EVENT_DRIVEN};
use millpond::Pool;
use millpond_server::http::Server;

const CONNECTIONS: usize = 8;

fn rounds() -> usize {
    let text = env::var("MILLPOND_ROUNDS");
    text.map_or(8_000, |text| text.parse().expect("MILLPOND_ROUNDS is a number"))
}

async fn run(case: Case, pool: Option<Pool>) {
    run_with(case, pool, 1024).await;
}

async fn run_with(case: Case, pool: Option<Pool>, warm: usize) {
    let builder = case.http().max_connections_per_ip(None).warm_connections(warm);
    let rounds = rounds() / CONNECTIONS;
    let builder = match &pool {
        Some(pool) => builder.pool(pool),
        None => builder,
    };
    let server: Arc<Server> = Arc::new(serve(builder, &App::default()));
    let clients = (0..CONNECTIONS).map(|_| {
        let server = server.clone();
        tokio::spawn(async move {
            let mut client = case.client(&server).await;
            for _ in 0..rounds {
                client.send(HELLO).await;
                while !client.line().await.is_empty() {}
                assert_eq!(client.read_exact(5).await, b"hello");
            }
            client
        })
    });
    let mut done = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        done.push(client.await.unwrap());
    }
    at_rest(&server, CONNECTIONS, 0).await;
    let status = server.status();
    assert_eq!(status.frames, (rounds * CONNECTIONS) as u64, "{case:?}: {status:?}");
    drop(done);
    nothing_left(&server).await;
}

#[test]
fn one_thread() {
    multi_for(LIMIT, 1, async {
        run(EVENT_DRIVEN, None).await;
        run(DEDICATED, None).await;
    });
}

#[test]
fn two_threads() {
    multi_for(LIMIT, 2, async {
        run_with(EVENT_DRIVEN, None, 0).await;
        run(EVENT_DRIVEN, None).await;
        run(DEDICATED, None).await;
    });
}

#[test]
fn two_threads_with_one_slot() {
    multi_for(LIMIT, 2, async {
        run_with(EVENT_DRIVEN, Some(Pool::builder().size(1).build().unwrap()), 0).await;
        run(EVENT_DRIVEN, Some(Pool::builder().size(1).build().unwrap())).await;
        run(DEDICATED, Some(Pool::builder().size(1).build().unwrap())).await;
    });
}
