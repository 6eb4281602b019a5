//! Ways to hold many connections that are idle most of the time, side by side.
//!
//! ```text
//! cargo bench --bench modes -- --quick    # half a minute: shows that it works
//! cargo bench --bench modes               # a minute
//! cargo bench --bench modes -- --write    # some ten minutes: makes benches/modes.md
//! cargo bench --bench modes -- --http     # HTTP/1.1, on hyper in all arms
//! cargo bench --bench modes -- --ws       # WebSockets
//! ```
//!
//! Each way is a server of its own process, driven over loopback by the same client, a process as
//! well: 64 bytes go to the server and come back. What is told: the memory and the tasks that idle
//! connections cost, the CPU at steady rates spread over all of them, throughput and latency of
//! some among them, a spike on all, polite ones beside a flood, and a handler that takes its time.
//! With `--http` small GETs on kept connections instead, with `--ws` messages of WebSockets; and requests
//! of which a part has come instead of the flood.

#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod args;
#[cfg(target_os = "linux")]
mod arms;
#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod controller;
#[cfg(target_os = "linux")]
mod frames;
#[cfg(target_os = "linux")]
mod goals;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod notes;
#[cfg(target_os = "linux")]
mod ours;
#[cfg(target_os = "linux")]
mod picture;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(target_os = "linux")]
mod protocol;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod server;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    use args::{Args, Role};
    use protocol::Protocol::{Echo, Http, Ws};

    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{}", args::USAGE);
            for (title, protocol) in
                [("Arms:", Echo), ("Arms of --http:", Http), ("Arms of --ws:", Ws)]
            {
                println!("\n{title}");
                for arm in arms::offered(protocol) {
                    println!("  {:<16} {}", arm.key, arm.what);
                }
            }
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let done = match args.role {
        Role::Controller => controller::run(args),
        Role::Server => server::run(&args),
        Role::Client => client::run(args.protocol),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("This measures with epoll and /proc: it runs on Linux only.");
}
