//! [`Worker`]: settings, the loop that fetches, and the end.
//!
//! A run has these tasks: one that fetches; starters, which poll each message once (`starter`), of which
//! one becomes the task of each message that has to wait; one for each key; and one that keeps the claims.
//! A place of `in_flight` is a permit of a semaphore.
//! Only the fetching task takes permits, so `1 + available` is the room at a fetch.
//! The tasks end with the run: a dropped run cancels `cut`, as the drain deadline does, and each message
//! is given back.

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use millpond::{ConfigError, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::consume_budget;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::Jobs;
use crate::backoff::Backoff;
use crate::by_key::{ByKey, Keys};
use crate::claims::{Claim, Claims};
use crate::delivery::Processor;
use crate::error::WorkerError;
use crate::failpoint::failpoint;
use crate::failure::Failure;
use crate::rate_limit::{RateLimit, Tokens};
use crate::receipt::Receipt;
use crate::report::Report;
use crate::source::{Batch, Source, SourceError};
use crate::starter::{Line, Step};
use crate::trace::{OnSpan, event, in_current_span, in_span, message_span};

/// The shortest ack wait: claims are looked after six times in an ack wait.
const MIN_ACK_WAIT: Duration = Duration::from_millis(60);
/// How long settlements may take after the drain deadline. What takes longer counts as unsettled.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Takes messages from a [`Source`], lets each fan out into jobs of a pool, and acknowledges it once,
/// when all of them succeeded.
///
/// # Examples
///
/// See the page of the crate.
#[must_use = "a worker does nothing until `run`"]
pub struct Worker<S: Source> {
    source: S,
    pool: Pool,
    in_flight: usize,
    retry: Backoff,
    by_key: Option<ByKey<S::Message>>,
    rate_limit: Option<RateLimit>,
    on_span: OnSpan<S::Message>,
    drain_timeout: Duration,
}

impl<S: Source> Worker<S> {
    /// Makes a worker with the default settings: 64 messages in flight, 8 attempts with pauses from
    /// one second to five minutes, 25 seconds to drain.
    pub fn new(source: S, pool: &Pool) -> Self {
        Self {
            source,
            pool: pool.clone(),
            in_flight: 64,
            retry: Backoff::default(),
            by_key: None,
            rate_limit: None,
            on_span: OnSpan::default(),
            drain_timeout: Duration::from_secs(25),
        }
    }

    /// Sets how many messages are worked on at once: 1 to 1,000,000. Their jobs are bounded by the
    /// pool.
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.in_flight = messages;
        self
    }

    /// Sets how often a message is tried, and the pauses between.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.retry = backoff;
        self
    }

    /// Works on messages with equal keys one after another, in the order of their delivery; on
    /// different keys side by side.
    ///
    /// A message that fails is tried again in place. Meanwhile it keeps its claim, and later messages
    /// of its key wait, each in a place of `in_flight`. The order holds within this worker. Over
    /// several workers it takes a stream or a subject for each of them. A panic of `key` ends the worker.
    pub fn by_key<K: Hash>(mut self, key: impl Fn(&S::Message) -> K + Send + Sync + 'static) -> Self
    where
        S::Message: Clone,
    {
        self.by_key = Some(ByKey::new(key));
        self
    }

    /// Sets how many messages are taken from the source in each period, at most: 1 or more, in 1 ms to a
    /// day. Default: no limit. At the start, and after a pause, that many come at once.
    ///
    /// A message that comes again counts again, but for one that [`by_key`](Self::by_key) tries in place.
    /// Each worker has a limit of its own.
    pub fn rate_limit(mut self, messages: u32, period: Duration) -> Self {
        self.rate_limit = Some(RateLimit { messages, period });
        self
    }

    /// Calls `f` with the span of each delivery before it is entered, and with the message. There a span
    /// gets what only its user knows: further fields, or the publisher's trace as its parent.
    ///
    /// For OpenTelemetry, let the propagator extract the context of the message's headers, and call
    /// `set_parent` of `tracing-opentelemetry` on the span. `f` must not block. Its panic ends the worker.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use millpond_worker::{Worker, memory::Queue};
    ///
    /// let queue = Queue::<u64>::new(Duration::from_secs(30));
    /// let publisher = tracing::info_span!("publish");
    /// let worker = Worker::new(queue.source(), &millpond::Pool::new(4))
    ///     .on_span(move |span, _message| {
    ///         span.follows_from(&publisher);
    ///     });
    /// # let _ = worker;
    /// ```
    #[cfg(feature = "tracing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
    #[doc(alias = "opentelemetry")]
    #[doc(alias = "traceparent")]
    pub fn on_span(
        mut self,
        f: impl Fn(&tracing::Span, &S::Message) + Send + Sync + 'static,
    ) -> Self {
        self.on_span = Some(Box::new(f));
        self
    }

    /// Sets how long messages may go on after the token was cancelled. Then they are cancelled and
    /// given back at once.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Works until `token` is cancelled, then drains: it fetches nothing more, lets messages end
    /// until the drain timeout, and gives the others back.
    ///
    /// `code` is called for each delivery, with the message and a group for its jobs. A message
    /// succeeded if the code returned `Ok` and all jobs of the group returned `Ok`. The first failure
    /// or panic cancels the other jobs. A lost claim drops the code and cancels the jobs. The code
    /// holds no slot of the pool. It stays in one task, which may have run other messages before. When it
    /// returns, its group takes no more jobs: code whose jobs submit others waits for the group itself.
    ///
    /// # Errors
    ///
    /// [`WorkerError::Config`] before anything is fetched. [`WorkerError::Source`] if the source is
    /// closed, after a drain.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a runtime, or if its runtime shuts down meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all jobs and gives all messages back, in the background.
    pub async fn run<F, Fut>(self, code: F, token: CancellationToken) -> Result<Report, WorkerError>
    where
        F: Fn(S::Message, Jobs) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.check()?;
        let claims = Claims::new(self.source.ack_wait());
        let processor = Processor {
            group: self
                .pool
                .group_builder()
                .failure_when(Result::is_err)
                .cancel_on_failure()
                .discard_outcomes(),
            pool: self.pool,
            code,
            retry: self.retry,
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let shared = Arc::new(Shared {
            claims,
            processor,
            by_key: self.by_key,
            keys: Keys::new(),
            line: Line::new(),
            tasks: TaskTracker::new(),
        });
        let run = Run { shared, on_span: self.on_span };
        let (mut source, drain_timeout) = (self.source, self.drain_timeout);
        let limits = (self.in_flight, self.rate_limit.map(Tokens::new));
        // A task, as the caller may be outside of the runtime's threads: from there each message's task
        // would wake a thread. It ends with this future.
        let fetch = async move {
            // However this task ends, the messages stop by themselves.
            let _stop = [&run.shared.processor.drain, &run.shared.processor.cut]
                .map(|token| token.clone().drop_guard());
            let _keeper = AbortOnDropHandle::new(tokio::spawn(run.shared.claims.clone().keep()));
            let error = run.fetch(&mut source, limits, &token).await;
            run.drain(&mut source, drain_timeout).await;
            (error, run.shared.claims.counters.report())
        };
        let task = AbortOnDropHandle::new(tokio::spawn(in_current_span(fetch)));
        let (error, report) = match task.await {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => panic!("the runtime has shut down"),
            },
        };
        event!(INFO, ?report, "worker ended");
        match error {
            None => Ok(report),
            Some(error) => Err(WorkerError::Source { error, report }),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !(1..=1_000_000).contains(&self.in_flight) {
            return Err(ConfigError::new(
                "in_flight",
                self.in_flight,
                "a number from 1 to 1000000",
            ));
        }
        if let Some(RateLimit { messages, period }) = self.rate_limit {
            let periods = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);
            if messages == 0 || !periods.contains(&period) {
                let accepted = "1 message or more, in 1 ms to 24 hours";
                let value = format!("{messages} in {period:?}");
                return Err(ConfigError::new("rate_limit", value, accepted));
            }
        }
        if let Some(ack_wait) = self.source.ack_wait().filter(|wait| *wait < MIN_ACK_WAIT) {
            let accepted = "a duration of 60 ms or more";
            return Err(ConfigError::new("ack_wait", format!("{ack_wait:?}"), accepted));
        }
        self.retry.check()
    }
}

impl<S: Source> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("in_flight", &self.in_flight)
            .field("retry", &self.retry)
            .field("by_key", &self.by_key.is_some())
            .field("rate_limit", &self.rate_limit)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}

/// What the tasks of a run share.
struct Shared<M, R: Receipt, F> {
    claims: Arc<Claims<R>>,
    processor: Processor<F>,
    by_key: Option<ByKey<M>>,
    keys: Keys<Item<M, R>>,
    line: Line<Item<M, R>, R>,
    tasks: TaskTracker,
}

struct Item<M, R: Receipt> {
    message: M,
    claim: Claim<R>,
}

impl<M, R, F, Fut> Shared<M, R, F>
where
    M: Send + 'static,
    R: Receipt,
    F: Fn(M, Jobs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    /// Works on a message. Returns its claim if it is to be acknowledged.
    async fn deliver(&self, item: Item<M, R>, again: Option<fn(&M) -> M>) -> Option<Claim<R>> {
        let (counters, span) = (&self.claims.counters, item.claim.span.clone());
        let delivery = pin!(self.processor.deliver(counters, item.message, item.claim, again));
        in_span(span, delivery).await
    }

    /// Works on a message and acknowledges it. A panic outside of the message's code, such as one of a
    /// destructor, costs this message alone.
    async fn settle(&self, item: Item<M, R>, again: Option<fn(&M) -> M>) {
        let delivery = pin!(self.deliver(item, again));
        if let Ok(Some(claim)) = AssertUnwindSafe(delivery).catch_unwind().await {
            claim.ack().await;
        }
    }

    fn push(self: &Arc<Self>, items: &mut Vec<Item<M, R>>) {
        if !items.is_empty() && self.line.push(items) {
            self.spawn_starters();
        }
    }

    /// Spawns a standby, and a second starter: tokio keeps the task that was spawned last for this
    /// thread, and all others for any thread.
    fn spawn_starters(self: &Arc<Self>) {
        // In boxes, as tokio moves a task's future several times before it runs.
        let shared = self.clone();
        self.tasks.spawn(Box::pin(async move {
            shared.line.standby_came();
            shared.start().await;
        }));
        self.tasks.spawn(Box::pin(self.clone().start()));
    }

    /// A starter: polls each message of the line once, and acknowledges those that succeed. A starter
    /// whose message has to wait becomes the task of that message; the line goes on without it (L1).
    async fn start(self: Arc<Self>) {
        let mut done = None;
        loop {
            let (step, spawn) = self.line.next(done.take());
            if spawn {
                self.spawn_starters();
            }
            let item = match step {
                Step::Poll(item) => item,
                Step::Ack(claims) if claims.is_empty() => return,
                Step::Ack(claims) => {
                    self.claims.ack_all(claims).await;
                    continue;
                }
            };
            let delivery = pin!(self.deliver(item, None));
            // A panic outside of the message's code: it costs this message alone.
            let mut delivery = AssertUnwindSafe(delivery).catch_unwind();
            match poll_fn(|cx| Poll::Ready(delivery.poll_unpin(cx))).await {
                Poll::Ready(claim) => done = claim.ok().flatten(),
                Poll::Pending => {
                    if let Ok(Some(claim)) = delivery.await {
                        claim.ack().await;
                    }
                    return;
                }
            }
            consume_budget().await;
        }
    }
}

/// The fetching task's side of a run.
struct Run<M, R: Receipt, F> {
    shared: Arc<Shared<M, R, F>>,
    on_span: OnSpan<M>,
}

impl<M, R, F, Fut> Run<M, R, F>
where
    M: Send + 'static,
    R: Receipt,
    F: Fn(M, Jobs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    /// Fetches until the token is cancelled, the pool is closed, or the source is.
    async fn fetch<S>(
        &self,
        source: &mut S,
        (in_flight, mut tokens): (usize, Option<Tokens>),
        token: &CancellationToken,
    ) -> Option<SourceError>
    where
        S: Source<Message = M, Receipt = R>,
    {
        let places = Arc::new(Semaphore::new(in_flight));
        let (mut pause, mut watch) = (FIRST_PAUSE, Watch::new(source.ack_wait()));
        while !self.shared.processor.is_closed() {
            let is_limited = tokens.as_mut().is_some_and(Tokens::is_spent);
            if places.available_permits() == 0 || is_limited && !failpoint("a limit ages claims") {
                // Nothing is asked of the broker meanwhile.
                watch.asked_at = None;
            }
            let place = tokio::select! {
                biased;
                () = token.cancelled() => return None,
                place = places.clone().acquire_owned() => place.expect("it is never closed"),
            };
            // A request for a few messages costs as much as one for many. With `place`, a quarter of all
            // places is enough: so the broker reads while messages are worked on.
            let others = (in_flight / 4).saturating_sub(1);
            if places.available_permits() < others {
                let _ = timeout(GATHER, places.acquire_many(others as u32)).await;
            }
            let mut room = NonZeroUsize::MIN.saturating_add(places.available_permits());
            if let Some(tokens) = &mut tokens {
                room = tokio::select! {
                    biased;
                    () = token.cancelled() => return None,
                    room = tokens.room(room) => room,
                };
            }
            let fetched = tokio::select! {
                biased;
                () = token.cancelled() => return None,
                fetched = watch.next(source, room) => fetched,
            };
            match fetched {
                Ok((batch, asked_at)) => {
                    if let Some(tokens) = &mut tokens {
                        tokens.take(batch.len());
                    }
                    if pause > FIRST_PAUSE {
                        event!(INFO, messaging.system = source.system(), "broker is back");
                        pause = FIRST_PAUSE;
                    }
                    self.start_all(source, (batch, asked_at), (place, &places), token).await;
                }
                Err(SourceError::Disconnected(_error)) => {
                    event!(WARN, messaging.system = source.system(), error = %_error, ?pause,
                        "broker does not answer");
                    let _ = timeout(pause, token.cancelled()).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Some(error),
            }
        }
        None
    }

    async fn start_all<S>(
        &self,
        source: &mut S,
        (batch, asked_at): (Batch<S>, Instant),
        (place, places): (OwnedSemaphorePermit, &Arc<Semaphore>),
        token: &CancellationToken,
    ) where
        S: Source<Message = M, Receipt = R>,
    {
        self.shared.claims.counters.fetched(batch.len());
        let mut place = Some(place);
        let others = batch.len().saturating_sub(1) as u32;
        let mut others = places.clone().try_acquire_many_owned(others).ok();
        let mut line = Vec::with_capacity(batch.len());
        let mut now = Instant::now();
        let mut batch = batch.into_iter();
        while let Some((message, receipt)) = batch.next() {
            let next = place.take().or_else(|| others.as_mut()?.split(1));
            let place = match next {
                Some(place) => place,
                // The source returned more than it was asked for.
                None => {
                    self.shared.push(&mut line);
                    let place = tokio::select! {
                        biased;
                        () = token.cancelled() => {
                            let rest = batch.map(|(_, receipt)| receipt);
                            let rest = std::iter::once(receipt).chain(rest);
                            return self.shared.claims.give_back(rest, asked_at);
                        }
                        place = places.clone().acquire_owned() => place.expect("it is never closed"),
                    };
                    now = Instant::now();
                    place
                }
            };
            let span = message_span(source, &message, &receipt, &self.on_span);
            let claim = self.shared.claims.insert(receipt, (asked_at, now), place, span);
            let item = Item { message, claim };
            match &self.shared.by_key {
                None => line.push(item),
                Some(by_key) => self.start_in_order(by_key, item),
            }
        }
        self.shared.push(&mut line);
    }

    /// Starts a task for a message, or lets it wait for an earlier message of its key.
    fn start_in_order(&self, by_key: &ByKey<M>, item: Item<M, R>) {
        let (key, again) = (by_key.key(&item.message), Some(by_key.clone));
        let Some(item) = self.shared.keys.enter(key, item) else { return };
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            shared.settle(item, again).await;
            while let Some(item) = shared.keys.next(key) {
                shared.settle(item, again).await;
            }
        });
    }

    /// Lets what runs end until the timeout, then cancels it and gives it back.
    async fn drain<S: Source>(&self, source: &mut S, deadline: Duration) {
        let processor = &self.shared.processor;
        processor.drain.cancel();
        for item in self.shared.keys.take_waiting() {
            self.shared.tasks.spawn(async move {
                // Dropped in here: a drop that panics does not end the drain.
                let Item { message: _message, claim } = item;
                claim.nack(Duration::ZERO).await;
            });
        }
        self.shared.tasks.close();
        let ended = async {
            let _ = tokio::join!(timeout(SETTLE_TIME, source.close()), self.shared.tasks.wait());
        };
        tokio::pin!(ended);
        if timeout(deadline, &mut ended).await.is_err() {
            processor.cut.cancel();
            if timeout(SETTLE_TIME, ended).await.is_err() {
                return;
            }
        }
        debug_assert!(self.shared.claims.counters.all_ended(), "each delivery ends in one count");
    }
}

/// Knows a moment before which no message that comes now was claimed.
///
/// While a source waits, it is polled in each tick, a sixth of the ack wait. A message that comes was
/// claimed after the last tick but one. If the process is stopped, that is long ago, and the message
/// lay in a socket; even if the source is polled once more before the message is read.
struct Watch {
    tick: Option<Duration>,
    /// The last tick and the one before. `None`: nothing was asked of the broker before now.
    asked_at: Option<(Instant, Instant)>,
}

impl Watch {
    fn new(ack_wait: Option<Duration>) -> Self {
        Self { tick: ack_wait.map(|ack_wait| ack_wait / 6), asked_at: None }
    }

    /// Notes that a poll begins. Returns the moment of the last tick but one.
    fn note(&mut self) -> Instant {
        let now = Instant::now();
        let (last, before) = self.asked_at.get_or_insert((now, now));
        if now - *last >= self.tick.unwrap_or_default() / 2 {
            (*before, *last) = (*last, now);
        }
        *before
    }

    /// Calls `next` of a source. Returns also the moment after which the batch was claimed.
    async fn next<S: Source>(
        &mut self,
        source: &mut S,
        room: NonZeroUsize,
    ) -> Result<(Batch<S>, Instant), SourceError> {
        let Some(tick) = self.tick else {
            return source.next(room).await.map(|batch| (batch, Instant::now()));
        };
        let mut next = std::pin::pin!(source.next(room));
        loop {
            let asked_at = self.note();
            if let Ok(fetched) = timeout(tick, &mut next).await {
                return fetched.map(|batch| (batch, asked_at));
            }
        }
    }
}

/// How long a busy worker waits for more room before it asks for messages.
const GATHER: Duration = Duration::from_millis(1);
/// The pauses between attempts to reach the broker.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
