//! Where published numbers come from, so that a reader can repeat them.

use std::{env, fs};

use crate::args::Args;

const NOTES: &str = "\
- Every rival runs each workload once per round, in rotating order; a cell is the median of all
  rounds. Each has a fresh runtime and a short warm-up on it, and fails if a job is lost.
- The clock runs from the start of production to the end of the last job. Producers are tasks on the
  runtime; multi_thread has 2 worker threads.
- Each job counts itself, on a counter of its producer: a job that runs on its producer's thread
  finds that nearby.
- The unbounded rivals keep no limit: they show what a limit costs.
- A JoinSet has one owner and gives no handle per job; where handles are kept it collects results as
  they come.
- buffer_unordered runs all jobs inside one task: concurrent, never parallel.
- The worker rivals run as many worker tasks as the size, on a channel of the same capacity, with
  boxed jobs; where results are awaited each job has a oneshot channel.
";

const RIVALS: [&str; 6] =
    ["tokio", "tokio-util", "futures-util", "kanal", "async-channel", "flume"];

/// What stands above the tables in a file.
pub fn preamble(args: &Args) -> String {
    let machine = millpond_benches::machine();
    let versions = versions().map(|versions| format!("Versions: {versions}.\n\n"));
    let versions = versions.unwrap_or_default();
    let (rounds, command) = (args.rounds, command());
    let smoke =
        if args.quick { " A quick run: it shows that all works, not how fast." } else { "" };
    format!(
        "# Benchmarks\n\nMachine: {machine}.\n\n{versions}Rounds: {rounds}.{smoke} Made by:\n\n\
         ```sh\n{command}\n```\n\n{NOTES}\n"
    )
}

fn versions() -> Option<String> {
    let lock = fs::read_to_string(millpond_benches::from_root("Cargo.lock")).ok()?;
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split_once('"')?.0))
    };
    Some(RIVALS.into_iter().filter_map(version).collect::<Vec<_>>().join(", "))
}

fn command() -> String {
    let quoted = |arg: String| if arg.contains(' ') { format!("'{arg}'") } else { arg };
    let args = env::args().skip(1).filter(|arg| arg != "--bench").map(quoted);
    ["cargo bench --bench pool --".into()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
}
