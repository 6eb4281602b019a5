//! Malformed and ambiguous requests: each server gives the verdict of plain hyper, however the bytes
//! arrive. The verdict is which requests the app saw, the response, and whether the connection closed.
//!
//! `MILLPOND_SCRIPTS` is the number of random scripts, `MILLPOND_SEED` their seed. `fuzz/` has the same
//! comparison as a fuzz target.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::support::Dice;
use crate::support::http::cases::GET;
use crate::support::http::compare::{same_at_once, same_or_again};
use crate::support::http::malformed::{Malformed, malformed, malformed_and_large};
use crate::support::http::patient;
use crate::support::http::pieces::requests;
use crate::support::http::script::{Script, script};
use crate::support::http::target::{Target, against_all, oracle, plain};

against_all!(at once: whole, after_a_rest, behind_another, in_large, every_split, byte_by_byte);
against_all!(at once: bytes_behind_another, half_closed, random);

/// Compares with the right reference: hyper with or without a look for the preface of HTTP/2.
async fn judged(
    target: Target,
    all: Vec<Malformed>,
    script_of: impl Fn(&Malformed) -> Vec<Script>,
) {
    for (right, scripts) in by_reference(target, all, script_of) {
        same_at_once(target, right, &scripts).await;
    }
}

/// Returns the scripts of both references.
fn by_reference(
    target: Target,
    all: Vec<Malformed>,
    script_of: impl Fn(&Malformed) -> Vec<Script>,
) -> [(Target, Vec<Script>); 2] {
    let (prefaces, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| case.preface);
    let sniffing = if target.sniffs { oracle(target.tls) } else { plain(target.tls) };
    let scripts = |cases: Vec<Malformed>| cases.iter().flat_map(&script_of).collect();
    [(plain(target.tls), scripts(others)), (sniffing, scripts(prefaces))]
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

async fn bytes_behind_another(target: Target) {
    let bytes = |case: &Malformed| {
        let bytes = [GET.as_bytes(), &case.bytes].concat();
        vec![script(&case.name).pieces(bytes.iter().map(|byte| [*byte])).tail()]
    };
    let some = malformed().into_iter().step_by(target.one_in(4)).collect();
    judged(target, some, bytes).await;
}

/// The peer ends its side: behind the request, behind another request, and within the request.
async fn half_closed(target: Target) {
    let ended = |case: &Malformed| {
        let (bytes, name) = (&case.bytes, &case.name);
        let behind = script(format!("{name}, behind another")).send(GET).replies(1).send(bytes);
        let cut = script(format!("{name}, cut")).send(&bytes[..bytes.len() * 2 / 3]);
        let whole = script(name).send(bytes);
        [whole, behind, cut].map(|script| script.settle().fin().tail()).into()
    };
    for (right, scripts) in by_reference(target, malformed(), ended) {
        same_or_again(target, right, &scripts).await;
    }
}

/// Requests of random fragments: whole, behind another, byte by byte, and with the peer's end.
async fn random(target: Target) {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let seed: u64 = number("MILLPOND_SEED").unwrap_or(1);
    let count = number("MILLPOND_SCRIPTS").unwrap_or(if target.tls { 200 } else { 1_000 });
    let scripts: Vec<_> = (0..count)
        .map(|number| {
            let mut dice = Dice::new(seed.wrapping_mul(1 << 32).wrapping_add(number));
            let length = 2 + dice.below(24);
            let chosen: Vec<_> = (0..length).map(|_| dice.below(256) as u8).collect();
            let text = String::from_utf8_lossy(&requests(chosen)).into_owned();
            // Behind a kept request of HTTP/1.0 hyper says HTTP/1.0 in a 400. A parked connection does not
            // remember the version of its last request.
            let text = text.replace("connection: keep-alive", "connection: x");
            let bytes = text.as_bytes();
            let script = script(format!("script {number} of MILLPOND_SEED={seed}"));
            match dice.below(4) {
                0 => script.send([GET.as_bytes(), bytes].concat()).tail(),
                1 => {
                    // Whether the rest of an unread body is at hand depends on timing.
                    let text = text.replace("/early/", "/read_/");
                    script.pieces(text.bytes().take(400).map(|byte| [byte])).tail()
                }
                2 => script.send(bytes).settle().fin().tail(),
                _ => script.send(bytes).tail(),
            }
        })
        .collect();
    same_or_again(target, plain(target.tls), &scripts).await;
}
