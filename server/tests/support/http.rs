//! What the tests of HTTP share: an app, the servers that serve it, and a client that sees bytes.

pub mod app;
pub mod cases;
pub mod compare;
pub mod faulty;
pub mod hard_cases;
pub mod malformed;
pub mod more_cases;
pub mod oracle;
pub mod ours;
pub mod play;
pub mod reply;
pub mod script;
pub mod server;
pub mod target;

use std::future::Future;
use std::time::Duration;

/// Machines are slow, and what can be asked for by the environment takes long.
pub const LIMIT: Duration = Duration::from_secs(600);

/// On one thread, so that no server is in the middle of something when a client looks at it.
#[track_caller]
pub fn patient(body: impl Future<Output = ()> + Send + 'static) {
    super::watched_for(LIMIT, move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(body);
    });
}
