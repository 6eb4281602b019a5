//! After which time a service is stable behind a step of its load.
//!
//! What the few requests of some milliseconds tell is mostly chance. So the load makes several steps, and the
//! requests behind all of them are laid on top of each other, in windows by the time since the step. A window
//! tells two numbers: how many of its requests were served, and the median of their times.
//!
//! The later state tells what is usual: the same two numbers of as many requests, from windows that are drawn
//! at random, [`DRAWS`] times. So each service is compared with itself, and one that is restless by nature
//! has a wider range.

use crate::client::{Random, Seen};

/// The width of a window in seconds.
const WINDOW: f64 = 0.02;
const DRAWS: usize = 1_000;
/// A number is usual, too, that is beyond all draws by this part of their mean.
const SLACK: f64 = 0.05;

/// A part of the later state, or a moment behind several steps: served requests per second, and the median
/// of their times in seconds.
type Look = [f64; 2];

/// The requests of a scene by the time at which they were sent.
struct Sent<'a>(Vec<&'a Seen>);

impl Sent<'_> {
    /// Looks at the windows from these moments on, together.
    fn look(&self, starts: impl Iterator<Item = f64>) -> Look {
        let (mut took, mut seconds) = (Vec::new(), 0.0);
        for start in starts {
            let first = self.0.partition_point(|seen| seen.at < start);
            let here = self.0[first..].iter().take_while(|seen| seen.at < start + WINDOW);
            took.extend(here.filter(|seen| seen.served).map(|seen| seen.took));
            seconds += WINDOW;
        }
        took.sort_by(f64::total_cmp);
        let median = took.get(took.len() / 2).copied().unwrap_or(f64::INFINITY);
        [took.len() as f64 / seconds, median]
    }
}

/// Returns what is usual of a number, from and to.
fn usual(draws: &[Look], of: usize) -> [f64; 2] {
    let values = || draws.iter().map(|look| look[of]);
    let slack = SLACK * values().sum::<f64>() / draws.len() as f64;
    [values().fold(f64::MAX, f64::min) - slack, values().fold(0.0, f64::max) + slack]
}

/// Returns the ms after the steps from which on all windows are as usual. NaN if the last one is not, that
/// of `length` seconds behind the steps. The later state is between two moments.
pub fn stable_after(seen: &[Seen], steps: &[f64], length: f64, later: (f64, f64)) -> f64 {
    let mut sent = Sent(seen.iter().collect());
    sent.0.sort_by(|a, b| a.at.total_cmp(&b.at));
    let mut random = Random::new();
    let draws: Vec<Look> = (0..DRAWS)
        .map(|_| {
            let place = || later.0 + random.part() * (later.1 - WINDOW - later.0);
            sent.look(std::iter::repeat_with(place).take(steps.len()))
        })
        .collect();
    let ranges = [0, 1].map(|of| usual(&draws, of));
    let is_usual = |look: Look| {
        look.iter().zip(&ranges).all(|(number, range)| (range[0]..=range[1]).contains(number))
    };
    let windows = (length / WINDOW) as usize;
    let look = |window: usize| sent.look(steps.iter().map(|step| step + WINDOW * window as f64));
    match (0..windows).rev().find(|&window| !is_usual(look(window))) {
        None if windows > 0 => 0.0,
        Some(last) if last + 1 < windows => 1_000.0 * WINDOW * (last + 1) as f64,
        _ => f64::NAN,
    }
}
