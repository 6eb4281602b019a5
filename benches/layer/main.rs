//! The layer beside tower's own: in process, and behind axum.

mod allocations;
mod args;
mod arms;
mod http;
mod in_process;
mod process;
#[path = "../pool/progress.rs"]
mod progress;
mod report;
mod servers;

use args::Args;

const USAGE: &str = "\
cargo bench --bench layer -- [OPTIONS]

  --quick          a hundredth of it, 1 round: shows that it works, not how fast it is
  --only PART      only in-process or http
  --rounds N       how often each service is measured (default: 5)
  --write DIR      also write layer.md there
  --help           this text";

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if given.first().is_some_and(|first| first == "--serve") {
        // Servers run this program in other processes.
        return servers::serve(&given[1]);
    }
    let Some(args) = Args::parse(given, 5, USAGE) else { return println!("{USAGE}") };
    let mut text = format!(
        "# The layer, measured\n\nMade by `cargo bench --bench layer -- --write benches`; medians of interleaved\n\
         rounds ({}). Machine: {}.\n",
        args.rounds,
        millpond_benches::machine(),
    );
    if args.wants("in-process") {
        text += &in_process::run(&args);
    }
    if args.wants("http") {
        text += &http::run(&args);
    }
    print!("{text}");
    args.write("layer.md", &text);
}
