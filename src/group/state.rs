//! What the jobs and the handles of one group share: the running jobs, their outcomes, the waiters.
//!
//! The handles ([`Group`](crate::Group)), the sinks of the jobs ([`MemberSink`],
//! `member::MemberGuard`) and the futures of `wait.rs` call this. One mutex protects all of it. The
//! pool calls [`GroupState::add`] under its own lock, so no method may call the pool while it holds
//! the mutex. No user code runs under the mutex either: outputs, wakers and `failure_when` stay
//! outside. The head of [`group`](crate::group) has the invariants.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use crate::error::JobError;
use crate::group::outcome::Outcome;
use crate::panic::catch_panic;
use crate::pool::{AbortHandle, JobArc, OutputSink, RawJoinHandle, Shared};
use crate::sync::{Mutex, failpoint};

/// Whether a returned value is a failure.
pub(crate) type FailureWhen<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

pub(crate) struct GroupState<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) quota: Option<usize>,
    failure_when: Option<FailureWhen<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    submitted: usize,
    /// Jobs that have not ended, by index. `None` for a job that runs in its caller.
    running: HashMap<usize, Option<JobArc>>,
    /// Outcomes in the order of completion.
    ended: VecDeque<Outcome<T>>,
    /// The number of failures in `ended`.
    failures: usize,
    closed: bool,
    handles: usize,
    detached: bool,
    waiters: Slab<Waiter>,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The end of any job.
    Next,
    /// The end of the last job.
    All,
    /// The first failure, or the end of the last job.
    Failure,
}

struct Waiter {
    event: Event,
    /// `None` from its wake-up to its next poll.
    waker: Option<Waker>,
}

impl<T: Send + 'static> GroupState<T> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        quota: Option<usize>,
        failure_when: Option<FailureWhen<T>>,
    ) -> Self {
        let state = State {
            submitted: 0,
            running: HashMap::new(),
            ended: VecDeque::new(),
            failures: 0,
            closed: false,
            handles: 1,
            detached: false,
            waiters: Slab::new(),
        };
        Self { shared, quota, failure_when, state: Mutex::new(state) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }

    pub(crate) fn detach(&self) {
        self.state.lock().detached = true;
    }

    pub(crate) fn add_handle(&self) {
        self.state.lock().handles += 1;
    }

    /// Drops a handle. The last one cancels the jobs, unless the group was detached (G3).
    pub(crate) fn drop_handle(&self) {
        let mut state = self.state.lock();
        state.handles -= 1;
        if state.handles > 0 {
            return;
        }
        let (ended, detached) = (std::mem::take(&mut state.ended), state.detached);
        drop(state);
        if !detached && !failpoint("the last handle cancels nothing") {
            self.cancel();
        }
        catch_panic(|| drop(ended));
    }

    /// Returns the number of jobs that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.state.lock().running.len()
    }

    pub(crate) fn cancel(&self) {
        // An abort may end its job at once, and the end takes the mutex: so copy the jobs first.
        let jobs: Vec<_> = self.state.lock().running.values().flatten().cloned().collect();
        jobs.iter().for_each(JobArc::abort);
    }

    /// Takes the oldest outcome. The second value says whether a job is running.
    pub(crate) fn take_next(&self) -> (Option<Outcome<T>>, bool) {
        let mut state = self.state.lock();
        let next = state.ended.pop_front();
        let failed = next.as_ref().is_some_and(|outcome| !outcome.is_success());
        state.failures -= usize::from(failed && !failpoint("a failure that was taken counts"));
        (next, !state.running.is_empty())
    }

    /// Takes all outcomes in the order of submission, if no job is running.
    pub(crate) fn take_all(&self) -> Option<Vec<Outcome<T>>> {
        let mut state = self.state.lock();
        if !state.running.is_empty() {
            return None;
        }
        state.failures = 0;
        let mut outcomes = Vec::from(std::mem::take(&mut state.ended));
        drop(state);
        if !failpoint("outcomes in the order of completion") {
            outcomes.sort_unstable_by_key(|outcome| outcome.index);
        }
        Some(outcomes)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().failures > 0
    }

    /// Registers `waker` for the event, in place of the waiter under `key`. Returns `false`,
    /// without a change, if the event has happened (G4).
    pub(crate) fn register_waiter(
        &self,
        key: &mut Option<usize>,
        event: Event,
        waker: &Waker,
    ) -> bool {
        // A waker is user code, so its clone and its drop happen outside of the lock.
        let waiter = Waiter { event, waker: Some(waker.clone()) };
        let mut state = self.state.lock();
        let happened = match event {
            Event::Next => state.running.is_empty() || !state.ended.is_empty(),
            Event::All => state.running.is_empty(),
            Event::Failure => state.running.is_empty() || state.failures > 0,
        };
        if happened && !failpoint("wait without recheck") {
            drop(state);
            return false;
        }
        let old = match *key {
            Some(key) => Some(std::mem::replace(&mut state.waiters[key], waiter)),
            None => {
                *key = Some(state.waiters.insert(waiter));
                None
            }
        };
        drop(state);
        drop(old);
        true
    }

    pub(crate) fn remove_waiter(&self, key: usize) {
        let waiter = self.state.lock().waiters.remove(key);
        drop(waiter);
    }

    /// Counts a job in and returns its index.
    ///
    /// The pool calls this while it admits the job, before a worker can run the job (G1). So
    /// indices have the order of admission, and the end of the job comes later.
    pub(super) fn add(&self, job: Option<&JobArc>) -> usize {
        let mut state = self.state.lock();
        let index = state.submitted;
        state.submitted += 1;
        state.running.insert(index, job.cloned());
        index
    }

    fn record_outcome(&self, index: usize, result: Result<T, JobError>) {
        // `failure_when` is user code: it runs outside of the lock, and it may panic.
        let success = match (&result, &self.failure_when) {
            (Err(_), _) => false,
            (Ok(_), None) => true,
            (Ok(_), _) if failpoint("`failure_when` is not asked") => true,
            (Ok(value), Some(failure_when)) => catch_panic(|| failure_when(value)) == Some(false),
        };
        self.remove(index, Some(Outcome { index, success, result }));
    }

    /// Counts a job out and wakes the waiters of this event. Keeps the outcome while the group has
    /// a handle.
    pub(super) fn remove(&self, index: usize, outcome: Option<Outcome<T>>) {
        let mut state = self.state.lock();
        state.running.remove(&index);
        let mut unwanted = outcome;
        if state.handles > 0 || failpoint("outcomes are kept for no handle") {
            if let Some(outcome) = unwanted.take() {
                state.failures += usize::from(!outcome.is_success());
                state.ended.push_back(outcome);
            }
        }
        let (done, failed) = (state.running.is_empty(), state.failures > 0);
        let wakers: Vec<_> = state
            .waiters
            .iter_mut()
            .filter(|(_, waiter)| match waiter.event {
                Event::Next => done || !failpoint("the last end alone wakes `next`"),
                Event::All => done,
                Event::Failure => done || failed && !failpoint("a failure wakes nothing"),
            })
            .filter_map(|(_, waiter)| waiter.waker.take())
            .collect();
        drop(state);
        catch_panic(|| drop(unwanted));
        for waker in wakers {
            catch_panic(|| waker.wake());
        }
    }
}

impl<T> Drop for GroupState<T> {
    fn drop(&mut self) {
        if let Some(quota) = self.quota {
            self.shared.remove_quota(quota);
        }
    }
}

/// The sink of a group's job: passes the outcome to the group, once (G2).
pub(crate) struct MemberSink<T: Send + 'static> {
    group: Arc<GroupState<T>>,
    index: usize,
}

/// The index of a job that was not admitted, or whose outcome is recorded.
const NOT_ADMITTED: usize = usize::MAX;

impl<T: Send + 'static> MemberSink<T> {
    pub(super) fn new(group: &Arc<GroupState<T>>) -> Self {
        Self { group: group.clone(), index: NOT_ADMITTED }
    }

    fn report(&mut self, result: Result<T, JobError>) {
        let index = std::mem::replace(&mut self.index, NOT_ADMITTED);
        self.group.record_outcome(index, result);
    }
}

impl<T: Send + 'static> OutputSink<T> for MemberSink<T> {
    const PUSHES: bool = true;

    type Handle = AbortHandle;

    fn quota(&self) -> Option<usize> {
        self.group.quota
    }

    fn is_closed(&self) -> bool {
        self.group.is_closed()
    }

    fn on_admit(&mut self, job: Option<&JobArc>) {
        self.index = self.group.add(job);
    }

    fn handle(join: RawJoinHandle<T>) -> AbortHandle {
        AbortHandle::new(join.into_job())
    }

    fn finished_handle(mut self, outcome: Result<T, JobError>) -> AbortHandle {
        self.report(outcome);
        AbortHandle::finished()
    }

    fn push_output(mut self, outcome: Result<T, JobError>) {
        self.report(outcome);
    }
}

impl<T: Send + 'static> Drop for MemberSink<T> {
    /// Records a cancellation for a job that its caller dropped.
    fn drop(&mut self) {
        if self.index != NOT_ADMITTED {
            self.report(Err(JobError::Cancelled));
        }
    }
}
