//! The medians of all rounds as a table in Markdown, with the spread, and the rows that millpond loses.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;

use crate::arms;
use crate::external;
use crate::idle::KINDS;
use crate::measure::{BUSY, RESULTS, SATURATED};

struct Row {
    figure: String,
    title: String,
    digits: usize,
    more_is_better: bool,
}

/// The values of a server's figure, with their rounds.
pub type Values = HashMap<(String, String), Vec<(String, f64)>>;

/// All results of a file; none if there is no such file.
pub fn read(name: &str) -> Result<Values, String> {
    let path = crate::folder()?.join(name);
    let mut values = Values::new();
    for line in fs::read_to_string(&path).unwrap_or_default().lines() {
        let [arm, figure, value, round] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(format!("{}: {line:?} is no result", path.display()));
        };
        let value = value.parse().map_err(|error| format!("{line}: {error}"))?;
        values.entry((arm.into(), figure.into())).or_default().push((round.into(), value));
    }
    Ok(values)
}

/// Writes into `benches/`, and to the terminal.
pub fn publish(name: &str, text: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    print!("{text}");
    Ok(())
}

pub fn write() -> Result<(), String> {
    let values = read(RESULTS)?;
    if values.is_empty() {
        println!("No rounds of idle and busy: servers.md stays as it is.");
        return Ok(());
    }
    publish("servers.md", &report(&values))
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let names = ["HTTP/1.1", "HTTP/1.1 over TLS", "WebSocket", "HTTP/2"];
    for ((kind, count), name) in KINDS.into_iter().zip(names) {
        let title = format!("bytes per idle connection, {name}, {count} of them");
        rows.push(Row { figure: kind.into(), title, digits: 0, more_is_better: false });
    }
    for active in BUSY.into_iter().chain([SATURATED]) {
        let title = format!("CPU per request, {active} busy, µs");
        rows.push(Row { figure: format!("cpu {active}"), title, digits: 1, more_is_better: false });
    }
    for active in BUSY.into_iter().chain([SATURATED]) {
        let title = format!("requests/s, {active} busy");
        rows.push(Row { figure: format!("rate {active}"), title, digits: 0, more_is_better: true });
    }
    for active in [100, SATURATED] {
        let title = format!("p99, {active} busy, ms");
        rows.push(Row { figure: format!("p99 {active}"), title, digits: 2, more_is_better: false });
    }
    rows
}

fn report(values: &Values) -> String {
    let arms: Vec<&str> =
        arms::ALL.into_iter().chain(external::ALL.iter().map(|one| one.name)).collect();
    let rows = rows();
    let rounds = |figure: &str| {
        values
            .iter()
            .filter(|((_, name), _)| name == figure)
            .map(|(_, all)| all.len())
            .max()
            .unwrap_or(0)
    };
    let mut text = format!(
        "# HTTP servers beside each other\n\n\
        Machine: {}.\n\n\
        Rounds of idle connections: {}; of busy ones: {}. A cell is the median of its rounds, and behind it\n\
        the spread, (highest - lowest) / median. Made by these, the first two once for each round:\n\n\
        ```sh\ncd benches/servers\ncargo run --release -- idle\ncargo run --release -- busy\n\
        cargo run --release -- report\n```\n\n",
        machine(),
        rounds("plain"),
        rounds("rate 1"),
    );
    text += NOTES;
    for server in &external::ALL {
        match server.version() {
            Some(version) => writeln!(text, "- {}: {version}.", server.name),
            None => {
                writeln!(text, "- {} is missing: `{}` installs it.", server.name, server.install)
            }
        }
        .expect("a string takes all");
    }
    writeln!(text, "\n| | {} |", arms.join(" | ")).expect("a string takes all");
    writeln!(text, "| --- |{}", " ---: |".repeat(arms.len())).expect("a string takes all");
    for row in &rows {
        let cell = |arm: &&str| match values.get(&((*arm).to_owned(), row.figure.clone())) {
            Some(all) => {
                let shown = thousands(median(all), row.digits);
                format!("{shown} ({:.0} %)", spread(all) * 100.0)
            }
            None => "-".to_owned(),
        };
        let cells: Vec<_> = arms.iter().map(cell).collect();
        writeln!(text, "| {} | {} |", row.title, cells.join(" | ")).expect("a string takes all");
    }
    text + &losses(values, &rows, &arms)
}

const NOTES: &str = "\
- Each server has the first core and one worker; the client, a process too, has the second core.
- Each answers `/ID` with `{\"id\":\"ID\"}`; the client of busy connections checks each answer.
- Memory is PSS of all processes of the server, from before the connections came to four seconds after
  their one request each. What the kernel keeps for a connection is not in it.
- Busy connections have one request on their way each; 1,000 are open. One thread drives the client.
- axum, and both modes of millpond, serve the same axum router. Millpond tells its handlers
  `ConnectInfo`, as by default. Over TLS axum's router is served by hyper-util. hyper is its server for one
  version alone, with a function as the service.
- WebSockets of axum and millpond have a read buffer of 4 KiB and no write buffer. nginx, haproxy and h2o
  only pass WebSockets on.
- HTTP/2 is without TLS, by prior knowledge. h2o answers by a handler in mruby.
";

/// The rows in which another server is ahead of a mode of millpond.
fn losses(values: &Values, rows: &[Row], arms: &[&str]) -> String {
    let mut text = String::new();
    for ours in [arms::EVENT_DRIVEN, arms::DEDICATED] {
        writeln!(text, "\n## Where {ours}, is behind\n").expect("a string takes all");
        let before = text.len();
        for row in rows {
            let of = |arm: &str| {
                values.get(&(arm.to_owned(), row.figure.clone())).map(|all| median(all))
            };
            let Some(own) = of(ours) else { continue };
            let others = arms.iter().filter(|arm| !arms::ALL[..2].contains(arm));
            let ahead: Vec<_> = others
                .filter_map(|arm| Some((arm, of(arm)?)))
                .filter(|(_, value)| if row.more_is_better { *value > own } else { *value < own })
                .map(|(arm, value)| format!("{arm} {}", thousands(value, row.digits)))
                .collect();
            if !ahead.is_empty() {
                let own = thousands(own, row.digits);
                writeln!(text, "- {}: {own}; {}.", row.title, ahead.join(", "))
                    .expect("a string takes all");
            }
        }
        if text.len() == before {
            text += "In no row.\n";
        }
    }
    text
}

pub fn median(all: &[(String, f64)]) -> f64 {
    let mut all: Vec<f64> = all.iter().map(|one| one.1).collect();
    all.sort_by(f64::total_cmp);
    (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0
}

pub fn spread(all: &[(String, f64)]) -> f64 {
    let most = all.iter().map(|one| one.1).fold(f64::MIN, f64::max);
    let least = all.iter().map(|one| one.1).fold(f64::MAX, f64::min);
    (most - least) / median(all).abs().max(f64::MIN_POSITIVE)
}

pub fn thousands(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, part) =
        text.split_once('.').map_or((&*text, None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    part.map_or(grouped.clone(), |part| format!("{grouped}.{part}"))
}

pub fn machine() -> String {
    let count = thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("", |(_, model)| model);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} cores ({model}), linux {}", release.trim())
}
