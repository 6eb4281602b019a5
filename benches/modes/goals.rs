//! What millpond's servers are to reach, and whether they do.

use std::fmt::Write;

use crate::arms::{self, DEDICATED, EVENT_DRIVEN};
use crate::measure::{Plan, RATES};
use crate::ours;
use crate::protocol::Protocol;
use crate::report::{Report, grouped};

struct Goal {
    what: String,
    arm: &'static str,
    key: String,
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

/// The goals of a protocol, for both modes.
fn goals(plan: &Plan) -> Vec<Goal> {
    let of = Some(arms::reference(plan.protocol));
    // Throughput, CPU and p99 of active connections; CPU at rates; requests/s with a slow handler.
    let (modes, rate, cpu, paced, slow) = match plan.protocol {
        Protocol::Echo => ([EVENT_DRIVEN, DEDICATED], 1.0, 1.0, 1.0, 1.0),
        Protocol::Http => ([ours::EVENT_DRIVEN, ours::DEDICATED], 0.98, 1.05, 0.95, 0.98),
        Protocol::Ws => ([ours::WS_EVENT_DRIVEN, ours::WS_DEDICATED], 1.0, 1.0, 1.0, 1.0),
    };
    let mut goals = Vec::new();
    for (at, arm) in modes.into_iter().enumerate() {
        let mut goal = |what: &str, key: String, of, target| {
            goals.push(Goal { what: what.into(), arm, key, of, target });
        };
        if at == 0 {
            goal("tasks", "tasks".into(), None, AtMost(10.0));
            let heap = if plan.protocol == Protocol::Ws { 256.0 } else { 64.0 };
            goal("heap bytes per idle connection", "heap".into(), None, AtMost(heap));
        }
        for active in &plan.active {
            let what = |what: &str| format!("{what}, {active} active");
            goal(&what("requests/s"), format!("rate active{active}"), of, AtLeast(rate));
            goal(&what("CPU per request"), format!("cpu active{active}"), of, AtMost(cpu));
            goal(&what("p99"), format!("p99 active{active}"), of, AtMost(1.0));
        }
        for rate in RATES {
            let what = format!("CPU per request at {}/s", grouped(rate as f64, 0));
            goal(&what, format!("cpu {rate}"), of, AtMost(paced));
        }
        goal("new connections/s", "accept".into(), of, AtLeast(1.0));
        goal("requests/s, handler sleeps", "rate slow".into(), of, AtLeast(slow));
        if plan.protocol == Protocol::Echo {
            goal("p99 beside a flood", "p99 flood".into(), of, AtMost(1.0));
        }
    }
    goals
}

/// Goals whose arms were left out are left out as well.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for goal in goals(&report.plan) {
        let _ = line(&mut text, &goal, report);
    }
    if text.is_empty() {
        return text;
    }
    format!("\n## Goals\n\n| | | goal | measured | |\n| --- | --- | ---: | ---: | --- |\n{text}")
}

fn line(text: &mut String, goal: &Goal, report: &Report) -> Option<()> {
    let arm = report.arm(goal.arm)?;
    let (value, digits, unit) = match goal.of {
        None => (report.value(arm, &goal.key), 0, String::new()),
        Some(of) => {
            let other = report.arm(of)?;
            (report.ratio(arm, other, &goal.key), 2, format!(" of {}", report.label(other)))
        }
    };
    let (sign, target, met) = match goal.target {
        AtLeast(target) => ("≥", target, value >= target),
        AtMost(target) => ("≤", target, value <= target),
    };
    let [target, value] = [target, value].map(|number| grouped(number, digits));
    let (what, label) = (&goal.what, report.label(arm));
    let met = if met { "met" } else { "**missed**" };
    writeln!(text, "| {what} | {label} | {sign} {target}{unit} | {value} | {met} |").ok()
}
