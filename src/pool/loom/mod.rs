//! loom models over the real the limiter, workers, cells and groups.
//!
//! Each model is run as it is, and once more with the code broken in a way that it must notice.
//! Run them with `RUSTFLAGS="--cfg millpond_loom" cargo test --release --lib pool::loom`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;
use crate::pool::limiter::deadlock::OnDeadlock;
use crate::pool::scheduler::shared::{Config, Shared};

fn pool(shards: usize, size: usize, queue: usize) -> Pool {
    let config = Config {
        name: Arc::from("model"),
        idle_timeout: Duration::from_secs(1),
        min_idle: 0,
        overflow_limit: usize::MAX,
        on_deadlock: OnDeadlock::Error,
        propagate_span: false,
        on_panic: None,
    };
    let size = NonZeroUsize::new(size).expect("not zero");
    Pool::from_shared(Shared::with_shards(shards, shards, config, size, queue, None))
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Runs a model in a process of its own, on broken code: it must fail there. (loom does not always
/// survive the failure of a model.)
fn expect_failure(model: &str, failpoint: &str) {
    let output = std::process::Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", &format!("pool::loom::tests::{model}")])
        .env("MILLPOND_FAILPOINT", failpoint)
        .output()
        .expect("the same test again");
    assert!(!output.status.success(), "`{model}` did not notice the failpoint `{failpoint}`");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("running 1 test"), "`{model}` was not run: {said}");
}

mod tests;
