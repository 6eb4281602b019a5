//! The servers under test: this crate's, in both modes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use millpond_server::Mode;
use millpond_server::http::Server;

use super::app::App;
use super::target::{Running, Sent};

/// The `header_read_timeout`, unless a test sets another before it starts a server.
pub static HEAD: OnceLock<Duration> = OnceLock::new();

fn head() -> Duration {
    *HEAD.get_or_init(|| Duration::from_secs(30))
}

/// The most that one of the calls of `is_at_rest` counts.
const TURN: Duration = Duration::from_millis(4);
/// Bytes that were missing for so long are lost.
const LOST: Duration = Duration::from_millis(30);

struct Ours {
    server: Server,
    known: Mutex<Known>,
}

/// Counts of what clients have sent since the start.
#[derive(Default)]
struct Known {
    sent: HashMap<SocketAddr, usize>,
    /// The sum of `sent`.
    all: usize,
    /// Bytes that belong to no request: discarded, or never read.
    lost: u64,
    /// How many bytes were missing at the last call and for how long, and when that call was.
    waiting: Option<(u64, Duration, Instant)>,
}

impl Running for Ours {
    fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    fn is_at_rest(&self, sent: &[Sent]) -> bool {
        let mut known = self.known.lock().unwrap();
        for Sent { from, bytes } in sent {
            let before = known.sent.insert(*from, *bytes).unwrap_or(0);
            known.all = known.all - before + bytes;
        }
        let status = self.server.status();
        let missing = (known.all as u64).saturating_sub(status.bytes_in + known.lost);
        if status.parked != status.open || missing == 0 {
            known.waiting = None;
            return status.parked == status.open;
        }
        let now = Instant::now();
        // This thread serves, too. Between two calls its tasks may have had a single turn, however long that
        // took on a busy machine.
        let waited = match known.waiting {
            Some((before, waited, last)) if before == missing => waited + (now - last).min(TURN),
            _ => Duration::ZERO,
        };
        if waited > LOST {
            known.lost += missing;
        }
        known.waiting = Some((missing, waited, now));
        false
    }
}

pub async fn ours(app: App, tls: bool, mode: Mode) -> Box<dyn Running> {
    let builder = Server::builder().listen("127.0.0.1:0").mode(mode);
    let builder =
        builder.header_read_timeout(head()).first_byte_timeout(head()).max_connections_per_ip(None);
    #[cfg(feature = "rustls")]
    let builder = match tls {
        true => builder.tls(crate::support::server::tls::server()),
        false => builder,
    };
    let _ = tls;
    let server = builder.serve(app.router()).unwrap();
    Box::new(Ours { server, known: Mutex::default() })
}
