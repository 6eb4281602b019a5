//! What the client does with its connections.

use std::time::Duration;

use super::connections::{Connection, Connections};
use super::{histogram, quantiles};

/// The part of a load that is not measured: both processes have to get going.
const WARM_UP: f64 = 0.1;

/// Requests at a steady rate, evenly spread over time and connections, whatever becomes of those
/// before: so a latency may count from the moment its request was sent. That it was due some 30 µs
/// before, or some ms where all cores are busy, is the client's own affair.
pub fn paced(connections: &mut Connections, rate: f64, active: usize, time: Duration) -> String {
    let order = connections.scattered(active);
    let clock = connections.clock;
    let start = clock.now();
    let due = |at: u64| start + (at as f64 / rate * 1e9) as u64;
    let total = (rate * time.as_secs_f64()) as u64;
    let measured = start + (time.as_nanos() as f64 * WARM_UP) as u64;
    let mut latencies = histogram();
    let (mut sent, mut answered) = (0, 0);
    // It ends when the last one was sent and a little later: what is late still counts.
    let grace = due(total) + 1_000_000_000;
    while answered < total && clock.now() < grace {
        // Bounded: a client that has fallen behind must read answers too.
        for _ in 0..64 {
            let now = clock.now();
            if sent == total || due(sent) > now {
                break;
            }
            connections.all[order[sent as usize % order.len()]].send(now);
            sent += 1;
        }
        let next = if sent == total { grace } else { due(sent) };
        connections.turn(Duration::from_nanos(next.saturating_sub(clock.now())), |_, stamp| {
            answered += 1;
            if stamp >= measured {
                latencies.saturating_record(clock.now() - stamp);
            }
        });
    }
    let seconds = (clock.now() - start) as f64 / 1e9;
    format!("seconds={seconds} {}", quantiles(&latencies))
}

/// One request at a time on each of some connections, the next one as soon as it is answered.
pub fn closed(connections: &mut Connections, active: usize, time: Duration) -> String {
    let clock = connections.clock;
    let mut latencies = histogram();
    let start = clock.now();
    let measured = start + (time.as_nanos() as f64 * WARM_UP) as u64;
    let end = start + time.as_nanos() as u64;
    for at in connections.scattered(active) {
        connections.all[at].send(clock.now());
    }
    while clock.now() < end {
        connections.turn(Duration::from_millis(10), |connection, stamp| {
            let now = clock.now();
            if now >= measured {
                latencies.saturating_record(now - stamp);
            }
            connection.send(now);
        });
    }
    let rate = latencies.len() as f64 * 1e9 / (clock.now() - measured) as f64;
    format!("rate={rate} {}", quantiles(&latencies))
}

/// One request on each connection, as fast as they can be sent.
pub fn spike(connections: &mut Connections) -> String {
    let clock = connections.clock;
    let start = clock.now();
    let count = connections.all.len();
    for at in connections.scattered(count) {
        connections.all[at].send(clock.now());
    }
    all_answered(connections, start)
}

/// The rest of the requests that were begun.
pub fn end(connections: &mut Connections) -> String {
    let start = connections.clock.now();
    connections.all.iter_mut().for_each(Connection::end);
    all_answered(connections, start)
}

fn all_answered(connections: &mut Connections, start: u64) -> String {
    let (clock, count) = (connections.clock, connections.all.len());
    let mut answered = 0;
    while answered < count && clock.now() < start + 5_000_000_000 {
        connections.turn(Duration::from_millis(100), |_, _| answered += 1);
    }
    let milliseconds = (clock.now() - start) as f64 / 1e6;
    format!("ms={milliseconds}")
}
