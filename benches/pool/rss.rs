//! Peak memory of a long flood, one child process per rival: a peak never falls again.

use std::process::Command;
use std::{env, fs};

use crate::arms::{self, Entry};
use crate::runtime::Flavour;
use crate::workloads::{Shape, Work, Workload};

pub const JOBS: u64 = 10_000_000;

/// What the jobs of a flood do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    Tiny,
    Sleeping,
}

impl Flood {
    pub const ALL: [Self; 2] = [Self::Tiny, Self::Sleeping];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "peak memory, tiny jobs, size 100",
            Self::Sleeping => "peak memory, jobs of 10 ms, size 50,000",
        }
    }

    fn workload(self, jobs: u64) -> Workload {
        let (work, size) = match self {
            Self::Tiny => (Work::Tiny, 100),
            Self::Sleeping => (Work::Sleep(10), 50_000),
        };
        // A quick run has fewer jobs, and thousands of idle workers of flume take seconds to end.
        let size = size.min(jobs as usize);
        Workload { name: self.name(), work, shape: Shape::Feed, producers: 1, size, jobs }
    }

    /// Without a limit, all sleeping jobs are in memory at once.
    pub fn fits(self, arm: &Entry) -> bool {
        let is_bounded = self == Self::Tiny || !arm.label.contains("unbounded");
        is_bounded && (arm.fits)(Shape::Feed, 1)
    }
}

/// Set for a child only; holds rival, runtime, count and flood.
const CHILD: &str = "MILLPOND_BENCH_CHILD";

/// The peak in kB; none where the system does not tell.
pub fn measure(flood: Flood, arm: &Entry, flavour: Flavour, jobs: u64) -> Option<f64> {
    if let Some(peak) = arms::go::peak(arm.key, &flood.workload(jobs), flavour) {
        return Some(peak);
    }
    let child = Command::new(env::current_exe().expect("this program has a path"))
        .env(CHILD, format!("{} {} {jobs} {}", arm.key, flavour.key(), flood as usize))
        .output()
        .expect("the child starts");
    let complaint = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}, {}: {complaint}", flood.name(), arm.label);
    String::from_utf8_lossy(&child.stdout).trim().parse().ok()
}

/// Does the child's part and returns true if this process is one.
pub fn run_as_child() -> bool {
    let Ok(order) = env::var(CHILD) else { return false };
    let mut words = order.split(' ');
    let mut word = || words.next().expect("the parent gives four words");
    let (key, runtime, jobs, flood) = (word(), word(), word(), word());
    let flood = Flood::ALL.into_iter().find(|f| (*f as usize).to_string() == flood);
    let flood = flood.expect("a flood");
    let arm = arms::ALL.iter().find(|arm| arm.key == key).expect("a rival");
    let flavour = Flavour::ALL.into_iter().find(|f| f.key() == runtime).expect("a runtime");
    (arm.measure)(&flood.workload(jobs.parse().expect("a count")), flavour);
    if let Some(peak) = peak() {
        println!("{peak}");
    }
    true
}

fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
