//! A peer that floods the server gets its turns, and no more than that.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::server::{Case, Client, in_all_cases, parked, service_fn};
use millpond_server::{Server, ServerBuilder};
use tokio_util::codec::LinesCodec;

in_all_cases!(single: many_frames, many_bytes, floods_from_one_address);

const OTHERS: usize = 10;
const ROUNDS: usize = 5;

/// How many frames of floods were served before each frame of others.
#[derive(Clone, Default)]
struct Turns {
    floods: Arc<AtomicUsize>,
    before_others: Arc<Mutex<Vec<usize>>>,
}

impl Turns {
    fn serve(&self, builder: ServerBuilder) -> Server {
        let turns = self.clone();
        let service = move |line: String| {
            if line.starts_with('x') {
                turns.floods.fetch_add(1, SeqCst);
            } else {
                turns.before_others.lock().unwrap().push(turns.floods.load(SeqCst));
            }
            async move { Ok::<_, Infallible>(Some(line)) }
        };
        builder.codec(LinesCodec::new()).serve(service_fn(service)).unwrap()
    }
}

/// What floods and others have sent stands in the kernel when the server looks. Gives how many
/// frames of floods were served before the last one of others, in the worst round.
async fn flooded(case: Case, builder: ServerBuilder, flood: &str, floods: usize) -> usize {
    let turns = Turns::default();
    let server = turns.serve(builder);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..floods + OTHERS {
        let mut client = case.connect(&server).await;
        client.ask("hello").await;
        clients.push(client);
    }
    parked(&server, floods + OTHERS).await;
    let lines = flood.lines().count();
    let mut worst = 0;
    for round in 0..ROUNDS {
        turns.floods.store(0, SeqCst);
        turns.before_others.lock().unwrap().clear();
        // All of it fits, so that the server does not run in between.
        let (flooding, others) = clients.split_at_mut(floods);
        for client in &mut *flooding {
            client.send(flood).await;
        }
        for client in &mut *others {
            client.send(format!("{round}\n")).await;
        }
        for client in &mut *others {
            assert_eq!(client.line().await, round.to_string(), "{case:?}");
        }
        for client in &mut *flooding {
            for _ in 0..lines {
                assert!(client.line().await.starts_with('x'), "{case:?}");
            }
        }
        let before = turns.before_others.lock().unwrap();
        assert_eq!(before.len(), OTHERS);
        worst = worst.max(*before.last().unwrap());
    }
    worst
}

async fn many_frames(case: Case) {
    let worst = flooded(case, case.builder().read_budget_frames(8), &"x\n".repeat(10_000), 1).await;
    assert!(worst <= 4 * 8, "{case:?}: {worst}");
}

async fn many_bytes(case: Case) {
    // One read's worth is 164 of them.
    let line = "x".repeat(99) + "\n";
    let builder = case.builder().read_budget_bytes(1000).read_budget_frames(100_000);
    let worst = flooded(case, builder, &line.repeat(600), 1).await;
    assert!(worst <= 2 * 164, "{case:?}: {worst}");
}

async fn floods_from_one_address(case: Case) {
    let worst = flooded(case, case.builder().read_budget_frames(8), &"x\n".repeat(2_000), 5).await;
    assert!(worst <= 5 * 4 * 8, "{case:?}: {worst}");
}
