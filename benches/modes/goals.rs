//! What millpond's servers are to reach, and whether they do.

use crate::arms::{self, AXUM, DEDICATED, EVENT_DRIVEN};
use crate::measure::{Plan, RATES};
use crate::ours;
use crate::protocol::Protocol;
use crate::report::{Report, grouped, range};

struct Goal {
    what: String,
    key: String,
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    /// Of the reference's figure.
    AtLeast(f64),
    AtMost(f64),
    /// The figure itself, in the event-driven mode alone.
    Parked(f64),
}

use Target::{AtLeast, AtMost, Parked};

fn goals(plan: &Plan) -> Vec<Goal> {
    // Throughput and CPU of active connections; CPU at rates; requests/s with a slow handler.
    let (rate, cpu, paced, slow) = match plan.protocol {
        Protocol::Echo | Protocol::Ws => (1.0, 1.0, 1.0, 1.0),
        Protocol::Http => (0.98, 1.05, 0.95, 0.98),
    };
    let heap = if plan.protocol == Protocol::Ws { 256.0 } else { 64.0 };
    let mut goals = Vec::new();
    let mut goal = |what: &str, key: &str, target| {
        goals.push(Goal { what: what.into(), key: key.into(), target });
    };
    goal("tasks", "tasks", Parked(10.0));
    goal("heap bytes per idle connection", "heap", Parked(heap));
    for active in &plan.active {
        let what = |what: &str| format!("{what}, {} active", grouped(*active as f64, 0));
        goal(&what("requests/s"), &format!("rate active{active}"), AtLeast(rate));
        goal(&what("CPU per request"), &format!("cpu active{active}"), AtMost(cpu));
        if plan.protocol == Protocol::Http {
            goal(&what("p99"), &format!("p99 active{active}"), AtMost(1.0));
        }
    }
    for rate in RATES {
        let what = format!("CPU per request at {}/s", grouped(rate as f64, 0));
        goal(&what, &format!("cpu {rate}"), AtMost(paced));
    }
    goal("new connections/s", "accept", AtLeast(1.0));
    let slow_handlers = format!("requests/s, {} active, handler sleeps", plan.slow);
    goal(&slow_handlers, "rate slow", AtLeast(slow));
    if plan.protocol == Protocol::Echo {
        goal("p99 beside a flood", "p99 flood", AtMost(1.0));
    }
    goals
}

/// Of one number of worker threads. Empty where the reference was left out.
pub fn table(report: &Report) -> String {
    let protocol = report.plan.protocol;
    let modes = match protocol {
        Protocol::Echo => [EVENT_DRIVEN, DEDICATED],
        Protocol::Http => [ours::EVENT_DRIVEN, ours::DEDICATED],
        Protocol::Ws => [ours::WS_EVENT_DRIVEN, ours::WS_DEDICATED],
    };
    let modes: Vec<usize> = modes.iter().filter_map(|key| report.arm(key)).collect();
    let Some(reference) = report.arm(arms::reference(protocol)) else { return String::new() };
    // Over HTTP, ahead of axum in each cell.
    let axum = report.arm(AXUM).filter(|axum| *axum != reference);
    let others: Vec<usize> = [Some(reference), axum].into_iter().flatten().collect();
    let mut text = format!("\n## Goals, {}\n\n", report.threads());
    text += "The median of the rounds' ratios, the lowest and the highest of them.\n\n| | goal |";
    for &other in &others {
        for &arm in &modes {
            text += &format!(" {} of {} |", report.label(arm), report.label(other));
        }
    }
    text += &format!("\n| --- | ---: |{}\n", " ---: |".repeat(others.len() * modes.len()));
    for goal in goals(&report.plan) {
        text += &format!("| {} | {} |", goal.what, goal.target.shown());
        for &other in &others {
            let target = if other == reference { goal.target } else { goal.target.ahead() };
            for &arm in &modes {
                text += &format!(" {} |", goal.judged(report, arm, other, reference, target));
            }
        }
        text.push('\n');
    }
    text
}

impl Goal {
    fn judged(
        &self,
        report: &Report,
        arm: usize,
        other: usize,
        reference: usize,
        target: Target,
    ) -> String {
        let is_parked = report.label(arm).ends_with("event-driven");
        let (shown, value) = match target {
            Parked(_) if !is_parked || other != reference => return "–".into(),
            Parked(_) => {
                let value = report.value(arm, &self.key);
                (grouped(value, 0), value)
            }
            AtLeast(_) | AtMost(_) => {
                let ratios = report.ratios(arm, other, &self.key);
                (range(&ratios), crate::measure::median(ratios.into_iter()))
            }
        };
        let is_met = match target {
            AtLeast(target) => value >= target,
            AtMost(target) | Parked(target) => value <= target,
        };
        format!("{shown}, {}", if is_met { "met" } else { "**missed**" })
    }
}

impl Target {
    fn shown(self) -> String {
        match self {
            AtLeast(target) => format!("≥ {target:.2}"),
            AtMost(target) => format!("≤ {target:.2}"),
            Parked(target) => format!("≤ {target:.0}"),
        }
    }

    /// No worse than another.
    fn ahead(self) -> Self {
        match self {
            AtLeast(_) => AtLeast(1.0),
            AtMost(_) => AtMost(1.0),
            Parked(target) => Parked(target),
        }
    }
}
