//! Peak memory of a long flood, one child process per rival: a peak never falls again.

use std::process::Command;
use std::{env, fs};

use crate::arms::{self, Entry};
use crate::runtime::Flavour;
use crate::workloads::{Shape, Work, Workload};

pub const NAME: &str = "peak memory";
pub const JOBS: u64 = 10_000_000;
const SIZE: usize = 100;

/// Set for a child only; holds rival, runtime and count.
const CHILD: &str = "MILLPOND_BENCH_CHILD";

fn flood(jobs: u64) -> Workload {
    Workload { name: NAME, work: Work::Tiny, shape: Shape::Feed, producers: 1, size: SIZE, jobs }
}

pub fn fits(arm: &Entry) -> bool {
    (arm.fits)(Shape::Feed, 1)
}

/// The peak in kB; none where the system does not tell.
pub fn measure(arm: &Entry, flavour: Flavour, jobs: u64) -> Option<f64> {
    if let Some(peak) = arms::go::peak(arm.key, &flood(jobs), flavour) {
        return Some(peak);
    }
    let child = Command::new(env::current_exe().expect("this program has a path"))
        .env(CHILD, format!("{} {} {jobs}", arm.key, flavour.key()))
        .output()
        .expect("the child starts");
    let complaint = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{NAME}, {}: {complaint}", arm.label);
    String::from_utf8_lossy(&child.stdout).trim().parse().ok()
}

/// Does the child's part and returns true if this process is one.
pub fn run_as_child() -> bool {
    let Ok(order) = env::var(CHILD) else { return false };
    let mut words = order.split(' ');
    let mut word = || words.next().expect("the parent gives three words");
    let (key, runtime, jobs) = (word(), word(), word());
    let arm = arms::ALL.iter().find(|arm| arm.key == key).expect("a rival");
    let flavour = Flavour::ALL.into_iter().find(|f| f.key() == runtime).expect("a runtime");
    (arm.measure)(&flood(jobs.parse().expect("a count")), flavour);
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
