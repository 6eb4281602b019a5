//! Jobs of any output that count in a group and leave no outcome there: its members.
//!
//! The calls of a layer are members of the layer's group. A member counts in the group's length,
//! delays [`Group::wait`], stands under the quota, and [`Group::cancel`] reaches it. Its output
//! goes to its own handle, so the type of the group's outcomes does not matter: [`GroupHandle`]
//! hides that type.

use std::any::Any;
use std::sync::Arc;

use crate::error::JobError;
use crate::group::Group;
use crate::group::state::GroupState;
use crate::pool::{JobArc, JobHandle, OutputSink, RawJoinHandle};
use crate::sync::failpoint;

/// A handle of a group with outcomes of any type.
#[derive(Clone)]
pub(crate) struct GroupHandle {
    state: Arc<dyn AnyGroup>,
    /// Keeps the group's jobs from being cancelled. A member holds `state` alone.
    _group: Arc<dyn Any + Send + Sync>,
}

impl GroupHandle {
    pub(crate) fn new<T: Send + 'static>(group: &Group<T>) -> Self {
        Self { state: group.state.clone(), _group: Arc::new(group.clone()) }
    }

    pub(crate) fn quota(&self) -> Option<usize> {
        self.state.quota()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.is_closed()
    }
}

/// What members need of a [`GroupState`].
trait AnyGroup: Send + Sync {
    fn quota(&self) -> Option<usize>;
    fn is_closed(&self) -> bool;
    /// Counts a member in. Returns its index.
    fn join(&self, job: Option<&JobArc>) -> usize;
    /// Counts the member of this index out.
    fn leave(&self, index: usize);
}

impl<T: Send + 'static> AnyGroup for GroupState<T> {
    fn quota(&self) -> Option<usize> {
        self.quota
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn join(&self, job: Option<&JobArc>) -> usize {
        self.add(job)
    }

    fn leave(&self, index: usize) {
        self.remove(index, None);
    }
}

/// The sink of a member, or of a job without a group. Its `Drop` counts the member out (G2).
pub(crate) struct MemberGuard {
    group: Option<Arc<dyn AnyGroup>>,
    index: Option<usize>,
}

impl MemberGuard {
    pub(crate) fn new(group: Option<&GroupHandle>) -> Self {
        Self { group: group.map(|group| group.state.clone()), index: None }
    }
}

impl<R: Send + 'static> OutputSink<R> for MemberGuard {
    const PUSHES: bool = false;
    const DROPPED_AT_END: bool = true;

    type Handle = JobHandle<R>;

    fn quota(&self) -> Option<usize> {
        self.group.as_ref().and_then(|group| group.quota())
    }

    fn is_closed(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.is_closed())
    }

    fn on_admit(&mut self, job: Option<&JobArc>) {
        self.index = self.group.as_ref().map(|group| group.join(job));
    }

    fn handle(join: RawJoinHandle<R>) -> JobHandle<R> {
        JobHandle::pooled(join)
    }

    fn finished_handle(self, outcome: Result<R, JobError>) -> JobHandle<R> {
        JobHandle::finished(outcome)
    }

    fn push_output(self, _: Result<R, JobError>) {}
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        let index = self.index.filter(|_| !failpoint("a call never leaves its group"));
        if let (Some(group), Some(index)) = (&self.group, index) {
            group.leave(index);
        }
    }
}
