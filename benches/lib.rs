//! Benchmarks of millpond and millpond-server; each is a program under `benches`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// Returns the path of a file that is named from the root of the checkout. Cargo runs a benchmark in the folder
/// of its package.
pub fn from_root(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Describes the machine: its processors, the system and the compiler.
pub fn machine() -> String {
    let count = thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(format!(" ({})", line.split_once(':')?.1.trim()))
    });
    let model = model.unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = format!("{} {}", env::consts::OS, release.trim());
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.filter(|output| output.status.success());
    let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok());
    let rustc = rustc.map_or("rustc of unknown version".into(), |text| text.trim().to_owned());
    format!("{count} cores{model}, {}, {rustc}", system.trim_end())
}
