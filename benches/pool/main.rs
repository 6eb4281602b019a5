//! Measures millpond against its alternatives; see `--help`.
#![allow(missing_docs)]

mod args;
mod arms;
mod head_of_line;
mod neighbour;
mod plan;
mod progress;
mod provenance;
mod report;
mod rss;
mod runtime;
mod tally;
mod workloads;

use std::process::ExitCode;
use std::{env, fs};

use args::Args;
use plan::Plan;

fn main() -> ExitCode {
    if rss::run_as_child() {
        return ExitCode::SUCCESS;
    }
    // `cargo test --all-targets` runs this too, unoptimised and with a test runner's arguments.
    if cfg!(debug_assertions) && !env::args().any(|arg| arg == "--bench") {
        eprintln!("a debug build has nothing to measure; use cargo bench --bench pool");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let Some(args) = Args::parse(env::args().skip(1))? else {
        print!("{}", args::USAGE);
        return Ok(());
    };
    let outcomes = Plan::new(&args)?.run();
    let tables = report::tables(&args, &outcomes);
    print!("{tables}");
    if let Some(file) = &args.write {
        let page = provenance::preamble(&args) + &tables;
        fs::write(file, page).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}
