//! HTTP servers side by side: what an idle connection costs, and a busy one.
//!
//! ```text
//! cd benches/servers
//! cargo run --release -- idle      # memory of idle connections, a round: some three minutes
//! cargo run --release -- busy      # busy connections, a round: under a minute
//! cargo run --release -- report    # the medians of all rounds so far, into benches/servers.md
//! ```
//!
//! Each server is a process on the first core, the client a process on the second. Each command adds a round
//! of all servers to a file beside the program. A server that is not installed is named with the command
//! that installs it.

mod arms;
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

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["idle"] => measure::idle(),
        ["busy"] => measure::busy(),
        ["report"] => report::write(),
        ["server", arm, kind] => {
            pin(CORES[0]);
            arms::serve(arm, kind)
        }
        ["client"] => {
            pin(CORES[1]);
            client::run()
        }
        _ => Err("accepted are: idle, busy, report".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
