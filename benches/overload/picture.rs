//! Two panels over the offered load, as SVG: goodput, and the latency of what was served.

use std::fmt::Write;

pub struct Series {
    pub name: String,
    pub values: Vec<f64>,
}

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 46.0;
const GAP: f64 = 90.0;
const COLOURS: [&str; 4] = ["#9a6700", "#0969da", "#8250df", "#1a7f37"];
/// The second line is dashed, so that it shows on top of the first.
const DASHES: [&str; 4] = ["none", "6 5", "2 4", "none"];

/// The area of a panel's values.
struct Scale {
    left: f64,
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        TOP + HEIGHT * (1.0 - part.clamp(0.0, 1.0))
    }

    fn x(&self, at: usize, of: usize) -> f64 {
        self.left + WIDTH * at as f64 / (of - 1) as f64
    }
}

pub fn draw(
    loads: &[f64],
    goodput: &[Series],
    p99: &[Series],
    capacity: f64,
    patience: f64,
) -> String {
    let (width, height) = (LEFT + WIDTH + GAP + WIDTH + 20.0, TOP + HEIGHT + 78.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Goodput and latency over offered load</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let left = Scale { left: LEFT, low: 0.0, high: 1.15 * capacity, logarithmic: false };
    let marks = [0.0, 0.25, 0.5, 0.75, 1.0].map(|part| part * capacity);
    panel(&mut svg, "requests served per second", &left, loads, goodput, &marks);
    let right =
        Scale { left: LEFT + WIDTH + GAP, low: 10.0, high: 1.5 * patience, logarithmic: true };
    let marks = [10.0, 20.0, 50.0, 100.0, 200.0];
    panel(&mut svg, "their p99 latency in ms", &right, loads, p99, &marks);
    for (at, series) in goodput.iter().enumerate() {
        let (x, y) = (LEFT + 220.0 * at as f64, TOP + HEIGHT + 62.0);
        let (colour, dashes) = (COLOURS[at], DASHES[at]);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{0}\" x2=\"{1}\" y2=\"{0}\" stroke=\"{colour}\" \
             stroke-width=\"3\" stroke-dasharray=\"{dashes}\"/><text x=\"{2}\" y=\"{y}\">{3}</text>",
            y - 4.0,
            x + 24.0,
            x + 32.0,
            series.name
        );
    }
    svg + "</svg>\n"
}

fn panel(
    svg: &mut String,
    title: &str,
    scale: &Scale,
    loads: &[f64],
    series: &[Series],
    marks: &[f64],
) {
    let bottom = TOP + HEIGHT;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        scale.left,
        TOP - 18.0
    );
    for &mark in marks {
        let y = scale.y(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#d0d7de\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
            scale.left,
            scale.left + WIDTH,
            scale.left - 8.0,
            y + 4.0
        );
    }
    for (at, load) in loads.iter().enumerate() {
        let x = scale.x(at, loads.len());
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{load}×</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">offered, as a multiple of what can be \
         served</text>",
        scale.left + WIDTH / 2.0,
        bottom + 36.0
    );
    for ((series, colour), dashes) in series.iter().zip(COLOURS).zip(DASHES) {
        let points: Vec<(f64, f64)> = series
            .values
            .iter()
            .enumerate()
            // A load without served requests has no point.
            .filter(|(_, value)| !value.is_nan())
            .map(|(at, &value)| (scale.x(at, loads.len()), scale.y(value)))
            .collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/>",
            line.join(" ")
        );
        for (x, y) in points {
            let _ =
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
    }
}
