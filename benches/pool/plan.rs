//! What to measure, and in which order.

use hdrhistogram::Histogram;

use crate::args::Args;
use crate::arms::{self, Entry};
use crate::progress::Progress;
use crate::rss::Flood;
use crate::runtime::Flavour;
use crate::workloads::{self, Workload};
use crate::{head_of_line, neighbour, rss};

type Measure<T> = Box<dyn Fn() -> T>;

/// One workload on one runtime.
pub struct Section<T> {
    name: &'static str,
    flavour: Flavour,
    rounds: usize,
    arms: Vec<(&'static str, Measure<T>)>,
}

pub struct Outcome<T> {
    pub name: &'static str,
    pub flavour: Flavour,
    /// Each rival with its result per round.
    pub arms: Vec<(&'static str, Vec<T>)>,
}

impl<T> Section<T> {
    fn steps(&self) -> usize {
        self.rounds * self.arms.len()
    }

    /// Interleaved, and each round begins with the next rival: a machine that slows down for a
    /// while slows down all of them.
    fn run(self, progress: &mut Progress) -> Outcome<T> {
        let Self { name, flavour, rounds, arms } = self;
        let mut results: Vec<_> = arms.iter().map(|&(label, _)| (label, Vec::new())).collect();
        for round in 0..rounds {
            for turn in 0..arms.len() {
                let index = (round + turn) % arms.len();
                let (label, measure) = &arms[index];
                let runtime = flavour.label();
                progress.step(format!("{name}, {runtime}, round {}/{rounds}: {label}", round + 1));
                results[index].1.push(measure());
            }
        }
        Outcome { name, flavour, arms: results }
    }
}

pub struct Plan {
    throughput: Vec<Section<f64>>,
    memory: Vec<Section<Option<f64>>>,
    neighbour: Vec<Section<Histogram<u64>>>,
    head_of_line: Vec<Section<Histogram<u64>>>,
}

pub struct Outcomes {
    /// In ns per job.
    pub throughput: Vec<Outcome<f64>>,
    /// In kB.
    pub memory: Vec<Outcome<Option<f64>>>,
    /// In ns.
    pub neighbour: Vec<Outcome<Histogram<u64>>>,
    /// In ns.
    pub head_of_line: Vec<Outcome<Histogram<u64>>>,
}

impl Plan {
    pub fn new(args: &Args) -> Result<Self, String> {
        let plan = Self {
            throughput: throughput(args),
            memory: Flood::ALL.into_iter().flat_map(|flood| memory(args, flood)).collect(),
            neighbour: side(args, neighbour::NAME, disturbed),
            head_of_line: [
                side(args, head_of_line::NAME, stuck),
                side(args, head_of_line::BLOCKING_NAME, blocked),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        if plan.steps() > 0 {
            return Ok(plan);
        }
        let names = workloads::ALL.iter().map(|workload| workload.name);
        let names = names.chain(Flood::ALL.map(Flood::name)).chain([neighbour::NAME]);
        let names = names.chain([head_of_line::NAME, head_of_line::BLOCKING_NAME]);
        let names = names.map(|name| format!("\n  {name}")).collect::<String>();
        Err(format!("these options leave nothing to measure; the workloads are:{names}"))
    }

    fn steps(&self) -> usize {
        fn all<T>(sections: &[Section<T>]) -> usize {
            sections.iter().map(Section::steps).sum()
        }
        let sides = all(&self.neighbour) + all(&self.head_of_line);
        all(&self.throughput) + all(&self.memory) + sides
    }

    pub fn run(self) -> Outcomes {
        fn all<T>(sections: Vec<Section<T>>, progress: &mut Progress) -> Vec<Outcome<T>> {
            sections.into_iter().map(|section| section.run(progress)).collect()
        }
        let mut progress = Progress::new(self.steps());
        Outcomes {
            throughput: all(self.throughput, &mut progress),
            neighbour: all(self.neighbour, &mut progress),
            head_of_line: all(self.head_of_line, &mut progress),
            memory: all(self.memory, &mut progress),
        }
    }
}

fn throughput(args: &Args) -> Vec<Section<f64>> {
    let mut sections = Vec::new();
    for workload in workloads::ALL.iter().filter(|workload| args.wants(workload.name)) {
        let workload = Workload { jobs: args.scale(workload.jobs), ..*workload };
        for &flavour in &args.flavours {
            let fits = |arm: &&&Entry| (arm.fits)(workload.shape, workload.producers);
            let measure = |arm: &&'static Entry| {
                let run = arm.measure;
                let per_job =
                    move || run(&workload, flavour).as_nanos() as f64 / workload.jobs as f64;
                (arm.label, Box::new(per_job) as Measure<f64>)
            };
            let arms: Vec<_> = args.arms.iter().filter(fits).map(measure).collect();
            if arms.is_empty() {
                continue;
            }
            sections.push(Section { name: workload.name, flavour, rounds: args.rounds, arms });
        }
    }
    sections
}

fn side<T>(
    args: &Args,
    name: &'static str,
    section: impl Fn(&Args, Flavour) -> Option<Section<T>>,
) -> Vec<Section<T>> {
    let flavours = args.flavours.iter().filter(|_| args.wants(name));
    let sections = flavours.filter_map(|&flavour| section(args, flavour));
    sections.filter(|section| !section.arms.is_empty()).collect()
}

fn memory(args: &Args, flood: Flood) -> Vec<Section<Option<f64>>> {
    let jobs = args.memory_jobs;
    side(args, flood.name(), |args, flavour| {
        let measure = |&arm: &&'static Entry| {
            let peak = move || rss::measure(flood, arm, flavour, jobs);
            (arm.label, Box::new(peak) as Measure<Option<f64>>)
        };
        let arms = args.arms.iter().filter(|arm| flood.fits(arm)).map(measure).collect();
        // A peak hardly varies, and this is the longest measurement by far.
        Some(Section { name: flood.name(), flavour, rounds: 1, arms })
    })
}

fn disturbed(args: &Args, flavour: Flavour) -> Option<Section<Histogram<u64>>> {
    let jobs = args.scale(neighbour::JOBS);
    let measure = |(arm, run): (&Entry, neighbour::Run)| {
        (arm.label, Box::new(move || run(flavour, jobs)) as Measure<_>)
    };
    let mut arms: Vec<_> =
        arms::among(&args.arms, &neighbour::ARMS).into_iter().map(measure).collect();
    if arms.is_empty() {
        return None;
    }
    arms.insert(0, ("no flood", Box::new(move || neighbour::undisturbed(flavour))));
    Some(Section { name: neighbour::NAME, flavour, rounds: args.rounds, arms })
}

fn stuck(args: &Args, flavour: Flavour) -> Option<Section<Histogram<u64>>> {
    behind(args, flavour, head_of_line::NAME, &head_of_line::ARMS)
}

fn blocked(args: &Args, flavour: Flavour) -> Option<Section<Histogram<u64>>> {
    behind(args, flavour, head_of_line::BLOCKING_NAME, &head_of_line::BLOCKING_ARMS)
}

fn behind(
    args: &Args,
    flavour: Flavour,
    name: &'static str,
    arms: &[(&str, head_of_line::Run)],
) -> Option<Section<Histogram<u64>>> {
    let jobs = args.scale(head_of_line::JOBS);
    let measure = |(arm, run): (&Entry, head_of_line::Run)| {
        (arm.label, Box::new(move || run(jobs)) as Measure<_>)
    };
    let arms = arms::among(&args.arms, arms).into_iter().map(measure).collect();
    let section = Section { name, flavour, rounds: args.rounds, arms };
    (flavour == Flavour::Multi).then_some(section)
}
