//! The client's process: busy connections with the client of `modes`, idle ones with that of `idle.rs`, and
//! clients of their own for HTTP/2, TLS and servers with one thread.

#[path = "../../modes/client/connections.rs"]
pub mod connections;
#[path = "client/http2.rs"]
mod http2;
#[path = "../../modes/client/loads.rs"]
pub mod loads;
#[path = "client/one_thread.rs"]
mod one_thread;
#[path = "client/tls.rs"]
mod tls;

use std::io::{Write, stdin, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;

use self::connections::Connections;
use crate::idle;
use crate::protocol::Protocol;

/// Follows the orders on its input until that closes.
pub fn run() -> Result<(), String> {
    let (mut busy, mut idle) = (None, Vec::new());
    let (mut streams, mut sessions) = (None, None);
    for line in stdin().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<f64>().map_err(|error| format!("{line}: {error}"));
        let failed = |error: std::io::Error| format!("{line}: {error}");
        let address =
            |port: &str| Ok::<_, String>(SocketAddr::from(([127, 0, 0, 1], number(port)? as u16)));
        let told = match words[..] {
            ["idle", kind, port, count] => {
                idle.extend(idle::open(kind, address(port)?, number(count)? as usize)?);
                String::new()
            }
            ["connect", port, count] => {
                let count = number(count)? as usize;
                busy = Some(Connections::open(Protocol::Http, address(port)?, count)?.0);
                String::new()
            }
            ["closed", active, seconds] => {
                let seconds = Duration::from_secs_f64(number(seconds)?);
                let connections = busy.as_mut().ok_or("not connected")?;
                let before = connections.answered();
                let told = loads::closed(connections, number(active)? as usize, seconds);
                let (lost, wrong) = connections.settle();
                let answered = connections.answered() - before;
                format!("{told} answered={answered} wrong={}", lost + wrong)
            }
            ["http2", port, count, path] => {
                let count = number(count)? as usize;
                let opened = http2::Http2::open(address(port)?, count, path);
                streams = Some(opened.map_err(failed)?);
                String::new()
            }
            ["streams", count, seconds] => {
                let time = Duration::from_secs_f64(number(seconds)?);
                let streams = streams.as_mut().ok_or("not connected")?;
                let told = streams.closed(number(count)? as usize, time);
                told.map_err(failed)?
            }
            ["tls", port, count] => {
                let opened = tls::Tls::open(address(port)?, number(count)? as usize);
                sessions = Some(opened.map_err(failed)?);
                String::new()
            }
            ["sessions", active, seconds] => {
                let time = Duration::from_secs_f64(number(seconds)?);
                let sessions = sessions.as_mut().ok_or("not connected")?;
                let told = sessions.closed(number(active)? as usize, time);
                told.map_err(failed)?
            }
            ["handshakes", port, seconds] => {
                let time = Duration::from_secs_f64(number(seconds)?);
                let told = tls::handshakes(address(port)?, time);
                told.map_err(failed)?
            }
            ["waits", port, pipelining, computing, seconds] => {
                let [pipelining, computing] = [pipelining, computing].map(number);
                let time = Duration::from_secs_f64(number(seconds)?);
                let [pipelining, computing] = [pipelining? as usize, computing? as usize];
                let told = one_thread::waits(address(port)?, pipelining, computing, time);
                told.map_err(failed)?
            }
            ["drop"] => {
                idle.clear();
                busy = None;
                String::new()
            }
            _ => return Err(format!("a client does not know {line:?}")),
        };
        let mut out = stdout().lock();
        let _ = writeln!(out, "ok {told}").and_then(|()| out.flush());
    }
    std::process::exit(0);
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// In ms.
fn quantiles(latencies: &Histogram<u64>) -> String {
    let [p50, p99] = [0.5, 0.99].map(|at| latencies.value_at_quantile(at) as f64 / 1e6);
    format!("p50={p50} p99={p99}")
}
