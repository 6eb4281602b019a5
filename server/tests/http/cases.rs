//! Requests and responses as clients see them: each server answers as `axum::serve` does.

use crate::support::http::cases::{CHUNKED, EXPECT, GET, POST, WEB_SOCKET, cases};
use crate::support::http::compare::{same_at_once, same_in_turn};
use crate::support::http::faulty::Fault;
use crate::support::http::hard_cases::hard_cases;
use crate::support::http::patient;
use crate::support::http::script::{Script, script};
use crate::support::http::target::{Target, against_all, faulty, oracle};

against_all!(each_case, each_hard_case, all_cases_at_once, every_split, every_two_splits);

async fn each_case(target: Target) {
    same_in_turn(target, oracle(target.tls), &cases()).await;
}

async fn each_hard_case(target: Target) {
    same_in_turn(target, oracle(target.tls), &hard_cases()).await;
}

/// The connections pause at different times.
async fn all_cases_at_once(target: Target) {
    let apart = |script: &Script| {
        let alone = |step: &crate::support::http::script::Step| {
            use crate::support::http::script::Step::{Inside, Notes};
            matches!(step, Inside(_) | Notes(_))
        };
        !script.steps.iter().any(alone)
    };
    let scripts: Vec<_> = cases().into_iter().filter(apart).collect();
    same_at_once(target, oracle(target.tls), &scripts).await;
}

/// Cuts each request in two at every byte, on a new connection and on a connection that was parked.
async fn every_split(target: Target) {
    let mut scripts = Vec::new();
    for (name, request) in [("get", GET), ("post", POST), ("chunks", CHUNKED), ("expect", EXPECT)] {
        let batch = format!("{request}{GET}");
        for at in 1..request.len() {
            let cut = |bytes: &str| [bytes[..at].to_owned(), bytes[at..].to_owned()];
            let name = |how| format!("{name}, {how}cut at {at}");
            scripts.push(script(name("")).pieces(cut(request)).replies(1).probe());
            let rested = script(name("at last, ")).send(GET).replies(1).settle();
            scripts.push(rested.pieces(cut(request)).replies(1).settle().probe());
            scripts.push(script(name("in a batch, ")).pieces(cut(&batch)).replies(2).probe());
        }
    }
    for at in 1..WEB_SOCKET.len() {
        let pieces = script(format!("web socket, cut at {at}")).pieces(cut(WEB_SOCKET, at));
        let close = [0x88, 0x80, 0, 0, 0, 0];
        scripts.push(pieces.replies(1).send(close).bytes(2).tail());
    }
    let some: Vec<_> = scripts.into_iter().step_by(target.one_in(1)).collect();
    same_at_once(target, oracle(target.tls), &some).await;
}

fn cut(bytes: &str, at: usize) -> [&str; 2] {
    [&bytes[..at], &bytes[at..]]
}

/// Cuts requests in three, and a batch of three requests in four.
async fn every_two_splits(target: Target) {
    let short = "GET /t@@@@@ HTTP/1.1\r\n\r\n";
    let mut scripts = Vec::new();
    for first in 1..short.len() - 1 {
        for second in first + 1..short.len() {
            let pieces = [&short[..first], &short[first..second], &short[second..]];
            let name = format!("cut at {first} and {second}");
            scripts.push(script(name).pieces(pieces).replies(1).probe());
        }
    }
    let batch = short.repeat(3);
    for at in 1..short.len() {
        let cuts = [0, at, at + short.len(), at + 2 * short.len(), batch.len()];
        let pieces = cuts.windows(2).map(|cut| &batch[cut[0]..cut[1]]);
        scripts.push(script(format!("each cut at {at}")).pieces(pieces).replies(3).probe());
    }
    same_at_once(target, oracle(target.tls), &scripts).await;
}

/// The comparison itself: it finds each fault that is built in, and no other.
#[test]
fn faults_are_found() {
    patient(async {
        for &fault in Fault::ALL {
            let compared = tokio::spawn(async move {
                let scripts =
                    [script("ended").send(GET).replies(1).send(GET).settle().fin().tail()];
                same_in_turn(faulty(fault), oracle(false), &scripts).await;
            });
            let found = compared.await.is_err();
            assert_eq!(found, !matches!(fault, Fault::None), "{fault:?}");
        }
    });
}
