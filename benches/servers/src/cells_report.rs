//! The cells of millpond's goals as tables in Markdown: the ratio within each round, its median and its
//! spread, the goal, and whether it is met.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::arms::{AXUM, DEDICATED, EVENT_DRIVEN, SAME_ROUTER};
use crate::cells::{CALLS, HTTP2, RESULTS, RUNTIMES, SCENES, TLS, WAITING, WORKERS};
use crate::report::{Values, machine, median, publish, read, spread, thousands};

#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Of the figure itself, and not of its ratio.
    Is(f64),
}

use Goal::{AtLeast, AtMost, Is};

#[derive(Clone)]
struct Cell {
    title: String,
    figure: String,
    goal: Goal,
    digits: usize,
}

struct Section {
    title: &'static str,
    text: &'static str,
    /// What ours are compared with; the goals are of the first. Each with its name in the table.
    others: &'static [(&'static str, &'static str)],
    cells: Vec<Cell>,
}

pub fn write() -> Result<(), String> {
    let values = read(RESULTS)?;
    if values.is_empty() {
        println!("No rounds of http2, calls, one-thread and tls: cells.md stays as it is.");
        return Ok(());
    }
    let mut text = format!(
        "# HTTP/2, TLS, system calls, and one worker thread: the goals\n\nMachine: {}.\n\n{NOTES}",
        machine()
    );
    for section in [http2(), calls(), one_thread(), tls()] {
        section.write(&mut text, &values);
    }
    text += &names(&values);
    publish("cells.md", &text)
}

const NOTES: &str = "\
- Each server is a process on the first core, the client one on the second. Two worker threads share the
  first core.
- All servers in Rust serve the same axum router; millpond has its defaults, so handlers are told
  `ConnectInfo`, but for its limits of connections and its deadline of idle ones.
- Ours are shown as multiples of another server in the same round: the median of the rounds, and the lowest
  and the highest. Behind them stands the figure of the first other server: the median of its rounds and their
  spread, (highest - lowest) / median.
- The goal is of the first other server. Beside `axum::serve` over HTTP/2, met is what is no worse.
- A round in which one of the two servers failed is left out.

```sh
cd benches/servers
cargo run --release -- forget
cargo run --release -- http2 5
cargo run --release -- calls
cargo run --release -- one-thread 5
cargo run --release -- tls 5
cargo run --release -- report
```
";

fn http2() -> Section {
    let mut cells = Vec::new();
    for (workers, (connections, streams, path)) in
        WORKERS.into_iter().flat_map(|workers| HTTP2.map(|cell| (workers, cell)))
    {
        let asleep = if path == "/a" { "" } else { ", handlers sleep 5 ms" };
        let title = format!("{connections} x {streams}{asleep}, {}", threads(workers));
        let cell = format!("{workers} {connections}x{streams}");
        cells.push(Cell {
            title: format!("requests/s, {title}"),
            figure: format!("http2 rate {cell}"),
            goal: AtLeast(0.98),
            digits: 0,
        });
        cells.push(Cell {
            title: format!("CPU per request in µs, {title}"),
            figure: format!("http2 cpu {cell}"),
            goal: AtMost(1.02),
            digits: 1,
        });
    }
    Section {
        title: "HTTP/2",
        text: "Without TLS, by prior knowledge: connections x streams, the next request of a stream as soon \
               as one is answered.",
        others: &[(SAME_ROUTER, "hyper alone"), (AXUM, "axum::serve")],
        cells,
    }
}

fn calls() -> Section {
    let mut cells = Vec::new();
    for (workers, active) in
        WORKERS.into_iter().flat_map(|workers| CALLS.map(|active| (workers, active)))
    {
        cells.push(Cell {
            title: format!("{active} busy, {}", threads(workers)),
            figure: format!("calls {workers} {active}"),
            goal: Is(if active == 1 { 3.0 } else { 2.0 }),
            digits: 2,
        });
    }
    Section {
        title: "System calls per request",
        text: "HTTP/1.1, counted by `perf stat -e raw_syscalls:sys_enter`. A goal is met up to \
               0.1 above it: a runtime of tokio looks for events once in 61 polls of tasks, under each \
               server. nginx has one thread in all rows.",
        others: &[(SAME_ROUTER, "hyper alone"), (AXUM, "axum::serve"), ("nginx", "nginx")],
        cells,
    }
}

fn one_thread() -> Section {
    let mut cells = Vec::new();
    for (runtime, (scene, ..)) in
        RUNTIMES.into_iter().flat_map(|runtime| SCENES.map(|scene| (runtime, scene)))
    {
        for (waiting, quantile) in WAITING.into_iter().flat_map(|one| [(one, 50), (one, 95)]) {
            let what = match waiting {
                "new" => "a new connection",
                "established" => "an established one",
                _ => "`sleep(5 ms)` in a handler",
            };
            let kind = if runtime == "1" { "multi_thread" } else { runtime };
            cells.push(Cell {
                title: format!("{what}, p{quantile} in ms, beside {scene}, {kind}"),
                figure: format!("p{quantile} {runtime} {scene} {waiting}"),
                goal: AtMost(1.2),
                digits: 2,
            });
        }
    }
    Section {
        title: "Waits on one worker thread",
        text: "HTTP/1.1. A new connection waits from its connect to its first answer; a handler tells how \
               long its sleep took. The handlers of 1 ms compute. One client of each kind asks every 3 ms, \
               all at the same time.",
        others: &[(AXUM, "axum::serve")],
        cells,
    }
}

fn tls() -> Section {
    let mut cells = Vec::new();
    for workers in WORKERS {
        let threads = threads(workers);
        for active in TLS {
            cells.push(Cell {
                title: format!("CPU per request in µs, {active} busy, {threads}"),
                figure: format!("tls cpu {workers} {active}"),
                goal: AtMost(1.05),
                digits: 1,
            });
        }
        cells.push(Cell {
            title: format!("handshakes/s, {threads}"),
            figure: format!("tls rate {workers} handshakes"),
            goal: AtLeast(1.0),
            digits: 0,
        });
        cells.push(Cell {
            title: format!("CPU per handshake in µs, {threads}"),
            figure: format!("tls cpu {workers} handshakes"),
            goal: AtMost(1.0),
            digits: 0,
        });
    }
    Section {
        title: "TLS",
        text: "HTTP/1.1 over TLS 1.3. Handshakes are full ones, 16 at once, without a request; the client \
               does not verify the certificate, so that its core is not the limit.",
        others: &[(AXUM, "tokio-rustls with hyper-util")],
        cells,
    }
}

fn threads(workers: &str) -> String {
    format!("{workers} worker{}", if workers == "1" { "" } else { "s" })
}

impl Section {
    fn write(&self, text: &mut String, values: &Values) {
        let rounds = |cell: &Cell| of(values, EVENT_DRIVEN, &cell.figure).len();
        let rounds = self.cells.iter().map(rounds).max().unwrap_or(0);
        let (title, about) = (self.title, self.text);
        *text += &format!("\n## {title}\n\n{about} Rounds: {rounds}.\n\n");
        let modes = [(EVENT_DRIVEN, "event-driven"), (DEDICATED, "dedicated")];
        let [first, more @ ..] = self.others else { return };
        let is_plain = matches!(self.cells[0].goal, Is(_));
        let mut head: Vec<String> = vec![String::new(), "goal".into()];
        let of_first = if is_plain { String::new() } else { format!(" of {}", first.1) };
        head.extend(modes.map(|(_, name)| format!("{name}{of_first}")));
        head.push(first.1.into());
        for (_, other) in more {
            match is_plain {
                true => head.push((*other).into()),
                false => head.extend(modes.map(|(_, name)| format!("{name} of {other}"))),
            }
        }
        let rules = " ---: |".repeat(head.len() - 1);
        *text += &format!("| {} |\n| --- |{rules}\n", head.join(" | "));
        for cell in &self.cells {
            let mut line = vec![cell.title.clone(), cell.goal.sign()];
            line.extend(modes.map(|(arm, _)| judged(values, arm, first.0, cell)));
            line.push(plain(values, first.0, cell));
            for (other, _) in more {
                match is_plain {
                    true => line.push(plain(values, other, cell)),
                    false => {
                        line.extend(modes.map(|(arm, _)| ahead(values, arm, other, cell)));
                    }
                }
            }
            writeln!(text, "| {} |", line.join(" | ")).expect("a string takes all");
        }
    }
}

impl Goal {
    fn sign(self) -> String {
        match self {
            AtLeast(target) => format!("≥ {target:.2}"),
            AtMost(target) => format!("≤ {target:.2}"),
            Is(target) => format!("{target:.0}"),
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            AtLeast(target) => value >= target,
            AtMost(target) => value <= target,
            Is(target) => value <= target + 0.1,
        }
    }
}

fn of<'a>(values: &'a Values, arm: &str, figure: &str) -> &'a [(String, f64)] {
    values.get(&(arm.to_owned(), figure.to_owned())).map_or(&[], Vec::as_slice)
}

/// Between two servers in the same round.
fn ratios(values: &Values, arm: &str, other: &str, cell: &Cell) -> Vec<(String, f64)> {
    let others = of(values, other, &cell.figure);
    let one = |(round, value): &(String, f64)| {
        let (_, other) = others.iter().find(|other| other.0 == *round)?;
        Some((round.clone(), value / other))
    };
    of(values, arm, &cell.figure).iter().filter_map(one).collect()
}

fn judged(values: &Values, arm: &str, other: &str, cell: &Cell) -> String {
    let all = match cell.goal {
        Is(_) => of(values, arm, &cell.figure).to_vec(),
        _ => ratios(values, arm, other, cell),
    };
    if all.is_empty() {
        return "-".into();
    }
    let met = if cell.goal.is_met(median(&all)) { "met" } else { "**missed**" };
    format!("{}, {met}", shown(&all))
}

/// Beside those that no goal has a number for: ahead, or not.
fn ahead(values: &Values, arm: &str, other: &str, cell: &Cell) -> String {
    let goal = match cell.goal {
        AtLeast(_) => AtLeast(1.0),
        _ => AtMost(1.0),
    };
    judged(values, arm, other, &Cell { goal, ..cell.clone() })
}

/// The median, the lowest and the highest.
fn shown(all: &[(String, f64)]) -> String {
    if all.is_empty() {
        return "-".into();
    }
    let least = all.iter().map(|one| one.1).fold(f64::MAX, f64::min);
    let most = all.iter().map(|one| one.1).fold(f64::MIN, f64::max);
    let [middle, least, most] = [median(all), least, most].map(|value| format!("{value:.2}"));
    format!("{middle} ({least}–{most})")
}

fn plain(values: &Values, arm: &str, cell: &Cell) -> String {
    match of(values, arm, &cell.figure) {
        [] => "-".into(),
        all => {
            let middle = thousands(median(all), cell.digits);
            format!("{middle} ({:.0} %)", spread(all) * 100.0)
        }
    }
}

/// Which calls they are, by strace.
fn names(values: &Values) -> String {
    let mut text = String::from(
        "\n## Which system calls\n\nCounted by `strace -c -f`, which slows the server, so that more requests \
         wait for each look at the sockets.\n\n",
    );
    for (workers, active) in
        WORKERS.into_iter().flat_map(|workers| CALLS.map(|active| (workers, active)))
    {
        let start = format!("call {workers} {active} ");
        for arm in [EVENT_DRIVEN, DEDICATED, SAME_ROUTER, AXUM, "nginx"] {
            let names = values.keys().filter(|(name, _)| name == arm);
            let names: HashSet<&str> =
                names.filter_map(|(_, figure)| figure.strip_prefix(&start)).collect();
            let figure = |name: &str| median(of(values, arm, &format!("{start}{name}")));
            let mut names: Vec<(&str, f64)> =
                names.into_iter().map(|name| (name, figure(name))).collect();
            names.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(other.0)));
            if !names.is_empty() {
                let names: Vec<String> =
                    names.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
                let (threads, names) = (threads(workers), names.join(", "));
                writeln!(text, "- {active} busy, {threads}, {arm}: {names}.")
                    .expect("a string takes all");
            }
        }
    }
    text
}
