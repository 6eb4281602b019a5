//! HTTP servers side by side: what an idle connection costs, and a busy one; and millpond's goals beside axum
//! and hyper over HTTP/2 and TLS, in system calls, and on one worker thread.
//!
//! ```text
//! cd benches/servers
//! cargo run --release -- idle          # memory of idle connections, a round: some three minutes
//! cargo run --release -- busy          # busy connections, a round: under a minute
//! cargo run --release -- http2 5       # HTTP/2, five rounds: two minutes
//! cargo run --release -- calls         # system calls per request, a round: half a minute
//! cargo run --release -- one-thread 5  # waits on one worker thread, five rounds: three minutes
//! cargo run --release -- tls 5         # TLS, five rounds: two minutes
//! cargo run --release -- report        # the medians of all rounds so far, into benches/servers.md and cells.md
//! cargo run --release -- forget        # the rounds so far, gone
//! ```
//!
//! Each server is a process on the first core, the client a process on the second. Each command adds rounds
//! of all its servers, one by default, to a file beside the program. A server that is not installed is named
//! with the command that installs it.

mod arms;
mod cells;
mod cells_report;
#[allow(dead_code)]
mod client;
mod external;
#[allow(dead_code)]
#[path = "../../modes/frames.rs"]
mod frames;
mod idle;
mod measure;
#[allow(dead_code)]
#[path = "../../modes/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../../modes/protocol.rs"]
mod protocol;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the servers and that of the client.
pub const CORES: [usize; 2] = [0, 1];

/// Binds this process to a core, before it has threads.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // Without a second core the figures are worse, and the program still works.
    let _ = sched_setaffinity(None, &set);
}

/// The folder of results, certificates and configurations.
pub fn folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let folder = program.with_file_name("servers");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

type Round = fn() -> Result<(), String>;

/// What measures one round of all its servers.
const ROUNDS: [(&str, Round); 6] = [
    ("idle", measure::idle),
    ("busy", measure::busy),
    ("http2", cells::http2),
    ("calls", cells::calls),
    ("one-thread", cells::one_thread),
    ("tls", cells::tls),
];

fn rounds(args: &[&str]) -> Result<(), String> {
    let [what, ref count @ ..] = *args else { return Ok(()) };
    let count = count.first().unwrap_or(&"1");
    let count: usize = count.parse().map_err(|error| format!("{count}: {error}"))?;
    let one = ROUNDS.iter().find(|(name, _)| *name == what).expect("the caller has looked").1;
    for round in 1..=count {
        println!("{what}, round {round} of {count}");
        one()?;
    }
    Ok(())
}

fn forget() -> Result<(), String> {
    for name in [measure::RESULTS, cells::RESULTS] {
        let path = folder()?.join(name);
        if path.exists() {
            std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [what, ..] if args.len() <= 2 && ROUNDS.iter().any(|(name, _)| *name == what) => {
            rounds(&args)
        }
        ["report"] => report::write().and_then(|()| cells_report::write()),
        ["forget"] => forget(),
        ["server", arm, kind, workers] => {
            pin(CORES[0]);
            arms::serve(arm, kind, workers)
        }
        ["client"] => {
            pin(CORES[1]);
            client::run()
        }
        _ => Err(
            "accepted are: idle, busy, http2, calls, one-thread and tls, each with a number of \
                  rounds; report; forget"
                .into(),
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
