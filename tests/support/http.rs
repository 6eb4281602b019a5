//! What the tests of HTTP share: an app, the servers that serve it, and a client that sees bytes.

pub mod app;
pub mod cases;
pub mod compare;
pub mod faulty;
pub mod hard_cases;
pub mod malformed;
pub mod oracle;
pub mod play;
pub mod reply;
pub mod script;
pub mod target;

use std::future::Future;
use std::time::Duration;

/// On two threads, for tests of many connections.
#[track_caller]
pub fn patient(body: impl Future<Output = ()> + Send + 'static) {
    super::multi_for(Duration::from_secs(120), 2, body);
}
