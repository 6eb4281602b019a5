//! The command line.

use std::time::Duration;

use millpond_server::Mode;

const USAGE: &str = "\
usage: axum_parked [--listen ADDRESS:PORT] [--mode dedicated|event-driven]
                   [--size SLOTS]
       axum_parked fill CONNECTIONS [--at ADDRESS:PORT] [--for SECONDS]";

const ADDRESS: &str = "127.0.0.1:3001";

pub struct Args;

pub enum Command {
    Serve(Serve),
    Fill(Fill),
}

pub struct Serve {
    pub listen: String,
    pub mode: Mode,
    /// The slots of the pool.
    pub size: usize,
}

pub struct Fill {
    pub at: String,
    pub connections: usize,
    /// The time for which the connections are held.
    pub time: Duration,
}

impl Args {
    /// Parses the command line. Prints the usage and exits if that is not valid.
    pub fn parse() -> Command {
        let mut words: Vec<_> = std::env::args().skip(1).collect();
        let fill = words.first().is_some_and(|word| word == "fill");
        let parsed = if fill {
            Fill::parse(words.drain(1..)).map(Command::Fill)
        } else {
            Serve::parse(words.into_iter()).map(Command::Serve)
        };
        parsed.unwrap_or_else(|problem| {
            eprintln!("{problem}\n{USAGE}");
            std::process::exit(2);
        })
    }
}

impl Serve {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self { listen: ADDRESS.into(), mode: Mode::EventDriven, size: 64 };
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |what: &str| format!("{name} {value}: expected {what}");
            match &*name {
                "--listen" => parsed.listen = value,
                "--mode" => {
                    parsed.mode = match &*value {
                        "dedicated" => Mode::Dedicated,
                        "event-driven" => Mode::EventDriven,
                        _ => return Err(wrong("dedicated or event-driven")),
                    }
                }
                "--size" => parsed.size = number(&name, &value)?,
                _ => return Err(format!("there is no option {name}")),
            }
        }
        Ok(parsed)
    }
}

impl Fill {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let connections = words.next().ok_or("fill needs the number of connections")?;
        let connections = number("fill", &connections)?;
        let time = Duration::from_secs(600);
        let mut parsed = Self { at: ADDRESS.into(), connections, time };
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            match &*name {
                "--at" => parsed.at = value,
                "--for" => parsed.time = Duration::from_secs(number(&name, &value)? as u64),
                _ => return Err(format!("fill has no option {name}")),
            }
        }
        Ok(parsed)
    }
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| format!("{name} {value}: expected a number from 1 to 1000000"))
}
