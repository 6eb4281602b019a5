//! The servers that the tests run against.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use millpond_server::Mode;
use tokio::net::TcpStream;

use super::app::App;
use super::faulty::{self, Fault};
use super::oracle;
use super::ours;
use crate::support::server::Stream;

/// A server that serves the app until it is dropped.
pub trait Running: Send + Sync {
    fn address(&self) -> SocketAddr;

    /// Returns whether the server is at rest: it has read all that clients have sent, and all idle
    /// connections are parked. A wrong `false` costs a moment, no more.
    fn is_at_rest(&self, sent: &[Sent]) -> bool;
}

/// What one client has sent.
pub struct Sent {
    pub from: SocketAddr,
    pub bytes: usize,
}

type Started = Pin<Box<dyn Future<Output = Box<dyn Running>> + Send>>;

#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub tls: bool,
    /// The server looks for the preface of HTTP/2 before it parses HTTP/1.
    pub sniffs: bool,
    /// The server closes a connection whose head does not end.
    pub has_deadlines: bool,
    /// The bytes that a connection with an endless head may cost at both ends.
    pub slow_cost: usize,
    /// The longest wait of a client.
    pub patience: Duration,
    start: fn(App, bool) -> Started,
}

const AXUM: Target = Target {
    name: "axum::serve",
    tls: false,
    sniffs: true,
    has_deadlines: false,
    slow_cost: 64 << 10,
    patience: Duration::from_secs(8),
    start: |app, tls| Box::pin(oracle::axum(app, tls)),
};

const HYPER: Target = Target {
    name: "hyper",
    sniffs: false,
    start: |app, tls| Box::pin(oracle::hyper(app, tls)),
    ..AXUM
};

pub const DEDICATED: Target = Target {
    name: "dedicated",
    has_deadlines: true,
    slow_cost: 16 << 10,
    start: |app, tls| Box::pin(ours::ours(app, tls, Mode::Dedicated)),
    ..AXUM
};

pub const EVENT_DRIVEN: Target = Target {
    name: "event-driven",
    start: |app, tls| Box::pin(ours::ours(app, tls, Mode::EventDriven)),
    ..DEDICATED
};

#[cfg(feature = "rustls")]
pub fn secured(target: Target) -> Target {
    Target { tls: true, ..target }
}

impl Target {
    /// Of many similar cases, one in this many is tried; `MILLPOND_ALL=1` tries all. With TLS fewer
    /// are tried, because the server sees the same bytes.
    pub fn one_in(self, plain: usize) -> usize {
        match std::env::var_os("MILLPOND_ALL") {
            Some(_) => 1,
            None if self.tls => 6 * plain,
            None => plain,
        }
    }
}

/// Corrupts its replies, to prove that the tests notice.
pub fn faulty(fault: Fault) -> Target {
    let start: fn(App, bool) -> Started = match fault {
        Fault::None => |app, _| Box::pin(faulty::start(app, Fault::None)),
        Fault::DropsByte => |app, _| Box::pin(faulty::start(app, Fault::DropsByte)),
        Fault::DoublesByte => |app, _| Box::pin(faulty::start(app, Fault::DoublesByte)),
        Fault::ChangesByte => |app, _| Box::pin(faulty::start(app, Fault::ChangesByte)),
        Fault::AddsHeader => |app, _| Box::pin(faulty::start(app, Fault::AddsHeader)),
        Fault::LosesReply => |app, _| Box::pin(faulty::start(app, Fault::LosesReply)),
        Fault::ClosesEarly => |app, _| Box::pin(faulty::start(app, Fault::ClosesEarly)),
        Fault::StaysOpen => |app, _| Box::pin(faulty::start(app, Fault::StaysOpen)),
    };
    Target { name: "faulty", patience: Duration::from_secs(1), start, ..AXUM }
}

/// The reference for well-formed requests.
pub fn oracle(tls: bool) -> Target {
    Target { tls, ..AXUM }
}

/// The reference for malformed requests.
pub fn plain(tls: bool) -> Target {
    Target { tls, ..HYPER }
}

/// Makes a test for each server of functions that take a [`Target`].
#[allow(unused_macros)]
macro_rules! against_all {
    ($($name:ident),+ $(,)?) => {
        against_all!(by patient: $($name),+);
    };
    // Tests that mostly wait run for all servers at the same time.
    (at once: $($name:ident),+ $(,)?) => {$(
        mod $name {
            use super::{$name as run, patient};
            use crate::support::http::target::{
                DEDICATED, EVENT_DRIVEN, against_all, oracle, plain,
            };
            #[cfg(feature = "rustls")]
            use crate::support::http::target::secured;

            #[test]
            fn ours() {
                std::thread::scope(|scope| {
                    for target in [DEDICATED, EVENT_DRIVEN] {
                        scope.spawn(move || patient(run(target)));
                    }
                });
            }

            #[cfg(feature = "rustls")]
            #[test]
            fn ours_tls() {
                std::thread::scope(|scope| {
                    for target in [DEDICATED, EVENT_DRIVEN].map(secured) {
                        scope.spawn(move || patient(run(target)));
                    }
                });
            }

            against_all!(proofs patient, $name);
        }
    )+};
    (by $run:ident: $($name:ident),+ $(,)?) => {$(
        mod $name {
            use super::$run;
            use crate::support::http::target::{
                DEDICATED, EVENT_DRIVEN, against_all, oracle, plain,
            };
            #[cfg(feature = "rustls")]
            use crate::support::http::target::secured;

            #[test]
            fn dedicated() {
                $run(super::$name(DEDICATED));
            }

            #[test]
            fn event_driven() {
                $run(super::$name(EVENT_DRIVEN));
            }

            #[cfg(feature = "rustls")]
            #[test]
            fn dedicated_tls() {
                $run(super::$name(secured(DEDICATED)));
            }

            #[cfg(feature = "rustls")]
            #[test]
            fn event_driven_tls() {
                $run(super::$name(secured(EVENT_DRIVEN)));
            }

            against_all!(proofs $run, $name);
        }
    )+};
    (proofs $run:ident, $name:ident) => {
        #[test]
        #[ignore = "proves the test, not the server"]
        fn axum() {
            $run(super::$name(oracle(false)));
        }

        #[test]
        #[ignore = "proves the test, not the server"]
        fn hyper() {
            $run(super::$name(plain(false)));
        }

        #[cfg(feature = "rustls")]
        #[test]
        #[ignore = "proves the test, not the server"]
        fn axum_tls() {
            $run(super::$name(oracle(true)));
        }

        #[cfg(feature = "rustls")]
        #[test]
        #[ignore = "proves the test, not the server"]
        fn hyper_tls() {
            $run(super::$name(plain(true)));
        }
    };
}

#[allow(unused_imports)]
pub(crate) use against_all;

/// The longest wait for a server to come to rest, in milliseconds; some never do.
const MOMENT: u32 = 40;

/// A server and the app it serves.
pub struct Up {
    pub target: Target,
    pub app: App,
    server: Box<dyn Running>,
}

impl Target {
    pub async fn start(self) -> Up {
        let app = App::default();
        let server = (self.start)(app.clone(), self.tls).await;
        Up { target: self, app, server }
    }
}

impl Up {
    pub async fn connect(&self) -> Stream {
        let tcp = TcpStream::connect(self.server.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        #[cfg(feature = "rustls")]
        if self.target.tls {
            let session = crate::support::server::tls::connect(tcp).await.unwrap();
            return Stream::Tls(Box::new(session));
        }
        Stream::Plain(tcp)
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn is_at_rest(&self, sent: &[Sent]) -> bool {
        self.server.is_at_rest(sent)
    }

    /// Waits until the server has nothing to do, or for a moment. Time in which this thread waits for its
    /// turn does not count: each sleep lets the server's tasks go on.
    pub async fn settle(&self, sent: &[Sent]) {
        for _ in 0..MOMENT {
            if self.server.is_at_rest(sent) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
