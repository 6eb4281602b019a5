//! The cells of millpond's goals that have no other benchmark: HTTP/2, system calls, waits on one worker
//! thread, TLS. Each function measures one round of all its servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::arms::{AXUM, DEDICATED, EVENT_DRIVEN, SAME_ROUTER};
use crate::external;
use crate::measure::{Arm, Run, round};

pub const RESULTS: &str = "cells.tsv";

/// Worker threads of the servers. They share the core of the server.
pub const WORKERS: [&str; 2] = ["1", "2"];
/// Connections, streams of each, and the path.
pub const HTTP2: [(usize, usize, &str); 3] = [(16, 32, "/a"), (1, 1, "/a"), (100, 10, "/sleep/a")];
/// Busy connections whose system calls are counted, those over TLS, and the runtimes with one thread.
pub const CALLS: [usize; 2] = [1, 32];
pub const TLS: [usize; 3] = [1, 32, 100];
pub const RUNTIMES: [&str; 2] = ["current_thread", "1"];
/// What others wait beside: a name, the peers that pipeline, the connections with handlers of 1 ms.
pub const SCENES: [(&str, usize, usize); 3] = [
    ("one peer that pipelines", 1, 0),
    ("eight peers that pipeline", 8, 0),
    ("32 connections with handlers of 1 ms", 0, 32),
];
/// What waits, as the client calls it.
pub const WAITING: [&str; 3] = ["new", "established", "sleep"];

const SECONDS: f64 = 0.7;
/// Before anything is measured.
const WARM_UP: f64 = 0.2;
/// Of the counting of system calls, which slows the server, and until it has begun.
const COUNTED: f64 = 0.4;
const ATTACH: Duration = Duration::from_millis(300);
/// Some waits last for hundreds of ms.
const WAITS: f64 = 1.3;

pub fn http2() -> Result<(), String> {
    let arms = [EVENT_DRIVEN, DEDICATED, AXUM, SAME_ROUTER].map(Arm::Rust);
    for workers in WORKERS {
        round(RESULTS, &arms, |arm, folder, tell| {
            let mut run = Run::start(arm, folder, "h2", workers)?;
            for (connections, streams, path) in HTTP2 {
                let order = format!("http2 {} {connections} {path}", run.port);
                run.client.ask(&order, Duration::ZERO)?;
                run.load(&format!("streams {streams} {WARM_UP}"), WARM_UP)?;
                let (answer, cpu) = run.load(&format!("streams {streams} {SECONDS}"), SECONDS)?;
                let cell = format!("{workers} {connections}x{streams}");
                tell(&format!("http2 rate {cell}"), answer.number("rate")?);
                tell(&format!("http2 cpu {cell}"), cpu);
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub fn tls() -> Result<(), String> {
    let arms = [EVENT_DRIVEN, DEDICATED, AXUM].map(Arm::Rust);
    for workers in WORKERS {
        round(RESULTS, &arms, |arm, folder, tell| {
            let mut run = Run::start(arm, folder, "tls", workers)?;
            let most = TLS.into_iter().max().unwrap_or(0);
            run.client.ask(&format!("tls {} {most}", run.port), Duration::ZERO)?;
            for active in TLS {
                run.load(&format!("sessions {active} {WARM_UP}"), WARM_UP)?;
                let (answer, cpu) = run.load(&format!("sessions {active} {SECONDS}"), SECONDS)?;
                tell(&format!("tls rate {workers} {active}"), answer.number("rate")?);
                tell(&format!("tls cpu {workers} {active}"), cpu);
            }
            run.load(&format!("handshakes {} {WARM_UP}", run.port), WARM_UP)?;
            let (answer, cpu) = run.load(&format!("handshakes {} {SECONDS}", run.port), SECONDS)?;
            tell(&format!("tls rate {workers} handshakes"), answer.number("rate")?);
            tell(&format!("tls cpu {workers} handshakes"), cpu);
            Ok(())
        })?;
    }
    Ok(())
}

pub fn one_thread() -> Result<(), String> {
    let arms = [EVENT_DRIVEN, DEDICATED, AXUM].map(Arm::Rust);
    for workers in RUNTIMES {
        round(RESULTS, &arms, |arm, folder, tell| {
            for (scene, pipelining, computing) in SCENES {
                let mut run = Run::start(arm, folder, "plain", workers)?;
                let order = format!("waits {} {pipelining} {computing} {WAITS}", run.port);
                let answer = run.client.ask(&order, Duration::from_secs_f64(WAITS))?;
                for waiting in WAITING {
                    for quantile in [50, 95] {
                        let value = answer.number(&format!("{waiting}{quantile}"))?;
                        tell(&format!("p{quantile} {workers} {scene} {waiting}"), value);
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub fn calls() -> Result<(), String> {
    let nginx = external::ALL.iter().find(|server| server.name == "nginx").map(Arm::External);
    let rust = [EVENT_DRIVEN, DEDICATED, AXUM, SAME_ROUTER].map(Arm::Rust);
    for workers in WORKERS {
        let arms: Vec<Arm> = rust.into_iter().chain(nginx).collect();
        round(RESULTS, &arms, |arm, folder, tell| {
            let mut run = Run::start(arm, folder, "plain", workers)?;
            for active in CALLS {
                run.client.ask(&format!("connect {} {active}", run.port), Duration::ZERO)?;
                run.load(&format!("closed {active} {WARM_UP}"), WARM_UP)?;
                let cell = format!("{workers} {active}");
                match Counter::perf(folder, &run.ids) {
                    Some(counter) => {
                        let answered = counted(&mut run, active)?;
                        let text = counter.stop()?;
                        let line = text.lines().find(|line| line.contains("sys_enter"));
                        let calls = line.and_then(|line| line.split(',').next()?.parse().ok());
                        let calls: f64 = calls.ok_or(format!("perf told {text:?}"))?;
                        tell(&format!("calls {cell}"), calls / answered);
                    }
                    None => println!("perf is missing: apt-get install linux-perf"),
                }
                let Some(counter) = Counter::strace(folder, &run.ids) else {
                    println!("strace is missing: apt-get install strace");
                    continue;
                };
                let answered = counted(&mut run, active)?;
                for (name, count) in names(&counter.stop()?) {
                    if count / answered >= 0.005 {
                        tell(&format!("call {cell} {name}"), count / answered);
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A load whose system calls are counted. Returns how many requests were answered.
fn counted(run: &mut Run, active: usize) -> Result<f64, String> {
    thread::sleep(ATTACH);
    let (answer, _) = run.load(&format!("closed {active} {COUNTED}"), COUNTED)?;
    answer.number("answered")
}

/// The lines of `strace -c`: share, seconds, µs per call, calls, at times errors, name.
fn names(text: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().filter(|name| **name != "total" && words.len() >= 5)?;
        Some((name.to_string(), words[3].parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// A program that counts the system calls of others.
struct Counter {
    child: Child,
    told: PathBuf,
}

impl Counter {
    fn perf(folder: &Path, ids: &[u32]) -> Option<Self> {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let what = ["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &ids.join(",")];
        Self::start("perf", &what, folder)
    }

    fn strace(folder: &Path, ids: &[u32]) -> Option<Self> {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let mut what = vec!["-c", "-f"];
        ids.iter().for_each(|id| what.extend(["-p", id]));
        Self::start("strace", &what, folder)
    }

    fn start(name: &str, what: &[&str], folder: &Path) -> Option<Self> {
        let told = folder.join(format!("{name}.txt"));
        let _ = fs::remove_file(&told);
        let mut command = Command::new(name);
        command.args(what).arg("-o").arg(&told).stdin(Stdio::null()).stderr(Stdio::null());
        Some(Self { child: command.spawn().ok()?, told })
    }

    /// Ends it and returns what it has written.
    fn stop(mut self) -> Result<String, String> {
        let pid = Pid::from_raw(self.child.id() as i32);
        let _ = pid.map(|pid| kill_process(pid, Signal::INT));
        let _ = self.child.wait();
        fs::read_to_string(&self.told).map_err(|error| format!("{}: {error}", self.told.display()))
    }
}
