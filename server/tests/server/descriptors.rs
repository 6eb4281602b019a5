//! A server that has no descriptor left does not spin, and goes on when there are some again. A proxy may
//! take every place of a server. The limit of descriptors can be raised.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::program::in_a_process_of_its_own;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::server::{Case, DEDICATED, EVENT_DRIVEN, accounted, echo, emptied};
use crate::support::*;
use tokio::time::sleep;

/// Says to the process that it is the one whose descriptors run out.
const MODE: &str = "MILLPOND_TEST_DESCRIPTORS";
const LIMIT: u64 = 64;
const CLIENTS: usize = 30;

/// Returns the mode that this process tries, if it is one for that.
fn case() -> Option<Case> {
    match std::env::var(MODE).as_deref() {
        Ok("dedicated") => Some(DEDICATED),
        Ok("event-driven") => Some(EVENT_DRIVEN),
        _ => None,
    }
}

#[test]
fn dedicated() {
    in_a_process_of_its_own("descriptors::runs_out", (MODE, "dedicated"));
}

#[test]
fn event_driven() {
    in_a_process_of_its_own("descriptors::runs_out", (MODE, "event-driven"));
}

#[test]
fn one_address_may_take_all_places() {
    in_a_process_of_its_own("descriptors::is_proxied", (MODE, "dedicated"));
    in_a_process_of_its_own("descriptors::is_proxied", (MODE, "event-driven"));
}

#[test]
fn the_limit_is_raised() {
    in_a_process_of_its_own("descriptors::raises", (MODE, ""));
}

#[test]
#[ignore = "a part of the others, in a process of its own"]
fn runs_out() {
    if let Some(case) = case() {
        paused(run_out(case));
    }
}

#[test]
#[ignore = "a part of the others, in a process of its own"]
fn is_proxied() {
    if let Some(case) = case() {
        single(be_proxied(case));
    }
}

#[test]
#[ignore = "a part of the others, in a process of its own"]
fn raises() {
    if std::env::var_os(MODE).is_none() {
        return;
    }
    set_limit(LIMIT);
    let raised = millpond_server::raise_descriptor_limit().unwrap();
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    assert_eq!(current, maximum);
    assert_eq!(raised, maximum.unwrap_or(u64::MAX));
    assert!(raised > LIMIT);
    assert_eq!(millpond_server::raise_descriptor_limit().unwrap(), raised);
}

fn set_limit(descriptors: u64) {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), maximum: most }).unwrap();
}

async fn be_proxied(case: Case) {
    set_limit(2 * LIMIT);
    let server = echo(case.builder());
    // The clients of the test live in this process.
    set_limit(10 * LIMIT);
    let mut clients = Vec::new();
    for _ in 0..LIMIT {
        let mut client = case.connect(&server).await;
        client.ask("let me in").await;
        clients.push(client);
    }
    assert_eq!(case.connect(&server).await.gone().await, b"");
    let status = accounted(&server);
    assert_eq!((status.open, status.refused_full), (LIMIT as usize, 1), "{case:?}: {status:?}");
}

async fn run_out(case: Case) {
    set_limit(LIMIT);
    let server = echo(
        case.builder().max_connections(1000).max_connections_per_ip(None).first_byte_timeout(None),
    );
    let address = server.local_addrs()[0];
    // The server does not run meanwhile: they take most of the descriptors, and wait for it.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    sleep(Duration::from_secs(20)).await;
    let status = accounted(&server);
    let accepted = status.open;
    assert!(accepted > 5 && accepted < CLIENTS, "{case:?}: {status:?}");
    // Up to half a second apart.
    assert!((20..80).contains(&status.accept_errors), "{case:?}: {status:?}");

    // The accepted connections are served.
    for client in &mut clients[..accepted] {
        client.set_nonblocking(true).unwrap();
        client.write_all(b"hello\n").unwrap();
    }
    eventually(|| server.status().frames == accepted as u64).await;
    // Of two descriptors that are free the server needs one.
    let mut waiting = clients.split_off(accepted);
    drop(clients);
    sleep(Duration::from_secs(2)).await;
    let status = accounted(&server);
    assert_eq!((status.open, status.closed), (waiting.len(), accepted as u64), "{status:?}");
    for client in &mut waiting {
        client.write_all(b"hello\n").unwrap();
    }
    eventually(|| server.status().frames == CLIENTS as u64).await;
    for client in &mut waiting {
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello\n");
    }
    let errors = server.status().accept_errors;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(server.status().accept_errors, errors, "{case:?}");
    drop(waiting);
    let status = emptied(&server).await;
    assert_eq!((status.accepted, status.closed), (CLIENTS as u64, CLIENTS as u64), "{case:?}");
}
