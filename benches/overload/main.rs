//! Services under more load than they can serve: how much is answered in time, by class and by tenant.

#[path = "../layer/args.rs"]
mod args;
mod client;
mod picture;
#[path = "../layer/process.rs"]
mod process;
#[path = "../pool/progress.rs"]
mod progress;
#[path = "../layer/report.rs"]
mod report;
mod scenes;
mod servers;
mod stable;

use args::Args;
use picture::Series;
use progress::Progress;
use report::{median, table};
use scenes::{LOADS, SCENES, Scene, capacity, patience};
use servers::{ARMS, CONNECTIONS, NAMES, TARGETS, WORK};

const USAGE: &str = "\
cargo bench --bench overload -- [OPTIONS]

  --quick          a fraction of it, 1 round: shows that it works, not how it does
  --only SCENE     only steps, step, slow, spike or tenants
  --rounds N       how often each service is measured (default: 3)
  --write DIR      also write overload.md and overload.svg there
  --help           this text";

/// Those in the picture.
const DRAWN: [usize; 4] = [0, 1, 2, 6];

const ALL: [usize; ARMS.len()] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

/// Those that a quick run tries in all scenes; the steps try all.
const QUICK: [usize; 2] = [2, 7];

impl Args {
    /// By what the times of the scenes are multiplied.
    fn scale(&self) -> f64 {
        if self.quick { 0.025 } else { 1.0 }
    }

    /// The arms of a scene.
    fn arms(&self) -> &'static [usize] {
        if self.quick { &QUICK } else { &ALL }
    }

    /// Measures arms by turns. Returns the median of each value.
    fn measure(
        &self,
        what: &str,
        arms: &[usize],
        run: impl Fn(usize) -> Vec<f64>,
    ) -> Vec<Vec<f64>> {
        let mut progress = Progress::new(self.rounds * arms.len());
        let mut all = vec![Vec::new(); arms.len()];
        for round in 0..self.rounds {
            for turn in 0..arms.len() {
                let at = (turn + round) % arms.len();
                progress.step(format!("{what}: {}", NAMES[arms[at]]));
                all[at].push(run(arms[at]));
            }
        }
        let middle = |runs: Vec<Vec<f64>>| -> Vec<f64> {
            let values = 0..runs[0].len();
            values.map(|at| median(runs.iter().map(|run| run[at]).collect())).collect()
        };
        all.into_iter().map(middle).collect()
    }
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match given.first().map(String::as_str) {
        // Servers and clients run this program in other processes.
        Some("--serve") => return servers::serve(&given[1]),
        Some("--drive") => return client::drive(&given[1..]),
        _ => {}
    }
    let Some(args) = Args::parse(given, 3, USAGE) else { return println!("{USAGE}") };
    let known = |only: &String| only == "steps" || SCENES.iter().any(|scene| scene.name == only);
    if args.only.as_ref().is_some_and(|only| !known(only)) {
        args.fail("--only takes steps, step, slow, spike or tenants");
    }
    // The default is clamped to 50 ms.
    let aims = [50, TARGETS[0], TARGETS[1]].map(|target| WORK.as_millis() as u64 + 2 * target);
    let mut text = format!(
        "# Overload, measured\n\nMade by `cargo bench --bench overload -- --write benches`; medians of interleaved rounds \
         ({rounds}).\nMachine: {}.\n\nA handler that needs one of {CONNECTIONS} connections for {} ms: {} requests/s are all it \
         can serve. An open load\nat random moments over loopback, from another process; a client goes away after \
         {} ms. All layers answer\n503 to what they refuse. Millpond: `schedule_within` on a pool of {CONNECTIONS} slots, \
         without any setting,\nand with two values of `target_wait`. The adaptive limiters do not know the number of \
         connections. p99: of what\nwas served, in ms. The pool aims at a service time and two targets at \
         most: {} ms by default, {} and {} ms with a\ntarget.\n",
        millpond_benches::machine(),
        WORK.as_millis(),
        capacity(),
        patience(),
        aims[0],
        aims[1],
        aims[2],
        rounds = args.rounds,
    );
    if args.wants("steps") {
        let (tables, svg) = steps(&args);
        text += &tables;
        args.write("overload.svg", &svg);
    }
    for Scene { name, text: about, columns, run } in &SCENES {
        if args.wants(name) {
            let all = args.measure(name, args.arms(), |arm| run(arm, args.scale()));
            let head: Vec<&str> = std::iter::once("").chain(columns.iter().copied()).collect();
            text +=
                &format!("\n## {name}\n\n{about}\n\n{}", table(&head, &rows(args.arms(), &all)));
        }
    }
    print!("{text}");
    args.write("overload.md", &text);
}

fn rows(arms: &[usize], all: &[Vec<f64>]) -> Vec<Vec<String>> {
    let cell = |&value: &f64| match value {
        value if value.is_nan() => "–".into(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    let row = |(&arm, values): (&usize, &Vec<f64>)| {
        std::iter::once(NAMES[arm].to_owned()).chain(values.iter().map(cell)).collect()
    };
    arms.iter().zip(all).map(row).collect()
}

/// The steady loads: three tables and the picture.
fn steps(args: &Args) -> (String, String) {
    // The first and the last load show that all works.
    let loads = if args.quick { vec![LOADS[0], LOADS[5]] } else { LOADS.to_vec() };
    let mut tables = [(); 3].map(|()| vec![Vec::new(); ARMS.len()]);
    for &load in &loads {
        let all = args.measure(&format!("steps, {load} times"), &ALL, |arm| {
            scenes::steady(arm, load, args.scale()).to_vec()
        });
        for (arm, values) in all.into_iter().enumerate() {
            tables.iter_mut().zip(values).for_each(|(table, value)| table[arm].push(value));
        }
    }
    let head: Vec<String> = loads.iter().map(|load| format!("{load} x")).collect();
    let head: Vec<&str> = std::iter::once("").chain(head.iter().map(String::as_str)).collect();
    let titles =
        ["Requests served per second", "Their p99 in ms", "Peak memory of the server in MB"];
    let mut text = String::from("\n## steps\n");
    for (title, all) in titles.iter().zip(&tables) {
        text += &format!("\n{title}, by the offered load:\n\n{}", table(&head, &rows(&ALL, all)));
    }
    let series = |all: &[Vec<f64>]| -> Vec<Series> {
        let drawn = DRAWN.map(|arm| Series { name: NAMES[arm].into(), values: all[arm].clone() });
        drawn.into()
    };
    let [goodput, p99, _] = &tables;
    (text, picture::draw(&loads, &series(goodput), &series(p99), capacity(), patience()))
}
