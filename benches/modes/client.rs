//! The client's process: the same for every arm. One thread on its own epoll, as whatever it uses
//! is missing to the server; a second one only for the flood.

mod connections;
mod flood;
mod loads;

use std::io::{Write, stdin, stdout};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use hdrhistogram::Histogram;

use self::connections::Connections;
use crate::protocol::Protocol;
use crate::{machine, memory};

/// Follows the orders on its input until the controller closes that input. Each order ends by itself.
pub fn run(protocol: Protocol) -> Result<(), String> {
    machine::pin(false);
    // Else each wait for the moment a request is due ends some 50 µs late.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut connections = None;
    for line in stdin().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let told = if line == "cpu" {
            Ok(format!("ns={}", memory::cpu()))
        } else {
            follow(&line, protocol, &mut connections)
        };
        let told = told.map_err(|error| format!("{line}: {error}"))?;
        let mut out = stdout().lock();
        let _ = writeln!(out, "ok {told}").and_then(|()| out.flush());
    }
    // Thousands of connections need not be closed one by one.
    std::process::exit(0);
}

fn follow(
    line: &str,
    protocol: Protocol,
    connections: &mut Option<Connections>,
) -> Result<String, String> {
    let before = connections.as_ref().map_or(0, Connections::answered);
    let mut words = line.split(' ');
    let order = words.next().unwrap_or_default();
    let numbers: Result<Vec<f64>, _> = words.map(str::parse).collect();
    let numbers = numbers.map_err(|error| error.to_string())?;
    let told = match (order, &numbers[..], &mut *connections) {
        ("connect", &[port, count], connections) => {
            let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
            let (opened, time) = Connections::open(protocol, address, count as usize)?;
            *connections = Some(opened);
            format!("seconds={}", time.as_secs_f64())
        }
        ("close", [], connections) => {
            *connections = None;
            String::new()
        }
        ("paced", &[rate, active, seconds], Some(connections)) => {
            loads::paced(connections, rate, active as usize, Duration::from_secs_f64(seconds))
        }
        ("closed", &[active, seconds], Some(connections)) => {
            loads::closed(connections, active as usize, Duration::from_secs_f64(seconds))
        }
        ("spike", [], Some(connections)) => loads::spike(connections),
        ("begin", [], Some(connections)) => {
            connections.begin();
            String::new()
        }
        ("end", [], Some(connections)) => loads::end(connections),
        ("flood", &[flows, rate, active, seconds], Some(connections)) => {
            let time = Duration::from_secs_f64(seconds);
            flood::beside(connections, flows as u64, rate, active as usize, time)?
        }
        _ => return Err("a client does not know this order, or not now".into()),
    };
    let Some(connections) = connections else { return Ok(told) };
    let (lost, wrong) = connections.settle();
    // With those that came when the load was over: the server has worked for them as well.
    let answered = connections.answered().saturating_sub(before);
    Ok(format!("{told} answered={answered} lost={lost} wrong={wrong}"))
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// In ms.
fn quantiles(latencies: &Histogram<u64>) -> String {
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|at| latencies.value_at_quantile(at) as f64 / 1e6);
    format!("p50={p50} p99={p99} p999={p999}")
}
