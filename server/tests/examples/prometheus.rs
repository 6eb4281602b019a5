//! The page for Prometheus, read by a parser of its text.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use prometheus_parse::{Scrape, Value};

use crate::program::*;

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Each sample of a page: its name with its labels in order, and its value.
fn samples(page: &str) -> HashMap<String, f64> {
    let scrape = Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let value = |value| match value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => Some(value),
        _ => None,
    };
    let named = scrape.samples.into_iter().filter_map(|sample| {
        let mut labels: Vec<_> = sample.labels.iter().collect();
        labels.sort();
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Some((format!("{} {}", sample.metric, labels.join(",")), value(sample.value)?))
    });
    named.collect()
}

#[test]
fn prometheus_reads_the_counts_of_server_and_pool() {
    let free = ["127.0.0.1:0", "127.0.0.1:0"];
    let mut serving = Serving::start(example("prometheus").args(free));
    let line = serving.line();
    let metrics = line.strip_prefix("metrics on ").unwrap_or_else(|| panic!("unexpected: {line}"));
    let before = samples(&get(metrics, "/metrics"));
    assert_eq!(before["millpond_jobs_total end=completed,pool=requests"], 0.0);
    for _ in 0..3 {
        assert_eq!(get(&serving.address, "/"), "hello\n");
    }
    let idle = TcpStream::connect(&serving.address).unwrap();
    let after = std::iter::repeat_with(|| samples(&get(metrics, "/metrics")));
    // The server notes the end of a connection a moment after the client.
    let after = after.take(10_000).find(|now| {
        now["millpond_accepted_total server=app"] == 4.0
            && now["millpond_connections server=app,state=active"] == 0.0
            && now["millpond_connections server=app,state=parked"] == 1.0
    });
    let after = after.expect("one connection is left, and that is idle");
    assert_eq!(after["millpond_jobs_total end=completed,pool=requests"], 3.0);
    assert_eq!(after["millpond_jobs_submitted_total pool=requests"], 3.0);
    assert_eq!(after["millpond_slots pool=requests"], 8.0);
    assert_eq!(after["millpond_requests_total server=app"], 3.0);
    assert_eq!(after["millpond_run_seconds_count pool=requests"], 3.0);
    let ends = ["0.0001", "0.01", "1", "60", "+Inf"];
    let buckets =
        ends.map(|le| after[&format!("millpond_run_seconds_bucket le={le},pool=requests")]);
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets[4], 3.0);
    let closed = |(name, count): (&String, &f64)| name.contains("closed_total").then_some(*count);
    assert_eq!(after.iter().filter_map(closed).sum::<f64>(), 3.0);
    drop(idle);
    serving.signal("INT");
    assert_eq!(serving.end().1, Some(0));
}
