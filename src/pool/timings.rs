//! How long jobs waited and ran: the clock, what is measured, and [`Pool::timings`].
//!
//! A reading of the clock takes some 25 ns, as long as a tiny job. So not each job is measured. A
//! [`Sampler`] decides at the first poll of a job, and at each grant of a slot in the wait list. Workers
//! own one each; the limiter has two under its state lock.
//!
//! * While events come slowly, each one is measured, with weight 1.
//! * While sixteen come within 160 µs, one in sixteen is measured, with weight 16. While they come within
//!   80 µs, it is one in 64, with weight 64. Which one of each such window it is, is drawn at random.
//!
//! The pace of past events chooses between the two, never the event itself. So sums over weights estimate
//! sums over all events without a bias. Test: `a_sample_stands_for_its_window`.
//!
//! A measured job that is suspended has its start in the entry of its shard's `suspended`, and the bit
//! `MEASURED` in its header. The worker that sees the end reads the clock again, and the histogram of
//! that shard counts the run under the shard's lock. So no lock and no shared line is added.
//!
//! A [`Moment`] is a number, so that an entry of `suspended` takes two words.

use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::histogram::Histogram;
use crate::pool::Pool;
use crate::sync::{failpoint, without};

/// How many events one measurement may stand for: the sizes of windows, and the weights of samples.
pub(crate) const WINDOWS: [u32; 3] = [1, 16, 64];

/// The events after which the pace is looked at.
const PACE_OF: u32 = 16;

/// The times of so many events below which the second and the third of [`WINDOWS`] are used: two readings
/// per event would be more than one part in two hundred of the first.
const FAST: [Duration; 2] = [Duration::from_micros(160), Duration::from_micros(80)];

/// How long jobs waited and ran so far; from [`Pool::timings`].
///
/// # What is measured
///
/// While jobs start slowly, all are measured. While one worker starts sixteen within 160 µs, it measures one
/// of each sixteen, drawn at random, and counts that one sixteen times. Within 80 µs, it is one of each 64. So
/// counts, sums, means and quantiles stand for all jobs, and a [`max`](Histogram::max) is that of the measured
/// ones. The same holds for slots that pass to waiters.
///
/// Times follow tokio's clock, also where it is paused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Timings {
    /// From the submit until the slot: in the queue and in the wait list. A job that got its slot at once,
    /// runs in its caller or runs beyond the size counts as zero. Submits that never got a slot do not
    /// count.
    ///
    /// A slot that was reserved counts when it is handed out, whether a job comes or not.
    pub wait: Histogram,
    /// From the first poll of a job to its end: in the pool, in its caller and beyond the size. Jobs that
    /// ended without a poll do not count.
    pub run: Histogram,
}

impl Timings {
    /// Returns what came since `earlier`, an earlier result of the same pool. See
    /// [`Histogram::since`].
    pub fn since(&self, earlier: &Self) -> Self {
        Self { wait: self.wait.since(&earlier.wait), run: self.run.since(&earlier.run) }
    }
}

impl Pool {
    /// Returns how long jobs waited and ran since the pool was made.
    ///
    /// For a period, subtract an earlier look by [`Timings::since`]. So several readers do not disturb each
    /// other. A look copies 2.4 KB for each thread of the runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let second = Duration::from_secs(1);
    /// let pool = millpond::Pool::new(1);
    /// let first = pool.schedule(async move { tokio::time::sleep(second).await }).await?;
    /// // Waits for a second.
    /// let next = pool.schedule(async move { tokio::time::sleep(second).await }).await?;
    /// first.await?;
    /// next.await?;
    /// let timings = pool.timings();
    /// assert_eq!((timings.wait.count(), timings.run.count()), (2, 2));
    /// assert!(timings.wait.max() >= second);
    /// assert!(timings.run.sum() >= 2 * second);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "histogram")]
    #[doc(alias = "latency")]
    pub fn timings(&self) -> Timings {
        self.shared().limiter.timings()
    }
}

/// Reads tokio's clock, for a waiter that joins the wait list. A build for the ablations that reads no clock
/// has one moment for all.
#[inline]
pub(crate) fn now() -> Instant {
    static ONLY: OnceLock<Instant> = OnceLock::new();
    if without("clock stamp") { *ONLY.get_or_init(Instant::now) } else { Instant::now() }
}

/// A moment on the clock of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(
    /// Nanoseconds. Not zero, so that an `Option` has the same size.
    NonZeroU64,
);

impl Moment {
    /// Makes a moment of a number that [`get`](Self::get) returned. Zero is no moment.
    pub(crate) fn new(nanos: u64) -> Option<Self> {
        NonZeroU64::new(nanos).map(Self)
    }

    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    /// Returns the nanoseconds since an earlier moment, or zero if that was later.
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        self.get().saturating_sub(earlier.get())
    }
}

/// The clock of a pool, which follows tokio's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        // A runtime with a paused clock may be behind the thread that makes the pool.
        let now = Instant::now();
        Self { epoch: now.checked_sub(Duration::from_secs(24 * 3600)).unwrap_or(now) }
    }

    /// Reads the clock. Models have no time.
    #[inline(never)]
    pub(crate) fn now(&self) -> Moment {
        let has_none = cfg!(millpond_loom) || without("clock stamp");
        if has_none { Moment(NonZeroU64::MIN) } else { self.at(Instant::now()) }
    }

    pub(crate) fn at(&self, instant: Instant) -> Moment {
        let since = instant.saturating_duration_since(self.epoch);
        let nanos = since.as_secs().saturating_mul(1_000_000_000) + u64::from(since.subsec_nanos());
        Moment(NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN))
    }
}

/// Decides which events are measured.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Events up to the next one that is measured.
    until: u32,
    /// Events of this window behind that one.
    rest: u32,
    /// The size of this window: one of [`WINDOWS`].
    window: u32,
    /// Events since `began`.
    events: u32,
    /// The reading from which the pace is measured.
    began: Option<Moment>,
    random: u32,
}

impl Sampler {
    pub(crate) fn new() -> Self {
        Self { until: 1, rest: 0, window: 1, events: 0, began: None, random: 0x9E37_79B9 }
    }

    /// Counts an event. Returns whether it is measured: then [`take`](Self::take) follows.
    #[inline]
    pub(crate) fn is_due(&mut self) -> bool {
        if without("clock stamp") {
            return false;
        }
        self.until -= 1;
        self.until == 0
    }

    /// Takes the reading at an event that is measured. Returns its weight.
    #[cold]
    pub(crate) fn take(&mut self, now: Moment) -> u32 {
        let weight = self.window;
        self.events += weight;
        let began = *self.began.get_or_insert(now);
        if self.events >= PACE_OF {
            let took = now.nanos_since(began) / u64::from(self.events / PACE_OF);
            let fast = FAST.iter().filter(|limit| took < limit.as_nanos() as u64).count();
            self.window = if failpoint("each job is measured") { 1 } else { WINDOWS[fast] };
            (self.began, self.events) = (Some(now), 0);
        }
        // The events that are left of this window are represented already.
        let before = std::mem::take(&mut self.rest);
        self.until = before + if self.window == 1 { 1 } else { self.draw() };
        weight
    }

    /// Draws the place of the next measured event in its window.
    fn draw(&mut self) -> u32 {
        // Xorshift, by Marsaglia.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let place = self.random % self.window + 1;
        self.rest = self.window - place;
        place
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    /// Returns the weights of so many events that are `gap` nanoseconds apart.
    fn weights(sampler: &mut Sampler, start: u64, events: u64, gap: u64) -> Vec<u32> {
        let weight = |event: u64| match sampler.is_due() {
            true => sampler.take(Moment::new(start + event * gap).unwrap()),
            false => 0,
        };
        (0..events).map(weight).collect()
    }

    #[test]
    fn slow_events_are_measured_each() {
        let mut sampler = Sampler::new();
        assert!(weights(&mut sampler, 1, 1_000, 20_000).iter().all(|&weight| weight == 1));
    }

    #[test]
    fn a_sample_stands_for_its_window() {
        let mut sampler = Sampler::new();
        let weights = weights(&mut sampler, 1, 400_000, 300);
        let measured = weights.iter().filter(|&&weight| weight > 0).count();
        assert!(measured < 400_000 / 64 + 100, "{measured}");
        let sum: u32 = weights.iter().sum();
        assert!(sum.abs_diff(400_000) <= 64, "{sum}");
        // Each place of a window is drawn: a load that repeats itself is seen whole.
        let mut places = [0; 64];
        let fast = weights.iter().enumerate().filter(|(_, weight)| **weight == 64);
        fast.for_each(|(event, _)| places[event % 64] += 1);
        assert!(places.iter().all(|&count| (40..200).contains(&count)), "{places:?}");
    }

    #[test]
    fn samples_of_several_weights_stand_for_all_events() {
        for gap in [4_000, 7_000, 11_000] {
            let mut sampler = Sampler::new();
            let weights = weights(&mut sampler, 1, 100_000, gap);
            let sum: u32 = weights.iter().sum();
            assert!(sum.abs_diff(100_000) <= 64, "{gap}: {sum}");
        }
    }

    #[test]
    fn the_pace_decides_anew() {
        let mut sampler = Sampler::new();
        weights(&mut sampler, 1, 1_000, 300);
        let slow = weights(&mut sampler, 1_000_000, 300, 50_000);
        assert!(slow[..15].iter().any(|&weight| weight != 1), "a window ends as it began");
        assert!(slow[192..].iter().all(|&weight| weight == 1), "{slow:?}");
    }
}
