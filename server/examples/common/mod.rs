//! What the servers among the examples share: their options, the live line, and the way to the end.

use std::collections::HashMap;
use std::future::pending;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use millpond_server::{Mode, Server};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long what is under way may take once the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

pub struct Args {
    pub listen: String,
    pub mode: Mode,
    live: bool,
    more: HashMap<String, usize>,
}

impl Args {
    /// Reads the command line; `numbers` are further options. Exits where that makes no sense.
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

/// Says where the server listens and shows what it does, until ctrl-c or SIGTERM.
pub async fn serve(server: &Server, args: &Args) -> Result<(), Error> {
    // Before anybody can know that this process is there to be told to stop.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let address = server.local_addrs().first().map_or(args.listen.clone(), ToString::to_string);
    println!("listening on {address}, {:?}, process {}", args.mode, std::process::id());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = show(server), if args.live => {}
        () = pending() => {}
    }
    Ok(())
}

/// Prints a line each second: in place on a terminal, one below the other elsewhere.
async fn show(server: &Server) {
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
        // A closed pipe is no reason to stop serving.
        let _ = std::io::stdout().flush();
        before = status;
    }
}

/// Stops gracefully, and tells how that went.
pub async fn stop(server: &Server) {
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
