//! The tables, in Markdown.

use std::fmt::Write as _;

use crate::arms::{self, Arm};
use crate::goals;
use crate::machine;
use crate::measure::{DELAY_MS, Figures, POLITE, POLITE_RATE, Plan, RATES, median};
use crate::notes::{MOSN, notes, title};
use crate::protocol::Protocol;

pub struct Report {
    pub plan: Plan,
    pub arms: Vec<&'static Arm>,
    /// Of each arm, one for each round.
    pub figures: Vec<Vec<Figures>>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    pub rounds: usize,
    pub quick: bool,
}

/// Fewer rounds judge no goal.
const SERIOUS: usize = 5;

/// The share of other processes, in %, from which on a run is not to be relied on.
pub const DISTURBED: f64 = 5.0;

struct Row {
    label: String,
    keys: Vec<String>,
    digits: usize,
}

fn rows(plan: &Plan) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |label: String, keys: &[String], digits| {
        rows.push(Row { label, keys: keys.to_vec(), digits });
    };
    let one = |key: &str| vec![key.to_owned()];
    let three = |name: &str| ["p50", "p99", "p999"].map(|quantile| format!("{quantile} {name}"));
    let group = |count: u64| grouped(count as f64, 0);
    row("tasks".into(), &one("tasks"), 0);
    row("heap bytes per idle connection".into(), &one("heap"), 0);
    row("RSS bytes per idle connection".into(), &one("rss"), 0);
    row("heap bytes, idle again after the spikes".into(), &one("heap again"), 0);
    row("RSS bytes, idle again after the spikes".into(), &one("rss again"), 0);
    for rate in RATES {
        let label = format!("CPU at {} requests/s, % of a core", group(rate));
        row(label, &[format!("percent {rate}")], 2);
    }
    for rate in RATES {
        let label = format!("CPU per request at {}/s, µs", group(rate));
        row(label, &[format!("cpu {rate}")], 1);
    }
    for rate in RATES {
        let label = format!("p50 / p99 at {}/s, ms", group(rate));
        row(label, &three(&rate.to_string())[..2], 3);
    }
    for number in &plan.active {
        let active = group(*number as u64);
        row(format!("requests/s, {active} active"), &[format!("rate active{number}")], 0);
        let label = format!("p50 / p99 / p99.9, {active} active, ms");
        row(label, &three(&format!("active{number}")), 2);
        row(format!("CPU per request, {active} active, µs"), &[format!("cpu active{number}")], 1);
    }
    row("spike on all, ms".into(), &one("spike"), 1);
    row("CPU per request of a spike, µs".into(), &one("spike cpu"), 1);
    row("new connections/s, with one request each".into(), &one("accept"), 0);
    row("CPU per new connection, µs".into(), &one("accept cpu"), 1);
    match plan.protocol {
        Protocol::Echo => {
            let polite = group(POLITE.min(plan.connections) as u64);
            let rate = group(POLITE_RATE);
            let label = format!("p50 / p99 of {polite} at {rate}/s beside a flood, ms");
            row(label, &three("flood")[..2], 2);
            row("that flood, MB/s each way".into(), &one("flood"), 0);
        }
        Protocol::Http | Protocol::Ws => {
            row("tasks, a partial request on each".into(), &one("tasks partial"), 0);
            row("heap bytes per connection, the same".into(), &one("heap partial"), 0);
            row("RSS bytes per connection, the same".into(), &one("rss partial"), 0);
        }
    }
    let slow = group(plan.slow as u64);
    let label = format!("requests/s, {slow} active, handler sleeps {DELAY_MS} ms");
    row(label, &one("rate slow"), 0);
    row("p50 / p99 / p99.9 of these, ms".into(), &three("slow"), 2);
    row("CPU per request of these, µs".into(), &one("cpu slow"), 1);
    rows
}

/// With a section for each number of worker threads.
pub fn text(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let connections = grouped(first.plan.connections as f64, 0);
    let threads: Vec<_> = reports.iter().map(|report| report.plan.threads.to_string()).collect();
    let threads = threads.join(" and ");
    let rounds = match first.rounds {
        1 => "one round".into(),
        rounds => format!("medians of {rounds} interleaved rounds"),
    };
    let smoke =
        if first.quick { " A quick run: it shows that all works, not how fast." } else { "" };
    let mut text = format!(
        "# {}\n\nMachine: {}.\n\n{connections} connections, servers on \
         tokio's multi_thread runtime with {threads} workers; {rounds}.{smoke} Made by:\n\n```sh\n{}\n```\n\n{}\n",
        title(first.plan.protocol),
        millpond_benches::machine(),
        machine::command(),
        notes(first.plan.protocol)
    );
    for arm in &first.arms {
        let _ = writeln!(text, "- {}: {}.", arm.label, arm.what);
    }
    let faults: String = reports.iter().map(Report::faults).collect();
    text +=
        if faults.is_empty() { "\nEvery answer came and was the right one.\n" } else { &faults };
    for report in reports {
        if report.rounds >= SERIOUS {
            text += &goals::table(report);
        }
    }
    for report in reports {
        let _ = write!(text, "\n## What it costs, {}\n\n", report.threads());
        text += &report.table(|arm, key, digits| grouped(report.value(arm, key), digits));
        text += &report.others();
        text += &report.spread();
    }
    let key = arms::reference(first.plan.protocol);
    for report in reports {
        let Some(reference) = report.arm(key) else {
            return text + &format!("\nNo ratios: `{key}` was left out.\n");
        };
        let _ = write!(text, "\n## As multiples of `{key}`, {}\n\n", report.threads());
        text += "Medians of the rounds' ratios, and the lowest and the highest of them.\n\n";
        text += &report.multiples(reference);
    }
    if first.plan.protocol == Protocol::Echo {
        text += MOSN;
    }
    text
}

/// The median of ratios, and the lowest and the highest.
pub fn range(ratios: &[f64]) -> String {
    let middle = median(ratios.iter().copied());
    match (middle.is_finite(), ratios.len()) {
        (false, _) => "–".into(),
        (true, 1) => format!("{middle:.2}"),
        _ => {
            let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let high = ratios.iter().copied().fold(0.0, f64::max);
            format!("{middle:.2} ({low:.2}–{high:.2})")
        }
    }
}

impl Report {
    /// With their number.
    pub fn threads(&self) -> String {
        match self.plan.threads {
            1 => "1 worker thread".into(),
            threads => format!("{threads} worker threads"),
        }
    }

    pub fn label(&self, arm: usize) -> String {
        self.arms[arm].label.into()
    }

    pub fn value(&self, arm: usize, key: &str) -> f64 {
        median(self.figures[arm].iter().filter_map(|figures| figures.get(key).copied()))
    }

    fn multiples(&self, reference: usize) -> String {
        self.table(|arm, key, _| range(&self.ratios(arm, reference, key)))
    }

    /// The table for a terminal.
    pub fn terminal(&self) -> String {
        const LABEL: usize = 38;
        let room = (100 - LABEL) / self.arms.len().max(1);
        let mut text = format!("{:LABEL$}", self.threads());
        for arm in &self.arms {
            let _ = write!(text, "{:>room$}", arm.short(room - 1));
        }
        text.push('\n');
        for row in rows(&self.plan) {
            // Of three latencies the second one tells most.
            let key = &row.keys[row.keys.len().min(2) - 1];
            let label = match row.keys.len() {
                1 => row.label,
                _ => row.label.replace("p50 / p99 / p99.9", "p99").replace("p50 / p99", "p99"),
            };
            let label: String = label.chars().take(LABEL - 1).collect();
            let _ = write!(text, "{label:LABEL$}");
            for arm in 0..self.arms.len() {
                let _ = write!(text, "{:>room$}", grouped(self.value(arm, key), row.digits));
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// Ours beside the reference, in words.
    pub fn lines(&self) -> Vec<String> {
        let reference = self.arm(arms::reference(self.plan.protocol));
        let ours = self.arms.iter().position(|arm| arm.label == "millpond, event-driven");
        let (Some(ours), Some(reference)) = (ours, reference) else { return Vec::new() };
        let most = self.plan.active.last().copied().unwrap_or(1);
        let line = |what: String, key: &str, digits: usize, unit: &str| {
            let [ours, other] = [ours, reference].map(|arm| grouped(self.value(arm, key), digits));
            format!("{what}: {ours}{unit}; {}: {other}{unit}.", self.label(reference))
        };
        vec![
            line("An idle connection".into(), "heap", 0, " bytes of heap"),
            line("A request on the only busy connection".into(), "cpu active1", 1, " µs of CPU"),
            line(format!("A request, {most} busy"), &format!("cpu active{most}"), 1, " µs of CPU"),
            line(format!("Requests/s, {most} busy"), &format!("rate active{most}"), 0, ""),
            line(format!("p99, {most} busy"), &format!("p99 active{most}"), 1, " ms"),
        ]
    }

    pub fn arm(&self, key: &str) -> Option<usize> {
        self.arms.iter().position(|arm| arm.key == key)
    }

    /// Between arms of the same round.
    pub fn ratios(&self, arm: usize, other: usize, key: &str) -> Vec<f64> {
        let pairs = self.figures[arm].iter().zip(&self.figures[other]);
        pairs.filter_map(|(one, other)| Some(one.get(key)? / other.get(key)?)).collect()
    }

    /// How far the rounds of a figure lie apart, in %, in the median arm.
    pub fn spread_of(&self, key: &str) -> f64 {
        let of_arm = |figures: &Vec<Figures>| {
            let values = || figures.iter().filter_map(|figures| figures.get(key).copied());
            let low = values().fold(f64::INFINITY, f64::min);
            (values().fold(0.0, f64::max) - low) / median(values()) * 100.0
        };
        median(self.figures.iter().map(of_arm))
    }

    fn table(&self, cell: impl Fn(usize, &str, usize) -> String) -> String {
        let labels: Vec<_> = (0..self.arms.len()).map(|arm| self.label(arm)).collect();
        let rules = " ---: |".repeat(labels.len());
        let mut text = format!("| | {} |\n| --- |{rules}\n", labels.join(" | "));
        for row in rows(&self.plan) {
            let cells = (0..self.arms.len()).map(|arm| {
                let values = row.keys.iter().map(|key| cell(arm, key, row.digits));
                values.collect::<Vec<_>>().join(" / ")
            });
            let cells: Vec<_> = cells.collect();
            let _ = writeln!(text, "| {} | {} |", row.label, cells.join(" | "));
        }
        text
    }

    /// Whatever makes numbers worthless.
    fn faults(&self) -> String {
        let mut text = String::new();
        for failure in &self.failures {
            let _ = writeln!(text, "\n**Not measured, {}: {failure}.**", self.threads());
        }
        for (arm, figures) in self.figures.iter().enumerate() {
            let sum =
                |key: &str| figures.iter().filter_map(|figures| figures.get(key)).sum::<f64>();
            let (lost, wrong) = (sum("lost"), sum("wrong"));
            let label = format!("{}, {}", self.label(arm), self.threads());
            if lost + wrong > 0.0 {
                let _ = writeln!(text, "\n**{label}: {lost} answers lost, {wrong} wrong.**");
            }
            for rate in RATES {
                let kept = self.value(arm, &format!("kept {rate}"));
                if kept < 0.98 {
                    let percent = kept * 100.0;
                    let _ = writeln!(text, "\n**{label}: {percent:.0} % of {rate} requests/s.**");
                }
            }
        }
        text
    }

    /// Whether anything else was going on.
    fn others(&self) -> String {
        let mut disturbed = Vec::new();
        for (arm, figures) in self.figures.iter().enumerate() {
            for (round, figures) in figures.iter().enumerate() {
                let share = figures.get("others").copied().unwrap_or(0.0);
                if share > DISTURBED {
                    disturbed.push(format!(
                        "{} in round {} ({share:.0} %)",
                        self.label(arm),
                        round + 1
                    ));
                }
            }
        }
        if disturbed.is_empty() {
            return format!(
                "\nOther processes never took more than {DISTURBED} % of the machine.\n"
            );
        }
        let runs = disturbed.join(", ");
        format!("\nOther processes took more than {DISTURBED} % of the machine beside: {runs}.\n")
    }

    /// How far the rounds lie apart: differences smaller than this say nothing.
    fn spread(&self) -> String {
        if self.rounds < 2 {
            return String::new();
        }
        let spread = |name: &str, key: &str| format!("{name} {:.0} %", self.spread_of(key));
        let most = self.plan.active.last().copied().unwrap_or(1);
        let mut parts = vec![
            spread("RSS", "rss"),
            spread("CPU at 300/s", "cpu 300"),
            spread("at 3,000/s", "cpu 3000"),
            spread("at 10,000/s", "cpu 10000"),
            spread("throughput of many", &format!("rate active{most}")),
            spread("its p99", &format!("p99 active{most}")),
            spread("a spike", "spike"),
        ];
        if self.plan.protocol == Protocol::Echo {
            parts.push(spread("p99 beside a flood", "p99 flood"));
        }
        format!(
            "\nSpread of a cell's rounds, (highest - lowest) / median, in the median arm: {}.\n",
            parts.join(", ")
        )
    }
}

/// With commas between the thousands.
pub fn grouped(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let text = format!("{value:.digits$}");
    let (whole, part) = text.split_once('.').map_or((&*text, None), |(a, b)| (a, Some(b)));
    let (head, tail) = whole.split_at(whole.len() % 3);
    let tail = tail.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let groups = (!head.is_empty()).then(|| head.into()).into_iter().chain(tail);
    let whole = groups.collect::<Vec<_>>().join(",");
    part.map_or(whole.clone(), |part| format!("{whole}.{part}"))
}
