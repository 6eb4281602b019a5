//! What the jobs and the handles of one group share: the running jobs, their outcomes, the waiters.
//!
//! The handles ([`Group`](crate::Group)), the streams, the sinks of the jobs ([`MemberSink`],
//! `member::MemberGuard`) and the futures of `wait.rs` call this. One mutex protects all of it. The
//! pool calls [`GroupState::add`] and [`GroupState::enter_line`] under its own locks, so no method
//! may call the pool while it holds the mutex. No user code runs under the mutex either: outputs,
//! wakers and `failure_when` stay outside. The head of [`group`](crate::group) has the invariants.
//!
//! A failure is noted in two steps. [`note_failure`](GroupState::note_failure) comes before the
//! failed job gives up its slot: it fixes which failure was the first, and fails the group. So no
//! other job of a failed group gets that slot. [`remove`](GroupState::remove) comes when the outcome
//! is published, and counts the job out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use crate::error::{JobError, SubmitErrorKind};
use crate::group::counts;
use crate::group::outcome::Outcome;
use crate::group::report::{GroupError, GroupReport};
use crate::group::ticket::JobTicket;
use crate::panic::{catch_panic, drop_caught};
use crate::pool::Counters;
use crate::pool::{
    AbortHandle, JobArc, JobGroup, JobOptions, OutputSink, RawJoinHandle, Shared, note_wait,
};
use crate::sync::{Mutex, failpoint};

/// Whether a returned value is a failure.
pub(crate) type FailureWhen<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// The settings of a group that do not change.
pub(crate) struct GroupConfig<T> {
    pub(super) failure_when: Option<FailureWhen<T>>,
    pub(super) cancel_on_failure: bool,
    pub(super) discard_outcomes: bool,
    pub(super) options: Option<JobOptions>,
    /// The name that the group was given.
    pub(super) name: Option<Arc<str>>,
}

impl<T> Clone for GroupConfig<T> {
    fn clone(&self) -> Self {
        Self {
            failure_when: self.failure_when.clone(),
            cancel_on_failure: self.cancel_on_failure,
            discard_outcomes: self.discard_outcomes,
            options: self.options.clone(),
            name: self.name.clone(),
        }
    }
}

impl<T> Default for GroupConfig<T> {
    fn default() -> Self {
        Self {
            failure_when: None,
            cancel_on_failure: false,
            discard_outcomes: false,
            options: None,
            name: None,
        }
    }
}

pub(crate) struct GroupState<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) quota: Option<usize>,
    config: GroupConfig<T>,
    /// Those of the group's name.
    counters: Option<Arc<Counters>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The index of the next job.
    next_index: usize,
    /// Jobs that have not ended, by index.
    running: HashMap<usize, Running>,
    /// Outcomes in the order of completion.
    ended: VecDeque<Outcome<T>>,
    /// The first failure of a group that discards outcomes.
    kept_failure: Option<Outcome<T>>,
    /// The ends so far. `unfinished` is set by `report`.
    report: GroupReport,
    closed: bool,
    /// A job failed, and the group cancels on failure.
    failed: bool,
    /// A caller has joined the wait list, so a close must look for callers there.
    had_callers: bool,
    handles: usize,
    streams: usize,
    detached: bool,
    waiters: Slab<Waiter>,
}

/// A job that has not ended.
struct Running {
    /// `None` for a job that runs in its caller.
    job: Option<JobArc>,
    /// The group itself asked for the job's cancellation, so that does not fail the group.
    cancel_requested: bool,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The end of any job, or that no job is running.
    Next,
    /// An outcome, or that none can come any more.
    Outcome,
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

impl<T> State<T> {
    fn refusal(&self) -> Option<SubmitErrorKind> {
        if self.failed {
            Some(SubmitErrorKind::GroupFailed)
        } else if self.closed {
            Some(SubmitErrorKind::GroupClosed)
        } else {
            None
        }
    }

    fn has_happened(&self, event: Event) -> bool {
        let idle = self.running.is_empty();
        match event {
            Event::Next => {
                idle || !self.ended.is_empty() && !failpoint("the last end alone wakes `next`")
            }
            Event::Outcome => !self.ended.is_empty() || self.is_drained(),
            Event::All => idle,
            Event::Failure => {
                idle || self.report.first_failure.is_some() && !failpoint("a failure wakes nothing")
            }
        }
    }

    /// Whether no outcome is left and none can come.
    fn is_drained(&self) -> bool {
        let takes_no_jobs = self.handles == 0 || self.refusal().is_some();
        takes_no_jobs && self.running.is_empty() && self.ended.is_empty()
    }

    /// Whether there is neither a job nor an outcome.
    fn is_empty(&self) -> bool {
        self.running.is_empty() && self.ended.is_empty() && self.kept_failure.is_none()
    }

    /// Takes the wakers of the waiters whose event has happened (G4). The caller wakes them without
    /// the lock.
    fn take_wakers(&mut self) -> Vec<Waker> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let mut waiters = std::mem::take(&mut self.waiters);
        let happened = waiters.iter_mut().filter(|(_, waiter)| self.has_happened(waiter.event));
        let wakers = happened.filter_map(|(_, waiter)| waiter.waker.take()).collect();
        self.waiters = waiters;
        wakers
    }

    /// Marks all jobs but one as cancelled by the group, and returns them for their abort.
    ///
    /// From here on no job starts that waits for a slot now. So the slots that the aborts set free
    /// start no other job of the group (G7).
    fn request_cancel(&mut self, except: Option<usize>) -> Vec<JobArc> {
        let others = self.running.iter_mut().filter(|(index, _)| Some(**index) != except);
        others
            .filter_map(|(_, running)| {
                running.cancel_requested = true;
                running.job.as_ref().inspect(|job| job.request_abort_unless_idle()).cloned()
            })
            .collect()
    }

    /// Notes whether the group asked for the cancellation of a job.
    fn set_cancel_requested(&mut self, index: usize, requested: bool) {
        if let Some(running) = self.running.get_mut(&index) {
            running.cancel_requested = requested;
        }
    }
}

fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        catch_panic(|| waker.wake());
    }
}

impl<T> GroupState<T> {
    pub(crate) fn new(shared: Arc<Shared>, quota: Option<usize>, config: GroupConfig<T>) -> Self {
        let state = State {
            next_index: 0,
            running: HashMap::new(),
            ended: VecDeque::new(),
            kept_failure: None,
            report: GroupReport::default(),
            closed: false,
            failed: false,
            had_callers: false,
            handles: 1,
            streams: 0,
            detached: false,
            waiters: Slab::new(),
        };
        let counters = config.name.as_ref().map(|name| shared.names.counters(counts::KIND, name));
        Self { shared, quota, config, counters, state: Mutex::new(state) }
    }

    /// Returns a number that tells this group from all other living groups.
    fn tag(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    // ----- handles and streams -----

    /// Returns why the group takes no more jobs, or `None` if the group takes jobs.
    pub(crate) fn refusal(&self) -> Option<SubmitErrorKind> {
        self.state.lock().refusal()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state.lock().failed
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let (wakers, had_callers) = (state.take_wakers(), state.had_callers);
        drop(state);
        wake_all(wakers);
        if had_callers {
            self.shared.reject_group(self.tag(), SubmitErrorKind::GroupClosed);
        }
    }

    pub(crate) fn detach(&self) {
        self.state.lock().detached = true;
    }

    pub(crate) fn add_handle(&self) {
        self.state.lock().handles += 1;
    }

    pub(super) fn add_stream(&self) {
        self.state.lock().streams += 1;
    }

    /// Drops a handle. The last of all handles and streams cancels the jobs, unless the group was
    /// detached (G3).
    pub(crate) fn drop_handle(&self) {
        let mut state = self.state.lock();
        state.handles -= 1;
        if state.handles > 0 {
            return;
        }
        let wakers = state.take_wakers();
        let is_last = state.streams == 0 && !state.is_empty();
        drop(state);
        wake_all(wakers);
        if is_last {
            self.abandon();
        }
    }

    pub(super) fn drop_stream(&self) {
        let mut state = self.state.lock();
        state.streams -= 1;
        let is_last = state.streams == 0 && state.handles == 0;
        drop(state);
        if is_last {
            self.abandon();
        }
    }

    /// Cancels the jobs and drops the outcomes of a group without handles and streams.
    fn abandon(&self) {
        let mut state = self.state.lock();
        let outcomes = (std::mem::take(&mut state.ended), state.kept_failure.take());
        let detached = state.detached;
        drop(state);
        if !detached && !failpoint("the last handle cancels nothing") {
            self.cancel();
        }
        drop_caught(outcomes);
    }

    /// Returns the number of jobs that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.state.lock().running.len()
    }

    pub(crate) fn report(&self) -> GroupReport {
        let state = self.state.lock();
        GroupReport { unfinished: state.running.len(), ..state.report }
    }

    // ----- cancellation -----

    pub(crate) fn cancel(&self) {
        // An abort may end its job at once, and the end takes the mutex: so copy the jobs first.
        let jobs = self.state.lock().request_cancel(None);
        jobs.iter().for_each(JobArc::abort);
    }

    /// Cancels the jobs that stand in the wait list. Returns how many.
    pub(crate) fn cancel_waiting(&self) -> usize {
        let state = self.state.lock();
        let jobs = state
            .running
            .iter()
            .filter_map(|(&index, running)| running.job.clone().map(|job| (index, job)));
        let mut jobs: Vec<_> = jobs.collect();
        drop(state);
        // The newest first: a part of the quota that a job sets free starts no later one.
        jobs.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        let cancel = |(index, job): &(usize, JobArc)| {
            // Marked first: the outcome comes within the call.
            self.state.lock().set_cancel_requested(*index, true);
            let cancelled = job.abort_waiting();
            if !cancelled {
                self.state.lock().set_cancel_requested(*index, false);
            }
            cancelled
        };
        jobs.iter().filter(|entry| cancel(entry)).count()
    }

    // ----- outcomes -----

    /// Takes the oldest outcome. The second value says whether a job is running.
    pub(crate) fn take_next(&self) -> (Option<Outcome<T>>, bool) {
        let mut state = self.state.lock();
        (state.ended.pop_front(), !state.running.is_empty())
    }

    /// Takes the oldest outcome, or `None` at the end of the stream. Returns `None` if the stream has
    /// to wait.
    pub(super) fn take_for_stream(&self) -> Option<Option<Outcome<T>>> {
        let mut state = self.state.lock();
        match state.ended.pop_front() {
            Some(outcome) => Some(Some(outcome)),
            None => state.is_drained().then_some(None),
        }
    }

    /// Takes all outcomes, in the order of submission.
    pub(super) fn take_outcomes(&self) -> Vec<Outcome<T>> {
        let mut outcomes = Vec::from(std::mem::take(&mut self.state.lock().ended));
        if !failpoint("outcomes in the order of completion") {
            outcomes.sort_unstable_by_key(|outcome| outcome.index);
        }
        outcomes
    }

    /// Takes all values in the order of submission, or the outcome that failed first. Returns `None`
    /// while a job is running.
    pub(super) fn take_values(&self) -> Option<Result<Vec<T>, GroupError<T>>> {
        let mut state = self.state.lock();
        if !state.running.is_empty() {
            return None;
        }
        if let Some(index) = state.report.first_failure {
            let kept = state.kept_failure.take();
            let place = state.ended.iter().position(|outcome| outcome.index == index);
            let outcome = kept.or_else(|| place.and_then(|place| state.ended.remove(place)));
            return Some(Err(GroupError::new(index, outcome)));
        }
        drop(state);
        let outcomes = self.take_outcomes().into_iter();
        Some(Ok(outcomes.filter_map(|outcome| outcome.result.ok()).collect()))
    }

    /// Returns the report if no job is running.
    pub(crate) fn final_report(&self) -> Option<GroupReport> {
        let state = self.state.lock();
        state.running.is_empty().then_some(state.report)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().report.first_failure.is_some()
    }

    // ----- waiters -----

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
        if state.has_happened(event) && !failpoint("wait without recheck") {
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
        note_wait(self.shared.id());
        true
    }

    pub(crate) fn remove_waiter(&self, key: usize) {
        let waiter = self.state.lock().waiters.remove(key);
        drop(waiter);
    }

    // ----- jobs -----

    /// Counts a job that a verb gave back, for the group's name.
    #[inline]
    pub(super) fn count_refusal<H, E>(&self, submitted: &Result<H, E>) {
        if let (Err(_), Some(counters)) = (submitted, &self.counters) {
            counts::count_refused(counters);
        }
    }

    /// Counts a job in and returns its index, or refuses the job.
    ///
    /// The pool calls this while it admits the job, before a worker can run the job (G1). So
    /// indices have the order of admission, the end of the job comes later, and no job is admitted
    /// after the group was closed (G6).
    pub(super) fn add(&self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        let mut state = self.state.lock();
        if let Some(refusal) = state.refusal() {
            return Err(refusal);
        }
        let index = state.next_index;
        state.next_index += 1;
        state.running.insert(index, Running { job: job.cloned(), cancel_requested: false });
        Ok(index)
    }

    /// Whether a result is a success. `failure_when` is user code: it runs outside of the lock, and
    /// it may panic.
    fn is_success(&self, result: &Result<T, JobError>) -> bool {
        match (result, &self.config.failure_when) {
            (Err(_), _) => false,
            (Ok(_), None) => true,
            (Ok(_), _) if failpoint("`failure_when` is not asked") => true,
            (Ok(value), Some(failure_when)) => catch_panic(|| failure_when(value)) == Some(false),
        }
    }

    /// Judges the result of a job that is about to give up its slot. Returns whether it is a success.
    fn inspect(&self, index: usize, result: &Result<T, JobError>) -> bool {
        let success = self.is_success(result);
        if !success {
            self.note_failure(index, matches!(result, Err(JobError::Cancelled)));
        }
        success
    }

    /// Notes which failure was the first, and fails the group if the group cancels on failure.
    fn note_failure(&self, index: usize, is_cancelled: bool) {
        let mut state = self.state.lock();
        state.report.first_failure.get_or_insert(index);
        let own_wish = is_cancelled
            && state.running.get(&index).is_some_and(|running| running.cancel_requested);
        let fails = self.config.cancel_on_failure && !state.failed && !own_wish;
        let others = if fails {
            state.failed = true;
            state.request_cancel(Some(index))
        } else {
            Vec::new()
        };
        let (wakers, had_callers) = (state.take_wakers(), state.had_callers);
        drop(state);
        wake_all(wakers);
        // Those in line first: their jobs go back to them, and are not cancelled.
        if fails && had_callers {
            self.shared.reject_group(self.tag(), SubmitErrorKind::GroupFailed);
        }
        others.iter().for_each(JobArc::abort);
    }

    /// Counts a job out and wakes the waiters of this event. Keeps the outcome while the group has
    /// a handle or a stream, unless the group discards outcomes.
    pub(super) fn remove(&self, index: usize, outcome: Option<Outcome<T>>) {
        let mut state = self.state.lock();
        state.running.remove(&index);
        let mut unwanted = outcome;
        if let Some(outcome) = &unwanted {
            state.report.count(outcome);
            if let Some(counters) = &self.counters {
                counts::count(counters, outcome);
            }
        }
        if state.handles + state.streams > 0 || failpoint("outcomes are kept for no handle") {
            if !self.config.discard_outcomes {
                state.ended.extend(unwanted.take());
            } else if state.report.first_failure == Some(index) {
                state.kept_failure = unwanted.take();
            }
        }
        let wakers = state.take_wakers();
        drop(state);
        drop_caught(unwanted);
        wake_all(wakers);
    }
}

impl<T: Send + 'static> JobGroup for GroupState<T> {
    fn tag(&self) -> usize {
        self.tag()
    }

    fn quota(&self) -> Option<usize> {
        self.quota
    }

    fn options(&self) -> Option<&JobOptions> {
        self.config.options.as_ref()
    }

    fn name(&self) -> Option<&Arc<str>> {
        self.config.name.as_ref()
    }

    fn refusal(&self) -> Option<SubmitErrorKind> {
        self.refusal()
    }

    fn enter_line(&self) -> Option<SubmitErrorKind> {
        let mut state = self.state.lock();
        state.had_callers = true;
        state.refusal()
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
pub(crate) struct MemberSink<T> {
    group: Arc<GroupState<T>>,
    index: usize,
    /// Whether the result is a success, once that is known.
    success: Option<bool>,
}

/// The index of a job that was not admitted, or whose outcome is recorded.
const NOT_ADMITTED: usize = usize::MAX;

impl<T> MemberSink<T> {
    pub(super) fn new(group: &Arc<GroupState<T>>) -> Self {
        Self { group: group.clone(), index: NOT_ADMITTED, success: None }
    }

    fn report(&mut self, result: Result<T, JobError>) -> usize {
        let index = std::mem::replace(&mut self.index, NOT_ADMITTED);
        let success = self.success.unwrap_or_else(|| self.group.inspect(index, &result));
        self.group.remove(index, Some(Outcome { index, success, result }));
        index
    }
}

impl<T: Send + 'static> OutputSink<T> for MemberSink<T> {
    const PUSHES: bool = true;

    type Handle = JobTicket;

    fn group(&self) -> Option<&dyn JobGroup> {
        Some(&*self.group)
    }

    fn on_admit(&mut self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        self.index = self.group.add(job)?;
        Ok(self.index)
    }

    fn handle(join: RawJoinHandle<T>, index: usize) -> JobTicket {
        JobTicket::new(index, AbortHandle::new(join.into_job()))
    }

    fn finished_handle(mut self, outcome: Result<T, JobError>) -> JobTicket {
        JobTicket::new(self.report(outcome), AbortHandle::finished())
    }

    fn inspect(&mut self, outcome: &Result<T, JobError>) {
        self.success = Some(self.group.inspect(self.index, outcome));
    }

    fn push_output(mut self, outcome: Result<T, JobError>) {
        self.report(outcome);
    }

    fn withdraw(mut self) {
        let index = std::mem::replace(&mut self.index, NOT_ADMITTED);
        if index != NOT_ADMITTED {
            self.group.remove(index, None);
        }
    }
}

impl<T> Drop for MemberSink<T> {
    /// Records a cancellation for a job that its caller dropped.
    fn drop(&mut self) {
        if self.index != NOT_ADMITTED {
            self.report(Err(JobError::Cancelled));
        }
    }
}
