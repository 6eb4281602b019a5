//! Framed servers beside a second runtime: handlers that it wakes, sends from its tasks, a pool that it runs,
//! its end.

use std::io::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::support::chat::Chat;
use crate::support::other_runtime::OtherRuntime;
use crate::support::server::{
    Case, Client, closed_for, echo, emptied, in_all_cases, in_both_modes, parked, service_fn,
};
use crate::support::*;
use millpond::Pool;
use millpond_server::{CloseReason, Server};
use tokio::runtime::{Builder, Handle};
use tokio_util::codec::LinesCodec;

in_all_cases!(single: wakes_of_one_thread, sends_of_one_thread, a_runtime_ends, of_one_thread_ends);
in_all_cases!(single: a_shared_pool_loses_its_runtime, a_pool_without_sockets);
in_all_cases!(double: wakes_of_threads, sends_of_threads, a_shared_pool_of_threads);
in_all_cases!(double_for_long: many_ends);
in_both_modes!(single: an_undriven_server_ends);

const SECOND: Duration = Duration::from_secs(1);

/// A server whose service waits for a task of another runtime.
fn elsewhere(case: Case, other: &Handle) -> Server {
    let other = other.clone();
    let service = service_fn(move |line: String| {
        let other = other.clone();
        async move {
            let answer = other.spawn(async move {
                match line.len() % 3 {
                    0 => tokio::time::sleep(Duration::from_millis(1)).await,
                    1 => tokio::task::yield_now().await,
                    _ => {}
                }
                line
            });
            answer.await.map(Some).map_err(Error::other)
        }
    });
    case.builder().codec(LinesCodec::new()).serve(service).unwrap()
}

async fn wakes_of_one_thread(case: Case) {
    wakes(case, 0).await;
}

async fn wakes_of_threads(case: Case) {
    wakes(case, 2).await;
}

async fn wakes(case: Case, threads: usize) {
    let other = OtherRuntime::new(threads);
    let server = elsewhere(case, other.handle());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..6 {
        clients.push(case.connect(&server).await);
    }
    for round in 0..40 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round}\n{n}\n")).await;
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(soon(client.line()).await, round.to_string());
            assert_eq!(soon(client.line()).await, n.to_string());
        }
    }
    parked(&server, 6).await;
    other.end().await;
    for client in &mut clients {
        client.send("nothing answers\n").await;
        assert_eq!(soon(client.gone()).await, b"");
    }
    let status = emptied(&server).await;
    assert_eq!(status.closed_for(CloseReason::Service), 6, "{status:?}");
}

async fn sends_of_one_thread(case: Case) {
    sends(case, 0).await;
}

async fn sends_of_threads(case: Case) {
    sends(case, 2).await;
}

/// Tasks of the other runtime send, also while that runtime ends.
async fn sends(case: Case, threads: usize) {
    let other = OtherRuntime::new(threads);
    let chat = Chat::greeting("hello");
    let server = chat.serve(case.narrow_builder());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..8 {
        let mut client = case.connect(&server).await;
        assert_eq!(client.line().await, "hello");
        clients.push(client);
    }
    parked(&server, 8).await;
    for peer in chat.came(8).await {
        other.handle().spawn(async move {
            for n in 0.. {
                peer.send(n.to_string()).await.unwrap();
            }
        });
    }
    for client in &mut clients {
        for n in 0..500 {
            assert_eq!(soon(client.line()).await, n.to_string());
        }
    }
    other.end().await;
    for client in &mut clients {
        client.send("still there?\n").await;
        let mut last = soon(client.line()).await;
        while last != "still there?" {
            last = soon(client.line()).await;
        }
    }
    drop(clients);
    emptied(&server).await;
}

/// A server on the other runtime, with connections at rest, in the middle of a frame, of a handler's wait, and
/// of an answer that the peer does not take.
async fn all_kinds(
    case: Case,
    other: &OtherRuntime,
    pool: Option<&Pool>,
) -> (Chat, Server, Vec<Client>) {
    let chat = Chat::new();
    let server = {
        let _entered = other.enter();
        let builder = case.narrow_builder();
        chat.serve(if let Some(pool) = pool { builder.pool(pool) } else { builder })
    };
    let mut clients = Vec::new();
    for sent in ["", "hello\n", "part of a fra", "wait\n", "many 2000\n", "hello\nwait\n"] {
        for asked in [0, 8] {
            let mut client = case.connect_narrow(&server).await;
            for _ in 0..asked {
                client.ask("a question").await;
            }
            client.send(sent).await;
            clients.push(client);
        }
    }
    eventually(|| server.status().open == clients.len() && chat.at_work().now() == 6).await;
    (chat, server, clients)
}

async fn a_runtime_ends(case: Case) {
    ends_of(case, 2).await;
}

async fn of_one_thread_ends(case: Case) {
    ends_of(case, 0).await;
}

async fn ends_of(case: Case, threads: usize) {
    let other = OtherRuntime::new(threads);
    let (chat, server, clients) = all_kinds(case, &other, None).await;
    other.end().await;
    all_aborted(&chat, &server, clients).await;
    // During a shutdown that another runtime waits for.
    let other = OtherRuntime::new(threads);
    let (chat, server, mut clients) = all_kinds(case, &other, None).await;
    let server = Arc::new(server);
    let stops = server.clone();
    let report = tokio::spawn(async move { stops.shutdown(100 * SECOND).await });
    closed_for(&server, CloseReason::Shutdown, 4).await;
    other.end().await;
    let report = soon(report).await.unwrap();
    assert_eq!((report.closed, report.aborted, report.still_open), (4, 8, 0), "{report:?}");
    for client in &mut clients {
        soon(client.gone()).await;
    }
    assert_eq!(chat.ends().len(), clients.len());
}

/// All connections have ended with their runtime, for that reason.
async fn all_aborted(chat: &Chat, server: &Server, mut clients: Vec<Client>) {
    for client in &mut clients {
        soon(client.gone()).await;
    }
    let status = emptied(server).await;
    let count = clients.len() as u64;
    assert_eq!(status.closed_for(CloseReason::Aborted), count, "{status:?}");
    assert_eq!((chat.ends().len(), chat.at_work().now()), (clients.len(), 0));
    let report = soon(server.shutdown(10 * SECOND)).await;
    assert_eq!((report.closed, report.aborted, report.still_open), (0, 0, 0), "{report:?}");
}

async fn a_shared_pool_loses_its_runtime(case: Case) {
    shared_pool(case, 0).await;
}

async fn a_shared_pool_of_threads(case: Case) {
    shared_pool(case, 2).await;
}

async fn shared_pool(case: Case, threads: usize) {
    let pool = Pool::builder().size(64).build().unwrap();
    let other = OtherRuntime::new(threads);
    let (first_chat, first, first_clients) = all_kinds(case, &other, Some(&pool)).await;
    let chat = Chat::new();
    let server = chat.serve(case.builder().pool(&pool));
    let (mut idle, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        for clients in [&mut idle, &mut waiting] {
            let mut client = case.connect(&server).await;
            client.ask("hello").await;
            clients.push(client);
        }
    }
    for client in &mut waiting {
        client.send("wait\n").await;
    }
    eventually(|| chat.at_work().now() == 4 && server.status().parked == 4).await;
    other.end().await;
    all_aborted(&first_chat, &first, first_clients).await;
    for client in &mut waiting {
        assert_eq!(soon(client.gone()).await, b"");
    }
    closed_for(&server, CloseReason::Aborted, 4).await;
    for _ in 0..3 {
        for client in &mut idle {
            client.ask("still there?").await;
        }
    }
    let report = soon(server.shutdown(10 * SECOND)).await;
    assert_eq!((report.closed, report.aborted, report.still_open), (4, 0, 0), "{report:?}");
    drop(idle);
    emptied(&server).await;
    whole(&pool).await;
}

/// The runtime of a pool needs timers alone. The server's own runtime has the sockets.
async fn a_pool_without_sockets(case: Case) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let other = OtherRuntime::drive(runtime);
    let pool = Pool::builder().size(4).runtime(other.handle().clone()).build().unwrap();
    let server = echo(case.builder().pool(&pool));
    let mut client = case.connect(&server).await;
    for round in 0..50 {
        client.ask("a line ".repeat(round * 10 + 1).trim_end()).await;
    }
    drop(client);
    emptied(&server).await;
    whole(&pool).await;
    other.end().await;
}

/// Again and again, at any moment.
async fn many_ends(case: Case) {
    for round in 0..12 {
        let pool = Pool::builder().size(4).build().unwrap();
        let (first, second) = (OtherRuntime::new(round % 3), OtherRuntime::new((round + 1) % 3));
        let server = |other: &OtherRuntime, on_pool: bool| {
            let _entered = other.enter();
            echo(if on_pool { case.builder().pool(&pool) } else { case.builder() })
        };
        let servers = [
            server(&first, true),
            server(&second, true),
            server(&first, false),
            server(&second, false),
        ];
        let mut asking = Vec::new();
        for server in &servers {
            for _ in 0..3 {
                let mut client = case.connect(server).await;
                asking.push(tokio::spawn(async move {
                    let mut count = 0;
                    while client.try_send("hello\n").await.is_ok() {
                        match client.try_line().await.as_deref() {
                            Ok("hello\n") => count += 1,
                            _ => break,
                        }
                    }
                    count
                }));
            }
        }
        eventually(|| servers.iter().all(|server| server.status().frames > 20)).await;
        first.end().await;
        emptied(&servers[0]).await;
        emptied(&servers[2]).await;
        second.end().await;
        for asking in asking {
            soon(asking).await.unwrap();
        }
        for server in &servers {
            emptied(server).await;
        }
        soon(pool.wait_idle()).await;
        quiet(&pool);
    }
}

/// The runtime is never driven, so nothing of the server runs before its end.
async fn an_undriven_server_ends(case: Case) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = {
        let _entered = runtime.enter();
        echo(case.builder())
    };
    let mut client = case.connect(&server).await;
    client.send("hello\n").await;
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    assert_eq!(soon(client.gone()).await, b"");
    let report = soon(server.shutdown(10 * SECOND)).await;
    assert_eq!((report.closed, report.aborted, report.still_open), (0, 0, 0), "{report:?}");
    emptied(&server).await;
}
