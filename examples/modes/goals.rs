//! What millpond's HTTP server is to reach, and whether it does.

use std::fmt::Write;

use crate::arms::{AUTO, AXUM};
use crate::ours::EVENT_DRIVEN;
use crate::report::{Report, grouped};

struct Goal {
    what: &'static str,
    arm: &'static str,
    key: &'static str,
    /// The arm whose multiple it is; else the figure itself.
    of: Option<&'static str>,
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

const fn goal(
    what: &'static str,
    arm: &'static str,
    key: &'static str,
    of: Option<&'static str>,
    target: Target,
) -> Goal {
    Goal { what, arm, key, of, target }
}

const GOALS: [Goal; 11] = [
    goal("heap bytes per idle connection", EVENT_DRIVEN, "heap", None, AtMost(64.0)),
    goal("RSS bytes per idle connection", EVENT_DRIVEN, "rss", None, AtMost(600.0)),
    goal("heap bytes, partial heads", EVENT_DRIVEN, "heap partial", None, AtMost(450.0)),
    goal("requests/s, few active", EVENT_DRIVEN, "rate active0", Some(AUTO), AtLeast(0.98)),
    goal("p99, few active", EVENT_DRIVEN, "p99 active0", Some(AUTO), AtMost(1.05)),
    goal("requests/s, many active", EVENT_DRIVEN, "rate active1", Some(AUTO), AtLeast(1.0)),
    goal("p99, many active", EVENT_DRIVEN, "p99 active1", Some(AUTO), AtMost(0.8)),
    goal("CPU per request at 3,000/s", EVENT_DRIVEN, "cpu 3000", Some(AUTO), AtMost(1.0)),
    goal("CPU per request at 10,000/s", EVENT_DRIVEN, "cpu 10000", Some(AUTO), AtMost(1.0)),
    goal("CPU per request at 3,000/s", EVENT_DRIVEN, "cpu 3000", Some(AXUM), AtMost(0.85)),
    goal("CPU per request at 10,000/s", EVENT_DRIVEN, "cpu 10000", Some(AXUM), AtMost(0.85)),
];

/// Goals whose arms were left out are left out as well.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for goal in &GOALS {
        let _ = line(&mut text, goal, report);
    }
    if text.is_empty() {
        return text;
    }
    format!("\n## Goals\n\n| | | goal | measured | |\n| --- | --- | ---: | ---: | --- |\n{text}")
}

fn line(text: &mut String, goal: &Goal, report: &Report) -> Option<()> {
    let arm = report.arm(goal.arm)?;
    let (value, digits, unit) = match goal.of {
        None => (report.value(arm, goal.key), 0, String::new()),
        Some(of) => {
            let other = report.arm(of)?;
            (report.ratio(arm, other, goal.key), 2, format!(" of {}", report.label(other)))
        }
    };
    let (sign, target, met) = match goal.target {
        AtLeast(target) => ("≥", target, value >= target),
        AtMost(target) => ("≤", target, value <= target),
    };
    let [target, value] = [target, value].map(|number| grouped(number, digits));
    let (what, label) = (goal.what, report.label(arm));
    let met = if met { "met" } else { "**missed**" };
    writeln!(text, "| {what} | {label} | {sign} {target}{unit} | {value} | {met} |").ok()
}
