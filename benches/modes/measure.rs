//! One arm, once: every measurement in its order.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::arms::Arm;
use crate::machine;
use crate::process::{Answer, Process};
use crate::progress::Progress;
use crate::protocol::Protocol;

pub const RATES: [u64; 3] = [300, 3_000, 10_000];
/// Flows of the flood, and the polite ones beside them.
const FLOWS: usize = 4;
pub const POLITE: usize = 1_000;
pub const POLITE_RATE: u64 = 1_000;
/// How many connections are active at once, in one step after another.
const ACTIVE: [usize; 5] = [1, 8, 32, 100, 1_000];
/// Of the slow handler.
pub const DELAY_MS: u64 = 5;

/// Connections that come and go before anything is measured: code is paged in, and threads have
/// what they keep.
const WARM_UP: usize = 64;

/// How much of everything.
#[derive(Clone)]
pub struct Plan {
    pub protocol: Protocol,
    pub connections: usize,
    pub active: Vec<usize>,
    /// How many connections use the slow handler at once.
    pub slow: usize,
    pub threads: usize,
    /// Until a connection counts as idle: what a server keeps for a while after a request is to be
    /// gone.
    settle: Duration,
    /// After the spikes: memory that was used by all at once takes its time to be given back.
    settle_again: Duration,
    paced: f64,
    closed: f64,
    spikes: usize,
}

impl Plan {
    pub fn new(args: &Args, connections: usize, threads: usize) -> Self {
        let active = ACTIVE.into_iter().filter(|active| *active <= connections).collect();
        let slow = if args.protocol == Protocol::Http { 256 } else { 1_000 }.min(connections);
        let settle = Duration::from_millis(match (args.quick, args.write) {
            (true, _) => 200,
            (false, true) => 1_000,
            (false, false) => 600,
        });
        // Warm connections need that long to give up their tasks.
        let settle_again = if args.write { Duration::from_secs(3) } else { settle };
        let (paced, closed, spikes) = match (args.quick, args.write) {
            (true, _) => (0.1, 0.1, 1),
            (false, true) => (0.9, 0.8, 2),
            (false, false) => (0.4, 0.4, 1),
        };
        Self {
            protocol: args.protocol,
            connections,
            active,
            slow,
            threads,
            settle,
            settle_again,
            paced,
            closed,
            spikes,
        }
    }

    /// Of one arm in one round, as the progress counts them.
    pub const STEPS: usize = 4 + RATES.len() + ACTIVE.len();
}

/// By name. Missing where it could not be measured.
pub type Figures = HashMap<String, f64>;

pub fn measure(arm: &Arm, plan: &Plan, progress: &mut Progress) -> Result<Figures, String> {
    let mut step = |what: &str| progress.step(format!("{}: {what}", arm.label));
    let mut figures = Figures::new();
    let count = plan.connections;

    step(&format!("{count} connections"));
    let mut run = Run::start(arm, 0, plan)?;
    run.warm_up()?;
    let before = run.memory()?;
    let (answer, cpu) = run.load(&format!("connect {} {count}", run.port), Duration::ZERO)?;
    figures.insert("accept".into(), count as f64 / answer.number("seconds")?);
    figures.insert("accept cpu".into(), cpu);
    thread::sleep(plan.settle);
    let idle = run.memory()?;
    let each = |then: f64, now: f64| ((now - then) / count as f64).max(0.0);
    figures.insert("tasks".into(), idle.tasks);
    figures.insert("heap".into(), each(before.heap, idle.heap));
    figures.insert("rss".into(), each(before.resident, idle.resident));

    for rate in RATES {
        step(&format!("{rate} requests/s"));
        // Few requests need more time for the same certainty.
        let lasting = if rate < 1_000 { 2.0 * plan.paced } else { plan.paced };
        let order = format!("paced {rate} {count} {lasting}");
        let (answer, cpu) = run.load(&order, Duration::from_secs_f64(lasting))?;
        let seconds = answer.number("seconds")?;
        let achieved = answer.number("answered")? / seconds;
        figures.insert(format!("cpu {rate}"), cpu);
        figures.insert(format!("percent {rate}"), cpu * achieved / 1e4);
        figures.insert(format!("kept {rate}"), achieved / rate as f64);
        latencies(&mut figures, &answer, &rate.to_string())?;
    }
    for active in &plan.active {
        step(&format!("{active} active"));
        let order = format!("closed {active} {}", plan.closed);
        let (answer, cpu) = run.load(&order, Duration::from_secs_f64(plan.closed))?;
        figures.insert(format!("rate active{active}"), answer.number("rate")?);
        figures.insert(format!("cpu active{active}"), cpu);
        latencies(&mut figures, &answer, &format!("active{active}"))?;
    }

    step("spikes");
    let mut spikes = Vec::new();
    for _ in 0..plan.spikes {
        thread::sleep(Duration::from_millis(300));
        let (answer, cpu) = run.load("spike", Duration::ZERO)?;
        spikes.push((answer.number("ms")?, cpu));
    }
    figures.insert("spike".into(), median(spikes.iter().map(|spike| spike.0)));
    figures.insert("spike cpu".into(), median(spikes.iter().map(|spike| spike.1)));
    thread::sleep(plan.settle_again);
    let again = run.memory()?;
    figures.insert("heap again".into(), each(before.heap, again.heap));
    figures.insert("rss again".into(), each(before.resident, again.resident));

    match plan.protocol {
        Protocol::Echo => {
            step("flood");
            let polite = POLITE.min(count);
            let order = format!("flood {FLOWS} {POLITE_RATE} {polite} {}", plan.closed);
            let (answer, _) = run.load(&order, Duration::from_secs_f64(plan.closed))?;
            latencies(&mut figures, &answer, "flood")?;
            figures.insert("flood".into(), answer.number("flood")?);
            run.wrong += answer.number("missing")?;
        }
        Protocol::Http | Protocol::Ws => {
            step("partial requests");
            run.load("begin", Duration::ZERO)?;
            thread::sleep(plan.settle);
            let begun = run.memory()?;
            figures.insert("tasks partial".into(), begun.tasks);
            figures.insert("heap partial".into(), each(before.heap, begun.heap));
            figures.insert("rss partial".into(), each(before.resident, begun.resident));
            run.load("end", Duration::ZERO)?;
        }
    }

    // After the long part, which is enough to tell.
    if let Some(share) = run.others()? {
        figures.insert("others".into(), share * 100.0);
    }

    step("slow handler");
    let wrong = (run.lost, run.wrong);
    drop(run);
    let mut run = Run::start(arm, DELAY_MS, plan)?;
    (run.lost, run.wrong) = wrong;
    let slow = plan.slow;
    run.load(&format!("connect {} {slow}", run.port), Duration::ZERO)?;
    let order = format!("closed {slow} {}", plan.closed);
    let (answer, cpu) = run.load(&order, Duration::from_secs_f64(plan.closed))?;
    figures.insert("rate slow".into(), answer.number("rate")?);
    figures.insert("cpu slow".into(), cpu);
    latencies(&mut figures, &answer, "slow")?;

    figures.insert("lost".into(), run.lost);
    figures.insert("wrong".into(), run.wrong);
    Ok(figures)
}

fn latencies(figures: &mut Figures, answer: &Answer, name: &str) -> Result<(), String> {
    for quantile in ["p50", "p99", "p999"] {
        figures.insert(format!("{quantile} {name}"), answer.number(quantile)?);
    }
    Ok(())
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}

/// A server and its client.
struct Run {
    server: Process,
    client: Process,
    port: u16,
    start: Instant,
    busy: Option<[f64; 2]>,
    lost: f64,
    wrong: f64,
}

struct Memory {
    tasks: f64,
    heap: f64,
    resident: f64,
}

impl Run {
    fn start(arm: &Arm, handler_ms: u64, plan: &Plan) -> Result<Self, String> {
        let [handler_ms, threads] = [handler_ms, plan.threads as u64].map(|n| n.to_string());
        // The flows come on top.
        let connections = (plan.connections + FLOWS).to_string();
        let mut args = vec!["--role", "server", "--arm", arm.key, "--handler-ms", &handler_ms];
        args.extend(["--threads", &threads, "--connections", &connections]);
        let mut client = vec!["--role", "client"];
        args.extend(plan.protocol.option());
        client.extend(plan.protocol.option());
        let (start, busy) = (Instant::now(), machine::busy());
        let server = Process::start(&format!("the server ({})", arm.label), &args)?;
        let client = Process::start("the client", &client)?;
        let port = server.answer(Duration::from_secs(10))?.number("port")? as u16;
        Ok(Self { server, client, port, start, busy, lost: 0.0, wrong: 0.0 })
    }

    fn warm_up(&mut self) -> Result<(), String> {
        self.load(&format!("connect {} {WARM_UP}", self.port), Duration::ZERO)?;
        self.load(&format!("closed {WARM_UP} 0.2"), Duration::from_millis(200))?;
        self.client.ask("close", Duration::ZERO)?;
        self.memory()?;
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// Lets the client do it. Also gives the CPU time of the server per request, in µs.
    fn load(&mut self, order: &str, lasting: Duration) -> Result<(Answer, f64), String> {
        let before = self.server.ask("cpu", Duration::ZERO)?.number("ns")?;
        let answer = self.client.ask(order, lasting)?;
        let used = self.server.ask("cpu", Duration::ZERO)?.number("ns")? - before;
        let answered = answer.number("answered")?;
        self.lost += answer.number("lost")?;
        self.wrong += answer.number("wrong")?;
        Ok((answer, used / answered.max(1.0) / 1e3))
    }

    /// The share of the machine that went to none of the two.
    fn others(&mut self) -> Result<Option<f64>, String> {
        let (Some([busy, all]), Some([busy_then, all_then])) = (machine::busy(), self.busy) else {
            return Ok(None);
        };
        let ours = self.server.ask("cpu", Duration::ZERO)?.number("ns")?
            + self.client.ask("cpu", Duration::ZERO)?.number("ns")?;
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        let ours = ours / 1e9 / cores / self.start.elapsed().as_secs_f64();
        Ok(Some(((busy - busy_then) / (all - all_then) - ours).max(0.0)))
    }

    fn memory(&mut self) -> Result<Memory, String> {
        let answer = self.server.ask("memory", Duration::ZERO)?;
        let [tasks, heap, resident] = ["tasks", "heap", "resident"].map(|what| answer.number(what));
        Ok(Memory { tasks: tasks?, heap: heap?, resident: resident? })
    }
}
