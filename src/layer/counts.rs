//! How the calls of named layers ended, summed up by name: [`Pool::layer_counts`], and the sink that
//! counts.
//!
//! A [`CallSink`] is with each call. Once the call is admitted, the sink counts exactly one end: that of
//! the output, or a cancellation when it is dropped without one. A refusal is counted where it is decided.

use std::mem::take;
use std::sync::Arc;

use crate::error::{JobError, SubmitErrorKind};
use crate::group::MemberGuard;
use crate::pool::{
    Counters, JobArc, JobGroup, JobHandle, OutputSink, Pool, RawJoinHandle, Shared, add_counts,
};
use crate::sync::failpoint;

/// How the calls of all layers of one name have ended so far; from [`Pool::layer_counts`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerCounts {
    /// The name by [`PoolLayer::name`](crate::layer::PoolLayer::name).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::pool::serialize_name"))]
    pub name: Arc<str>,
    /// Calls that the wrapped service responded to.
    pub succeeded: u64,
    /// Calls that started or were admitted, and got no response: errors of the wrapped service, panics,
    /// cancellations, expired ones.
    pub failed: u64,
    /// How many of `failed` panicked.
    pub panicked: u64,
    /// How many of `failed` were cancelled.
    pub cancelled: u64,
    /// How many of `failed` had a deadline that passed.
    pub expired: u64,
    /// Calls that the pool or the group of the layer refused. They are in none of the other counts.
    pub refused: u64,
}

/// What the pool's table of names calls layers.
const KIND: &str = "layer";

/// The name of a layer, and what its calls count.
pub(super) struct LayerName {
    pub(super) name: Arc<str>,
    counters: Arc<Counters>,
}

impl LayerName {
    pub(super) fn new(shared: &Shared, name: Arc<str>) -> Self {
        let counters = shared.names.counters(KIND, &name);
        Self { name, counters }
    }

    /// Counts a call that has not started.
    pub(super) fn count_refused(&self, kind: SubmitErrorKind) {
        match kind {
            SubmitErrorKind::Expired => add_counts(&self.counters, [0, 1, 0, 0, 1, 0]),
            _ => add_counts(&self.counters, [0, 0, 0, 0, 0, 1]),
        }
    }

    fn count<R, E>(&self, output: &Result<Result<R, E>, JobError>) {
        add_counts(
            &self.counters,
            match output {
                Ok(Ok(_)) => [1, 0, 0, 0, 0, 0],
                Ok(Err(_)) => [0, 1, 0, 0, 0, 0],
                Err(JobError::Panicked(_)) => [0, 1, 1, 0, 0, 0],
                Err(JobError::Cancelled) => [0, 1, 0, 1, 0, 0],
                Err(JobError::Expired) => [0, 1, 0, 0, 1, 0],
            },
        );
    }
}

/// The sink of a call: a member of the layer's group, which counts its end for the layer's name.
pub(crate) struct CallSink {
    member: MemberGuard,
    name: Option<Arc<LayerName>>,
    is_request: bool,
    /// The call is admitted, and no end was counted yet.
    is_open: bool,
}

impl CallSink {
    pub(super) fn new(member: MemberGuard, name: Option<&Arc<LayerName>>) -> Self {
        Self { member, name: name.cloned(), is_request: false, is_open: false }
    }

    /// Says whether the call may be refused under overload by default.
    pub(super) fn with_request(mut self, is_request: bool) -> Self {
        self.is_request = is_request;
        self
    }

    fn count<R, E>(&mut self, output: &Result<Result<R, E>, JobError>) {
        let is_open = take(&mut self.is_open) || failpoint("a call counts twice");
        if let (true, Some(name)) = (is_open, &self.name) {
            name.count(output);
        }
    }
}

impl<R: Send + 'static, E: Send + 'static> OutputSink<Result<R, E>> for CallSink {
    const PUSHES: bool = false;
    const INSPECTS: bool = true;
    const DROPPED_AT_END: bool = true;

    type Handle = JobHandle<Result<R, E>>;

    fn group(&self) -> Option<&dyn JobGroup> {
        self.member.group()
    }

    fn label(&self) -> Option<&Arc<str>> {
        match &self.name {
            Some(layer) if !failpoint("a call has the name of its group") => Some(&layer.name),
            _ => self.member.group().and_then(JobGroup::name),
        }
    }

    fn is_request(&self) -> bool {
        self.is_request
    }

    fn on_admit(&mut self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind> {
        let index = self.member.join(job)?;
        self.is_open = true;
        Ok(index)
    }

    fn handle(join: RawJoinHandle<Result<R, E>>, _: usize) -> Self::Handle {
        JobHandle::pooled(join)
    }

    fn inspect(&mut self, output: &Result<Result<R, E>, JobError>) {
        self.count(output);
    }

    fn finished_handle(mut self, output: Result<Result<R, E>, JobError>) -> Self::Handle {
        self.count(&output);
        JobHandle::finished(output)
    }

    fn push_output(self, _: Result<Result<R, E>, JobError>) {}

    fn withdraw(mut self) {
        self.is_open = false;
    }
}

impl Drop for CallSink {
    /// Counts a cancellation for a call that its caller dropped.
    fn drop(&mut self) {
        self.count(&Err::<Result<(), ()>, _>(JobError::Cancelled));
    }
}

impl Pool {
    /// Returns how the calls of named layers have ended, for each [name](crate::layer::PoolLayer::name), in
    /// the order in which the names came. Layers that are gone count as well.
    ///
    /// The first 64 names have counts of their own, and all later ones share `other`. A call whose caller
    /// went away while it waited for a slot was never admitted, and counts nowhere. The numbers of a name do
    /// not belong to one moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use millpond::Pool;
    /// use millpond::layer::PoolLayer;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let pool = Pool::new(1);
    /// let halve = service_fn(|n: u32| async move { if n % 2 == 0 { Ok(n / 2) } else { Err("odd") } });
    /// let service = PoolLayer::try_schedule(&pool).name("halve").layer(halve);
    /// assert!(service.clone().oneshot(4).await.is_ok());
    /// assert!(service.clone().oneshot(5).await.is_err());
    /// let held = pool.try_schedule(std::future::pending::<()>())?;
    /// assert!(service.oneshot(6).await.is_err());
    /// # held.abort();
    ///
    /// let counts = &pool.layer_counts()[0];
    /// assert_eq!(&*counts.name, "halve");
    /// assert_eq!((counts.succeeded, counts.failed, counts.refused), (1, 1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer_counts(&self) -> Vec<LayerCounts> {
        let named = |(name, counts)| {
            let [succeeded, failed, panicked, cancelled, expired, refused] = counts;
            LayerCounts { name, succeeded, failed, panicked, cancelled, expired, refused }
        };
        self.shared().names.counts(KIND).into_iter().map(named).collect()
    }
}
