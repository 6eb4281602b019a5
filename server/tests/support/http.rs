//! Shared by the tests of HTTP: an app, the servers that serve it, and a client that checks bytes.

pub mod app;
pub mod cases;
pub mod compare;
pub mod faulty;
pub mod hard_cases;
pub mod malformed;
pub mod more_cases;
pub mod oracle;
pub mod ours;
pub mod pieces;
pub mod play;
pub mod reply;
pub mod script;
pub mod server;
pub mod target;

use std::future::Future;
use std::time::Duration;

/// Long, because machines may be slow and `MILLPOND_ALL=1` runs many cases.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Runs a test on one thread: while the client runs, the server does not.
#[track_caller]
pub fn patient(body: impl Future<Output = ()> + Send + 'static) {
    let body = super::boxed(body);
    super::watched_for(LIMIT, move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(body);
    });
}
