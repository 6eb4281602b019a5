//! Busy connections of the event-driven mode: each gets a task, and gives it up when it is idle. Nothing
//! else about the connection changes.

use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Client, EVENT_DRIVEN, no_time, paused};
use crate::support::{eventually, multi, settle, soon, within};
use millpond_server::http::Server;
use millpond_server::{CloseReason, Deadline};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// More requests than make a connection busy.
const MANY: usize = 8;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn asks_often(client: &mut Client) {
    for _ in 0..MANY {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    }
}

async fn busy(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = EVENT_DRIVEN.client(server).await;
        asks_often(&mut client).await;
        clients.push(client);
    }
    let open = server.status().open;
    at_rest(server, open, 0).await;
    settle().await;
    clients
}

#[test]
fn tasks_come_and_go() {
    paused(async {
        let server = serve(EVENT_DRIVEN.timeless(), &App::default());
        let mut seldom = EVENT_DRIVEN.client(&server).await;
        assert_eq!(seldom.exchange(HELLO).await, "200 hello");
        at_rest(&server, 1, 0).await;
        settle().await;
        let before = tasks();
        let mut clients = busy(&server, 1).await;
        assert_eq!(tasks(), before + 1);
        for _ in 0..3 {
            // Busy ones keep their tasks.
            for _ in 0..5 {
                sleep(SECOND / 2).await;
                asks_often(&mut clients[0]).await;
                settle().await;
                assert_eq!(tasks(), before + 1);
            }
            sleep(4 * SECOND).await;
            settle().await;
            assert_eq!(tasks(), before);
            at_rest(&server, 2, 0).await;
            asks_often(&mut clients[0]).await;
        }
        assert_eq!(server.status().frames, 1 + 19 * MANY as u64);
        drop((seldom, clients));
        nothing_left(&server).await;
    });
}

#[test]
fn their_number_is_bounded() {
    paused(async {
        for most in [0, 2] {
            let server = serve(EVENT_DRIVEN.timeless().warm_connections(most), &App::default());
            drop(busy(&server, 1).await);
            eventually(|| server.status().open == 0).await;
            settle().await;
            let before = tasks();
            let clients = busy(&server, 4).await;
            assert_eq!(tasks(), before + most);
            drop(clients);
            nothing_left(&server).await;
        }
    });
}

/// The deadline that began with the task goes on after it.
#[test]
fn keep_alive_goes_on() {
    paused(async {
        let limit = 8 * SECOND;
        let server = serve(EVENT_DRIVEN.timeless().keep_alive_timeout(limit), &App::default());
        let mut clients = busy(&server, 1).await;
        let start = Instant::now();
        assert_eq!(within(20 * limit, clients[0].gone()).await.unwrap(), b"");
        let waited = start.elapsed();
        assert!(waited >= limit && waited <= limit + 2 * SECOND, "{waited:?}");
        let status = nothing_left(&server).await;
        assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::Idle)), 1, "{status:?}");
    });
}

/// Bytes and requests under way when a task would be given up.
#[test]
fn what_is_under_way_keeps_its_task() {
    paused(async {
        let app = App::default();
        let server = serve(EVENT_DRIVEN.timeless().shutdown_grace(None), &app);
        let sent = [
            (HELLO[..20].to_owned(), HELLO[20..].to_owned(), "200 hello"),
            (get("/held/a"), String::new(), "200 let go"),
            (post("/echo", 8) + "body", "body".to_owned(), "200 bodybody"),
            (post("/early", 4) + "body" + HELLO, String::new(), "200 before the body"),
        ];
        let mut clients = busy(&server, sent.len()).await;
        for (client, (first, ..)) in clients.iter_mut().zip(&sent) {
            client.send(first).await;
        }
        sleep(10 * SECOND).await;
        app.gate("a").open();
        for (client, (_, second, right)) in clients.iter_mut().zip(&sent) {
            client.send(second).await;
            assert_eq!(client.reply().await.text(), *right);
        }
        assert_eq!(clients[3].reply().await.text(), "200 hello");
        for _ in 0..3 {
            sleep(10 * SECOND).await;
            for client in &mut clients {
                assert_eq!(client.exchange(HELLO).await, "200 hello");
            }
        }
        assert_eq!(no_time(server.shutdown(600 * SECOND)).await.still_open, 0);
        drop(clients);
        nothing_left(&server).await;
    });
}

/// Connections move all the time, since a tick is short: no request gets lost, and a shutdown misses none.
#[test]
fn a_shutdown_misses_none() {
    multi(2, async {
        let tick = Duration::from_millis(80);
        for round in 0..20 {
            let builder = EVENT_DRIVEN.timeless().header_read_timeout(tick);
            let server = serve(builder.max_connections_per_ip(None), &App::default());
            let mut asking = Vec::new();
            for n in 0..8u64 {
                let mut client = EVENT_DRIVEN.client(&server).await;
                assert_eq!(client.exchange(HELLO).await, "200 hello");
                asking.push(tokio::spawn(async move {
                    let mut answered = 0;
                    loop {
                        for _ in 0..MANY {
                            let sent = client.try_send(HELLO).await;
                            // The server may have closed the connection.
                            match client.try_line().await {
                                Ok(line) if sent.is_ok() && !line.is_empty() => {}
                                _ => return answered,
                            }
                            while !client.line().await.is_empty() {}
                            assert_eq!(client.read_exact(5).await, b"hello");
                            answered += 1;
                        }
                        sleep(Duration::from_millis(15 + (n * 7 + round) % 20)).await;
                    }
                }));
            }
            sleep(Duration::from_millis(60 + 7 * round)).await;
            let report = soon(server.shutdown(600 * SECOND)).await;
            let ended = (report.closed + report.others, report.aborted, report.still_open);
            assert_eq!(ended, (8, 0, 0), "{report:?}");
            for asking in asking {
                assert!(soon(asking).await.unwrap() > 0);
            }
            nothing_left(&server).await;
        }
    });
}
