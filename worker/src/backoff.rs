//! [`Backoff`]: how often a message is tried, and how long the pauses are.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use millpond::ConfigError;

/// The longest pause. A longer one, such as `Duration::MAX`, overflows the clocks of workers and brokers.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often a message is tried, and after which pauses.
///
/// The pause doubles with each delivery. A pause is cut by up to a quarter, at random, so that
/// messages which failed together do not come back together.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use millpond_worker::Backoff;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8);
/// let pause = backoff.pause(3); // after the third delivery
/// assert!(pause > Duration::from_secs(2) && pause <= Duration::from_secs(4));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
    random: RandomState,
}

impl Backoff {
    /// A pause of `first` after the first delivery, doubled after each further one, at most `max`.
    /// There are 8 attempts. No pause is longer than a year.
    pub fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, max, attempts: 8, random: RandomState::new() }
    }

    /// The same pause after each delivery.
    pub fn constant(pause: Duration) -> Self {
        Self::exponential(pause, pause)
    }

    /// Sets how often a message is tried before it goes to the dead letters: 1 or more.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Returns the pause after a delivery, counted from 1.
    pub fn pause(&self, delivery: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << delivery.saturating_sub(1).min(30));
        let pause = doubled.min(self.max).min(LONGEST);
        // The time makes two pauses of one delivery differ.
        let seed = (delivery, std::time::SystemTime::now());
        let share = (self.random.hash_one(seed) % 1024) as u32;
        pause - pause / 4 * share / 1024
    }

    /// Whether a delivery, counted from 1, is the last attempt.
    pub fn is_last(&self, delivery: u32) -> bool {
        delivery >= self.attempts
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.attempts == 0 {
            return Err(ConfigError::new("attempts", 0, "a number from 1"));
        }
        if self.first > self.max {
            let accepted = "a pause up to `max`, the longest";
            return Err(ConfigError::new("first", format!("{:?}", self.first), accepted));
        }
        Ok(())
    }
}

impl Default for Backoff {
    /// From one second to five minutes, 8 attempts.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), Duration::from_secs(300))
    }
}
