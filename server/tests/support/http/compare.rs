//! Plays the same scripts on a server under test and on a reference server.

use std::fmt::Write as _;

use super::play::{Seen, play};
use super::script::Script;
use super::target::{Target, Up};

/// The number of connections of a batch.
pub const BATCH: usize = 400;

/// Plays the scripts one after another, so that a client can wait for its server to be at rest.
pub async fn same_in_turn(target: Target, oracle: Target, scripts: &[Script]) {
    same(target, oracle, scripts, (1, false)).await;
}

/// Plays many scripts at the same time.
pub async fn same_at_once(target: Target, oracle: Target, scripts: &[Script]) {
    same(target, oracle, scripts, (BATCH, false)).await;
}

/// The same for scripts whose outcome may depend on timing: those that differ are played again, alone.
/// A loaded machine may join parts of a head, and what comes together is judged together. After the end
/// of its peer, hyper now and then leaves a connection open whose upgrade was not taken.
pub async fn same_or_again(target: Target, oracle: Target, scripts: &[Script]) {
    same(target, oracle, scripts, (BATCH, true)).await;
}

async fn same(
    target: Target,
    oracle: Target,
    scripts: &[Script],
    (at_a_time, again): (usize, bool),
) {
    let (right, tested) = (oracle.start().await, target.start().await);
    let mut differing = Vec::new();
    for scripts in scripts.chunks(at_a_time) {
        let expected = play(&right, scripts, None).await;
        let seen = play(&tested, scripts, Some(&expected)).await;
        if std::env::var_os("MILLPOND_TRANSCRIPTS").is_some() {
            scripts.iter().zip(&expected).for_each(|(script, seen)| print(script, &right, seen));
        }
        for ((script, expected), seen) in scripts.iter().zip(&expected).zip(&seen) {
            let mut same = agree(script, expected, seen);
            for _ in 0..if again && !same { 3 } else { 0 } {
                let expected = play(&right, std::slice::from_ref(script), None).await;
                let seen = play(&tested, std::slice::from_ref(script), Some(&expected)).await;
                same |= agree(script, &expected[0], &seen[0]);
            }
            if !same {
                differing.push(difference(script, &right, expected, &tested, seen));
            }
        }
    }
    let shown = differing.iter().take(10).cloned().collect::<String>();
    let counts = format!("{} of {} differ", differing.len(), scripts.len());
    assert!(differing.is_empty(), "{counts}:\n{shown}");
}

fn agree(script: &Script, expected: &Seen, seen: &Seen) -> bool {
    let said = |seen: &Seen| -> Vec<String> {
        seen.lines.iter().take_while(|line| line.starts_with("HTTP/")).cloned().collect()
    };
    let (right, said) = (said(expected), said(seen));
    let cut_short = right.starts_with(&said) || said.starts_with(&right);
    let closed = seen.lines.iter().any(|line| line == "closed");
    expected.lines == seen.lines || script.cut_short && cut_short && closed
}

fn difference(script: &Script, right: &Up, expected: &Seen, tested: &Up, seen: &Seen) -> String {
    let mut text = format!("\n## {}\n", script.name);
    for step in &script.steps {
        let mut step = match step {
            super::script::Step::Send(bytes) => format!("Send {}", bytes.escape_ascii()),
            super::script::Step::Part(whole, part) => {
                format!("Send {}", whole[part.clone()].escape_ascii())
            }
            step => format!("{step:?}"),
        };
        if step.len() > 300 {
            let end = (300..).find(|at| step.is_char_boundary(*at)).unwrap_or(step.len());
            step.truncate(end);
            step.push_str("...");
        }
        writeln!(text, "  {step}").unwrap();
    }
    text + &transcript(right, expected) + &transcript(tested, seen)
}

fn transcript(up: &Up, seen: &Seen) -> String {
    let tls = if up.target.tls { " with TLS" } else { "" };
    let lines: String = seen.lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("-- {}{tls}\n{lines}", up.target.name)
}

fn print(script: &Script, up: &Up, seen: &Seen) {
    println!("## {}\n{}", script.name, transcript(up, seen));
}
