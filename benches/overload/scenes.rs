//! The scenes: which load comes, and what is read from the requests' ends.

use crate::client::{PATIENCE, Seen, Stream, drive_from_afar};
use crate::process::Server;
use crate::servers::{ARMS, CONNECTIONS, WORK};
use crate::stable::stable_after;

/// The offered load of the steps, as multiples of the capacity.
pub const LOADS: [f64; 6] = [0.5, 1.0, 1.4, 2.0, 5.0, 10.0];

/// The steps of the load behind the first one.
const SHORT_STEPS: u32 = 9;

/// What the database can do, in requests per second.
pub fn capacity() -> f64 {
    CONNECTIONS as f64 / WORK.as_secs_f64()
}

pub struct Scene {
    pub name: &'static str,
    /// What stands above the table.
    pub text: &'static str,
    pub columns: &'static [&'static str],
    /// Measures an arm, in times that are multiplied by the scale. Returns a value for each column.
    pub run: fn(arm: usize, scale: f64) -> Vec<f64>,
}

pub const SCENES: [Scene; 4] = [
    Scene {
        name: "step",
        text: "The load steps from 0.5 to 1.4 of the capacity. Stable: from when on a service is as it is later on.\n\
               For that, ten steps are laid on top of each other, in windows of 20 ms by the time since the\n\
               step. What counts is how many requests are served, and the median of their times. Usual is what\n\
               a thousand random draws of as many windows of the later state have, and 5 % more. `–`: not in\n\
               500 ms. A service that is late for all clients is stable, too: the columns before tell.\n\
               \n\
               At 1.4 of the capacity a line grows by 0.4 ms in each ms, so a wait of 8 ms takes 20 ms to come\n\
               about. A law that lets a longer line form is stable later, or refuses first what it could serve.",
        columns: &[
            "before, served/s",
            "first second, served/s",
            "first second, p99",
            "later, served/s",
            "later, p99",
            "stable after, ms",
        ],
        run: step,
    },
    Scene {
        name: "slow",
        text: "A load of 0.8; the service time doubles for ten seconds. Back: the time until a window of 100 ms has\n\
               90 % of what is offered.",
        columns: &[
            "before, served/s",
            "slow, served/s",
            "slow, p99",
            "after, served/s",
            "back after, ms",
        ],
        run: slow,
    },
    Scene {
        name: "spike",
        text: "A load of 0.45 of the class `high` and 0.2 of the class `low`; then `low` sends twelve times as much.\n\
               Arms without classes do not know which is which.",
        columns: &["high, answered %", "high, p99", "low, served/s", "all, % of the capacity"],
        run: spike,
    },
    Scene {
        name: "tenants",
        text: "A thousand tenants, together a load of 0.9; then one of them sends a hundred times as much. Arms\n\
               without keys do not know the tenants.",
        columns: &[
            "quiet day, others' p99",
            "flood, others' p99",
            "ratio",
            "others, answered %",
            "the one, answered %",
        ],
        run: tenants,
    },
];

/// The requests of a scene, or a part of them.
struct Part<'a> {
    seen: Vec<&'a Seen>,
    seconds: f64,
}

impl<'a> Part<'a> {
    /// Those that were sent between two moments.
    fn of(seen: &'a [Seen], from: f64, to: f64) -> Self {
        let seen = seen.iter().filter(|seen| (from..to).contains(&seen.at)).collect();
        Self { seen, seconds: to - from }
    }

    fn only(mut self, is_one: impl Fn(&Seen) -> bool) -> Self {
        self.seen.retain(|seen| is_one(seen));
        self
    }

    fn served(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().copied().filter(|seen| seen.served)
    }

    fn goodput(&self) -> f64 {
        self.served().count() as f64 / self.seconds
    }

    fn answered(&self) -> f64 {
        100.0 * self.served().count() as f64 / self.seen.len().max(1) as f64
    }

    /// The p99 of the served requests in ms; NaN if hardly any request was served.
    fn p99(&self) -> f64 {
        let mut took: Vec<f64> = self.served().map(|seen| 1_000.0 * seen.took).collect();
        if took.len() < 5 || self.goodput() < 0.01 * capacity() {
            return f64::NAN;
        }
        took.sort_by(f64::total_cmp);
        took[took.len() * 99 / 100]
    }
}

/// Returns the ends of the windows of 100 ms between two moments, in ms after the first, and whether the
/// window has so many ends of served requests per second.
fn windows(seen: &[Seen], from: f64, to: f64, rate: f64) -> Vec<(f64, bool)> {
    const WINDOW: f64 = 0.1;
    let mut ends: Vec<f64> =
        seen.iter().filter(|seen| seen.served).map(|seen| seen.at + seen.took).collect();
    ends.sort_by(f64::total_cmp);
    let before = |moment: f64| ends.partition_point(|&end| end < moment);
    let count = ((to - from - WINDOW) / 0.02).max(0.0) as usize;
    let starts = (0..count).map(|at| from + 0.02 * at as f64);
    let full = |start: f64| (before(start + WINDOW) - before(start)) as f64 >= rate * WINDOW;
    starts.map(|start| (1_000.0 * (start + WINDOW - from), full(start))).collect()
}

/// Loads a new server of an arm.
fn load(arm: usize, streams: &[Stream], takes: &[(f64, u64)]) -> Vec<Seen> {
    drive_from_afar(&Server::start(ARMS[arm]), streams, takes)
}

/// Returns goodput, p99 and the memory of the server, at one of the loads.
pub fn steady(arm: usize, times: f64, scale: f64) -> [f64; 3] {
    let server = Server::start(ARMS[arm]);
    // The first part warms up and fills the queues.
    let [warm, end] = [0.4, 2.2].map(|seconds| seconds * scale);
    let seen = drive_from_afar(&server, &[Stream::new(times * capacity(), 0.0, end)], &[]);
    let part = Part::of(&seen, warm, end);
    [part.goodput(), part.p99(), server.peak_memory()]
}

fn step(arm: usize, scale: f64) -> Vec<f64> {
    // The first step is long. The short ones tell more of what follows a step. A request that is sent at the
    // end of a phase finds the load of the next one, so the end of a phase tells nothing.
    let [at, first, end] = [1.0, 2.0, 4.0].map(|seconds| seconds * scale);
    let [low, high, looked_at] = [0.4, 0.7, 0.5].map(|seconds| seconds * scale);
    let short = (0..SHORT_STEPS).map(|step| end + low + (low + high) * f64::from(step));
    let steps: Vec<f64> = std::iter::once(at).chain(short).collect();
    let (mut streams, mut from) = (Vec::new(), 0.0);
    for &step in &steps {
        let to = if step == at { end } else { step + high };
        streams.push(Stream::new(0.5 * capacity(), from, step));
        streams.push(Stream::new(1.4 * capacity(), step, to));
        from = to;
    }
    let seen = load(arm, &streams, &[]);
    let [before, soon, later] =
        [(0.0, at), (at, first), (first, end)].map(|(from, to)| Part::of(&seen, from, to));
    let stable = stable_after(&seen, &steps, looked_at, (first, end));
    vec![before.goodput(), soon.goodput(), soon.p99(), later.goodput(), later.p99(), stable]
}

fn slow(arm: usize, scale: f64) -> Vec<f64> {
    let ms = WORK.as_millis() as u64;
    let [from, to, end] = [1.0, 11.0, 12.0].map(|seconds| seconds * scale);
    let rate = 0.8 * capacity();
    let seen = load(arm, &[Stream::new(rate, 0.0, end)], &[(from, 2 * ms), (to, ms)]);
    let [before, during, after] =
        [(0.0, from), (from, to), (to, end)].map(|(from, to)| Part::of(&seen, from, to));
    let windows = windows(&seen, to, end, 0.9 * rate);
    let back = windows.iter().find(|(_, full)| *full).map_or(f64::NAN, |(end, _)| *end);
    vec![before.goodput(), during.goodput(), during.p99(), after.goodput(), back]
}

fn spike(arm: usize, scale: f64) -> Vec<f64> {
    let of =
        |class, times: f64, from, to| Stream { class, ..Stream::new(times * capacity(), from, to) };
    let [at, end] = [1.0, 4.5].map(|seconds| seconds * scale);
    let streams =
        [of("high", 0.45, 0.0, end), of("low", 0.2, 0.0, at), of("low", 12.0 * 0.2, at, end)];
    let seen = load(arm, &streams, &[]);
    let part = |class: &'static str| Part::of(&seen, at, end).only(move |seen| seen.class == class);
    let (high, low) = (part("high"), part("low"));
    let all = 100.0 * (high.goodput() + low.goodput()) / capacity();
    vec![high.answered(), high.p99(), low.goodput(), all]
}

fn tenants(arm: usize, scale: f64) -> Vec<f64> {
    const TENANTS: u64 = 1_000;
    let end = 4.5 * scale;
    let of = |times: f64, tenants| Stream {
        tenants: Some(tenants),
        ..Stream::new(times * capacity(), 0.0, end)
    };
    let others = of(0.9, (1, TENANTS));
    let quiet = load(arm, std::slice::from_ref(&others), &[]);
    let flood = load(arm, &[others, of(100.0 * 0.9 / TENANTS as f64, (0, 1))], &[]);
    let part =
        |seen, is_one| Part::of(seen, 0.0, end).only(move |seen| (seen.tenant == 0) == is_one);
    let (before, after, one) = (part(&quiet, false), part(&flood, false), part(&flood, true));
    let ratio = after.p99() / before.p99();
    vec![before.p99(), after.p99(), ratio, after.answered(), one.answered()]
}

/// A client's patience in ms.
pub fn patience() -> f64 {
    PATIENCE.as_secs_f64() * 1_000.0
}
