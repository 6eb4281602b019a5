//! Where the numbers come from, and how many connections a process may hold here.

use std::{env, fs, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Open files that are no connections, generously.
const OTHERS: u64 = 200;

/// How many connections a process may hold; raises the limit as far as it goes. The processes
/// started from here inherit it.
pub fn room() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| limit.saturating_sub(OTHERS) as usize)
}

pub fn command() -> String {
    // The last of them is cargo's.
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args = if args.is_empty() { String::new() } else { format!(" -- {}", args.join(" ")) };
    format!("cargo bench --bench modes{args}")
}

/// Binds this process to its half of the cores, before it has threads: the servers to the first half, the
/// client to the second.
pub fn pin(is_server: bool) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let half = cores / 2;
    let mut set = CpuSet::new();
    match (half, is_server) {
        (0, _) => return,
        (_, true) => (0..half).for_each(|core| set.set(core)),
        (_, false) => (half..cores).for_each(|core| set.set(core)),
    }
    // Without it the figures are worse, and the program still works.
    let _ = sched_setaffinity(None, &set);
}

/// What the cores did since the system started: busy, of all, in a unit of their own.
pub fn busy() -> Option<[f64; 2]> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let numbers = text.lines().next()?.split_whitespace().skip(1);
    // The last two are parts of the first two.
    let numbers: Vec<f64> = numbers.take(8).filter_map(|number| number.parse().ok()).collect();
    let all: f64 = numbers.iter().sum();
    Some([all - numbers.get(3)? - numbers.get(4)?, all])
}
