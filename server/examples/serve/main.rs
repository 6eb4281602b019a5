//! Line-echo servers as a configuration file describes them, each in its mode.
//!
//! ```text
//! cargo run --release --features serde --example serve                    # examples/serve/serve.toml
//! cargo run --release --features serde --example serve -- my.json
//! nc 127.0.0.1 7001
//! ```
//!
//! While the servers run, a line shows what they hold. Ctrl-c or SIGTERM stops them gracefully; a
//! second signal stops them at once.

mod file;
mod live;

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;

use futures_util::future::join_all;
use millpond_server::{
    Mode, Server, ServerConfig, ServerEntry, ServerStatus, ShutdownReport, StartError,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::codec::LinesCodec;
use tokio_util::sync::CancellationToken;

const DEFAULT: &str = "examples/serve/serve.toml";
/// The longest line; `max_frame_size` in the file may be stricter.
const MAX_LINE: usize = 64 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (path, rest) = (args.next().unwrap_or(DEFAULT.into()), args.next());
    if rest.is_some() {
        eprintln!("usage: serve [FILE.toml | FILE.json]");
        return ExitCode::from(2);
    }
    let path = Path::new(&path);
    let (problem, code) = match file::read(path) {
        Err(problem) => (problem, ExitCode::from(2)),
        Ok(config) => match run(&config).await {
            Err(problem) => (problem, ExitCode::FAILURE),
            Ok(()) => return ExitCode::SUCCESS,
        },
    };
    eprintln!("{}: {problem}", path.display());
    code
}

async fn run(config: &ServerConfig) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let servers = start(config, &stop)?;
    for (entry, server) in config.servers().iter().zip(&servers) {
        announce(entry, server);
    }

    tokio::select! {
        () = live::show(config, &servers) => {}
        () = stop_signal(&mut signals) => println!("stopping"),
    }
    stop.cancel();
    // Concurrently: a server's shutdown begins when its `wait` is first polled.
    let reports = join_all(servers.iter().map(Server::wait));
    tokio::select! {
        reports = reports => {
            for ((entry, server), report) in config.servers().iter().zip(&servers).zip(reports) {
                println!("{}", summary(entry.name(), &server.status(), &report));
            }
            Ok(())
        }
        () = stop_signal(&mut signals) => Err("stopped at once".into()),
    }
}

fn summary(name: &str, status: &ServerStatus, report: &ShutdownReport) -> String {
    format!(
        "{name}: {} connections, {} lines; at the end {} closed, {} cut off, {} left",
        status.accepted,
        status.frames,
        report.closed + report.others,
        report.aborted,
        report.still_open
    )
}

/// Starts all servers, or none: an error drops the servers that have started.
fn start(config: &ServerConfig, stop: &CancellationToken) -> Result<Vec<Server>, StartError> {
    let echo = tower::service_fn(|line: String| async move { Ok::<_, Infallible>(Some(line)) });
    let builders = config.builders()?.into_iter();
    let started = builders.map(|(_, builder)| {
        let codec = LinesCodec::new_with_max_length(MAX_LINE);
        builder.shutdown_token(stop.clone()).codec(codec).serve(echo)
    });
    started.collect()
}

fn announce(entry: &ServerEntry, server: &Server) {
    // The TCP addresses, with the ports that the kernel chose.
    let mut addresses = server.local_addrs().iter();
    for (address, mode) in entry.listens() {
        let address = match address.starts_with("unix:") {
            true => address.to_owned(),
            false => addresses.next().map_or(address.to_owned(), ToString::to_string),
        };
        let mode = match mode {
            Mode::EventDriven => "event-driven",
            _ => "dedicated",
        };
        println!("listening on {address}, {mode} ({})", entry.name());
    }
}

async fn stop_signal((interrupt, terminate): &mut (Signal, Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
