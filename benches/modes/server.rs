//! The server's process: one arm, and a reading of itself whenever it is asked.

use std::io::{Write, stdin, stdout};
use std::time::Duration;

use crate::args::Args;
use crate::arms::{self, Handler, Setup};
use crate::{machine, memory};

/// Serves until the controller closes the input of this process.
pub fn run(args: &Args) -> Result<(), String> {
    let ([arm], [threads]) = (&args.arms[..], &args.threads[..]) else {
        return Err("a server needs --arm, and one number of --threads".into());
    };
    machine::pin(true);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(*threads)
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime: {error}"))?;
    let handler = Handler { delay: Duration::from_millis(args.handler_ms) };
    let setup = Setup { handler, connections: args.connections.unwrap_or(8_000) };
    let address = runtime
        .block_on(arms::start(arm, setup))
        .map_err(|error| format!("{}: {error}", arm.label))?;
    say(&format!("ok port={}", address.port()));
    for line in stdin().lines() {
        match &*line.map_err(|error| error.to_string())? {
            "cpu" => say(&format!("ok ns={}", memory::cpu())),
            "memory" => {
                let heap = memory::heap();
                let tasks = runtime.metrics().num_alive_tasks();
                let resident = memory::resident().map_or(f64::NAN, |bytes| bytes as f64);
                say(&format!("ok tasks={tasks} heap={heap} resident={resident}"));
            }
            other => return Err(format!("a server does not know {other:?}")),
        }
    }
    // Thousands of connections need not be closed one by one.
    std::process::exit(0);
}

fn say(text: &str) {
    let mut out = stdout().lock();
    // A controller that no longer reads has closed the input too, which ends this process.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
