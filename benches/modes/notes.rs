//! What the tables need to be understood.

use crate::protocol::Protocol;

/// What MOSN published for 10,000 connections: before, and with its netpoll mode.
pub const MOSN: &str = "
## What MOSN measured

10,000 long connections in Go; neither machine nor payload were told.

| MOSN 0.2.0, as published | two goroutines per connection | netpoll and a pool |
| --- | ---: | ---: |
| goroutines | 20,040 | 40 |
| stacks, MB | 117 | 1 |
| CPU at 300 requests/s, % | 14 | 8 |
| CPU at 3,000 requests/s, % | 52 | 40 |
| CPU at 10,000 requests/s, % | 90 | 91 |
| requests/s at saturation | 23,000 | 22,000 |
| response time there, ms | 9 | 10 |
";

pub fn title(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Echo => "Idle connections, measured",
        Protocol::Http => "Idle HTTP connections, measured",
        Protocol::Ws => "Idle WebSockets, measured",
    }
}

pub fn notes(protocol: Protocol) -> String {
    let [first, last] = match protocol {
        Protocol::Echo => [ECHO, ""],
        Protocol::Http => [HTTP, HEADS],
        Protocol::Ws => [WS, HEADS],
    };
    format!("{first}{BOTH}{last}")
}

const ECHO: &str = "\
- Frames of 64 bytes, echoed; the client checks that each answer is the one to its request.
";

const WS: &str = "\
- WebSockets over HTTP/1.1: binary messages of 64 bytes, echoed; the client checks that each answer is
  the one to its request. A connection is new with its handshake and one message.
";

const HTTP: &str = "\
- HTTP/1.1, a GET of 67 bytes whose path comes back in a small JSON object; the client checks
  status, length and body of each answer. The same axum router in all arms. Millpond's tell it the
  address of the peer, as by default; the others do not.
";

const HEADS: &str = "\
- Partial requests: 30 bytes of the next request have come on every connection, and no more for a
  moment. What is told is all that a connection costs then. The requests were completed afterwards,
  and answered.
- Idle again after the spikes: 3 seconds after, in quick runs less.
";

const BOTH: &str = "\
- The server is a process on the first half of the cores, the client one on the second half.
- The kernel keeps about 5 KiB for each end of a connection in every mode: what is told here is what
  the server's process adds to that.
- Idle: each connection has made one request and was left alone for a moment. Heap is what was asked
  for, RSS what is in memory, both without what the server held before the connections came.
- CPU is that of the server's process, the kernel's work for it included.
- Steady rates are spread evenly over time and all connections, and wait for no answer. Active
  connections have one request on its way each; the others stay open. Latencies are what the client
  sees.
- A spike is one request on every connection at once, until the last is answered.
- Ratios are between arms of the same round. Where other processes took much of the machine, an arm
  was measured again, up to three times a round, if the figures are to be published.
";
