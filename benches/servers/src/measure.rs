//! A round of all servers: memory of idle connections, or CPU, throughput and latency of busy ones; and what
//! all rounds have in common.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arms;
use crate::external::{self, External, Program};
use crate::idle::KINDS;
use crate::process::{Answer, Process};

/// Busy connections at once, then those at saturation.
pub const BUSY: [usize; 4] = [1, 8, 32, 100];
pub const SATURATED: usize = 1_000;
/// What is open while some are busy.
const OPEN: usize = SATURATED;
/// Connections that come and go before memory is read for the first time.
const WARM_UP: usize = 64;
/// Until a connection is idle: some servers keep what they have for one or two seconds.
const SETTLE: Duration = Duration::from_secs(4);
const SECONDS: f64 = 0.7;
/// Of descriptors, in each process.
const DESCRIPTORS: u64 = 20_000;

/// Results: a line for each figure, with the server, the name of the figure, its value and its round.
pub const RESULTS: &str = "results.tsv";

pub fn idle() -> Result<(), String> {
    round(RESULTS, &everything(), |arm, folder, tell| {
        for (kind, count) in KINDS {
            if !arm.offers(kind) {
                continue;
            }
            let mut run = Run::start(arm, folder, kind, "1")?;
            run.client.ask(&format!("idle {kind} {} {WARM_UP}", run.port), Duration::ZERO)?;
            run.client.ask("drop", Duration::ZERO)?;
            thread::sleep(SETTLE / 4);
            let before = pss(&run.ids)?;
            let order = format!("idle {kind} {} {count}", run.port);
            // actix-web's TLS waits for delayed acknowledgements.
            run.client.ask(&order, Duration::from_secs(100))?;
            thread::sleep(SETTLE);
            let each = (pss(&run.ids)? - before) / count as f64;
            tell(kind, each);
        }
        Ok(())
    })
}

pub fn busy() -> Result<(), String> {
    round(RESULTS, &everything(), |arm, folder, tell| {
        let mut run = Run::start(arm, folder, "plain", "1")?;
        run.client.ask(&format!("connect {} {OPEN}", run.port), Duration::ZERO)?;
        thread::sleep(SETTLE / 8);
        for active in BUSY.into_iter().chain([SATURATED]) {
            let (answer, cpu) = run.load(&format!("closed {active} {SECONDS}"), SECONDS)?;
            tell(&format!("rate {active}"), answer.number("rate")?);
            tell(&format!("p99 {active}"), answer.number("p99")?);
            tell(&format!("cpu {active}"), cpu);
        }
        Ok(())
    })
}

fn everything() -> Vec<Arm> {
    let external = external::ALL.iter().map(Arm::External);
    external.chain(arms::ALL.map(Arm::Rust)).collect()
}

pub type Tell<'a> = &'a mut dyn FnMut(&str, f64);

/// Measures each server once, in another order each time. A server that fails does not stop the others.
pub fn round(
    results: &str,
    arms: &[Arm],
    mut measure: impl FnMut(Arm, &Path, Tell) -> Result<(), String>,
) -> Result<(), String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Some(maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let folder = crate::folder()?;
    certificate(&folder)?;
    let results = folder.join(results);
    let old = fs::read_to_string(&results).unwrap_or_default();
    let file = OpenOptions::new().create(true).append(true).open(&results);
    let mut file = file.map_err(|error| format!("{}: {error}", results.display()))?;
    let mut arms = arms.to_vec();
    let rounds: HashSet<&str> = old.lines().filter_map(|line| line.split('\t').nth(3)).collect();
    let turn = rounds.len() % arms.len();
    arms.rotate_left(turn);
    let round = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    for arm in arms {
        if let Arm::External(server) = arm
            && server.version().is_none()
        {
            println!("{} is missing: {}", server.name, server.install);
            continue;
        }
        let mut lines = String::new();
        let mut tell = |figure: &str, value: f64| {
            println!("{}, {figure}: {value:.3}", arm.name());
            lines += &format!("{}\t{figure}\t{value}\t{round}\n", arm.name());
        };
        if let Err(problem) = measure(arm, &folder, &mut tell) {
            eprintln!("{}: {problem}", arm.name());
        }
        file.write_all(lines.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// For servers and clients of all rounds.
fn certificate(folder: &Path) -> Result<(), String> {
    if folder.join("both.pem").exists() {
        return Ok(());
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.map_err(|error| error.to_string())?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, text) in
        [("cert.pem", &cert), ("key.pem", &key), ("both.pem", &format!("{cert}{key}"))]
    {
        fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
pub enum Arm {
    External(&'static External),
    Rust(&'static str),
}

impl Arm {
    pub fn name(self) -> &'static str {
        match self {
            Self::External(server) => server.name,
            Self::Rust(name) => name,
        }
    }

    /// The programs of their own only pass WebSockets on.
    fn offers(self, kind: &str) -> bool {
        match self {
            Self::External(_) => kind != "ws",
            Self::Rust(name) => arms::offers(name, kind),
        }
    }
}

enum Server {
    External { _program: Program },
    Rust { _process: Process },
}

/// A server and its client, gone with this value.
pub struct Run {
    pub client: Process,
    _server: Server,
    pub port: u16,
    pub ids: Vec<u32>,
}

impl Run {
    /// `workers` is for the servers in Rust; the others have one thread.
    pub fn start(arm: Arm, folder: &Path, kind: &str, workers: &str) -> Result<Self, String> {
        let (_server, port, id) = match arm {
            Arm::External(server) => {
                let program = server.start(folder, kind)?;
                let (port, id) = (program.port, program.id());
                (Server::External { _program: program }, port, id)
            }
            Arm::Rust(name) => {
                let process = Process::start(name, &["server", name, kind, workers])?;
                let told = process.answer(Duration::from_secs(10))?;
                let (port, id) = (told.number("port")? as u16, told.number("pid")? as u32);
                (Server::Rust { _process: process }, port, id)
            }
        };
        let client = Process::start("the client", &["client"])?;
        thread::sleep(Duration::from_millis(200));
        Ok(Self { client, _server, port, ids: family(id) })
    }

    /// Lets the client do it. Also gives the CPU time of the server per answer, in µs.
    pub fn load(&mut self, order: &str, seconds: f64) -> Result<(Answer, f64), String> {
        let before = cpu(&self.ids)?;
        let answer = self.client.ask(order, Duration::from_secs_f64(seconds))?;
        let used = cpu(&self.ids)? - before;
        let wrong = answer.number("wrong").unwrap_or(0.0);
        if wrong > 0.0 {
            return Err(format!("{order}: {wrong} wrong answers"));
        }
        let each = used / answer.number("answered")? / 1e3;
        Ok((answer, each))
    }
}

/// A process and its children.
fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for other in others {
        let stat = fs::read_to_string(format!("/proc/{other}/stat")).unwrap_or_default();
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        if behind.split_whitespace().nth(1) == Some(id.to_string().as_str()) {
            all.push(other);
        }
    }
    all
}

/// Bytes in memory: a page that processes share counts once.
fn pss(ids: &[u32]) -> Result<f64, String> {
    let one = |id: &u32| {
        let path = format!("/proc/{id}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kilobytes =
            line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1_024.0).ok_or(format!("{path} has no Pss"))
    };
    ids.iter().map(one).sum()
}

/// What all threads have used so far, in ns.
fn cpu(ids: &[u32]) -> Result<f64, String> {
    let mut all = 0.0;
    for id in ids {
        let path = format!("/proc/{id}/task");
        let threads = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
        for thread in threads.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let used = text.split_whitespace().next().and_then(|used| used.parse::<f64>().ok());
            all += used.unwrap_or(0.0);
        }
    }
    Ok(all)
}
