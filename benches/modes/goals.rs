//! What millpond's servers are to reach, and whether they do.

use std::fmt::Write;

use crate::arms::{self, AUTO, AXUM, DEDICATED, EVENT_DRIVEN};
use crate::ours;
use crate::protocol::Protocol;
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

const LEANEST: Option<&str> = Some(arms::LEANEST);

const ECHO: [Goal; 19] = [
    goal("tasks", EVENT_DRIVEN, "tasks", None, AtMost(10.0)),
    goal("heap bytes per idle connection", EVENT_DRIVEN, "heap", None, AtMost(64.0)),
    goal("RSS bytes per idle connection", EVENT_DRIVEN, "rss", None, AtMost(128.0)),
    goal("requests/s, few active", EVENT_DRIVEN, "rate active0", LEANEST, AtLeast(1.1)),
    goal("requests/s, many active", EVENT_DRIVEN, "rate active1", LEANEST, AtLeast(1.0)),
    goal("p99, many active", EVENT_DRIVEN, "p99 active1", LEANEST, AtMost(0.3)),
    goal("CPU per request at 300/s", EVENT_DRIVEN, "cpu 300", LEANEST, AtMost(1.0)),
    goal("CPU per request at 3,000/s", EVENT_DRIVEN, "cpu 3000", LEANEST, AtMost(1.0)),
    goal("CPU per request at 10,000/s", EVENT_DRIVEN, "cpu 10000", LEANEST, AtMost(1.0)),
    goal("new connections/s", EVENT_DRIVEN, "accept", LEANEST, AtLeast(1.0)),
    goal("p99 beside a flood", EVENT_DRIVEN, "p99 flood", LEANEST, AtMost(1.0)),
    goal("requests/s, handler sleeps", EVENT_DRIVEN, "rate slow", LEANEST, AtLeast(0.98)),
    goal("heap bytes per idle connection", DEDICATED, "heap", LEANEST, AtMost(1.0)),
    goal("requests/s, few active", DEDICATED, "rate active0", LEANEST, AtLeast(1.0)),
    goal("requests/s, many active", DEDICATED, "rate active1", LEANEST, AtLeast(1.0)),
    goal("p99, many active", DEDICATED, "p99 active1", LEANEST, AtMost(1.0)),
    goal("CPU per request at 10,000/s", DEDICATED, "cpu 10000", LEANEST, AtMost(1.0)),
    goal("new connections/s", DEDICATED, "accept", LEANEST, AtLeast(1.0)),
    goal("requests/s, handler sleeps", DEDICATED, "rate slow", LEANEST, AtLeast(1.0)),
];

const HTTP: [Goal; 11] = [
    goal("heap bytes per idle connection", ours::EVENT_DRIVEN, "heap", None, AtMost(64.0)),
    goal("RSS bytes per idle connection", ours::EVENT_DRIVEN, "rss", None, AtMost(600.0)),
    goal("heap bytes, partial heads", ours::EVENT_DRIVEN, "heap partial", None, AtMost(450.0)),
    goal("requests/s, few active", ours::EVENT_DRIVEN, "rate active0", Some(AUTO), AtLeast(0.98)),
    goal("p99, few active", ours::EVENT_DRIVEN, "p99 active0", Some(AUTO), AtMost(1.05)),
    goal("requests/s, many active", ours::EVENT_DRIVEN, "rate active1", Some(AUTO), AtLeast(1.0)),
    goal("p99, many active", ours::EVENT_DRIVEN, "p99 active1", Some(AUTO), AtMost(0.8)),
    goal("CPU per request at 3,000/s", ours::EVENT_DRIVEN, "cpu 3000", Some(AUTO), AtMost(1.0)),
    goal("CPU per request at 10,000/s", ours::EVENT_DRIVEN, "cpu 10000", Some(AUTO), AtMost(1.0)),
    goal("CPU per request at 3,000/s", ours::EVENT_DRIVEN, "cpu 3000", Some(AXUM), AtMost(0.85)),
    goal("CPU per request at 10,000/s", ours::EVENT_DRIVEN, "cpu 10000", Some(AXUM), AtMost(0.85)),
];

/// Goals whose arms were left out are left out as well.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let goals: &[_] = match report.plan.protocol {
        Protocol::Echo => &ECHO,
        Protocol::Http => &HTTP,
    };
    for goal in goals {
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
