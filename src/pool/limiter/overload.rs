//! Overload: when the line is too long for too long, and which callers are refused then.
//!
//! A line that forms and empties again comes from a spike, and waiting is the right answer. A line that never
//! empties only makes each caller wait longer, until no caller has the patience left. [`Overload`] tells
//! the two apart like CoDel (Nichols and Jacobson, 2012), which folly uses for queues of requests: at each
//! turn the age of the oldest waiter is looked at. If that stays above the target for an interval, the line
//! never became short, and the limiter is overloaded. It is so until the line is empty, or has been short for
//! an interval in which no caller was refused.
//!
//! While it is:
//!
//! 1. **New callers are refused at once.** A caller whose expected wait is [`SLACK`] targets is not let in. The
//!    refusal says when the line will be gone.
//! 2. **What waits too long is refused**: the oldest callers of each priority, once they waited for
//!    `SLACK` targets or the line is longer than that. So the line has the length at once at which new
//!    callers are let in again, and does not run empty in between (O2).
//! 3. **The newest goes first** (adaptive LIFO, as in HHVM): a caller that came just now still has its
//!    patience, the oldest has lost it.
//!
//! New callers are refused before the limiter is overloaded, too. A caller that would still wait when the line
//! makes it so, a target and an interval from now, is refused at once. So a great step of the load does not fill
//! the line with callers that are refused late. Callers that are served in that time are let in. A line of
//! which no waiter has waited for a part of the target ([`STANDS`]) proves nothing: the gap may be that of
//! slower jobs.
//!
//! The expected wait of a caller is that of its priority. The higher ones take a share of the turns, and their
//! callers that come later go before it as well. So the waiters before it are served by the rest of the turns
//! (Cobham, 1954), or those of its own priority by the turns that each priority has at least (`turns`), if that
//! is sooner. Where the higher priorities take all, a lower one is refused at once but for that part. This is the
//! quantile of the recent arrivals that DAGOR and Breakwater look for, from the turns instead of the
//! arrivals: the classes are let in from the top down until the turns are used up. Where the higher
//! ones leave turns, the lower one has them at once.
//!
//! Where callers have keys (`fair`), each of these looks at the caller's own key. The waiters before it are
//! those whose turn comes before that of its key. So a key with a long line is refused, and one with a short line
//! is not. The newest caller of the key whose turn it is goes first.
//!
//! Callers alone are refused. A job that was handed over keeps its promise: a queued job, and a committed
//! one, always get their slot. [`TargetWait`] decides which callers: those of a layer's
//! `schedule_within`, all, or none.
//!
//! The pool measures how fast it serves: [`Overload::gap`] is the mean time between two turns while the
//! line is not empty, which is the mean time of a job, divided by the slots. So an estimate of a wait is
//! the length of the line times the gap, and the time of a job is the gap times the size.
//!
//! All of this happens under the state lock, at turns and when a caller joins the line. A line without a
//! caller that may be refused is not measured, and looks at no clock.
//!
//! # Invariants
//!
//! * **O1, promises.** No job in the wait list is refused. Test: `a_committed_job_is_never_shed`.
//! * **O2, work-conserving.** A turn refuses a waiter only if another one gets the slot, or the slot lies
//!   free for the next arrival. No new caller is refused while a slot is free. Tests:
//!   `overload_keeps_the_pool_busy`.
//! * **O3, priorities.** A caller is refused for the waiters of its own priority and above alone, and the
//!   first one of each priority is let in. Tests: `a_spike_of_the_low_class_costs_the_high_one_nothing`,
//!   `a_spike_of_the_low_class_leaves_it_the_rest`, `what_is_served_is_above_a_quantile`,
//!   `no_class_starves_under_overload`.
//! * **O4, keys.** A caller is not refused for the waiters of other keys beyond its turn. Test:
//!   `a_flood_is_refused_and_the_others_are_not`.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::SubmitErrorKind;
use crate::pool::limiter::deferred_wakes::DeferredWakes;
use crate::pool::limiter::shard::ShardId;
use crate::pool::limiter::state::{State, StateGuard};
use crate::pool::limiter::turns::PASSES;
use crate::pool::limiter::wait_list::{Ahead, List, Waiter, WaiterKey, WaiterState};
use crate::pool::options::{PRIORITIES, Requirements};
use crate::sync::failpoint;

/// Which callers may be refused under overload, and after which wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetWait {
    /// Those of a layer's `schedule_within`; the target is the time of a job, as the pool measures it.
    Measured,
    /// All callers.
    Fixed(Duration),
    /// None.
    Never,
}

/// A longer target is this one: no caller waits for a year, and a clock can tell a few of them.
const LONGEST_TARGET: Duration = Duration::from_secs(365 * 24 * 3600);

/// The bounds of a measured target.
const TARGETS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A caller waits for so many targets at most while the limiter is overloaded.
const SLACK: u32 = 2;

/// The length of an interval, in targets.
const INTERVAL: u32 = 2;

/// A line stands when its oldest waiter has waited for this part of a target.
const STANDS: u32 = 4;

/// The mean gap is that of so many turns, and so is the share of the higher priorities.
const MEAN_OF: u32 = 64;

/// What the turns of a limiter say about its load.
pub(super) struct Overload {
    target: TargetWait,
    is_overloaded: bool,
    /// When the oldest waiter was above the target for an interval. `None` while it is not above.
    due: Option<Instant>,
    /// When a caller was refused last.
    last_refusal: Option<Instant>,
    /// The last turn, unless [`stop`](Self::stop) came since.
    last_turn: Option<Instant>,
    /// The mean time between two turns, in seconds: a moving average. Zero before the second turn.
    gap: f64,
    /// How many measurements are in `gap`, at most `MEAN_OF`.
    gaps: u32,
    /// The share of the turns that went to higher priorities, for each priority: a moving average.
    higher: [f64; PRIORITIES],
}

impl Overload {
    pub(super) fn new(target: TargetWait) -> Self {
        Self {
            target,
            is_overloaded: false,
            due: None,
            last_refusal: None,
            last_turn: None,
            gap: 0.0,
            gaps: 0,
            higher: [0.0; PRIORITIES],
        }
    }

    /// Returns the wait that the pool aims for, or `None` if nothing is refused.
    fn target(&self, size: usize) -> Option<Duration> {
        match self.target {
            TargetWait::Never => None,
            TargetWait::Fixed(target) => Some(target.min(LONGEST_TARGET)),
            TargetWait::Measured => {
                let job = Duration::try_from_secs_f64(self.gap * size as f64);
                Some(job.unwrap_or(Duration::MAX).clamp(TARGETS.0, TARGETS.1))
            }
        }
    }

    /// Whether a caller with these requirements may be refused.
    fn may_shed(&self, requirements: &Requirements) -> bool {
        match self.target {
            TargetWait::Measured => requirements.is_request,
            TargetWait::Fixed(_) => true,
            TargetWait::Never => false,
        }
    }

    /// Notes that a slot is about to pass to a waiter. `age` is that of the oldest one.
    fn note_turn(&mut self, now: Instant, age: Duration, size: usize) {
        if let Some(last) = self.last_turn.replace(now) {
            let gap = now.duration_since(last).as_secs_f64();
            // Turns come in groups, so the mean is one of many.
            self.gaps = (self.gaps + 1).min(MEAN_OF);
            self.gap += (gap - self.gap) / f64::from(self.gaps);
        }
        let Some(target) = self.target(size) else { return };
        if age <= target {
            self.due = None;
            // A line that refusals keep short says nothing.
            self.is_overloaded &= self.last_refusal.is_some_and(|at| now < at + target * INTERVAL);
        } else if now >= *self.due.get_or_insert(now + target * INTERVAL) {
            self.is_overloaded = !failpoint("never overloaded");
        }
    }

    /// Notes that nothing is to be measured: no caller that may be refused waits, or the limiter is paused.
    /// The time until the next turn is then no gap.
    fn stop(&mut self) {
        if self.last_turn.is_some() && !failpoint("an idle time is a gap") {
            *self = Self { gap: self.gap, gaps: self.gaps, ..Self::new(self.target) };
        }
    }

    /// Notes the priority of the waiter that has a turn.
    fn note_class(&mut self, class: usize) {
        for (lower, share) in self.higher.iter_mut().enumerate() {
            *share += (f64::from(u8::from(class > lower)) - *share) / f64::from(MEAN_OF);
        }
    }

    /// Returns how long a line of so many waiters takes.
    fn estimate(&self, waiters: usize) -> Duration {
        self.gaps(waiters as f64)
    }

    /// Returns how long a waiter behind these waits.
    fn estimate_behind(&self, ahead: Ahead) -> Duration {
        let Ahead { class, own, higher } = ahead;
        let ignores_higher = failpoint("higher classes take no turns");
        let rest = if ignores_higher { 1.0 } else { 1.0 - self.higher[class] };
        let in_turn = (own + higher) as f64 / rest.max(f64::EPSILON);
        let by_share = own as f64 * f64::from(PASSES + 1);
        let by_share = if failpoint("a class has no share") { f64::MAX } else { by_share };
        self.gaps(in_turn.min(by_share))
    }

    fn gaps(&self, turns: f64) -> Duration {
        Duration::try_from_secs_f64(self.gap * turns).unwrap_or(Duration::MAX)
    }
}

impl State {
    /// Returns why a caller with these requirements is not let into the line, if it is not: the caller would
    /// wait too long.
    #[inline]
    pub(super) fn shed_new(&mut self, requirements: &Requirements) -> Option<SubmitErrorKind> {
        if self.overload.may_shed(requirements) { self.shed_if_long(requirements) } else { None }
    }

    #[inline(never)]
    fn shed_if_long(&mut self, requirements: &Requirements) -> Option<SubmitErrorKind> {
        let (overload, target) = (&self.overload, self.overload.target(self.size)?);
        let limit = target * if overload.is_overloaded { SLACK } else { 1 + INTERVAL };
        let wait = overload.estimate_behind(self.wait_list.ahead_of(requirements));
        if wait < limit || failpoint("new callers are let in") {
            return None;
        }
        let now = Instant::now();
        let stands = |since| now.duration_since(since) >= target / STANDS;
        let is_known = if overload.is_overloaded {
            true
        } else if failpoint("new callers wait for the verdict") {
            false
        } else {
            failpoint("a line is long at once")
                || self.wait_list.oldest_in_main().is_some_and(stands)
        };
        is_known.then(|| self.shed(now, target * SLACK))
    }

    /// Returns the refusal for now. The line is not served for longer than `limit`.
    fn shed(&mut self, now: Instant, limit: Duration) -> SubmitErrorKind {
        self.overload.last_refusal = Some(now);
        let line = self.overload.estimate(self.wait_list.main_len());
        SubmitErrorKind::Shed { retry_after: line.min(limit) }
    }

    /// Returns how long a caller that joins the line now will wait.
    pub(super) fn expected_wait(&self) -> Duration {
        self.overload.estimate_behind(self.wait_list.ahead_of(&Requirements::default()))
    }
}

impl StateGuard<'_> {
    /// Returns the waiter that gets a slot that has just become free. Refuses those that waited too long.
    pub(super) fn next_to_serve(
        &mut self,
        shard_id: ShardId,
        deferred: &mut DeferredWakes,
    ) -> Option<WaiterKey> {
        if self.wait_list.head(List::Resuming).is_some() {
            return self.first_to_serve();
        }
        // Feeders that set no target pay nothing.
        let may_refuse = match self.overload.target {
            TargetWait::Measured => self.wait_list.requests() > 0,
            TargetWait::Fixed(_) => true,
            TargetWait::Never => false,
        };
        let measures = may_refuse && !self.paused;
        let Some(oldest) = measures.then(|| self.wait_list.oldest_in_main()).flatten() else {
            self.overload.stop();
            return self.first_to_serve();
        };
        let (now, size) = (Instant::now(), self.size);
        self.overload.note_turn(now, now.duration_since(oldest), size);
        let next = if self.overload.is_overloaded {
            self.shed_late_ones(shard_id, now, deferred);
            let newest = self.wait_list.newest().filter(|&key| {
                self.may_shed(key) && !failpoint("the oldest goes first under overload")
            });
            newest.or_else(|| self.first_to_serve())
        } else {
            self.first_to_serve()
        };
        if let Some(key) = next {
            let class = self.wait_list.node(key).requirements.class();
            self.overload.note_class(class);
        }
        next
    }

    /// Refuses the callers that waited too long, and those that stand in too long a line: from the lowest
    /// priority on, the oldest first.
    fn shed_late_ones(&mut self, shard_id: ShardId, now: Instant, deferred: &mut DeferredWakes) {
        let Some(target) = self.overload.target(self.size) else { return };
        let limit = target * SLACK;
        let is_late = |guard: &mut Self, key: WaiterKey| {
            let since = guard.wait_list.node(key).since;
            let line = guard.wait_list.line_of(key);
            let is_long = line.own > 1 && guard.overload.estimate_behind(line) > limit;
            guard.may_shed(key) && (is_long || now.duration_since(since) > limit)
        };
        for class in 0..self.wait_list.heads().len() {
            while let Some(key) = self.wait_list.heads()[class].filter(|&key| is_late(self, key)) {
                if failpoint("late ones stay") {
                    break;
                }
                let reason = WaiterState::Rejected(self.shed(now, limit));
                self.reject_waiter(shard_id, key, reason, deferred);
            }
        }
    }

    /// Whether a waiter is a caller that may be refused (O1).
    fn may_shed(&mut self, waiter_key: WaiterKey) -> bool {
        let node = self.wait_list.node(waiter_key);
        let (is_caller, requirements) =
            (matches!(node.waiter, Waiter::Caller(_)), node.requirements);
        (is_caller || failpoint("a promise is refused")) && self.overload.may_shed(&requirements)
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_spike_is_no_overload_and_a_standing_line_is() {
        let mut overload = Overload::new(TargetWait::Fixed(10 * MS));
        let start = Instant::now();
        // The line becomes short once in each interval.
        for turn in 0..100u32 {
            let age = if turn % 20 == 0 { MS } else { 50 * MS };
            overload.note_turn(start + turn * MS, age, 1);
            assert!(!overload.is_overloaded, "turn {turn}");
        }
        for turn in 100..170 {
            overload.note_turn(start + turn * MS, 50 * MS, 1);
        }
        assert!(overload.is_overloaded);
        overload.note_turn(start + 171 * MS, MS, 1);
        assert!(!overload.is_overloaded, "a short line ends the overload at once");
    }

    #[test]
    fn the_measured_target_is_the_time_of_a_job() {
        let mut overload = Overload::new(TargetWait::Measured);
        assert_eq!(overload.target(8), Some(TARGETS.0));
        let start = Instant::now();
        (0..10u32).for_each(|turn| overload.note_turn(start + turn * 10 * MS, MS, 8));
        let target = overload.target(8).unwrap();
        assert!((79 * MS..81 * MS).contains(&target), "{target:?}");
        assert_eq!(overload.estimate(100).as_millis(), 1_000);
        overload.stop();
        assert_eq!(overload.estimate(100).as_millis(), 1_000, "the gap stays known");
    }
}
