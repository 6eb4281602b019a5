//! Malformed and ambiguous requests: each server gives the verdict of plain hyper, however the bytes
//! arrive. The verdict is which requests the app saw, the response, and whether the connection closed.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::support::http::cases::GET;
use crate::support::http::compare::same_at_once;
use crate::support::http::malformed::{Malformed, malformed, malformed_and_large};
use crate::support::http::patient;
use crate::support::http::script::{Script, script};
use crate::support::http::target::{Target, against_all, oracle, plain};

against_all!(at once: whole, after_a_rest, behind_another, in_large, every_split, byte_by_byte);

/// Compares with the right reference: hyper with or without a look for the preface of HTTP/2.
async fn judged(
    target: Target,
    all: Vec<Malformed>,
    script_of: impl Fn(&Malformed) -> Vec<Script>,
) {
    let (prefaces, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| case.preface);
    let scripts: Vec<_> = others.iter().flat_map(&script_of).collect();
    same_at_once(target, plain(target.tls), &scripts).await;
    let right = if target.sniffs { oracle(target.tls) } else { plain(target.tls) };
    let scripts: Vec<_> = prefaces.iter().flat_map(&script_of).collect();
    same_at_once(target, right, &scripts).await;
}

async fn whole(target: Target) {
    assert!(malformed().len() >= 200, "{}", malformed().len());
    judged(target, malformed(), |case| vec![script(&case.name).send(&case.bytes).tail()]).await;
}

async fn after_a_rest(target: Target) {
    let rested = |case: &Malformed| {
        let script = script(&case.name).send(GET).replies(1).settle().send(&case.bytes);
        vec![script.settle().tail()]
    };
    judged(target, malformed(), rested).await;
}

async fn behind_another(target: Target) {
    let behind = |case: &Malformed| {
        vec![script(&case.name).send([GET.as_bytes(), &case.bytes].concat()).settle().tail()]
    };
    judged(target, malformed(), behind).await;
}

async fn in_large(target: Target) {
    let large = |case: &Malformed| {
        let pieces = script(format!("{}, in pieces", case.name)).pieces(case.bytes.chunks(9001));
        vec![script(&case.name).send(&case.bytes).tail(), pieces.tail()]
    };
    judged(target, malformed_and_large(), large).await;
}

/// Cuts each request in two, at other places for each request. Smuggled bytes come with the last part.
async fn every_split(target: Target) {
    let step = target.one_in(16);
    let start = AtomicUsize::new(0);
    let splits = |case: &Malformed| {
        let start = start.fetch_add(1, Relaxed) % step;
        (1 + start..case.bytes.len().min(200).saturating_sub(30))
            .step_by(step)
            .map(|at| {
                let (first, second) = case.bytes.split_at(at);
                let script = script(format!("{}, cut at {at}", case.name));
                script.pieces([first, second]).tail()
            })
            .collect()
    };
    judged(target, malformed(), splits).await;
}

async fn byte_by_byte(target: Target) {
    let bytes = |case: &Malformed| {
        vec![script(&case.name).pieces(case.bytes.iter().map(|byte| [*byte])).tail()]
    };
    let some = malformed().into_iter().step_by(target.one_in(1)).collect();
    judged(target, some, bytes).await;
}
