//! The workers of a pool: who is idle, who is called, who may leave.
//!
//! Idle workers are a stack: the newest is called first, so the others stay cold and leave one
//! after another when they were not needed for the idle timeout.
//!
//! No call is lost: a call that finds nobody idle and may not start anybody leaves a note, and a
//! worker that wants to go idle looks for it under the same lock.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::pool::job::{AtomicJobSlot, Runnable};
use crate::pool::scheduler::shard::ShardId;
use crate::pool::scheduler::shared::Core;
use crate::pool::scheduler::worker::Worker;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use crate::sync::{Mutex, failpoint};

const NOBODY: usize = usize::MAX;

/// Of the lookout.
const NONE: u8 = 0;
const THERE: u8 = 1;
const WANTED: u8 = 2;

pub(crate) struct Crew {
    /// How many threads the runtime has.
    threads: usize,
    state: Mutex<State>,
    /// Whether a call would find or start somebody, to be looked at without the lock.
    spare: AtomicBool,
    /// How many calls found nobody, likewise.
    misses: AtomicUsize,
    /// Whether somebody is on the lookout, and whether that was asked for since the last look.
    lookout: AtomicU8,
}

struct State {
    /// Every worker there is.
    posts: Vec<Arc<Post>>,
    /// How many there may be without need for more.
    enough: usize,
    /// Oldest first.
    idle: Vec<Arc<Post>>,
    /// Shards for which a call found nobody.
    missed: VecDeque<ShardId>,
}

/// How many jobs a worker may claim at once.
pub(crate) const LANE: usize = 8;

/// Where a worker is found.
pub(crate) struct Post {
    /// The shard it is called to.
    called_to: AtomicUsize,
    waker: OnceLock<Waker>,
    /// The jobs it has claimed and not polled yet: there for others should it be held up.
    pub(crate) lane: [AtomicJobSlot; LANE],
    /// Whether it moves: counts what it does between two polls of jobs.
    steps: AtomicUsize,
    /// Slots of ended jobs the worker has yet to give back. Only the worker writes it.
    owed: AtomicUsize,
    /// How many of these the lookout gave back in its place.
    forgiven: Mutex<usize>,
}

impl Post {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            called_to: AtomicUsize::new(NOBODY),
            waker: OnceLock::new(),
            lane: std::array::from_fn(|_| AtomicJobSlot::new()),
            steps: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            forgiven: Mutex::new(0),
        })
    }

    pub(crate) fn step(&self) {
        // Only the worker itself writes it.
        self.steps.store(self.steps.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps.load(Relaxed)
    }

    pub(crate) fn owe(&self, slots: usize) {
        self.owed.store(slots, Release);
    }

    /// Clears the debt. Returns how many of the `owed` slots are left to be given back.
    pub(crate) fn pay(&self, owed: usize) -> usize {
        if owed == 0 {
            return 0;
        }
        let mut forgiven = self.forgiven.lock();
        self.owed.store(0, Relaxed);
        owed - std::mem::take(&mut *forgiven)
    }

    /// Takes the debt over. Returns how many slots the caller is to give back.
    pub(crate) fn forgive(&self) -> usize {
        let mut forgiven = self.forgiven.lock();
        let owed = self.owed.load(Acquire);
        owed - std::mem::replace(&mut *forgiven, owed)
    }

    /// Whether there is something to be done in its place, should it be held up.
    pub(crate) fn has_claims(&self) -> bool {
        self.owed.load(Relaxed) > 0 || self.lane.iter().any(|berth| !berth.is_empty())
    }

    /// The claimed jobs, taken from a worker that is held up.
    pub(crate) fn give_up(&self) -> impl Iterator<Item = Runnable> + '_ {
        self.lane.iter().filter_map(AtomicJobSlot::take)
    }

    /// The shard the worker was called to, if it was.
    pub(crate) fn answer(&self) -> Option<ShardId> {
        if self.called_to.load(Acquire) == NOBODY {
            return None;
        }
        Some(self.called_to.swap(NOBODY, AcqRel))
    }

    fn call(&self, shard_id: ShardId) {
        self.called_to.store(shard_id, Release);
        self.waker.get().expect("idle workers left their waker").wake_by_ref();
    }
}

/// What a worker that found nothing to do is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Wait for a call.
    Idle,
    /// Serve this shard: a call was missed.
    Serve(ShardId),
    /// Leave: nothing can come any more.
    Leave,
}

impl State {
    fn dismiss(&mut self, post: &Arc<Post>) {
        self.posts.retain(|other| !Arc::ptr_eq(other, post));
    }
}

impl Crew {
    pub(crate) fn new(threads: usize, size: usize) -> Self {
        let enough = threads.min(size);
        let state = State { posts: Vec::new(), enough, idle: Vec::new(), missed: VecDeque::new() };
        Self {
            threads,
            state: Mutex::new(state),
            spare: AtomicBool::new(true),
            misses: AtomicUsize::new(0),
            lookout: AtomicU8::new(if cfg!(millpond_loom) { WANTED } else { NONE }),
        }
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.spare.load(Relaxed)
    }

    /// Workers, and how many of them are idle.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.posts.len(), state.idle.len())
    }

    /// Has a worker serve a shard: the newest idle one, a new one, or the next that has time:
    /// `false` in that case.
    pub(crate) fn call(&self, core: &Core, shard_id: ShardId) -> bool {
        let mut state = self.state.lock();
        if let Some(post) = state.idle.pop() {
            self.note_spare(&state);
            drop(state);
            post.call(shard_id);
        } else if state.posts.len() < state.enough {
            self.hire(core, state, shard_id);
        } else {
            if !state.missed.contains(&shard_id) && !failpoint("forget pending wakeups") {
                state.missed.push_back(shard_id);
                self.misses.store(state.missed.len(), Relaxed);
            }
            return false;
        }
        true
    }

    /// A busy worker's turn at a shard is over: which one comes next?
    pub(crate) fn rotate(&self, shard_id: ShardId) -> ShardId {
        if self.misses.load(Relaxed) == 0 {
            return shard_id;
        }
        let mut state = self.state.lock();
        match state.missed.pop_front() {
            Some(next) => {
                if !state.missed.contains(&shard_id) {
                    state.missed.push_back(shard_id);
                }
                next
            }
            None => shard_id,
        }
    }

    /// Starts workers until there are `wanted`.
    pub(crate) fn hire_up_to(&self, core: &Core, wanted: usize) {
        // Counted once: on a runtime that is gone they leave as they come.
        let missing = wanted.saturating_sub(self.state.lock().posts.len());
        for _ in 0..missing {
            self.hire(core, self.state.lock(), 0);
        }
    }

    fn hire(&self, core: &Core, mut state: crate::sync::MutexGuard<'_, State>, shard_id: ShardId) {
        let post = Post::new();
        state.posts.push(post.clone());
        self.note_spare(&state);
        drop(state);
        Worker::start(core.arc(), post, shard_id);
    }

    /// Sends a worker to rest.
    pub(crate) fn rest(&self, core: &Core, post: &Arc<Post>, waker: &Waker) -> Rest {
        post.waker.get_or_init(|| waker.clone());
        let mut state = self.state.lock();
        if let Some(shard_id) = state.missed.pop_front() {
            self.misses.store(state.missed.len(), Relaxed);
            return Rest::Serve(shard_id);
        }
        // Looked at under the lock, so that whoever closes the pool, or ends its last job, finds
        // this worker either gone or idle.
        if core.limiter.is_closed() && core.limiter.counts().is_idle() {
            state.dismiss(post);
            return Rest::Leave;
        }
        state.idle.push(post.clone());
        self.note_spare(&state);
        Rest::Idle
    }

    /// Whether an idle worker that was not called for the idle timeout may leave. The last one
    /// stays as long as there is a job: with it goes the runtime's end, should that come.
    pub(crate) fn may_leave(&self, core: &Core, post: &Arc<Post>) -> bool {
        let busy = !core.limiter.counts().is_idle();
        let mut state = self.state.lock();
        if state.idle.len() <= core.config.min_idle || (busy && state.posts.len() == 1) {
            return false;
        }
        let Some(position) = state.idle.iter().position(|other| Arc::ptr_eq(other, post)) else {
            return false;
        };
        state.idle.remove(position);
        state.dismiss(post);
        self.note_spare(&state);
        true
    }

    /// A worker is gone without having been allowed to: its runtime is.
    pub(crate) fn lost(&self, post: &Arc<Post>) {
        let mut state = self.state.lock();
        state.dismiss(post);
        state.idle.retain(|other| !Arc::ptr_eq(other, post));
    }

    /// Asks for somebody on the lookout: `true` if there is nobody yet.
    pub(crate) fn wants_lookout(&self) -> bool {
        self.lookout.load(Relaxed) != WANTED && self.lookout.swap(WANTED, AcqRel) == NONE
    }

    /// Whether it was asked for since the last look.
    pub(crate) fn keeps_lookout(&self) -> bool {
        self.lookout.swap(THERE, AcqRel) == WANTED
    }

    /// Unless it was asked for again.
    pub(crate) fn end_lookout(&self) -> bool {
        self.lookout.compare_exchange(THERE, NONE, AcqRel, Relaxed).is_ok()
    }

    pub(crate) fn posts(&self) -> Vec<Arc<Post>> {
        self.state.lock().posts.clone()
    }

    /// Calls a worker to a shard whose own is held up, or hires one more if there are fewer than
    /// `most`.
    pub(crate) fn reinforce(&self, core: &Core, shard_id: ShardId, most: usize) {
        let mut state = self.state.lock();
        if let Some(post) = state.idle.pop() {
            self.note_spare(&state);
            drop(state);
            post.call(shard_id);
        } else if state.posts.len() < most {
            self.hire(core, state, shard_id);
        }
    }

    /// Has every idle worker look around, if `wanted`.
    pub(crate) fn call_all_if(&self, wanted: bool) {
        if !wanted {
            return;
        }
        let mut state = self.state.lock();
        let idle = std::mem::take(&mut state.idle);
        self.note_spare(&state);
        drop(state);
        idle.iter().for_each(|post| post.call(0));
    }

    pub(crate) fn enough(&self) -> usize {
        self.state.lock().enough
    }

    /// More workers than threads are of use only while some are held up.
    pub(crate) fn resize(&self, size: usize) {
        let mut state = self.state.lock();
        state.enough = size.min(self.threads);
        self.note_spare(&state);
    }

    fn note_spare(&self, state: &State) {
        self.spare.store(!state.idle.is_empty() || state.posts.len() < state.enough, Relaxed);
    }
}
