//! Durations, counted in buckets of a fixed layout.
//!
//! The pool fills a [`Histogram`] per shard and one for its wait list, each under a lock that is held
//! anyway, and [`Pool::timings`](crate::Pool::timings) merges them. The layout is log-linear: eight buckets
//! for each power of two, as in HdrHistogram with one digit. Nothing is allocated before the first
//! duration, so a pool that runs no job pays nothing.
//!
//! What must never happen: two histograms with different layouts. All of them have the one below.

use std::fmt;
use std::time::Duration;

/// The width of the first buckets is `1 << UNIT_BITS` nanoseconds.
const UNIT_BITS: u32 = 7;
/// Each power of two has `1 << SPLIT_BITS` buckets.
const SPLIT_BITS: u32 = 3;
/// The powers of two that have buckets of their own: up to 39 hours.
const OCTAVES: usize = 37;
const BUCKETS: usize = (OCTAVES + 1) << SPLIT_BITS;

/// How often which durations occurred.
///
/// The buckets are fixed, so histograms of several pools, threads or moments can be merged and
/// subtracted. From 1 µs to 39 hours a bucket is at most an eighth wide, and a quantile is at most 6.3 %
/// from the truth. Below 1 µs buckets are 128 ns wide. Sums and means are exact.
///
/// A histogram takes 2.4 KB, and nothing while it is empty.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use millpond::Histogram;
///
/// let mut durations = Histogram::new();
/// (1..=100).for_each(|ms| durations.record(Duration::from_millis(ms)));
/// let before = durations.clone();
/// durations.record(Duration::from_secs(2));
///
/// assert_eq!(durations.count(), 101);
/// assert_eq!(durations.max(), Duration::from_secs(2));
/// assert!(durations.p50().abs_diff(Duration::from_millis(50)) < Duration::from_millis(4));
/// // What came between two looks:
/// assert_eq!(durations.since(&before).count(), 1);
/// ```
#[derive(Clone, Default)]
pub struct Histogram {
    /// Empty, or `BUCKETS` long.
    counts: Vec<u64>,
    count: u64,
    /// Nanoseconds.
    sum: u64,
    /// Nanoseconds.
    max: u64,
}

/// Returns the bucket of a duration.
fn bucket_of(nanos: u64) -> usize {
    let units = nanos >> UNIT_BITS;
    let octave = (units | 1).ilog2().saturating_sub(SPLIT_BITS);
    let bucket = ((octave as usize) << SPLIT_BITS) + (units >> octave) as usize;
    bucket.min(BUCKETS - 1)
}

/// Returns the first duration of a bucket, in nanoseconds. Bucket `BUCKETS` ends the last one.
fn start_of(bucket: usize) -> u64 {
    let octave = (bucket >> SPLIT_BITS).saturating_sub(1);
    ((bucket - (octave << SPLIT_BITS)) as u64) << octave << UNIT_BITS
}

impl Histogram {
    /// Makes an empty histogram.
    pub const fn new() -> Self {
        Self { counts: Vec::new(), count: 0, sum: 0, max: 0 }
    }

    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        self.record_n(duration, 1);
    }

    /// Counts a duration `times` times.
    pub fn record_n(&mut self, duration: Duration, times: u64) {
        self.record_nanos(nanos(duration), times);
    }

    pub(crate) fn record_nanos(&mut self, nanos: u64, times: u64) {
        if times == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        let bucket = bucket_of(nanos);
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
        self.count = self.count.saturating_add(times);
        self.sum = self.sum.saturating_add(nanos.saturating_mul(times));
        self.max = self.max.max(nanos);
    }

    /// Adds what another histogram has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            let pairs = self.counts.iter_mut().zip(&other.counts);
            pairs.for_each(|(own, other)| *own = own.saturating_add(*other));
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Returns what was counted since `earlier`, an earlier clone of this histogram.
    ///
    /// The result's [`max`](Self::max) is exact if it is a new maximum, and otherwise the end of the
    /// highest bucket that has grown. Any other histogram in place of an earlier clone gives no error
    /// and no meaning.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts.clone();
        counts.iter_mut().zip(&earlier.counts).for_each(|(own, other)| {
            *own = own.saturating_sub(*other);
        });
        let highest = counts.iter().rposition(|&count| count > 0);
        let max = match highest {
            Some(_) if self.max > earlier.max => self.max,
            Some(bucket) => (start_of(bucket + 1) - 1).min(self.max),
            None => 0,
        };
        let count = self.count.saturating_sub(earlier.count);
        Self { counts, count, sum: self.sum.saturating_sub(earlier.sum), max }
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the sum of all durations. It ends at 584 years.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// Returns the longest duration, or zero if nothing was counted.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// Returns the mean, or zero if nothing was counted.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum.checked_div(self.count).unwrap_or(0))
    }

    /// Returns the duration below which the part `q` of all durations lies, from 0 to 1. Zero if nothing
    /// was counted.
    ///
    /// The result is the middle of a bucket, and at most [`max`](Self::max). A `q` outside of the range
    /// counts as the nearer end of it.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0u64;
        let bucket = self.counts.iter().position(|&count| {
            below = below.saturating_add(count);
            below >= rank
        });
        let nanos = match bucket {
            // Most of these are zero.
            Some(0) | None => 0,
            // The last bucket has no end.
            Some(bucket) if bucket == BUCKETS - 1 => self.max,
            Some(bucket) => start_of(bucket).midpoint(start_of(bucket + 1)),
        };
        Duration::from_nanos(nanos.min(self.max))
    }

    /// Returns the median.
    pub fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    /// Returns the duration that one in a hundred exceeds.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// Returns the buckets that have counted something, the shortest durations first: where each ends,
    /// and its count.
    ///
    /// A bucket has the durations below its end. The last possible one also has all that are longer than
    /// 39 hours, and ends at [`Duration::MAX`].
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        filled.map(|(bucket, &count)| {
            let is_last = bucket == BUCKETS - 1;
            let end = Duration::from_nanos(start_of(bucket + 1));
            (if is_last { Duration::MAX } else { end }, count)
        })
    }
}

/// Returns the nanoseconds of a duration, at most those of 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        // Without memory or with zeros: both are empty.
        (self.count, self.sum, self.max) == (other.count, other.sum, other.max)
            && self.buckets().eq(other.buckets())
    }
}

impl Eq for Histogram {}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("mean", &self.mean())
            .field("p50", &self.p50())
            .field("p99", &self.p99())
            .field("max", &self.max())
            .finish()
    }
}

/// The form of numbers in text: durations are seconds, as Prometheus has them. `buckets` has the pairs of
/// [`Histogram::buckets`]; the end of a last one without end is `null` in JSON.
#[cfg(feature = "serde")]
impl serde::Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let end_of = |end: Duration| {
            if end == Duration::MAX { f64::INFINITY } else { end.as_secs_f64() }
        };
        let buckets: Vec<_> = self.buckets().map(|(end, count)| (end_of(end), count)).collect();
        let mut fields = serializer.serialize_struct("Histogram", 6)?;
        fields.serialize_field("count", &self.count)?;
        fields.serialize_field("sum", &self.sum().as_secs_f64())?;
        fields.serialize_field("max", &self.max().as_secs_f64())?;
        fields.serialize_field("p50", &self.p50().as_secs_f64())?;
        fields.serialize_field("p99", &self.p99().as_secs_f64())?;
        fields.serialize_field("buckets", &buckets)?;
        fields.end()
    }
}

/// Serializes a duration as seconds.
#[cfg(feature = "serde")]
pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Serializes a duration as seconds, if there is one.
#[cfg(feature = "serde")]
pub(crate) fn some_seconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&duration.map(|duration| duration.as_secs_f64()), serializer)
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HIGHEST: u64 = 1 << 47;

    #[test]
    fn buckets_follow_each_other() {
        for bucket in 0..BUCKETS {
            let (start, end) = (start_of(bucket), start_of(bucket + 1));
            assert!(start < end, "{bucket}");
            assert_eq!((bucket_of(start), bucket_of(end - 1)), (bucket, bucket));
            assert!(start < 1_024 || (end - start) * 8 <= start, "{bucket} is too wide");
        }
        assert_eq!((start_of(0), start_of(BUCKETS)), (0, HIGHEST));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_one_has_zeros() {
        let empty = Histogram::new();
        assert_eq!((empty.count(), empty.sum(), empty.max()), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!((empty.mean(), empty.p99()), (Duration::ZERO, Duration::ZERO));
        assert_eq!(empty.buckets().count(), 0);
        let mut zeros = Histogram::new();
        zeros.record_n(Duration::ZERO, 0);
        assert_eq!(zeros, empty);
        zeros.record_n(Duration::ZERO, 5);
        assert_eq!((zeros.count(), zeros.p99()), (5, Duration::ZERO));
        assert_eq!(zeros.since(&zeros), empty);
    }

    #[test]
    fn what_is_too_long_is_counted_in_the_last_bucket() {
        let mut all = Histogram::new();
        all.record(Duration::MAX);
        assert_eq!(all.max(), Duration::from_nanos(u64::MAX));
        assert_eq!(all.buckets().collect::<Vec<_>>(), [(Duration::MAX, 1)]);
        assert_eq!(all.p50(), all.max());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn the_text_has_seconds() {
        let mut all = Histogram::new();
        all.record_n(Duration::from_millis(1_500), 2);
        let text = serde_json::to_value(&all).unwrap();
        assert_eq!((text["count"].as_u64(), text["sum"].as_f64()), (Some(2), Some(3.0)));
        assert_eq!(text["max"], 1.5);
        assert_eq!(text["buckets"][0][1], 2);
    }

    /// Durations over the whole range, each power of two as often.
    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let duration = (0u32..47, 0u64..=u64::MAX).prop_map(|(bits, random)| random >> (63 - bits));
        prop::collection::vec(duration, 1..300)
    }

    fn of(nanos: &[u64]) -> Histogram {
        let mut all = Histogram::new();
        nanos.iter().for_each(|&nanos| all.record(Duration::from_nanos(nanos)));
        all
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list(mut list in durations(), q in 0.0..=1.0f64) {
            let all = of(&list);
            list.sort_unstable();
            let rank = ((q * list.len() as f64).ceil() as usize).max(1);
            let (exact, found) = (list[rank - 1], all.quantile(q).as_nanos() as u64);
            let error = found.abs_diff(exact);
            prop_assert!(error <= 128.max(exact / 16), "{found} for {exact}");
            prop_assert_eq!(all.count(), list.len() as u64);
            prop_assert_eq!(all.sum().as_nanos() as u64, list.iter().sum::<u64>());
            prop_assert_eq!(all.max().as_nanos() as u64, list[list.len() - 1]);
            prop_assert_eq!(all.buckets().map(|(_, count)| count).sum::<u64>(), all.count());
        }

        #[test]
        fn a_merge_is_the_whole_and_a_difference_is_the_part(
            first in durations(),
            second in durations(),
        ) {
            let whole = of(&[&first[..], &second[..]].concat());
            let (first, second) = (of(&first), of(&second));
            let mut merged = first.clone();
            merged.merge(&second);
            prop_assert_eq!(&merged, &whole);
            let part = merged.since(&first);
            prop_assert!(part.buckets().eq(second.buckets()));
            prop_assert_eq!((part.count(), part.sum()), (second.count(), second.sum()));
            // The maximum is not known exactly, and never too low.
            prop_assert!(part.max() >= second.max());
            prop_assert!(part.max().as_nanos() <= second.max().as_nanos() * 9 / 8 + 128);
        }
    }
}
