//! Four panels of bars, as SVG.

use std::fmt::Write;

use crate::measure::RATES;
use crate::report::{Report, grouped};

const LABELS: f64 = 230.0;
const WIDTH: f64 = 300.0;
const NUMBERS: f64 = 80.0;
const PANEL: f64 = LABELS + WIDTH + NUMBERS;
const BAR: f64 = 11.0;
const GAP: f64 = 9.0;
const TITLE: f64 = 46.0;
const BOTTOM: f64 = 24.0;
/// Of millpond, and of the others.
const COLOURS: [&str; 2] = ["#0969da", "#6e7781"];
/// Of the bars of one arm, from the first.
const SHADES: [f64; 3] = [1.0, 0.7, 0.45];

struct Panel {
    title: String,
    /// A name and a key each.
    bars: Vec<(String, String)>,
    digits: usize,
    /// Where a logarithmic scale begins; else it is linear, from 0.
    from: Option<f64>,
}

pub fn draw(report: &Report) -> String {
    let number = |active: &usize| grouped(*active as f64, 0);
    let most = report.plan.active.last().copied().unwrap_or(1);
    let bar = |name: &str, key: &str| (name.to_owned(), key.to_owned());
    let rates = RATES.map(|rate| (format!("{}/s", grouped(rate as f64, 0)), format!("cpu {rate}")));
    let busy = report.plan.active.iter().filter(|active| [1, 32, most].contains(active));
    let busy =
        busy.map(|active| (format!("{} active", number(active)), format!("cpu active{active}")));
    let panels = [
        Panel {
            title: "bytes per idle connection, logarithmic".into(),
            bars: vec![bar("heap", "heap"), bar("RSS", "rss")],
            digits: 0,
            from: Some(10.0),
        },
        Panel {
            title: "µs of the server's CPU per request".into(),
            bars: rates.into(),
            digits: 1,
            from: None,
        },
        Panel {
            title: "µs of the server's CPU per request, busy".into(),
            bars: busy.collect(),
            digits: 1,
            from: None,
        },
        Panel {
            title: format!("p99 in ms, {} active", number(&most)),
            bars: vec![bar("", &format!("p99 active{most}"))],
            digits: 1,
            from: None,
        },
    ];
    let height = |panel: &Panel| {
        let arm = panel.bars.len() as f64 * BAR + GAP;
        TITLE + arm * report.arms.len() as f64 + BOTTOM
    };
    let second = panels[..2].iter().map(height).fold(0.0, f64::max);
    let last = panels[2..].iter().map(height).fold(0.0, f64::max);
    let (all_wide, all_high) = (2.0 * PANEL, second + last + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {all_wide} {all_high}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Idle connections: memory, CPU, throughput and latency by server</title>\n\
         <rect width=\"{all_wide}\" height=\"{all_high}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"{}\" font-size=\"11\">{} connections, {} worker threads; medians of {} \
         rounds, which lie {:.0} % apart at {} active</text>\n",
        all_high - 8.0,
        grouped(report.plan.connections as f64, 0),
        report.plan.threads,
        report.rounds,
        report.spread_of(&format!("cpu active{most}")),
        number(&most),
    );
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = (at as f64 % 2.0 * PANEL, if at < 2 { 0.0 } else { second });
        panel.draw(&mut svg, left, top, report);
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64, top: f64, report: &Report) {
        let zero = left + LABELS;
        let _ = writeln!(
            svg,
            "<text x=\"{zero}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 18.0,
            self.title
        );
        for (at, (name, _)) in self.bars.iter().enumerate().filter(|(_, bar)| !bar.0.is_empty()) {
            let (x, y) = (zero + 90.0 * at as f64, top + 28.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{}\" opacity=\"{}\"/>\
                 <text x=\"{}\" y=\"{}\">{name}</text>",
                COLOURS[0],
                SHADES[at],
                x + 15.0,
                y + 9.5
            );
        }
        let arms = 0..report.arms.len();
        let values = |arm: usize| self.bars.iter().map(move |(_, key)| report.value(arm, key));
        let high =
            arms.clone().flat_map(values).filter(|value| value.is_finite()).fold(1.0, f64::max);
        let mut y = top + TITLE;
        let bottom = y + (self.bars.len() as f64 * BAR + GAP) * report.arms.len() as f64;
        for decade in self.decades(high) {
            let x = zero + WIDTH * self.part(decade, high);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {y:.1}V{bottom:.1}\" stroke=\"#d0d7de\"/><text x=\"{x:.1}\" \
                 y=\"{:.1}\" font-size=\"9\" text-anchor=\"middle\">{}</text>",
                bottom + 10.0,
                grouped(decade, 0)
            );
        }
        for arm in arms {
            let colour = COLOURS[usize::from(!report.label(arm).starts_with("millpond"))];
            let middle = y + self.bars.len() as f64 * BAR / 2.0 + 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
                zero - 8.0,
                report.label(arm)
            );
            for (at, value) in values(arm).enumerate() {
                let width = WIDTH * self.part(value, high);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{zero}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" \
                     fill=\"{colour}\" opacity=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{}</text>",
                    BAR - 1.0,
                    SHADES[at],
                    zero + width + 5.0,
                    y + BAR - 2.0,
                    grouped(value, self.digits)
                );
                y += BAR;
            }
            y += GAP;
        }
    }

    /// The labels of a logarithmic scale.
    fn decades(&self, high: f64) -> impl Iterator<Item = f64> {
        let first = self.from.unwrap_or(f64::INFINITY);
        std::iter::successors(Some(first), |decade| Some(decade * 10.0))
            .take_while(move |decade| *decade <= high)
    }

    /// Of the full width.
    fn part(&self, value: f64, high: f64) -> f64 {
        let part = match self.from {
            Some(low) => (value.max(low) / low).ln() / (high.max(2.0 * low) / low).ln(),
            None => value / high,
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }
}
