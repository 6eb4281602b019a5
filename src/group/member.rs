//! Jobs of any output that count in a group and leave no outcome there: its members.
//!
//! The calls of a layer are members of the layer's group. A member counts in the group's length,
//! delays [`Group::wait`], stands under the quota, and [`Group::cancel`] reaches it. Its output
//! goes to its own handle, so the type of the group's outcomes does not matter: [`GroupHandle`]
//! hides that type.

use std::any::Any;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::error::SubmitErrorKind;
use crate::group::Group;
use crate::group::state::GroupState;
use crate::pool::{JobArc, JobGroup};
use crate::sync::failpoint;

/// A handle of a group with outcomes of any type.
#[derive(Clone)]
pub(crate) struct GroupHandle {
    state: Arc<dyn AnyGroup>,
    /// The same group, for reservers.
    job_group: Arc<dyn JobGroup>,
    /// Keeps the group's jobs from being cancelled. A member holds `state` alone.
    _group: Arc<dyn Any + Send + Sync>,
}

impl GroupHandle {
    pub(crate) fn new<T: Send + 'static>(group: &Group<T>) -> Self {
        Self {
            state: group.state.clone(),
            job_group: group.state.clone(),
            _group: Arc::new(group.clone()),
        }
    }

    pub(crate) fn job_group(&self) -> &Arc<dyn JobGroup> {
        &self.job_group
    }

    pub(crate) fn refusal(&self) -> Option<SubmitErrorKind> {
        self.job_group.refusal()
    }
}

/// What members need of a [`GroupState`].
trait AnyGroup: Send + Sync {
    fn job_group(&self) -> &dyn JobGroup;
    /// Counts a member in. Returns its index, or why the group takes no more members.
    fn join(&self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind>;
    /// Counts the member of this index out.
    fn leave(&self, index: usize);
}

impl<T: Send + 'static> AnyGroup for GroupState<T> {
    fn job_group(&self) -> &dyn JobGroup {
        self
    }

    fn join(&self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        self.add(job)
    }

    fn leave(&self, index: usize) {
        self.remove(index, None);
    }
}

/// A member, or a job without a group. Its `Drop` counts the member out (G2).
pub(crate) struct MemberGuard {
    group: Option<Arc<dyn AnyGroup>>,
    /// The index in the group plus one, once the member is counted in. One word, since a response moves.
    joined: Option<NonZeroUsize>,
}

impl MemberGuard {
    pub(crate) fn new(group: Option<&GroupHandle>) -> Self {
        Self { group: group.map(|group| group.state.clone()), joined: None }
    }

    pub(crate) fn group(&self) -> Option<&dyn JobGroup> {
        self.group.as_ref().map(|group| group.job_group())
    }

    /// Counts the member in. Returns its index, or why the group takes no more members.
    pub(crate) fn join(&mut self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        let Some(group) = &self.group else { return Ok(0) };
        let index = group.join(job)?;
        self.joined = NonZeroUsize::new(index + 1);
        Ok(index)
    }
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        let joined = self.joined.filter(|_| !failpoint("a call never leaves its group"));
        if let (Some(group), Some(joined)) = (&self.group, joined) {
            group.leave(joined.get() - 1);
        }
    }
}
