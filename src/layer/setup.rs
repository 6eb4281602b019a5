//! What a layer and its services share: the pool, the group, the verb.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{SubmitError, SubmitErrorKind};
use crate::group::{GroupHandle, MemberGuard};
use crate::layer::counts::{CallSink, LayerName};
use crate::pool::{JobHandle, JobOptions, Pool, Reserver, Shared, Submission};
use crate::trace::{Place, event, is_debug_enabled};

#[derive(Clone)]
pub(super) struct Setup {
    pub(super) verb: Verb,
    pub(super) detach: bool,
    pub(super) shared: Arc<LayerShared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Schedule,
    ScheduleWithin(Duration),
    TrySchedule,
    ScheduleAlways,
    TryGo,
    AnywayGo,
}

/// The parts of a setup that take an allocation each; the clones of a service share them.
#[derive(Clone)]
pub(super) struct LayerShared {
    pub(super) pool: Pool,
    pub(super) group: Option<GroupHandle>,
    pub(super) name: Option<Arc<LayerName>>,
    /// Where the layer was made: the place of its jobs.
    pub(super) place: Place,
}

/// The pool of a call that waits for a slot.
#[derive(Clone)]
pub(super) struct LayerPool(pub(super) Arc<LayerShared>);

impl Deref for LayerPool {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.0.pool.shared()
    }
}

impl LayerShared {
    /// Offers a call to the pool, as a member of the layer's group.
    pub(super) fn submission<F, R, E>(
        &self,
        call: F,
        options: Option<&JobOptions>,
    ) -> Submission<&Shared, F, CallSink>
    where
        F: Future<Output = Result<R, E>> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let shared = &**self.pool.shared();
        Submission::with(shared, call, self.sink(), self.place, options)
    }

    /// Runs a call in the pool, or gives it back at once.
    pub(super) fn try_schedule<F, R, E>(
        &self,
        call: F,
        options: Option<&JobOptions>,
    ) -> Result<JobHandle<F::Output>, SubmitError<F>>
    where
        F: Future<Output = Result<R, E>> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let shared = &**self.pool.shared();
        Submission::try_schedule(shared, call, self.sink(), self.place, options)
    }

    /// Returns the sink for one call.
    pub(super) fn sink(&self) -> CallSink {
        CallSink::new(MemberGuard::new(self.group.as_ref()), self.name.as_ref())
    }

    /// Returns a reserver under the quota of the layer's group.
    pub(super) fn reserver(&self) -> Reserver {
        let group = self.group.as_ref().map(|group| group.job_group().clone());
        Reserver::new(self.pool.clone(), group)
    }

    /// Returns why no call is taken any more, or `None` while the pool and the group are open.
    pub(super) fn refusal(&self) -> Option<SubmitErrorKind> {
        let refusal = self.pool.shared().refusal();
        refusal.or_else(|| self.group.as_ref().and_then(GroupHandle::refusal))
    }

    /// Counts a refusal and returns `true` if the pool has clearly no room. The call is not made
    /// then.
    ///
    /// A group may have its own quota and its own close, so with a group the answer is `false`.
    #[inline]
    pub(super) fn refuse_if_full(&self) -> bool {
        self.group.is_none() && self.pool.shared().refuse_if_full()
    }

    /// Returns why a call that waited in vain has no room.
    pub(super) fn full_kind(&self) -> SubmitErrorKind {
        let quota = self.group.as_ref().and_then(|group| group.job_group().quota());
        self.pool.shared().limiter.full_kind(quota)
    }

    /// Returns the pool for a call in its caller, which outlives the service.
    pub(super) fn pool_shared(&self) -> Arc<Shared> {
        self.pool.shared().clone()
    }

    /// Counts and logs a call that has not started.
    #[inline]
    pub(super) fn note_refused(&self, reason: SubmitErrorKind) {
        if let Some(name) = &self.name {
            name.count_refused(reason);
        }
        if is_debug_enabled() {
            self.log_refused(reason);
        }
    }

    #[cold]
    fn log_refused(&self, _reason: SubmitErrorKind) {
        event!(
            DEBUG,
            pool = self.pool.name(),
            layer = self.name().map(|name| &**name),
            reason = ?_reason,
            "call refused"
        );
    }

    pub(super) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref().map(|layer| &layer.name)
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("name", &self.shared.name())
            .field("verb", &self.verb)
            .field("detach_on_drop", &self.detach)
            .field("pool", &self.shared.pool)
            .field("group", &self.shared.group.is_some())
            .finish()
    }
}
