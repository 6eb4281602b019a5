//! The command line.

use std::path::PathBuf;

use crate::arms::{self, Entry};
use crate::runtime::Flavour;

pub const USAGE: &str = "\
Measures millpond against its alternatives, interleaved, and prints Markdown tables.

cargo bench --bench pool -- [OPTIONS]

  --quick            at most 2,000 jobs, 1 round: shows that it works, not how fast it is
  --only TEXT        only workloads whose name contains TEXT
  --arms A,B,...     only these rivals
  --rounds N         how often each rival runs each workload (default: 5)
  --runtime NAME     only this runtime: multi or current
  --memory-jobs N    jobs of the peak memory measurement (default: 10000000)
  --write FILE       also write the tables to FILE, with the machine and the versions measured
  --help             this text
";

pub struct Args {
    pub quick: bool,
    pub only: String,
    pub arms: Vec<&'static Entry>,
    pub rounds: usize,
    pub flavours: Vec<Flavour>,
    pub memory_jobs: u64,
    pub write: Option<PathBuf>,
}

impl Args {
    /// None when help was asked for.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            quick: false,
            only: String::new(),
            arms: arms::present().collect(),
            rounds: 5,
            flavours: Flavour::ALL.to_vec(),
            memory_jobs: crate::rss::JOBS,
            write: None,
        };
        let mut rounds = None;
        let mut memory_jobs = None;
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{option} needs a value"));
            match option.as_str() {
                // Cargo adds it on its own.
                "--bench" => {}
                "--quick" => args.quick = true,
                "--only" => args.only = value()?.to_lowercase(),
                "--arms" => args.arms = value()?.split(',').map(arm).collect::<Result<_, _>>()?,
                "--rounds" => rounds = Some(count(&option, &value()?)?),
                "--runtime" => args.flavours = vec![flavour(&value()?)?],
                "--memory-jobs" => memory_jobs = Some(count(&option, &value()?)?),
                "--write" => args.write = Some(millpond_benches::from_root(value()?)),
                "--help" => return Ok(None),
                _ => return Err(format!("unknown option {option}\n\n{USAGE}")),
            }
        }
        if args.quick {
            args.rounds = 1;
            args.memory_jobs = args.scale(args.memory_jobs);
        }
        args.rounds = rounds.map_or(args.rounds, |rounds| rounds as usize);
        args.memory_jobs = memory_jobs.unwrap_or(args.memory_jobs);
        Ok(Some(args))
    }

    pub fn scale(&self, jobs: u64) -> u64 {
        if self.quick { jobs.min(2_000) } else { jobs }
    }

    pub fn wants(&self, workload: &str) -> bool {
        workload.to_lowercase().contains(&self.only)
    }
}

fn arm(key: &str) -> Result<&'static Entry, String> {
    let known = || arms::present().map(|arm| arm.key).collect::<Vec<_>>().join(", ");
    let found = arms::present().find(|arm| arm.key == key);
    found.ok_or_else(|| format!("--arms does not know {key:?}; it knows {}", known()))
}

fn flavour(key: &str) -> Result<Flavour, String> {
    let found = Flavour::ALL.into_iter().find(|flavour| flavour.key() == key);
    found.ok_or_else(|| format!("--runtime does not know {key:?}; it knows multi and current"))
}

fn count(option: &str, value: &str) -> Result<u64, String> {
    let count = value.parse().ok().filter(|&count| count > 0);
    count.ok_or_else(|| format!("{option} takes a whole number above 0, not {value:?}"))
}
