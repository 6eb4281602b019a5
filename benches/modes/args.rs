//! The command line, of all three roles.

use crate::arms::{self, Arm};
use crate::protocol::Protocol;

pub const USAGE: &str = "\
Compares ways to hold many connections that are idle most of the time.

cargo bench --bench modes -- [OPTIONS]

  --http             HTTP/1.1 instead of frames that are echoed
  --ws               WebSockets instead
  --quick            200 connections and short steps: shows that it works
  --connections N    connections held (default: 8000, or what the limit of open files leaves)
  --rounds N         how often each arm is measured, interleaved (default: 1, with --write 5)
  --arms A,B,...     only these: see below (default: all, with --write those of the goals)
  --threads N,M,...  worker threads of each server's runtime (default: 2, with --write 1,2)
  --write            longer steps; writes benches/modes.md and benches/modes.svg, modes_http for
                     --http, modes_ws for --ws; else both go to the target directory
  --help             this text

What it starts itself with, for the processes it measures:

  --role NAME        controller (default), server or client
  --arm A            which server; listens on a free port, takes orders on its input
  --handler-ms N     how long the server's handler sleeps (default: 0)";

const ACCEPTED: &str = "--http, --ws, --quick, --connections N, --rounds N, --arms A,B, --threads N,M, \
                        --write, --help; for --role server also --arm A and --handler-ms N";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Controller,
    Server,
    Client,
}

pub struct Args {
    pub role: Role,
    pub protocol: Protocol,
    pub quick: bool,
    /// None: as many as are usual, fewer if the limit of open files is too low.
    pub connections: Option<usize>,
    pub rounds: Option<usize>,
    pub arms: Vec<&'static Arm>,
    /// Each is measured.
    pub threads: Vec<usize>,
    pub write: bool,
    pub handler_ms: u64,
}

impl Args {
    /// None when help was asked for.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            role: Role::Controller,
            protocol: Protocol::Echo,
            quick: false,
            connections: None,
            rounds: None,
            arms: Vec::new(),
            threads: Vec::new(),
            write: false,
            handler_ms: 0,
        };
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{option} needs a value"));
            match &*option {
                "--bench" => {}
                "--http" => args.protocol = Protocol::Http,
                "--ws" => args.protocol = Protocol::Ws,
                "--quick" => args.quick = true,
                "--connections" => args.connections = Some(count(&option, &value()?)?),
                "--rounds" => args.rounds = Some(count(&option, &value()?)?),
                "--arms" => {
                    args.arms = value()?.split(',').map(arms::find).collect::<Result<_, _>>()?;
                }
                "--arm" => args.arms = vec![arms::find(&value()?)?],
                "--threads" => {
                    let value = value()?;
                    let counts = value.split(',').map(|one| count(&option, one));
                    args.threads = counts.collect::<Result<_, _>>()?;
                }
                "--write" => args.write = true,
                "--handler-ms" => {
                    let value = value()?;
                    let wrong = || format!("--handler-ms takes milliseconds, not {value:?}");
                    args.handler_ms = value.parse().map_err(|_| wrong())?;
                }
                "--role" => args.role = role(&value()?)?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown option {option}; accepted are {ACCEPTED}")),
            }
        }
        if args.arms.is_empty() {
            let offered = arms::offered(args.protocol);
            args.arms = offered.filter(|arm| !args.write || arm.is_published()).collect();
        }
        if args.threads.is_empty() {
            args.threads = if args.write { vec![1, 2] } else { vec![2] };
        }
        if let Some(arm) = args.arms.iter().find(|arm| arm.protocol != args.protocol) {
            let option = arm.protocol.option().unwrap_or("neither --http nor --ws");
            return Err(format!("the arm {} goes with {option}", arm.key));
        }
        Ok(Some(args))
    }
}

fn role(name: &str) -> Result<Role, String> {
    match name {
        "controller" => Ok(Role::Controller),
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err(format!("--role takes controller, server or client, not {name:?}")),
    }
}

fn count(option: &str, value: &str) -> Result<usize, String> {
    let count = value.parse().ok().filter(|&count| count > 0);
    count.ok_or_else(|| format!("{option} takes a whole number above 0, not {value:?}"))
}
