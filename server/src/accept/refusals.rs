//! The events about refused connections.
//!
//! The accept loop owns a [`RefusalLog`] and calls it for each connection that a limit refuses. No
//! lock is involved. An event must never be sent for each refused connection: a flood of connections
//! would become a flood of events. So each limit has an event at once, and further ones at most every
//! [`PAUSE`], with the number of refusals since the last event.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::accept::address::Address;
use crate::trace::event;

/// The shortest time between two events about the same limit.
const PAUSE: Duration = Duration::from_secs(10);

/// The limit that refuses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections(usize),
    PerIp(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections(_) => "max_connections",
            Self::PerIp(_) => "max_connections_per_ip",
        })
    }
}

impl Limit {
    /// Returns how to raise the limit.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code))]
    fn advice(self) -> &'static str {
        match self {
            Self::Connections(_) => {
                "set `max_connections` of the builder, or raise the default, half of the descriptors \
                 that the process may open: `millpond_server::raise_descriptor_limit`"
            }
            Self::PerIp(_) => "set `max_connections_per_ip` of the builder; `None` is no bound",
        }
    }
}

/// Counts the refusals of each limit since its last event.
#[derive(Default)]
pub(crate) struct RefusalLog {
    connections: Since,
    per_ip: Since,
}

#[derive(Default)]
struct Since {
    last: Option<Instant>,
    refused: u64,
}

impl Since {
    /// Counts a refusal. Returns the count if an event is due.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.refused += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.refused))
    }
}

impl RefusalLog {
    /// Notes a refused connection. Sends an event if one is due.
    pub(crate) fn note(&mut self, limit: Limit, address: &Address) {
        let (since, max) = match limit {
            Limit::Connections(max) => (&mut self.connections, max),
            Limit::PerIp(max) => (&mut self.per_ip, max),
        };
        let Some(refused) = since.count(Instant::now()) else { return };
        let _ = (max, refused, address);
        event!(
            WARN,
            %limit,
            max,
            refused,
            %address,
            advice = limit.advice(),
            "a limit refuses connections"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_an_event_now_and_then() {
        let (mut since, start) = (Since::default(), Instant::now());
        assert_eq!(since.count(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(since.count(start + PAUSE / 2), None);
        }
        assert_eq!(since.count(start + PAUSE), Some(1001));
        assert_eq!(since.count(start + PAUSE), None);
    }
}
