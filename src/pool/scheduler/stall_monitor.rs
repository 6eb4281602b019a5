//! The lookout: notices workers that are held up, and has others do what they should have done.
//!
//! A worker polls its jobs one after another and nobody wakes a second thread for a handful of
//! quick ones. When one of them turns out to be slow (it computes, or blocks the thread), those
//! behind it must not wait for it while another thread is free. Nobody can tell in advance, so
//! somebody looks now and then: a task that lives only while jobs queue up behind a busy worker, or
//! are submitted by other jobs. Its timer is not free: one that is due soon is set anew by the kernel
//! each time a thread goes to sleep. So it looks often only where jobs of late were slow, or one was
//! found to hold up others.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;

use crate::pool::scheduler::idle::Post;
use crate::pool::scheduler::shared::Core;

/// How long jobs may stand behind a slow one: one to two of these.
const PERIOD: Duration = Duration::from_millis(1);
/// The same for the first slow one after many quick ones. No sooner than the kernel's own clock
/// ticks, for what the timer costs.
const RARELY: Duration = Duration::from_millis(8);
/// For so many looks a worker that was held up is remembered: how long its job takes is known to the
/// pool only at its end.
const ALERT: u32 = 16;

/// What a look has found.
#[derive(Default)]
struct Look {
    /// There is reason to look again.
    busy: bool,
    held_up: bool,
}

pub(crate) struct Lookout {
    core: Arc<Core>,
    /// What each shard and each worker had done by the last look.
    claims: Vec<u64>,
    steps: Vec<(Arc<Post>, usize)>,
    alert: u32,
}

impl Lookout {
    /// Starts the one lookout of a pool. A runtime of one thread needs none: what holds up a
    /// worker there holds up everybody.
    #[cold]
    pub(crate) fn start(core: Arc<Core>) {
        let runtime = core.runtime().clone();
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return;
        }
        let lookout = Self { core, claims: Vec::new(), steps: Vec::new(), alert: 0 };
        runtime.spawn(lookout.run());
        // tokio keeps the task spawned last for the current thread, which may be about to be held
        // up itself. This one takes that place, so that any thread may run the lookout.
        runtime.spawn(async {});
    }

    async fn run(mut self) {
        self.look();
        loop {
            tokio::time::sleep(self.period()).await;
            let keeps = self.core.crew.keeps_lookout();
            let look = self.look();
            self.alert = if look.held_up { ALERT } else { self.alert.saturating_sub(1) };
            if look.busy || keeps || !self.core.crew.end_lookout() {
                continue;
            }
            // Whoever queued a job before that saw a lookout; so it looks once more.
            let shards = self.core.limiter.shards();
            let queued = shards.iter().any(|shard| !shard.lock().ready.is_empty())
                || self.core.crew.posts().iter().any(|post| post.has_claims());
            if !queued || !self.core.crew.wants_lookout() {
                return;
            }
        }
    }

    fn period(&self) -> Duration {
        if self.alert > 0 || self.core.pace.has_slow() { PERIOD } else { RARELY }
    }

    fn look(&mut self) -> Look {
        let core = &*self.core;
        let mut look = Look::default();
        let posts = core.crew.posts();
        for post in &posts {
            let has_claims = post.has_claims();
            look.busy |= has_claims;
            let known = self.steps.iter().find(|(known, _)| Arc::ptr_eq(known, post));
            if known.is_some_and(|(_, steps)| *steps == post.steps()) {
                look.held_up |= has_claims;
                post.give_up().for_each(|job| core.make_ready(core.current_shard(), job));
                core.pay_for(post);
            }
        }
        self.steps = posts.into_iter().map(|post| (post.clone(), post.steps())).collect();
        let claims: Vec<_> =
            core.limiter.shards().iter().map(|shard| shard.lock().claims).collect();
        for (shard_id, shard) in core.limiter.shards().iter().enumerate() {
            look.busy |= shard.depth() > 0;
            if shard.depth() > 0 && self.claims.get(shard_id) == Some(&claims[shard_id]) {
                look.held_up = true;
                let counts = core.limiter.counts();
                core.crew.reinforce(core, shard_id, counts.size.saturating_add(counts.overflow));
            }
        }
        self.claims = claims;
        look
    }
}
