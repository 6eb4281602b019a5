//! loom models of the real limiter, workers, jobs and groups.
//!
//! Each model runs through every interleaving of a few threads. A second test runs the same model
//! with a failpoint switched on, which breaks one step of a protocol. The model must fail then, so a
//! model that checks nothing is noticed.
//!
//! Run the models with `RUSTFLAGS="--cfg millpond_loom" cargo test --release -p millpond-models --lib loom`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;
use crate::pool::limiter::overload::TargetWait;
use crate::pool::scheduler::shared::{Config, Shared};

/// Makes a pool whose number of shards does not depend on a runtime.
fn pool(shards: usize, size: usize, queue: usize) -> Pool {
    let config = Config {
        name: Arc::from("model"),
        idle_timeout: Duration::from_secs(1),
        min_idle: 0,
        overflow_limit: usize::MAX,
        propagate_span: false,
        target_wait: TargetWait::Never,
        slow_job: None,
        on_panic: None,
    };
    let size = NonZeroUsize::new(size).expect("a model's pool has a slot");
    Pool::from_shared(Shared::with_shards(shards, shards, config, size, queue, None))
}

/// Runs a model through its interleavings. Without `LOOM_MAX_PREEMPTIONS` in the environment, at
/// most two preemptions are tried per execution.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Runs a model in a process of its own with a failpoint switched on, and panics if it passes. loom
/// does not always survive the failure of a model, so this process must not run it.
fn expect_failure(model: &str, failpoint: &str) {
    let output = std::process::Command::new(std::env::current_exe().expect("path of this test"))
        .args(["--exact", &format!("pool::loom::tests::{model}")])
        .env("MILLPOND_FAILPOINT", failpoint)
        .output()
        .expect("the test program starts again");
    assert!(!output.status.success(), "`{model}` did not notice the failpoint `{failpoint}`");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(printed.contains("running 1 test"), "`{model}` did not run: {printed}");
}

mod tests;
