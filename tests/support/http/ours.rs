//! The servers that are tested.

use std::net::SocketAddr;
use std::time::Duration;

use millpond::http::{Park, Server};
use millpond::server::Mode;

use super::app::App;
use super::target::{Running, Sent};

/// How long a head may take.
pub const HEAD: Duration = Duration::from_secs(4);

impl Running for Server {
    fn address(&self) -> SocketAddr {
        self.local_addrs()[0]
    }

    fn is_at_rest(&self, sent: &[Sent]) -> bool {
        let status = self.status();
        let bytes: usize = sent.iter().map(|sent| sent.bytes).sum();
        status.parked == status.open && status.bytes_in >= bytes as u64
    }
}

pub async fn ours(app: App, tls: bool, mode: Mode, park: Park) -> Box<dyn Running> {
    let builder = Server::builder().listen("127.0.0.1:0").mode(mode).park(park);
    let builder = builder.header_timeout(HEAD).first_byte_timeout(HEAD).per_peer(None);
    #[cfg(feature = "rustls")]
    let builder = match tls {
        true => builder.tls(crate::support::server::tls::server()),
        false => builder,
    };
    let _ = tls;
    Box::new(builder.serve(app.router()).unwrap())
}
