//! Connections are parked and taken up again a great many times, and none is forgotten.

use std::sync::Arc;
use std::time::Duration;

use crate::support::server::{Case, DEDICATED, EVENT_DRIVEN, emptied};
use crate::support::{Dice, runtime, within};
use millpond_server::Server;

/// So many rounds instead of the few that a test can wait for: a million, say.
const ROUNDS: &str = "MILLPOND_TEST_ROUNDS";
const CONNECTIONS: usize = 64;
/// No answer takes longer, unless a readiness was lost.
const PATIENCE: Duration = Duration::from_secs(20);

fn rounds() -> usize {
    std::env::var(ROUNDS).map_or(100_000, |text| text.parse().unwrap())
}

#[test]
fn event_driven() {
    run(EVENT_DRIVEN);
}

#[test]
fn dedicated() {
    run(DEDICATED);
}

/// The number of rounds is a setting, so no timeout bounds this test.
fn run(case: Case) {
    runtime(2).block_on(async move {
        let server = Arc::new(case.echo());
        let each = rounds().div_ceil(CONNECTIONS);
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|n| tokio::spawn(ping_pong(case, server.clone(), n, each)))
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let status = emptied(&server).await;
        let frames = (each * CONNECTIONS) as u64;
        assert_eq!(status.frames, frames, "{status:?}");
        // Each round has parked the connection, or nearly.
        assert!(status.turns > frames / 2, "{status:?}");
    });
}

async fn ping_pong(case: Case, server: Arc<Server>, n: usize, rounds: usize) {
    let mut client = case.connect(&server).await;
    let mut dice = Dice::new(n as u64);
    for round in 0..rounds {
        let line = format!("{n} {round}");
        let asks = async {
            // Its end comes at any moment of the turn that its beginning has set off.
            if dice.below(4) == 0 {
                let (head, tail) = line.split_at(dice.below(line.len() as u64) as usize);
                client.send(head).await;
                if dice.below(2) == 0 {
                    tokio::task::yield_now().await;
                }
                client.send(format!("{tail}\n")).await;
            } else {
                client.send(format!("{line}\n")).await;
            }
            assert_eq!(client.line().await, line);
        };
        if within(PATIENCE, asks).await.is_none() {
            panic!("{case:?}: lost in round {round}: {:?}", server.status());
        }
    }
}
