//! Rivals in Go, in a process of their own; `scripts/go-pools` builds it.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::Entry;
use crate::runtime::{Flavour, THREADS};
use crate::workloads::{Shape, Work, Workload};

/// Names the program. Without it the rivals in Go do not take part.
const PROGRAM: &str = "MILLPOND_GO_POOLS";

macro_rules! arm {
    ($key:literal, $arm:literal, $label:literal) => {
        Entry {
            key: $key,
            label: $label,
            fits: |_, _| true,
            measure: |workload, flavour| run($arm, workload, flavour).0,
        }
    };
}

pub static ALL: [Entry; 4] = [
    arm!("go", "go", "Go: goroutines (unbounded)"),
    arm!("go-ants", "ants", "Go: ants"),
    arm!("go-pond", "pond", "Go: pond"),
    arm!("go-fasthttp", "fasthttp", "Go: fasthttp's pool"),
];

/// Whether the program is there.
pub fn is_present() -> bool {
    program().is_some()
}

fn program() -> Option<&'static str> {
    static PATH: OnceLock<Option<String>> = OnceLock::new();
    PATH.get_or_init(|| std::env::var(PROGRAM).ok().filter(|path| !path.is_empty())).as_deref()
}

/// The peak in kB of a rival in Go, or `None` if `key` is none.
pub fn peak(key: &str, workload: &Workload, flavour: Flavour) -> Option<f64> {
    let entry = ALL.iter().find(|entry| entry.key == key)?;
    let arm = entry.key.strip_prefix("go-").unwrap_or(entry.key);
    Some(run(arm, workload, flavour).1)
}

/// The time of the workload, and the peak memory of the process in kB.
fn run(arm: &str, workload: &Workload, flavour: Flavour) -> (Duration, f64) {
    let work = match workload.work {
        Work::Tiny => "tiny",
        Work::Yield => "yield",
        Work::Sleep(1) => "sleep",
        Work::Sleep(_) => "sleep10",
        Work::Spin => "spin",
    };
    let shape = match workload.shape {
        Shape::Feed => "feed",
        Shape::Gather => "gather",
        Shape::Call => "call",
    };
    let threads = if flavour == Flavour::Multi { THREADS } else { 1 };
    let numbers = [workload.producers, workload.size, workload.jobs as usize, threads];
    let ran = Command::new(program().expect("the program was looked for"))
        .args([arm, work, shape])
        .args(numbers.map(|number| number.to_string()))
        .output()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    let (text, complaint) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let mut words = text.split_whitespace();
    let nanos = words.next().and_then(|nanos| nanos.parse().ok());
    let nanos = nanos.unwrap_or_else(|| panic!("{arm}, {}: {complaint}", workload.name));
    let peak = words.nth(1).and_then(|peak| peak.parse().ok()).unwrap_or(0.0);
    (Duration::from_nanos(nanos), peak)
}
