//! Busy connections: each stays in its task between turns. In the event-driven mode it gets that task when
//! it is busy, and gives it up when it is idle. Nothing else about the connection changes.

use std::time::Duration;

use crate::slow;
use crate::support::chat::Chat;
use crate::support::server::{
    Case, Client, EVENT_DRIVEN, closed_for, echo, emptied, in_both_modes, no_time, parked, paused,
};
use crate::support::*;
use millpond::Pool;
use millpond_server::{CloseReason, Deadline, Mode, Server};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

in_both_modes!(paused: the_idle_deadline_goes_on, a_push_reaches_it, a_shutdown_reaches_it);
in_both_modes!(paused: a_kill_reaches_it, a_kill_reaches_its_handler, the_write_deadline_holds);
in_both_modes!(paused: a_panic_ends_it_alone);

const SECOND: Duration = Duration::from_secs(1);

/// More frames than make a connection busy.
const MANY: usize = 8;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn asks_often(client: &mut Client) {
    for n in 0..MANY {
        no_time(client.ask(&format!("{n}"))).await;
    }
}

/// Waits until all connections are parked, and workers without a connection have ended.
async fn at_rest(server: &Server) {
    parked(server, server.status().open).await;
    settle().await;
}

/// Connects clients that ask often. In the event-driven mode `most` of them have tasks then.
async fn busy_of(case: Case, server: &Server, count: usize, most: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(no_time(case.connect(server)).await);
    }
    // Workers of the first turns have ended.
    at_rest(server).await;
    let before = tasks();
    for client in &mut clients {
        asks_often(client).await;
    }
    at_rest(server).await;
    if case.mode == Mode::EventDriven {
        assert_eq!(tasks(), before + most);
    }
    clients
}

async fn busy(case: Case, server: &Server) -> Client {
    busy_of(case, server, 1, 1).await.remove(0)
}

#[test]
fn tasks_come_and_go() {
    paused(async {
        let server = echo(EVENT_DRIVEN.no_deadlines());
        let mut seldom = no_time(EVENT_DRIVEN.connect(&server)).await;
        no_time(seldom.ask("once")).await;
        at_rest(&server).await;
        let before = tasks();
        let mut client = busy(EVENT_DRIVEN, &server).await;
        for _ in 0..3 {
            for _ in 0..5 {
                sleep(SECOND / 2).await;
                asks_often(&mut client).await;
                at_rest(&server).await;
                assert_eq!(tasks(), before + 1);
            }
            sleep(4 * SECOND).await;
            at_rest(&server).await;
            assert_eq!(tasks(), before);
            asks_often(&mut client).await;
        }
        assert_eq!(server.status().frames, 1 + 19 * MANY as u64);
        drop((seldom, client));
        emptied(&server).await;
    });
}

#[test]
fn their_number_is_bounded() {
    paused(async {
        for most in [0, 2] {
            let server = echo(EVENT_DRIVEN.no_deadlines().warm_connections(most));
            drop(busy_of(EVENT_DRIVEN, &server, 4, most).await);
            emptied(&server).await;
            // The places of those that have ended are free again.
            drop(busy_of(EVENT_DRIVEN, &server, 4, most).await);
            emptied(&server).await;
        }
    });
}

/// There a task would need a slot for each turn, and a worker needs one for many.
#[test]
fn none_has_a_task_beside_a_pool() {
    paused(async {
        // The one worker of the pool is a task, too.
        let pool = Pool::builder().size(1).build().unwrap();
        let server = echo(EVENT_DRIVEN.no_deadlines().pool(&pool));
        pool.prewarm(1);
        drop(busy_of(EVENT_DRIVEN, &server, 4, 0).await);
        emptied(&server).await;
        whole(&pool).await;
    });
}

/// The deadline that begins with a frame goes on when the connection is warm no more.
async fn the_idle_deadline_goes_on(case: Case) {
    let limit = 8 * SECOND;
    let server = echo(case.no_deadlines().idle_timeout(limit));
    let mut client = busy(case, &server).await;
    for _ in 0..12 {
        sleep(SECOND).await;
        asks_often(&mut client).await;
    }
    let start = Instant::now();
    assert_eq!(within(20 * limit, client.gone()).await.unwrap(), b"");
    let waited = start.elapsed();
    assert!(waited >= limit && waited <= limit + 2 * SECOND, "{case:?}: {waited:?}");
    let status = emptied(&server).await;
    let closed = status.closed_for(CloseReason::Deadline(Deadline::Idle));
    assert_eq!(closed, 1, "{case:?}: {status:?}");
}

async fn a_push_reaches_it(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.no_deadlines());
    let mut client = busy(case, &server).await;
    let peer = chat.peers().remove(0);
    for n in 0..3 {
        // Warm, and after the sleep no more.
        for text in ["warm", "still warm", "cold"] {
            let text = format!("{text} {n}");
            peer.try_send(text.clone()).unwrap();
            assert_eq!(no_time(client.line()).await, text, "{case:?}");
            if text.starts_with("still") {
                sleep(4 * SECOND).await;
            }
        }
        asks_often(&mut client).await;
    }
    peer.close();
    assert_eq!(no_time(client.rest()).await, b"", "{case:?}");
    drop(client);
    emptied(&server).await;
    assert_eq!(chat.ends(), [(0, CloseReason::ClosedByServer)], "{case:?}");
}

async fn a_shutdown_reaches_it(case: Case) {
    let server = echo(case.no_deadlines());
    let mut clients = busy_of(case, &server, 4, 4).await;
    // No event has told the server of these bytes yet.
    clients[0].send("the last\n").await;
    let report = no_time(server.shutdown(600 * SECOND)).await;
    let ended = (report.closed + report.others, report.aborted, report.still_open);
    assert_eq!(ended, (4, 0, 0), "{case:?}: {report:?}");
    assert_eq!(no_time(clients[0].rest_text()).await, "the last\n", "{case:?}");
    for client in &mut clients[1..] {
        assert_eq!(no_time(client.rest()).await, b"", "{case:?}");
    }
    emptied(&server).await;
}

async fn a_kill_reaches_it(case: Case) {
    let before = tasks();
    let server = echo(case.no_deadlines());
    let mut clients = busy_of(case, &server, 4, 4).await;
    drop(server);
    for client in &mut clients {
        no_time(client.gone()).await;
    }
    eventually(|| tasks() == before).await;
}

/// The task waits for user code, in one of the turns that follow one another in its future.
async fn a_kill_reaches_its_handler(case: Case) {
    let before = tasks();
    let chat = Chat::new();
    let server = chat.serve(case.no_deadlines());
    let mut client = busy(case, &server).await;
    client.send("wait\n").await;
    eventually(|| chat.at_work().now() == 1).await;
    let report = server.shutdown(SECOND).await;
    assert_eq!((report.aborted, report.still_open), (1, 0), "{case:?}: {report:?}");
    assert_eq!(chat.at_work().now(), 0, "{case:?}");
    assert_eq!(no_time(client.gone()).await, b"", "{case:?}");
    closed_for(&server, CloseReason::Aborted, 1).await;
    assert_eq!(chat.ends(), [(0, CloseReason::Aborted)], "{case:?}");
    drop(server);
    eventually(|| tasks() == before).await;
}

async fn the_write_deadline_holds(case: Case) {
    slow::meets_the_write_deadline(case, MANY).await;
}

/// The place of the connection is free afterwards.
async fn a_panic_ends_it_alone(case: Case) {
    let chat = Chat::new();
    let server = chat.serve(case.no_deadlines().warm_connections(1));
    for round in 1..=3 {
        let mut client = busy(case, &server).await;
        client.send("panic\n").await;
        no_time(client.gone()).await;
        closed_for(&server, CloseReason::Panicked, round).await;
    }
    emptied(&server).await;
}
