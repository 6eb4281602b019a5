//! Places, spans and events. Without the feature `tracing` the last two compile to nothing.

use std::fmt;
use std::panic::Location;

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::*;
#[cfg(not(feature = "tracing"))]
pub(crate) use without_tracing::*;

use crate::sync::without;

/// Sends an event with the target `millpond`. Compiles to nothing without the feature `tracing`.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {
        // A subscriber is user code and may panic.
        #[cfg(feature = "tracing")]
        $crate::panic::catch_panic(
            || tracing::event!(target: "millpond", tracing::Level::$level, $($rest)*),
        );
    };
}
pub(crate) use event;

/// The place in the code where a job was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) &'static Location<'static>);

impl Place {
    /// Returns the place of the caller.
    #[track_caller]
    #[inline(always)]
    pub(crate) fn caller() -> Self {
        if without("place of submission") { Self::nowhere() } else { Self(Location::caller()) }
    }

    /// The same place for all jobs.
    fn nowhere() -> Self {
        Self(Location::caller())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "tracing")]
mod with_tracing {
    use tracing::Span;

    /// Whether a subscriber may want events of the level `DEBUG`: one load and no call.
    #[cfg(feature = "tower")]
    #[inline(always)]
    pub(crate) fn is_debug_enabled() -> bool {
        use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
        LevelFilter::DEBUG <= STATIC_MAX_LEVEL && LevelFilter::DEBUG <= LevelFilter::current()
    }

    /// The span of a job: the span that was current at the submit, if there was one.
    pub(crate) struct JobSpan(Option<Span>);

    impl JobSpan {
        /// Whether there may be a current span.
        #[inline(always)]
        pub(crate) fn may_exist() -> bool {
            tracing::dispatcher::has_been_set()
        }

        /// Takes the current span, if `wanted` and if there is one.
        pub(crate) fn current(wanted: bool) -> Self {
            Self(wanted.then(Span::current).filter(|span| !span.is_none()))
        }

        pub(crate) fn is_none(&self) -> bool {
            self.0.is_none()
        }

        /// Calls `f` inside the span.
        #[inline(always)]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            match &self.0 {
                None => f(),
                Some(span) => span.in_scope(f),
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without_tracing {
    #[cfg(feature = "tower")]
    #[inline(always)]
    pub(crate) fn is_debug_enabled() -> bool {
        false
    }

    /// The span of a job in a build without spans: nothing.
    pub(crate) struct JobSpan;

    impl JobSpan {
        pub(crate) fn may_exist() -> bool {
            false
        }

        pub(crate) fn current(_wanted: bool) -> Self {
            Self
        }

        pub(crate) fn is_none(&self) -> bool {
            true
        }

        #[inline(always)]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }
    }
}
