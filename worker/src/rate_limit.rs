//! A rate limit: how many messages are taken from the source in a time.
//!
//! [`Tokens`] is a token bucket. It belongs to the fetching task, so it has no lock. A message that was
//! fetched takes a token; the fetching task asks for at most as many messages as there are tokens.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failpoint::failpoint;

/// The setting: so many messages in each period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateLimit {
    pub(crate) messages: u32,
    pub(crate) period: Duration,
}

pub(crate) struct Tokens {
    limit: RateLimit,
    /// How many tokens there were at `since`.
    tokens: f64,
    since: Instant,
}

impl Tokens {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, tokens: f64::from(limit.messages), since: Instant::now() }
    }

    /// Whether there is no whole token: [`room`](Self::room) would wait.
    pub(crate) fn is_spent(&mut self) -> bool {
        self.refill();
        self.tokens < 1.0
    }

    /// Waits for a token. Returns how many whole ones there are, at most `room`.
    ///
    /// Cancel safety: a dropped wait takes no token.
    pub(crate) async fn room(&mut self, room: NonZeroUsize) -> NonZeroUsize {
        loop {
            self.refill();
            if let Some(tokens) = NonZeroUsize::new(self.tokens as usize) {
                return tokens.min(room);
            }
            let missing = (1.0 - self.tokens) / f64::from(self.limit.messages);
            // A little longer: rounding must not make this a wait without end.
            sleep(self.limit.period.mul_f64(missing) + Duration::from_millis(1)).await;
        }
    }

    /// Takes the tokens of messages that were fetched.
    pub(crate) fn take(&mut self, messages: usize) {
        if !failpoint("messages take no tokens") {
            self.tokens -= messages as f64;
        }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let periods = (now - self.since).as_secs_f64() / self.limit.period.as_secs_f64();
        let most = f64::from(self.limit.messages);
        self.tokens = (self.tokens + periods * most).min(most);
        self.since = now;
    }
}
