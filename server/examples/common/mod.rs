//! Shared by the examples that are servers: options, the live line, and the shutdown.

use std::collections::HashMap;
use std::future::pending;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use millpond_server::{Mode, Server, ServerStatus, ShutdownReport};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The time that a shutdown gives to frames under way.
const DRAIN: Duration = Duration::from_secs(10);

pub struct Args {
    pub listen: String,
    pub mode: Mode,
    live: bool,
    more: HashMap<String, usize>,
}

impl Args {
    /// Parses the command line; `numbers` are further options. Prints the options and exits if the
    /// command line is not valid.
    pub fn parse(listen: &str, numbers: &[&str]) -> Self {
        let mut parsed = Self {
            listen: listen.to_owned(),
            mode: Mode::EventDriven,
            live: std::io::stdout().is_terminal(),
            more: HashMap::new(),
        };
        if let Err(problem) = parsed.read(numbers) {
            let more: String = numbers.iter().map(|name| format!(" [{name} NUMBER]")).collect();
            eprintln!(
                "{problem}\noptions: [--mode dedicated|event-driven] [--listen ADDRESS:PORT] \
                 [--live]{more}"
            );
            std::process::exit(2);
        }
        parsed
    }

    fn read(&mut self, numbers: &[&str]) -> Result<(), String> {
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            if name == "--live" {
                self.live = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |what: &str| format!("{name} {value}: expected {what}");
            match &*name {
                "--listen" => self.listen = value,
                "--mode" => {
                    self.mode = match &*value {
                        "dedicated" => Mode::Dedicated,
                        "event-driven" => Mode::EventDriven,
                        _ => return Err(wrong("dedicated or event-driven")),
                    }
                }
                _ if numbers.contains(&&*name) => {
                    let number = value.parse().ok().filter(|number| *number > 0);
                    let number = number.ok_or_else(|| wrong("a number from 1"))?;
                    self.more.insert(name, number);
                }
                _ => return Err(format!("there is no option {name}")),
            }
        }
        Ok(())
    }

    #[allow(dead_code, reason = "not all examples have further options")]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.more.get(name).copied()
    }
}

/// A server of frames, or of HTTP.
pub trait Serving {
    fn address(&self) -> Option<SocketAddr>;
    fn status(&self) -> ServerStatus;
    fn shutdown(&self, deadline: Duration) -> impl Future<Output = ShutdownReport>;
}

macro_rules! serving {
    ($server:ty) => {
        impl Serving for $server {
            fn address(&self) -> Option<SocketAddr> {
                self.local_addrs().first().copied()
            }

            fn status(&self) -> ServerStatus {
                self.status()
            }

            fn shutdown(&self, deadline: Duration) -> impl Future<Output = ShutdownReport> {
                self.shutdown(deadline)
            }
        }
    };
}

serving!(Server);
#[cfg(feature = "http")]
serving!(millpond_server::http::Server);

/// Prints the server's address, and shows what the server does until ctrl-c or SIGTERM.
pub async fn serve(server: &impl Serving, args: &Args) -> Result<(), Error> {
    // Registered before the address is printed, so that no signal is missed.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let address = server.address().map_or(args.listen.clone(), |address| address.to_string());
    println!("listening on {address}, {:?}, process {}", args.mode, std::process::id());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = show(server), if args.live => {}
        () = pending() => {}
    }
    Ok(())
}

/// Prints a line each second. A terminal shows it in place.
async fn show(server: &impl Serving) {
    let (start, end) = if std::io::stdout().is_terminal() { ("\r\x1b[2K", "") } else { ("", "\n") };
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut before = server.status();
    loop {
        seconds.tick().await;
        let status = server.status();
        let tasks = Handle::current().metrics().num_alive_tasks();
        print!(
            "{start}open {:>6}  parked {:>6}  tasks {tasks:>6}  |  frames {:>9}  {:>7}/s  \
             out {:>7} KiB/s{end}",
            status.open,
            status.parked,
            status.frames,
            status.frames - before.frames,
            (status.bytes_out - before.bytes_out) / 1024,
        );
        // Ignored: a closed pipe does not stop the server.
        let _ = std::io::stdout().flush();
        before = status;
    }
}

/// Stops the server gracefully, and prints the report.
pub async fn stop(server: &impl Serving) {
    let report = server.shutdown(DRAIN).await;
    let status = server.status();
    println!(
        "\nstopped: {} closed, {} ended by themselves, {} cut off, {} left; {} frames on {} \
         connections",
        report.closed,
        report.others,
        report.aborted,
        report.still_open,
        status.frames,
        status.accepted
    );
}
