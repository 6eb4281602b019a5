//! The picture of `processes`: messages a second over the number of processes, a line for each broker.

use std::fmt::Write as _;

/// A point: processes, then the lowest, the median and the highest messages a second.
pub type Point = (u32, [f64; 3]);

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
/// The frame of the curves.
const LEFT: f64 = 70.0;
const TOP: f64 = 46.0;
const RIGHT: f64 = WIDTH - 90.0;
const BOTTOM: f64 = HEIGHT - 46.0;
/// Readable on white and on black.
const COLORS: [&str; 2] = ["#d1662e", "#2f7fc1"];
const GRAY: &str = "#808080";

pub fn draw(lines: &[(&str, Vec<Point>)], rounds: usize) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let most = points().map(|(_, rates)| rates[2]).fold(1.0, f64::max);
    let step = 10f64.powf((most / 2.0).log10().floor());
    let step = if most / step > 6.0 { 2.0 * step } else { step };
    let top = (most / step).ceil() * step;
    let counts: Vec<u32> = lines
        .first()
        .map_or(Vec::new(), |(_, points)| points.iter().map(|(count, _)| *count).collect());
    let widest = f64::from(counts.iter().copied().max().unwrap_or(1));
    let x = |count: u32| LEFT + 20.0 + (RIGHT - LEFT - 40.0) * f64::from(count) / widest;
    let y = |rate: f64| BOTTOM - (BOTTOM - TOP) * rate / top;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"{GRAY}\">\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">messages/s on one stream: \
         median of {rounds}, lowest to highest</text>\n"
    );
    let mut rate = 0.0;
    while rate <= top {
        let at = y(rate);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{GRAY}\" \
             stroke-opacity=\"0.3\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            LEFT - 8.0,
            at + 4.0,
            rate
        );
        rate += step;
    }
    for count in counts {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
            x(count),
            BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">processes, on the broker's two cores</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 36.0
    );
    for ((name, points), color) in lines.iter().zip(COLORS) {
        let curve: Vec<_> = points
            .iter()
            .map(|(count, rates)| format!("{:.1},{:.1}", x(*count), y(rates[1])))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            curve.join(" ")
        );
        for (count, [low, median, high]) in points {
            let _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"{color}\"/>\
                 <circle cx=\"{0:.1}\" cy=\"{3:.1}\" r=\"3.5\" fill=\"{color}\"/>",
                x(*count),
                y(*low),
                y(*high),
                y(*median)
            );
        }
        if let Some((count, rates)) = points.last() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{name}</text>",
                x(*count) + 10.0,
                y(rates[1]) + 4.0
            );
        }
    }
    svg + "</svg>\n"
}
