//! How long a test may last, in time in which the machine runs.
//!
//! A limit in plain time ends tests that do not hang, where the machine stands still for longer than the
//! limit. A patience is asked again and again. Of the time between two questions it counts a part at most, so
//! a standstill costs no more than that.

use std::time::{Duration, Instant};

/// How long to wait between two questions.
pub const TICK: Duration = Duration::from_millis(10);

/// Of a tick that takes longer, this much counts: the machine stood still.
const LONGEST_TICK: Duration = Duration::from_millis(20);

/// Counts down from a limit.
pub struct Patience {
    left: Duration,
    asked: Instant,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { left: limit, asked: Instant::now() }
    }

    /// Returns whether there is patience left. Called every `TICK`, or more often.
    pub fn lasts(&mut self) -> bool {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.asked, now);
        self.spend(now - before);
        !self.left.is_zero()
    }

    fn spend(&mut self, tick: Duration) {
        self.left = self.left.saturating_sub(tick.min(LONGEST_TICK));
    }
}

/// Sleeps for this long on tokio's clock. A paused clock leaps, and stands still for no machine.
pub async fn sleep(limit: Duration) {
    let mut patience = Patience::new(limit);
    while !patience.left.is_zero() {
        let before = tokio::time::Instant::now();
        tokio::time::sleep(TICK.min(patience.left)).await;
        patience.spend(before.elapsed());
    }
}
