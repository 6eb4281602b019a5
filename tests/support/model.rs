//! What a pool's numbers should be after each act of a play.

use std::collections::VecDeque;

use millpond::{AbortHandle, JobHandle, Pool};
use tokio::sync::oneshot;

use super::law;

#[derive(Debug, Clone, Copy)]
pub enum Act {
    Schedule,
    TrySchedule,
    Always,
    TryGo,
    Anyway,
    /// The job of that number returns, panics, is aborted, loses its handle.
    Finish(usize),
    Panic(usize),
    Abort(usize),
    Detach(usize),
    /// The waiting caller of that number goes away.
    GiveUp(usize),
    Resize(usize),
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Slot,
    Overflow,
    /// In the wait list, with its job handed over or still with its caller.
    Line,
    Caller,
}

/// A job that has not ended.
pub struct Live {
    pub id: usize,
    pub place: Place,
    /// Makes it return, or panic.
    pub end: oneshot::Sender<bool>,
    pub handle: Option<JobHandle<usize>>,
    pub abort: Option<AbortHandle>,
}

/// What the pool's numbers should be; the wait list is in `live`, in order.
#[derive(Default)]
pub struct Model {
    pub size: usize,
    pub queue: usize,
    pub closed: bool,
    pub live: Vec<Live>,
    pub line: VecDeque<usize>,
    pub submitted: u64,
    pub refused: u64,
    pub withdrawn: u64,
    pub completed: u64,
    pub panicked: u64,
    pub cancelled: u64,
}

impl Model {
    pub fn count(&self, place: Place) -> usize {
        self.live.iter().filter(|live| live.place == place).count()
    }

    pub fn has_slot(&self) -> bool {
        self.count(Place::Slot) < self.size && self.line.is_empty()
    }

    pub fn has_place(&self) -> bool {
        self.line.len() < self.queue
    }

    pub fn get(&mut self, id: usize) -> &mut Live {
        self.live.iter_mut().find(|live| live.id == id).unwrap()
    }

    /// Lets the oldest waiter in, as long as slots are free. Callers with a place or a slot
    /// hand their jobs in.
    pub fn advance(&mut self) {
        while self.count(Place::Slot) < self.size {
            let Some(id) = self.line.pop_front() else { break };
            self.get(id).place = Place::Slot;
        }
        for id in self.line.iter().copied().take(self.queue).collect::<Vec<_>>() {
            self.get(id).place = Place::Line;
        }
    }

    pub fn remove(&mut self, id: usize) -> Live {
        self.line.retain(|other| *other != id);
        let at = self.live.iter().position(|live| live.id == id).unwrap();
        self.live.remove(at)
    }

    #[track_caller]
    pub fn compare(&self, pool: &Pool, after: &Act) {
        let status = law(pool);
        let callers = self.count(Place::Caller);
        let queued = self.line.len().min(self.queue);
        let expected = (self.size, self.count(Place::Slot), queued, self.line.len() - queued);
        assert_eq!(
            (status.size, status.running, status.queued, status.waiting),
            expected,
            "size, running, queued, waiting ({callers} callers) after {after:?}: {status:?}"
        );
        assert_eq!(
            (status.overflow, status.submitted, status.refused, status.withdrawn),
            (self.count(Place::Overflow), self.submitted, self.refused, self.withdrawn),
            "overflow, submitted, refused, withdrawn after {after:?}"
        );
        assert_eq!(
            (status.completed, status.panicked, status.cancelled),
            (self.completed, self.panicked, self.cancelled),
            "completed, panicked, cancelled after {after:?}"
        );
    }
}

impl Model {
    pub fn enter(&mut self, live: Live) {
        if matches!(live.place, Place::Line | Place::Caller) {
            self.line.push_back(live.id);
        }
        self.live.push(live);
    }
}
