//! The layer behind axum over loopback, under load from wrk.

use std::process::Command;

use crate::Args;
use crate::process::Server;
use crate::progress::Progress;
use crate::report::{median, table};
use crate::servers::{ARMS, NAMES};

/// A path, a number of connections, and a label.
const LOADS: [(&str, usize, &str); 2] = [
    ("/sleep/5", 20, "5 ms a request, 20 connections"),
    ("/sleep/0", 50, "at once, 50 connections"),
];

pub fn run(args: &Args) -> String {
    if Command::new("wrk").arg("--version").output().is_err() {
        return "\n## Through axum\n\nNot measured: wrk is not installed (`apt-get install wrk`).\n".into();
    }
    let seconds = if args.quick { 1 } else { 4 };
    let mut progress = Progress::new(args.rounds * ARMS.len());
    let mut figures = vec![[const { (Vec::new(), Vec::new()) }; 2]; ARMS.len()];
    for round in 0..args.rounds {
        for turn in 0..ARMS.len() {
            let arm = (turn + round) % ARMS.len();
            progress.step(format!("through axum: {}", NAMES[arm]));
            let server = Server::start(ARMS[arm]);
            for (at, (path, connections, _)) in LOADS.iter().enumerate() {
                let (rate, p99) = wrk(&server, path, *connections, seconds);
                figures[arm][at].0.push(rate);
                figures[arm][at].1.push(p99);
            }
        }
    }
    drop(progress);
    let mut text = String::from(
        "\n## Through axum\n\nwrk over loopback, server and client on the same two cores. A sleeping handler leaves them\nfree; one that answers at once does not.\n",
    );
    let figures: Vec<_> =
        figures.into_iter().map(|arm| arm.map(|(rate, p99)| (median(rate), median(p99)))).collect();
    for (at, (_, _, what)) in LOADS.iter().enumerate() {
        let bare = figures[0][at].0;
        let rows: Vec<_> = NAMES
            .iter()
            .zip(&figures)
            .map(|(name, figures)| {
                let (rate, p99) = figures[at];
                let ratio = format!("{:.3}", rate / bare);
                vec![name.to_string(), format!("{rate:.0}"), ratio, format!("{p99:.2}")]
            })
            .collect();
        let head = [*what, "requests/s", "of the bare router's", "p99 in ms"];
        text += &format!("\n{}", table(&head, &rows));
    }
    text
}

/// Returns requests per second and the p99 of their latencies in ms.
fn wrk(server: &Server, path: &str, connections: usize, seconds: u64) -> (f64, f64) {
    let output = Command::new("wrk")
        .args(["--latency", "-t1", &format!("-c{connections}"), &format!("-d{seconds}s")])
        .arg(format!("http://{}{path}", server.address))
        .output()
        .expect("wrk ran before");
    let text = String::from_utf8_lossy(&output.stdout);
    let after = |word: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(word));
        line.unwrap_or_else(|| panic!("wrk did not tell {word}: {text}")).trim().to_owned()
    };
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = after("Requests/sec:").parse().expect("a number");
    let p99 = after("99%");
    let digits = p99.find(|c: char| c.is_alphabetic()).unwrap_or(p99.len());
    let (number, unit) = p99.split_at(digits);
    let number: f64 = number.parse().expect("a number");
    let p99 = match unit {
        "us" => number / 1_000.0,
        "ms" => number,
        _ => number * 1_000.0,
    };
    (rate, p99)
}
