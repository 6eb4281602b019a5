//! Throughput and latency of workers on one broker: a bare client loop, millpond-worker, apalis.
//!
//! ```text
//! cargo run --release -- throughput [MESSAGES] [ROUNDS]
//! cargo run --release -- latency
//! cargo run --release -- processes [MESSAGES] [ROUNDS]
//! ```
//!
//! Each measurement is a process of its own with two threads, on a broker and a stream of its own.
//! Messages are no-ops. Arms take turns in each round. A measurement that does not end within three
//! minutes is stopped, and counts as failed.

mod arms;
mod picture;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arms::Arm;
use support::{Broker, Kind};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u32| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    match arguments.first().map(String::as_str) {
        Some("throughput") => throughput(number(1, 500_000), number(2, 3)),
        Some("latency") => latency(),
        Some("processes") => processes(number(1, 200_000), number(2, 3).max(1) as usize),
        // A measurement: ARM URL MESSAGES
        Some("arm") => arms::measure(&arguments[1], &arguments[2], number(3, 0)),
        Some("fill") => arms::fill_only(&arguments[1], &arguments[2], number(3, 0)),
        Some("latency-arm") => arms::latency(&arguments[1], &arguments[2], number(3, 0)),
        _ => {
            eprintln!(
                "accepted is: throughput [MESSAGES] [ROUNDS], latency, processes [MESSAGES] [ROUNDS]"
            )
        }
    }
}

fn child(arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a measurement. Returns the numbers of its line; none if it was stopped.
fn run(arguments: &[&str]) -> Vec<f64> {
    numbers_of(child(arguments), arguments)
}

/// Waits for a measurement, for [`LIMIT`] at most. Then it is stopped, and standard error says so.
fn numbers_of(mut child: Child, arguments: &[&str]) -> Vec<f64> {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            eprintln!("{}: no end after {LIMIT:?}, stopped", arguments.join(" "));
            let _ = child.kill();
            let _ = child.wait();
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn throughput(messages: u32, rounds: u32) {
    println!(
        "| broker | arm | messages/s: median (lowest to highest) | CPU µs a message | peak memory, MB |"
    );
    println!("|---|---|---:|---:|---:|");
    for kind in [Kind::Redis, Kind::Nats] {
        let arms: Vec<_> = Arm::ALL.into_iter().filter(|arm| arm.kind() == kind).collect();
        let mut results = vec![Vec::new(); arms.len()];
        for round in 0..rounds as usize {
            for index in 0..arms.len() {
                let index = (index + round) % arms.len();
                let broker = Broker::start(kind).expect("the broker is installed");
                let name = arms[index].name();
                // Its script unpacks the whole backlog at the start: more than some 8,000 is an error.
                let messages =
                    if arms[index] == Arm::ApalisRedis { messages.min(7_000) } else { messages };
                // apalis-nats fills by itself: its publisher is a consumer, and would keep messages.
                if arms[index] != Arm::ApalisNats {
                    run(&["fill", name, &broker.url(), &messages.to_string()]);
                }
                let numbers = run(&["arm", name, &broker.url(), &messages.to_string()]);
                eprintln!("{name}: {numbers:?}");
                results[index].push(numbers);
            }
        }
        for (arm, mut results) in arms.iter().zip(results) {
            results.retain(|numbers| numbers.len() == 3);
            let failed = rounds as usize - results.len();
            if results.is_empty() {
                println!("| {kind:?} | {} | failed | | |", arm.name());
                continue;
            }
            results.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let (low, high) = (results[0][0], results[results.len() - 1][0]);
            let median = &results[results.len() / 2];
            let mut name = arm.name().to_owned();
            if failed > 0 {
                name += &format!(" ({failed} of {rounds} rounds failed)");
            }
            println!(
                "| {kind:?} | {name} | {:.0} ({low:.0} to {high:.0}) | {:.1} | {:.0} |",
                median[0], median[1], median[2]
            );
        }
    }
}

fn latency() {
    println!("| broker | arm | rate | p50, ms | p99, ms | highest, ms |");
    println!("|---|---|---:|---:|---:|---:|");
    for arm in Arm::ALL {
        let broker = Broker::start(arm.kind()).expect("the broker is installed");
        let rate = arm.tenth();
        let numbers = run(&["latency-arm", arm.name(), &broker.url(), &rate.to_string()]);
        let [p50, p99, highest] = numbers[..] else { continue };
        let (kind, name) = (arm.kind(), arm.name());
        println!("| {kind:?} | {name} | {rate} | {p50:.2} | {p99:.2} | {highest:.2} |");
    }
}

/// One, two and four processes on one stream: a table, and a picture in `processes.svg`.
fn processes(messages: u32, rounds: usize) {
    println!("| broker | processes | messages/s: median (lowest to highest) |");
    println!("|---|---:|---:|");
    let mut lines = Vec::new();
    for (broker, arm) in [("Redis", Arm::MillpondRedis), ("NATS", Arm::MillpondNats)] {
        let mut points = Vec::new();
        for count in [1, 2, 4] {
            let mut rates: Vec<_> = (0..rounds).map(|_| rate_of(arm, count, messages)).collect();
            rates.sort_by(f64::total_cmp);
            let (low, median, high) = (rates[0], rates[rounds / 2], rates[rounds - 1]);
            println!("| {broker} | {count} | {median:.0} ({low:.0} to {high:.0}) |");
            points.push((count, [low, median, high]));
        }
        lines.push((broker, points));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/processes.svg");
    std::fs::write(path, picture::draw(&lines, rounds))
        .expect("the folder of the sources is there");
}

/// Returns the messages a second of `count` processes that share a filled stream.
fn rate_of(arm: Arm, count: u32, messages: u32) -> f64 {
    let broker = Broker::start(arm.kind()).expect("the broker is installed");
    let (url, name) = (broker.url(), arm.name());
    run(&["fill", name, &url, &messages.to_string()]);
    // 0 messages: the stream is filled already, and the process ends when it is idle.
    let children: Vec<_> = (0..count).map(|_| child(&["arm", name, &url, "0"])).collect();
    let (mut longest, mut done) = (0f64, 0f64);
    for child in children {
        let [messages, seconds] = numbers_of(child, &[name])[..] else { continue };
        longest = longest.max(seconds);
        done += messages;
    }
    eprintln!("{name}, {count} processes: {:.0}", done / longest);
    done / longest
}

/// How long an idle arm waits for another message.
const IDLE: Duration = Duration::from_secs(2);
/// The most time of a measurement. An arm that hangs must not stop the others.
const LIMIT: Duration = Duration::from_secs(180);
