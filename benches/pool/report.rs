//! The tables.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::args::Args;
use crate::arms::{self, Entry};
use crate::plan::{Outcome, Outcomes};

const NONE: &str = "n/a";

pub fn tables(args: &Args, outcomes: &Outcomes) -> String {
    let parts = [
        throughput(&args.arms, &outcomes.throughput),
        latency("Neighbour: lateness of a 1 ms timer during a flood", &outcomes.neighbour),
        latency("Head of line: wait from submission to start", &outcomes.head_of_line),
        memory(args, &outcomes.memory),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn throughput(arms: &[&Entry], outcomes: &[Outcome<f64>]) -> Option<String> {
    let reference = arms::ALL.iter().find(|arm| arm.key == arms::REFERENCE)?.label;
    let title = format!("Throughput: ns per job (throughput relative to {reference})");
    let rows = outcomes.iter().map(|outcome| {
        let median = |label| median(find(outcome, label)?.clone());
        let reference = median(reference);
        let cell = |arm: &&Entry| {
            let own = median(arm.label)?;
            let ratio = reference.map(|reference| format!(" ({:.2}x)", reference / own));
            Some(grouped(own) + &ratio.unwrap_or_default())
        };
        row([outcome.name, outcome.flavour.label()], arms, cell)
    });
    let table = table(&title, &["workload", "runtime"], arms, rows)?;
    Some(table + &spread(outcomes).unwrap_or_default())
}

fn memory(args: &Args, outcomes: &[Outcome<Option<f64>>]) -> Option<String> {
    let jobs = grouped(args.memory_jobs as f64);
    let title = format!("Peak memory in MB after {jobs} jobs");
    let rows = outcomes.iter().map(|outcome| {
        let peak = |arm: &&Entry| find(outcome, arm.label)?.first().copied().flatten();
        let cell = |arm: &&Entry| peak(arm).map(|kb| format!("{:.1}", kb / 1024.0));
        row(
            [outcome.name.trim_start_matches("peak memory, "), outcome.flavour.label()],
            &args.arms,
            cell,
        )
    });
    table(&title, &["workload", "runtime"], &args.arms, rows)
}

fn latency(title: &str, outcomes: &[Outcome<Histogram<u64>>]) -> Option<String> {
    let mut text = heading(title);
    text += "| measurement | rival | p50 | p99 | p99.9 | max | samples |\n";
    text += "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n";
    for outcome in outcomes {
        for (label, rounds) in &outcome.arms {
            let mut merged = Histogram::<u64>::new(3).expect("3 digits are valid");
            for round in rounds {
                merged.add(round).expect("the histogram grows");
            }
            let quantiles =
                [0.5, 0.99, 0.999].map(|at| time(merged.value_at_quantile(at))).join(" | ");
            let (max, samples) = (time(merged.max()), grouped(merged.len() as f64));
            let (name, runtime) = (outcome.name, outcome.flavour.label());
            writeln!(text, "| {name}, {runtime} | {label} | {quantiles} | {max} | {samples} |")
                .ok()?;
        }
    }
    (!outcomes.is_empty()).then_some(text)
}

fn heading(title: &str) -> String {
    format!("### {title}\n\n")
}

fn table(
    title: &str,
    leading: &[&str],
    arms: &[&Entry],
    rows: impl Iterator<Item = String>,
) -> Option<String> {
    let rows: String = rows.collect();
    let labels = arms.iter().map(|arm| arm.label);
    let header: Vec<_> = leading.iter().copied().chain(labels).collect();
    let rules = " --- |".repeat(leading.len()) + &" ---: |".repeat(arms.len());
    let text = format!("{}| {} |\n|{rules}\n{rows}", heading(title), header.join(" | "));
    (!rows.is_empty()).then_some(text)
}

fn row<const N: usize>(
    leading: [&str; N],
    arms: &[&Entry],
    cell: impl Fn(&&Entry) -> Option<String>,
) -> String {
    let cells = arms.iter().map(|arm| cell(arm).unwrap_or_else(|| NONE.into()));
    let cells: Vec<_> = leading.into_iter().map(String::from).chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// How far the rounds lie apart: differences smaller than this say nothing.
fn spread(outcomes: &[Outcome<f64>]) -> Option<String> {
    let mut spreads = Vec::new();
    for rounds in outcomes.iter().flat_map(|outcome| &outcome.arms).map(|(_, rounds)| rounds) {
        let low = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rounds.iter().copied().fold(0.0, f64::max);
        spreads.push((high - low) / median(rounds.clone())? * 100.0);
    }
    let worst = spreads.iter().copied().fold(0.0, f64::max);
    let half = median(spreads)?;
    let text = "Spread of a cell's rounds, (slowest - fastest) / median";
    Some(format!("\n{text}: {half:.0} % in the median cell, {worst:.0} % in the worst.\n"))
}

fn find<'a, T>(outcome: &'a Outcome<T>, label: &str) -> Option<&'a Vec<T>> {
    outcome.arms.iter().find(|(other, _)| *other == label).map(|(_, rounds)| rounds)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

fn time(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    if us < 1e3 { format!("{us:.1} µs") } else { format!("{:.2} ms", us / 1e3) }
}

/// Whole, with commas between the thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let tail = tail.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let groups = (!head.is_empty()).then(|| head.into()).into_iter().chain(tail);
    groups.collect::<Vec<_>>().join(",")
}
