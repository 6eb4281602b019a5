//! A broker within the process, for tests and examples.
//!
//! A [`Queue`] delivers in the order of publishing, takes claims away after the ack wait, delays what
//! was given back, and keeps dead letters. It forgets everything with the process. A message is in
//! one place at a time: ready, away (claimed or delayed), or among the dead letters. All state is
//! under one mutex; no code of a user runs under it but `T::clone`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{Future, ready};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::failpoint::failpoint;
use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
use crate::source::{Source, SourceError};

/// A queue of messages in memory. Clones are handles of the same queue.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use millpond_worker::memory::Queue;
///
/// let queue = Queue::new(Duration::from_secs(30));
/// queue.publish("an order");
/// assert_eq!((queue.len(), queue.dead_letters().len()), (1, 0));
/// ```
pub struct Queue<T>(Arc<Shared<T>>);

struct Shared<T> {
    ack_wait: Duration,
    state: Mutex<State<T>>,
    /// Something is ready, or a claim has changed.
    changed: Notify,
}

struct State<T> {
    next_id: u64,
    next_claim: u64,
    ready: BTreeMap<u64, Entry<T>>,
    /// Claimed or delayed, by the id of the message.
    away: HashMap<u64, Away<T>>,
    /// When each of `away` is ready again.
    times: BTreeMap<(Instant, u64), ()>,
    dead: Vec<DeadLetter<T>>,
    connected: bool,
}

struct Entry<T> {
    value: T,
    deliveries: u32,
}

struct Away<T> {
    entry: Entry<T>,
    until: Instant,
    /// The number of the claim. `None` for a message that is delayed.
    claim: Option<u64>,
}

/// A message of a [`Queue`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Message<T> {
    /// The number of the message, from 0 in the order of publishing.
    pub id: u64,
    /// What was published.
    pub value: T,
}

/// A dead letter of a [`Queue`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// The number of the message.
    pub id: u64,
    /// What was published.
    pub value: T,
    /// Why the message is here.
    pub reason: DeadReason,
}

impl<T: Clone + Send + 'static> Queue<T> {
    /// Makes an empty queue. A claim that is neither settled nor extended is over after `ack_wait`.
    pub fn new(ack_wait: Duration) -> Self {
        let state = State {
            next_id: 0,
            next_claim: 0,
            ready: BTreeMap::new(),
            away: HashMap::new(),
            times: BTreeMap::new(),
            dead: Vec::new(),
            connected: true,
        };
        Self(Arc::new(Shared { ack_wait, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Appends a message. Returns its number.
    pub fn publish(&self, value: T) -> u64 {
        let id = {
            let mut state = self.0.state();
            let id = state.next_id;
            state.next_id += 1;
            state.ready.insert(id, Entry { value, deliveries: 0 });
            id
        };
        self.0.changed.notify_waiters();
        id
    }

    /// Makes a source for a worker. Several workers may share a queue.
    pub fn source(&self) -> Consumer<T> {
        Consumer(self.0.clone())
    }

    /// Returns the number of messages that are neither acknowledged nor among the dead letters.
    pub fn len(&self) -> usize {
        let state = self.0.state();
        state.ready.len() + state.away.len()
    }

    /// Whether all messages are acknowledged, or among the dead letters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter<T>> {
        self.0.state().dead.clone()
    }

    /// Makes every call of a source or a receipt fail, like a broker that is away, until it is called
    /// again with `true`.
    pub fn set_connected(&self, connected: bool) {
        self.0.state().connected = connected;
        self.0.changed.notify_waiters();
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// Puts what is due back among the ready messages.
    fn wake(&mut self, now: Instant) {
        while let Some(due) = self.times.first_entry().filter(|due| due.key().0 <= now) {
            let ((_, id), ()) = due.remove_entry();
            let away = self.away.remove(&id).expect("each time belongs to a message");
            self.ready.insert(id, away.entry);
        }
    }

    fn put_away(&mut self, id: u64, entry: Entry<T>, until: Instant, claim: Option<u64>) {
        self.times.insert((until, id), ());
        self.away.insert(id, Away { entry, until, claim });
    }

    /// Takes out a claimed message, if the claim still holds.
    fn take(&mut self, id: u64, claim: u64) -> Option<Entry<T>> {
        let away = self.away.get(&id).filter(|away| away.claim == Some(claim))?;
        if away.until <= Instant::now() {
            return None;
        }
        self.times.remove(&(away.until, id));
        self.away.remove(&id).map(|away| away.entry)
    }
}

/// The source of a [`Queue`].
pub struct Consumer<T>(Arc<Shared<T>>);

impl<T: Clone + Send + 'static> Source for Consumer<T> {
    type Message = Message<T>;
    type Receipt = Claimed<T>;

    async fn next(
        &mut self,
        room: NonZeroUsize,
    ) -> Result<Vec<(Message<T>, Claimed<T>)>, SourceError> {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            // Registered before the look, so that no message comes between the look and the wait.
            changed.as_mut().enable();
            let next_time = {
                let state = &mut *self.0.state();
                if !state.connected {
                    return Err(SourceError::Disconnected("the queue is disconnected".into()));
                }
                let now = Instant::now();
                state.wake(now);
                let mut batch = Vec::new();
                while batch.len() < room.get() {
                    let Some((id, mut entry)) = state.ready.pop_first() else { break };
                    entry.deliveries += 1;
                    let (value, deliveries) = (entry.value.clone(), entry.deliveries);
                    let claim = state.next_claim;
                    state.next_claim += 1;
                    state.put_away(id, entry, now + self.0.ack_wait, Some(claim));
                    let queue = Some(self.0.clone());
                    batch.push((Message { id, value }, Claimed { queue, id, claim, deliveries }));
                }
                if !batch.is_empty() {
                    return Ok(batch);
                }
                state.times.first_key_value().map(|((time, _), ())| *time)
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(next_time.unwrap_or_else(Instant::now)), if next_time.is_some() => {}
            }
        }
    }

    fn ack_wait(&self) -> Option<Duration> {
        Some(self.0.ack_wait)
    }

    fn system(&self) -> &'static str {
        "memory"
    }

    fn destination(&self) -> &str {
        "queue"
    }
}

/// The claim on a message of a [`Queue`].
pub struct Claimed<T> {
    /// `None` once the claim is settled or abandoned.
    queue: Option<Arc<Shared<T>>>,
    id: u64,
    claim: u64,
    deliveries: u32,
}

impl<T> Claimed<T> {
    /// Takes the message out and lets `f` say where it goes.
    fn settle(&mut self, f: impl FnOnce(&mut State<T>, u64, Entry<T>)) -> Result<(), ReceiptError> {
        let Some(queue) = self.queue.take() else { return Err(ReceiptError::Lost) };
        {
            let state = &mut *queue.state();
            if !state.connected {
                return Err(ReceiptError::Unconfirmed("the queue is disconnected".into()));
            }
            let entry = state.take(self.id, self.claim).ok_or(ReceiptError::Lost)?;
            f(state, self.id, entry);
        }
        queue.changed.notify_waiters();
        Ok(())
    }

    fn give_back(&mut self, after: Duration) -> Result<(), ReceiptError> {
        self.settle(|state, id, entry| {
            state.put_away(id, entry, Instant::now() + after, None);
        })
    }
}

impl<T: Clone + Send + 'static> Receipt for Claimed<T> {
    fn ack(mut self) -> impl Future<Output = Result<(), ReceiptError>> + Send {
        ready(self.settle(|_, _, _| {}))
    }

    fn nack(mut self, after: Duration) -> impl Future<Output = Result<(), ReceiptError>> + Send {
        ready(self.give_back(after))
    }

    fn dead(mut self, why: &DeadReason) -> impl Future<Output = Result<(), ReceiptError>> + Send {
        let reason = why.clone();
        ready(self.settle(|state, id, entry| {
            state.dead.push(DeadLetter { id, value: entry.value, reason });
        }))
    }

    fn abandon(mut self) {
        self.queue = None;
    }

    fn extend(&self) -> Extend {
        let (queue, id, claim) = (self.queue.clone(), self.id, self.claim);
        Box::pin(async move {
            let queue = queue.ok_or(ReceiptError::Lost)?;
            let state = &mut *queue.state();
            if !state.connected {
                return Err(ReceiptError::Unconfirmed("the queue is disconnected".into()));
            }
            let entry = state.take(id, claim).ok_or(ReceiptError::Lost)?;
            state.put_away(id, entry, Instant::now() + queue.ack_wait, Some(claim));
            Ok(())
        })
    }

    fn deliveries(&self) -> u32 {
        self.deliveries
    }

    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl<T> Drop for Claimed<T> {
    fn drop(&mut self) {
        if failpoint("a dropped receipt keeps its message") {
            return;
        }
        // A claim that is over needs nothing.
        let _ = self.give_back(Duration::ZERO);
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state();
        f.debug_struct("Queue")
            .field("ready", &state.ready.len())
            .field("away", &state.away.len())
            .field("dead", &state.dead.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Claimed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("id", &self.id)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}
