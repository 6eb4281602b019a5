//! The layer beside tower's own: in process, and behind axum.

mod allocations;
mod arms;
mod http;
mod in_process;
mod process;
#[path = "../pool/progress.rs"]
mod progress;
mod report;
mod servers;

use std::path::PathBuf;

const USAGE: &str = "\
cargo bench --features http-body --bench layer -- [OPTIONS]

  --quick          a hundredth of it, 1 round: shows that it works, not how fast it is
  --only PART      only in-process or http
  --rounds N       how often each service is measured (default: 5)
  --write DIR      also write layer.md there
  --help           this text";

struct Args {
    quick: bool,
    only: Option<String>,
    rounds: usize,
    write: Option<PathBuf>,
}

fn main() {
    let mut given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if given.first().is_some_and(|first| first == "--serve") {
        // Servers run this program in other processes.
        return servers::serve(&given[1]);
    }
    given.reverse();
    let mut args = Args { quick: false, only: None, rounds: 5, write: None };
    while let Some(option) = given.pop() {
        let mut value = || given.pop().unwrap_or_else(|| fail(&format!("{option} needs a value")));
        match &*option {
            "--quick" => args.quick = true,
            "--only" => args.only = Some(value()),
            "--rounds" => match value().parse() {
                Ok(rounds @ 1..=100) => args.rounds = rounds,
                _ => fail("--rounds takes a number from 1 to 100"),
            },
            "--write" => args.write = Some(value().into()),
            "--help" => return println!("{USAGE}"),
            _ => fail(&format!("there is no option {option}")),
        }
    }
    if args.quick {
        args.rounds = 1;
    }
    let wants = |part: &str| args.only.as_deref().is_none_or(|only| only == part);
    let mut text = String::from(
        "# The layer, measured\n\nMade by `cargo bench --features http-body --bench layer -- --write benches` on two shared\ncores; medians of interleaved rounds.\n",
    );
    if wants("in-process") {
        text += &in_process::run(&args);
    }
    if wants("http") {
        text += &http::run(&args);
    }
    print!("{text}");
    if let Some(dir) = &args.write {
        write(dir.join("layer.md"), &text);
    }
}

fn write(path: PathBuf, text: &str) {
    if let Err(error) = std::fs::write(&path, text) {
        fail(&format!("{}: {error}", path.display()));
    }
}

fn fail(problem: &str) -> ! {
    eprintln!("{problem}\n\n{USAGE}");
    std::process::exit(2);
}
