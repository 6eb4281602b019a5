//! Starts the others, round by round, and tells what came of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::arms::Arm;
use crate::machine;
use crate::measure::{Figures, Plan, measure};
use crate::picture;
use crate::progress::Progress;
use crate::report::{self, DISTURBED, Report};

const CONNECTIONS: usize = 10_000;

/// Of one arm in one round, where the figures are to be published.
const TRIES: usize = 3;

pub fn run(args: Args) -> Result<(), String> {
    let wanted = args.connections.unwrap_or(if args.quick { 200 } else { CONNECTIONS });
    let room = machine::room();
    let connections = wanted.min(room);
    if connections < wanted {
        eprintln!(
            "Only {connections} connections, not {wanted}: a process may not open more files here \
             (ulimit -Hn)."
        );
    }
    if connections == 0 {
        return Err("No connections to measure with.".into());
    }
    let rounds = args.rounds.unwrap_or(if args.write { 5 } else { 1 });
    let report = |&threads: &usize| Report {
        plan: Plan::new(&args, connections, threads),
        arms: args.arms.clone(),
        figures: vec![Vec::new(); args.arms.len()],
        failures: Vec::new(),
        rounds,
        quick: args.quick,
    };
    let mut reports: Vec<Report> = args.threads.iter().map(report).collect();
    let all = reports.len() * args.arms.len();
    let mut progress = Progress::new(rounds * all * Plan::STEPS);
    for round in 0..rounds {
        for turn in 0..all {
            // The first arm of a round finds the machine in another state than the last arm does.
            let at = (turn + round) % all;
            let report = &mut reports[at / args.arms.len()];
            let at = at % args.arms.len();
            let tries = if args.write { TRIES } else { 1 };
            let measured = undisturbed(args.arms[at], &report.plan, tries, &mut progress);
            // The others' numbers are not to be lost with it. Empty, as rounds are compared.
            let figures = measured.unwrap_or_else(|problem| {
                let label = args.arms[at].label;
                report.failures.push(format!("{label}, round {}: {problem}", round + 1));
                Figures::new()
            });
            report.figures[at].push(figures);
        }
    }
    drop(progress);

    let failures: Vec<_> = reports.iter().flat_map(|report| report.failures.clone()).collect();
    let text = report::text(&reports);
    reports.iter().for_each(|report| print!("{}", report.terminal()));
    let Some(report) = reports.last() else { return Err("No worker threads.".into()) };
    report.lines().into_iter().for_each(|line| println!("{line}"));
    let name = args.protocol.name();
    let drawn = picture::draw(report);
    if args.write {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        write(&benches.join(format!("{name}.md")), &text)?;
        write(&benches.join(format!("{name}.svg")), &drawn)?;
    } else {
        write(&target().join(format!("{name}.md")), &text)?;
        write(&target().join(format!("{name}.svg")), &drawn)?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Measures again if other processes took too much of the machine, so many times in all. Gives the
/// least disturbed.
fn undisturbed(
    arm: &Arm,
    plan: &Plan,
    tries: usize,
    progress: &mut Progress,
) -> Result<Figures, String> {
    let others = |figures: &Figures| figures.get("others").copied().unwrap_or(0.0);
    let mut best = measure(arm, plan, progress)?;
    for _ in 1..tries {
        if others(&best) <= DISTURBED {
            break;
        }
        progress.more(Plan::STEPS);
        let again = measure(arm, plan, progress)?;
        if others(&again) < others(&best) {
            best = again;
        }
    }
    Ok(best)
}

/// Where cargo builds: this program is in `release/examples` there.
fn target() -> PathBuf {
    let program = std::env::current_exe().ok();
    let target = program.as_deref().and_then(|path| path.ancestors().nth(3));
    target.unwrap_or(Path::new(".")).into()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!("Written: {}", path.display());
    Ok(())
}
